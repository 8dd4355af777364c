"""What the control plane stands on: its listeners, names, stores, identities and logs."""

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from ignite.settings.base import Group, PositiveInt, Seconds, env


class ServerSettings(Group):
    """Listeners and the process tree."""

    data_dir: Path = Field(
        default=Path(".ignite"),
        description="Holds everything the embedded server keeps.",
        json_schema_extra=env("IGNITE_DATA_DIR"),
    )
    api_listen_addr: str = Field(
        default="",
        description="gRPC listener, host:port; port 0 picks a free one. Empty: 127.0.0.1:50051, "
        "or 0.0.0.0:50051 with a certificate.",
        json_schema_extra=env("IGNITE_API_LISTEN_ADDR"),
    )
    admin_listen_addr: str = Field(
        default="",
        description="AdminService listener (mTLS). Empty: 127.0.0.1:50052, "
        "or 0.0.0.0:50052 with a certificate.",
        json_schema_extra=env("IGNITE_ADMIN_LISTEN_ADDR"),
    )
    http_listen_addr: str = Field(
        default="",
        description="HTTP listener of the gateway. Empty: 127.0.0.1:8080, "
        "or 0.0.0.0:8443 with a certificate.",
        json_schema_extra=env("IGNITE_HTTP_LISTEN_ADDR"),
    )
    tls_cert_file: Path | None = Field(
        default=None,
        description="PEM certificate chain. It and the key are followed while `ignite serve` runs.",
    )
    tls_key_file: Path | None = Field(default=None, description="PEM private key.")
    insecure_plaintext: bool = Field(
        default=False, description="Allow a non-loopback address without a certificate."
    )
    user: str = Field(
        default="ignite", description="Unix user of everything but the spawner, started as root."
    )
    drain_grace_secs: Seconds = Field(
        default=10, description="How long requests under way may take once a stop is asked for."
    )
    start_timeout_secs: Seconds = Field(default=120, description="Bound on one tier's start.")
    metrics_dir: Path | None = Field(
        default=None,
        description="Folder where each role answers GET /metrics, on the unix socket "
        "metrics-<role>.sock; none: the run folder.",
    )


class DnsTlsSettings(Group):
    """Names of apps."""

    base_domain: str = Field(
        default="localhost",
        description="Apps answer at <app>-<org>.<base_domain>.",
        min_length=1,
        max_length=190,
    )
    public_port: int = Field(
        default=0, ge=0, le=65535, description="Port in public URLs; 0: the HTTP listener's."
    )


class DatabaseSettings(Group):
    """Postgres: the only truth and the only queue."""

    url: SecretStr | None = Field(
        default=None,
        description="External Postgres, postgresql://…; none: an embedded server.",
        json_schema_extra=env("IGNITE_DATABASE_URL"),
    )
    pool_size: PositiveInt = Field(default=10, le=200, description="Connections a process.")
    statement_timeout_secs: Seconds = Field(default=30, description="Bound on one statement.")


class VaultSettings(Group):
    """The store of secrets: Vault KV v2 or OpenBao."""

    address: str = Field(
        default="",
        description="External Vault or OpenBao, https://… or unix:///path; empty: an embedded "
        "OpenBao.",
        json_schema_extra=env("IGNITE_VAULT_ADDR"),
    )
    role_id: str = Field(default="", description="AppRole of an external store.")
    secret_id: SecretStr = Field(default=SecretStr(""), description="Its secret.")
    token: SecretStr = Field(
        default=SecretStr(""), description="A token of an external store, instead of an AppRole."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM of the CA to believe; none: the system's."
    )
    mount: str = Field(default="secret", description="KV v2 mount.")
    timeout_secs: Seconds = Field(default=5, description="Bound on one call.")


class IdentitySettings(Group):
    """Who may call."""

    realm: str = Field(default="dodil", pattern=r"^[a-z0-9-]{1,32}$", description="Token realm.")
    audience: str = Field(default="ignite", description="Audience a token must name.")
    issuer: str = Field(
        default="",
        description="Issuer our tokens name; empty: made of the base domain and the HTTP port.",
    )
    token_ttl_secs: int = Field(default=900, ge=30, le=900, description="Life of our tokens.")
    key_publish_secs: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="A new key is published this long before it signs.",
    )
    failed_logins_per_minute: int = Field(
        default=10, ge=1, le=10_000, description="Wrong secrets a minute for one service account."
    )
    failed_logins_per_minute_total: int = Field(
        default=300, ge=1, le=100_000, description="Wrong secrets a minute for all of them."
    )
    external_issuer: str = Field(default="", description="Another OIDC issuer to believe.")
    external_jwks_url: str = Field(default="", description="Its keys; empty: by discovery.")
    external_audience: str = Field(
        default="", description="Audience its tokens must name; needed with another issuer."
    )
    external_roles_claim: str = Field(
        default="realm_access.roles", description="Dotted path of the claim that lists roles."
    )
    dev_organization: str = Field(default="acme", description="Made at first start, embedded.")

    @field_validator("external_audience", "external_roles_claim")
    @classmethod
    def _is_set_with_its_issuer(cls, value: str, info: ValidationInfo) -> str:
        # Without them tokens made for other services would do, or grant what they should not.
        if info.data.get("external_issuer") and not value:
            raise PydanticCustomError("needed", "must be set where external_issuer is set")
        return value


class LogSettings(Group):
    """What the server says about itself."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level.", json_schema_extra=env("IGNITE_LOG_LEVEL")
    )
    rotate_bytes: PositiveInt = Field(default=10 * 1024 * 1024, description="A child's log file.")
    rotate_count: PositiveInt = Field(default=3, description="Old log files kept a child.")
