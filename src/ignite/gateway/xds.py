"""From a route table to Envoy's resources; no I/O, so that equal routes give equal bytes.

Only warm apps are here: a virtual host on each listener that leads to them and a cluster with its
endpoints. One app that changed costs one app's work, however many others are warm: groups of
resources that did not change are the same objects in the next snapshot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from ignite.domain.routes import Route
from ignite.gateway import authorization, fixed_routes, listeners
from ignite.gateway.forms import Forms, Named
from ignite.gateway.messages import CDS, ECDS, EDS, LDS, RDS, VHDS, Resource, parsed
from ignite.gateway.shape import Shape
from ignite.gateway.table import Claim, RouteTable

__all__ = ["CDS", "ECDS", "EDS", "LDS", "RDS", "VHDS", "Compiler", "Resource", "Snapshot"]

Resources = Mapping[str, Mapping[str, Resource]]
"""type url → name → resource."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything Envoy should have at one revision of the table."""

    revision: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class _Made:
    """A claim and what was made of it."""

    claim: Claim
    resources: tuple[Named, ...]


class Compiler:
    """Turns tables into snapshots; what belongs to a route that did not change is used again."""

    def __init__(self, shape: Shape, *, keys: str = "") -> None:
        self._shape = shape
        self._tokens = _token_filter(shape, keys)
        self._forms = Forms(shape)
        self._warm: Mapping[str, tuple[Claim, ...]] = {}
        self._made: dict[str, tuple[_Made, ...]] = {}
        self._alone: dict[str, tuple[Route, tuple[Named, ...]]] = {}
        self._groups: dict[str, dict[str, Resource]] = {CDS: {}, EDS: {}}
        for url, resource in (
            (LDS, parsed(Listener(), listeners.public_listener(shape))),
            (LDS, parsed(Listener(), listeners.internal_listener(shape))),
            (RDS, parsed(RouteConfiguration(), fixed_routes.public_routes(shape))),
            (RDS, parsed(RouteConfiguration(), fixed_routes.internal_routes())),
            *((VHDS, parsed(VirtualHost(), one)) for one in fixed_routes.fallback_hosts(shape)),
        ):
            self._groups.setdefault(url, {})[resource.name] = resource

    def trust(self, keys: str) -> None:
        """Forget which tokens were good; `keys` names the set of keys that decides from now on."""
        self._tokens = _token_filter(self._shape, keys)

    def snapshot(self, table: RouteTable, *, lingering: Iterable[Route] = ()) -> Snapshot:
        """Return what Envoy should have for `table`; of `lingering` routes the cluster stays."""
        self._follow(table)
        groups = {**self._groups, ECDS: {self._tokens.name: self._tokens}}
        if alone := self._lingering(lingering):
            groups[CDS], groups[EDS] = dict(groups[CDS]), dict(groups[EDS])
            for url, resource in alone:
                groups[url][resource.name] = resource
        return Snapshot(table.revision, groups)

    def _follow(self, table: RouteTable) -> None:
        """Bring what belongs to apps up to `table`. Names of an app's resources name the app, so
        apps do not get in each other's way."""
        before, self._warm = self._warm, table.warm
        if before is self._warm:
            return
        changed = {app for app, claims in self._warm.items() if before.get(app) is not claims}
        changed |= before.keys() - self._warm.keys()
        fresh = {url: dict(self._groups[url]) for url in (CDS, EDS, VHDS)}
        for app in changed:
            old = self._made.pop(app, ())
            for made in old:
                for url, resource in made.resources:
                    fresh[url].pop(resource.name, None)
            if claims := self._warm.get(app):
                self._made[app] = tuple(self._make(claim, old) for claim in claims)
            for made in self._made.get(app, ()):
                for url, resource in made.resources:
                    fresh[url][resource.name] = resource
        self._groups.update(fresh)

    def _make(self, claim: Claim, old: Iterable[_Made]) -> _Made:
        for made in old:
            if made.claim == claim:
                return made
        return _Made(claim, tuple(self._forms.of(claim)))

    def _lingering(self, routes: Iterable[Route]) -> list[Named]:
        found: dict[str, tuple[Route, tuple[Named, ...]]] = {}
        for route in routes:
            known = self._alone.get(route.key)
            if known is None or known[0] is not route:
                known = (route, tuple(self._forms.alone(route)))
            found[route.key] = known
        self._alone = found
        return [named for _, resources in found.values() for named in resources]


def _token_filter(shape: Shape, keys: str) -> Resource:
    config = authorization.jwt_filter(shape, keys and f":{keys}")
    return parsed(TypedExtensionConfig(), config)
