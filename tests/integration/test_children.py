"""Children: real processes, real pipes, real signals."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ignite.children import Backoff, Child, ChildFailed, ChildSpec

FAST = Backoff(first_secs=0.01, most_secs=0.05, stable_secs=60, first_attempts=2)

SERVE = """
import pathlib, signal, sys, time
pathlib.Path(sys.argv[1]).write_text("up")
signal.pause()
"""


def spec(tmp_path: Path, code: str, *args: str, **changes: object) -> ChildSpec:
    flag = tmp_path / "up"

    async def probe() -> bool:
        return flag.exists()

    async def prepare() -> None:
        flag.unlink(missing_ok=True)

    base = ChildSpec(
        name="sample",
        argv=(sys.executable, "-I", "-u", "-c", code, str(flag), *args),
        env={},
        probe=probe,
        prepare=prepare,
        log_path=tmp_path / "logs" / "sample.log",
        stop_grace_secs=5,
        start_timeout_secs=20,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # values differ by field


@asynccontextmanager
async def running(child: Child) -> AsyncIterator["asyncio.Task[None]"]:
    up = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(child.run(up.set))
        await up.wait()
        yield task
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is another process
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_child_gets_exactly_the_environment_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IGNITE_TEST_LEAK", "must not be seen")
    code = "import os; print(sorted(os.environ))\n" + SERVE
    lines: list[str] = []
    child = Child(
        spec(tmp_path, code, env={"ONE": "1", "LC_ALL": "C"}),
        on_line=lambda _name, line: lines.append(line),
    )
    async with running(child):
        await until(lambda: bool(lines))
    assert lines[0] == "['LC_ALL', 'ONE']"
    assert (tmp_path / "logs/sample.log").read_text().startswith("['LC_ALL', 'ONE']\n")


async def test_killed_child_is_restarted_with_growing_pauses_and_reported(tmp_path: Path) -> None:
    states: list[bool] = []
    child = Child(spec(tmp_path, SERVE), on_state=lambda _name, up: states.append(up), backoff=FAST)
    async with running(child) as task:
        for life in range(1, 4):
            first = child.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda before=life: child.starts > before and child.is_up)  # type: ignore[misc]
            assert child.pid != first
            assert not task.done()
    assert states == [True, False, True, False, True, False, True, False]


def test_back_off_doubles_up_to_its_bound_with_jitter() -> None:
    backoff = Backoff(first_secs=1, factor=2, most_secs=10)
    for failures, middle in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (60, 10)):
        waits = {backoff.delay(failures) for _ in range(50)}
        assert len(waits) > 1
        assert all(0.75 * middle <= wait <= 1.25 * middle for wait in waits)


async def test_child_that_never_serves_fails_with_its_last_lines(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "import sys; sys.exit('no such setting: x')"), backoff=FAST)
    with pytest.raises(ChildFailed, match=r"sample exited with 1\n(.|\n)*no such setting: x"):
        await asyncio.wait_for(child.run(lambda: None), 30)
    assert child.starts == 2


async def test_missing_program_fails_by_name(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "", argv=("/nonexistent/program",)), backoff=FAST)
    with pytest.raises(ChildFailed, match="No such file or directory: /nonexistent/program"):
        await asyncio.wait_for(child.run(lambda: None), 30)


async def test_preparation_that_fails_counts_as_a_failed_start(tmp_path: Path) -> None:
    async def prepare() -> None:
        raise TimeoutError("the old one does not go away")

    child = Child(spec(tmp_path, SERVE, prepare=prepare), backoff=FAST)
    with pytest.raises(ChildFailed, match="could not be prepared: the old one does not go away"):
        await asyncio.wait_for(child.run(lambda: None), 30)


async def test_preparation_that_fails_later_is_tried_again(tmp_path: Path) -> None:
    base = spec(tmp_path, SERVE)
    calls = 0

    async def prepare() -> None:
        nonlocal calls
        calls += 1
        await base.prepare()
        if 1 < calls < 5:
            raise OSError("not now")

    child = Child(replace(base, prepare=prepare), backoff=FAST)
    async with running(child):
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.is_up and child.pid != first)
    assert calls == 5


async def test_child_that_runs_but_never_passes_its_probe_is_stopped(tmp_path: Path) -> None:
    started: list[int] = []

    async def never() -> bool:
        if child.pid and child.pid not in started:
            started.append(child.pid)
        return False

    child = Child(
        spec(tmp_path, "import signal; signal.pause()", probe=never, start_timeout_secs=0.3),
        backoff=FAST,
    )
    with pytest.raises(ChildFailed, match=r"did not serve within 0\.3 s"):
        await asyncio.wait_for(child.run(lambda: None), 30)
    assert len(started) == 2
    assert not any(alive(pid) for pid in started)


async def test_stop_uses_the_stop_signal_and_lets_the_child_finish(tmp_path: Path) -> None:
    code = """
