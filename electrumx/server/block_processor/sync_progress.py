"""Estimates how far the sync is, and logs it.

Owns the times of the log lines.  Runs in: the event loop; the estimate in any thread.
"""

import logging
import time
from collections.abc import Callable

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.server.block_processor.cache_policy import CacheUse
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.sync_estimate import txs_remaining


class SyncProgress:
    """Logs the progress of a chain state towards the daemon's height."""

    #: seconds between log lines on the caches, and on progress
    CACHE_LOG_SECS = 30.0
    PROGRESS_LOG_SECS = 10.0
    #: seconds over which to measure a speed, at least
    LEAST_RATE_SECS = 1.0

    def __init__(
        self,
        coin: type[Coin],
        state: ChainState,
        cache_MB: int,
        daemon_height: Callable[[], int | None],
        logger: logging.Logger,
    ):
        self.logger = logger
        self._coin = coin
        self._state = state
        self._cache_MB = cache_MB
        self._daemon_height = daemon_height
        now = time.monotonic()
        self._next_cache_log = now
        self._next_progress_log = now + self.PROGRESS_LOG_SECS
        self._mark = (now, 0)
        #: transactions a second between the last two marks; None before the second
        self._rate: float | None = None

    def start(self) -> None:
        """Measure the speed from here on."""
        self._mark = (time.monotonic(), self._state.tx_count)

    def log_cache(self, use: CacheUse) -> None:
        """Log what the caches take, every CACHE_LOG_SECS."""
        now = time.monotonic()
        if now < self._next_cache_log:
            return
        self._next_cache_log = now + self.CACHE_LOG_SECS
        self.logger.info(
            f"our height: {self._state.height:,d} daemon: {self._daemon_height() or 0:,d} "
            f"UTXOs {use.utxos // 1_000_000:,d}MB hist {use.history // 1_000_000:,d}MB"
        )

    def log_progress(self, cache_use: Callable[[], CacheUse]) -> None:
        """Log how far the sync is, every PROGRESS_LOG_SECS."""
        now = time.monotonic()
        if now < self._next_progress_log:
            return
        self._next_progress_log = now + self.PROGRESS_LOG_SECS
        then, tx_count = self._mark
        self._mark = (now, self._state.tx_count)
        rate = max((self._state.tx_count - tx_count) / max(now - then, 0.001), 0.001)
        self._rate = rate
        remaining = self.estimate_txs_remaining()
        self.logger.info(
            f"sync {self.percent():.1f}%  height {self._state.height:,d} of "
            f"{self._daemon_height() or 0:,d}  {rate:,.0f} tx/s  "
            f"ETA {util.formatted_time(remaining / rate)}  "
            f"cache {cache_use().total // 1_000_000:,d} of {self._cache_MB:,d} MB"
        )

    def percent(self) -> float:
        """Return the processed part of the chain's transactions, in per cent."""
        remaining = self.estimate_txs_remaining()
        done = self._state.tx_count
        return 100.0 * done / (done + remaining) if remaining else 100.0

    def eta_secs(self) -> float | None:
        """Return about how long processing the rest takes; None while the speed is unknown."""
        remaining = self.estimate_txs_remaining()
        if not remaining:
            return 0.0
        rate = self._rate
        if rate is None:
            then, tx_count = self._mark
            elapsed = time.monotonic() - then
            if elapsed < self.LEAST_RATE_SECS or self._state.tx_count <= tx_count:
                return None
            rate = (self._state.tx_count - tx_count) / elapsed
        return remaining / rate

    def estimate_txs_remaining(self) -> float:
        """Return a rough number of transactions still to index."""
        state = self._state
        return txs_remaining(self._coin, state.height, state.tx_count, self._daemon_height() or 0)
