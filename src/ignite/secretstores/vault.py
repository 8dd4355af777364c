"""Secret slots and platform documents on KV v2 of Vault or OpenBao.

A slot is one KV entry that keeps one version. Its metadata name the type and the version the type
is of, so that listing reads no value; where a writer died between the two writes, the type is read
from the value. Writers of one slot are ordered by check-and-set.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import hvac
from hvac import exceptions as vault

from ignite.domain.errors import SecretNotFound, Unavailable
from ignite.domain.identity import OrganizationName
from ignite.domain.secrets import (
    GitSecret,
    RegistrySecret,
    SecretSlot,
    SecretType,
    SecretValue,
    type_of,
)
from ignite.ports.platform import DocumentChanged, PlatformDocument
from ignite.secretstores.client import VaultClient
from ignite.secretstores.policies import document_path, slot_path, slots_path

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
_TYPE, _TYPE_OF = "type", "type-of-version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metadata:
    """What KV v2 says about an entry. `version` is what a check-and-set must name."""

    version: int
    has_value: bool
    created_at: datetime
    updated_at: datetime
    custom: Mapping[str, str]


class VaultSecretStore:
    """Implements ports.secrets.SecretStore."""

    def __init__(self, client: VaultClient) -> None:
        self._client = client
        self._mount = client.mount

    async def put(
        self, organization: OrganizationName, name: str, value: SecretValue
    ) -> SecretSlot:
        """See ports.secrets.SecretStore."""
        path = slot_path(organization, name)

        def work(client: hvac.Client) -> SecretSlot:
            return self._put(client, path, name, value)

        return await self._client.as_organization(organization, work)

    async def get(
        self, organization: OrganizationName, name: str
    ) -> tuple[SecretSlot, SecretValue]:
        """See ports.secrets.SecretStore."""
        path = slot_path(organization, name)

        def work(client: hvac.Client) -> tuple[SecretSlot, SecretValue]:
            return self._get(client, path, name)

        return await self._client.as_organization(organization, work)

    async def list(self, organization: OrganizationName) -> tuple[SecretSlot, ...]:
        """See ports.secrets.SecretStore."""
        folder = slots_path(organization)

        def work(client: hvac.Client) -> tuple[SecretSlot, ...]:
            return self._list(client, folder)

        return await self._client.as_organization(organization, work)

    async def delete(self, organization: OrganizationName, name: str) -> None:
        """See ports.secrets.SecretStore."""
        path = slot_path(organization, name)

        def work(client: hvac.Client) -> None:
            client.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=self._mount)

        await self._client.as_organization(organization, work)

    def _put(self, client: hvac.Client, path: str, name: str, value: SecretValue) -> SecretSlot:
        kv = client.secrets.kv.v2
        kind = type_of(value)
        for _ in range(_ATTEMPTS):
            before = self._metadata(client, path)
            version = before.version if before else 0
            custom = {_TYPE: kind.value, _TYPE_OF: str(version + 1)}
            kv.update_metadata(
                path, max_versions=1, custom_metadata=custom, mount_point=self._mount
            )
            try:
                kv.create_or_update_secret(
                    path, _document(value), cas=version, mount_point=self._mount
                )
            except vault.InvalidRequest as error:
                if not _is_conflict(error):
                    raise
                continue
            after = self._metadata(client, path)
            if after and after.has_value:
                return _slot(name, kind, after)
        raise Unavailable("the secret keeps changing", reason="SecretContended")

    def _get(self, client: hvac.Client, path: str, name: str) -> tuple[SecretSlot, SecretValue]:
        for _ in range(_ATTEMPTS):
            metadata = self._metadata(client, path)
            found = _read(client, self._mount, path) if metadata and metadata.has_value else None
            if metadata is None or found is None:
                break
            version, document = found
            if version == metadata.version:
                value = _value(document)
                return _slot(name, type_of(value), metadata), value
        else:
            raise Unavailable("the secret keeps changing", reason="SecretContended")
        raise SecretNotFound(f"no secret {name!r}")

    def _list(self, client: hvac.Client, folder: str) -> "tuple[SecretSlot, ...]":
        try:
            answer = client.secrets.kv.v2.list_secrets(folder, mount_point=self._mount)
        except vault.InvalidPath:
            return ()
        slots: list[SecretSlot] = []
        for name in sorted(str(key) for key in answer["data"]["keys"]):
            path = f"{folder}/{name}"
            metadata = self._metadata(client, path)
            kind = self._kind(client, path, metadata) if metadata else None
            if metadata and kind:
                slots.append(_slot(name, kind, metadata))
        return tuple(slots)

    def _kind(self, client: hvac.Client, path: str, metadata: _Metadata) -> SecretType | None:
        if not metadata.has_value:
            return None
        if metadata.custom.get(_TYPE_OF) == str(metadata.version):
            return SecretType(metadata.custom[_TYPE])
        found = _read(client, self._mount, path)
        return type_of(_value(found[1])) if found else None

    def _metadata(self, client: hvac.Client, path: str) -> _Metadata | None:
        try:
            answer = client.secrets.kv.v2.read_secret_metadata(path, mount_point=self._mount)
        except vault.InvalidPath:
            return None
        about = answer["data"]
        version = int(about["current_version"])
        newest = about["versions"].get(str(version), {})
        # A value that somebody deleted by hand is no value, but its version counts.
        gone = not newest or newest["destroyed"] or newest["deletion_time"]
        return _Metadata(
            version=version,
            has_value=not gone,
            created_at=datetime.fromisoformat(about["created_time"]),
            updated_at=datetime.fromisoformat(newest.get("created_time", about["created_time"])),
            custom=about.get("custom_metadata") or {},
        )


class VaultPlatformSecrets:
    """Implements ports.platform.PlatformSecrets."""

    def __init__(self, client: VaultClient) -> None:
        self._client = client
        self._mount = client.mount

    async def get(self, name: str) -> PlatformDocument | None:
        """See ports.platform.PlatformSecrets."""
        path = document_path(name)
        found = await self._client.as_platform(lambda client: _read(client, self._mount, path))
        if found is None:
            return None
        version, document = found
        return PlatformDocument(
            version=version, value={key: str(text) for key, text in document.items()}
        )

    async def put(self, name: str, value: Mapping[str, str], *, expected: int | None) -> int:
        """See ports.platform.PlatformSecrets."""
        path = document_path(name)

        def work(client: hvac.Client) -> int:
            kv = client.secrets.kv.v2
            kv.update_metadata(path, max_versions=1, mount_point=self._mount)
            try:
                answer = kv.create_or_update_secret(
                    path, dict(value), cas=expected, mount_point=self._mount
                )
            except vault.InvalidRequest as error:
                if _is_conflict(error):
                    raise DocumentChanged(name) from None
                raise
            return int(answer["data"]["version"])

        return await self._client.as_platform(work)


def _read(client: hvac.Client, mount: str, path: str) -> tuple[int, Mapping[str, Any]] | None:
    """Return the current version and its content; None where there is none."""
    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path, mount_point=mount, raise_on_deleted_version=True
        )
    except vault.InvalidPath:
        return None
    data = answer["data"]
    return int(data["metadata"]["version"]), data["data"]


def _is_conflict(error: vault.InvalidRequest) -> bool:
    return "check-and-set" in str(error)


def _slot(name: str, kind: SecretType, metadata: _Metadata) -> SecretSlot:
    return SecretSlot(
        name=name, type=kind, created_at=metadata.created_at, updated_at=metadata.updated_at
    )


def _document(value: SecretValue) -> dict[str, str]:
    match value:
        case GitSecret():
            return {
                "type": SecretType.GIT.value,
                "username": value.username,
                "token": value.token,
            }
        case RegistrySecret():
            return {
                "type": SecretType.REGISTRY.value,
                "username": value.username,
                "password": value.password,
                "server_address": value.server_address,
            }


def _value(document: Mapping[str, Any]) -> SecretValue:
    match SecretType(document["type"]):
        case SecretType.GIT:
            return GitSecret(username=str(document["username"]), token=str(document["token"]))
        case SecretType.REGISTRY:
            return RegistrySecret(
                username=str(document["username"]),
                password=str(document["password"]),
                server_address=str(document["server_address"]),
            )
