"""The bounds of this installation, as the rules of the domain take them."""

from ignite.domain.app_checks import AppBounds
from ignite.settings import LimitSettings, ScalingSettings


def bounds_of(limits: LimitSettings, scaling: ScalingSettings) -> AppBounds:
    """Return the bounds that settings give."""
    return AppBounds(
        env_entries=limits.env_entries,
        env_bytes=limits.env_bytes,
        description_chars=limits.description_chars,
        schema_bytes=limits.schema_bytes,
        memory_mb=limits.memory_mb,
        cpu_millicores=limits.cpu_millicores,
        timeout_secs=limits.timeout_secs,
        replicas=limits.replicas,
        replica_cap=scaling.replica_cap,
        scaledown_floor_secs=scaling.scaledown_floor_secs,
        ports=limits.ports_per_app,
        concurrency=limits.concurrency,
        labels=limits.labels,
        label_chars=limits.label_chars,
        build_args=limits.build_args,
        build_args_bytes=limits.build_args_bytes,
        archive_bytes=limits.archive_bytes,
    )
