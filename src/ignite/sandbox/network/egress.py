"""Which network app code and compiles get on this machine: what is wanted against what can be had.

Where it is left to us, the answer falls to what is not weaker for app code (no network at all), and
for compiles, which are nothing without one, to the machine's, and the report says so.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from ignite.sandbox.network.machine import Machine, NetworkTools, find_tools
from ignite.sandbox.network.namespaces import NetworkFailed
from ignite.sandbox.network.plan import Kind, Plan, networks
from ignite.settings import BuildSettings, RuntimeSettings

Way = Literal["none", "filtered", "host"]
_LONGEST_PREFIX = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What is used. `why` says what stands against a filtered network, "" where it is there."""

    replicas: Way
    builds: Way
    why: str = ""

    @property
    def is_filtered(self) -> bool:
        """Tell whether anything uses the filtered network."""
        return "filtered" in (self.replicas, self.builds)


def decide(runtime: RuntimeSettings, build: BuildSettings, why: str) -> Egress:
    """Return what is used where `why` stands against a filtered network.

    One that is asked for by name stays asked for: the report then refuses to run code.
    """
    replicas: Way = runtime.egress if runtime.egress != "auto" else "none" if why else "filtered"
    builds: Way = build.egress if build.egress != "auto" else "host" if why else "filtered"
    return Egress(replicas=replicas, builds=builds, why=why)


def is_wanted(runtime: RuntimeSettings, build: BuildSettings) -> bool:
    """Tell whether a filtered network is of any use."""
    return decide(runtime, build, "").is_filtered


def plan_of(tag: str, runtime: RuntimeSettings, build: BuildSettings) -> Plan:
    """Return the plan that the settings ask for; raises NetworkFailed naming a wrong one."""
    try:
        for resolver in runtime.resolvers:
            ip_address(resolver)
        (whole,) = networks([runtime.network_range])
        plan = Plan(
            tag=tag,
            range=whole,
            denied=networks(runtime.egress_deny),
            allowed=(
                (Kind.REPLICA, networks(runtime.egress_allow)),
                (Kind.BUILD, networks(build.egress_allow)),
            ),
        )
    except ValueError as error:
        raise NetworkFailed(str(error)) from error
    if whole.prefixlen > _LONGEST_PREFIX:
        raise NetworkFailed(f"{whole} is too small: /{_LONGEST_PREFIX} is the least")
    return plan


def examine(runtime: RuntimeSettings, build: BuildSettings, run: Path) -> Egress:
    """Find out what would be used, and change nothing on the machine."""
    why = ""
    if is_wanted(runtime, build):
        try:
            tools: NetworkTools = find_tools()
            Machine(plan_of("doctor", runtime, build), tools, run).check()
        except NetworkFailed as error:
            why = str(error)
    return decide(runtime, build, why)
