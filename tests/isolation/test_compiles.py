"""Compiles that attack: everything that runs when a package is built is a tenant's code."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import io
import os
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from tests.isolation.rig import Served, neighbour_of, post
from tests.isolation.test_trees import DEEP, TREES
from tests.support.spawner import Client, Spawner, client, needs_bwrap, needs_root

from ignite.internal.v1 import replicas_pb2 as pb
from ignite.runtimes.python.recipe import PythonRecipe
from ignite.sandbox.tmpfs import is_mount_point

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap]

ARTIFACT_BYTES = 16 * 1024 * 1024
LOG_BYTES = 256 * 1024
RECIPE = PythonRecipe()
HANDLER = "def handler(body, context):\n    return str(body)\n"
# A build back-end in the tree: it needs no index, and runs whatever its author likes.
BACKEND = """
import os, sys, zipfile
def attack():
{attack}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    attack()
    name = "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("evil/__init__.py", "")
        wheel.writestr("evil.pth", "import os; os.environ['EVIL'] = 'ran'")
        about = "Name: evil\\nVersion: 1\\n"
        wheel.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\\n" + about)
        about = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("evil-1.dist-info/WHEEL", "Wheel-Version: 1.0\\n" + about)
        wheel.writestr("evil-1.dist-info/RECORD", "")
    return name
"""
PROJECT = """
[project]
name = "evil"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    made = Spawner(
        tmp_path_factory.mktemp("spawner") / "data",
        env={
            "IGNITE__BUILD__ARTIFACT_BYTES": str(ARTIFACT_BYTES),
            "IGNITE__BUILD__LOG_BYTES": str(LOG_BYTES),
        },
    )
    made.start()
    yield made
    made.close()


@pytest.fixture
async def neighbour(spawner: Spawner, client: Client) -> AsyncIterator[Served]:
    async with neighbour_of(spawner, client) as made:
        yield made


def package(attack: str) -> dict[str, str]:
    """Return an app with a package that attacks while it is built."""
    lines = "\n".join(f"    {line}" for line in dedent(attack).strip().splitlines())
    return {
        "handler.py": HANDLER,
        "requirements.txt": "./evil\n",
        "evil/pyproject.toml": PROJECT,
        "evil/backend.py": BACKEND.format(attack=lines),
    }


