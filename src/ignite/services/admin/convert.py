"""Between AdminService's messages and the domain. Pure."""

from collections.abc import Sequence, Set
from datetime import datetime

from ignite.domain.errors import InvalidArgument
from ignite.domain.health import ClusterHealth
from ignite.domain.identity import OrganizationRecord, Scope, ServiceAccount
from ignite.domain.versions import Language, Runtime
from ignite.domain.workloads import WarmPool
from ignite.ports.identity import AccessToken, KeyRotation
from ignite.v1 import ignite_admin_pb2 as pb

ROLE_DESCRIPTIONS = {
    "ignite.app-viewer": "Read apps, versions, builds and executions.",
    "ignite.app-developer": "Make, change, deploy and invoke apps.",
    "ignite.model-user": "Call models.",
    "ignite.admin": "Everything.",
}


def millis(moment: datetime | None) -> int:
    """Return Unix milliseconds, 0 for none."""
    return 0 if moment is None else round(moment.timestamp() * 1000)


def organization(record: OrganizationRecord) -> pb.Organization:
    """Return the wire form."""
    return pb.Organization(
        id=record.organization.id,
        name=record.organization.name,
        description=record.description,
        created_at_ms=millis(record.created_at),
    )


def service_account(account: ServiceAccount) -> pb.ServiceAccount:
    """Return the wire form."""
    return pb.ServiceAccount(
        id=account.id,
        organization_name=account.organization.name,
        name=account.name,
        description=account.description,
        roles=account.roles,
        created_at_ms=millis(account.created_at),
        updated_at_ms=millis(account.updated_at),
        last_used_at_ms=millis(account.last_used_at),
    )


def role(name: str, scopes: Set[Scope]) -> pb.Role:
    """Return the wire form."""
    return pb.Role(
        name=name,
        description=ROLE_DESCRIPTIONS.get(name, ""),
        scopes=sorted(scope.value for scope in scopes),
    )


def rotation(done: KeyRotation) -> pb.RotateSigningKeyResponse:
    """Return the wire form."""
    return pb.RotateSigningKeyResponse(
        key_id=done.key_id,
        signs_from_ms=millis(done.signs_from),
        previous_key_id=done.previous_key_id,
        previous_verifies_until_ms=millis(done.previous_verifies_until),
    )


def token(issued: AccessToken) -> pb.IssueTokenResponse:
    """Return the wire form."""
    return pb.IssueTokenResponse(
        access_token=issued.token,
        token_type="Bearer",  # noqa: S106 - the name of the scheme
        expires_in=issued.expires_in_secs,
        expires_at_ms=millis(issued.expires_at),
    )


def warm_pool(pool: WarmPool) -> pb.WarmPool:
    """Return the wire form."""
    return pb.WarmPool(
        runtime=pool.runtime.language,
        runtime_version=pool.runtime.version,
        size=pool.size,
        ready=pool.ready,
    )


def pool_name(pool: WarmPool) -> str:
    """Return by what pools are listed."""
    return f"{pool.runtime.language} {pool.runtime.version}"


def pooled_runtime(request: pb.SetWarmPoolSizeRequest) -> Runtime:
    """Return the domain's; raises InvalidArgument."""
    try:
        language = Language(request.runtime)
    except ValueError:
        known = ", ".join(Language)
        raise InvalidArgument(f"must be one of {known}", field="runtime") from None
    return Runtime(language=language, version=request.runtime_version, target="")


def health(cluster: ClusterHealth) -> pb.GetClusterHealthResponse:
    """Return the wire form."""
    response = pb.GetClusterHealthResponse(
        status=pb.HealthStatus.ValueType(cluster.status),
        version=cluster.version,
        backend=cluster.backend,
        components=_components(cluster),
    )
    if (report := cluster.sandbox) is not None:
        response.sandbox.CopyFrom(
            pb.SandboxReport(
                level=report.level,
                required_level=report.required_level,
                sufficient=report.sufficient,
                features=[
                    pb.SandboxFeature(name=one.name, enforced=one.enforced, detail=one.detail)
                    for one in report.features
                ],
            )
        )
    return response


def _components(cluster: ClusterHealth) -> Sequence[pb.ComponentHealth]:
    return [
        pb.ComponentHealth(
            name=one.name,
            status=pb.HealthStatus.ValueType(one.health.status),
            message=one.health.message,
            checked_at_ms=millis(one.checked_at),
        )
        for one in cluster.components
    ]