import pathlib, signal, sys
def bye(*_):
    print("finished"); sys.exit(0)
signal.signal(signal.SIGINT, bye)
pathlib.Path(sys.argv[1]).write_text("up")
while True: signal.pause()
"""
    child = Child(spec(tmp_path, code, stop_signal=signal.SIGINT))
    async with running(child):
        pass
    assert (tmp_path / "logs/sample.log").read_text() == "finished\n"


STUBBORN = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if (pid := os.fork()) == 0:
    pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
    while True: signal.pause()
while not pathlib.Path(sys.argv[2]).exists(): pass
pathlib.Path(sys.argv[1]).write_text("up")
while True: signal.pause()
"""


async def test_stop_kills_the_whole_group_after_the_grace(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    child = Child(spec(tmp_path, STUBBORN, str(grandchild), stop_grace_secs=0.2))
    async with running(child):
        pid = child.pid
    assert pid is not None
    await until(lambda: not alive(pid) and not alive(int(grandchild.read_text())))


async def test_grandchildren_die_with_a_child_that_was_killed(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    child = Child(spec(tmp_path, STUBBORN, str(grandchild), stop_grace_secs=0.2), backoff=FAST)
    async with running(child):
        first = int(grandchild.read_text())
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: not alive(first))


async def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, pathlib, sys
from ignite.children import Child, ChildSpec
async def probe(): return True
async def main():
    child = Child(ChildSpec(name="c", argv=("/bin/sleep", "1000"), env={}, probe=probe,
                            log_path=pathlib.Path(sys.argv[1]) / "c.log"))
    await child.run(lambda: print(child.pid, flush=True))
asyncio.run(main())
"""
    parent = subprocess.Popen(  # noqa: ASYNC220 - waited for by killing it
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    await until(lambda: not alive(pid))
    parent.stdout.close()


async def test_log_is_rotated_by_size_and_keeps_a_bounded_number(tmp_path: Path) -> None:
    code = "for i in range(4000): print(f'{i:099}')\n" + SERVE
    lines: list[str] = []
    child = Child(
        spec(tmp_path, code, log_rotate_bytes=100_000, log_rotate_count=2),
        on_line=lambda _name, line: lines.append(line),
    )
    async with running(child):
        await until(lambda: len(lines) == 4000)
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["sample.log", "sample.log.1", "sample.log.2"]
    assert all(file.stat().st_size <= 100_000 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert (tmp_path / "logs/sample.log").read_text().endswith(f"{3999:099}\n")


async def test_log_that_cannot_be_written_does_not_stop_the_child(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/sample.log").symlink_to(tmp_path / "elsewhere")
    lines: list[str] = []
    child = Child(
        spec(tmp_path, "print('x' * 300000)\n" + SERVE),
        on_line=lambda _name, line: lines.append(line),
    )
    async with running(child):
        await until(lambda: sum(map(len, lines)) == 300_000)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change user")
async def test_child_drops_user_group_and_groups(tmp_path: Path) -> None:
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())\nwhile True: pass"
    lines: list[str] = []

    async def wrote() -> bool:
        return bool(lines)

    child = Child(
        spec(
            tmp_path,
            "",
            argv=("/usr/bin/python3", "-I", "-u", "-c", code),
            uid=65534,
            gid=65533,
            probe=wrote,
        ),
        on_line=lambda _name, line: lines.append(line),
    )
    async with running(child):
        pass
    assert lines == ["(65534, 65534, 65534) (65533, 65533, 65533) []"]
