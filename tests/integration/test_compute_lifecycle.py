"""Drafts, compiles, publishes, rollbacks and the code itself, over gRPC on a real Postgres."""

import asyncio
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
    python_archive,
    python_file,
    serving,
    zip_of,
)

from ignite.domain.apps import AppRef, AppStatus, DeploymentState, ObservedReplica
from ignite.rpc.pagination import encode_cursor
from ignite.settings import LimitSettings
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

Code = grpc.StatusCode
HELLO = AppRef(organization=ACME.name, name="hello")


@pytest.fixture
async def compute(database_url: str, tmp_path: Path) -> AsyncIterator[Compute]:
    async with serving(database_url, tmp_path) as served:
        await served.create("hello")
        yield served


async def draft(compute: Compute) -> Any:
    return (await compute.call("GetDraftInfo", pb.GetDraftInfoRequest(app_name="hello"))).draft


async def state(compute: Compute) -> Any:
    return await compute.call("GetAppState", pb.GetAppStateRequest(app_name="hello"))


async def versions(compute: Compute, **fields: Any) -> Any:
    request = pb.ListAppVersionsRequest(app_name="hello", **fields)
    return await compute.call("ListAppVersions", request)


async def statuses(compute: Compute) -> dict[int, str]:
    found = (await versions(compute)).versions
    return {
        version.version: common.VersionStatus.Name(version.status).removeprefix("VERSION_STATUS_")
        for version in found
    }


class TestSaveDraft:
    async def test_draft_is_ready_to_compile_and_has_a_short_hash(self, compute: Compute) -> None:
        saved = await compute.save("hello")
        assert saved.status == common.VERSION_STATUS_DRAFT
        assert len(saved.code_hash) == 8
        assert saved.code_kind == common.CODE_KIND_SDK
        assert not saved.build_id
        assert not saved.compiled_at_ms
        assert saved == await draft(compute)

    async def test_without_a_draft_info_is_absent(self, compute: Compute) -> None:
        answer = await compute.call("GetDraftInfo", pb.GetDraftInfoRequest(app_name="hello"))
        assert not answer.HasField("draft")

    async def test_hash_tells_code_runtime_and_arguments_apart(self, compute: Compute) -> None:
        async def hash_of(code: common.CodeSource) -> str:
            request = pb.SaveDraftRequest(app_name="hello", code=code)
            return str((await compute.call("SaveDraft", request)).draft.code_hash)

        base = await hash_of(python_file())
        assert await hash_of(python_file()) == base
        other_version = python_file()
        other_version.compile.runtime.python.version = "3.12"
        assert base not in {
            await hash_of(python_file(HANDLER + b"#")),
            await hash_of(python_file(A="1")),
            await hash_of(other_version),
        }

    async def test_equal_code_of_another_tenant_has_another_hash(self, compute: Compute) -> None:
        mine = await compute.save("hello")
        await compute.call("CreateApp", pb.CreateAppRequest(name="x"), organization="rival")
        request = pb.SaveDraftRequest(app_name="x", code=python_file())
        theirs = (await compute.call("SaveDraft", request, organization="rival")).draft
        assert theirs.code_hash != mine.code_hash

    async def test_given_schemas_replace_the_apps(self, compute: Compute) -> None:
        request = pb.SaveDraftRequest(
            app_name="hello", code=python_file(), input_schema='{"type":"string"}'
        )
        await compute.call("SaveDraft", request)
        await compute.save("hello")  # without schemas: they stay
        app = (await compute.call("GetApp", pb.GetAppRequest(app_name="hello"))).app
        assert app.input_schema == '{"type":"string"}'
        assert app.output_schema == ""

    async def test_archive_with_one_top_folder_is_taken(self, compute: Compute) -> None:
        code = python_archive({"app/handler.py": HANDLER, "app/requirements.txt": b""})
        await compute.call("SaveDraft", pb.SaveDraftRequest(app_name="hello", code=code))

    async def test_archive_without_the_entry_file_is_refused(self, compute: Compute) -> None:
        code = python_archive({"main.py": HANDLER})
        status, text = await compute.refused(
            "SaveDraft", pb.SaveDraftRequest(app_name="hello", code=code)
        )
        assert status is Code.INVALID_ARGUMENT
        assert "handler.py" in text
        assert not compute.blobs.blobs

    async def test_hostile_archive_is_refused_by_name(self, compute: Compute) -> None:
        code = python_archive({"handler.py": HANDLER, "../evil.py": b"x"})
        status, text = await compute.refused(
            "SaveDraft", pb.SaveDraftRequest(app_name="hello", code=code)
        )
        assert status is Code.INVALID_ARGUMENT
        assert "evil" in text

    async def test_size_is_bounded(self, database_url: str, tmp_path: Path) -> None:
        limits = LimitSettings(archive_bytes=10)
        async with serving(database_url, tmp_path, limits=limits) as compute:
            await compute.create("hello")
            status, text = await compute.refused(
                "SaveDraft", pb.SaveDraftRequest(app_name="hello", code=python_file())
            )
            assert status is Code.INVALID_ARGUMENT
            assert "at most 10 bytes" in text

    async def test_code_compiled_before_is_not_compiled_again(self, compute: Compute) -> None:
        await compute.save("hello")
        await compute.compile_draft()
        await compute.controllers.build("b" * 64)
        await compute.save("hello", HANDLER + b"# other\n")
        assert not (await draft(compute)).compiled_at_ms
        await compute.save("hello")
        assert (await draft(compute)).compiled_at_ms
        answer = await compute.publish("hello")
        assert answer.deployment_state == common.DEPLOYMENT_STATE_PROVISIONING


