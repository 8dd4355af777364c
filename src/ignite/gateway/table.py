"""The route table: immutable, swapped whole, kept on disk.

A request reads one table from start to end, so it never sees half a change. The last table is
written to disk: a gateway that starts while controllers are down serves what it knew.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ignite.domain.apps import DRAFT, AppRef
from ignite.domain.identity import OrganizationId, OrganizationName
from ignite.domain.routes import Route
from ignite.domain.workloads import Endpoint, Replica, ReplicaState

FILE_FORMAT = 1
TAG_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteUpdate:
    """One step of the table; removals come before upserts, a snapshot replaces everything."""

    revision: int
    is_snapshot: bool = False
    upserts: tuple[Route, ...] = ()
    removed_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request asks for: an app, and its active version where `version` is None.

    A `tag` names the Workload that alone will do: a draft saved again keeps its number.
    """

    app: AppRef
    version: int | None = None
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A warm route and the names that lead to it. Each name leads to one route alone: Envoy refuses
    all virtual hosts where two claim one name."""

    route: Route
    hostnames: tuple[str, ...]
    is_active: bool


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes at one revision. Revision 0 says that nothing was ever learned.

    A step copies the indexes and touches what it names: with ten thousand apps building them anew
    would take a tenth of a second for every replica that comes or goes. `warm` holds, by app, the
    claims of routes that have replicas; what a step does not change is the same object before and
    after.
    """

    revision: int = 0
    by_key: Mapping[str, Route] = field(default_factory=dict)
    warm: Mapping[str, tuple[Claim, ...]] = field(default_factory=dict, repr=False)
    _by_hostname: Mapping[str, Route] = field(default_factory=dict, repr=False)
    _by_app: Mapping[str, tuple[Route, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, revision: int, routes: Iterable[Route]) -> Self:
        """Index `routes`. Where two claim one name (a draft saved again), the later one has it."""
        step = RouteUpdate(revision=revision, is_snapshot=True, upserts=tuple(routes))
        return cls().apply(step)

    def apply(self, update: RouteUpdate) -> Self:
        """Return the table after `update`."""
        by_key: dict[str, Route] = {}
        by_hostname: dict[str, Route] = {}
        by_app: dict[str, tuple[Route, ...]] = {}
        if not update.is_snapshot:
            by_key.update(self.by_key)
            by_hostname.update(self._by_hostname)
            by_app.update(self._by_app)
        touched: set[str] = set()
        for key in (*update.removed_keys, *(route.key for route in update.upserts)):
            old = by_key.pop(key, None)
            if old is not None:
                touched.add(old.app.id)
                by_app[old.app.id] = tuple(r for r in by_app[old.app.id] if r is not old)
                _unname(by_hostname, old)
        for route in update.upserts:
            touched.add(route.app.id)
            by_key[route.key] = route
            by_app[route.app.id] = (*by_app.get(route.app.id, ()), route)
        losers: set[str] = set()
        for app in touched:
            losers |= _name(by_hostname, by_app[app])
            if not by_app[app]:
                del by_app[app]
        fresh = type(self)(update.revision, by_key, self.warm, by_hostname, by_app)
        gone = self.warm.keys() if update.is_snapshot else set()
        changed = {app: tuple(fresh.claims(app)) for app in touched | losers | gone}
        changed = {app: found for app, found in changed.items() if found != self.warm.get(app, ())}
        if not changed:
            return fresh
        warm = {app: found for app, found in {**self.warm, **changed}.items() if found}
        return replace(fresh, warm=warm)

    def claims(self, app: str) -> Iterable[Claim]:
        """Yield the claims of an app's warm routes.

        A draft has none: who tries one names its code, and only the activator looks at that.
        """
        for route in self._by_app.get(app, ()):
            if (
                route.is_warm
                and route.version != DRAFT
                and self.of_target(Target(app=route.app, version=route.version)) is route
            ):
                names = {name.lower() for name in route.hostnames}
                mine = tuple(sorted(n for n in names if self.of_host(n) is route))
                yield Claim(route, mine, self.of_target(Target(app=route.app)) is route)

    def of_host(self, host: str) -> Route | None:
        """Return the route a Host header leads to; a port and a last dot do not count."""
        return self._by_hostname.get(bare_host(host))

    def of_target(self, target: Target) -> Route | None:
        """Return the route of an app's version."""
        for route in reversed(self._by_app.get(target.app.id, ())):
            if _answers(route, target):
                return route
        return None


def tag_of(key: str) -> str:
    """Return a Workload's key as it fits into a host name."""
    return hashlib.sha256(key.encode()).hexdigest()[:TAG_LENGTH]


def targets_of(route: Route) -> tuple[Target, ...]:
    """Return all that requests for `route` may have asked for."""
    targets = [Target(app=route.app), Target(app=route.app, version=route.version)]
    if route.version == DRAFT:
        targets.append(Target(app=route.app, version=DRAFT, tag=tag_of(route.key)))
    return tuple(targets)


def _answers(route: Route, target: Target) -> bool:
    if target.version is None:
        return route.is_active
    if route.version != target.version:
        return False
    return not target.tag or tag_of(route.key) == target.tag


def _name(by_hostname: dict[str, Route], routes: Iterable[Route]) -> set[str]:
    """Give active routes their names; return the apps that had one of them."""
    losers = set()
    for route in routes:
        for name in route.hostnames if route.is_active else ():
            old = by_hostname.get(name.lower())
            if old is not None and old is not route:
                losers.add(old.app.id)
            by_hostname[name.lower()] = route
    return losers


def _unname(by_hostname: dict[str, Route], route: Route) -> None:
    for name in route.hostnames:
        if by_hostname.get(name.lower()) is route:
            del by_hostname[name.lower()]


def bare_host(host: str) -> str:
    """Return `host` in lower case without port and last dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].removesuffix(".")


def dumps(table: RouteTable) -> str:
    """Return the file's text."""
    routes = [_route_json(route) for route in table.by_key.values()]
    return json.dumps({"format": FILE_FORMAT, "revision": table.revision, "routes": routes})


def loads(text: str) -> RouteTable:
    """Return the table in `text`. Raises ValueError when it is not one of ours."""
    try:
        found = json.loads(text)
        if found["format"] != FILE_FORMAT:
            raise ValueError
        return RouteTable.of(int(found["revision"]), map(_route, found["routes"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("not a route table") from error


def save(table: RouteTable, folder: Path) -> None:
    """Write the table so that a crash leaves the old or the new one, never half of one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = folder / "routes.json.new"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(dumps(table))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / "routes.json")


def load(folder: Path) -> RouteTable:
    """Return the last table saved, or an empty one where there is none that can be read."""
    try:
        return loads((folder / "routes.json").read_text())
    except (OSError, ValueError):
        return RouteTable()


def _route_json(route: Route) -> dict[str, Any]:
    return {
        "key": route.key,
        "organization": route.app.organization,
        "organization_id": route.organization_id,
        "app": route.app.name,
        "version": route.version,
        "is_active": route.is_active,
        "hostnames": list(route.hostnames),
        "allow_unauthenticated": route.allow_unauthenticated,
        "timeout_secs": route.timeout_secs,
        "max_concurrency": route.max_concurrency,
        "failure_reason": route.failure_reason,
        "failure_message": route.failure_message,
        "replicas": [
            {
                "id": replica.id,
                "unix_path": replica.endpoint.unix_path,
                "host": replica.endpoint.host,
                "port": replica.endpoint.port,
            }
            for replica in route.replicas
        ],
    }


def _route(found: dict[str, Any]) -> Route:
    return Route(
        key=found["key"],
        app=AppRef(organization=OrganizationName(found["organization"]), name=found["app"]),
        organization_id=OrganizationId(found["organization_id"]),
        version=found["version"],
        is_active=found["is_active"],
        hostnames=tuple(found["hostnames"]),
        allow_unauthenticated=found["allow_unauthenticated"],
        timeout_secs=found["timeout_secs"],
        max_concurrency=found["max_concurrency"],
        failure_reason=found["failure_reason"],
        failure_message=found["failure_message"],
        replicas=tuple(
            ready_replica(
                found["key"],
                replica["id"],
                Endpoint(
                    unix_path=replica["unix_path"], host=replica["host"], port=replica["port"]
                ),
            )
            for replica in found["replicas"]
        ),
    )


def ready_replica(key: str, replica_id: str, endpoint: Endpoint) -> Replica:
    """Return a replica as the gateway knows it: ready, and where. When it started is not told."""
    return Replica(
        id=replica_id,
        workload=key,
        state=ReplicaState.READY,
        endpoint=endpoint,
        started_at=datetime.fromtimestamp(0, UTC),
    )
