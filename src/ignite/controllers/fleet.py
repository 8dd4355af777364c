"""All apps in memory, with the versions that may run: what the deployment controller works on.

Routes of sleeping apps have to be known without a query, so everything is loaded at start; a hint
marks one app stale, and it is read again before it is worked on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ignite.db.database import Database
from ignite.domain.apps import App, AppRef, AppStatus, DeploymentState
from ignite.domain.versions import Version

_PAGE = 500


@dataclass(slots=True)
class Deployed:
    """One app. `versions` holds the active one, the target, and those on trial.

    `keys` are the Workloads it has; `recorded` is what was last written of it.
    """

    app: App
    versions: dict[int, Version] = field(default_factory=dict)
    trials: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    is_stale: bool = False
    recorded: tuple[DeploymentState, AppStatus] | None = None

    @property
    def is_rolling(self) -> bool:
        """Tell whether a publish or rollback is under way."""
        return self.app.target_version != self.app.active_version


class Fleet:
    """The apps by id, by name and by Workload."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._apps: dict[int, Deployed] = {}
        self._by_ref: dict[AppRef, int] = {}
        self._by_key: dict[str, int] = {}

    def __iter__(self) -> Iterator[Deployed]:
        return iter(list(self._apps.values()))

    def get(self, app_id: int) -> Deployed | None:
        """Return an app by row id, as last loaded."""
        return self._apps.get(app_id)

    def of_key(self, key: str) -> Deployed | None:
        """Return the app that has a Workload."""
        app_id = self._by_key.get(key)
        return self._apps.get(app_id) if app_id is not None else None

    def own(self, deployed: Deployed, keys: set[str]) -> set[str]:
        """Set the Workloads of an app; returns those it no longer has."""
        gone = deployed.keys - keys
        for key in gone:
            self._by_key.pop(key, None)
        for key in keys:
            self._by_key[key] = deployed.app.id
        deployed.keys = set(keys)
        return gone

    async def load_all(self) -> None:
        """Read every app with its active and target version, in pages."""
        last = 0
        while True:
            async with self._database.transaction() as tx:
                apps = await tx.apps.page_after(last, _PAGE)
                wanted = {
                    (app.id, number)
                    for app in apps
                    for number in (app.active_version, app.target_version)
                    if number
                }
                versions = await tx.versions.of_apps(wanted)
            if not apps:
                return
            last = apps[-1].id
            for app in apps:
                self._keep(Deployed(app=app))
            for version in versions:
                self._apps[version.app_id].versions[version.number] = version

    async def find(self, ref: AppRef) -> Deployed | None:
        """Return an app by name; one that no hint has told of yet is looked up once."""
        if (app_id := self._by_ref.get(ref)) is not None:
            return self._apps[app_id]
        async with self._database.transaction() as tx:
            app = await tx.apps.find(ref)
        return await self.load(app.id) if app is not None else None

    async def load(self, app_id: int) -> Deployed | None:
        """Return an app, read again if it is stale; None when it is gone (see `remove`)."""
        deployed = self._apps.get(app_id)
        if deployed is not None and not deployed.is_stale:
            return deployed
        if deployed is not None:
            deployed.is_stale = False
        try:
            async with self._database.transaction() as tx:
                app = await tx.apps.get_by_id(app_id)
                if app is None:
                    return None
                numbers = {app.active_version, app.target_version} - {0}
                if deployed is not None:
                    numbers |= deployed.trials
                versions = await tx.versions.of_apps({(app_id, number) for number in numbers})
        except BaseException:
            if deployed is not None:
                deployed.is_stale = True
            raise
        if deployed is None:
            deployed = Deployed(app=app)
            self._keep(deployed)
        deployed.app = app
        deployed.versions = {version.number: version for version in versions}
        return deployed

    def remove(self, app_id: int) -> set[str]:
        """Forget an app; returns the Workloads it had."""
        deployed = self._apps.pop(app_id, None)
        if deployed is None:
            return set()
        if self._by_ref.get(deployed.app.ref) == app_id:
            del self._by_ref[deployed.app.ref]
        return self.own(deployed, set())

    def _keep(self, deployed: Deployed) -> None:
        self._apps[deployed.app.id] = deployed
        self._by_ref[deployed.app.ref] = deployed.app.id