class TestCompileDraft:
    async def test_without_a_draft_it_is_refused(self, compute: Compute) -> None:
        status, text = await compute.refused(
            "CompileDraft", pb.CompileDraftRequest(app_name="hello")
        )
        assert status is Code.FAILED_PRECONDITION
        assert "draft" in text

    async def test_draft_compiles_and_is_ready(self, compute: Compute) -> None:
        await compute.save("hello")
        answer = await compute.compile_draft()
        assert answer.status == common.VERSION_STATUS_COMPILING
        assert answer.build_id.startswith("bld_")
        assert answer.deploy_id.startswith("dep_")
        during = await draft(compute)
        assert during.status == common.VERSION_STATUS_COMPILING
        assert during.build_id == answer.build_id
        await compute.controllers.build()
        after = await draft(compute)
        assert after.status == common.VERSION_STATUS_DRAFT
        assert after.compiled_at_ms

    async def test_second_call_while_it_compiles_is_the_same_build(self, compute: Compute) -> None:
        await compute.save("hello")
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(compute.compile_draft()) for _ in range(4)]
        assert len({call.result().build_id for call in calls}) == 1

    async def test_failed_draft_can_be_compiled_again(self, compute: Compute) -> None:
        await compute.save("hello")
        first = await compute.compile_draft()
        claimed = await compute.controllers.claim()
        await claimed.fail("no such package", "DependencyNotFound")
        failed = await draft(compute)
        assert failed.status == common.VERSION_STATUS_FAILED
        assert (failed.error, failed.error_reason) == ("no such package", "DependencyNotFound")
        second = await compute.compile_draft()
        assert second.build_id != first.build_id
        assert not (await draft(compute)).error

    async def test_draft_saved_during_the_compile_stays_a_draft(self, compute: Compute) -> None:
        await compute.save("hello")
        await compute.compile_draft()
        claimed = await compute.controllers.claim()
        await compute.save("hello", HANDLER + b"# newer\n")
        await claimed.succeed()
        found = await draft(compute)
        assert found.status == common.VERSION_STATUS_DRAFT
        assert not found.compiled_at_ms
        assert not found.build_id


