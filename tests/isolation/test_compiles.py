"""Compiles that attack: everything that runs when a package is built is a tenant's code."""

import os
from collections.abc import Iterator

import pytest
from tests.isolation.rig import neighbour_of
from tests.isolation.test_trees import DEEP, TREES
from tests.support.spawner import Client, Spawner, client, needs_bwrap, needs_root

__all__ = ["client"]
pytestmark = [needs_root, needs_bwrap]


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawner]:
    made = Spawner(
        tmp_path_factory.mktemp("spawner") / "data",
        env={"IGNITE__BUILD__ARTIFACT_BYTES": str(64 * 1024 * 1024)},
    )
    made.start()
    yield made
    made.close()


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
