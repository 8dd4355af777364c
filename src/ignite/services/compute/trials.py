"""Trials: one call of a draft or of a chosen version. Nothing of it is stored.

A draft that is not compiled yet is compiled first, in the same time the caller gives. Whatever the
code does wrong is the outcome of the Execution, never an error of the call.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ignite.db.database import Database
from ignite.domain.apps import DRAFT, App, AppRef
from ignite.domain.builds import Build, BuildState
from ignite.domain.deployments import workload_ref
from ignite.domain.errors import (
    IgniteError,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from ignite.domain.executions import (
    ErrorClass,
    Execution,
    Outcome,
    cold_start_ms_of,
    failed,
    failed_compile,
    outcome_of_answer,
    outcome_of_failure,
    timed_out,
)
from ignite.domain.identity import Principal
from ignite.domain.invocations import Headers, HttpCall, end_to_end
from ignite.domain.versions import Version, VersionStatus
from ignite.domain.workloads import WorkloadRef
from ignite.ports.dispatch import Reply
from ignite.services.compute.build_logs import BuildLogs
from ignite.services.compute.drafts import draft_of, running_build, start_build
from ignite.services.compute.invocations import Invocations
from ignite.services.compute.versions import version_of
from ignite.settings import GatewaySettings, LimitSettings

_ATTEMPTS = 3
"""At code that is replaced while it is compiled or called."""

_REPLACED = frozenset({"DraftChanged", "VersionNotReady"})
"""Reasons of the gateway: the draft was saved again, and the code to try did not run."""

_MARGIN_SECS = 0.25
_INLINE_BYTES = 256 * 1024  # more is parsed in a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A run and the app's own answer; status 0 when there was none."""

    execution: Execution
    status: int
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Who wants which version called, and with what."""

    principal: Principal
    ref: AppRef
    number: int
    http: HttpCall
    payload: bytes = field(repr=False)


@dataclass(slots=True, kw_only=True)
class _Answer:
    """What has come of an answer so far; `called` is when compiled code was asked for it."""

    execution_id: str
    called: float | None = None
    status: int = 0
    headers: Headers = ()
    body: bytearray = field(default_factory=bytearray)


class _Replaced(Exception):
    """The draft that was to be called is another one now; nothing ran."""


class _NotCompiled(Exception):
    """The code cannot run; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


