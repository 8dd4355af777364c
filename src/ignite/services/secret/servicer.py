"""SecretService over gRPC: the caller from the context, one use case, the answer back."""
# ruff: noqa: N802 - methods have the contract's names

from typing import Any

import grpc

from ignite.rpc.auth import principal_of
from ignite.rpc.pagination import decode_cursor, page_limit, page_of
from ignite.services.secret import convert
from ignite.services.secret.slots import Slots
from ignite.settings import LimitSettings
from ignite.v1 import ignite_secret_pb2 as pb
from ignite.v1 import ignite_secret_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_SLOTS = "secrets"


class SecretServicer(pb_grpc.SecretServiceServicer):
    """Serves SecretService."""

    def __init__(self, slots: Slots, limits: LimitSettings) -> None:
        self._slots = slots
        self._limits = limits

    async def CreateSecret(
        self, request: pb.CreateSecretRequest, context: Context
    ) -> pb.CreateSecretResponse:
        value = convert.value_of(request)
        return convert.create_response(
            await self._slots.create(principal_of(context), request.name, value)
        )

    async def GetSecret(
        self, request: pb.GetSecretRequest, context: Context
    ) -> pb.GetSecretResponse:
        return convert.get_response(*await self._slots.get(principal_of(context), request.name))

    async def ListSecrets(
        self, request: pb.ListSecretsRequest, context: Context
    ) -> pb.ListSecretsResponse:
        limit = page_limit(request.limit, self._limits)
        place = decode_cursor(_SLOTS, request.cursor, [str])
        rows = await self._slots.list(
            principal_of(context), str(place[0]) if place else "", limit + 1
        )
        page, cursor = page_of(_SLOTS, rows, limit, lambda slot: [slot.name])
        return convert.list_response(page, cursor)

    async def DeleteSecret(
        self, request: pb.DeleteSecretRequest, context: Context
    ) -> pb.DeleteSecretResponse:
        await self._slots.delete(principal_of(context), request.name)
        return pb.DeleteSecretResponse()
