"""One bound on the bytes that wait for slow readers, over all connections.

Each connection alone is bounded by the largest reply times the requests under way, which is tens
of megabytes; a hundred of them would take the machine's memory.  Connections that are not
writable report what waits.  Above the bound the largest are aborted, until a quarter is free.

Runs on the event loop.
"""

import os
from typing import Any

from electrumx.lib import util

# Ordinary clients read at once; so much waits only if many do not.
MAX_UNSENT_BYTES = 256 << 20
# On a small machine the bound is this part of its memory.
MEMORY_PART = 8


def default_limit() -> int:
    """Return the bound for this machine, in bytes."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return MAX_UNSENT_BYTES
    return min(MAX_UNSENT_BYTES, memory // MEMORY_PART)


class SendMemory:
    """The bytes that wait to be sent, by connection, and their bound."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = default_limit() if limit is None else limit
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self._sizes: dict[Any, int] = {}
        self.total = 0

    def note(self, connection: Any, size: int) -> None:
        """Record how much waits for a connection, and abort the largest above the bound."""
        self.total += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size
        if self.total > self.limit:
            self._relieve()

    def forget(self, connection: Any) -> None:
        """Record that a connection is writable again, or lost."""
        self.total -= self._sizes.pop(connection, 0)

    def _relieve(self) -> None:
        # Buffers have drained since they were reported.
        self._sizes = {connection: connection.unsent_bytes() for connection in self._sizes}
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
        self.logger.warning(
            f"{before:,d} bytes wait for clients that do not read, over the bound of "
            f"{self.limit:,d}: aborted the {count:,d} largest connections"
        )
