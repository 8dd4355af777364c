"""Messages at random and bytes that are none: the answer is always a word of the contract."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from tests.e2e.server import Server

from ignite.v1 import ignite_compute_pb2, ignite_secret_pb2

CALLS = 1500
DEEPEST = 4
TEXTS = (
    *("", "hello", "a\0b", "x" * 3000, "../..", "%00", "{}", "[]", "null", '"', "'; drop table"),
    *("-1", "1e400", "http://169.254.169.254/", "\U0001f600", "A", "a.b", "--", "/x?y#z", " "),
)
DATA = (b"", b"\0\xff", b"PK\3\4", b"\x1f\x8b", b"def handler(p, c):\n    return 1\n")
SMALL, LARGE = (0, 1, 2, 99), (2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**31), -(2**63))
INSIDES = ("Traceback", "/src/", "sqlalchemy", "asyncpg", "<class", "protobuf")
# The server's own failures, which nobody's message may cause.
OURS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "DATA_LOSS"}


class Source:
    """Messages at random."""

    def __init__(self, seed: int, organization: str) -> None:
        self._random = random.Random(seed)
        self._organization = organization

    def method(self) -> tuple[str, MethodDescriptor]:
        """Return a method and its path."""
        files = (ignite_compute_pb2.DESCRIPTOR, ignite_secret_pb2.DESCRIPTOR)
        methods = [
            (f"/{service.full_name}/{method.name}", method)
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
        ]
        return self._random.choice(methods)

    def bytes_of(self, method: MethodDescriptor) -> bytes:
        """Return a message of the method, now and then with bytes changed or cut off."""
        message = message_factory.GetMessageClass(method.input_type)()
        self._fill(message, 0)
        data = bytearray(message.SerializeToString())
        if data and self._random.random() < 0.25:
            data[self._random.randrange(len(data))] = self._random.randrange(256)
            if self._random.random() < 0.3:
                del data[self._random.randrange(len(data)) :]
        return bytes(data)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if field.name == "organization_name" and self._random.random() < 0.9:
                setattr(message, field.name, self._organization)
            elif self._random.random() < 0.6:
                self._set(message, field, depth)

    def _set(self, message: Message, field: Any, depth: int) -> None:
        here: Any = getattr(message, field.name)
        many = self._random.choice((0, 1, 3))
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            for _ in range(many):
                here[self._random.choice(TEXTS)] = self._random.choice(TEXTS)
        elif kind is not None and depth >= DEEPEST:
            return
        elif kind is not None and field.is_repeated:
            for _ in range(many):
                self._fill(here.add(), depth + 1)
        elif kind is not None:
            here.SetInParent()
            self._fill(here, depth + 1)
        elif field.is_repeated:
            here.extend(self._value(field) for _ in range(many))
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: Any) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                is_text = field.type == FieldDescriptor.TYPE_STRING
                return self._random.choice(TEXTS if is_text else DATA)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self._random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._random.choice(SMALL)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self._random.choice((0.0, 1.5, float("nan"), float("inf")))
            case _:
                fits = [number for number in (*SMALL, *LARGE) if _fits(field, number)]
                return self._random.choice(fits)


def _fits(field: Any, number: int) -> bool:
    bits = 32 if field.cpp_type in _NARROW else 64
    is_unsigned = field.cpp_type in _UNSIGNED
    least, most = (0, 1 << bits) if is_unsigned else (-(1 << (bits - 1)), 1 << (bits - 1))
    return least <= number < most


_NARROW = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
_UNSIGNED = {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}


def outcome(call: Any, data: bytes, metadata: Any) -> tuple[str, str]:
    """Return the status of a call and its words."""
    try:
        answer = call(data, metadata=metadata, timeout=20)
        if isinstance(answer, Iterator):
            list(answer)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def test_no_message_makes_the_server_fail(fresh: Server) -> None:
    fresh.start()
    source = Source(20_261_121, fresh.org)
    metadata = fresh.metadata
    with fresh.channel() as channel:
        for _ in range(CALLS):
            path, method = source.method()
            data = source.bytes_of(method)
            caller: Callable[..., Any] = (
                channel.unary_stream if method.server_streaming else (channel.unary_unary)
            )
            code, words = outcome(caller(path), data, metadata)
            assert code not in OURS, f"{path} {data!r}: {words}"
            assert not [word for word in INSIDES if word in words], f"{path} {data!r}: {words}"
    assert fresh.http("GET", "/v1/ignite/health", token=None).status == 200
