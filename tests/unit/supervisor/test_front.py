"""The public door shuts first and waits for those inside, but not for ever."""

import asyncio
import json

from ignite.domain.errors import Unavailable
from ignite.supervisor.front import PublicDoor


class Envoy:
    """An admin interface that says in turn how many requests are under way."""

    def __init__(self, *active: int, is_gone: bool = False) -> None:
        self._active = list(active)
        self._is_gone = is_gone
        self.asked: list[str] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        assert "downstream_rq_active" in path
        count = self._active.pop(0) if len(self._active) > 1 else self._active[0]
        self.asked.append(f"count {count}")
        stats = [
            {"name": "http.admin.downstream_rq_active", "value": 1},
            {"name": "http.public.downstream_rq_active", "value": count},
            {"name": "http.internal.downstream_rq_active", "value": 0},
        ]
        return 200, json.dumps({"stats": stats}).encode()

    async def post(self, path: str) -> tuple[int, bytes]:
        if self._is_gone:
            raise Unavailable("gone")
        self.asked.append(path)
        return 200, b"OK"


async def opened_and_stopped(envoy: Envoy, grace_secs: float = 10.0) -> None:
    ready = asyncio.Event()
    door = asyncio.ensure_future(PublicDoor(envoy, grace_secs=grace_secs).run(ready.set))
    await ready.wait()
    assert not envoy.asked
    door.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({door})
    assert door.cancelled()


async def test_shuts_and_waits_until_nothing_is_under_way() -> None:
    envoy = Envoy(2, 1, 0)
    await opened_and_stopped(envoy)
    assert envoy.asked == [
        "/healthcheck/fail",
        "/drain_listeners?inboundonly",
        "count 2",
        "count 1",
        "count 0",
    ]


async def test_waits_no_longer_than_the_grace() -> None:
    envoy = Envoy(1)
    await opened_and_stopped(envoy, grace_secs=0.1)
    assert envoy.asked[-1] == "count 1"


async def test_an_envoy_that_is_gone_holds_nothing_up() -> None:
    await opened_and_stopped(Envoy(1, is_gone=True))
