"""Log lines that others can cause, bounded: so many of a kind in a window of time, then a count.

Runs in: one thread, usually that of the event loop.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Lines of a kind to write in each window, and its length in seconds.
LINES = 100
WINDOW_SECS = 60.0


@dataclass(slots=True)
class _Window:
    start: float
    written: int = 0
    suppressed: int = 0


class RateLimitedLog:
    """Writes the first lines of each kind in a window, and counts the others.

    A *kind* is a short text that lines of one sort have in common; it begins the line with the
    count, "KIND: … 1,234 more like this in 60 seconds", which follows when the window is over: at
    the next line of the kind, or at ``flush``.
    """

    def __init__(
        self,
        logger: Any,
        *,
        lines: int = LINES,
        window_secs: float = WINDOW_SECS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``logger`` is for the counts."""
        self._logger = logger
        self._lines = lines
        self._window_secs = window_secs
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def log(self, logger: Any, kind: str, text: str, level: int = logging.INFO) -> None:
        """Write a line to ``logger``, unless there were too many of its kind."""
        now = self._clock()
        window = self._windows.get(kind)
        if window is None or now >= window.start + self._window_secs:
            if window is not None:
                self._summarise(kind, window)
            window = self._windows[kind] = _Window(now)
        if window.written < self._lines:
            window.written += 1
            logger.log(level, text)
        else:
            window.suppressed += 1

    def flush(self) -> None:
        """Write the counts of windows that are over."""
        now = self._clock()
        for kind, window in list(self._windows.items()):
            if now >= window.start + self._window_secs:
                del self._windows[kind]
                self._summarise(kind, window)

    def _summarise(self, kind: str, window: _Window) -> None:
        if window.suppressed:
            self._logger.info(
                f"{kind}: … {window.suppressed:,d} more like this in {self._window_secs:.0f} seconds"
            )
