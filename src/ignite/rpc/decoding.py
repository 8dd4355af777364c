"""Bytes that are no message of the method are the caller's mistake, and say nothing of ours.

grpc.aio reads a message before any handler runs and answers a failure of that itself: UNKNOWN, with
the text of the exception and a trace in the log. So here reading never fails; what could not be
read is handed on as such and refused where other mistakes of a caller are.
"""

from typing import Any

from google.protobuf.message import DecodeError

from ignite.domain.errors import InvalidArgument
from ignite.rpc.handlers import Reader


class Unreadable:
    """Stands for a message that could not be read."""


def tolerant(read: Reader) -> Reader:
    """Return what reads as `read` does, and gives an Unreadable where that fails."""

    def try_to_read(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return Unreadable()

    return try_to_read


def refuse_unreadable(message: object) -> None:
    """Raise InvalidArgument for an Unreadable."""
    if isinstance(message, Unreadable):
        raise InvalidArgument("the request cannot be read", reason="Unreadable")
