"""The port to a replica: one request in, its answer out, through the gateway."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ignite.domain.apps import AppRef

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request for an app. `version` None means the active one.

    `workload` is the key of the Workload that alone may answer: a draft that is saved again keeps
    its number, and code that it replaced may still run. "" takes whichever the version has.
    `target` is path and raw query as they go on the wire. `deadline_secs` bounds the whole call,
    the wait for a cold start included.
    """

    app: AppRef
    version: int | None
    execution_id: str
    method: str
    target: str
    headers: Headers
    body: bytes
    deadline_secs: float
    workload: str = ""


class Reply(Protocol):
    """A replica's answer. Read the body to its end, then the trailers."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Headers:
        """As sent, hop-by-hop headers removed, names in lower case."""

    def body(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Unavailable when the replica breaks off."""

    @property
    def trailers(self) -> Headers:
        """HTTP trailers; complete once the body has ended."""


class Dispatcher(Protocol):
    """Carries calls to replicas over the internal listener."""

    def dispatch(self, call: Call) -> AbstractAsyncContextManager[Reply]:
        """Send the call; enter to wait for the head; leaving early disconnects the replica.

        Raises Unavailable (cold start failed, queue full: `reason` says which; `DraftChanged` when
        the version has another Workload than the call's by now), NotFound (no such app or version
        is routed) or DeadlineExceeded.
        """