class Trials:
    """The use cases of TestDraft and TestAppVersion."""

    def __init__(
        self,
        database: Database,
        build_logs: BuildLogs,
        invocations: Invocations,
        limits: LimitSettings,
        gateway: GatewaySettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._build_logs = build_logs
        self._invocations = invocations
        self._payload_bytes = limits.payload_bytes
        self._most_secs = gateway.cold_start_budget_secs + limits.timeout_secs
        self._now = now
        self._monotonic = monotonic

    async def run(
        self,
        principal: Principal,
        ref: AppRef,
        number: int,
        http: HttpCall,
        payload: bytes,
        *,
        deadline_secs: float | None,
    ) -> Trial:
        """Call version `number`, 0 being the draft, once; raises NoDraft or VersionNotFound."""
        if len(payload) > self._payload_bytes:
            raise InvalidArgument(
                f"must be at most {self._payload_bytes} bytes, has {len(payload)}", field="payload"
            )
        seconds = self._seconds(deadline_secs)
        wanted = _Wanted(principal=principal, ref=ref, number=number, http=http, payload=payload)
        call = self._invocations.check(
            principal, ref, http, payload, version=number, deadline_secs=seconds
        )
        async with self._database.reading() as tx:
            app = await tx.apps.get(ref)
            await (draft_of(tx, app) if number == DRAFT else version_of(tx, app, number))
        answer = _Answer(execution_id=call.execution_id)
        started_at, began = self._now(), self._monotonic()
        try:
            async with asyncio.timeout(seconds):
                outcome = await self._outcome(wanted, began + seconds, answer)
        except TimeoutError:
            outcome = _timeout(seconds, is_compiled=answer.called is not None)
        except _NotCompiled as error:
            outcome = error.outcome
        cold_start_ms = cold_start_ms_of(answer.headers)
        ended = self._monotonic()
        took_ms = round((ended - (ended if answer.called is None else answer.called)) * 1000)
        execution = Execution(
            id=answer.execution_id,
            app=ref,
            version=number,
            tier=_tier_in_words(app),
            outcome=outcome,
            execution_ms=max(0, took_ms - cold_start_ms),
            cold_start_ms=cold_start_ms,
            started_at=started_at,
            completed_at=self._now(),
        )
        return Trial(execution=execution, status=answer.status, headers=end_to_end(answer.headers))

    def _seconds(self, deadline_secs: float | None) -> float:
        """Return how long the trial may take: a little less than its caller waits for it."""
        if deadline_secs is None:
            return self._most_secs
        margin = min(_MARGIN_SECS, deadline_secs / 10)
        return min(self._most_secs, deadline_secs - margin)

    async def _outcome(self, wanted: _Wanted, ends: float, answer: _Answer) -> Outcome:
        """Compile and call, anew where the draft was saved again before its code ran."""
        for _ in range(_ATTEMPTS):
            answer.called = None
            workload = await self._compile(wanted)
            answer.called = self._monotonic()
            with suppress(_Replaced):
                return await self._call(wanted, workload, ends - answer.called, answer)
        raise _changed()

    async def _compile(self, wanted: _Wanted) -> WorkloadRef:
        """Return what to call once the version has an artifact.

        Raises _NotCompiled when it cannot get one.
        """
        for _ in range(_ATTEMPTS):
            found = await self._runnable_or_build(wanted.ref, wanted.number)
            if isinstance(found, WorkloadRef):
                return found
            ended = await self._build_logs.until_ended(
                wanted.principal.organization, found.deploy_id
            )
            if ended.state is not BuildState.SUCCEEDED:
                raise _NotCompiled(_outcome_of_build(ended))
        raise _changed()

    async def _runnable_or_build(self, ref: AppRef, number: int) -> WorkloadRef | Build:
        """Return the Workload of a version that has its artifact, else the build to wait for."""
        async with self._database.transaction() as tx:
            app = await tx.apps.get(ref, lock=number == DRAFT)
            version = await version_of(tx, app, number)
            if version.artifact:
                return workload_ref(app, version)
            build = await running_build(tx, version)
            version = await version_of(tx, app, number)
            if version.artifact:
                return workload_ref(app, version)
            if build is not None:
                return build
            if number == DRAFT:
                return await start_build(tx, app, version)
            raise _NotCompiled(_outcome_of_version(version))

    async def _call(
        self, wanted: _Wanted, workload: WorkloadRef, seconds: float, answer: _Answer
    ) -> Outcome:
        # Numbered versions never change; the draft keeps its number whatever its code.
        is_draft = wanted.number == DRAFT
        try:
            async with self._invocations.invoke(
                wanted.principal,
                wanted.ref,
                wanted.http,
                wanted.payload,
                version=wanted.number,
                workload=workload.key if is_draft else "",
                deadline_secs=seconds,
            ) as running:
                answer.execution_id = running.execution_id
                answer.status = running.reply.status
                answer.headers = running.reply.headers
                if not await self._read(running.reply, answer):
                    return failed(
                        f"the answer has more than {self._payload_bytes} bytes", "ResultTooLarge"
                    )
        except (InvalidArgument, PermissionDenied):
            raise
        except IgniteError as error:
            if is_draft and not answer.status and error.reason in _REPLACED:
                raise _Replaced from error
            return outcome_of_failure(error)
        body = bytes(answer.body)
        if len(body) <= _INLINE_BYTES:
            return outcome_of_answer(answer.status, answer.headers, body)
        return await asyncio.to_thread(outcome_of_answer, answer.status, answer.headers, body)

    async def _read(self, reply: Reply, answer: _Answer) -> bool:
        """Read the body to its end; False when it is over the bound."""
        async for chunk in reply.body():
            answer.body += chunk
            if len(answer.body) > self._payload_bytes:
                return False
        return True


def _changed() -> Unavailable:
    return Unavailable("the draft was saved again and again meanwhile", reason="DraftChanged")


def _timeout(seconds: float, *, is_compiled: bool) -> Outcome:
    if is_compiled:
        return timed_out(f"took longer than {seconds:.1f} s")
    return timed_out(
        f"was not compiled within {seconds:.1f} s; the compile goes on", fault=ErrorClass.PLATFORM
    )


def _outcome_of_build(build: Build) -> Outcome:
    if build.state is BuildState.CANCELLED:
        return failed("the compile was cancelled", "Cancelled")
    return failed_compile(build.error, build.error_reason)


def _outcome_of_version(version: Version) -> Outcome:
    if version.status is VersionStatus.FAILED:
        return failed_compile(version.error, version.error_reason)
    return failed(version.error or "the version was never compiled", "NotCompiled")


def _tier_in_words(app: App) -> str:
    name = app.config.tier.name
    return "XLarge" if name == "XLARGE" else name.capitalize()
