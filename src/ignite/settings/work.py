"""How apps are reached, run, compiled, bounded and cleaned up after."""

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    SecretStr,
)

from ignite.settings.base import Group, PositiveInt, Seconds, env


class GatewaySettings(Group):
    """The way of a request."""

    cold_start_budget_secs: Seconds = Field(
        default=600,
        description="How long a request may wait for a starting replica.",
        json_schema_extra=env("IGNITE_COLD_START_BUDGET_SECS"),
    )
    max_held_per_app: PositiveInt = Field(
        default=1000, le=100_000, description="Requests held for one app while it starts."
    )
    max_held: PositiveInt = Field(
        default=10_000, le=1_000_000, description="Requests held in all while apps start."
    )
    max_request_headers_kb: PositiveInt = Field(default=60, le=96, description="Header bound.")
    head_secs: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="A new connection's greeting and each request's head must have come by then.",
    )
    idle_secs: int = Field(
        default=600, ge=1, le=86_400, description="A connection without a request is closed then."
    )
    max_json_body_bytes: PositiveInt = Field(
        default=64 * 1024 * 1024, description="Body bound of the JSON API."
    )
    concurrency: PositiveInt = Field(default=1, le=64, description="Envoy worker threads.")
    max_connections: PositiveInt = Field(
        default=10_000, le=1_000_000, description="Connections of clients at once."
    )
    heap_bytes: int = Field(
        default=2 * 1024**3,
        ge=256 * 1024**2,
        description="Memory of Envoy; near it every new request gets 503.",
    )
    load_report_secs: Seconds = Field(default=1, description="Interval of Envoy's load reports.")
    api_hosts: tuple[str, ...] = Field(
        default=(), description="Further host names that reach the JSON API."
    )


# This network, private, shared (carriers, VPNs), loopback, link-local with the metadata services of
# clouds (one cloud has a public address for that), protocol assignments, relays of IPv6,
# benchmarks, multicast, and what is reserved.
_NOT_THE_INTERNET = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32"),
    *("169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
)


class RuntimeSettings(Group):
    """Replicas on this machine."""

    egress: Literal["auto", "none", "filtered", "host"] = Field(
        default="auto",
        description="Network of app code: none (loopback only), filtered (the internet and nothing "
        "else; needs root, nftables and iproute2), auto (filtered where the machine can, else "
        "none), or the host's, unrestricted.",
    )
    egress_allow: tuple[str, ...] = Field(
        default=(), description="Networks that app code may reach all the same, as 10.1.0.0/16."
    )
    egress_deny: tuple[str, ...] = Field(
        default=_NOT_THE_INTERNET,
        description="Networks that app code and compiles may not reach in a filtered network. "
        "The machine itself and other replicas are never reached.",
    )
    resolvers: tuple[str, ...] = Field(
        default=(),
        description="Addresses of resolvers that answer for names in a filtered network; none: "
        "those of the machine.",
    )
    network_range: str = Field(
        default="198.19.0.0/16",
        description="Addresses of sandboxes in a filtered network; nothing else may use them.",
    )
    require_isolation: bool = Field(
        default=False,
        description="Refuse to run code where a layer of the sandbox is missing.",
    )
    max_concurrency: PositiveInt = Field(
        default=16, le=1000, description="Requests at once in a replica, where the app says 0."
    )
    queue_length: int = Field(
        default=64, ge=0, le=10_000, description="Requests that wait in a replica beyond that."
    )
    start_timeout_secs: Seconds = Field(default=60, description="Spawn to ready.")
    stop_grace_secs: Seconds = Field(
        default=30,
        description="SIGTERM to SIGKILL, at most; an app with a longer timeout gets that.",
    )
    request_bytes: PositiveInt = Field(
        default=64 * 1024 * 1024, description="Body of a request to an app of a managed runtime."
    )
    pids_max: PositiveInt = Field(default=256, le=32_768, description="Processes a replica.")
    tmp_bytes: PositiveInt = Field(default=256 * 1024 * 1024, description="Size of $HOME and /tmp.")
    first_uid: PositiveInt = Field(default=200_000, description="First of 50,000 uids of replicas.")
    log_bytes: PositiveInt = Field(default=4 * 1024 * 1024, description="Kept log of a replica.")
    fork_server: bool = Field(
        default=True,
        description="Start Python replicas as forks of a warm interpreter; needs root.",
    )
    warm_pool_size: int = Field(
        default=2,
        ge=0,
        le=100,
        description="Sandboxes of the usual Python kept ready for any app; needs the fork server.",
    )
    python_prefixes: tuple[Path, ...] = Field(
        default=(),
        description="Folders of further Python installations (each with bin/python3.X), preferred.",
    )


