"""When to flush the caches during a sync, and how much stays cached then.

Pure decisions: the flush scheduler measures the memory, and acts.  All figures are
bytes and include the memory that a flush will take.
"""

from typing import NamedTuple


class CacheUse(NamedTuple):
    """The memory that the caches take."""

    #: all cached UTXOs, those that are on disk too, and undo information
    utxos: int
    #: the part of that which waits for its write
    unwritten: int
    #: history, hashes and headers: all else that waits for its write
    history: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.utxos + self.history


def flush_due(use: CacheUse, limit: int) -> bool | None:
    """Return None if no flush is due, else whether to flush UTXOs, too.

    ``limit`` is the memory that the caches may take.  Prefer a flush of history alone: it frees all
    that it writes, while a UTXO that stays in memory may be spent before it reaches the disk.  But
    the fewer flushes of history, the fewer rows there are.
    """
    if use.total < limit and use.history < max(1_000_000, limit // 2):
        return None
    return use.unwritten >= limit * 2 // 5 or use.history < limit // 5


#: bytes of known UTXOs at the tip, at most: about a week of Bitcoin's
MOST_KNOWN_BYTES = 200_000_000


def known_bytes_to_keep(limit: int) -> int:
    """Return how much of the UTXOs that are on disk may stay cached once caught up."""
    return min(limit // 5, MOST_KNOWN_BYTES)


def written_bytes_to_keep(limit: int) -> int:
    """Return how much of the UTXOs that are on disk may stay cached at a flush of UTXOs."""
    return limit // 3
