"""Protobuf ↔ domain for SecretService."""

from collections.abc import Iterable
from datetime import datetime

from ignite.domain.errors import InvalidArgument
from ignite.domain.secrets import GitSecret, RegistrySecret, SecretSlot, SecretValue
from ignite.v1 import ignite_secret_pb2 as pb


def value_of(request: pb.CreateSecretRequest) -> SecretValue:
    """Return the value of a request; raises InvalidArgument where there is none."""
    match request.value.WhichOneof("value"):
        case "git_secret":
            git = request.value.git_secret
            return GitSecret(username=git.username, token=git.token)
        case "registry_secret":
            registry = request.value.registry_secret
            return RegistrySecret(
                username=registry.username,
                password=registry.password,
                server_address=registry.server_address,
            )
        case _:
            raise InvalidArgument("must be a git_secret or a registry_secret", field="value")


def create_response(slot: SecretSlot) -> pb.CreateSecretResponse:
    """Return the answer of CreateSecret."""
    return pb.CreateSecretResponse(metadata=_metadata(slot))


def get_response(slot: SecretSlot, value: SecretValue) -> pb.GetSecretResponse:
    """Return the answer of GetSecret, the only one with a value."""
    return pb.GetSecretResponse(secret=pb.Secret(metadata=_metadata(slot), value=_value(value)))


def list_response(slots: Iterable[SecretSlot], next_cursor: str) -> pb.ListSecretsResponse:
    """Return the answer of ListSecrets."""
    return pb.ListSecretsResponse(
        secrets=[_metadata(slot) for slot in slots], next_cursor=next_cursor
    )


def _metadata(slot: SecretSlot) -> pb.SecretMetadata:
    return pb.SecretMetadata(
        name=slot.name,
        type=slot.type.value,
        created_at_ms=_milliseconds(slot.created_at),
        updated_at_ms=_milliseconds(slot.updated_at),
    )


def _value(value: SecretValue) -> pb.SecretValue:
    match value:
        case GitSecret():
            return pb.SecretValue(
                git_secret=pb.GitSecret(username=value.username, token=value.token)
            )
        case RegistrySecret():
            return pb.SecretValue(
                registry_secret=pb.RegistrySecret(
                    username=value.username,
                    password=value.password,
                    server_address=value.server_address,
                )
            )


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
