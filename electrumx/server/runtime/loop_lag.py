"""The lag of the event loop: whether something blocks it.

A task sleeps 50 ms at a time and records how much later it wakes up.  Every client waits as long.
Causes are work on the loop that should be in a thread, threads that hold the interpreter, the
garbage collector, and a machine with too much to do.

Owns the delays of the last minute.  Runs in: the event loop.
"""

import asyncio
import time
from collections import deque

from electrumx.lib.util import class_logger
from electrumx.server.runtime.histogram import Histogram

# Between two measurements, in seconds.  A measured lag lacks the part that falls into the sleep, and
# each measurement wakes the processor up, which is most of the work of an idle server.
PERIOD_SECS = 0.05
# How long it remembers delays.
WINDOW_SECS = 60.0
# Delays of at least this go to the log, at most one in LOG_INTERVAL_SECS.
LOGGED_SECS = 0.25
LOG_INTERVAL_SECS = 60.0
# Upper bounds of the delays counted since the start.
LAG_SECS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class LoopLag:
    """Measures the lag while ``run`` runs."""

    def __init__(self) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        #: of the last minute, in seconds, oldest first
        self._delays: deque[float] = deque(maxlen=round(WINDOW_SECS / PERIOD_SECS))
        self._next_log = 0.0
        #: delays since the start
        self.histogram = Histogram(LAG_SECS)

    async def run(self) -> None:
        """Measure until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            due = now() + PERIOD_SECS
            await asyncio.sleep(PERIOD_SECS)
            self.note(now() - due)

    def note(self, delay: float) -> None:
        """Record a measurement, in seconds."""
        delay = max(0.0, delay)
        self._delays.append(delay)
        self.histogram.observe(delay)
        if delay >= LOGGED_SECS and time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + LOG_INTERVAL_SECS
            self.logger.warning(f"the event loop was blocked for {delay:.2f}s")

    def summary(self) -> dict[str, float]:
        """Return the delays of the last minute in milliseconds: median, 99th of 100, longest."""
        delays = sorted(self._delays) or [0.0]
        chosen = {
            "median ms": delays[len(delays) // 2],
            "p99 ms": delays[len(delays) * 99 // 100],
            "longest ms": delays[-1],
        }
        return {name: round(delay * 1000, 1) for name, delay in chosen.items()}
