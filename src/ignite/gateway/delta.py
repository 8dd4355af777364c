"""One delta ADS stream as a state machine without I/O: requests in, responses out.

A change goes out in three steps, each acknowledged before the next: clusters and endpoints, then
listeners and routes, then the removal of clusters. So no route ever leads to a cluster that is not
there, and a cluster goes only when nothing leads to it.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from envoy.service.discovery.v3.discovery_pb2 import Resource as WireResource

from ignite.gateway.xds import CDS, ECDS, EDS, LDS, RDS, VHDS, Resource, Snapshot

logger = logging.getLogger(__name__)

WILDCARDS = frozenset({CDS, LDS, VHDS})
"""Types of which Envoy gets all there are; of the others what it names."""

_NONE: "Mapping[str, Resource]" = {}
_counter = itertools.count(1)


@dataclass(slots=True)
class _Kind:
    """What a stream knows of one type. `sent` is what Envoy has or will have once it acknowledges.

    `rejected` holds versions that Envoy refused, so that they are not sent again and again.
    `settled` and `warmed` are the groups of resources that nothing was left to do for: groups that
    did not change are the same objects in the next snapshot and are not looked through again.
    """

    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    batch: dict[str, str | None] = field(default_factory=dict)
    is_answered: bool = False
    one_by_one: bool = False
    settled: "tuple[Mapping[str, Resource], bool] | None" = None
    warmed: "Mapping[str, Resource] | None" = None

    def forget_settled(self) -> None:
        """Look through the resources again: what Envoy has is another thing now."""
        self.settled = self.warmed = None


class DeltaStream:
    """What one Envoy has been told, and what it is to be told next."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self.rejections = 0

    def receive(self, request: DeltaDiscoveryRequest) -> None:
        """Take in a subscription, an acknowledgement or a refusal."""
        known = request.type_url in self._kinds
        kind = self._kinds.setdefault(request.type_url, _Kind())
        kind.forget_settled()
        if not known:
            kind.sent.update(request.initial_resource_versions)
        kind.names |= set(request.resource_names_subscribe)
        for name in request.resource_names_unsubscribe:
            kind.names.discard(name)
            if request.type_url not in WILDCARDS:
                kind.sent.pop(name, None)
                kind.rejected.pop(name, None)
        for name in request.resource_names_subscribe:
            # Subscribing again asks to be told again.
            if known and request.type_url not in WILDCARDS:
                kind.sent.pop(name, None)
        if request.response_nonce and request.response_nonce == kind.nonce:
            self._answer(request, kind)

    def respond(self, snapshot: Snapshot) -> Iterator[DeltaDiscoveryResponse]:
        """Yield what can be sent now on the way to `snapshot`."""
        for step in ((CDS, EDS), (LDS, ECDS, RDS, VHDS)):
            for url in step:
                yield from self._send(url, snapshot, removes=url != CDS)
            if not self._is_done(step, snapshot):
                return
        yield from self._send(CDS, snapshot, removes=True)

    def has_applied(self, snapshot: Snapshot) -> bool:
        """Tell whether Envoy acknowledged all of `snapshot`, removals included.

        A refusal counts only where Envoy holds an older form of the resource that it goes by.
        """
        if not {CDS, LDS} <= self._kinds.keys():
            return False
        if any(kind.nonce for kind in self._kinds.values()):
            return False
        if any(name in kind.sent for kind in self._kinds.values() for name in kind.rejected):
            return False
        return not any(
            self._diff(url, kind, snapshot, removes=True) for url, kind in self._kinds.items()
        )

    def _answer(self, request: DeltaDiscoveryRequest, kind: _Kind) -> None:
        batch, kind.batch, kind.nonce = kind.batch, {}, ""
        if not request.HasField("error_detail"):
            for name, version in batch.items():
                kind.rejected.pop(name, None)
                if version is None:
                    kind.sent.pop(name, None)
                else:
                    kind.sent[name] = version
            return
        self.rejections += 1
        logger.error(
            "envoy refused a change; the old configuration stays in force",
            extra={
                "type_url": request.type_url,
                "detail": request.error_detail.message[:2000],
                "resources": len(batch),
            },
        )
        if len(batch) > 1:
            kind.one_by_one = True
        else:
            kind.rejected.update((name, version or "") for name, version in batch.items())

    def _send(
        self, url: str, snapshot: Snapshot, *, removes: bool
    ) -> Iterator[DeltaDiscoveryResponse]:
        kind = self._kinds.get(url)
        if kind is None or kind.nonce:
            return
        changes = self._diff(url, kind, snapshot, removes=removes)
        is_first = url in WILDCARDS and not kind.is_answered
        if not changes and not is_first:
            kind.one_by_one = False
            return
        if kind.one_by_one:
            changes = dict(itertools.islice(changes.items(), 1))
        kind.is_answered = True
        kind.nonce = str(next(_counter))
        kind.batch = {name: None if r is None else r.version for name, r in changes.items()}
        if url == CDS:
            self._forget_endpoints(changes)
        yield DeltaDiscoveryResponse(
            type_url=url,
            nonce=kind.nonce,
            system_version_info=str(snapshot.revision),
            resources=[
                WireResource(name=found.name, version=found.version, resource=found.body)
                for found in changes.values()
                if found is not None
            ],
            removed_resources=[name for name, found in changes.items() if found is None],
        )

    def _forget_endpoints(self, changes: "dict[str, Resource | None]") -> None:
        """A cluster that changed warms again and waits for its endpoints, although it had them."""
        endpoints = self._kinds.get(EDS)
        if endpoints is not None:
            endpoints.forget_settled()
            for name in changes:
                endpoints.sent.pop(name, None)

    def _diff(
        self, url: str, kind: _Kind, snapshot: Snapshot, *, removes: bool
    ) -> "dict[str, Resource | None]":
        wanted = snapshot.resources.get(url, _NONE)
        if kind.settled is not None and kind.settled[0] is wanted and kind.settled[1] >= removes:
            return {}
        sent, asks_for_all = kind.sent, url in WILDCARDS
        changes: dict[str, Resource | None] = {
            name: resource
            for name, resource in wanted.items()
            if sent.get(name) != resource.version
            and kind.rejected.get(name) != resource.version
            and (asks_for_all or name in kind.names)
        }
        # Endpoints and route configurations end with what names them.
        if removes and url in WILDCARDS:
            for name in kind.sent.keys() - wanted.keys():
                if kind.rejected.get(name) != "":
                    changes[name] = None
        if not changes:
            kind.settled = (wanted, removes)
        return changes

    def _is_done(self, step: tuple[str, ...], snapshot: Snapshot) -> bool:
        for url in step:
            kind = self._kinds.get(url)
            if kind is not None and (
                kind.nonce or self._diff(url, kind, snapshot, removes=url != CDS)
            ):
                return False
        if CDS not in step:
            return True
        clusters, endpoints = self._kinds.get(CDS, _Kind()), self._kinds.get(EDS, _Kind())
        wanted = snapshot.resources.get(EDS, _NONE)
        if endpoints.warmed is wanted:
            return True
        if not all(
            name in endpoints.sent or name in endpoints.rejected or name in clusters.rejected
            for name in wanted
        ):
            return False
        # Clusters that were refused may be taken later; then they are waited for.
        endpoints.warmed = None if clusters.rejected else wanted
        return True
