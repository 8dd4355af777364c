"""Who calls: organisations, principals, scopes and the roles that bundle them (spec 17)."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from ignite.domain.errors import InvalidArgument

OrganizationName = NewType("OrganizationName", str)
OrganizationId = NewType("OrganizationId", str)
ServiceAccountId = NewType("ServiceAccountId", str)

PUBLIC_ORGANIZATION = OrganizationName("public")
MAX_ORGANIZATION_NAME = 40

_ORGANIZATION_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class Scope(StrEnum):
    """One permission; each RPC names the one it needs."""

    DEPLOY_APP = "DeployApp"
    GET_APP = "GetApp"
    LIST_APPS = "ListApps"
    LIST_APP_VERSIONS = "ListAppVersions"
    ROLLBACK_APP = "RollbackApp"
    INVOKE_APP = "InvokeApp"
    GET_EXECUTION = "GetExecution"
    CREATE_BUILD = "CreateBuild"
    GET_BUILD = "GetBuild"
    LIST_BUILDS = "ListBuilds"
    CANCEL_BUILD = "CancelBuild"
    SAVE_BUILD_SECRETS = "SaveBuildSecrets"
    CREATE_SECRET = "CreateSecret"
    GET_SECRET = "GetSecret"
    LIST_SECRETS = "ListSecrets"
    DELETE_SECRET = "DeleteSecret"
    INVOKE_MODEL = "InvokeModel"
    ADMIN = "Admin"


_VIEW = frozenset(
    {
        Scope.GET_APP,
        Scope.LIST_APPS,
        Scope.LIST_APP_VERSIONS,
        Scope.GET_EXECUTION,
        Scope.GET_BUILD,
        Scope.LIST_BUILDS,
        Scope.LIST_SECRETS,
    }
)
_DEVELOP = _VIEW | {
    Scope.DEPLOY_APP,
    Scope.ROLLBACK_APP,
    Scope.INVOKE_APP,
    Scope.CREATE_BUILD,
    Scope.CANCEL_BUILD,
    Scope.SAVE_BUILD_SECRETS,
    Scope.CREATE_SECRET,
    Scope.GET_SECRET,
    Scope.DELETE_SECRET,
}

ROLES: dict[str, frozenset[Scope]] = {
    "ignite.app-viewer": _VIEW,
    "ignite.app-developer": _DEVELOP,
    "ignite.model-user": frozenset({Scope.INVOKE_MODEL}),
    "ignite.admin": frozenset(Scope),
}


def scopes_of(roles: "frozenset[str] | set[str] | list[str] | tuple[str, ...]") -> frozenset[Scope]:
    """Return the union of the scopes of `roles`; unknown roles grant nothing."""
    granted: set[Scope] = set()
    for role in roles:
        granted |= ROLES.get(role, frozenset())
    return frozenset(granted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant. Names are DNS labels and unique; ids never change."""

    id: OrganizationId
    name: OrganizationName


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified caller: exactly one organisation, and what it may do there."""

    subject: str
    organization: Organization
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationRecord:
    """An organisation as the accounts hold it."""

    organization: Organization
    description: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """A program's identity: `id` is the OAuth client id, `name` is unique in the organisation."""

    id: ServiceAccountId
    organization: Organization
    name: str
    description: str
    roles: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None


def check_organization_name(name: str, *, field: str = "name") -> OrganizationName:
    """Return `name` as an organisation's; refuse what cannot be part of one DNS label."""
    if len(name) > MAX_ORGANIZATION_NAME or not _ORGANIZATION_NAME.fullmatch(name):
        raise InvalidArgument(
            f"must be 1 to {MAX_ORGANIZATION_NAME} lowercase letters, digits or '-', starting and "
            "ending with a letter or digit",
            field=field,
        )
    return OrganizationName(name)
