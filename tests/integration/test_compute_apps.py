"""Apps over gRPC on a real Postgres: create, read, configure, delete."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import text
from tests.support.compute import (
    ACME,
    HANDLER,
    Compute,
    python_file,
    serving,
)

from ignite.domain.apps import AppRef
from ignite.settings import LimitSettings, ScalingSettings
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

Code = grpc.StatusCode


@pytest.fixture
async def compute(database_url: str, tmp_path: Path) -> AsyncIterator[Compute]:
    async with serving(database_url, tmp_path) as served:
        yield served


class TestCreateApp:
    async def test_new_app_is_created_with_the_tier_it_got(self, compute: Compute) -> None:
        answer = await compute.create("hello", resource_tier=common.RESOURCE_TIER_MEDIUM)
        assert answer.app_id == "acme/hello"
        assert answer.deployment_state == common.DEPLOYMENT_STATE_CREATED
        assert answer.applied_tier == common.RESOURCE_TIER_MEDIUM
        assert answer.applied_limits.memory_mb == 512
        assert answer.applied_limits.cpu_millicores == 500
        assert not answer.applied_limits.HasField("timeout_secs")

    async def test_limits_override_the_tier(self, compute: Compute) -> None:
        limits = common.ResourceLimits(memory_mb=300, timeout_secs=9)
        answer = await compute.create("hello", limits=limits)
        assert answer.applied_tier == common.RESOURCE_TIER_SMALL
        assert answer.applied_limits.memory_mb == 300
        assert answer.applied_limits.cpu_millicores == 250
        assert answer.applied_limits.timeout_secs == 9

    async def test_same_name_again_already_exists(self, compute: Compute) -> None:
        await compute.create("hello")
        code, text = await compute.refused("CreateApp", pb.CreateAppRequest(name="hello"))
        assert code is Code.ALREADY_EXISTS
        assert "acme/hello" in text

    async def test_of_two_creates_at_once_one_wins(self, compute: Compute) -> None:
        async def create() -> grpc.StatusCode:
            try:
                await compute.create("hello")
            except grpc.aio.AioRpcError as error:
                return error.code()
            return Code.OK

        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(create()) for _ in range(6)]
        codes = [task.result() for task in made]
        assert sorted(code.name for code in codes) == ["ALREADY_EXISTS"] * 5 + ["OK"]

    async def test_label_of_another_tenant_is_refused_without_naming_it(
        self, compute: Compute
    ) -> None:
        # `a` of `x-rival` and `a-x` of `rival` would both answer at `a-x-rival`.
        await compute.call("CreateApp", pb.CreateAppRequest(name="a"), organization="x-rival")
        code, text = await compute.refused(
            "CreateApp", pb.CreateAppRequest(name="a-x"), organization="rival"
        )
        assert code is Code.ALREADY_EXISTS
        assert text == "host name 'a-x-rival' is taken; choose another app name"

    async def test_refused_label_leaves_no_app_behind(self, compute: Compute) -> None:
        await compute.create("web")
        async with compute.database.transaction() as tx:
            app = await tx.apps.get(AppRef(organization=ACME.name, name="web"))
            await tx.apps.claim_labels(app, [("web-acme", 80), ("taken-acme", 81)])
        await compute.refused("CreateApp", pb.CreateAppRequest(name="taken"))
        code, _ = await compute.refused("GetApp", pb.GetAppRequest(app_name="taken"))
        assert code is Code.NOT_FOUND

    async def test_code_is_saved_as_the_draft(self, compute: Compute) -> None:
        await compute.create("hello", code=python_file())
        answer = await compute.call("GetDraftInfo", pb.GetDraftInfoRequest(app_name="hello"))
        assert answer.draft.status == common.VERSION_STATUS_DRAFT
        assert answer.draft.runtime.python.version == "3.11"
        assert HANDLER in compute.blobs.blobs.values()

    async def test_bad_code_makes_no_app(self, compute: Compute) -> None:
        code, text = await compute.refused(
            "CreateApp", pb.CreateAppRequest(name="hello", code=python_file(b""))
        )
        assert code is Code.INVALID_ARGUMENT
        assert "source_code" in text
        code, _ = await compute.refused("GetApp", pb.GetAppRequest(app_name="hello"))
        assert code is Code.NOT_FOUND

    async def test_label_over_63_octets_is_refused(self, compute: Compute) -> None:
        code, text = await compute.refused("CreateApp", pb.CreateAppRequest(name="a" * 59))
        assert code is Code.INVALID_ARGUMENT
        assert "63" in text
        await compute.create("a" * 58)

    async def test_number_of_apps_is_bounded(self, database_url: str, tmp_path: Path) -> None:
        limits = LimitSettings(apps_per_organization=1)
        async with serving(database_url, tmp_path, limits=limits) as compute:
            await compute.create("one")
            code, text = await compute.refused("CreateApp", pb.CreateAppRequest(name="two"))
            assert code is Code.RESOURCE_EXHAUSTED
            assert "1 apps" in text
            await compute.call("CreateApp", pb.CreateAppRequest(name="x"), organization="rival")

    async def test_organization_of_a_token_that_is_not_known_here_is_said(
        self, compute: Compute
    ) -> None:
        async with compute.database.transaction() as tx:
            await tx.connection.execute(text("DELETE FROM organizations WHERE name = 'rival'"))
        code, words = await compute.refused(
            "CreateApp", pb.CreateAppRequest(name="x"), organization="rival"
        )
        assert code is Code.FAILED_PRECONDITION
        assert "rival" in words


class TestReading:
    async def test_record_has_what_was_set(self, compute: Compute) -> None:
        await compute.create(
            "hello",
            description="says hello",
            env={"NAME": "world"},
            scaling=common.ScalingConfig(
                max_replicas=3, scale_metric=common.SCALE_METRIC_CONCURRENCY
            ),
            runtime=common.Runtime(go=common.GoRuntime(toolchain_version="1.24")),
            ports=[8080, 80],
            health_path="/up",
            max_concurrency=4,
            mcp_enabled=True,
            allow_unauthenticated=True,
            input_schema='{"type": "object"}',
            tags=["a", "b"],
            category=["demo"],
            author="me",
            input_modality="text",
            output_modality="image",
        )
        app = (await compute.call("GetApp", pb.GetAppRequest(app_name="hello"))).app
        assert app.id == "acme/hello"
        assert app.organization_name == "acme"
        assert dict(app.env) == {"NAME": "world"}
        assert app.scaling.max_replicas == 3
        assert app.scaling.scale_metric == common.SCALE_METRIC_CONCURRENCY
        assert app.runtime.go.toolchain_version == "1.24"
        assert list(app.ports) == [8080, 80]
        assert app.health_path == "/up"
        assert app.max_concurrency == 4
        assert app.mcp_enabled
        assert app.allow_unauthenticated
        assert app.input_schema == '{"type": "object"}'
        assert list(app.tags) == ["a", "b"]
        assert list(app.category) == ["demo"]
        assert (app.author, app.input_modality, app.output_modality) == ("me", "text", "image")
        assert app.storage_mode == common.STORAGE_MODE_PERSISTENT
        assert app.created_at_ms > 1_700_000_000_000
        assert not app.public_urls

    async def test_urls_come_with_the_active_version_in_the_order_of_ports(
        self, compute: Compute
    ) -> None:
        await compute.create("my.app", ports=[8080, 80])
        await compute.live("my.app")
        app = (await compute.call("GetApp", pb.GetAppRequest(app_name="my.app"))).app
        assert list(app.public_urls) == [
            "http://my-dot-app-acme-8080.apps.test:8080/",
            "http://my-dot-app-acme.apps.test:8080/",
        ]
        assert app.active_version == 1
        assert app.deployment_mode == common.DEPLOYMENT_MODE_COMPILATION
        assert app.code_kind == common.CODE_KIND_SDK

    @pytest.mark.parametrize(
        ("method", "request_"),
        [
            ("GetApp", pb.GetAppRequest(app_name="hello")),
            ("GetAppState", pb.GetAppStateRequest(app_name="hello")),
            ("DeleteApp", pb.DeleteAppRequest(app_name="hello")),
            ("UpdateAppConfig", pb.UpdateAppConfigRequest(app_name="hello", description="x")),
            ("GetDraftInfo", pb.GetDraftInfoRequest(app_name="hello")),
            ("SaveDraft", pb.SaveDraftRequest(app_name="hello", code=python_file())),
            ("CompileDraft", pb.CompileDraftRequest(app_name="hello")),
            ("PublishDraft", pb.PublishDraftRequest(app_name="hello")),
            ("TestDraft", pb.TestDraftRequest(app_name="hello")),
            ("ListAppVersions", pb.ListAppVersionsRequest(app_name="hello")),
            ("GetAppVersion", pb.GetAppVersionRequest(app_name="hello", version=1)),
            ("TestAppVersion", pb.TestAppVersionRequest(app_name="hello", version=1)),
            ("RollbackApp", pb.RollbackAppRequest(app_name="hello", version=1)),
            ("GetAppCode", pb.GetAppCodeRequest(app_name="hello")),
            ("GetBuildLog", pb.GetBuildLogRequest(app_name="hello", build_id="bld_x")),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_app_of_another_tenant_is_not_found(
        self, compute: Compute, method: str, request_: Any
    ) -> None:
        await compute.create("hello")
        code, text = await compute.refused(method, request_, organization="rival")
        assert code is Code.NOT_FOUND
        assert "rival/hello" in text
        request_.organization_name = "acme"
        code, _ = await compute.refused(method, request_, organization="rival")
        assert code is Code.PERMISSION_DENIED
        request_.ClearField("organization_name")

    async def test_name_that_no_app_can_have_is_refused_before_the_database(
        self, compute: Compute
    ) -> None:
        code, text = await compute.refused("GetApp", pb.GetAppRequest(app_name="a\0b"))
        assert code is Code.INVALID_ARGUMENT
        assert "app_name" in text

    async def test_pages_cover_all_apps_once(self, compute: Compute) -> None:
        names = ["b", "a", "c-1", "c.1", "c"]
        for name in names:
            await compute.create(name)
        await compute.call("CreateApp", pb.CreateAppRequest(name="z"), organization="rival")
        found, cursor = [], ""
        while True:
            page = await compute.call("ListApps", pb.ListAppsRequest(limit=2, cursor=cursor))
            assert len(page.apps) <= 2
            found += [app.name for app in page.apps]
            cursor = page.next_cursor
            if not cursor:
                break
        assert found == sorted(names)

    @pytest.mark.parametrize("seed", range(6))
    async def test_what_is_there_all_along_is_listed_once_whatever_comes_and_goes(
        self, compute: Compute, seed: int
    ) -> None:
        chance = random.Random(seed)
        names = {f"{chance.choice('abc')}{chance.choice('-.0a')}{number}" for number in range(9)}
        for name in names:
            await compute.create(name)
        stayed, found, cursor = set(names), [], ""
        for step in itertools.count():
            page = await compute.call("ListApps", pb.ListAppsRequest(limit=2, cursor=cursor))
            found += [app.name for app in page.apps]
            cursor = page.next_cursor
            if not cursor:
                break
            # The one that the cursor names goes too, sometimes.
            gone = chance.choice([found[-1], chance.choice(sorted(names))])
            await compute.call("DeleteApp", pb.DeleteAppRequest(app_name=gone))
            names.discard(gone)
            stayed.discard(gone)
            if step < 4:
                come = f"{chance.choice('abc')}.new{step}"
                await compute.create(come)
                names.add(come)
        assert found == sorted(set(found))
        assert stayed <= set(found)

    async def test_foreign_cursor_is_refused(self, compute: Compute) -> None:
        code, text = await compute.refused("ListApps", pb.ListAppsRequest(cursor="nonsense"))
        assert code is Code.INVALID_ARGUMENT
        assert "cursor" in text


class TestUpdateAppConfig:
    async def update(self, compute: Compute, **fields: Any) -> Any:
        request = pb.UpdateAppConfigRequest(app_name="hello", **fields)
        return (await compute.call("UpdateAppConfig", request)).app

    async def test_present_fields_change_and_others_stay(self, compute: Compute) -> None:
        await compute.create("hello", description="old", env={"A": "1"}, tags=["t"])
        app = await self.update(compute, description="new")
        assert app.description == "new"
        assert dict(app.env) == {"A": "1"}
        assert list(app.tags) == ["t"]

    async def test_mask_clears_maps_and_lists(self, compute: Compute) -> None:
        await compute.create("hello", env={"A": "1"}, tags=["t"], ports=[8080])
        app = await self.update(compute, update_mask={"paths": ["env", "tags", "ports"]})
        assert not app.env
        assert not app.tags
        assert not app.ports

    async def test_mask_alone_decides(self, compute: Compute) -> None:
        await compute.create("hello", description="old")
        app = await self.update(
            compute, description="new", author="me", update_mask={"paths": ["author"]}
        )
        assert app.description == "old"
        assert app.author == "me"

    async def test_messages_are_replaced_whole(self, compute: Compute) -> None:
        await compute.create("hello", limits=common.ResourceLimits(memory_mb=300, timeout_secs=9))
        app = await self.update(compute, limits=common.ResourceLimits(cpu_millicores=700))
        assert not app.limits.HasField("memory_mb")
        assert app.limits.cpu_millicores == 700

    async def test_change_is_a_new_generation_and_equal_values_are_none(
        self, compute: Compute
    ) -> None:
        await compute.create("hello")
        ref = AppRef(organization=ACME.name, name="hello")

        async def generation() -> int:
            async with compute.database.transaction() as tx:
                return (await tx.apps.get(ref)).generation

        before = await generation()
        await self.update(compute, env={"A": "1"})
        assert await generation() == before + 1
        await self.update(compute, env={"A": "1"})
        assert await generation() == before + 1

    async def test_ports_move_the_host_names(self, compute: Compute) -> None:
        await compute.create("hello", ports=[80])
        await self.update(compute, ports=[8080])

        async def labels() -> list[str]:
            async with compute.database.transaction() as tx:
                rows = await tx.connection.execute(text("SELECT label FROM hostnames"))
                return sorted(rows.scalars())

        assert await labels() == ["hello-acme-8080"]
        await self.update(compute, update_mask={"paths": ["ports"]})
        assert await labels() == ["hello-acme"]

    async def test_old_value_beyond_a_lowered_bound_does_not_block_other_changes(
        self, database_url: str, tmp_path: Path
    ) -> None:
        scaling = ScalingSettings(replica_cap=8)
        async with serving(database_url, tmp_path, scaling=scaling) as compute:
            await compute.create("hello", scaling=common.ScalingConfig(reserved_capacity=7))
            lower = compute.use_cases.apps
            lower._bounds = _with(lower._bounds, replica_cap=2)
            assert (await self.update(compute, description="x")).description == "x"
            code, text = await compute.refused(
                "UpdateAppConfig",
                pb.UpdateAppConfigRequest(
                    app_name="hello", scaling=common.ScalingConfig(reserved_capacity=7)
                ),
            )
            assert code is Code.INVALID_ARGUMENT
            assert "scaling.reserved_capacity" in text
            assert "2" in text

    async def test_two_updates_at_once_both_hold(self, compute: Compute) -> None:
        await compute.create("hello")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.update(compute, description="d"))
            tasks.create_task(self.update(compute, author="a"))
        app = (await compute.call("GetApp", pb.GetAppRequest(app_name="hello"))).app
        assert (app.description, app.author) == ("d", "a")


class TestDeleteApp:
    async def test_app_goes_with_its_versions_and_names(self, compute: Compute) -> None:
        await compute.create("hello")
        await compute.live("hello")
        answer = await compute.call("DeleteApp", pb.DeleteAppRequest(app_name="hello"))
        assert answer.deleted
        async with compute.database.transaction() as tx:
            for table in ("apps", "versions", "builds", "hostnames"):
                rows = await tx.connection.execute(text(f"SELECT count(*) FROM {table}"))
                assert rows.scalar_one() == 0, table
        code, _ = await compute.refused("DeleteApp", pb.DeleteAppRequest(app_name="hello"))
        assert code is Code.NOT_FOUND

    async def test_name_is_free_again_and_numbers_start_anew(self, compute: Compute) -> None:
        await compute.create("hello")
        await compute.live("hello")
        await compute.call("DeleteApp", pb.DeleteAppRequest(app_name="hello"))
        await compute.create("hello")
        assert await compute.live("hello") == 1


class TestHealth:
    async def test_answers_without_a_token(self, compute: Compute) -> None:
        answer = await compute.stub.HealthCheck(pb.HealthCheckRequest(), timeout=20)
        assert (answer.status, answer.version) == ("ok", "1.2.3")

    async def test_method_that_is_not_built_says_so(self, compute: Compute) -> None:
        code, text = await compute.refused("InvokeAsync", pb.InvokeRequest(app_name="hello"))
        assert code is Code.UNIMPLEMENTED
        assert "InvokeAsync" in text


def _with(bounds: Any, **changes: int) -> Any:
    from dataclasses import replace

    return replace(bounds, **changes)
