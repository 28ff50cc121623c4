"""Applies reports of single transactions: see ``arrivals``, which queues them.

Runs in: the event loop, in a task of ``MemPool``.
"""

import asyncio
import logging
from collections import ChainMap
from collections.abc import Callable

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tasks import for_each
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.acceptance import Candidates
from electrumx.server.mempool.arrivals import Arrivals, Report
from electrumx.server.mempool.fetcher import CandidateFetcher
from electrumx.server.mempool.index import MemPoolTx
from electrumx.server.mempool.state import MempoolState

# Single transactions in a batch, and seconds between two batches.
ARRIVALS = 200
ARRIVAL_PAUSE_SECS = 0.02


class ArrivalTask:
    """Adds and removes single transactions as reports of them arrive."""

    def __init__(
        self,
        state: MempoolState,
        arrivals: Arrivals,
        fetcher: CandidateFetcher,
        refresh_soon: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        """``refresh_soon`` has the node's mempool listed."""
        self._state = state
        self._arrivals = arrivals
        self._fetcher = fetcher
        self._refresh_soon = refresh_soon
        self._logger = logger

    async def run(self) -> None:
        """Apply reports, in batches, indefinitely."""
        arrivals = self._arrivals
        while True:
            await arrivals.event.wait()
            reports = arrivals.take(ARRIVALS)
            if arrivals.overflowed:
                # Once: while the database is behind the node, a refresh does not list.
                arrivals.overflowed = False
                self._refresh_soon()
            try:
                await self._apply(reports)
            except DaemonError as e:
                self._logger.debug(f"ignoring daemon error: {str(e)[:200]!r}")
            await asyncio.sleep(ARRIVAL_PAUSE_SECS)

    async def _apply(self, reports: dict[bytes, Report]) -> None:
        """Add and remove single transactions, and notify."""
        state, index, arrivals = self._state, self._state.index, self._arrivals
        api = state.api
        place = api.db_height(), api.db_tip()
        entering = {h: r for h, r in reports.items() if r.entered and h not in index.txs}
        candidates = await self._candidates_of(entering)
        async with state.lock:
            touched: set[bytes] = set()
            left = [h for h, report in reports.items() if not report.entered]
            for tx_hash in [*left, *index.remove_with_descendants(left, touched)]:
                arrivals.applied(tx_hash, entered=False)
            # The outputs found are worth nothing if the database has moved since.
            if (api.db_height(), api.db_tip()) == place and state.tip == place[1]:
                accepted = candidates.take_acceptable(index.txs)
                await for_each(list(accepted.items()), lambda item: self._add(*item, touched))
            for tx_hash in candidates.txs:
                arrivals.retry_after_block(tx_hash, entering[tx_hash])
            if not touched:
                return
            # Begun with the lock held, so that no report of a block comes before.
            telling = asyncio.ensure_future(state.report(touched, state.height))
        await telling

    async def _candidates_of(self, entering: dict[bytes, Report]) -> Candidates:
        """Return transactions that entered, with the database's outputs that they spend."""
        index = self._state.index
        raw_txs = {tx_hash: report.raw for tx_hash, report in entering.items()}
        missing = [tx_hash for tx_hash, raw in raw_txs.items() if raw is None]
        if missing:
            hex_hashes = [hash_to_hex_str(tx_hash) for tx_hash in missing]
            found = await self._state.api.raw_transactions(hex_hashes)
            raw_txs.update(zip(missing, found, strict=True))
        for tx_hash in missing:
            if raw_txs[tx_hash] is None:
                self._arrivals.retry_later(tx_hash, entering[tx_hash])
        unconfirmed = ChainMap[bytes, object](index.txs, raw_txs)  # type: ignore[arg-type]
        result = await self._fetcher.parse(list(raw_txs), list(raw_txs.values()), unconfirmed)
        for tx_hash, report in entering.items():
            # Published with a block: a generation transaction, whose input is left out
            candidate = result.txs.get(tx_hash)
            if report.raw is not None and candidate is not None and not candidate.prevouts:
                del result.txs[tx_hash]
        return result

    def _add(self, tx_hash: bytes, tx: MemPoolTx, touched: set[bytes]) -> None:
        """Add a transaction in place of those that spend the same."""
        index = self._state.index
        if tx_hash in index.txs:
            return
        for replaced in index.remove_with_descendants(index.conflicts(tx), touched):
            self._arrivals.applied(replaced, entered=False)
        index.add_tx(tx_hash, tx, touched)
        self._arrivals.applied(tx_hash, entered=True)
