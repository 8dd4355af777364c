"""One role's metrics on its socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ignite.layout import Layout
from ignite.telemetry.cold_starts import ColdStarts, ColdWaits
from ignite.telemetry.exposition import MetricsServer
from ignite.telemetry.metrics import Registry, new_registry, render


@pytest.fixture
def registry() -> Registry:
    return new_registry(process=False)


@pytest.fixture
async def place(tmp_path: Path, registry: Registry) -> AsyncIterator[Path]:
    made = tmp_path / "s"
    # What a killed role leaves.
    made.touch()
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(MetricsServer(made, registry).run(ready.set))
        await ready.wait()
        yield made
        server.cancel()
    assert not made.exists()


async def ask(place: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(place))
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_answers_with_what_is_counted_now(place: Path, registry: Registry) -> None:
    waits = ColdWaits(registry)
    for number in (1, 2):
        waits.waited(0.02)
        answer = await ask(place, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"ignite_cold_start_wait_seconds_count {number}.0".encode() in answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics?name=x HTTP/1.1", b"200"),
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metricsx HTTP/1.1", b"404"),
        (b"DELETE /metrics HTTP/1.1", b"405"),
        (b"nonsense", b"405"),
    ],
)
async def test_only_that_question_is_answered(
    place: Path, request_line: bytes, status: bytes
) -> None:
    answer = await ask(place, request_line + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert body == b""


async def test_half_a_question_and_an_endless_one_are_dropped(place: Path) -> None:
    assert await ask(place, b"GET /metrics HTTP/1.1\r\n") == b""
    with contextlib.suppress(ConnectionError):  # closed while we write
        assert await ask(place, b"x" * 200_000) == b""
    assert (await ask(place, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_nobody_else_may_connect(place: Path) -> None:
    mode = await asyncio.to_thread(lambda: place.stat().st_mode)
    assert mode & 0o777 == 0o600


def test_cold_starts_are_told_apart_by_kind_and_language(registry: Registry) -> None:
    starts = ColdStarts(registry)
    for way, secs in (("pool", 0.004), ("fork", 0.04), ("bwrap", 599)):
        starts.started(way, "python", secs)
    text = render(registry).decode()
    for kind, bound in (("pool", "0.005"), ("fork", "0.05"), ("bubblewrap", "600.0")):
        labels = f'{{kind="{kind}",language="python",le="{bound}"}}'
        assert f"ignite_cold_start_seconds_bucket{labels} 1.0" in text


def test_each_role_has_a_place_of_its_own(tmp_path: Path) -> None:
    layout = Layout(data=tmp_path)
    places = {layout.metrics_socket(role) for role in ("api", "gateway")}
    assert {place.parent for place in places} == {layout.run}
    assert len(places) == 2
