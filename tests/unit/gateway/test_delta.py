"""The delta stream: order, acknowledgements, refusals and returning Envoys."""

from collections.abc import Iterable
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
)
from google.protobuf.any_pb2 import Any as AnyMessage

from ignite.gateway.delta import DeltaStream
from ignite.gateway.xds import CDS, ECDS, EDS, LDS, RDS, VHDS, Resource, Snapshot

KINDS = {CDS: "cds", ECDS: "ecds", EDS: "eds", LDS: "lds", RDS: "rds", VHDS: "vhds"}


def snapshot(revision: int = 1, **groups: Iterable[str]) -> Snapshot:
    """Make a snapshot of resources written `name` or `name=version`."""
    urls = {short: url for url, short in KINDS.items()}
    resources: dict[str, dict[str, Resource]] = {}
    for short, found in groups.items():
        for text in found:
            name, _, version = text.partition("=")
            resource = Resource(name, version or "1", AnyMessage())
            resources.setdefault(urls[short], {})[name] = resource
    return Snapshot(revision, resources)


class Envoy:
    """The other side, as Envoy behaves: subscribes on start, acknowledges unless it refuses."""

    def __init__(self, stream: DeltaStream, known: dict[str, dict[str, str]] | None = None) -> None:
        self.stream = stream
        self.has: dict[str, dict[str, str]] = {url: {} for url in KINDS}
        self.refuses: set[str] = set()
        self.log: list[str] = []
        for url in (CDS, LDS, VHDS):
            self.ask(url, initial=(known or {}).get(url))
            self.has[url].update((known or {}).get(url, {}))

    def ask(
        self,
        url: str,
        *,
        initial: dict[str, str] | None = None,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
    ) -> None:
        self.stream.receive(
            DeltaDiscoveryRequest(
                type_url=url,
                initial_resource_versions=initial or {},
                resource_names_subscribe=list(subscribe),
                resource_names_unsubscribe=list(unsubscribe),
            )
        )

    def drain(self, wanted: Snapshot) -> None:
        """Take responses until there are none."""
        while responses := list(self.stream.respond(wanted)):
            for response in responses:
                self.take(response)

    def take(self, response: DeltaDiscoveryResponse) -> None:
        url = response.type_url
        names = [resource.name for resource in response.resources]
        came = [f"+{name}" for name in sorted(names)]
        went = [f"-{name}" for name in sorted(response.removed_resources)]
        self.log.append(" ".join([KINDS[url], *came, *went]))
        refused = self.refuses & set(names)
        answer: dict[str, Any] = {"type_url": url, "response_nonce": response.nonce}
        if refused:
            request = DeltaDiscoveryRequest(**answer)
            request.error_detail.message = f"bad {sorted(refused)}"
            self.stream.receive(request)
            return
        for resource in response.resources:
            fresh = resource.name not in self.has[url]
            self.has[url][resource.name] = resource.version
            if url == CDS and fresh:
                self.ask(EDS, subscribe=[resource.name])
            if url == LDS and fresh:
                self.ask(RDS, subscribe=[resource.name])
        for name in response.removed_resources:
            self.has[url].pop(name, None)
            if url == CDS:
                self.has[EDS].pop(name, None)
                self.ask(EDS, unsubscribe=[name])
        self.stream.receive(DeltaDiscoveryRequest(**answer))


BASE: dict[str, Any] = {"lds": ["public"], "rds": ["public"], "vhds": ["public/fallback"]}


def started() -> tuple[DeltaStream, Envoy]:
    stream = DeltaStream()
    envoy = Envoy(stream)
    envoy.drain(snapshot(**BASE))
    envoy.log.clear()
    return stream, envoy


def with_app(version: str = "1", revision: int = 2) -> Snapshot:
    return snapshot(
        revision,
        cds=["a"],
        eds=[f"a={version}"],
        lds=BASE["lds"],
        rds=BASE["rds"],
        vhds=["public/fallback", "public/a"],
    )


