"""Every number and address a person can set, read once; the only reader of the environment.

A field's variable is `IGNITE__<GROUP>__<FIELD>`; the names of the contract (spec 16) and a few
short ones are aliases, given as `env`. Components get their group by constructor, never the whole.
"""

from ignite.settings.base import Group, PositiveInt, Seconds, SettingsError
from ignite.settings.platform import (
    DatabaseSettings,
    DnsTlsSettings,
    IdentitySettings,
    LogSettings,
    ServerSettings,
    VaultSettings,
)
from ignite.settings.tree import Settings, variables
from ignite.settings.work import (
    BuildSettings,
    GatewaySettings,
    JanitorSettings,
    LimitSettings,
    RuntimeSettings,
    ScalingSettings,
)

__all__ = [
    "BuildSettings",
    "DatabaseSettings",
    "DnsTlsSettings",
    "GatewaySettings",
    "Group",
    "IdentitySettings",
    "JanitorSettings",
    "LimitSettings",
    "LogSettings",
    "PositiveInt",
    "RuntimeSettings",
    "ScalingSettings",
    "Seconds",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "VaultSettings",
    "variables",
]
