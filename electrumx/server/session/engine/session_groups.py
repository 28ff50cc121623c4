"""The groups of sessions that share costs, and how the costs of groups decay.

Theory of operation. Each session carries a *cost* that grows with the bytes, requests and errors
it causes and decays with time. ``CostAccount`` turns the cost into throttling: above a soft limit requests
sleep and fewer run at once; at the hard limit the session ends. An attacker would use
many connections, hence *groups*: sessions of one IP subnet each also bear the others' cost, and a
group keeps ("retains") the cost of sessions that left. All of this lives on the event loop.

Clients with private addresses may belong to one person, or be all there are: behind a proxy, the address
translation of a container, or Tor all clients have the same address. They are in a *soft* group,
one for each address and one for loopback, whose members bear a hundredth of each other's cost, and
of that at most half a hard limit. One abuser does not throttle the others; many connections throttle
them, and each has only half of a hard limit left, but they never exclude the others: without that
bound a few cheap requests from one address would exclude all of its clients for half an hour.
What comes from the server's own machine is the operator's own use, unless the server is advertised
(Tor's hidden services and proxies connect from loopback), and costs so much less.

A client that a proxy named (``Origin.is_forwarded``) is in the group of its subnet, be the address
private or not.  Clients of Tor named by their circuit have a group for each circuit; as
circuits cost an attacker little, all are also in a soft group, ``tor``.  Trusted clients have no group.

Groups with members are as many as sessions at most.  A group without members stays for its retained cost;
of these there are ``MAX_EMPTY_GROUPS``, however many subnets or circuits an attacker has: of the few
that have been empty for longest the cheapest goes first, so that abusers are remembered.
"""

import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol, TypeAlias

from electrumx.server.session.engine.origin import Host, Origin, as_origin, network_of
from electrumx.server.session.engine.prices import CONNECT_COST
from electrumx.server.session.engine.session_limits import MAX_DEBT

# A group's cost decays by a hard limit in this many seconds.
GROUP_FORGET_SECS = 5_000
RECALC_SECS = 300

UNKNOWN_GROUP = "unknown_addr"
LOOPBACK_GROUP = "loopback"
TOR_GROUP = "tor"
# The part of each other's cost that clients of a private address bear.
SOFT_WEIGHT = 0.01
# Their share of it at most, in hard limits: it throttles, and does not end a session.
SOFT_MOST = 0.5
# The part of each other's cost that clients of different Tor circuits bear.
TOR_WEIGHT = 0.1
# Clients of the operator's own machine cost this many times less.
OWN_MACHINE_LENIENCY = 50.0
# Bits of private IPv6 addresses that make a group: a host can take any address in its subnet.
PRIVATE_IPV6_PREFIX = 64
# Larger groups are summed up at most once in so many seconds.
SUMMED_MEMBERS = 50
SUM_SECS = 1.0
# Each takes some 600 bytes, and a pass over all of them ``forget`` some milliseconds.
MAX_EMPTY_GROUPS = 10_000
# Of so many that have been empty for longest one goes.
COMPARED_GROUPS = 8

#: a client by its origin, or by its address alone
Client: TypeAlias = Origin | Host | str | None


class Costly(Protocol):
    """The interface of a session that groups use."""

    @property
    def cost(self) -> float:
        """The session's own cost, without that of its groups."""


@dataclass(eq=False, slots=True)
class SessionGroup:
    """Sessions that share a fraction (``weight``) of each other's cost."""

    name: str
    weight: float
    sessions: set[Any] = field(default_factory=set)
    retained_cost: float = 0.0
    _sum: float = 0.0
    _sum_time: float = -math.inf

    def session_cost(self) -> float:
        """Return the summed cost of the present members; of many it may be a second old."""
        if len(self.sessions) > SUMMED_MEMBERS:
            now = time.monotonic()
            if now < self._sum_time + SUM_SECS:
                return self._sum
            self._sum_time = now
        self._sum = float(sum(session.cost for session in self.sessions))
        return self._sum

    def cost(self) -> float:
        """Return the cost of present members and the retained cost of departed ones."""
        return self.retained_cost + self.session_cost()

    def most(self, hard_limit: float) -> float:
        """Return the largest share of the others' cost a member bears; infinite without a limit."""
        return SOFT_MOST * hard_limit if self.weight < 1 and hard_limit else math.inf

    def retain(self, cost: float, hard_limit: float) -> None:
        """Retain the cost of a departed session, up to a fifth more than is borne."""
        self.retained_cost += cost
        if hard_limit:
            most = MAX_DEBT * min(hard_limit, self.most(hard_limit)) / self.weight
            self.retained_cost = min(self.retained_cost, most)


