"""Compiles by the real spawner: what they get, what they leave, and how they are bounded."""

import asyncio
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.support.spawner import USER, Client, Spawner, client, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.sandbox.cgroups import ControlGroups

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap]


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    made = Spawner(
        tmp_path_factory.mktemp("builds") / "data",
        env={"IGNITE__BUILD__ARTIFACT_BYTES": str(8 * 1024 * 1024)},
    )
    made.start()
    yield made
    made.close()


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-ec", script]


class TestResult:
    async def test_lines_come_and_then_the_artifact_is_there(
        self, spawner: Spawner, client: Client
    ) -> None:
        spec = client.build_spec(
            command=shell("cp /src/a /out/b; mkdir /out/d; ln -s ../b /out/d/l; echo made; ls /x")
        )
        (Path(spec.source_path) / "a").write_text("hello")
        lines, result = await _run(client, spec)
        assert ("stdout", "made") in lines
        assert result.reason == "CompileFailed"  # ls /x
        assert "/x" in result.message
        spec = client.build_spec(
            command=shell("cp /src/a /out/b; mkdir /out/d; ln -s ../b /out/d/l; echo made")
        )
        (Path(spec.source_path) / "a").write_text("hello")
        lines, result = await _run(client, spec)
        assert result.succeeded, result
        out = Path(spec.output_path)
        assert (out / "d" / "l").read_text() == "hello"
        assert stat.S_IMODE((out / "b").stat().st_mode) == 0o644
        assert stat.S_IMODE((out / "d").stat().st_mode) == 0o755
        owner = pwd.getpwnam(USER)
        for path in (out, out / "b", out / "d"):
            assert (path.stat().st_uid, path.stat().st_gid) == (owner.pw_uid, owner.pw_gid)
        assert result.runtime_version.count(".") == 2

    async def test_the_interpreter_is_the_one_asked_for(self, client: Client) -> None:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        report = await client.stub.GetSandboxReport(pb.GetSandboxReportRequest())
        for found in report.interpreters:
            runtime = pb.LanguageRuntime(language="python", version=found.version)
            lines, result = await client.build(
                command=["{python}", "-I", "-c", code], runtime=runtime
            )
            assert lines == [("stdout", found.version)]
            assert result.runtime_version == found.full_version

    async def test_uv_is_there(self, client: Client) -> None:
        lines, result = await client.build(command=["/ignite/uv", "--version"])
        assert result.succeeded
        assert lines[0][1].startswith("uv ")

    async def test_a_failure_leaves_the_output_empty(self, client: Client) -> None:
        spec = client.build_spec(command=shell("touch /out/x; exit 3"))
        _, result = await _run(client, spec)
        assert (result.succeeded, result.exit_code) == (False, 3)
        assert os.listdir(spec.output_path) == []

    async def test_its_work_is_removed(self, spawner: Spawner, client: Client) -> None:
        await client.build(command=shell("touch /build/x /out/y"))
        assert list((spawner.layout.replicas / ".builds").iterdir()) == []


class TestBounds:
    async def test_time(self, client: Client) -> None:
        began = time.monotonic()
        _, result = await client.build(command=shell("sleep 60"), timeout_secs=1)
        assert result.reason == "Timeout"
        assert time.monotonic() - began < 10

    async def test_memory(self, client: Client) -> None:
        code = "x = [bytearray(1 << 20) for _ in range(400)]"
        _, result = await client.build(command=["{python}", "-c", code], memory_mb=64)
        assert result.reason == "OutOfMemory"

    async def test_size_of_the_artifact(self, client: Client) -> None:
        _, result = await client.build(command=shell("head -c 9000000 /dev/zero > /out/x"))
        assert result.reason == "ArtifactRefused"
        assert "bytes" in result.message

    async def test_disk_while_it_runs(self, client: Client) -> None:
        began = time.monotonic()
        _, result = await client.build(
            command=shell("head -c 40000000 /dev/zero > /build/x; sleep 60")
        )
        assert result.reason == "DiskFull"
        assert time.monotonic() - began < 20

    async def test_a_flood_of_lines_is_cut(self, client: Client) -> None:
        lines, result = await client.build(command=shell("yes | head -n 1000000"))
        assert result.succeeded
        assert sum(len(text) for _, text in lines) < 6 * 1024 * 1024
        assert any(stream == "system" for stream, _ in lines)

    async def test_ending_the_call_ends_the_compile(self, spawner: Spawner, client: Client) -> None:
        spec = client.build_spec(command=shell("echo began; sleep 1000"))
        call = client.stub.RunBuild(pb.RunBuildRequest(spec=spec))
        async for response in call:
            assert response.line.message == "began"
            break
        work = spawner.layout.replicas / ".builds" / spec.build_id
        assert work.exists()
        call.cancel()
        # Its folders go last, when nothing runs in them any more.
        await asyncio.to_thread(_wait_until_gone, work)
        assert not [group for group in _groups(spawner) if spec.build_id in group]


