"""The server's own life: killed, started again, started twice, stopped."""

import os
import signal
import time
from pathlib import Path

from tests.e2e.conftest import HELLO
from tests.e2e.server import STOP_SECS, Server, processes_of


def wait_until_gone(data: Path) -> None:
    """Wait until no process of the installation is left."""
    ends = time.monotonic() + STOP_SECS
    while left := processes_of(data):
        assert time.monotonic() < ends, f"still there: {left}"
        time.sleep(0.05)


class TestKill:
    def test_everything_is_there_and_served_after_kill_9(self, fresh: Server) -> None:
        fresh.start()
        fresh.deploy("hello", HELLO)
        arguments = ("--type", "git", "--username", "bot", "--token", "kept")
        kept = fresh.cli("secret", "create", "slot", *arguments)
        assert kept.returncode == 0, kept.stderr
        assert fresh.cli("invoke", "hello", "-p", "a").returncode == 0
        fresh.kill()
        wait_until_gone(fresh.data)
        fresh.start()
        answer = fresh.http("POST", "/", b"again", host=fresh.host_of("hello"))
        assert answer.status == 200, f"{answer}\n{fresh.words()}"
        assert answer.json()["hello"] == "again"
        got = fresh.cli("secret", "get", "slot")
        assert "kept" in got.stdout, f"{got.stderr}\n{fresh.words()}"
        assert fresh.cli("version", "list", "hello").stdout.count("\n") == 2

    def test_role_that_is_killed_comes_back_while_the_app_serves(
        self, server: Server, hello: str
    ) -> None:
        killed = [pid for pid in processes_of(server.data) if role_of(pid) == "api"]
        assert killed, "no api process found"
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        answer = server.http("POST", "/", b"x", host=server.host_of(hello))
        assert answer.status == 200
        ends = time.monotonic() + 30
        while server.cli("app", "list").returncode != 0:
            assert time.monotonic() < ends, server.words()


class TestTwoServers:
    def test_second_server_on_the_same_data_is_refused_in_one_line(self, server: Server) -> None:
        done = server.cli("serve", "--data-dir", str(server.data))
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1
        assert str(server.pid) in done.stderr


class TestStop:
    def test_sigterm_stops_everything_and_exits_0(self, fresh: Server) -> None:
        fresh.start()
        fresh.deploy("hello", HELLO)
        assert fresh.stop() == 0
        wait_until_gone(fresh.data)
        assert not (fresh.data / "connection.json").exists()
        fresh.start()
        assert fresh.cli("invoke", "hello", "-p", "a").returncode == 0


class TestDoctor:
    def test_doctor_names_the_parts_of_this_machine(self, server: Server) -> None:
        done = server.cli("doctor")
        assert done.returncode in (0, 1)
        assert "Traceback" not in done.stderr
        for part in ("python", "postgres", "envoy"):
            assert part in done.stdout.lower()


def role_of(pid: int) -> str:
    """Return which part of the server a process is: `python -m ignite <role>`."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("ignite") + 1] if "ignite" in words else ""
