"""Figures of indexing since the start: blocks, their durations, reorgs.

Runs in: the event loop.
"""

import time
from collections import deque
from typing import NamedTuple

from electrumx.server.runtime.histogram import Histogram

# Upper bounds of the time that a block takes, in seconds: during a sync it is milliseconds.
BLOCK_SECS = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
# Reorgs to remember.
RECENT_REORGS = 20


class Reorg(NamedTuple):
    """Blocks that were undone."""

    #: seconds since the epoch
    time: float
    #: of the lowest block
    first_height: int
    blocks: int


class IndexStats:
    """Counts the blocks of a block processor."""

    def __init__(self) -> None:
        self.blocks = 0
        self.block_secs = Histogram(BLOCK_SECS)
        self.reorgs = 0
        self.reorg_blocks = 0
        self.recent_reorgs: deque[Reorg] = deque(maxlen=RECENT_REORGS)

    def indexed(self, count: int, secs: float) -> None:
        """Count blocks that took so long together, flushes included."""
        self.blocks += count
        if count:
            self.block_secs.observe_equal(secs / count, count)

    def undone(self, first_height: int, count: int) -> None:
        """Count a reorg."""
        self.reorgs += 1
        self.reorg_blocks += count
        self.recent_reorgs.append(Reorg(time.time(), first_height, count))
