"""What a session may cost: price list, groups of sessions, and the rules of forgetting.

Theory of operation. Each session carries a *cost* that grows with the bytes, requests and errors
it causes and decays with time. aiorpcX turns the cost into throttling: above a soft limit requests
sleep and fewer run at once; at the hard limit the session is closed. An attacker would spread over
many connections, hence *groups*: sessions of one IP subnet each also bear the others' cost, and a
group keeps ("retains") the cost of sessions that left. All of this lives on the event loop.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Protocol

# What connecting costs by itself.
CONNECT_COST = 5.0
# A group, and a session without subscriptions, forget a hard limit's worth in this many seconds.
GROUP_FORGET_SECS = 5_000
SESSION_FORGET_SECS = 10_000
# How much longer a session's cost is remembered for each subscription it holds.
FORGET_SECS_PER_SUB = 5
RECALC_SECS = 300

UNKNOWN_GROUP = "unknown_addr"

# Prices that do not depend on the size of the answer.
COST_CACHED = 0.1
COST_FAILED_TRY = 0.1
# The largest count a price is computed from: keeps floats finite whatever a client asks.
MAX_PRICED_COUNT = 10**9


def history_cost(entries: int) -> float:
    """Return the price of reading a history of that many entries from disk."""
    return 0.2 + 0.001 * entries


def tx_hashes_cost(count: int) -> float:
    """Return the price of reading the hashes of a block of that many txs from disk."""
    return 0.25 + 0.0001 * count


def headers_cost(requested: int) -> float:
    """Return the price of a range of headers, by the number asked for (not sent)."""
    return min(requested, MAX_PRICED_COUNT) / 50


class Costly(Protocol):
    """What groups need to know of a session."""

    cost: float


@dataclass(eq=False, slots=True)
class SessionGroup:
    """Sessions that share a fraction (``weight``) of each other's cost."""

    name: str
    weight: float
    sessions: set[Any] = field(default_factory=set)
    retained_cost: float = 0.0

    def session_cost(self) -> float:
        """Return the summed cost of the present members."""
        return float(sum(session.cost for session in self.sessions))

    def cost(self) -> float:
        """Return the cost of present members and what departed ones left behind."""
        return self.retained_cost + self.session_cost()


def is_exempt(host: IPv4Address | IPv6Address) -> bool:
    """Say if clients from an address are in no group; tests let loopback have groups."""
    return host.is_private


def subnet_name(host: Any, ipv4_prefix: int, ipv6_prefix: int) -> str | None:
    """Return the subnet of an address in CIDR text; None if the address is private.

    Tor hidden-service clients come from localhost and so belong to no group. Hosts that are no
    IP address, or unknown, share one group.
    """
    if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    if not isinstance(host, (IPv4Address, IPv6Address)):
        return UNKNOWN_GROUP
    if is_exempt(host):
        return None
    prefix = ipv4_prefix if isinstance(host, IPv4Address) else ipv6_prefix
    return str(ip_network(f"{host}/{prefix}", strict=False))


class SessionGroups:
    """The groups of one server, by name, and who is in which."""

    def __init__(self, ipv4_prefix: int, ipv6_prefix: int) -> None:
        self._prefixes = (ipv4_prefix, ipv6_prefix)
        self.by_name: dict[str, SessionGroup] = {}
        # A tuple per session, in the table for as long as the session is.
        self._of_session: dict[Any, tuple[SessionGroup, ...]] = {}

    def join(self, session: Any, host: Any) -> None:
        """Put a session from ``host`` (an IP address object, text or None) into its groups."""
        name = subnet_name(host, *self._prefixes)
        groups: tuple[SessionGroup, ...] = ()
        if name is not None:
            group = self.by_name.get(name)
            if group is None:
                group = self.by_name[name] = SessionGroup(name, 1.0)
            groups = (group,)
        self._of_session[session] = groups
        for group in groups:
            group.sessions.add(session)

    def leave(self, session: Any) -> None:
        """Take a session out of its groups, which keep its cost."""
        for group in self._of_session.pop(session, ()):
            group.sessions.discard(session)
            group.retained_cost += session.cost

    def charge(self, host: Any, cost: float) -> None:
        """Charge the group of an address for a connection that had no session."""
        name = subnet_name(host, *self._prefixes)
        if name is not None:
            group = self.by_name.get(name)
            if group is None:
                group = self.by_name[name] = SessionGroup(name, 1.0)
            group.retained_cost += cost

    def cost_of(self, host: Any) -> float:
        """Return the cost of the group that an address belongs to; 0 if it is in none."""
        name = subnet_name(host, *self._prefixes)
        group = None if name is None else self.by_name.get(name)
        return 0.0 if group is None else group.cost()

    def of(self, session: Any) -> tuple[SessionGroup, ...]:
        """Return the groups a session is in."""
        return self._of_session.get(session, ())

    def extra_cost(self, session: Any) -> float:
        """Return what other members of its groups add to a session's cost; 0 once it has gone."""
        groups = self.of(session)
        return float(sum((group.cost() - session.cost) * group.weight for group in groups))

    def forget(self, elapsed_secs: float, hard_limit: float) -> None:
        """Let retained costs decay, and drop the groups that are empty of all."""
        refund = elapsed_secs * hard_limit / GROUP_FORGET_SECS
        for name, group in list(self.by_name.items()):
            group.retained_cost = max(0.0, group.retained_cost - refund)
            if not group.sessions and not group.retained_cost:
                del self.by_name[name]

    def values(self) -> Iterable[SessionGroup]:
        """Return all groups."""
        return self.by_name.values()


def decay_per_sec(hard_limit: float, subscriptions: int = 0) -> float:
    """Return the cost a session is forgiven each second."""
    return hard_limit / (SESSION_FORGET_SECS + FORGET_SECS_PER_SUB * subscriptions)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits that the environment sets for client sessions."""

    cost_soft_limit: int
    cost_hard_limit: int
    cost_decay_per_sec: float
    bw_cost_per_byte: float
    cost_sleep: float  # seconds, at the hard limit
    initial_concurrent: int
    processing_timeout: float  # seconds

    @classmethod
    def from_env(cls, env: Any) -> "SessionLimits":
        """Convert the settings into the units of the session engine."""
        return cls(
            cost_soft_limit=env.cost_soft_limit,
            cost_hard_limit=env.cost_hard_limit,
            cost_decay_per_sec=decay_per_sec(env.cost_hard_limit),
            bw_cost_per_byte=1 / env.bw_unit_cost,
            cost_sleep=env.request_sleep / 1000,
            initial_concurrent=env.initial_concurrent,
            processing_timeout=env.request_timeout,
        )

    def apply(self, session: Any) -> None:
        """Set the limits on one session, before its base class is constructed."""
        for name in self.__slots__:
            setattr(session, name, getattr(self, name))
