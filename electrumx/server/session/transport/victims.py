"""The choice of the session that gives its place to a newcomer, when the server is full.

Looks at all connections, so it chooses several at a time.  Changes nothing of the connections.
Runs on the event loop.
"""

import heapq
from collections.abc import Callable, Collection, Mapping

from electrumx.server.session.transport.ticket import Ticket

# A session that sent something more recently is not evicted.
IDLE_SECS = 10.0
# The choice of a victim looks at all sessions, so it takes several at a time.
PLANNED_EVICTIONS = 32
PLAN_SECS = 1.0


class Victims:
    """Sessions in the order in which to evict them."""

    def __init__(
        self,
        tickets: Collection[Ticket],
        subnets: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        """``tickets`` are all connections, ``subnets`` their number by subnet; neither is copied."""
        self._tickets = tickets
        self._subnets = subnets
        self._clock = clock
        self._plan: list[Ticket] = []
        self._plan_time: float | None = None
        # The largest subnet, and when it was
        self._largest = ""
        self._largest_time: float | None = None

    def largest_subnet(self) -> str:
        """Return the subnet with most connections, "" if all are of one; it may be a second old."""
        now = self._clock()
        if self._largest_time is None or now - self._largest_time >= PLAN_SECS:
            self._largest_time = now
            sizes = self._subnets
            self._largest = max(sizes, key=sizes.__getitem__) if len(sizes) > 1 else ""
        return self._largest

    def next(self) -> Ticket | None:
        """Return the session to evict first, None if all are busy or were a moment ago."""
        now = self._clock()
        while self._plan:
            if self._is_idle(self._plan[0], now):
                return self._plan[0]
            del self._plan[0]
        if self._plan_time is not None and now - self._plan_time < PLAN_SECS:
            return None
        self._plan_time = now
        self._plan = self._make_plan(now)
        return self._plan[0] if self._plan else None

    def _is_idle(self, ticket: Ticket, now: float) -> bool:
        since = ticket.idle_since() if ticket in self._tickets else None
        return since is not None and now - since >= IDLE_SECS

    def _make_plan(self, now: float) -> list[Ticket]:
        """Return sessions in the order in which to evict them.

        Each is the longest idle of the subnet that has most connections by then; those that have
        sent no message come first.
        """
        idle: dict[str, list[tuple[bool, float, Ticket]]] = {}
        for ticket in self._tickets:
            if ticket.stage != "pending" and ticket.is_counted:
                since = ticket.idle_since()
                if since is not None and now - since >= IDLE_SECS:
                    entry = (ticket.has_spoken(), since, ticket)
                    idle.setdefault(ticket.subnet, []).append(entry)
        heap = []
        for subnet, entries in idle.items():
            entries.sort(key=lambda entry: entry[:2], reverse=True)
            heap.append((-self._subnets[subnet], entries[-1][1], subnet))
        heapq.heapify(heap)
        plan: list[Ticket] = []
        while heap and len(plan) < PLANNED_EVICTIONS:
            size, _since, subnet = heapq.heappop(heap)
            entries = idle[subnet]
            plan.append(entries.pop()[2])
            if entries:
                heapq.heappush(heap, (size + 1, entries[-1][1], subnet))
        return plan

    def idle_member(self, subnet: str) -> Ticket | None:
        """Return a connection of a subnet, if possible one that waits for no answer."""
        found = None
        for ticket in self._tickets:
            if ticket.subnet == subnet and ticket.is_counted:
                if ticket.idle_since() is not None:
                    return ticket
                found = found or ticket
        return found

    def idle_administrator(self) -> Ticket | None:
        """Return a connection of the administrator's that waits for no answer."""
        for ticket in self._tickets:
            if ticket.is_rpc and ticket.idle_since() is not None:
                return ticket
        return None
