"""`ignite app deploy`: idempotent, and honest about how it ends."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.ignite_server import TOKEN, FakeServer

from ignite.cli.progress import Progress
from ignite.v1 import ignite_common_pb2 as common

from .conftest import Cli


@pytest.fixture
def code(home: Path) -> Path:
    folder = home / "hello"
    folder.mkdir()
    (folder / "handler.py").write_text("def handler(payload, ctx):\n    return payload\n")
    return folder


class TestDeploy:
    def test_new_app_is_created_published_and_its_url_printed(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        result = cli("app", "deploy", "hello", "--code", str(code), "--env", "A=1", "-t", "medium")
        assert result.code == 0
        assert result.out == "http://hello-acme.localhost:8080\n"
        meta = server.compute.apps[("acme", "hello")].meta
        assert (meta.active_version, dict(meta.env)) == (1, {"A": "1"})
        assert meta.resource_tier == common.RESOURCE_TIER_MEDIUM

    def test_steps_and_compile_log_are_plain_lines_without_a_terminal(
        self, cli: Cli, code: Path
    ) -> None:
        result = cli("app", "deploy", "hello", "--code", str(code))
        lines = [line for line in result.err.splitlines() if line.strip()]
        assert "    resolving" in lines
        assert any(line.startswith("✓ Publish version 1  ") for line in lines)
        assert "\x1b" not in result.err

    def test_unchanged_code_is_not_published_again(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        cli("app", "deploy", "hello", "--code", str(code))
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert result.code == 0
        assert len(server.compute.called("PublishDraft")) == 1
        assert len(server.compute.called("UpdateAppConfig")) == 0
        assert "version 1 stays" in result.err

    def test_changed_code_becomes_the_next_version(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        cli("app", "deploy", "hello", "--code", str(code))
        (code / "handler.py").write_text("def handler(payload, ctx):\n    return b'2'\n")
        assert cli("app", "deploy", "hello", "--code", str(code)).code == 0
        assert server.compute.apps[("acme", "hello")].meta.active_version == 2

    def test_another_python_is_another_version(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        cli("app", "deploy", "hello", "--code", str(code), "--python-version", "3.11")
        cli("app", "deploy", "hello", "--code", str(code), "--python-version", "3.12")
        assert server.compute.apps[("acme", "hello")].meta.active_version == 2

    def test_changed_configuration_alone_publishes_nothing(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        cli("app", "deploy", "hello", "--code", str(code), "--memory", "300", "--cpu", "100")
        cli("app", "deploy", "hello", "--code", str(code), "--memory", "512")
        (update,) = server.compute.called("UpdateAppConfig")
        assert list(update.update_mask.paths) == ["limits"]
        assert (update.limits.memory_mb, update.limits.cpu_millicores) == (512, 100)
        assert len(server.compute.called("PublishDraft")) == 1

    def test_failing_compile_ends_with_log_and_reason(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        server.behaviour.compile_error = "no package named nope"
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert result.code == 1
        assert "    installing" in result.err
        last = result.err.splitlines()[-1]
        assert last == "Error: the compile failed: no package named nope (DependencyNotFound)"
        assert not server.compute.called("PublishDraft")

    def test_compile_that_failed_before_shows_the_end_of_its_stored_log(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        server.behaviour.compile_error = "no package named nope"
        server.behaviour.streams_log = False
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert result.code == 1
        assert "    stored 29" in result.err
        assert "stored 9\n" not in result.err

    def test_failing_start_names_the_version_and_the_reason(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        server.behaviour.start_error = "ImportError: no module x"
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert result.code == 1
        assert result.out == ""
        last = result.err.splitlines()[-1]
        assert last == "Error: version 1 failed: ImportError: no module x (StartFailed)"

    def test_who_was_overtaken_does_not_wait(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        cli("app", "deploy", "hello", "--code", str(code))
        (code / "newer.py").write_text("NEWER = True\n")
        server.behaviour.is_overtaken = True
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert result.code == 1
        last = result.err.splitlines()[-1]
        assert last == "Error: version 1 was asked for before version 2 served (Superseded)"

    def test_trace_of_the_app_stays_readable(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        server.behaviour.start_error = "Traceback:\n  File x\nValueError: no"
        result = cli("app", "deploy", "hello", "--code", str(code))
        assert "    Traceback:\n      File x\n" in result.err
        assert (
            result.err.splitlines()[-1] == "Error: version 1 failed: ValueError: no (StartFailed)"
        )

    def test_failed_version_is_published_again_although_the_code_is_the_same(
        self, cli: Cli, server: FakeServer, code: Path
    ) -> None:
        server.behaviour.start_error = "no"
        cli("app", "deploy", "hello", "--code", str(code))
        server.behaviour.start_error = ""
        assert cli("app", "deploy", "hello", "--code", str(code)).code == 0
        assert server.compute.apps[("acme", "hello")].meta.active_version == 2

    def test_wait_is_bounded_by_timeout(self, cli: Cli, server: FakeServer, code: Path) -> None:
        server.behaviour.polls_until_active = 10**6
        result = cli("app", "deploy", "hello", "--code", str(code), "--timeout", "700ms")
        assert result.code == 8
        assert result.err.endswith("(DeadlineExceeded)\n")

    def test_image_answers_what_the_server_says(self, cli: Cli) -> None:
        result = cli("app", "deploy", "web", "--image-ref", "registry.example/web:1")
        assert result.code == 1
        assert result.err.splitlines()[-1] == "Error: images are not built yet (NoImages)"

    def test_json_holds_version_and_urls(self, cli: Cli, code: Path) -> None:
        result = cli("app", "deploy", "hello", "--code", str(code), "-o", "json")
        assert result.json() == {
            "appId": "acme/hello",
            "version": 1,
            "published": True,
            "publicUrls": ["http://hello-acme.localhost:8080"],
        }


class TestInterrupt:
    def test_interrupt_after_publishing_says_that_it_goes_on(
        self, server: FakeServer, code: Path, home: Path
    ) -> None:
        server.behaviour.polls_until_active = 10**6
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "IGNITE_API_ENDPOINT": server.address,
            "IGNITE_TOKEN": TOKEN,
            "IGNITE_ORG_NAME": "acme",
        }
        command = [sys.executable, "-m", "ignite", "app", "deploy", "hello", "--code", str(code)]
        run = subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores the signal, and so would the command.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert run.stderr is not None
            for line in run.stderr:
                if line.startswith("✓ Publish"):
                    break
            run.send_signal(signal.SIGINT)
            rest = run.stderr.read()
            assert run.wait(20) == 130
        finally:
            run.kill()
            run.communicate()
        assert "Publishing of version 1 goes on" in rest
        assert "Traceback" not in rest


class TestProgress:
    def test_terminal_sees_the_elapsed_time_move(self) -> None:
        out = io.StringIO()
        with Progress(out, live=True).step("Compile") as step:
            step.line("resolving")
        text = out.getvalue()
        assert "\r\x1b[2K    resolving\n" in text
        assert text.endswith("s\n")
        assert "✓ Compile  0." in text

    def test_failing_step_is_marked(self) -> None:
        out = io.StringIO()
        with pytest.raises(ValueError, match="no"), Progress(out, live=False).step("Compile"):
            raise ValueError("no")
        assert out.getvalue().startswith("✗ Compile  0.")
