"""Names and addresses of one installation's network, and what its code may reach. Pure.

Installations share the range without a word between them: whoever adds the route of an address
first has it (`namespaces`). Names carry the installation's tag, so that tables never meet.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

# Every interface of every installation begins like this.
FAMILY = "igt"
TABLE_PREFIX = "ignite_"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PLACES = 3


class Kind(StrEnum):
    """Whose network it is; a letter, since an interface's name has fifteen."""

    REPLICA = "r"
    BUILD = "b"


class WrongNetwork(ValueError):
    """A text is no network; it says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one installation's network is made of."""

    tag: str
    range: IPv4Network
    denied: tuple[IPv4Network, ...]
    # Exceptions from `denied`, by whose code it is.
    allowed: tuple[tuple[Kind, tuple[IPv4Network, ...]], ...]

    @property
    def table(self) -> str:
        """The name of the nftables table."""
        return f"{TABLE_PREFIX}{self.tag}"

    @property
    def prefix(self) -> str:
        """What the names of our interfaces begin with."""
        return f"{FAMILY}{self.tag}"

    @property
    def gateway(self) -> IPv4Address:
        """The machine's end of every wire, where names are answered too."""
        return self.range[1]

    @property
    def size(self) -> int:
        """How many addresses there are to give."""
        most: int = len(_DIGITS) ** _PLACES
        return min(self.range.num_addresses - 3, most)

    def address(self, number: int) -> IPv4Address:
        """Return the address of the seat `number`, of `size`."""
        return self.range[number + 2]

    def interface(self, kind: Kind, number: int) -> str:
        """Return the name of the machine's end of a seat's wire."""
        digits: str = ""
        for _ in range(_PLACES):
            number, digit = divmod(number, len(_DIGITS))
            digits = _DIGITS[digit] + digits
        return f"{self.prefix}{kind}{digits}"

    def routes(self, kind: Kind, exceptions: Iterable[IPv4Network] = ()) -> tuple[str, ...]:
        """Return the routes of a namespace: what is denied leads nowhere, the rest to the gateway.

        The rules say the same. These lie inside, where no other program of the machine changes
        them, and code without any privilege neither.
        """
        allowed = {*dict(self.allowed).get(kind, ()), *exceptions}
        open_ways = {IPv4Network("0.0.0.0/0"), *allowed}
        denied = {
            network
            for network in {self.range, *self.denied}
            if not any(network.subnet_of(one) for one in allowed)
        }
        return (
            f"{self.gateway} dev eth0 scope link",
            *(f"{network} via {self.gateway} dev eth0" for network in sorted(open_ways)),
            *(f"unreachable {network}" for network in sorted(denied - open_ways)),
        )

    def is_denied(self, address: IPv4Address, kind: Kind) -> bool:
        """Tell whether code may not reach `address`; the machine's own are denied besides."""
        if any(address in network for network in dict(self.allowed).get(kind, ())):
            return False
        return any(address in network for network in self.denied)


def networks(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    """Return networks or single addresses by their texts; raises WrongNetwork."""
    found: list[IPv4Network] = []
    for text in texts:
        try:
            found.append(IPv4Network(text.strip()))
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise WrongNetwork(f"{text!r} is no IPv4 network: {error}") from None
    return tuple(found)