class TestRefusedOutput:
    @pytest.mark.parametrize(
        "script",
        [
            "ln -s /etc/passwd /out/x",
            "ln -s ../x /out/x",
            "mkdir /out/a; ln -s ../../x /out/a/x",
            "mkdir -p /out/a/b; ln -s a/b /out/l; ln -s l/../../.. /out/x",
            "mkfifo /out/x",
        ],
    )
    async def test_what_leads_out_or_is_no_file(self, client: Client, script: str) -> None:
        spec = client.build_spec(command=shell(script))
        _, result = await _run(client, spec)
        assert result.reason == "ArtifactRefused"
        assert os.listdir(spec.output_path) == []

    async def test_set_uid_bits_are_taken_away(self, client: Client) -> None:
        spec = client.build_spec(command=shell("touch /out/x; chmod 6777 /out/x"))
        _, result = await _run(client, spec)
        assert result.succeeded
        assert stat.S_IMODE((Path(spec.output_path) / "x").stat().st_mode) == 0o755


class TestInside:
    async def test_the_environment_holds_nothing_of_ours(self, client: Client) -> None:
        lines, _ = await client.build(command=["/usr/bin/env"], build_args={"TARGET": "x"})
        found = dict(text.split("=", 1) for _, text in lines)
        assert found["HOME"] == "/build"
        assert found["IGNITE_BUILD_ARG_TARGET"] == "x"
        assert not [name for name in found if name.startswith("IGNITE__")]
        assert "PYTHONPATH" not in found

    async def test_source_is_read_only_and_privileges_are_gone(self, client: Client) -> None:
        lines, result = await client.build(
            command=shell("touch /src/x || echo refused; grep CapEff /proc/self/status; id -u")
        )
        assert result.succeeded
        texts = [text for _, text in lines]
        assert "refused" in texts
        assert "CapEff:\t0000000000000000" in texts
        assert int(texts[-1]) >= 240_000

    async def test_the_cache_is_kept_for_one_organisation(self, client: Client) -> None:
        await client.build(command=shell("echo mine > /cache/x"), organization_id="org-a")
        lines, _ = await client.build(command=shell("cat /cache/x"), organization_id="org-a")
        assert lines == [("stdout", "mine")]
        lines, _ = await client.build(command=shell("ls /cache"), organization_id="org-b")
        assert lines == []


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("build_id", "a/b"),
            ("organization_id", ".."),
            ("command", []),
            ("timeout_secs", 0),
            ("memory_mb", 1),
            ("source_path", "/etc"),
            ("output_path", "/etc/x"),
        ],
    )
    async def test_a_wrong_field_is_refused(
        self, client: Client, field: str, value: object
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.build(**{"command": shell("true"), field: value})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_an_output_that_holds_something_is_not_replaced(self, client: Client) -> None:
        spec = client.build_spec(command=shell("touch /out/x"))
        (Path(spec.output_path) / "kept").touch()
        _, result = await _run(client, spec)
        assert result.reason == "OutputUnusable"
        assert os.listdir(spec.output_path) == ["kept"]


async def _run(client: Client, spec: pb.BuildSpec) -> tuple[list[tuple[str, str]], pb.BuildResult]:
    lines: list[tuple[str, str]] = []
    async for response in client.stub.RunBuild(pb.RunBuildRequest(spec=spec)):
        if response.WhichOneof("output") == "result":
            return lines, response.result
        lines.append((response.line.stream, response.line.message))
    raise AssertionError("no result")


def _wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists():
        assert time.monotonic() < deadline, f"{path} stays"
        time.sleep(0.02)


def _groups(spawner: Spawner) -> list[str]:
    return [group.name for group in ControlGroups(spawner.layout.run.name).find()]
