"""The tree of all settings, from the environment and back."""

import os
from collections.abc import Mapping
from typing import Self

from pydantic import SecretStr, ValidationError

from ignite.settings.base import Group, SettingsError
from ignite.settings.platform import (
    DatabaseSettings,
    DnsTlsSettings,
    IdentitySettings,
    LogSettings,
    ServerSettings,
    VaultSettings,
)
from ignite.settings.work import (
    BuildSettings,
    GatewaySettings,
    JanitorSettings,
    LimitSettings,
    RuntimeSettings,
    ScalingSettings,
)

_NESTED = "IGNITE__"


class Settings(Group):
    """The whole tree. Built once, by `load`."""

    server: ServerSettings = ServerSettings()
    dns_tls: DnsTlsSettings = DnsTlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    vault: VaultSettings = VaultSettings()
    identity: IdentitySettings = IdentitySettings()
    gateway: GatewaySettings = GatewaySettings()
    runtime: RuntimeSettings = RuntimeSettings()
    build: BuildSettings = BuildSettings()
    limits: LimitSettings = LimitSettings()
    scaling: ScalingSettings = ScalingSettings()
    janitor: JanitorSettings = JanitorSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Self:
        """Read the environment; `overrides` (group → field → value, from flags) win.

        Raises SettingsError naming the variable.
        """
        environ = os.environ if environ is None else environ
        tree: dict[str, dict[str, object]] = {}
        known = variables()
        for variable in environ:
            # A misspelt name would leave a default in force that somebody meant to change.
            if variable.startswith(_NESTED) and variable not in known:
                raise SettingsError(f"{variable}: there is no such setting")
        for variable, (group, field) in known.items():
            if variable in environ:
                tree.setdefault(group, {})[field] = _value(group, field, environ[variable])
        for group, fields in (overrides or {}).items():
            tree.setdefault(group, {}).update(fields)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = "__".join(("IGNITE", *(str(part).upper() for part in first["loc"])))
            raise SettingsError(f"{name}: {first['msg']}") from None

    def environment(self) -> dict[str, str]:
        """Return the variables that make another process read the same tree.

        Holds secrets: only for the environment of a child of ours.
        """
        found: dict[str, str] = {}
        for name, info in type(self).model_fields.items():
            group: Group = getattr(self, name)
            default = info.default
            for field in type(group).model_fields:
                value = getattr(group, field)
                if value is None or value == getattr(default, field):
                    continue
                found[f"IGNITE__{name}__{field}".upper()] = _text(value)
        return found


def _value(group: str, field: str, text: str) -> object:
    default = getattr(Settings.model_fields[group].default, field)
    return tuple(part for part in text.split(",") if part) if isinstance(default, tuple) else text


def _text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(str(part) for part in value)
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


def variables() -> dict[str, tuple[str, str]]:
    """Return variable → (group, field), aliases first so that the nested name wins."""
    short: dict[str, tuple[str, str]] = {}
    full: dict[str, tuple[str, str]] = {}
    for group, info in Settings.model_fields.items():
        kind = info.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Group)
        for field, about in kind.model_fields.items():
            extra = about.json_schema_extra
            names = extra.get("env") if isinstance(extra, dict) else None
            for name in names if isinstance(names, list) else ():
                short[str(name)] = (group, field)
            full[f"IGNITE__{group}__{field}".upper()] = (group, field)
    return {**short, **full}
