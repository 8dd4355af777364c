"""Stores on a real Postgres: leases, the queue of builds, host names, states that only move."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import BUILD_LINES_CHANNEL, Database
from ignite.db.hints import BuildLineHints
from ignite.db.leases import Lease
from ignite.domain.apps import (
    App,
    AppConfig,
    AppRef,
    AppStatus,
    AppSummary,
    DeploymentState,
    ObservedReplica,
    ResourceTier,
)
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.errors import AlreadyExists, AppNotFound, FailedPrecondition, Unavailable
from ignite.domain.identity import Organization, OrganizationId, OrganizationName
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.versions import (
    MOVES,
    Code,
    CodeKind,
    ShownApp,
    ShownVersion,
    VersionStatus,
)
from ignite.settings import DatabaseSettings

ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
RIVAL = Organization(id=OrganizationId("01RIVAL"), name=OrganizationName("rival"))
MINUTE = timedelta(minutes=1)
NOTHING = timedelta(0)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(database_url, DatabaseSettings())
    accounts = PostgresAccountStore(found)
    for organization in (ACME, RIVAL):
        await accounts.create_organization(organization.id, organization.name, "")
    yield found
    await found.close()


def code(content: str = "a") -> Code:
    return Code(
        kind=CodeKind.SDK,
        runtime=Runtime(language=Language.PYTHON, version="3.11"),
        blob=content * 64,
        size_bytes=3,
        is_archive=True,
        build_args={"A": "1"},
        hash=content * 64,
    )


def ref(name: str = "web", organization: Organization = ACME) -> AppRef:
    return AppRef(organization=organization.name, name=name)


async def new_app(database: Database, name: str = "web", owner: Organization = ACME) -> App:
    async with database.transaction() as tx:
        return await tx.apps.create(ref(name, owner), owner.id, AppConfig())


async def shown(database: Database, name: str = "web") -> ShownApp:
    async with database.reading() as tx:
        return await tx.apps.shown(ref(name))


async def page(database: Database, *, after: str = "", limit: int = 10) -> tuple[AppSummary, ...]:
    async with database.reading() as tx:
        return await tx.apps.list(ACME.name, after=after, limit=limit)


async def new_build(database: Database, app: App, number: int = 1, content: str = "a") -> Build:
    async with database.transaction() as tx:
        return await tx.builds.create(
            app, code(content), build_id=f"bld_{number}", deploy_id=f"dep_{number}"
        )


async def claim(
    database: Database, token: str = "t", duration: timedelta = MINUTE
) -> tuple[Build, Lease] | None:
    async with database.transaction() as tx:
        return await tx.builds.claim("owner", token, duration)


class TestApps:
    async def test_app_comes_back_as_it_was_made(self, database: Database) -> None:
        config = AppConfig(env={"A": "ä\n"}, ports=(8080,), tier=ResourceTier.LARGE)
        async with database.transaction() as tx:
            made = await tx.apps.create(ref(), ACME.id, config)
        async with database.transaction() as tx:
            assert await tx.apps.get(ref()) == made
            assert await tx.apps.get_by_id(made.id) == made
            assert await tx.apps.find(ref()) == made
            assert await tx.apps.find(ref("other")) is None
        assert made.config == config
        assert made.state is DeploymentState.CREATED
        assert made.created_at.tzinfo is not None

    async def test_shown_app_is_what_its_parts_are(self, database: Database) -> None:
        config = AppConfig(env={"A": "ä\n"}, ports=(8080,), tags=("x",))
        async with database.transaction() as tx:
            made = await tx.apps.create(ref(), ACME.id, config)
        assert (await shown(database)).app == made
        assert (await shown(database)).version is None
        async with database.transaction() as tx:
            draft = await tx.versions.save_draft(made, code(), "")
        assert (await shown(database)).version == ShownVersion(code=draft.code, build_id="")

    async def test_app_is_made_of_its_row_once_and_anew_when_that_changes(
        self, database: Database
    ) -> None:
        app = await new_app(database)
        before = await shown(database)
        assert await shown(database) is before
        async with database.transaction() as tx:
            await tx.apps.set_config(app, AppConfig(description="other"))
        after = await shown(database)
        assert (before.app.config.description, after.app.config.description) == ("", "other")
        async with database.transaction() as tx:
            await tx.versions.save_draft(app, code(), "")
        assert (await shown(database)).version is not None

    async def test_large_app_is_not_kept(self, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.apps.create(ref(), ACME.id, AppConfig(input_schema="x" * 5000))
        first, second = await shown(database), await shown(database)
        assert first is not second
        assert first.app == second.app

    async def test_page_with_long_descriptions_is_not_kept(self, database: Database) -> None:
        for number in range(129):
            async with database.transaction() as tx:
                config = AppConfig(description="x" * (512 if number else 513))
                await tx.apps.create(ref(f"app{number:03}"), ACME.id, config)
        first, second = await page(database, limit=200), await page(database, limit=200)
        assert first is not second
        assert first[0] is not second[0]
        assert first[1] is second[1]
        assert [one.ref for one in first] == [one.ref for one in second]
        few = await page(database, limit=2)
        assert await page(database, limit=2) is few

    async def test_page_is_made_once_and_anew_when_one_of_its_apps_changes(
        self, database: Database
    ) -> None:
        app, _ = await new_app(database, "a"), await new_app(database, "b")
        await new_app(database, "a", RIVAL)
        before = await page(database)
        assert await page(database) is before
        assert [one.ref.name for one in await page(database, after="a")] == ["b"]
        assert [one.ref.name for one in await page(database, limit=1)] == ["a"]
        async with database.transaction() as tx:
            await tx.apps.set_config(app, AppConfig(description="other"))
        after = await page(database)
        assert [one.description for one in after] == ["other", ""]
        assert after[1] is before[1]
        async with database.transaction() as tx:
            await tx.apps.delete(app)
        assert await page(database) == (before[1],)

    async def test_taken_name_leaves_the_transaction_usable(self, database: Database) -> None:
        await new_app(database)
        async with database.transaction() as tx:
            with pytest.raises(AlreadyExists):
                await tx.apps.create(ref(), ACME.id, AppConfig())
            await tx.apps.create(ref("other"), ACME.id, AppConfig())
        async with database.transaction() as tx:
            assert await tx.apps.count(ACME.name) == 2

    async def test_unknown_organization_is_not_taken_for_a_taken_name(
        self, database: Database
    ) -> None:
        with pytest.raises(FailedPrecondition):
            async with database.transaction() as tx:
                await tx.apps.create(ref(), OrganizationId("nobody"), AppConfig())

    async def test_names_sort_by_their_bytes(self, database: Database) -> None:
        for name in ("b", "a", "a-b", "a.b", "a1", "0"):
            await new_app(database, name)
        await new_app(database, "c", RIVAL)
        async with database.transaction() as tx:
            found = await tx.apps.list(ACME.name, after="", limit=10)
            rest = await tx.apps.list(ACME.name, after="a-b", limit=2)
        assert [app.ref.name for app in found] == ["0", "a", "a-b", "a.b", "a1", "b"]
        assert [app.ref.name for app in rest] == ["a.b", "a1"]

    async def test_wanted_generations_are_behind_until_observed(self, database: Database) -> None:
        app = await new_app(database)
        async with database.transaction() as tx:
            assert await tx.apps.behind(10) == (app.id,)
            await tx.status.record(app.id, app.generation, app.state, AppStatus())
            assert await tx.apps.behind(10) == ()
            app = await tx.apps.set_config(app, AppConfig(author="me"))
            assert await tx.apps.behind(10) == (app.id,)
            # Late, of the config before.
            await tx.status.record(app.id, app.generation - 1, app.state, AppStatus())
            assert await tx.apps.behind(10) == (app.id,)

    async def test_numbers_are_never_given_twice(self, database: Database) -> None:
        app = await new_app(database)

        async def take() -> int:
            async with database.transaction() as tx:
                return await tx.apps.take_number(app)

        async with asyncio.TaskGroup() as tasks:
            taken = [tasks.create_task(take()) for _ in range(6)]
        assert sorted(task.result() for task in taken) == [1, 2, 3, 4, 5, 6]

    async def test_unknown_app_is_not_found(self, database: Database) -> None:
        await new_app(database)
        async with database.transaction() as tx:
            with pytest.raises(AppNotFound):
                await tx.apps.get(ref("web", RIVAL))

    async def test_status_is_replaced(self, database: Database) -> None:
        app = await new_app(database)
        replica = ObservedReplica(id="r", version=1, state="ready", started_at=app.created_at)
        async with database.transaction() as tx:
            assert await tx.status.get(app.id) == AppStatus()
            for seen in (
                AppStatus(desired_replicas=1, replicas=(replica,)),
                AppStatus(desired_replicas=2),
            ):
                assert await tx.status.record(app.id, app.generation, app.state, seen)
            assert await tx.status.get(app.id) == AppStatus(desired_replicas=2)

    async def test_a_record_of_another_generation_is_not_written(self, database: Database) -> None:
        app = await new_app(database)
        seen = AppStatus(desired_replicas=1, error="boom", error_reason="Crashed")
        async with database.transaction() as tx:
            assert await tx.status.record(app.id, app.generation, DeploymentState.COLD, seen)
        async with database.transaction() as tx:
            assert await tx.status.get(app.id) == seen
            found = await tx.apps.get(app.ref)
            assert (found.state, found.observed_generation) == (DeploymentState.COLD, 1)
            await tx.apps.set_config(app, AppConfig(author="me"))
            late = AppStatus(desired_replicas=9)
            assert not await tx.status.record(app.id, 1, DeploymentState.DEPLOYED, late)
            assert not await tx.status.record(app.id + 1, 1, DeploymentState.DEPLOYED, late)
            assert await tx.status.get(app.id) == seen
            assert (await tx.apps.get(app.ref)).state is DeploymentState.COLD


class TestHostnames:
    async def test_label_has_one_owner(self, database: Database) -> None:
        first, second = await new_app(database, "a"), await new_app(database, "b", RIVAL)
        async with database.transaction() as tx:
            await tx.apps.claim_labels(first, [("x", 80)])
        async with database.transaction() as tx:
            with pytest.raises(AlreadyExists, match="'x' is taken"):
                await tx.apps.claim_labels(second, [("w", 80), ("x", 80)])

    async def test_claims_that_cross_do_not_deadlock(self, database: Database) -> None:
        apps = [await new_app(database, "a"), await new_app(database, "b", RIVAL)]
        labels = [[("x", 1), ("y", 2)], [("y", 2), ("x", 1)]]

        async def take(number: int) -> bool:
            try:
                async with database.transaction() as tx:
                    await tx.apps.claim_labels(apps[number], labels[number])
            except (AlreadyExists, Unavailable):
                return False
            return True

        for _ in range(10):
            async with asyncio.TaskGroup() as tasks:
                taken = [tasks.create_task(take(number)) for number in range(2)]
            assert sorted(task.result() for task in taken) == [False, True]
            async with database.transaction() as tx:
                for app in apps:
                    await tx.apps.claim_labels(app, [(f"own-{app.id}", 1)])

    async def test_dropped_label_is_free(self, database: Database) -> None:
        first, second = await new_app(database, "a"), await new_app(database, "b")
        async with database.transaction() as tx:
            await tx.apps.claim_labels(first, [("x", 80), ("y", 81)])
            await tx.apps.claim_labels(first, [("y", 81)])
            await tx.apps.claim_labels(second, [("x", 80)])


class TestBuildQueue:
    async def test_oldest_goes_first_and_each_to_one_worker(self, database: Database) -> None:
        app = await new_app(database)
        for number in range(1, 4):
            await new_build(database, app, number)
        first = await claim(database)
        assert first is not None
        assert first[0].id == "bld_1"
        assert first[0].state is BuildState.RUNNING
        async with asyncio.TaskGroup() as tasks:
            rest = [tasks.create_task(claim(database, f"t{n}")) for n in range(4)]
        ids = [found[0].id for found in (task.result() for task in rest) if found]
        assert sorted(ids) == ["bld_2", "bld_3"]

    async def test_lease_that_ran_out_is_taken_over(self, database: Database) -> None:
        app = await new_app(database)
        await new_build(database, app)
        first = await claim(database, "old", NOTHING)
        assert first is not None
        second = await claim(database, "new")
        assert second is not None
        async with database.transaction() as tx:
            assert not await tx.builds.renew(first[1], MINUTE)
            assert not await tx.builds.finish(first[1], BuildState.SUCCEEDED, artifact="old")
            assert await tx.builds.renew(second[1], MINUTE)
            assert await tx.builds.finish(second[1], BuildState.SUCCEEDED, artifact="new")
            found = await tx.builds.get(app.id, "bld_1")
        assert found is not None
        assert (found.state, found.artifact) == (BuildState.SUCCEEDED, "new")

    async def test_ended_build_stays_ended(self, database: Database) -> None:
        app = await new_app(database)
        await new_build(database, app)
        claimed = await claim(database)
        assert claimed is not None
        async with database.transaction() as tx:
            assert await tx.builds.finish(claimed[1], BuildState.FAILED, error="e", reason="R")
            assert not await tx.builds.finish(claimed[1], BuildState.SUCCEEDED)
        assert await claim(database) is None

    async def test_released_build_is_claimed_at_once(self, database: Database) -> None:
        app = await new_app(database)
        await new_build(database, app)
        claimed = await claim(database)
        assert claimed is not None
        async with database.transaction() as tx:
            await tx.builds.release(claimed[1])
        assert await claim(database, "next") is not None

    async def test_artifact_is_found_by_hash_within_the_organization(
        self, database: Database
    ) -> None:
        app = await new_app(database)
        await new_build(database, app)
        claimed = await claim(database)
        assert claimed is not None
        async with database.transaction() as tx:
            assert await tx.builds.artifact_of(ACME.name, "a" * 64) == ("", "")
            await tx.builds.finish(
                claimed[1], BuildState.SUCCEEDED, artifact="art", runtime_version="3.11.7"
            )
            assert await tx.builds.artifact_of(ACME.name, "a" * 64) == ("art", "3.11.7")
            assert await tx.builds.artifact_of(RIVAL.name, "a" * 64) == ("", "")
            assert await tx.builds.artifact_of(ACME.name, "b" * 64) == ("", "")

    async def test_deploy_id_is_the_organizations_own(self, database: Database) -> None:
        await new_build(database, await new_app(database))
        async with database.transaction() as tx:
            assert await tx.builds.by_deploy_id(ACME.name, "dep_1") is not None
            assert await tx.builds.by_deploy_id(RIVAL.name, "dep_1") is None

    async def test_lines_come_in_pages(self, database: Database) -> None:
        app = await new_app(database)
        build = await new_build(database, app)
        lines = [
            BuildLine(number=n, at=app.created_at, stream="stdout", message=f"é{n}")
            for n in range(1, 6)
        ]
        async with database.transaction() as tx:
            await tx.builds.add_lines(build.id, lines)
            await tx.builds.add_lines(build.id, [])
            assert await tx.builds.last_line(build.id) == 5
            assert await tx.builds.lines(build.id, after=0, limit=2) == tuple(lines[:2])
            assert await tx.builds.lines(build.id, after=2, limit=10) == tuple(lines[2:])


class TestVersions:
    async def test_save_replaces_the_draft_whole(self, database: Database) -> None:
        app = await new_app(database)
        build = await new_build(database, app)
        async with database.transaction() as tx:
            await tx.versions.save_draft(app, code(), "art")
            await tx.versions.attach_build(app.id, 0, build)
            await tx.versions.failed(build, "e", "R")
            saved = await tx.versions.save_draft(app, code("b"), "")
        assert (saved.status, saved.artifact, saved.build_id) == (VersionStatus.DRAFT, "", "")
        assert (saved.error, saved.compiled_at) == ("", None)
        assert saved.code == code("b")

    async def test_result_of_a_build_reaches_those_that_wait_for_it(
        self, database: Database
    ) -> None:
        app = await new_app(database)
        build, other = await new_build(database, app), await new_build(database, app, 2)
        async with database.transaction() as tx:
            await tx.versions.save_draft(app, code(), "")
            await tx.versions.attach_build(app.id, 0, build)
            draft = await tx.versions.get(app.id, 0)
            assert draft is not None
            for number in (1, 2):
                await tx.versions.publish(draft, number, app.config, VersionStatus.COMPILING)
            await tx.versions.move(app.id, 2, VersionStatus.FAILED, reason="Refused")
            assert await tx.versions.compiled(other, "x") == ()
            assert sorted(await tx.versions.compiled(build, "art")) == [0, 1]
            second = await tx.versions.get(app.id, 2)
        assert second is not None
        assert (second.artifact, second.error_reason) == ("", "Refused")

    @pytest.mark.parametrize("source", [s for s in VersionStatus if s], ids=lambda s: s.name)
    async def test_only_legal_moves_are_made(
        self, database: Database, source: VersionStatus
    ) -> None:
        app = await new_app(database)
        async with database.transaction() as tx:
            draft = await tx.versions.save_draft(app, code(), "")
            for target in VersionStatus:
                if not target:
                    continue
                number = int(target)
                await tx.versions.publish(draft, number, app.config, source)
                moved = await tx.versions.move(app.id, number, target)
                assert moved == (target in MOVES[source]), target


class TestHints:
    async def test_watcher_is_woken_by_a_committed_hint_for_its_build(
        self, database: Database
    ) -> None:
        hints = BuildLineHints(database)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(hints.run(lambda: None))
            with hints.watch("mine") as mine, hints.watch("other") as other:
                await _heard(mine)  # listening begins with one hint for all
                other.clear()
                mine.clear()
                async with database.transaction() as tx:
                    await tx.notify(BUILD_LINES_CHANNEL, "mine")
                    assert not mine.is_set()
                await _heard(mine)
                assert not other.is_set()
            assert not hints._watchers
            task.cancel()


async def _heard(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()
