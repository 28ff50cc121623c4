"""Requests in the last minute: how many a second of each method, and how long they took.

Owns copies of the counters, one every ``SAMPLE_SECS``.  Runs in: the event loop.
"""

import asyncio
from collections import deque
from typing import NamedTuple

from electrumx.server.runtime.histogram import Histogram
from electrumx.server.session.engine.request_stats import REQUEST_SECS, RequestStats

SAMPLE_SECS = 10.0
SAMPLES = 7


class MethodRate(NamedTuple):
    """A method in the last minute."""

    method: str
    per_sec: float
    #: upper bounds of the buckets that have the quantiles, in seconds; None without a request
    median_secs: float | None
    p99_secs: float | None


class RequestRates:
    """The differences between now and a minute ago."""

    def __init__(self, requests: RequestStats) -> None:
        self._requests = requests
        #: (time of the loop, durations by method), oldest first
        self._samples: deque[tuple[float, dict[str, list[int]]]] = deque(maxlen=SAMPLES)

    async def run(self) -> None:
        """Copy the counters from time to time, until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_SECS)

    def sample(self) -> None:
        """Copy the counters."""
        self._samples.append((asyncio.get_running_loop().time(), self._counts()))

    def _counts(self) -> dict[str, list[int]]:
        return {method: stats.histogram().counts for method, stats in self._requests.items()}

    def now(self) -> list[MethodRate]:
        """Return each method requested in the last minute, the most frequent first."""
        if not self._samples:
            return []
        then, before = self._samples[0]
        elapsed = max(asyncio.get_running_loop().time() - then, 1.0)
        rates = []
        for method, counts in self._counts().items():
            recent = Histogram(REQUEST_SECS)
            old = before.get(method, [0] * len(counts))
            recent.counts = [max(0, new - was) for new, was in zip(counts, old, strict=True)]
            if recent.count:
                rates.append(
                    MethodRate(
                        method,
                        recent.count / elapsed,
                        recent.quantile(0.5),
                        recent.quantile(0.99),
                    )
                )
        return sorted(rates, key=lambda rate: -rate.per_sec)
