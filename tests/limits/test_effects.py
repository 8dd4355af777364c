"""Every setting of an app has an effect that can be seen from outside."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tests.e2e.server import Server
from tests.limits.apps import App, call, wait_for

from ignite.v1 import ignite_common_pb2 as common

# Says what it was given; what it is asked to do stands in the body.
PROBE = """
import asyncio, os, pathlib

REPLICA = os.urandom(6).hex()
running = 0
most = 0


async def handler(payload, ctx):
    global running, most
    word, _, value = payload.decode().partition("=")
    running += 1
    most = max(most, running)
    try:
        if word == "hold":
            block = bytearray(int(value) << 20)
            block[::4096] = b"x" * len(block[::4096])
        if word == "sleep":
            await asyncio.sleep(float(value))
        if word == "spin":
            return {"ran": spin(float(value)), "replica": REPLICA}
    finally:
        running -= 1
    return {"env": dict(os.environ), "most": most, "replica": REPLICA}


def spin(secs):
    import time
    ends = time.monotonic() + secs
    before = time.process_time()
    while time.monotonic() < ends:
        pass
    return (time.process_time() - before) / secs
"""


@pytest.fixture
def probe(app: App) -> App:
    """A published app that says what it was given; it sleeps after two seconds."""
    app.create(scaling={"scaledown_period_secs": 2, "scale_threshold": 1000})
    app.publish(PROBE)
    return app


def changed(app: App, **fields: Any) -> None:
    """Change a setting and wait until replicas of before are gone."""
    before = app.says(b"")["replica"]
    app.configure(**fields)
    wait_for(lambda: app.says(b"")["replica"] != before)


class TestReplica:
    def test_env(self, probe: App) -> None:
        changed(probe, env={"COLOUR": "blue", "EMPTY": ""})
        env = probe.says(b"")["env"]
        assert (env["COLOUR"], env["EMPTY"]) == ("blue", "")
        changed(probe, env={})
        assert "COLOUR" not in probe.says(b"")["env"]

    def test_ports(self, server: Server, probe: App) -> None:
        probe.configure(ports=[8181, 9191])
        ref = {"organization_name": server.org, "app_name": probe.name}
        urls = call(server, "GetApp", ref).app.public_urls
        hosts = [url.partition("//")[2].partition("/")[0].partition(":")[0] for url in urls]
        assert len(set(hosts)) == 2
        for host in hosts:
            wait_for(lambda host=host: env_at(server, host).get("PORT") == "8181")  # type: ignore[misc]
        before = server.host_of(probe.name)
        if before not in hosts:
            wait_for(lambda: server.http("POST", "/", b"", host=before).status == 404)

    def test_memory(self, probe: App) -> None:
        changed(probe, limits={"memory_mb": 128})
        assert probe.http(b"hold=400").status in (500, 503)
        changed(probe, limits={"memory_mb": 768})
        assert probe.http(b"hold=400").status == 200

    def test_cpu(self, probe: App) -> None:
        changed(probe, limits={"cpu_millicores": 100})
        # The quota counts from ready on; a request later it holds.
        probe.says(b"spin=0.3")
        assert probe.says(b"spin=1.5")["ran"] < 0.5

    def test_timeout(self, probe: App) -> None:
        changed(probe, limits={"timeout_secs": 1})
        # The replica keeps the same time as the gateway: either may be the first to say so.
        assert probe.http(b"sleep=15").status == 504

    def test_max_concurrency(self, probe: App) -> None:
        changed(probe, max_concurrency=2)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: probe.says(b"sleep=0.2"), range(6)))
        assert max(answer["most"] for answer in answers) == 2

    def test_resource_tier(self, probe: App) -> None:
        small = probe.call("GetApp", {"app_name": probe.name}).app
        changed(probe, resource_tier="RESOURCE_TIER_MEDIUM")
        medium = probe.call("GetApp", {"app_name": probe.name}).app
        assert medium.resource_tier == common.RESOURCE_TIER_MEDIUM != small.resource_tier
        # 256 MiB are what a small one has, 512 a medium one.
        assert probe.http(b"hold=330").status == 200


class TestScaling:
    def test_reserved_capacity(self, probe: App) -> None:
        probe.asleep()
        probe.configure(scaling={"reserved_capacity": 2, "max_replicas": 3})
        wait_for(lambda: probe.ready() == 2)
        probe.configure(scaling={"scaledown_period_secs": 2})
        probe.asleep()

    @pytest.mark.parametrize("most", [1, 3])
    def test_max_replicas_and_scale_threshold(self, probe: App, most: int) -> None:
        """One request at once for each replica; five of them ask for more than the bound."""
        probe.configure(
            scaling={
                "max_replicas": most,
                "scale_metric": "SCALE_METRIC_CONCURRENCY",
                "scale_threshold": 1,
                "scaledown_period_secs": 2,
            }
        )
        with ThreadPoolExecutor(5) as pool:
            futures = [pool.submit(probe.http, b"sleep=4") for _ in range(5)]
            wait_for(lambda: probe.ready() == most)
            seen = {probe.ready() for _ in range(20)}
            assert {future.result().status for future in futures} == {200}
        assert max(seen) <= most

    def test_scaledown_period(self, probe: App) -> None:
        probe.says(b"")
        probe.asleep()
        probe.configure(scaling={"scaledown_period_secs": 60, "scale_threshold": 1000})
        probe.says(b"")
        wait_for(lambda: probe.ready() == 1)
        awake_at = time.monotonic()
        # Twice the period it had before, and it is still there.
        wait_for(lambda: time.monotonic() - awake_at > 4 or probe.ready() == 0)
        assert probe.ready() == 1


class TestAccess:
    def test_allow_unauthenticated(self, probe: App) -> None:
        assert probe.http(token=None).status == 401
        probe.configure(allow_unauthenticated=True)
        wait_for(lambda: probe.http(token=None).status == 200)
        probe.configure(allow_unauthenticated=False)
        wait_for(lambda: probe.http(token=None).status == 401)


FIELDS: dict[str, Any] = {
    "description": "what it does",
    "health_path": "/alive",
    "input_schema": '{"type":"string"}',
    "output_schema": '{"type":"object"}',
    "tags": ["a", "b"],
    "category": ["c"],
    "author": "me",
    "input_modality": "text",
    "output_modality": "text",
    "mcp_enabled": True,
}


class TestRecord:
    """What is only kept: it comes back as it was set, with UpdateAppConfig and GetApp."""

    @pytest.mark.parametrize("name", FIELDS)
    def test_it_is_kept(self, app: App, name: str) -> None:
        app.create()
        value = FIELDS[name]
        app.configure(**{name: value})
        kept = getattr(app.call("GetApp", {"app_name": app.name}).app, name)
        assert (list(kept) if isinstance(value, list) else kept) == value

    @pytest.mark.parametrize(
        "fields",
        [{"storage_mode": "STORAGE_MODE_EPHEMERAL"}, {"storage_mode": "STORAGE_MODE_TTL"}],
        ids=["ephemeral", "ttl"],
    )
    def test_what_is_not_built_says_so(self, app: App, fields: dict[str, Any]) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            app.create(**fields)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def env_at(server: Server, host: str) -> dict[str, str]:
    """Return the variables of the replica that answers at a host, none where none does."""
    answer = server.http("POST", "/", b"", host=host)
    found: dict[str, str] = answer.json()["env"] if answer.status == 200 else {}
    return found
