"""All apps in memory, with the versions that may run: what the deployment controller works on.

Routes of sleeping apps have to be known without a query, so everything is loaded at start; a hint
marks one app stale, and it is read again before it is worked on.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from ignite.db.database import Database, Transaction
from ignite.domain.apps import DRAFT, App, AppRef, AppStatus
from ignite.domain.versions import Version

_PAGE = 500


@dataclass(slots=True)
class Deployed:
    """One app. `versions` holds the active one, the target, and those on trial.

    `lock` is held by whoever reads or writes the app's record, so that an older read never
    overwrites a newer one. What is in memory changes without waiting in between: it can be read at
    any time.

    `keys` are the Workloads it has; `recorded` is what was last written of it; `rolling` tells
    which target is being started and since when. `passing` runs while replicas start or end and
    that is not written yet; `is_due` once it has to be.
    """

    app: App
    versions: dict[int, Version] = field(default_factory=dict)
    trials: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    is_stale: bool = False
    is_gone: bool = False
    recorded: AppStatus | None = None
    rolling: tuple[int, datetime] | None = None
    passing: asyncio.TimerHandle | None = None
    is_due: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_rolling(self) -> bool:
        """Tell whether a publish or rollback is under way."""
        return self.app.target_version != self.app.active_version

    @property
    def active(self) -> Version | None:
        """The version that serves."""
        number = self.app.active_version
        return None if number == DRAFT else self.versions.get(number)

    @property
    def target(self) -> Version | None:
        """The version that is to serve; the active one when nothing is under way."""
        number = self.app.target_version
        return None if number == DRAFT else self.versions.get(number)

    def is_active(self, number: int) -> bool:
        """Tell whether a version serves; a draft never does."""
        return number != DRAFT and number == self.app.active_version

    def runnable(self) -> list[Version]:
        """Return the versions that have something to run."""
        return [version for version in self.versions.values() if version.artifact]

    def take(self, app: App, versions: Iterable[Version]) -> None:
        """Replace what the record said."""
        self.app = app
        self.versions = {version.number: version for version in versions}


class Fleet:
    """The apps by id, by name and by Workload."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._apps: dict[int, Deployed] = {}
        self._by_ref: dict[AppRef, int] = {}
        self._by_key: dict[str, int] = {}

    def __iter__(self) -> Iterator[Deployed]:
        return iter(list(self._apps.values()))

    def __len__(self) -> int:
        return len(self._apps)

    def get(self, app_id: int) -> Deployed | None:
        """Return an app by row id, as last read."""
        return self._apps.get(app_id)

    def of_key(self, key: str) -> Deployed | None:
        """Return the app that has a Workload."""
        app_id = self._by_key.get(key)
        return self._apps.get(app_id) if app_id is not None else None

    def own(self, deployed: Deployed, keys: Iterable[str]) -> None:
        """Give Workloads to an app."""
        for key in keys:
            self._by_key[key] = deployed.app.id
            deployed.keys.add(key)

    def disown(self, deployed: Deployed, key: str) -> None:
        """Take a Workload from an app that it had."""
        self._by_key.pop(key, None)
        deployed.keys.discard(key)

    async def load_all(self) -> None:
        """Read every app with its active and target version, in pages."""
        last = 0
        while True:
            async with self._database.transaction() as tx:
                apps = await tx.apps.page_after(last, _PAGE)
                versions = await tx.versions.of_apps(
                    {(app.id, number) for app in apps for number in _numbers(app)}
                )
            if not apps:
                return
            last = apps[-1].id
            for app in apps:
                self._keep(Deployed(app=app))
            for version in versions:
                self._apps[version.app_id].versions[version.number] = version

    async def find(self, ref: AppRef) -> Deployed | None:
        """Return an app by name; one that no hint has told of yet is looked up."""
        if (app_id := self._by_ref.get(ref)) is not None:
            return self._apps[app_id]
        async with self._database.transaction() as tx:
            app = await tx.apps.find(ref)
        return await self.of(app.id) if app is not None else None

    async def of(self, app_id: int) -> Deployed | None:
        """Return an app by row id, read if it is not known; None when there is none."""
        if (known := self._apps.get(app_id)) is not None:
            return known
        async with self._database.transaction() as tx:
            app = await tx.apps.get_by_id(app_id)
            versions = await _versions(tx, app, set()) if app is not None else ()
        if (known := self._apps.get(app_id)) is not None:
            known.is_stale = True
            return known
        if app is None:
            return None
        deployed = Deployed(app=app)
        deployed.take(app, versions)
        self._keep(deployed)
        return deployed

    async def refresh(self, deployed: Deployed) -> bool:
        """Read an app again if it is stale; False when it is gone. Needs the app's lock."""
        if not deployed.is_stale:
            return True
        # A hint from here on marks it stale again.
        deployed.is_stale = False
        try:
            async with self._database.transaction() as tx:
                app = await tx.apps.get_by_id(deployed.app.id)
                versions = await _versions(tx, app, deployed.trials) if app is not None else ()
        except BaseException:
            deployed.is_stale = True
            raise
        if app is None:
            deployed.is_stale = True
            return False
        deployed.take(app, versions)
        return True

    def remove(self, deployed: Deployed) -> None:
        """Forget an app whose Workloads are gone."""
        app = deployed.app
        deployed.is_gone = True
        if self._apps.get(app.id) is deployed:
            del self._apps[app.id]
        if self._by_ref.get(app.ref) == app.id:
            del self._by_ref[app.ref]

    def _keep(self, deployed: Deployed) -> None:
        self._apps[deployed.app.id] = deployed
        self._by_ref[deployed.app.ref] = deployed.app.id


def _numbers(app: App) -> set[int]:
    return {app.active_version, app.target_version} - {DRAFT}


async def _versions(tx: Transaction, app: App, trials: set[int]) -> tuple[Version, ...]:
    return await tx.versions.of_apps({(app.id, number) for number in _numbers(app) | trials})
