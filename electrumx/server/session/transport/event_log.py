"""Refusals and evictions of connections: counted, and logged once in a while."""

import logging
from collections import Counter
from collections.abc import Callable

# Refusals and evictions have one log line in so many seconds.
LOG_SECS = 60.0


class EventLog:
    """Counts events by their text, and logs the counts since the last line."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        # Events to log: text -> how often
        self._events: Counter[str] = Counter()
        self._log_time: float | None = None
        #: the same events since the start
        self.totals: Counter[str] = Counter()

    def note(self, event: str) -> None:
        """Count an event; once in a while all of them are one line of the log."""
        self._events[event] += 1
        self.totals[event] += 1
        now = self._clock()
        if self._log_time is None or now - self._log_time >= LOG_SECS:
            self._log_time = now
            parts = ", ".join(f"{count:,d} {text}" for text, count in self._events.items())
            self._events.clear()
            self._logger.info(f"connections {parts}")
