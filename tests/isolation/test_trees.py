"""Trees of folders made to break whoever walks or removes them."""

# ruff: noqa: ASYNC240 - looking at small files is part of what is tested

import os
from pathlib import Path

import pytest
from tests.isolation.rig import PROBE, neighbour_of, spawner
from tests.support.spawner import Client, Spawner, client, needs_bwrap, needs_root

__all__ = ["client", "spawner"]
pytestmark = [needs_root, needs_bwrap]

# Deeper than Python's bound on recursion and than the longest path.
DEEP = """
import os
os.chdir({place!r})
result = 0
try:
    while result < 2500:
        os.mkdir('d'); os.chdir('d'); result += 1
finally:
    os.chdir('/tmp')
"""
TREES = {
    "deep": DEEP,
    "no rights": "import os\nos.makedirs({place!r} + '/a/b/c')\nos.chmod({place!r} + '/a', 0)",
    "names": """
import os
for name in (b'\\xff\\xfe', b'a\\nb', b'.0', b'.1', b'-rf', b'*'):
    os.makedirs({place!r}.encode() + b'/' + name + b'/' + name)
""",
    "links": "import os\nfor n in range(50): os.symlink('/', {place!r} + f'/l{{n}}')",
    "wide": "import os\nfor n in range(1500): os.makedirs({place!r} + f'/w{{n}}/w')",
}


@pytest.mark.parametrize("tree", TREES)
async def test_a_replicas_tree_goes_with_it(spawner: Spawner, client: Client, tree: str) -> None:
    async with neighbour_of(spawner, client) as neighbour:
        status = await client.ready(_planter(spawner, tree), memory_mb=256)
        assert len(os.listdir(Path(status.unix_path).parent)) > 1
        ended = await client.stop(status.replica_id)
        assert ended.reason == "Stopped"
        assert not os.path.lexists(Path(status.unix_path).parent)
        await neighbour.is_served()


async def test_what_a_killed_spawner_leaves_does_not_stop_the_next(spawner: Spawner) -> None:
    async with spawner.client() as client:
        await client.ready(_planter(spawner, "deep"), memory_mb=256)
    spawner.end(9)
    left = spawner.layout.replicas / ".builds" / "left"
    left.mkdir()
    deep = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    spawner.start()
    assert not left.exists()
    assert os.listdir(spawner.layout.replica_sockets) == []
    async with spawner.client() as client:
        await client.stop((await client.ready(spawner.app(PROBE))).replica_id)


def _planter(spawner: Spawner, tree: str) -> str:
    """Return an app that makes a tree beside its socket while it is loaded, when it still can."""
    code = TREES[tree].format(place="/run/ignite")
    return spawner.app(f"{code}\ndef handler(body, context):\n    return 'served'\n")
