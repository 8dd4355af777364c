"""Names, addresses and rules of a filtered network, and what is made of the settings."""

import shutil
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ignite.sandbox.network import rules
from ignite.sandbox.network.egress import Egress, decide, examine, is_wanted, plan_of
from ignite.sandbox.network.machine import Machine, NetworkTools
from ignite.sandbox.network.namespaces import NetworkFailed
from ignite.sandbox.network.plan import Kind, Plan, WrongNetwork, networks
from ignite.sandbox.report import network_layers
from ignite.settings import BuildSettings, RuntimeSettings

TAG = "0123abcd"


def plan(*, replicas: tuple[str, ...] = (), builds: tuple[str, ...] = ()) -> Plan:
    return plan_of(TAG, RuntimeSettings(egress_allow=replicas), BuildSettings(egress_allow=builds))


class TestPlan:
    @given(number=st.integers(0, 46_655), kind=st.sampled_from(Kind))
    def test_names_of_interfaces_fit_and_say_whose_they_are(self, number: int, kind: Kind) -> None:
        name = plan().interface(kind, number)
        assert len(name) == 15
        assert name.startswith(f"igt{TAG}{kind}")

    def test_no_two_seats_share_a_name_or_an_address(self) -> None:
        made = plan()
        names = {made.interface(kind, n) for kind, n in product(Kind, range(made.size))}
        assert len(names) == 2 * made.size
        addresses = {made.address(number) for number in range(made.size)}
        assert len(addresses) == made.size
        assert made.gateway not in addresses
        assert all(address in made.range for address in addresses)
        assert made.range.broadcast_address not in addresses

    @pytest.mark.parametrize(
        ("address", "is_denied"),
        [
            ("1.1.1.1", False),
            ("8.8.8.8", False),
            ("192.0.2.1", False),
            ("10.200.0.1", True),
            ("127.0.0.1", True),
            ("169.254.169.254", True),
            ("168.63.129.16", True),
            ("172.31.255.255", True),
            ("172.32.0.1", False),
            ("192.168.0.1", True),
            ("100.127.0.1", True),
            ("198.19.0.1", True),
            ("224.0.0.1", True),
            ("255.255.255.255", True),
            ("0.0.0.0", True),
        ],
    )
    def test_what_is_not_the_internet_is_denied(self, address: str, is_denied: bool) -> None:
        for kind in Kind:
            assert plan().is_denied(IPv4Address(address), kind) is is_denied

    def test_exceptions_are_of_one_kind_of_code(self) -> None:
        made = plan(replicas=("10.1.0.0/16",), builds=("10.2.0.1",))
        assert not made.is_denied(IPv4Address("10.1.2.3"), Kind.REPLICA)
        assert made.is_denied(IPv4Address("10.1.2.3"), Kind.BUILD)
        assert not made.is_denied(IPv4Address("10.2.0.1"), Kind.BUILD)
        assert made.is_denied(IPv4Address("10.2.0.2"), Kind.BUILD)

    def test_routes_inside_lead_where_the_rules_allow(self) -> None:
        made = plan(replicas=("10.1.0.0/16", "192.168.0.0/16"))
        found = made.routes(Kind.REPLICA, networks(["172.16.0.9"]))
        assert found[0].startswith(str(made.gateway))
        for network in ("0.0.0.0/0", "10.1.0.0/16", "192.168.0.0/16", "172.16.0.9/32"):
            assert f"{network} via {made.gateway} dev eth0" in found
        for network in ("10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", str(made.range)):
            assert f"unreachable {network}" in found
        assert "unreachable 192.168.0.0/16" not in found
        assert "unreachable 192.168.0.0/16" in made.routes(Kind.BUILD)

    @pytest.mark.parametrize("text", ["", "10.0.0.1/8", "fd00::/8", "10.0.0.0/33", "x; drop"])
    def test_what_is_no_network_is_named(self, text: str) -> None:
        with pytest.raises(WrongNetwork, match="no IPv4 network"):
            networks([text])
        with pytest.raises(NetworkFailed):
            plan_of(TAG, RuntimeSettings(egress_deny=(text,)), BuildSettings())

    def test_a_range_that_is_too_small_is_refused(self) -> None:
        with pytest.raises(NetworkFailed, match="too small"):
            plan_of(TAG, RuntimeSettings(network_range="10.0.0.0/29"), BuildSettings())


