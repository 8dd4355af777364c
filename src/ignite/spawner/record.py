"""One replica in the spawner's memory, and the words for how it ended."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime

from ignite.domain.workloads import ReplicaState
from ignite.spawner.folders import ReplicaFolders
from ignite.spawner.logs import ReplicaLog
from ignite.spawner.specs import ReplicaSpec, ReplicaStatus

MAX_MESSAGE_BYTES = 2048

# What the managed runtimes exit with.
_EXIT_REASONS = {3: "ImportFailed", 4: "NoHandler", 5: "HandlerStuck"}


@dataclass(slots=True, kw_only=True)
class ReplicaRecord:
    """A replica's status with what only its supervision needs."""

    spec: ReplicaSpec
    status: ReplicaStatus
    folders: ReplicaFolders
    log: ReplicaLog | None = None
    stop_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    grace_secs: float = 0.0
    began_at: float = 0.0
    spawned_at: float = 0.0
    ended_at: float = 0.0
    way: str = ""

    @property
    def was_ready(self) -> bool:
        """Tell whether it ever served."""
        return self.status.ready_at is not None

    def set_pid(self, pid: int) -> None:
        """Note the process on the machine."""
        self.status = replace(self.status, pid=pid)

    def ready(self, now: datetime) -> None:
        """STARTING → READY."""
        self.status = replace(self.status, state=ReplicaState.READY, ready_at=now)

    def draining(self) -> None:
        """→ DRAINING, on the way to its end."""
        self.status = replace(self.status, state=ReplicaState.DRAINING)

    def end(self, end: "End", now: datetime) -> None:
        """→ EXITED, or FAILED where it never served."""
        state = ReplicaState.EXITED if self.was_ready else ReplicaState.FAILED
        self.status = replace(
            self.status,
            state=state,
            ended_at=now,
            exit_code=end.exit_code,
            reason=end.reason,
            message=end.message,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a replica ended: a reason word, and a text for the app's owner."""

    exit_code: int | None
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known once the process is gone."""

    exit_code: int
    last_words: str
    oom_kills: int
    memory_mb: int
    was_ready: bool
    was_stopped: bool
    timed_out_secs: float = 0.0


def judge(evidence: Evidence) -> End:
    """Return the reason and the text. The first that holds: asked to, too slow, memory, own
    exit."""
    code = evidence.exit_code
    words = evidence.last_words
    if evidence.was_stopped:
        return End(exit_code=code, reason="Stopped")
    if evidence.timed_out_secs:
        message = f"not ready within {evidence.timed_out_secs:g} s"
        return End(exit_code=code, reason="StartTimeout", message=_join(message, words))
    if code == -9 and evidence.oom_kills:
        message = f"killed by the kernel at its memory limit of {evidence.memory_mb} MB"
        return End(exit_code=code, reason="OutOfMemory", message=_join(message, words))
    if not evidence.was_ready and words.startswith(("bwrap: ", "setpriv: ", "sh: ")):
        return End(exit_code=code, reason="SandboxFailed", message="the sandbox was not made")
    if not evidence.was_ready or code == 5:
        reason = _EXIT_REASONS.get(code, "Crashed")
    else:
        reason = "Crashed" if code else "Exited"
    return End(exit_code=code, reason=reason, message=words or _exit_text(code))


def _exit_text(code: int) -> str:
    return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _join(message: str, words: str) -> str:
    return f"{message}\n{words}" if words else message