class TestOrder:
    def test_an_empty_kind_is_answered_so_that_envoy_goes_on(self) -> None:
        envoy = Envoy(DeltaStream())
        envoy.drain(snapshot())
        assert sorted(envoy.log) == ["cds", "lds", "vhds"]

    def test_a_route_comes_after_its_cluster_and_endpoints(self) -> None:
        stream, envoy = started()
        envoy.drain(with_app())
        assert envoy.log == ["cds +a", "eds +a", "vhds +public/a"]
        assert stream.has_applied(with_app())

    def test_a_cluster_goes_after_its_route(self) -> None:
        stream, envoy = started()
        envoy.drain(with_app())
        envoy.log.clear()
        cold = snapshot(3, **BASE)
        assert not stream.has_applied(cold)
        envoy.drain(cold)
        assert envoy.log == ["vhds -public/a", "cds -a"]
        assert stream.has_applied(cold)

    def test_nothing_more_is_sent_before_the_acknowledgement(self) -> None:
        stream, _ = started()
        first = list(stream.respond(with_app()))
        assert [response.type_url for response in first] == [CDS]
        assert list(stream.respond(with_app())) == []
        assert not stream.has_applied(with_app())

    def test_a_change_of_endpoints_is_one_resource(self) -> None:
        _, envoy = started()
        envoy.drain(with_app())
        envoy.log.clear()
        envoy.drain(with_app("2"))
        assert envoy.log == ["eds +a"]

    def test_a_cluster_that_changed_gets_its_endpoints_again(self) -> None:
        _, envoy = started()
        envoy.drain(with_app())
        envoy.log.clear()
        changed = snapshot(
            3,
            cds=["a=2"],
            eds=["a"],
            lds=BASE["lds"],
            rds=BASE["rds"],
            vhds=["public/fallback", "public/a"],
        )
        envoy.drain(changed)
        assert envoy.log == ["cds +a", "eds +a"]

    def test_an_app_that_falls_asleep_and_wakes_is_sent_whole(self) -> None:
        stream, envoy = started()
        for turn in range(3):
            envoy.drain(with_app(revision=2 + 2 * turn))
            assert envoy.has[EDS] == {"a": "1"}
            envoy.drain(snapshot(3 + 2 * turn, **BASE))
            assert envoy.has[CDS] == {}
        assert stream.rejections == 0


class TestRefusals:
    def test_a_bad_resource_does_not_hold_up_its_neighbours(self) -> None:
        stream, envoy = started()
        envoy.refuses = {"public/b"}
        wanted = snapshot(
            2,
            lds=BASE["lds"],
            rds=BASE["rds"],
            vhds=["public/fallback", "public/a", "public/b", "public/c"],
        )
        envoy.drain(wanted)
        assert envoy.has[VHDS].keys() == {"public/fallback", "public/a", "public/c"}
        assert stream.rejections == 2

    def test_a_refused_resource_is_not_sent_again_until_it_changes(self) -> None:
        stream, envoy = started()
        envoy.refuses = {"public/a"}
        envoy.drain(with_app())
        envoy.log.clear()
        envoy.drain(with_app())
        assert envoy.log == []
        envoy.refuses = set()
        envoy.drain(
            snapshot(
                3,
                cds=["a"],
                eds=["a"],
                lds=BASE["lds"],
                rds=BASE["rds"],
                vhds=["public/fallback", "public/a=2"],
            )
        )
        assert envoy.has[VHDS]["public/a"] == "2"
        assert stream.rejections == 1

    def test_a_refusal_that_leaves_an_old_form_in_force_is_not_applied(self) -> None:
        stream, envoy = started()
        envoy.drain(with_app())
        envoy.refuses = {"a"}
        envoy.drain(with_app("2"))
        assert not stream.has_applied(with_app("2"))
        envoy.refuses = set()
        envoy.drain(with_app("3"))
        assert stream.has_applied(with_app("3"))


class TestReturn:
    def test_an_envoy_that_knows_everything_is_told_nothing(self) -> None:
        known = {
            CDS: {"a": "1"},
            LDS: {"public": "1"},
            VHDS: {"public/fallback": "1", "public/a": "1"},
        }
        stream = DeltaStream()
        envoy = Envoy(stream, known)
        envoy.ask(EDS, initial={"a": "1"}, subscribe=["a"])
        envoy.ask(RDS, initial={"public": "1"}, subscribe=["public"])
        envoy.drain(with_app())
        assert sorted(envoy.log) == ["cds", "lds", "vhds"]
        assert stream.has_applied(with_app())

    def test_what_went_meanwhile_is_removed(self) -> None:
        known = {CDS: {"a": "1", "gone": "1"}, LDS: {"public": "1"}, VHDS: {"public/gone": "1"}}
        stream = DeltaStream()
        envoy = Envoy(stream, known)
        envoy.ask(EDS, initial={"a": "1", "gone": "1"}, subscribe=["a", "gone"])
        envoy.ask(RDS, initial={"public": "1"}, subscribe=["public"])
        envoy.drain(with_app())
        assert envoy.has[CDS].keys() == {"a"}
        assert envoy.has[VHDS].keys() == {"public/fallback", "public/a"}
        assert envoy.log.index("cds -gone") > envoy.log.index(
            "vhds +public/a +public/fallback -public/gone"
        )
