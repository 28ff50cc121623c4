"""How often the clients of a subnet connect, in periods of a minute, within a bound on memory.

Runs on the event loop.
"""

from collections import Counter
from collections.abc import Callable

PERIOD_SECS = 60.0
# Beyond so many subnets the period ends early: each takes some 150 bytes.
MAX_SUBNETS = 50_000


class ConnectionRate:
    """Counts the connections of each subnet; refuses those above the limit of a period."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        """``limit`` is the number of connections in a period; 0 is no limit."""
        self._limit = limit
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._period_end = clock() + PERIOD_SECS

    @property
    def subnet_count(self) -> int:
        """The number of subnets whose connections are counted at present."""
        return len(self._counts)

    def admits(self, subnet: str) -> bool:
        """Count a new connection; return whether it is within the limit."""
        if not self._limit:
            return True
        now = self._clock()
        if now >= self._period_end or len(self._counts) >= MAX_SUBNETS:
            self._counts.clear()
            self._period_end = now + PERIOD_SECS
        self._counts[subnet] += 1
        return self._counts[subnet] <= self._limit
