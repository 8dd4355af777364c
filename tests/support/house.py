"""The use cases that refer to files, over real files and a real Postgres, with a janitor."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.clocks import ManualClock

from ignite.archives import inspect
from ignite.blobs.files import FileBlobStore
from ignite.blobs.shelf import BlobShelf
from ignite.builders.shelves import ArtifactShelf, WorkFolderShelf
from ignite.controllers.janitor import Janitor, JanitorMetrics, JanitorRules
from ignite.db.accounts import PostgresAccountStore
from ignite.db.database import Database
from ignite.db.references import References
from ignite.domain.apps import AppConfig, AppRef
from ignite.domain.archives import ArchiveLimits
from ignite.domain.builds import Build, BuildLine, BuildState
from ignite.domain.identity import Organization, OrganizationId, OrganizationName
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.sources import Source
from ignite.layout import Layout
from ignite.ports.shelves import Removed, Shelf
from ignite.services.compute.apps import Apps
from ignite.services.compute.bounds import bounds_of
from ignite.services.compute.drafts import Drafts, Schemas
from ignite.services.compute.sources import Sources
from ignite.settings import DatabaseSettings, LimitSettings, ScalingSettings
from ignite.telemetry.metrics import new_registry

ACME = Organization(id=OrganizationId("01ACME"), name=OrganizationName("acme"))
RIVAL = Organization(id=OrganizationId("01RIVAL"), name=OrganizationName("rival"))
HANDLER = b"def handler(payload, ctx):\n    return payload\n"
GRACE = timedelta(hours=1)
RULES = JanitorRules(interval=timedelta(minutes=10), grace=GRACE, build_log_age=timedelta(days=30))
PYTHON = Runtime(language=Language.PYTHON, version="3.11")


class NothingWaits(Exception):
    """There is no build to do."""


def source(content: bytes = HANDLER) -> Source:
    return Source(runtime=PYTHON, content=content, is_archive=False, build_args={})


@dataclass(slots=True, kw_only=True)
class House:
    """The use cases that refer to files, the files, and a janitor with a clock of its own."""

    database: Database
    layout: Layout
    blobs: FileBlobStore
    shelves: Sequence[Shelf]
    apps: Apps
    drafts: Drafts
    # Far ahead of the files' own times, so that they are old.
    clock: ManualClock = field(default_factory=ManualClock)
    registry: object = field(default_factory=lambda: new_registry(process=False))
    janitor: Janitor = field(init=False)

    def __post_init__(self) -> None:
        self.janitor = self.another_janitor()

    def another_janitor(
        self, shelves: Sequence[Shelf] | None = None, rules: JanitorRules = RULES
    ) -> Janitor:
        registry = self.registry = new_registry(process=False)
        return Janitor(
            shelves or self.shelves,
            References(self.database),
            rules,
            JanitorMetrics(registry),
            now=self.clock,
            monotonic=self.clock.monotonic,
        )

    async def clean(self) -> dict[str, Removed]:
        """Let the janitor look, wait and look again; return what the second look removed."""
        first = await self.janitor.round()
        assert not any(removed.count for removed in first.values())
        self.clock.forward(GRACE.total_seconds())
        return await self.janitor.round()

    async def app(self, name: str, organization: Organization = ACME) -> AppRef:
        await self.apps.create(organization, name, AppConfig(), None)
        return AppRef(organization=organization.name, name=name)

    async def save(self, ref: AppRef, content: bytes = HANDLER) -> str:
        organization = ACME if ref.organization == ACME.name else RIVAL
        draft = await self.drafts.save(organization, ref, source(content), Schemas())
        return draft.code.blob

    async def build(self, *, lines: int = 0) -> Path:
        """Do what a builder and its controller do, for the oldest build that waits."""
        async with self.database.transaction() as tx:
            claimed = await tx.builds.claim("test", os.urandom(8).hex(), timedelta(minutes=1))
        if claimed is None:
            raise NothingWaits
        build, lease = claimed
        digest = hashlib.sha256(build.code.hash.encode()).hexdigest()
        await asyncio.to_thread(self.keep_artifact, build, digest)
        async with self.database.transaction() as tx:
            now = datetime.now(UTC)
            await tx.builds.add_lines(
                build.id,
                [
                    BuildLine(number=at, at=now, stream="stdout", message=f"line {at}")
                    for at in range(1, lines + 1)
                ],
            )
            if await tx.builds.finish(lease, BuildState.SUCCEEDED, artifact=digest):
                await tx.versions.compiled(build, digest)
        return self.layout.artifact(build.organization, digest)

    def keep_artifact(self, build: Build, digest: str) -> None:
        target = self.layout.artifact(build.organization, digest)
        shelf = ArtifactShelf(self.layout)
        if shelf.keep(target):
            return
        made = self.layout.builds / f"{build.id}-{os.urandom(4).hex()}"
        (made / "out").mkdir(parents=True)
        (made / "out/handler.py").write_text("x")
        shelf.put(made / "out", target)
        shutil.rmtree(made)

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        from sqlalchemy import text

        async with self.database.transaction() as tx:
            return [tuple(row) for row in await tx.connection.execute(text(statement))]

    async def missing(self) -> list[str]:
        """Return what rows refer to and is not there."""
        blobs = await self.rows(
            "SELECT organization, blob FROM versions JOIN apps ON id = app_id UNION "
            "SELECT organization, blob FROM builds WHERE state IN ('pending', 'running')"
        )
        artifacts = await self.rows(
            "SELECT organization, artifact FROM versions JOIN apps ON id = app_id "
            "WHERE artifact <> '' UNION "
            "SELECT organization, artifact FROM builds WHERE artifact <> ''"
        )
        gone = [
            f"blob {organization}/{digest}"
            for organization, digest in blobs
            if not (self.layout.blobs / organization / digest[:2] / digest[2:]).is_file()
        ]
        return gone + [
            f"artifact {organization}/{digest}"
            for organization, digest in artifacts
            if not (self.layout.artifact(organization, digest) / "handler.py").is_file()
        ]

    def files(self) -> list[Path]:
        folders = (self.layout.blobs, self.layout.artifacts, self.layout.builds)
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@asynccontextmanager
async def running_house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    layout = Layout(tmp_path / "data")
    for folder in (layout.blobs, layout.artifacts, layout.builds):
        folder.mkdir(parents=True)
    database = Database(database_url, DatabaseSettings())
    accounts = PostgresAccountStore(database)
    for organization in (ACME, RIVAL):
        await accounts.create_organization(organization.id, organization.name, "")
    bounds = bounds_of(LimitSettings(), ScalingSettings())
    blobs = FileBlobStore(layout.blobs)
    limits = ArchiveLimits(archive_bytes=10**6, unpacked_bytes=10**6, entries=100, ratio=100)
    sources = Sources(blobs, bounds, lambda content: inspect(content, limits))
    yield House(
        database=database,
        layout=layout,
        blobs=blobs,
        shelves=(BlobShelf(layout.blobs), ArtifactShelf(layout), WorkFolderShelf(layout)),
        apps=Apps(database, sources, bounds, apps_per_organization=1000),
        drafts=Drafts(database, sources, bounds),
    )
    await database.close()
