"""When the caches are flushed during synchronisation, and what stays in memory then.

Owns the decision alone: the block processor tells what memory is taken, and acts.  All figures are
bytes and count what a flush will take besides.
"""

from typing import NamedTuple


class CacheUse(NamedTuple):
    """What the caches take."""

    #: all coins in memory, those that are on disk too, and undo information
    coins: int
    #: of that, what waits to be written
    unwritten: int
    #: history, hashes and headers: all that waits to be written beside coins
    history: int

    @property
    def total(self) -> int:
        """All together."""
        return self.coins + self.history


def flush_due(use: CacheUse, limit: int) -> bool | None:
    """Return None if no flush is due, else whether coins are to be flushed, too.

    ``limit`` is what the caches may take.  A flush of history alone is the better one: it frees all
    that it writes, while a coin that stays in memory may yet be spent before it reaches the disk.
    But the fewer flushes of history, the fewer rows there are.
    """
    if use.total < limit and use.history < max(1_000_000, limit // 2):
        return None
    return use.unwritten >= limit * 2 // 5 or use.history < limit // 5


def known_coins_to_keep(limit: int) -> int:
    """Return how much of the coins that are on disk may stay in memory when coins are flushed."""
    return limit // 3
