"""How many requests of each method there were, how they ended, and how long they took.

Theory of operation.  Most requests have their answer in less than ``QUICK_SECS``, in the callback that
received them, at a cost of microseconds.  Of those there is only a number and a sum: ``started`` less
``taken`` is the number of them, all in the first bucket.  A request that has to wait is ``taken`` out
of it, and observed at its answer; one whose client is gone is not.

Runs on the event loop.
"""

from bisect import bisect_left
from collections import Counter

from aiorpcx import JSONRPC

from electrumx.server.runtime.histogram import Histogram

# Upper bounds of the durations, in seconds.
REQUEST_SECS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)  # fmt: skip
QUICK_SECS = REQUEST_SECS[0]
OK, ERROR, COST, TIMEOUT = "ok", "error", "cost", "timeout"
OUTCOMES = {JSONRPC.EXCESSIVE_RESOURCE_USAGE: COST, JSONRPC.SERVER_BUSY: TIMEOUT}


class MethodStats:
    """The requests of one method."""

    __slots__ = ("counts", "failed", "method", "secs", "started", "taken")

    def __init__(self, method: str) -> None:
        #: its name: sessions that count requests by it share this text, instead of that of a message
        self.method = method
        #: whose handler was called
        self.started = 0
        #: those of them that ``observe`` counts at their answer
        self.taken = 0
        #: processor time of the quick ones, and durations of the others, in seconds
        self.secs = 0.0
        #: of those observed, by bucket
        self.counts = [0] * (len(REQUEST_SECS) + 1)
        #: by outcome
        self.failed: dict[str, int] = {}

    def observe(self, secs: float) -> None:
        """Count a taken request, at its answer now."""
        self.counts[bisect_left(REQUEST_SECS, secs)] += 1
        self.secs += secs

    def slow(self, secs: float) -> None:
        """Count a request answered at once, but not quickly; it is part of ``secs``."""
        self.taken += 1
        self.counts[bisect_left(REQUEST_SECS, secs)] += 1

    def fail(self, error: object) -> None:
        """Count an answer that is an error."""
        outcome = OUTCOMES.get(getattr(error, "code", None), ERROR)
        self.failed[outcome] = self.failed.get(outcome, 0) + 1

    def answered(self) -> int:
        """Return the number of answered requests."""
        return self._quick() + sum(self.counts)

    def outcomes(self) -> dict[str, int]:
        """Return the number of answered requests, by outcome."""
        return {OK: max(0, self.answered() - sum(self.failed.values())), **self.failed}

    def histogram(self) -> Histogram:
        """Return the durations of all answered requests."""
        result = Histogram(REQUEST_SECS)
        result.counts = [self._quick() + self.counts[0], *self.counts[1:]]
        result.total = self.secs
        return result

    def _quick(self) -> int:
        return max(0, self.started - self.taken)


class RequestStats(dict[str, MethodStats]):
    """The requests of all sessions, by method; the first look-up of a method adds it."""

    def __missing__(self, method: str) -> MethodStats:
        stats = self[method] = MethodStats(method)
        return stats

    def started(self) -> Counter[str]:
        """Return the number of started requests of each method."""
        return Counter({method: stats.started for method, stats in self.items() if stats.started})
