"""Network namespaces for replicas and compiles, some of them made before they are needed.

One goes to one sandbox and is never used again. Its address is given to another sandbox only after
all others had their turn, so that late packets for the one do not meet the other.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from ignite.sandbox.network.egress import Egress, decide, is_wanted, plan_of
from ignite.sandbox.network.machine import Machine, NetworkTools, find_tools, smallest_mtu
from ignite.sandbox.network.names import NameServer, Resolvers
from ignite.sandbox.network.namespaces import (
    AddressTaken,
    Namespace,
    NetworkFailed,
    Seat,
    make_namespace,
)
from ignite.sandbox.network.plan import Kind, Plan
from ignite.settings import BuildSettings, RuntimeSettings

logger = logging.getLogger(__name__)

PREMADE = 4
RETRY_SECS = 10.0
LOOK_SECS = 2.0
RESOLVE_SECS = 5.0
_TRIES = 200


class Networks:
    """The filtered network of this installation, if there is one. A lifecycle component."""

    name = "networks"

    def __init__(self, runtime: RuntimeSettings, build: BuildSettings, run: Path) -> None:
        self._runtime = runtime
        self._build = build
        self._run_folder = run
        self._plan: Plan | None = None
        self._tools: NetworkTools | None = None
        self._machine: Machine | None = None
        self._names = NameServer(Resolvers(runtime.resolvers))
        self._mtu = 0
        self._next = 0
        # Namespaces are made by threads.
        self._lock = threading.Lock()
        self._used: set[int] = set()
        self._ready: deque[tuple[int, Namespace]] = deque()
        self._taken: dict[int, int] = {}
        self._wanted = asyncio.Event()
        self.egress = decide(runtime, build, "it was not set up")

    @property
    def gateway(self) -> IPv4Address | None:
        """Where names are answered, for code in the filtered network."""
        return self._plan.gateway if self._plan else None

    def open(self) -> Egress:
        """Set the network up as far as that is wanted and possible. Blocks for some 50 ms."""
        why = ""
        if is_wanted(self._runtime, self._build):
            try:
                self._set_up()
            except NetworkFailed as error:
                why = str(error)
                self._plan = self._machine = None
                self._names.close()
        self.egress = decide(self._runtime, self._build, why)
        return self.egress

    async def run(self, ready: Callable[[], None]) -> None:
        """Answer for names and keep some namespaces ready, until cancelled."""
        machine = self._machine
        if machine is None:
            ready()
            await asyncio.Event().wait()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._names.run(), name="names")
                tasks.create_task(self._keep_up(machine), name="rules")
                if self.egress.replicas == "filtered":
                    tasks.create_task(self._fill(), name="networks")
                ready()
        finally:
            await asyncio.shield(asyncio.to_thread(self._take_down, machine))

    async def take(self, kind: Kind) -> Namespace | None:
        """Return a namespace, None where such code has none. Raises NetworkFailed."""
        way = self.egress.replicas if kind is Kind.REPLICA else self.egress.builds
        if way != "filtered":
            return None
        if kind is Kind.REPLICA and self._ready:
            number, namespace = self._ready.popleft()
            self._wanted.set()
        else:
            number, namespace = await asyncio.to_thread(self._make, kind)
        self._taken[namespace.descriptor] = number
        return namespace

    def give_back(self, namespace: Namespace) -> None:
        """Let a namespace go. What ran in it must be dead."""
        number = self._taken.pop(namespace.descriptor, None)
        namespace.close()
        if number is not None:
            self._used.discard(number)

    async def allow_index(self, url: str) -> None:
        """Let compiles reach the package index that they are told to use, wherever it is.

        It is the operator's word, as an exception in the settings would be. Not for an index on
        this machine: nothing of the machine is reached from inside.
        """
        plan, machine = self._plan, self._machine
        if plan is None or machine is None or self.egress.builds != "filtered":
            return
        try:
            host = urlsplit(url).hostname
        except ValueError:
            return
        if not host:
            return
        found = await _addresses(host)
        allowed = [IPv4Network(one) for one in found if plan.is_denied(one, Kind.BUILD)]
        if any(network.is_loopback for network in allowed):
            logger.warning(
                "compiles cannot reach a package index on this machine's loopback",
                extra={"fix": "set IGNITE__BUILD__EGRESS=host"},
            )
        outside = [network for network in allowed if not network.is_loopback]
        if outside:
            try:
                await asyncio.to_thread(machine.allow, Kind.BUILD, outside)
            except NetworkFailed as error:
                logger.warning("package index not allowed", extra={"why": str(error)})

    def _set_up(self) -> None:
        plan = plan_of(self._run_folder.name, self._runtime, self._build)
        tools = find_tools()
        machine = Machine(plan, tools, self._run_folder.parent)
        machine.check()
        port = self._names.open(plan.gateway)
        uplinks = machine.put_up(names_port=port)
        self._plan, self._tools, self._machine = plan, tools, machine
        self._mtu = smallest_mtu(uplinks)
        # Numbers of an earlier spawner rest as well.
        self._next = secrets.randbelow(plan.size)
        try:
            number, namespace = self._make(Kind.REPLICA)
        except NetworkFailed:
            machine.take_down()
            raise
        if self._runtime.egress in ("auto", "filtered"):
            self._ready.append((number, namespace))
        else:
            namespace.close()
            self._used.discard(number)

    def _take_down(self, machine: Machine) -> None:
        while self._ready:
            self._ready.popleft()[1].close()
        self._names.close()
        try:
            machine.take_down()
        except NetworkFailed as error:
            logger.warning("network not taken down", extra={"why": str(error)})

    async def _keep_up(self, machine: Machine) -> None:
        while True:
            await asyncio.sleep(LOOK_SECS)
            try:
                if await asyncio.to_thread(machine.keep_up):
                    logger.error("network changed by another program, put up again")
            except NetworkFailed as error:
                logger.error("the network is not as it should be", extra={"why": str(error)})

    async def _fill(self) -> None:
        while True:
            self._wanted.clear()
            try:
                while len(self._ready) < PREMADE:
                    self._ready.append(await asyncio.to_thread(self._make, Kind.REPLICA))
            except Exception:  # none made ahead costs time alone
                logger.exception("network namespace not made")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECS):
                        await self._wanted.wait()
                continue
            await self._wanted.wait()

    def _make(self, kind: Kind) -> tuple[int, Namespace]:
        assert self._plan is not None
        assert self._tools is not None
        assert self._machine is not None
        routes = self._plan.routes(kind, self._machine.exceptions(kind))
        for _ in range(_TRIES):
            number = self._take_number(self._plan.size)
            try:
                seat = Seat(kind=kind, number=number)
                made = make_namespace(self._plan, seat, routes, ip=self._tools.ip, mtu=self._mtu)
            except AddressTaken:
                # Another installation has it.
                self._used.discard(number)
            except BaseException:
                self._used.discard(number)
                raise
            else:
                return number, made
        raise NetworkFailed("no address is free")

    def _take_number(self, size: int) -> int:
        with self._lock:
            for _ in range(size):
                number = self._next
                self._next = (self._next + 1) % size
                if number not in self._used:
                    self._used.add(number)
                    return number
        raise NetworkFailed(f"all {size} addresses are in use")


async def _addresses(host: str) -> list[IPv4Address]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECS):
            found = await loop.getaddrinfo(host, None, family=socket.AF_INET)
    except OSError:
        # Then the compile finds no name either, and says so.
        return []
    return [IPv4Address(address) for address in dict.fromkeys(str(one[4][0]) for one in found)]
