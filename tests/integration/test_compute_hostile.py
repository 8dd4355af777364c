"""Requests with anything in any field: every answer is a status of the contract, never our failure.

The values are chosen to hurt a parser, a column or a name; the seed is fixed, so a failure repeats.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from tests.fakes.dispatch import FakeReply
from tests.support.compute import HANDLER, Compute, python_archive, serving

from ignite.v1 import ignite_compute_pb2 as pb

ROUNDS = 60
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
METHODS = [
    "CreateApp",
    "GetApp",
    "ListApps",
    "UpdateAppConfig",
    "GetAppState",
    "SaveDraft",
    "GetDraftInfo",
    "CompileDraft",
    "PublishDraft",
    "ListAppVersions",
    "GetAppVersion",
    "RollbackApp",
    "GetAppCode",
    "GetBuildLog",
    "StreamCompileLogs",
    "Invoke",
    "TestAppVersion",
    "DeleteApp",
]
TEXTS = [
    "",
    "hello",
    "acme",
    "a\0b",
    "\ud7ff",
    "\U0001f600" * 50,
    "x" * 300,
    "../../etc",
    "%s'; DROP TABLE apps; --",
    "{}",
    "[" * 5000,
    '{"a": 1e999}',
    "1" * 5000,
    "env",
    "a\r\nb: c",
    "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "bld_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "WyJhcHBzIiwxXQ",
    "3.11",
]
NUMBERS = [0, 1, 2, 80, 300, 2**31 - 1, 2**31, 2**32 - 1]
ZIP = python_archive({"handler.py": HANDLER}).compile.archive


@pytest.fixture
async def compute(database_url: str, tmp_path: Path) -> AsyncIterator[Compute]:
    async with serving(database_url, tmp_path) as served:
        await served.create("hello")
        await served.live("hello")
        served.dispatcher.reply = FakeReply(chunks=(b"ok",))
        yield served


@pytest.mark.parametrize("method", METHODS)
async def test_no_request_makes_the_server_fail(compute: Compute, method: str) -> None:
    chance = random.Random(f"ignite {method}")
    kind = pb.DESCRIPTOR.services_by_name["ComputeService"].methods_by_name[method].input_type
    for _ in range(ROUNDS):
        request = filled(getattr(pb, kind.name)(), chance)
        if "app_name" in kind.fields_by_name and chance.random() < 0.7:
            request.app_name = "hello"
        if "organization_name" in kind.fields_by_name and chance.random() < 0.8:
            request.organization_name = "acme"
        code, text = await status_of(compute, method, request)
        assert code in EXPECTED, (method, code, text, request)
        assert "Traceback" not in text
        assert "sqlalchemy" not in text


async def status_of(compute: Compute, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
    call = compute.call(method, request, timeout=20)
    try:
        async with asyncio.timeout(20):
            if hasattr(call, "read"):
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def filled(message: Any, chance: random.Random, depth: int = 0) -> Any:
    """Fill some fields of a message with values made to hurt."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.55:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _fill_message(message, field, chance, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(
                scalar(field, chance) for _ in range(chance.randrange(4))
            )
        else:
            setattr(message, field.name, scalar(field, chance))
    return message


def _fill_message(message: Any, field: Any, chance: random.Random, depth: int) -> None:
    if field.message_type.GetOptions().map_entry:
        for _ in range(chance.randrange(3)):
            getattr(message, field.name)[chance.choice(TEXTS)] = chance.choice(TEXTS)
    elif field.is_repeated:
        filled(getattr(message, field.name).add(), chance, depth + 1)
    elif depth < 5:
        inner = getattr(message, field.name)
        inner.SetInParent()
        filled(inner, chance, depth + 1)


def scalar(field: Any, chance: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return chance.choice(TEXTS)
        case FieldDescriptor.TYPE_BYTES:
            return chance.choice([b"", b"\0", b"PK\x03\x04", b"\x1f\x8b\x08", HANDLER, ZIP])
        case FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.TYPE_ENUM:
            return chance.choice([0, 1, 2, 3, 99])
        case _:
            return chance.choice(NUMBERS)
