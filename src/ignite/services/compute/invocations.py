"""Calls of apps: checked, given an id, carried by the gateway, streamed back frame by frame.

There is no database on this way and no row is written. The app's own timeout is the gateway's to
keep, since only the gateway knows it without a database; the bound here is the largest there is.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from ulid import ULID

from ignite.domain.apps import AppRef, check_app_name
from ignite.domain.errors import DeadlineExceeded, InvalidArgument, PermissionDenied
from ignite.domain.identity import PUBLIC_ORGANIZATION, Principal
from ignite.domain.invocations import (
    Chunk,
    Frame,
    Head,
    HttpCall,
    Trailer,
    end_to_end,
    headers_of,
    method_of,
    target_of,
)
from ignite.ports.dispatch import Call, Dispatcher, Reply
from ignite.settings import GatewaySettings, LimitSettings

# gRPC clients take 4 MiB a message unless told otherwise.
MAX_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A call whose head has come."""

    execution_id: str
    reply: Reply


def new_execution_id() -> str:
    """Return a fresh `exec_<ULID>`."""
    return f"exec_{ULID()}"


class Invocations:
    """Invokes apps for their callers."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        limits: LimitSettings,
        gateway: GatewaySettings,
        *,
        new_id: Callable[[], str] = new_execution_id,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._payload_bytes = limits.payload_bytes
        self._most_secs = gateway.cold_start_budget_secs + limits.timeout_secs
        self._new_id = new_id
        self._monotonic = monotonic

    @asynccontextmanager
    async def invoke(
        self,
        principal: Principal,
        app: AppRef,
        http: HttpCall,
        body: bytes,
        *,
        version: int | None = None,
        workload: str = "",
        deadline_secs: float | None = None,
    ) -> AsyncIterator[Running]:
        """Send the call; entered once the head has come. Leaving early disconnects the replica.

        `version` None is the active one; a number is for the app's own organisation; `workload` is
        that of the port's Call. The scope has been checked before. Raises what `check` and the
        dispatcher raise.
        """
        call = self.check(principal, app, http, body, version=version, deadline_secs=deadline_secs)
        call = replace(call, workload=workload)
        async with self._dispatcher.dispatch(call) as reply:
            yield Running(execution_id=call.execution_id, reply=reply)

    async def frames(
        self,
        principal: Principal,
        app: AppRef,
        http: HttpCall,
        body: bytes,
        *,
        version: int | None = None,
        deadline_secs: float | None = None,
    ) -> AsyncGenerator[Frame, None]:
        """Yield Head, Chunks and a Trailer as they come.

        When the replica breaks off, Unavailable is raised after the chunks that were whole. Closing
        the generator disconnects the replica (hold it in `aclosing`: an abandoned one is closed
        late); not asking for the next frame holds the replica back.
        """
        began = self._monotonic()
        call = self.check(principal, app, http, body, version=version, deadline_secs=deadline_secs)
        async with self._dispatcher.dispatch(call) as reply:
            yield Head(
                status=reply.status,
                headers=end_to_end(reply.headers),
                execution_id=call.execution_id,
            )
            total = 0
            async for piece in reply.body():
                total += len(piece)
                if 0 < len(piece) <= MAX_CHUNK_BYTES:
                    yield Chunk(data=piece)
                    continue
                for start in range(0, len(piece), MAX_CHUNK_BYTES):
                    yield Chunk(data=piece[start : start + MAX_CHUNK_BYTES])
            yield Trailer(
                total_body_bytes=total,
                duration_ms=round((self._monotonic() - began) * 1000),
                trailers=reply.trailers,
            )

    def check(
        self,
        principal: Principal,
        app: AppRef,
        http: HttpCall,
        body: bytes,
        *,
        version: int | None = None,
        deadline_secs: float | None = None,
    ) -> Call:
        """Return the call to dispatch; raises InvalidArgument or PermissionDenied."""
        check_app_name(app.name, field="app_name")
        own = app.organization == principal.organization.name
        if not own and (version is not None or app.organization != PUBLIC_ORGANIZATION):
            raise PermissionDenied(
                "the token is of another organization", reason="OtherOrganization"
            )
        if len(body) > self._payload_bytes:
            raise InvalidArgument(
                f"must be at most {self._payload_bytes} bytes, has {len(body)}", field="body"
            )
        if deadline_secs is not None and deadline_secs <= 0:
            raise DeadlineExceeded("the caller's deadline has passed")
        return Call(
            app=app,
            version=version,
            execution_id=self._new_id(),
            method=method_of(http),
            target=target_of(http),
            headers=headers_of(http),
            body=body,
            deadline_secs=min(self._most_secs, deadline_secs or self._most_secs),
        )
