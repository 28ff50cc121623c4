"""An index of unconfirmed transactions, synchronised with the node's mempool.

Knows the node and the database only through MemPoolAPI.  ``MemPool`` has the parts and runs their
tasks; three of these change the maps, with the lock of ``MempoolState`` held:

* ``Refresher`` lists the node's transactions, removes those that vanished and reads the new ones;
* ``BlockSteps`` follows the database step by step, without a request to the node;
* ``ArrivalTask`` applies reports of single transactions.

``index`` has the maps and their queries, ``state`` the tip at which they are valid, ``fetcher`` gets
new transactions, ``acceptance`` parses them and finds their inputs, ``fee_histogram`` has the fee
rates, ``lag`` whether the mempool is behind the node's.

Runs in: the event loop, in the tasks of keep_synchronized.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from electrumx.lib.coins import Coin
from electrumx.lib.tasks import run_together
from electrumx.lib.util import class_logger
from electrumx.server.mempool.acceptance import CandidateParser
from electrumx.server.mempool.api import MemPoolAPI
from electrumx.server.mempool.arrival_task import ArrivalTask
from electrumx.server.mempool.arrivals import Arrivals, Report
from electrumx.server.mempool.block_steps import BlockSteps
from electrumx.server.mempool.fee_histogram import FeeHistogram
from electrumx.server.mempool.fetcher import CandidateFetcher
from electrumx.server.mempool.index import (
    HashXMap,
    MemPoolTx,
    MemPoolTxSummary,
    Prevout,
)
from electrumx.server.mempool.lag import MempoolLag
from electrumx.server.mempool.refresher import DBSyncError, Refresher
from electrumx.server.mempool.state import MempoolState
from electrumx.server.storage.schema import UTXO

__all__ = ["DBSyncError", "MemPool", "MemPoolAPI", "MemPoolTx", "MemPoolTxSummary"]

# How long maps stay without a known way to follow the database, in seconds.
LOST_SECS = 5.0


class MemPool:
    """Keeps an index of unconfirmed transactions like the node's mempool.

    coin:            gives DESERIALIZER, hashX_from_script and the histogram parameters
    refresh_secs:    pause between refreshes
    log_status_secs: pause between status lines
    settle_secs:     pause after the last of some blocks before the request for the node's list, at
                     most as long as refresh_secs: clients get the notification of a block first
    compiled:        whether to parse with the Cython implementation where there is one
    """

    def __init__(
        self,
        coin: type[Coin],
        api: MemPoolAPI,
        refresh_secs: float = 5.0,
        log_status_secs: float = 60.0,
        *,
        settle_secs: float = 0.5,
        compiled: bool = True,
    ) -> None:
        assert isinstance(api, MemPoolAPI)
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._state = MempoolState(api)
        #: the transactions, and all queries about them
        self.index = self._state.index
        #: held while the maps change
        self.lock = self._state.lock
        #: reports of single transactions
        self.arrivals = Arrivals()
        self.fee_histogram = FeeHistogram(self.index, coin, self.logger)
        self._log_status_secs = log_status_secs
        # Ends the pause between refreshes
        self._wake = asyncio.Event()
        self._lag = MempoolLag(self.logger, refresh_secs)
        fetcher = CandidateFetcher(
            api, CandidateParser(coin, compiled=compiled), self._state.in_thread
        )
        self._steps = BlockSteps(
            self._state,
            self.arrivals,
            self.refresh_soon,
            pause_secs=min(settle_secs, refresh_secs),
            settle_secs=settle_secs,
        )
        self._arrival_task = ArrivalTask(
            self._state, self.arrivals, fetcher, self.refresh_soon, self.logger
        )
        self.refresher = Refresher(
            self._state,
            self.arrivals,
            fetcher,
            self._lag,
            wake=self._wake,
            refresh_secs=refresh_secs,
            logger=self.logger,
        )

    # -- Tasks

    async def keep_synchronized(self, synchronized_event: asyncio.Event) -> None:
        """Keep the mempool like the node's, until cancelled.

        Each successful refresh sets synchronized_event and clears it at once.
        """
        try:
            # The refresh comes last, so that the others already wait when it first succeeds.
            await run_together(
                self._log_status(synchronized_event),
                self.fee_histogram.run(synchronized_event),
                self._wake_after(self._state.api.wait_for_daemon_height_change),
                self._steps.prepare(),
                self._steps.follow(),
                self._watch_lag(),
                self._arrival_task.run(),
                self.refresher.run(synchronized_event),
            )
        finally:
            self._state.shut_down()

    async def _wake_after(self, change: Callable[[], Awaitable[None]]) -> None:
        while True:
            await change()
            self._wake.set()

    async def _log_status(self, synchronized_event: asyncio.Event) -> None:
        """Log when the mempool is first synchronised, and its state from time to time."""
        self.logger.info("beginning processing of daemon mempool.  This can take some time...")
        start = time.monotonic()
        await synchronized_event.wait()
        self.logger.info(f"synced in {time.monotonic() - start:,.2f}s")
        while True:
            self.logger.info(
                f"{len(self.index.txs):,d} txs {self.index.total_size / 1_000_000:.2f} MB "
                f"touching {len(self.index.hashXs):,d} addresses"
            )
            await asyncio.sleep(self._log_status_secs)
            await synchronized_event.wait()

    async def _watch_lag(self) -> None:
        """Log when the mempool falls behind, and drop maps that do not follow the database."""
        state = self._state
        lost = False
        while True:
            await asyncio.sleep(LOST_SECS)
            self._lag.log_change()
            if lost and not state.is_following():
                await state.drop_if_lost()
                self._wake.set()
            lost = not state.is_following()

    # -- Being behind

    async def wait_until_usable(self) -> None:
        """Return when the server may serve clients, see MempoolLag."""
        await self._lag.wait_until_usable(
            lambda: f" ({self.refresher.reading()} transactions read)"
        )

    def info(self) -> dict[str, Any]:
        """Return for administrators: whether it is behind, its height, number of transactions.

        While a refresh reads new transactions, also how many of how many there are.
        """
        info: dict[str, Any] = {
            "behind": self._lag.is_behind(),
            "height": self._state.height,
            "txs": len(self.index.txs),
        }
        if self.refresher.is_reading():
            info["reading"] = self.refresher.reading()
        return info

    # -- Reports of single transactions

    def entered(self, tx_hash: bytes, raw: bytes | None = None) -> None:
        """Note that the node reports another transaction in its mempool.

        Without the raw transaction the mempool asks the node for it.
        """
        # Also if it is here: it may have left and come back.
        self.arrivals.report(tx_hash, Report(True, raw))

    def left(self, tx_hash: bytes) -> None:
        """Take note that the node removed a transaction that no block confirmed."""
        self.arrivals.report(tx_hash, Report(False))

    def refresh_soon(self) -> None:
        """Have the node's mempool listed: reports of single transactions may be missing."""
        self._wake.set()

    # -- Fee rates

    @property
    def cached_compact_histogram(self) -> list[tuple[float, int]]:
        """(fee rate in satoshis per virtual byte, virtual bytes) from the highest down."""
        return self.fee_histogram.compact

    async def compact_fee_histogram(self) -> list[tuple[float, int]]:
        """Return the cached compact histogram."""
        return self.fee_histogram.compact

    def _update_histogram(self, bin_size: float) -> None:
        self.fee_histogram.update(bin_size)

    # -- The public names of the maps and the queries

    @property
    def txs(self) -> dict[bytes, MemPoolTx]:
        """The transactions of the index, by hash; do not change them."""
        return self.index.txs

    @property
    def hashXs(self) -> HashXMap:
        """The hashes of the index's transactions, by hashX; do not change them."""
        return self.index.hashXs

    async def balance_delta(self, hashX: bytes) -> int:
        """Return the result of sync_balance_delta."""
        if self.index.large.is_large(hashX):
            return (await self.index.large.unspent(hashX)).delta
        return self.index.sync_balance_delta(hashX)

    async def potential_spends(self, hashX: bytes) -> set[Prevout]:
        """Return the result of sync_spends."""
        return self.index.sync_spends(hashX)

    async def transaction_summaries(self, hashX: bytes) -> list[MemPoolTxSummary]:
        """Return the result of sync_summaries."""
        return self.index.sync_summaries(hashX)

    async def unordered_UTXOs(self, hashX: bytes) -> list[UTXO]:
        """Return the result of sync_unspent."""
        return self.index.sync_unspent(hashX)
