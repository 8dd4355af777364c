"""The rules of one installation's network as the text of an nftables table. Pure.

Addresses are judged when a connection is opened, by where its packets go: a name that changes its
answer between a check and a connection changes nothing. Replies come back because the kernel knows
the connection, and nothing else comes in. A rule that refuses says so to the sender, so that code
fails at once instead of waiting.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network

from ignite.sandbox.network.plan import FAMILY, Kind, Plan

# Bounds on what one address may do to tables that the whole machine shares.
MOST_FLOWS = 1024
_NAMES_PER_SECOND = 200

_REFUSE = "reject with icmpx admin-prohibited"


def table(plan: Plan, *, names_port: int, guarded: Iterable[str] = ()) -> str:
    """Return the table; loading it replaces one of the same name.

    `guarded` are interfaces that forward for our sake alone: for others they still do not.
    """
    name = f"table inet {plan.table}"
    allowed = dict(plan.allowed)
    parts = [
        _set("denied", plan.denied),
        _set("replicas_allowed", allowed.get(Kind.REPLICA, ())),
        _set("builds_allowed", allowed.get(Kind.BUILD, ())),
        "set askers { type ipv4_addr; flags dynamic; size 65535; timeout 1m; }",
        "set flows { type ipv4_addr; flags dynamic; size 65535; }",
        *_chains(plan, names_port, tuple(guarded)),
    ]
    return "\n".join([name, f"delete {name}", f"{name} {{", *parts, "}", ""])


def no_table(name: str) -> str:
    """Return what removes the table `name`, whether it is there or not."""
    return f"table inet {name}\ndelete table inet {name}\n"


def allow(plan: Plan, kind: Kind, networks: Iterable[IPv4Network]) -> str:
    """Return what adds exceptions to a loaded table."""
    name = "replicas_allowed" if kind is Kind.REPLICA else "builds_allowed"
    elements = ", ".join(str(network) for network in networks)
    return f"add element inet {plan.table} {name} {{ {elements} }}\n"


def _set(name: str, networks: Iterable[IPv4Network]) -> str:
    elements = ", ".join(str(network) for network in networks)
    filled = f" elements = {{ {elements} }}" if elements else ""
    return f"set {name} {{ type ipv4_addr; flags interval; auto-merge;{filled} }}"


def _chains(plan: Plan, names_port: int, guarded: tuple[str, ...]) -> tuple[str, ...]:
    ours, gateway = f'"{plan.prefix}*"', plan.gateway
    names = f"ct status dnat ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {names_port}"
    rate = f"limit rate over {_NAMES_PER_SECOND}/second burst {2 * _NAMES_PER_SECOND} packets"
    return (
        # Before anything is remembered of a packet: no IPv6, and no sender's address but the own.
        f"""chain entrance {{ type filter hook prerouting priority raw; policy accept;
            iifname != {ours} return
            meta nfproto != ipv4 drop
            fib saddr . iif oif missing drop
        }}""",
        f"""chain names {{ type nat hook prerouting priority dstnat; policy accept;
            iifname {ours} ip daddr {gateway} udp dport 53 dnat ip to {gateway}:{names_port}
            iifname {ours} ip daddr {gateway} tcp dport 53 dnat ip to {gateway}:{names_port}
        }}""",
        # To the machine itself: questions for names, and nothing else on any of its addresses.
        f"""chain inward {{ type filter hook input priority -10; policy accept;
            iifname != {ours} return
            {names} update @askers {{ ip saddr {rate} }} drop
            {names} accept
            {_REFUSE}
        }}""",
        f"""chain through {{ type filter hook forward priority -10; policy accept;
            {_guard(guarded)}
            iifname {ours} oifname "{FAMILY}*" {_REFUSE}
            oifname {ours} ct state established,related accept
            oifname {ours} drop
            iifname != {ours} return
            ct state invalid drop
            ct status dnat {_REFUSE}
            ct state established,related accept
            ct state new add @flows {{ ip saddr ct count over {MOST_FLOWS} }} {_REFUSE}
            iifname "{plan.prefix}{Kind.REPLICA}*" ip daddr @replicas_allowed accept
            iifname "{plan.prefix}{Kind.BUILD}*" ip daddr @builds_allowed accept
            ip daddr @denied {_REFUSE}
            accept
        }}""",
        # Other users of this machine cannot call what listens inside.
        f"""chain outward {{ type filter hook output priority -10; policy accept;
            oifname {ours} ct state established,related accept
            oifname {ours} drop
        }}""",
        f"""chain hidden {{ type nat hook postrouting priority srcnat; policy accept;
            ip saddr {plan.range} oifname != "{FAMILY}*" masquerade
        }}""",
    )


def _guard(guarded: tuple[str, ...]) -> str:
    if not guarded:
        return ""
    names = ", ".join(f'"{name}"' for name in guarded)
    others = f'oifname != "{FAMILY}*"'
    # What another program publishes by address translation goes on working.
    return f"iifname {{ {names} }} {others} ct state new ct status ! dnat drop"
