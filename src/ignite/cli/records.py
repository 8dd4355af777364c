"""How records of apps look in a terminal, for the commands that show them."""

from ignite.cli.code import runtime_name
from ignite.cli.output import moment, show_record, word
from ignite.v1 import ignite_common_pb2 as common


def show_app(output: str, meta: common.AppMeta) -> None:
    """Print an app's record, or a version's snapshot of it."""
    wide = output == "wide"
    show_record(
        output,
        meta,
        {
            "id": meta.id,
            "description": meta.description,
            "state": state_word(meta.deployment_state),
            "version": str(meta.version or ""),
            "active version": str(meta.active_version or "-"),
            "target version": (
                str(meta.target_version) if meta.target_version != meta.active_version else ""
            ),
            "urls": " ".join(meta.public_urls),
            "runtime": runtime_name(meta.runtime),
            "image": meta.image_ref,
            "tier": tier_word(meta.resource_tier),
            "limits": limits_text(meta.limits),
            "max concurrency": str(meta.max_concurrency or ""),
            "env": " ".join(f"{key}={value}" for key, value in sorted(meta.env.items())),
            "anyone may call": "yes" if meta.allow_unauthenticated else "",
            "code hash": meta.code_hash,
            "created": moment(meta.created_at_ms),
            "updated": moment(meta.updated_at_ms),
            "last error": f"{meta.error} {bracket(meta.last_error_reason)}".strip(),
            "input schema": meta.input_schema if wide else "",
            "output schema": meta.output_schema if wide else "",
        },
    )


def state_word(value: common.DeploymentState.ValueType) -> str:
    """Return a deployment state in short."""
    return word(common.DeploymentState.Name(value), "DEPLOYMENT_STATE")


def tier_word(value: common.ResourceTier.ValueType) -> str:
    """Return a tier in short."""
    return word(common.ResourceTier.Name(value), "RESOURCE_TIER")


def limits_text(limits: common.ResourceLimits) -> str:
    """Return limits in one line, nothing when none is set."""
    parts = [
        f"{limits.memory_mb} MB" if limits.memory_mb else "",
        f"{limits.cpu_millicores} m CPU" if limits.cpu_millicores else "",
        f"{limits.timeout_secs} s" if limits.timeout_secs else "",
    ]
    return ", ".join(part for part in parts if part)


def bracket(text: str) -> str:
    """Return a reason in brackets, nothing for none."""
    return f"({text})" if text else ""


def status_word(value: common.VersionStatus.ValueType) -> str:
    """Return a version's status in short."""
    return word(common.VersionStatus.Name(value), "VERSION_STATUS")