class BuildSettings(Group):
    """Compiles."""

    timeout_secs: Seconds = Field(default=600, description="Bound on one compile.")
    memory_mb: PositiveInt = Field(default=2048, description="Memory of one compile.")
    cpu_millicores: PositiveInt = Field(default=2000, description="CPU of one compile.")
    concurrency: PositiveInt = Field(default=2, le=64, description="Compiles at once.")
    egress: Literal["auto", "filtered", "host"] = Field(
        default="auto",
        description="Network of compiles: filtered (the internet and the package index, not this "
        "machine), the host's, or auto (filtered where the machine can, else the host's).",
    )
    egress_allow: tuple[str, ...] = Field(
        default=(),
        description="Networks that compiles may reach all the same. The package index needs none, "
        "unless it sends to other hosts.",
    )
    artifact_bytes: PositiveInt = Field(
        default=1024 * 1024 * 1024, description="Bound on a compiled artifact."
    )
    log_bytes: PositiveInt = Field(default=4 * 1024 * 1024, description="Bound on a build log.")
    cache_bytes: int = Field(
        default=20 * 1024**3,
        ge=0,
        description="Disk of all caches of packages together; the ones unused for longest go.",
    )
    cache_days: PositiveInt = Field(
        default=30, le=3650, description="A cache goes when it was not used for so long."
    )
    index_url: SecretStr | None = Field(
        default=None,
        description="Python package index; none: what pip is set to on this machine.",
        json_schema_extra=env("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "IGNITE_PYTHON_INDEX_URL"),
    )


class LimitSettings(Group):
    """Bounds on what one caller may ask for."""

    apps_per_organization: PositiveInt = Field(default=10_000, description="Apps.")
    message_bytes: PositiveInt = Field(
        default=64 * 1024 * 1024, description="One gRPC message in; so the bound of an archive."
    )
    calls_per_caller: PositiveInt = Field(
        default=1000, description="Calls of the API under way for one caller, streams among them."
    )
    archive_bytes: PositiveInt = Field(default=50 * 1024 * 1024, description="Archive as sent.")
    unpacked_bytes: PositiveInt = Field(default=512 * 1024 * 1024, description="Archive unpacked.")
    archive_entries: PositiveInt = Field(default=20_000, description="Entries of an archive.")
    archive_ratio: PositiveInt = Field(default=200, description="Unpacked over packed size.")
    env_entries: PositiveInt = Field(default=200, description="Variables of an app.")
    env_bytes: PositiveInt = Field(default=128 * 1024, description="Names and values together.")
    description_chars: PositiveInt = Field(default=4096, description="Description of an app.")
    schema_bytes: PositiveInt = Field(default=64 * 1024, description="Each JSON Schema text.")
    timeout_secs: PositiveInt = Field(default=3600, description="Largest timeout of an app.")
    payload_bytes: PositiveInt = Field(
        default=32 * 1024 * 1024, description="Body of Invoke, TestDraft, TestAppVersion."
    )
    memory_mb: PositiveInt = Field(default=8192, ge=64, description="Largest memory of a replica.")
    cpu_millicores: PositiveInt = Field(
        default=8000, ge=50, description="Largest CPU of a replica."
    )
    replicas: PositiveInt = Field(
        default=1000, description="Largest `max_replicas`; the platform's cap holds besides."
    )
    concurrency: PositiveInt = Field(default=1000, description="Largest `max_concurrency`.")
    ports_per_app: PositiveInt = Field(default=10, le=100, description="Ports of an app.")
    labels: PositiveInt = Field(default=32, description="Tags of an app; and its categories.")
    label_chars: PositiveInt = Field(
        default=128, description="One tag, category, author or modality."
    )
    build_args: PositiveInt = Field(default=64, description="Build arguments of a draft.")
    build_args_bytes: PositiveInt = Field(
        default=16 * 1024, description="Names and values of them together."
    )
    build_log_reply_bytes: PositiveInt = Field(
        default=3 * 1024 * 1024,
        description="Answer of GetBuildLog; the middle of a longer log is left out.",
    )
    page_size: PositiveInt = Field(default=200, description="Largest page of a list.")
    default_page_size: PositiveInt = Field(default=50, description="Page where `limit` is 0.")


class ScalingSettings(Group):
    """0 → N → 0."""

    replica_cap: PositiveInt = Field(default=5, le=1000, description="Platform cap on replicas.")
    scaledown_period_secs: PositiveInt = Field(default=300, description="Where the app says 0.")
    scaledown_floor_secs: PositiveInt = Field(default=30, description="Smallest period.")
    scale_threshold: PositiveInt = Field(default=10, description="Where the app says 0.")
    interval_secs: Seconds = Field(default=1, description="How often the autoscaler decides.")
    test_idle_secs: Seconds = Field(
        default=30, description="A replica started for TestDraft or TestAppVersion lives this long."
    )


class JanitorSettings(Group):
    """Removal of what nothing refers to any more."""

    interval_secs: Seconds = Field(
        default=600, description="Pause between two rounds; 0 removes nothing, ever."
    )
    grace_secs: int = Field(
        default=3600,
        ge=300,
        le=30 * 86_400,
        description="A source or artifact goes when nothing has referred to it for this long, and "
        "no sooner than the longest call and the longest compile could still need it.",
    )
    build_log_days: PositiveInt = Field(
        default=30,
        le=3650,
        description="Logs of compiles are kept this long; and the compiles whose version is gone.",
    )
