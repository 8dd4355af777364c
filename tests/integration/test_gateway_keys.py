"""Envoy remembers good signatures, and for how long: not past a token's end or its key's."""

import re
import time
from collections.abc import AsyncIterator

import pytest
from tests.support.envoy import Rig, needs_envoy, running_rig
from tests.support.replica import exchange

pytestmark = needs_envoy


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with running_rig() as found:
        await found.controllers.settle(found.route("app", await found.replica()))
        yield found


async def status(rig: Rig, token: str) -> int:
    return (await rig.get(rig.host("app"), token=token)).status


async def status_in_the_end(rig: Rig, token: str, wanted: int) -> None:
    """Return once the answer is `wanted`; fails with a timeout when it never is."""
    ends = time.monotonic() + 15
    while (got := await status(rig, token)) != wanted:
        assert time.monotonic() < ends, got


async def remembered(rig: Rig) -> int:
    _, stats = await rig.admin.get("/stats?filter=jwt_cache_hit")
    found = re.search(rb"jwt_cache_hit: (\d+)", stats)
    return int(found[1]) if found else 0


async def test_a_token_s_signature_is_computed_once(rig: Rig) -> None:
    token = rig.keys.token()
    for _ in range(5):
        assert await status(rig, token) == 200
    # Some of them may have met another of Envoy's workers.
    assert await remembered(rig) > 0


async def test_a_remembered_token_of_a_withdrawn_key_is_refused(rig: Rig) -> None:
    token = rig.keys.token()
    for _ in range(5):
        assert await status(rig, token) == 200
    rig.keys.replace("k2")
    await status_in_the_end(rig, token, 401)
    assert await status(rig, rig.keys.token()) == 200
    assert await status(rig, token) == 401


async def test_another_key_of_the_same_name_is_another_key(rig: Rig) -> None:
    token = rig.keys.token()
    assert await status(rig, token) == 200
    rig.keys.replace(rig.keys.kid)
    await status_in_the_end(rig, token, 401)


async def test_a_remembered_token_ends_when_it_says(rig: Rig) -> None:
    token = rig.keys.token(exp=int(time.time()))
    # Clocks may differ by five seconds.
    for _ in range(3):
        assert await status(rig, token) == 200
    await status_in_the_end(rig, token, 401)


async def test_a_remembered_token_is_held_to_the_app_s_organization(rig: Rig) -> None:
    other = rig.route("app", await rig.replica(), organization="other")
    await rig.controllers.settle(other)
    token = rig.keys.token()
    for _ in range(3):
        assert await status(rig, token) == 200
        assert (await rig.get(rig.host("app", "other"), token=token)).status == 403


async def test_a_change_of_keys_ends_no_connection(rig: Rig) -> None:
    reader, writer = await rig.connect()
    try:
        for kid in ("k2", "k3"):
            sent = [("host", rig.host("app")), ("authorization", f"Bearer {rig.keys.token()}")]
            got = await exchange(reader, writer, "GET", "/", sent)
            assert got.status == 200
            assert got.header("connection") is None
            rig.keys.replace(kid)
            await status_in_the_end(rig, sent[1][1].removeprefix("Bearer "), 401)
        sent = [("host", rig.host("app")), ("authorization", f"Bearer {rig.keys.token()}")]
        assert (await exchange(reader, writer, "GET", "/", sent)).status == 200
    finally:
        writer.close()