class TestPublishDraft:
    async def test_without_a_draft_it_is_refused(self, compute: Compute) -> None:
        status, _ = await compute.refused("PublishDraft", pb.PublishDraftRequest(app_name="hello"))
        assert status is Code.FAILED_PRECONDITION

    async def test_uncompiled_draft_is_compiled_by_the_publish(self, compute: Compute) -> None:
        await compute.save("hello")
        answer = await compute.publish("hello")
        assert (answer.version, answer.target_version) == (1, 1)
        assert answer.deployment_state == common.DEPLOYMENT_STATE_COMPILING
        assert list(answer.public_urls) == ["http://hello-acme.apps.test:8080/"]
        assert await statuses(compute) == {1: "COMPILING"}
        await compute.controllers.build()
        assert await statuses(compute) == {1: "DRAFT"}
        assert (await draft(compute)).status == common.VERSION_STATUS_DRAFT

    async def test_build_that_runs_is_shared(self, compute: Compute) -> None:
        await compute.save("hello")
        started = await compute.compile_draft()
        await compute.publish("hello")
        (version,) = (await versions(compute)).versions
        assert version.build_id == started.build_id
        await compute.controllers.build()
        assert await statuses(compute) == {1: "DRAFT"}

    async def test_build_that_ends_during_the_publish_reaches_the_version(
        self, compute: Compute
    ) -> None:
        """Every interleaving of the two must end with a compiled version."""
        for number in range(1, 9):
            await compute.save("hello", HANDLER + f"# {number}\n".encode())
            await compute.compile_draft()
            claimed = await compute.controllers.claim()
            async with asyncio.TaskGroup() as tasks:
                published = tasks.create_task(compute.publish("hello"))
                await asyncio.sleep(number / 1000)
                tasks.create_task(claimed.succeed())
            assert published.result().version == number
            assert (await statuses(compute))[number] == "DRAFT"

    async def test_build_that_ends_between_look_and_insert_reaches_the_version(
        self, compute: Compute
    ) -> None:
        await compute.save("hello")
        await compute.compile_draft()
        claimed = await compute.controllers.claim()
        from ignite.services.compute.drafts import draft_of, running_build

        async with asyncio.TaskGroup() as tasks, compute.database.transaction() as tx:
            app = await tx.apps.get(HELLO, lock=True)
            assert await running_build(tx, await draft_of(tx, app)) is not None
            ending = tasks.create_task(claimed.succeed())
            await _blocked_sessions(compute, 1)
            assert not ending.done()
            number = await tx.apps.take_number(app)
            await tx.versions.publish(await draft_of(tx, app), number, app.config, _compiling())
        assert (await statuses(compute))[number] == "DRAFT"

    async def test_failed_draft_is_compiled_again(self, compute: Compute) -> None:
        await compute.save("hello")
        await compute.compile_draft()
        await (await compute.controllers.claim()).fail("x", "ImportFailed")
        await compute.publish("hello")
        assert await statuses(compute) == {1: "COMPILING"}
        await compute.controllers.build()
        assert await statuses(compute) == {1: "DRAFT"}

    async def test_two_publishes_at_once_make_two_versions_and_one_target(
        self, compute: Compute
    ) -> None:
        await compute.save("hello")
        async with asyncio.TaskGroup() as tasks:
            calls = [tasks.create_task(compute.publish("hello")) for _ in range(2)]
        assert sorted(call.result().version for call in calls) == [1, 2]
        now = await state(compute)
        assert now.target_version == 2
        assert await statuses(compute) == {1: "COMPILING", 2: "COMPILING"}
        await compute.controllers.build()
        assert await statuses(compute) == {1: "DRAFT", 2: "DRAFT"}

    async def test_serving_app_keeps_its_state_while_the_next_one_comes(
        self, compute: Compute
    ) -> None:
        await compute.live("hello")
        await compute.save("hello", HANDLER + b"#2\n")
        answer = await compute.publish("hello")
        assert answer.deployment_state == common.DEPLOYMENT_STATE_DEPLOYED
        now = await state(compute)
        assert (now.active_version, now.target_version) == (1, 2)
        assert await statuses(compute) == {1: "ACTIVE", 2: "COMPILING"}

    async def test_version_keeps_the_config_it_was_published_with(self, compute: Compute) -> None:
        await compute.live("hello")
        request = pb.UpdateAppConfigRequest(
            app_name="hello",
            resource_tier=common.RESOURCE_TIER_LARGE,
            scaling=common.ScalingConfig(max_replicas=2),
        )
        await compute.call("UpdateAppConfig", request)
        snapshot = (
            await compute.call(
                "GetAppVersion", pb.GetAppVersionRequest(app_name="hello", version=1)
            )
        ).app
        assert snapshot.version == 1
        assert snapshot.resource_tier == common.RESOURCE_TIER_SMALL
        assert not snapshot.scaling.max_replicas
        assert snapshot.runtime.python.version == "3.11"
        assert snapshot.public_urls


