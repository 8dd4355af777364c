"""A fake of ports.builder: builds that end when and how a test says."""

import asyncio
import hashlib
from dataclasses import dataclass, field

from ignite.domain.builds import Build
from ignite.ports.builder import BuildResult, LogSink


@dataclass(slots=True, kw_only=True)
class FakeBuilder:
    """While `gate` is clear builds run on; each raises the next of `failures`, if there is one."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)
    lines: list[str] = field(default_factory=lambda: ["compiling"])
    built: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def build(self, build: Build, log: LogSink) -> BuildResult:
        self.built.append(build.id)
        self.running[build.id] = self.running.get(build.id, 0) + 1
        assert self.running[build.id] == 1, "a build runs twice at once"
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            for line in self.lines:
                await log("stdout", line)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(build.id)
            raise
        finally:
            del self.running[build.id]
        if self.failures:
            raise self.failures.pop(0)
        artifact = hashlib.sha256(build.code.blob.encode()).hexdigest()
        return BuildResult(artifact=artifact, runtime_version="3.11.7")