class TestRules:
    def test_another_installation_has_other_names(self) -> None:
        text = rules.table(plan(), names_port=53)
        other = plan_of("ffffffff", RuntimeSettings(), BuildSettings())
        assert TAG not in rules.table(other, names_port=53)
        assert TAG in text

    def test_the_lists_are_in(self) -> None:
        text = rules.table(plan(builds=("10.2.0.0/16",)), names_port=53)
        assert "builds_allowed { type ipv4_addr; flags interval; auto-merge; elements = { 10.2" in (
            text
        )
        assert "169.254.0.0/16" in text

    @pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
    @pytest.mark.parametrize("guarded", [(), ("eth0", "wlan0")])
    def test_the_kernel_takes_them(self, guarded: tuple[str, ...], tmp_path: Path) -> None:
        tools = NetworkTools(ip="ip", nft=str(shutil.which("nft")), nsenter="nsenter")
        made = Machine(plan(replicas=("10.1.0.0/16",)), tools, tmp_path)
        try:
            made.check(guarded)
        except NetworkFailed as error:
            if "Operation not permitted" in str(error):
                pytest.skip("needs root")
            raise


class TestEgress:
    @pytest.mark.parametrize(
        ("runtime", "build", "why", "found"),
        [
            ("auto", "auto", "", ("filtered", "filtered")),
            ("auto", "auto", "no nft", ("none", "host")),
            ("none", "filtered", "no nft", ("none", "filtered")),
            ("filtered", "host", "no nft", ("filtered", "host")),
            ("host", "host", "", ("host", "host")),
        ],
    )
    def test_what_is_used(self, runtime: str, build: str, why: str, found: tuple[str, str]) -> None:
        wanted = (
            RuntimeSettings.model_validate({"egress": runtime}),
            BuildSettings.model_validate({"egress": build}),
        )
        made = decide(*wanted, why)
        assert (made.replicas, made.builds, made.why) == (*found, why)

    def test_a_network_that_nobody_uses_is_not_wanted(self) -> None:
        assert not is_wanted(RuntimeSettings(egress="none"), BuildSettings(egress="host"))
        assert is_wanted(RuntimeSettings(egress="none"), BuildSettings(egress="auto"))

    def test_looking_says_which_setting_is_wrong(self, tmp_path: Path) -> None:
        runtime = RuntimeSettings(egress="filtered", egress_allow=("nonsense",))
        found = examine(runtime, BuildSettings(), tmp_path)
        assert found.why
        assert not list(tmp_path.iterdir())


class TestReport:
    @pytest.mark.parametrize(
        ("egress", "is_ok", "is_vital"),
        [
            (Egress(replicas="none", builds="host"), (True, False), (False, False)),
            (Egress(replicas="filtered", builds="filtered"), (True, True), (False, False)),
            (Egress(replicas="host", builds="filtered"), (False, True), (False, False)),
            (Egress(replicas="none", builds="host", why="no nft"), (True, False), (False, False)),
            (
                Egress(replicas="filtered", builds="filtered", why="no nft"),
                (False, False),
                (True, True),
            ),
        ],
    )
    def test_layers_tell_what_is_used(
        self, egress: Egress, is_ok: tuple[bool, bool], is_vital: tuple[bool, bool]
    ) -> None:
        found = network_layers(egress)
        assert tuple(layer.is_ok for layer in found) == is_ok
        assert tuple(layer.is_vital for layer in found) == is_vital
        assert all(layer.fix for layer in found if not layer.is_ok)
