"""Figures of flushes since the start.

Runs in: the thread that flushes, of which there is one at a time; read by the event loop.
"""

import time
from collections import deque
from typing import NamedTuple

from electrumx.server.runtime.histogram import Histogram

# Upper bounds of the durations of a phase, in seconds.
FLUSH_SECS = (0.05, 0.5, 1, 5, 30, 120)
PHASES = ("files", "history", "utxo")
# Flushes to remember.
RECENT_FLUSHES = 20


class Flush(NamedTuple):
    """One flush that has ended."""

    #: seconds since the epoch
    time: float
    height: int
    #: its duration
    secs: float


class FlushStats:
    """Counts flushes, and times their phases."""

    def __init__(self) -> None:
        self.count = 0
        self.phase_secs = {phase: Histogram(FLUSH_SECS) for phase in PHASES}
        self.recent: deque[Flush] = deque(maxlen=RECENT_FLUSHES)

    def ended(self, height: int, marks: list[float]) -> None:
        """Count a flush; ``marks`` are the times at which its phases began, and the last ended."""
        self.count += 1
        for phase, start, end in zip(PHASES, marks, marks[1:], strict=False):
            self.phase_secs[phase].observe(end - start)
        self.recent.append(Flush(time.time(), height, marks[-1] - marks[0]))
