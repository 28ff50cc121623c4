"""Bounds on the bytes held for clients, over all connections.

Each connection alone has a bound, of tens of megabytes; a hundred of them would take the machine's
memory.  Two kinds count apart: data that waits for slow readers, and incomplete or unanswered
requests.  Connections that hold much report it.  Above the bound the server aborts the largest, until
a quarter is free.

Runs on the event loop.
"""

import logging

from electrumx.lib import util
from electrumx.lib.log_limit import RateLimitedLog
from electrumx.server.memory_limits import memory_mb
from electrumx.server.session.transport.parties import HoldingConnection

# Ordinary clients read at once; so much waits only if many do not.
MAX_UNSENT_BYTES = 128 << 20
# Requests are short, and answered at once; so much waits only if many are neither.
MAX_RECEIVED_BYTES = 64 << 20
# On a small machine the bounds are these parts of its memory.
UNSENT_PART = 8
RECEIVED_PART = 16
# A bound on requests holds so many of the longest allowed.
RECEIVED_MESSAGES = 8
# Lines of the log in a minute.
LOG_LINES = 5


def bounded_by_memory(most: int, part: int) -> int:
    """Return a bound in bytes: ``most``, or on a small machine or cgroup a part of its memory."""
    memory = memory_mb()
    return most if memory is None else min(most, memory * 1_000_000 // part)


class HeldMemory:
    """The held bytes, by connection, and their bound."""

    #: how the log describes the bytes
    description = ""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self._log_limit = RateLimitedLog(self.logger, lines=LOG_LINES)
        self._sizes: dict[HoldingConnection, int] = {}
        self.total = 0

    def measure(self, connection: HoldingConnection) -> int:
        """Return how many bytes a connection holds now."""
        raise NotImplementedError

    def note(self, connection: HoldingConnection, size: int) -> None:
        """Record how much a connection holds, and abort the largest above the bound."""
        self.total += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size
        if self.total > self.limit:
            self._relieve()

    def forget(self, connection: HoldingConnection) -> None:
        """Record that a connection holds little, or is lost."""
        self.total -= self._sizes.pop(connection, 0)

    def _relieve(self) -> None:
        # The sizes have changed since the connections reported them.
        self._sizes = {connection: self.measure(connection) for connection in self._sizes}
        self.total = sum(self._sizes.values())
        if self.total <= self.limit:
            return
        before, count = self.total, 0
        for connection in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            if self.total <= self.limit * 3 // 4:
                break
            self.forget(connection)
            connection.abort()
            count += 1
        self._log_limit.log(
            self.logger,
            "aborted the largest connections",
            f"{before:,d} bytes {self.description}, over the bound of {self.limit:,d}: "
            f"aborted the {count:,d} largest connections",
            logging.WARNING,
        )


class SendMemory(HeldMemory):
    """Bytes that wait for clients that do not read."""

    description = "wait for clients that do not read"

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            limit = bounded_by_memory(MAX_UNSENT_BYTES, UNSENT_PART)
        super().__init__(limit)

    def measure(self, connection: HoldingConnection) -> int:
        """Return the number of unsent bytes of a connection."""
        return connection.unsent_bytes()


class ReceiveMemory(HeldMemory):
    """Bytes of requests that are incomplete, or wait for their answer."""

    description = "of requests are incomplete or wait for an answer"

    def __init__(self, max_recv: int = 0, limit: int | None = None) -> None:
        """``max_recv`` is the most that a message may have, in bytes."""
        if limit is None:
            limit = bounded_by_memory(MAX_RECEIVED_BYTES, RECEIVED_PART)
        super().__init__(max(limit, RECEIVED_MESSAGES * max_recv))

    def measure(self, connection: HoldingConnection) -> int:
        """Return how many bytes of requests a connection holds."""
        return connection.unanswered_bytes()