def is_exempt(host: Host) -> bool:
    """Return whether clients of an address are in no subnet's group; tests group loopback too."""
    return host.is_private


def _plain(host: Host | str | None) -> Host | str | None:
    """Return an IPv6 address that stands for an IPv4 address as the latter."""
    if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
        return host.ipv4_mapped
    return host


def subnet_name(
    host: Host | str | None, ipv4_prefix: int, ipv6_prefix: int, *, is_forwarded: bool = False
) -> str | None:
    """Return the subnet of an address in CIDR text.

    Return None if the address is private, unless it is ``is_forwarded``, named by a proxy.  Hosts
    that are no IP address, or unknown, share one group.
    """
    host = _plain(host)
    if not isinstance(host, (IPv4Address, IPv6Address)):
        return UNKNOWN_GROUP
    if is_exempt(host) and not is_forwarded:
        return None
    return _cidr(host, ipv4_prefix, ipv6_prefix)


def _cidr(host: Host, ipv4_prefix: int, ipv6_prefix: int) -> str:
    prefix = ipv4_prefix if isinstance(host, IPv4Address) else ipv6_prefix
    return network_of(host, prefix)


def private_name(host: Host | str | None) -> str:
    """Return the name of the soft group of a private address."""
    host = _plain(host)
    assert isinstance(host, (IPv4Address, IPv6Address)), "not an address"
    return LOOPBACK_GROUP if host.is_loopback else _cidr(host, 32, PRIVATE_IPV6_PREFIX)


def leniency(client: Client, *, is_advertised: bool) -> float:
    """Return how many times less the costs of a client count."""
    origin = as_origin(client)
    host = _plain(origin.host)
    if is_advertised or origin.is_forwarded or not isinstance(host, (IPv4Address, IPv6Address)):
        return 1.0
    return OWN_MACHINE_LENIENCY if host.is_loopback and is_exempt(host) else 1.0


