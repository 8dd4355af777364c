"""What of the settings shapes Envoy's configuration, as one value: building it stays pure."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer of tokens to believe.

    `jwks_uri` is fetched by Envoy: of the built-in issuer over the edge's socket, where its host
    counts for nothing. `roles_claim` (a dotted path) names roles in place of `scope`.
    """

    issuer: str
    audience: str
    jwks_uri: str
    is_builtin: bool = True
    roles_claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Everything but the routes that Envoy's dynamic configuration depends on.

    Where Envoy cannot know all issuers' keys (`checks_tokens` false), it sends every public request
    that needs a token to the activator, which can.
    """

    listen_host: str
    listen_port: int
    tls_cert_file: Path | None
    tls_key_file: Path | None
    base_domain: str
    api_hosts: tuple[str, ...]
    issuers: tuple[Issuer, ...]
    checks_tokens: bool
    jwks_cache_secs: float
    max_request_headers_kb: int
    head_secs: int
    idle_secs: int
    max_json_body_bytes: int
    default_max_concurrency: int
    internal_socket: Path
    activator_socket: Path
    descriptors: bytes = field(repr=False)
    services: tuple[str, ...]
    error_mark: str = field(repr=False)
    tls_secret_file: Path | None = None

    @property
    def has_tls(self) -> bool:
        """Tell whether the public listener speaks TLS."""
        return self.tls_cert_file is not None
