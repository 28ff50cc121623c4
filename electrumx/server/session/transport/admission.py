"""Who may connect: connections counted from accept, by subnet, with deadlines and eviction.

Theory of operation.  A connection passes these stages, and each costs the client something:

0. *Unnamed*: accepted on a service behind a proxy, but the proxy has not named the client yet.  It has
   ``HEADER_SECS``.  Limits that depend on the client apply when its name arrives; a connection
   that ends before, or turns out to be the proxy's own check, costs nothing.
1. *Pending*: accepted, but no session yet, because the TLS handshake or the WebSocket upgrade is
   under way.  It has ``HANDSHAKE_SECS``, and at most a quarter of all connections may be pending:
   beyond that the server drops the oldest one of the subnet that has most of them.
2. *Silent*: a session that has sent no message.  It has ``FIRST_MESSAGE_SECS``.
3. *Speaking*: a session with the limits and time-outs of sessions.

Connections of all stages count against MAX_SESSIONS, which is below the limit of open files by a
reserve, so that clients never take the descriptors that the database needs.  At the maximum a
newcomer takes the place of a pending connection or of the session that has been idle longest, of
the subnet that has most connections; a session that is busy or was idle for less than
``IDLE_SECS`` stays, unless its subnet is a *crowd*: the largest of several, of more than
``MIN_CROWD`` connections, and of more than twice those of the newcomer's, or it has been silent for
``GRACE_SECS``.  Hence sessions that are
never idle cannot hold all places.  If nothing can be evicted, the manager stops listening.

One subnet has at most MAX_SESSIONS_PER_SUBNET connections, an address in it at most
MAX_SESSIONS_PER_ADDRESS, and a subnet has none if the cost of its group is
at the hard limit: the server refuses these at accept, before they cost a handshake.  Both do not apply
to exempt addresses (``session_groups.is_exempt``), behind which there may be a proxy with many clients,
unless a proxy named them; the other limits do.  The group of its address bears the cost of a connection
that ends without a session.

At accept the server refuses banned addresses (``bans``) before anything else.

The administrator's connections count too, but have no limit but their number, ``MAX_RPC``; bans do not
apply to them.  Trusted clients (``trust``) count, and are never evicted; they, and unnamed connections,
may exceed MAX_SESSIONS by a tenth.

Runs on the event loop.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

from electrumx.lib import util
from electrumx.server.env import EXTRA_SESSIONS_PART, Env
from electrumx.server.session.engine import prices, session_groups
from electrumx.server.session.engine.origin import Host, network_of
from electrumx.server.session.engine.session_groups import TOR_GROUP, UNKNOWN_GROUP
from electrumx.server.session.transport.bans import BanList
from electrumx.server.session.transport.connection_rate import ConnectionRate
from electrumx.server.session.transport.crowds import Crowds
from electrumx.server.session.transport.event_log import EventLog
from electrumx.server.session.transport.ticket import (
    AdmittedConnection,
    Ticket,
    parse_host,
)
from electrumx.server.session.transport.trust import Trust
from electrumx.server.session.transport.victims import Victims

# From accept to the end of the PROXY header.
HEADER_SECS = 3.0
# From there, or from accept, to the session: TLS and WebSocket handshakes.
HANDSHAKE_SECS = 10.0
# From there to the first message.
FIRST_MESSAGE_SECS = 60.0
# A session has so long to speak when the server is full.
GRACE_SECS = 0.25
# Of those that spoke since, a search passes over so many at a time.
SILENT_CHECKED = 100
# Only larger subnets are crowds, which give way to others though they are not idle.
MIN_CROWD = 10
# The part of MAX_SESSIONS that may be pending, and at least how many.
PENDING_PART = 4
MIN_PENDING = 8
# Administrators' tools connect for a command.
MAX_RPC = 32
SWEEP_SECS = 1.0
# The subnet of unnamed connections.
UNNAMED = "unnamed"


class Admission:
    """Counts connections and decides about new ones."""

    def __init__(
        self,
        env: Env,
        groups: session_groups.SessionGroups,
        on_change: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        bans: BanList | None = None,
    ) -> None:
        """Admission calls ``on_change()`` when connections came, went or have another stage."""
        #: networks that may not connect
        self.bans = BanList() if bans is None else bans
        self._clock = clock
        self.set_limits(env)
        self._prefixes = (env.session_group_by_subnet_ipv4, env.session_group_by_subnet_ipv6)
        self._groups = groups
        self._on_change = on_change
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        # In order of accept; those of a stage also in order of their deadlines
        self.tickets: dict[Ticket, None] = {}
        self.unnamed: dict[Ticket, None] = {}
        self.pending: dict[Ticket, None] = {}
        self.silent: dict[Ticket, None] = {}
        # Counted ones that are pending or unnamed, by subnet
        self._pending_crowds: Crowds[Ticket] = Crowds()
        self._pending_count = 0
        self.subnets: Counter[str] = Counter()
        self.addresses: Counter[str | Host | None] = Counter()
        self._rpc_count = 0
        self._victims = Victims(self.tickets, self.subnets, clock)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._events = EventLog(self.logger, clock)
        # Set when there is no connection, if a caller waits for that
        self._empty: asyncio.Event | None = None

    def set_limits(self, env: Env) -> None:
        """Set the limits; connections that exist stay."""
        self.max_connections: int = env.max_sessions
        self.max_per_subnet: int = env.max_sessions_per_subnet
        self.max_per_address: int = env.max_sessions_per_address
        self._rate = ConnectionRate(env.max_connects_per_minute, self._clock)
        self.max_pending = max(MIN_PENDING, env.max_sessions // PENDING_PART)
        self._hard_limit: float = env.cost_hard_limit
        self._is_limiting = env.cost_hard_limit > env.cost_soft_limit
        #: which proxies to believe and which clients to trust
        self.trust = trust = Trust(env)
        exceeding = trust.may_exceed or trust.has_proxies
        self.max_with_extra = self.max_connections + exceeding * max(
            1, self.max_connections // EXTRA_SESSIONS_PART
        )

    # -- questions

    @property
    def totals(self) -> Counter[str]:
        """Refusals and evictions since the start, by the text of the log."""
        return self._events.totals

    @property
    def count(self) -> int:
        """The number of connections of all stages, the administrator's included."""
        return len(self.tickets)

    def is_full(self) -> bool:
        """Return whether a newcomer needs another's place, and no connection can be evicted."""
        return self.count >= self.max_connections and not self.can_evict()

    def can_evict(self) -> bool:
        """Return whether eviction can make a place for a newcomer."""
        if self.pending or self._victims.next() is not None or self._longest_silent() is not None:
            return True
        return self.subnets[self._victims.largest_subnet()] > MIN_CROWD

    def subnet_of(self, address: Host | None) -> str:
        """Return the name of the subnet to count an address in, exempt or not."""
        if address is None:
            return UNKNOWN_GROUP
        return network_of(address, self._prefixes[isinstance(address, IPv6Address)])

    # -- from accept to the end

    def admit(
        self,
        host: str | None,
        *,
        is_rpc: bool = False,
        is_proxied: bool = False,
        is_trusted: bool = False,
    ) -> Ticket | None:
        """Return the entry of a new connection; None for one to close at once.

        If it ``is_proxied`` the address is that of a proxy, and ``identify`` is to follow.  If it
        ``is_trusted`` the service is one of trusted clients.
        """
        address = None if host is None else parse_host(host)
        if is_proxied:
            if address is None or not self.trust.is_proxy(address):
                self._events.note("refused: not in PROXY_TRUSTED")
                return None
            if self.bans.is_banned(address):
                self._events.note("refused: banned")
                return None
            ticket = Ticket(None, UNNAMED, self._clock())
            # Also for the places of trusted clients.
            ticket.is_free = True
            admitted = self._has_place(ticket)
        else:
            is_trusted = not is_rpc and (is_trusted or self.trust.is_trusted_client(address))
            subnet = self.subnet_of(address)
            ticket = Ticket(address, subnet, self._clock(), is_rpc=is_rpc, is_trusted=is_trusted)
            if is_rpc:
                admitted = self._rpc_count < MAX_RPC or self._evict_rpc()
            else:
                admitted = self._may_enter(ticket) and self._has_place(ticket)
        if not admitted:
            return None
        self.tickets[ticket] = None
        self._rpc_count += is_rpc
        if is_proxied:
            self._watch(ticket, self.unnamed, HEADER_SECS)
        else:
            self._watch(ticket, self.pending, HANDSHAKE_SECS)
        self._count_pending(ticket)
        self._on_change()
        return ticket

    def identify(self, ticket: Ticket, address: Host | None, *, is_trusted: bool) -> bool:
        """Note the client that a proxy named; return whether it may enter, else drop it.

        ``address`` is None if the proxy does not know it.  ``is_trusted`` is that of ``admit``.
        """
        if not self._uncount_pending(ticket):
            return False
        ticket.address, ticket.is_forwarded = address, True
        ticket.is_trusted = is_trusted or self.trust.is_trusted_client(address)
        # Circuits cost little: all of Tor gives way when the server is full.
        is_tor = ticket.origin().circuit() is not None
        ticket.subnet = TOR_GROUP if is_tor else self.subnet_of(address)
        if not self._may_enter(ticket) or not self._keeps_place(ticket):
            self._leave(ticket)
            ticket.drop()
            return False
        ticket.is_free = False
        self._watch(ticket, self.pending, HANDSHAKE_SECS)
        self._count_pending(ticket)
        return True

    def note_check(self, ticket: Ticket) -> None:
        """Note that a connection is a check of the proxy's: it gets as long as a handshake."""
        if ticket in self.unnamed:
            del self.unnamed[ticket]
            self._watch(ticket, self.pending, HANDSHAKE_SECS)

    def note_bad_header(self) -> None:
        """Note that a proxy sent no valid header."""
        self._events.note("closed: no valid PROXY header")

    def opened(self, connection: AdmittedConnection) -> None:
        """Note that a connection has a session."""
        ticket = connection.ticket
        if ticket is None or ticket not in self.pending:
            return
        self._end_pending(ticket)
        ticket.stage = "silent"
        if not ticket.is_rpc:
            self._watch(ticket, self.silent, FIRST_MESSAGE_SECS)
        self._on_change()

    def lost(self, connection: AdmittedConnection) -> None:
        """Note that a connection has ended."""
        ticket = connection.ticket
        if ticket is not None:
            self.release(ticket)
            is_charged = not ticket.is_rpc and not ticket.is_free
            if is_charged and (cost := connection.late_cost()):
                self._groups.charge(ticket.origin(), cost)
            # Otherwise the two would keep each other until the collector finds them.
            ticket.connection = None

    def release(self, ticket: Ticket) -> None:
        """Forget a connection; if it never had a session, charge the group of its address."""
        if ticket not in self.tickets:
            return
        self.silent.pop(ticket, None)
        if ticket in self.pending or ticket in self.unnamed:
            self._end_pending(ticket)
            self._charge_pending(ticket)
        if ticket.is_rpc:
            self._rpc_count -= 1
        self._uncount(ticket)
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        del self.tickets[ticket]
        if self._empty is not None and not self.tickets:
            self._empty.set()
        self._on_change()

    def _count_pending(self, ticket: Ticket) -> None:
        """Count a connection in its subnet, and among the pending ones there."""
        if ticket.is_counted:
            self.subnets[ticket.subnet] += 1
            self.addresses[ticket.place] += 1
            self._pending_crowds.add(ticket.subnet, ticket)
            self._pending_count += 1

    def _uncount_pending(self, ticket: Ticket) -> bool:
        """Undo that for an unnamed connection; return False if there is no such connection."""
        if ticket not in self.unnamed:
            return False
        self._end_pending(ticket)
        self._uncount(ticket)
        return True

    def _uncount(self, ticket: Ticket) -> None:
        if ticket.is_counted:
            counted: tuple[tuple[Counter[Any], Any], ...] = (
                (self.subnets, ticket.subnet),
                (self.addresses, ticket.place),
            )
            for counter, name in counted:
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    def _end_pending(self, ticket: Ticket) -> None:
        self.unnamed.pop(ticket, None)
        self.pending.pop(ticket, None)
        if ticket.is_counted:
            self._pending_crowds.remove(ticket.subnet, ticket)
            self._pending_count -= 1

    def _charge_pending(self, ticket: Ticket) -> None:
        if ticket.is_rpc or ticket.is_free:
            return
        connection = ticket.connection
        cost = prices.CONNECT_COST + (0.0 if connection is None else connection.early_cost())
        self._groups.charge(ticket.origin(), cost)

    # -- who may enter

    def _may_enter(self, ticket: Ticket) -> bool:
        address = ticket.address
        if address is not None and self.bans.is_banned(address):
            self._events.note("refused: banned")
            return False
        if ticket.is_trusted:
            return True
        if address is not None and session_groups.is_exempt(address) and not ticket.is_forwarded:
            return True
        place = str(ticket.place) if ticket.subnet == TOR_GROUP else ticket.subnet
        if not self._rate.admits(place):
            self._events.note("refused: too many of one subnet in a minute")
            return False
        if self.addresses[ticket.place] >= self.max_per_address:
            self._events.note("refused: too many of one address")
            return False
        if self.subnets[ticket.subnet] >= self.max_per_subnet and ticket.subnet != TOR_GROUP:
            self._events.note("refused: too many of one subnet")
            return False
        if self._is_limiting and self._groups.cost_of(ticket.origin()) >= self._hard_limit:
            self._events.note("refused: the cost of their subnet is at the limit")
            return False
        return True

    def _has_place(self, ticket: Ticket) -> bool:
        """Return whether there is a place for a new connection, or one could be made."""
        if self._pending_count >= self.max_pending and ticket.is_counted:
            self._drop_pending()
        if self.count < self.max_connections:
            return True
        if ticket.is_trusted or ticket.is_free:
            if self.count < self.max_with_extra or self._drop_pending():
                return True
        elif self._evict(ticket.subnet):
            return True
        return self._refuse_full()

    def _keeps_place(self, ticket: Ticket) -> bool:
        """Return whether a connection that has got its name may stay."""
        if ticket.is_trusted or self.count <= self.max_connections or self._evict(ticket.subnet):
            return True
        return self._refuse_full()

    def _refuse_full(self) -> bool:
        self._events.note("refused: the server is full")
        self._on_change()
        return False

    def _drop_pending(self) -> bool:
        """Drop the oldest pending connection of the subnet that has most of them."""
        ticket = self._pending_crowds.oldest_of_largest()
        if ticket is None:
            return False
        self._drop(ticket)
        self._events.note("dropped in the handshake, for others")
        return True

    def _drop_silent(self) -> bool:
        """Drop the session that has been silent longest, for a moment at least, if there is one.

        Return whether it did.  A wallet speaks as soon as it connects.  So a flood of silent
        connections, from however many addresses, displaces itself, and not the next client.
        """
        ticket = self._longest_silent()
        if ticket is None or self._clock() < ticket.deadline - FIRST_MESSAGE_SECS + GRACE_SECS:
            return False
        self._drop(ticket)
        self._events.note("evicted: silent, and the server is full")
        return True

    def _longest_silent(self) -> Ticket | None:
        """Return the session that has been silent longest, None without one; forget the others."""
        for ticket in list(itertools.islice(self.silent, SILENT_CHECKED)):
            if ticket.has_spoken():
                del self.silent[ticket]
            elif ticket.is_counted:
                return ticket
        return None

    def _evict(self, subnet: str) -> bool:
        """Make a place for a newcomer of a subnet; return whether that was possible."""
        victim = self._victims.next()
        if victim is None and self._drop_silent():
            return True
        if victim is None:
            largest = self._victims.largest_subnet()
            size = self.subnets[largest]
            if size <= MIN_CROWD:
                return self._drop_pending()
            # A crowd takes no place of others, be they pending.
            return size > 2 * (self.subnets[subnet] + 1) and self._evict_of(largest)
        self._drop(victim)
        self._events.note("evicted: idle, and the server is full")
        return True

    def _evict_of(self, subnet: str) -> bool:
        """Drop a session of a crowd; return whether there was one."""
        victim = self._victims.idle_member(subnet)
        if victim is None:
            return False
        self._drop(victim)
        self._events.note("evicted: of a crowd, and the server is full")
        return True

    def _evict_rpc(self) -> bool:
        victim = self._victims.idle_administrator()
        if victim is None:
            return False
        self._drop(victim)
        return True

    def _drop(self, ticket: Ticket) -> None:
        """End a connection, which counts no more."""
        self.release(ticket)
        ticket.drop()

    # -- deadlines

    def _watch(self, ticket: Ticket, stage: dict[Ticket, None], secs: float) -> None:
        ticket.deadline = self._clock() + secs
        stage[ticket] = None
        if self._sweep_timer is None:
            loop = asyncio.get_running_loop()
            self._sweep_timer = loop.call_later(SWEEP_SECS, self._on_sweep_timer)

    def _on_sweep_timer(self) -> None:
        self._sweep_timer = None
        self.sweep()
        # Sessions that have spoken since are not evicted as silent any more: the server may be full now.
        self._on_change()
        if self.unnamed or self.pending or self.silent:
            loop = asyncio.get_running_loop()
            self._sweep_timer = loop.call_later(SWEEP_SECS, self._on_sweep_timer)

    def sweep(self) -> None:
        """Drop the connections that have taken too long."""
        now = self._clock()
        for stage in (self.unnamed, self.pending, self.silent):
            # All of a stage have as long, so the first is the next.
            while stage and (ticket := next(iter(stage))).deadline <= now:
                if stage is self.silent and ticket.has_spoken():
                    del stage[ticket]
                    continue
                self._drop(ticket)
                if stage is self.unnamed:
                    self._events.note("dropped: no PROXY header in time")
                elif not ticket.is_free:
                    self._events.note("dropped: silent for too long")

    def shed(self) -> int:
        """Drop the connections that have sent nothing: descriptors are short.  Return how many."""
        victims = [*self.unnamed, *(ticket for ticket in self.pending if not ticket.is_rpc)]
        victims += [ticket for ticket in self.silent if not ticket.has_spoken()]
        for ticket in victims:
            self._drop(ticket)
        return len(victims)

    def drop_banned(self) -> int:
        """Drop the connections with a banned address and no session.  Return how many."""
        victims = [
            ticket
            for ticket in self.pending
            if not ticket.is_rpc
            and ticket.address is not None
            and self.bans.is_banned(ticket.address)
        ]
        for ticket in victims:
            self._drop(ticket)
        return len(victims)

    async def wait_empty(self, secs: float) -> bool:
        """Drop connections without a session, and wait for the others to end, at most so long.

        Returns whether all have.
        """
        for ticket in [*self.unnamed, *self.pending]:
            self._drop(ticket)
        if self.tickets:
            self._empty = asyncio.Event()
            try:
                await asyncio.wait_for(self._empty.wait(), secs)
            except asyncio.TimeoutError:
                return False
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        # Aborted transports close their sockets in the next turn of the loop
        await asyncio.sleep(0)
        return True