async def compiled(
    spawner: Spawner, client: Client, files: Mapping[str, str | bytes], **fields: Any
) -> tuple[list[str], pb.BuildResult, Path]:
    """Compile an app as a deploy does; nothing may be left but the artifact."""
    spec = client.build_spec(
        command=RECIPE.command(ARTIFACT_BYTES), **{"timeout_secs": 60, **fields}
    )
    for name, content in files.items():
        path = Path(spec.source_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    lines: list[str] = []
    async for response in client.stub.RunBuild(pb.RunBuildRequest(spec=spec)):
        if response.WhichOneof("output") == "result":
            result = response.result
            break
        lines.append(response.line.message)
    assert os.listdir(spawner.layout.replicas / ".builds") == []
    assert not [folder for folder in spawner.groups() if spec.build_id in folder.name]
    assert not is_mount_point(Path(spec.output_path))
    return lines, result, Path(spec.output_path)


def why(result: pb.BuildResult) -> str:
    """Return the reason that the app's owner is given."""
    known = RECIPE.failures.get(result.exit_code)
    return known.reason if known else str(result.reason)


class TestReach:
    async def test_a_back_end_sees_nothing_of_ours_and_writes_nowhere_else(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        paths = [spawner.data, spawner.layout.run, spawner.layout.spawner_socket, "/root", "/home"]
        attack = f"""
            found = [path for path in {[str(path) for path in paths]} if os.path.exists(path)]
            for path in ('/x', '/usr/x', '/etc/x', '/src/handler.py', '/src/evil/x', '/ignite/x'):
                try:
                    open(path, 'a').write('x')
                    found.append(path)
                except OSError:
                    pass
            found += [name for name in os.environ if name.startswith('IGNITE__')]
            pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
            found += [pid for pid in pids if pid > 64]
            print('FOUND', found, file=sys.stderr, flush=True)
            assert not found, found
        """
        lines, result, out = await compiled(spawner, client, package(attack))
        assert result.succeeded, lines
        assert (out / ".deps" / "evil" / "__init__.py").exists()
        await neighbour.is_served()

    async def test_a_setup_py_runs_in_the_same_cage(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        # What stands in for setuptools does what it does with a setup.py: it runs it.
        tools = _wheel(
            "setuptools",
            "70.0.0",
            {
                "setuptools/__init__.py": "",
                "setuptools/build_meta.py": "class _Legacy:\n"
                "    def build_wheel(self, folder, config_settings=None, *more):\n"
                "        exec(open('setup.py').read(), {'__name__': '__main__'})\n"
                "        raise SystemExit('no wheel')\n"
                "__legacy__ = _Legacy()\n",
            },
        )
        files: dict[str, str | bytes] = {
            "handler.py": HANDLER,
            "requirements.txt": "--no-index\n--find-links ./wheels\n./evil\n",
            "wheels/setuptools-70.0.0-py3-none-any.whl": tools,
            "evil/setup.py": f"import os, sys\nprint('RAN', os.path.exists({str(spawner.data)!r}), "
            "os.getuid() > 0, file=sys.stderr, flush=True)\n",
        }
        lines, result, out = await compiled(spawner, client, files)
        assert [line for line in lines if "RAN False True" in line], lines
        assert why(result) == "DependencyInstallFailed"
        assert not out.exists() or os.listdir(out) == []
        await neighbour.is_served()

    async def test_signals_reach_its_own_alone(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        assert spawner.process is not None
        attack = f"""
            for pid in ({spawner.process.pid}, {os.getpid()}):
                try:
                    os.kill(pid, 0)
                    print('REACHED', pid, file=sys.stderr)
                except OSError:
                    pass
            os.kill(-1, 9)
        """
        lines, result, _ = await compiled(spawner, client, package(attack))
        assert not result.succeeded
        assert not [line for line in lines if "REACHED" in line]
        await neighbour.is_served()

    async def test_links_in_the_artifact_do_not_lead_out(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        for target in ("/etc/passwd", "../../../../etc/passwd", str(spawner.data)):
            attack = f"os.symlink({target!r}, '/out/link')"
            _, result, out = await compiled(spawner, client, package(attack))
            assert why(result) == "ArtifactRefused"
            assert not os.path.lexists(out / "link")
        await neighbour.is_served()

    async def test_pth_files_run_neither_in_the_compile_nor_in_the_app(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        files = package("pass")
        files["handler.py"] = (
            "import os, evil\n"
            "def handler(body, context):\n    return os.environ.get('EVIL', 'clean')\n"
        )
        files["own.pth"] = "import os; os.environ['EVIL'] = 'ran'\n"
        files["sitecustomize.py"] = "import os; os.environ['EVIL'] = 'ran'\n"
        lines, result, out = await compiled(spawner, client, files)
        assert result.succeeded, lines
        assert (out / ".deps" / "evil.pth").exists()
        status = await client.ready(str(out))
        assert post(status.unix_path, b"") == b"clean"
        await client.stop(status.replica_id)
        await neighbour.is_served()


class TestBounds:
    async def test_a_fork_bomb(self, spawner: Spawner, client: Client, neighbour: Served) -> None:
        attack = """
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        """
        _, result, _ = await compiled(spawner, client, package(attack), timeout_secs=4)
        assert why(result) in ("Timeout", "DependencyInstallFailed", "OutOfMemory"), result
        await neighbour.is_served()

    async def test_a_memory_bomb(self, spawner: Spawner, client: Client, neighbour: Served) -> None:
        attack = "kept = [bytearray(1 << 20) for _ in range(4000)]"
        _, result, _ = await compiled(spawner, client, package(attack), memory_mb=128)
        # The kernel takes the largest, and that is the back-end: its builder says the rest.
        assert why(result) in ("OutOfMemory", "DependencyInstallFailed"), result
        await neighbour.is_served()

    @pytest.mark.parametrize("place", ["/build", "/out"])
    async def test_a_full_disk(
        self, spawner: Spawner, client: Client, neighbour: Served, place: str
    ) -> None:
        attack = f"""
            import time
            with open('{place}/x', 'wb') as file:
                for _ in range({4 * ARTIFACT_BYTES >> 20}):
                    file.write(bytes(1 << 20))
            time.sleep(1000)
        """
        _, result, _ = await compiled(spawner, client, package(attack))
        assert why(result) == "DiskFull", result
        await neighbour.is_served()

    async def test_a_disk_full_of_names(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        attack = f"""
            import time
            for number in range({4 * ARTIFACT_BYTES // 4096}):
                os.close(os.open(f'/build/{{number}}', os.O_CREAT | os.O_WRONLY))
            time.sleep(1000)
        """
        _, result, _ = await compiled(spawner, client, package(attack))
        assert why(result) == "DiskFull", result
        await neighbour.is_served()

    async def test_a_flood_of_lines(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        attack = """
            data = (b'x' * 99 + b'\\n') * 640
            for _ in range(400):
                os.write(2, data)
            os.write(2, bytes(range(256)) * 64)
        """
        lines, result, _ = await compiled(spawner, client, package(attack))
        assert result.succeeded, lines[-3:]
        assert sum(len(line) for line in lines) <= LOG_BYTES + 4096
        await neighbour.is_served()

    async def test_one_without_an_end(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        attack = """
            import signal
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            while True:
                pass
        """
        _, result, _ = await compiled(spawner, client, package(attack), timeout_secs=3)
        assert why(result) == "Timeout", result
        await neighbour.is_served()

    async def test_what_it_leaves_running_ends_with_it(
        self, spawner: Spawner, client: Client, neighbour: Served
    ) -> None:
        attack = """
            for _ in range(5):
                if os.fork() == 0:
                    os.setsid()
                    os.closerange(0, 64)
                    if os.fork():
                        os._exit(0)
                    while True:
                        pass
        """
        before = spawner.pids("build.")
        lines, result, _ = await compiled(spawner, client, package(attack))
        assert result.succeeded, lines
        assert spawner.pids("build.") == before == set()
        await neighbour.is_served()


def _wheel(name: str, version: str, files: Mapping[str, str]) -> bytes:
    """Return a wheel as an index would have it."""
    info = f"{name}-{version}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as wheel:
        for path, text in {**files, **about}.items():
            wheel.writestr(path, text)
    return made.getvalue()


@pytest.mark.parametrize("tree", TREES)
async def test_a_compiles_tree_goes_with_it(spawner: Spawner, client: Client, tree: str) -> None:
    async with neighbour_of(spawner, client) as neighbour:
        for place in ("/build", "/cache"):
            script = TREES[tree].format(place=place)
            _, result = await client.build(
                command=["{python}", "-c", script], organization_id=f"of {tree}".replace(" ", "-")
            )
            assert result.succeeded or "deep" in result.message, result
            await neighbour.is_served()
        assert os.listdir(spawner.layout.replicas / ".builds") == []


async def test_a_deep_artifact_is_refused(spawner: Spawner, client: Client) -> None:
    _, result = await client.build(command=["{python}", "-c", DEEP.format(place="/out")])
    # Which depends on whether somebody looked while it was dug.
    assert result.reason in ("ArtifactRefused", "DiskFull")
    assert "deep" in result.message
    assert os.listdir(spawner.layout.replicas / ".builds") == []


async def test_a_compile_that_digs_on_is_ended(spawner: Spawner, client: Client) -> None:
    script = DEEP.format(place="/build") + "import time; time.sleep(1000)"
    _, result = await client.build(command=["{python}", "-c", script])
    assert (result.reason, result.succeeded) == ("DiskFull", False)
    assert "deep" in result.message
