"""Send the requests of a scenario, and measure their cost for the server.

* ``CPU us``: microseconds of the server's CPU for a request, all its threads: from /proc;
* ``/s``: requests answered in a wall second;
* ``p50 ms``, ``p99 ms``: from sending to the reply, the other requests under way included.

The generator is one process.  ``client`` is the share of a processor that it used: near 1, it was
the generator that limited ``/s``, and servers differ in CPU.
"""

import asyncio
import time

from benchmarks.measuring import Spent
from benchmarks.wire import HELLO, Lines, id_of, is_error, line

HELLO_SECS = 30
#: beyond the time that a scenario is to take
GRACE_SECS = 120


class Pending:
    """The requests to send, and the replies; shared by the connections of a run."""

    def __init__(self, scenario, secs, kept):
        self._bodies = scenario.bodies
        self._count = len(scenario.bodies) if scenario.once else None
        self._secs = secs
        self._end = None
        self._kept = kept
        self.sent = 0
        self.waits = []
        self.errors = []
        self.bytes_received = 0

    @property
    def begun(self):
        return self._end is not None

    def begin(self):
        self._end = time.perf_counter() + self._secs

    def next_line(self, now):
        """The id and line of the next request; None after the last."""
        number = self.sent
        if number >= self._count if self._count is not None else now >= self._end:
            return None
        self.sent = number + 1
        return number + 1, line(number + 1, self._bodies[number % len(self._bodies)])

    def received(self, number, wait, reply):
        self.waits.append(wait)
        if is_error(reply):
            self.errors.append(reply[:300])
        if self._kept is not None:
            self._kept.append((self._bodies[(number - 1) % len(self._bodies)], reply))


class Connection(asyncio.Protocol):
    """Keeps so many requests under way; `ready` and `done` are futures."""

    def __init__(self, pending, depth):
        self._pending, self._depth = pending, depth
        self._lines = Lines()
        self._under_way = {}
        loop = asyncio.get_running_loop()
        self.ready, self.done = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(HELLO)

    def connection_lost(self, exc):
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(ConnectionError(f"the server hung up: {exc}"))
                future.exception()  # the other one may be all that is waited for

    def data_received(self, data):
        self._pending.bytes_received += len(data)
        lines = self._lines.feed(data)
        now = time.perf_counter()
        for reply in lines:
            number = id_of(reply)
            if number == 0:
                self.ready.set_result(None)
                continue
            sent_at = self._under_way.pop(number, None)
            if sent_at is not None:
                self._pending.received(number, now - sent_at, reply)
        if lines and self._pending.begun:
            self.fill()

    def fill(self):
        """Send until enough is under way."""
        lines = []
        now = time.perf_counter()
        while len(self._under_way) < self._depth:
            following = self._pending.next_line(now)
            if following is None:
                break
            self._under_way[following[0]] = now
            lines.append(following[1])
        if lines:
            self.transport.writelines(lines)
        elif not self._under_way and not self.done.done():
            self.done.set_result(None)


def percentile(values, part):
    """The bound that a part (0 to 1) of the values do not exceed; 0 without values."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0


async def _run(port, pid, scenario, secs, kept):
    pending = Pending(scenario, secs, kept)
    loop = asyncio.get_running_loop()
    connections = []
    try:
        for _ in range(scenario.connections):
            _transport, connection = await loop.create_connection(
                lambda: Connection(pending, scenario.depth), "127.0.0.1", port
            )
            connections.append(connection)
            await asyncio.wait_for(connection.ready, HELLO_SECS)
        own = time.process_time()
        with Spent(pid) as spent:
            pending.begin()
            for connection in connections:
                connection.fill()
            everything = asyncio.gather(*(c.done for c in connections))
            await asyncio.wait_for(everything, secs + GRACE_SECS)
    finally:
        for connection in connections:
            connection.transport.abort()
    count = max(1, len(pending.waits))
    figures = {
        "CPU us": spent.cpu / count * 1e6,
        "/s": count / spent.wall,
        "p50 ms": percentile(pending.waits, 0.5) * 1e3,
        "p99 ms": percentile(pending.waits, 0.99) * 1e3,
        "requests": count,
        "reply bytes": pending.bytes_received / count,
        "client": (time.process_time() - own) / spent.wall,
    }
    if pending.errors:
        figures |= {"errors": len(pending.errors), "error": pending.errors[0].decode("latin-1")}
    return figures


def run_scenario(port, pid, scenario, secs, *, kept=None):
    """The figures.  kept: a list that pairs of a request's body and its reply are added to."""
    return asyncio.run(_run(port, pid, scenario, secs, kept))
