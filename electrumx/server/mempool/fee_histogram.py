"""The compact histogram of fee rates for clients, computed again from time to time.

Runs in: the event loop, in a task of ``MemPool``; a thread compacts it.
"""

import asyncio
import logging

from electrumx.lib.coins import Coin
from electrumx.server.mempool.index import MemPoolIndex, compact_histogram

CompactHistogram = list[tuple[float, int]]


class FeeHistogram:
    """Fee rates of the mempool's transactions, by how many virtual bytes pay them."""

    def __init__(self, index: MemPoolIndex, coin: type[Coin], logger: logging.Logger) -> None:
        self._index = index
        self._coin = coin
        self._logger = logger
        #: (fee rate in satoshis per virtual byte, virtual bytes) from the highest down
        self.compact: CompactHistogram = []

    async def run(self, synchronized_event: asyncio.Event) -> None:
        """Compute it after a refresh, each MEMPOOL_HISTOGRAM_REFRESH_SECS."""
        while True:
            await synchronized_event.wait()
            # A copy of some hundred fee rates; later changes show next time.
            self.compact = await asyncio.to_thread(
                self._compacted,
                self._index.fee_histogram(),
                self._coin.MEMPOOL_COMPACT_HISTOGRAM_BINSIZE,
            )
            await asyncio.sleep(self._coin.MEMPOOL_HISTOGRAM_REFRESH_SECS)

    def update(self, bin_size: float) -> None:
        """Compute it now, in bins of at least ``bin_size`` virtual bytes."""
        self.compact = self._compacted(self._index.fee_histogram(), bin_size)

    def _compacted(self, histogram: dict[float, int], bin_size: float) -> CompactHistogram:
        compact = compact_histogram(histogram, bin_size=bin_size)
        self._logger.info(f"compact fee histogram: {compact}")
        return compact