class TestVersions:
    async def test_pages_are_newest_first(self, compute: Compute) -> None:
        for number in range(5):
            await compute.live("hello", HANDLER + f"#{number}\n".encode())
        first = await versions(compute, limit=3)
        assert [version.version for version in first.versions] == [5, 4, 3]
        second = await versions(compute, limit=3, cursor=first.next_cursor)
        assert [version.version for version in second.versions] == [2, 1]
        assert not second.next_cursor
        assert first.versions[0].status == common.VERSION_STATUS_ACTIVE
        assert second.versions[0].status == common.VERSION_STATUS_SUPERSEDED

    @pytest.mark.parametrize("number", [7, 2**31, 2**32 - 1])
    async def test_unknown_version_is_not_found(self, compute: Compute, number: int) -> None:
        for method, request in (
            ("GetAppVersion", pb.GetAppVersionRequest(app_name="hello", version=number)),
            ("RollbackApp", pb.RollbackAppRequest(app_name="hello", version=number)),
            ("GetAppCode", pb.GetAppCodeRequest(app_name="hello", version=number)),
            ("TestAppVersion", pb.TestAppVersionRequest(app_name="hello", version=number)),
        ):
            status, text = await compute.refused(method, request)
            assert status is Code.NOT_FOUND, method
            assert f"version {number}" in text

    @pytest.mark.parametrize("below", [-5, 0, 2**31, 2**63 - 1])
    async def test_made_up_cursor_harms_nobody(self, compute: Compute, below: int) -> None:
        await compute.live("hello")
        page = await versions(compute, cursor=encode_cursor("versions", [below]))
        assert len(page.versions) == (0 if below < 0 else 1)


class TestRollback:
    async def roll_back(self, compute: Compute, version: int) -> Any:
        request = pb.RollbackAppRequest(app_name="hello", version=version)
        return await compute.call("RollbackApp", request)

    async def test_earlier_version_becomes_the_target(self, compute: Compute) -> None:
        await compute.live("hello")
        await compute.live("hello", HANDLER + b"#2\n")
        answer = await self.roll_back(compute, 1)
        assert (answer.active_version, answer.target_version) == (2, 1)
        assert answer.deployment_state == common.DEPLOYMENT_STATE_DEPLOYED
        await compute.controllers.activate(HELLO)
        assert await statuses(compute) == {1: "ACTIVE", 2: "SUPERSEDED"}

    async def test_active_version_is_success_and_changes_nothing(self, compute: Compute) -> None:
        await compute.live("hello")
        async with compute.database.transaction() as tx:
            before = await tx.apps.get(HELLO)
        answer = await self.roll_back(compute, 1)
        assert (answer.active_version, answer.target_version) == (1, 1)
        async with compute.database.transaction() as tx:
            assert await tx.apps.get(HELLO) == before

    async def test_active_version_ends_a_publish_under_way(self, compute: Compute) -> None:
        await compute.live("hello")
        await compute.save("hello", HANDLER + b"#2\n")
        await compute.publish("hello")
        answer = await self.roll_back(compute, 1)
        assert answer.target_version == 1
        assert (await statuses(compute))[2] == "COMPILING"
        await compute.controllers.build()
        assert (await self.roll_back(compute, 2)).target_version == 2
        await compute.controllers.activate(HELLO)
        assert await statuses(compute) == {1: "SUPERSEDED", 2: "ACTIVE"}

    async def test_version_that_served_survives_a_rollback_that_is_overtaken(
        self, compute: Compute
    ) -> None:
        await compute.live("hello")
        await compute.live("hello", HANDLER + b"#2\n")
        await self.roll_back(compute, 1)
        await compute.publish("hello")
        assert await statuses(compute) == {1: "SUPERSEDED", 2: "ACTIVE", 3: "DRAFT"}

    async def test_draft_failed_and_compiling_versions_are_refused(self, compute: Compute) -> None:
        await compute.live("hello")
        await compute.save("hello", HANDLER + b"#2\n")
        await compute.publish("hello")
        for version, word in ((0, "draft"), (2, "COMPILING")):
            status, text = await compute.refused(
                "RollbackApp", pb.RollbackAppRequest(app_name="hello", version=version)
            )
            assert status is Code.FAILED_PRECONDITION
            assert word in text
        await (await compute.controllers.claim()).fail("x", "ImportFailed")
        status, text = await compute.refused(
            "RollbackApp", pb.RollbackAppRequest(app_name="hello", version=2)
        )
        assert status is Code.FAILED_PRECONDITION
        assert "FAILED" in text