class SessionGroups:
    """The groups of one server, by name, and the sessions in each."""

    def __init__(
        self,
        ipv4_prefix: int,
        ipv6_prefix: int,
        hard_limit: float = 0.0,
        tor_weight: float = TOR_WEIGHT,
    ) -> None:
        """``hard_limit`` bounds the retained cost; 0 is no bound."""
        self._prefixes = (ipv4_prefix, ipv6_prefix)
        self._hard_limit = hard_limit
        self._tor_weight = tor_weight
        self.by_name: dict[str, SessionGroup] = {}
        # Those without members, from the one that has been so for longest.
        self._empty: OrderedDict[str, SessionGroup] = OrderedDict()
        # Of sessions in the table; most are in one group only.
        self._of_session: dict[Costly, SessionGroup | tuple[SessionGroup, ...]] = {}

    def set_hard_limit(self, hard_limit: float) -> None:
        """Change the bound on retained costs."""
        self._hard_limit = hard_limit

    def set_tor_weight(self, weight: float) -> None:
        """Change the part of each other's cost that clients of different circuits bear.

        With 0 clients to come bear none.
        """
        self._tor_weight = weight
        group = self.by_name.get(TOR_GROUP)
        if weight and group is not None:
            group.weight = weight

    def main_name(self, client: Client) -> str | None:
        """Return the name of the group whose members bear the whole cost; None without one."""
        origin = as_origin(client)
        if origin.is_trusted:
            return None
        circuit = origin.circuit()
        if circuit is not None:
            return f"{TOR_GROUP}:{circuit}"
        return subnet_name(origin.host, *self._prefixes, is_forwarded=origin.is_forwarded)

    def _memberships(self, origin: Origin) -> list[tuple[str, float]]:
        """Return the names and weights of the groups of a client."""
        if origin.is_trusted:
            return []
        name = self.main_name(origin)
        if name is None:
            return [(private_name(origin.host), SOFT_WEIGHT)]
        names = [(name, 1.0)]
        if origin.circuit() is not None and self._tor_weight:
            names.append((TOR_GROUP, self._tor_weight))
        return names

    def join(self, session: Costly, client: Client) -> None:
        """Put the session of a client into its groups."""
        names = self._memberships(as_origin(client))
        groups = tuple(self._group(name, weight) for name, weight in names)
        if groups:
            self._of_session[session] = groups if len(groups) > 1 else groups[0]
        for group in groups:
            group.sessions.add(session)
            self._empty.pop(group.name, None)

    def leave(self, session: Costly) -> None:
        """Take a session out of its groups, which keep its cost."""
        groups = self.of(session)
        self._of_session.pop(session, None)
        for group in groups:
            group.sessions.discard(session)
            group.retain(session.cost, self._hard_limit)
            self._note_empty(group)

    def charge(self, client: Client, cost: float) -> None:
        """Charge the groups of a client for a connection that had no session."""
        origin = as_origin(client)
        if self.main_name(origin) is not None:
            for name, weight in self._memberships(origin):
                group = self._group(name, weight)
                group.retain(cost, self._hard_limit)
                self._note_empty(group)

    def _note_empty(self, group: SessionGroup) -> None:
        """Put a group that may have no members behind the others without; drop one of too many."""
        if group.sessions:
            return
        self._empty[group.name] = group
        self._empty.move_to_end(group.name)
        if len(self._empty) > MAX_EMPTY_GROUPS:
            longest = itertools.islice(self._empty.values(), COMPARED_GROUPS)
            self._drop(min(longest, key=lambda group: group.retained_cost * group.weight).name)

    def _drop(self, name: str) -> None:
        self.by_name.pop(name, None)
        self._empty.pop(name, None)

    def _group(self, name: str, weight: float) -> SessionGroup:
        """Return the group of a name; make it if it is missing."""
        group = self.by_name.get(name)
        if group is None:
            group = self.by_name[name] = SessionGroup(name, weight)
        return group

    def cost_of(self, client: Client) -> float:
        """Return the cost of the group of a client's subnet or circuit; 0 if it is in none."""
        name = self.main_name(client)
        group = None if name is None else self.by_name.get(name)
        return 0.0 if group is None else group.cost()

    def of(self, session: Costly) -> tuple[SessionGroup, ...]:
        """Return the groups a session is in."""
        groups = self._of_session.get(session, ())
        return groups if isinstance(groups, tuple) else (groups,)

    def extra_cost(self, session: Costly) -> float:
        """Return the cost that its groups' other members add to a session; 0 once it has gone."""
        extra = sum(
            min((group.cost() - session.cost) * group.weight, group.most(self._hard_limit))
            for group in self.of(session)
        )
        # The sum of a large group may be older than the cost of its member.
        return max(0.0, float(extra))

    def retry_secs(self, session: Costly, hard_limit: float) -> int:
        """Return after how many seconds the server serves a new connection instead of a session's."""
        cost = CONNECT_COST + sum(
            min(group.cost() * group.weight, group.most(hard_limit)) for group in self.of(session)
        )
        excess = min(cost, MAX_DEBT * hard_limit) - hard_limit
        if excess < 0:
            return 1
        return math.ceil(excess * GROUP_FORGET_SECS / hard_limit) + RECALC_SECS

    def forget(self, elapsed_secs: float, hard_limit: float) -> None:
        """Let retained costs decay, and drop the groups that are empty of all."""
        refund = elapsed_secs * hard_limit / GROUP_FORGET_SECS
        for name, group in list(self.by_name.items()):
            # As much as the members feel, whatever the weight
            group.retained_cost = max(0.0, group.retained_cost - refund / group.weight)
            # Where no session has limits, costs have no effect and no decay.
            if not group.sessions and not (group.retained_cost and hard_limit):
                self._drop(name)

    def values(self) -> Iterable[SessionGroup]:
        """Return all groups."""
        return self.by_name.values()
