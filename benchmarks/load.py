"""The load generator: a process of its own, so that its CPU is not taken for anyone else's.

Raw HTTP/1.1 and gRPC over raw HTTP/2, because client libraries cost more than what they would
measure. Closed loop: every slot sends its next request when the last one is answered. Open loop:
requests are due at fixed times and latency counts from when each was due, so a stall is seen by
all that it delayed. Bounded by time and by count; loopback and unix sockets only.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import uvloop

from benchmarks.rounds import Load, percentiles
from benchmarks.wires import Grpc, Http1, Wire, is_local

DRAIN_SECS = 30.0
TICK_SECS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to send where. `target` is `unix:<path>` or `<loopback>:<port>`.

    `requests` are used in turn. HTTP/1.1: whole requests. gRPC: messages for `method`. `per_sec` 0
    is a closed loop. `total` 0 is bounded by time alone.
    """

    target: str
    requests: tuple[bytes, ...]
    method: str = ""
    authorization: str = ""
    connections: int = 8
    slots: int = 1
    secs: float = 1.5
    total: int = 0
    per_sec: float = 0.0
    ok: tuple[int, ...] = (200,)

    def dump(self) -> bytes:
        """Return the JSON that the process reads."""
        plain = asdict(self) | {"requests": [b64encode(one).decode() for one in self.requests]}
        return json.dumps(plain).encode()

    @classmethod
    def parse(cls, text: bytes) -> "Spec":
        """Return the spec that `dump` wrote."""
        plain = json.loads(text)
        plain["requests"] = tuple(b64decode(one) for one in plain["requests"])
        plain["ok"] = tuple(plain["ok"])
        return cls(**plain)


def generate(spec: Spec) -> Load:
    """Run the load in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=spec.dump(),
        capture_output=True,
        timeout=spec.secs + 3 * DRAIN_SECS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the generator failed: {done.stderr.decode()[-2000:]}")
    return Load(**json.loads(done.stdout))


class Slot(Protocol):
    """A place for one request at a time."""

    def send(self, request: bytes) -> None:
        """Send it; the wire calls `answered` of its owner at the end."""


@dataclass(slots=True)
class Generator:
    """Hands requests to slots and counts what comes back."""

    spec: Spec
    sent: int = 0
    latencies: list[float] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    _due: deque[float] = field(default_factory=deque)
    _idle: deque[Slot] = field(default_factory=deque)
    _began: dict[int, float] = field(default_factory=dict)
    _ends: float = 0.0
    _last: float = 0.0
    _finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> Load:
        """Connect everything, then send until the time or the count is over."""
        wires = await _connect(self)
        slots: list[Slot] = [slot for wire in wires for slot in wire.slots]
        before = _own_cpu_us()
        began = self._last = time.perf_counter()
        self._ends = began + self.spec.secs
        try:
            if self.spec.per_sec:
                self._idle.extend(slots)
                await self._open_loop(began)
            else:
                for slot in slots:
                    self._next(slot)
            async with asyncio.timeout(self.spec.secs + DRAIN_SECS):
                while self._began:
                    await self._finished.wait()
                    self._finished.clear()
        except TimeoutError:
            self.results["unanswered"] += len(self._began)
        finally:
            for wire in wires:
                wire.close()
        return self._load(self._last - began, _own_cpu_us() - before)

    def answered(self, slot: Slot, result: str) -> None:
        """Take the end of a slot's request; `result` is a status, or a word for a failure."""
        now = self._last = time.perf_counter()
        self.latencies.append(now - self._began.pop(id(slot)))
        self.results[result] += 1
        if not self.spec.per_sec:
            self._next(slot)
        elif self._due:
            self._send(slot, self._due.popleft())
        else:
            self._idle.append(slot)
        if not self._began:
            self._finished.set()

    def _next(self, slot: Slot) -> None:
        now = time.perf_counter()
        if now < self._ends and not (self.spec.total and self.sent >= self.spec.total):
            self._send(slot, now)

    def _send(self, slot: Slot, due: float) -> None:
        request = self.spec.requests[self.sent % len(self.spec.requests)]
        self.sent += 1
        self._began[id(slot)] = due
        slot.send(request)

    async def _open_loop(self, began: float) -> None:
        made = 0
        while (now := time.perf_counter()) < self._ends:
            wanted = int((now - began) * self.spec.per_sec)
            if self.spec.total:
                wanted = min(wanted, self.spec.total)
            for number in range(made, wanted):
                due = began + number / self.spec.per_sec
                if self._idle:
                    self._send(self._idle.popleft(), due)
                else:
                    self._due.append(due)
            made = wanted
            await asyncio.sleep(TICK_SECS)

    def _load(self, secs: float, cpu_us: int) -> Load:
        good = sum(self.results[str(status)] for status in self.spec.ok)
        return Load(
            requests=good,
            errors=sum(self.results.values()) - good,
            secs=secs,
            latency_us={k: v * 1e6 for k, v in percentiles(self.latencies).items()},
            cpu_us=cpu_us,
            detail=dict(self.results),
        )


async def _connect(owner: Generator) -> Sequence[Wire]:
    spec = owner.spec
    if not is_local(spec.target):
        raise ValueError(f"load goes to loopback only, not to {spec.target}")
    loop = asyncio.get_running_loop()
    made: list[Wire] = []
    for _ in range(spec.connections):

        def wire() -> Any:
            if spec.method:
                return Grpc(owner.answered, spec.method, spec.authorization, spec.slots)
            return Http1(owner.answered)

        if spec.target.startswith("unix:"):
            path = spec.target.removeprefix("unix:")
            _, protocol = await loop.create_unix_connection(wire, path)
        else:
            host, _, port = spec.target.rpartition(":")
            _, protocol = await loop.create_connection(wire, host, int(port))
        made.append(protocol)
    return made


def _own_cpu_us() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 1e6)


async def _main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = await Generator(Spec.parse(sys.stdin.buffer.read())).run()
    sys.stdout.write(json.dumps(asdict(load)))


if __name__ == "__main__":
    uvloop.run(_main())