class TestGetAppCode:
    async def code(self, compute: Compute, **fields: Any) -> Any:
        return await compute.call("GetAppCode", pb.GetAppCodeRequest(app_name="hello", **fields))

    async def test_absent_version_is_the_active_one_and_zero_the_draft(
        self, compute: Compute
    ) -> None:
        await compute.live("hello")
        await compute.save("hello", b"# draft\n")
        active = await self.code(compute)
        assert (active.code, active.version) == (HANDLER, 1)
        assert (active.content_type, active.file_name) == ("text/x-python", "handler.py")
        saved = await self.code(compute, version=0)
        assert (saved.code, saved.version) == (b"# draft\n", 0)
        assert saved.code_hash == (await draft(compute)).code_hash

    async def test_archive_comes_back_as_it_was_sent(self, compute: Compute) -> None:
        files = {"handler.py": HANDLER, "requirements.txt": b""}
        code = python_archive(files)
        await compute.call("SaveDraft", pb.SaveDraftRequest(app_name="hello", code=code))
        saved = await self.code(compute, version=0)
        assert saved.code == zip_of(files)
        assert (saved.content_type, saved.file_name) == ("application/zip", "hello-v0.zip")

    async def test_unpublished_app_has_no_active_code(self, compute: Compute) -> None:
        await compute.save("hello")
        status, _ = await compute.refused("GetAppCode", pb.GetAppCodeRequest(app_name="hello"))
        assert status is Code.NOT_FOUND


class TestGetAppState:
    async def test_new_app_is_created(self, compute: Compute) -> None:
        now = await state(compute)
        assert now.deployment_state == common.DEPLOYMENT_STATE_CREATED
        assert (now.active_version, now.target_version, now.desired_replicas) == (0, 0, 0)

    async def test_ready_counts_only_replicas_that_serve(self, compute: Compute) -> None:
        await compute.live("hello")
        async with compute.database.transaction() as tx:
            app = await tx.apps.get(HELLO)
            replicas = tuple(
                ObservedReplica(id=name, version=version, state=word, started_at=app.created_at)
                for name, version, word in (
                    ("r1", 1, "ready"),
                    ("r2", 1, "starting"),
                    ("r3", 0, "ready"),
                )
            )
            seen = AppStatus(
                desired_replicas=2, replicas=replicas, error="boom", error_reason="Crashed"
            )
            assert await tx.status.record(app.id, app.generation, DeploymentState.DEPLOYED, seen)
        now = await state(compute)
        assert (now.ready_replicas, now.desired_replicas) == (1, 2)
        assert [replica.replica_id for replica in now.replicas] == ["r1", "r2", "r3"]
        assert now.replicas[1].state == common.REPLICA_STATE_STARTING
        assert (now.last_error, now.last_error_reason) == ("boom", "Crashed")


async def _blocked_sessions(compute: Compute, count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    async with asyncio.timeout(10):
        while True:
            async with compute.database.transaction() as tx:
                rows = await tx.connection.execute(
                    text(
                        "SELECT count(*) FROM pg_stat_activity "
                        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
                    )
                )
                if rows.scalar_one() >= count:
                    return
            await asyncio.sleep(0.01)


def _compiling() -> Any:
    from ignite.domain.versions import VersionStatus

    return VersionStatus.COMPILING
