"""Synchronises an index of unconfirmed transactions with the node's mempool.

Knows the node and the database only through MemPoolAPI.  ``index`` has the state and
its queries, ``fetcher`` gets new transactions, ``acceptance`` parses them and finds their inputs.

Runs in: the event loop, in the tasks of keep_synchronized.  The maps change on the loop only, with
the lock held, and in time slices, each of which leaves them consistent; so queries,
which also run on the loop and do not await, need no lock.  Long computations that only read run in
a thread, with the lock held where they read the maps.  There is one such thread: several would not
be faster, but each delays the event loop further.

Two tasks change the maps.  A *refresh* lists the node's transactions, removes those that vanished
and fetches the new ones, some ten thousands at a time; one that lacks a parent waits for the next
portion, and at the end is dropped until the next refresh.  And the maps follow the database *step by
step*: when blocks have been committed on top of the tip that the maps are at, their transactions and
those that they made impossible disappear at once, without a request to the node, so that clients
need not wait until a node with a large mempool has listed it.  These transactions are determined
while the block is written to disk; then they are ``leaving``, in one step, and are removed when
clients have been notified.  Undone blocks are a step too: their transactions are missing until the
next refresh.

A refresh during which the tip moved, at the node or here, still adds new transactions: only a list
that was made at the tip of the database shows that a transaction vanished, and makes the maps
complete.  While they are not, ``info`` and the log report that the mempool is behind.
"""

import asyncio
import gc
import logging
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from electrumx.lib.coins import Coin
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.log_limit import RateLimitedLog
from electrumx.lib.tasks import for_each, run_together, wait_for_event
from electrumx.lib.util import chunks, class_logger
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.mempool_listing import Listing
from electrumx.server.mempool.acceptance import CandidateParser, Candidates
from electrumx.server.mempool.api import MemPoolAPI
from electrumx.server.mempool.arrivals import Arrivals, Report
from electrumx.server.mempool.fetcher import CandidateFetcher
from electrumx.server.mempool.index import (
    Departure,
    HashXMap,
    MemPoolIndex,
    MemPoolTx,
    MemPoolTxSummary,
    Prevout,
    compact_histogram,
)
from electrumx.server.mempool.lag import MempoolLag
from electrumx.server.notifications import Confirmed
from electrumx.server.runtime.histogram import Histogram
from electrumx.server.storage.schema import UTXO

__all__ = ["DBSyncError", "MemPool", "MemPoolAPI", "MemPoolTx", "MemPoolTxSummary"]

T = TypeVar("T")

# New transactions that are fetched before they are accepted.
PORTION = 20_000
# Single transactions in a batch, and seconds between two batches.
ARRIVALS = 200
ARRIVAL_PAUSE_SECS = 0.02
# Before listing again because the node's height changed during a refresh, in seconds.
RESTART_DELAY_SECS = 0.1
# How long maps are kept when it is not known how to follow the database, in seconds.
LOST_SECS = 5.0
# Upper bounds of the durations of refreshes, in seconds.
REFRESH_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60)
# Lines of the log in a minute about transactions that could not be added.
DROPPED_LINES = 10


class DBSyncError(Exception):
    """Internal: node and database are not at the same block."""


class _HeightMovedError(Exception):
    """Internal: the node's height changed while its transactions were listed."""


class MemPool:
    """Keeps an index of unconfirmed transactions like the node's mempool.

    coin:            its DESERIALIZER and hashX_from_script are used, and histogram parameters
    refresh_secs:    pause between refreshes
    log_status_secs: pause between status lines
    settle_secs:     pause after the last of some blocks before the node is asked for its list, at
                     most as long as refresh_secs: clients are notified of a block first
    compiled:        whether to parse with the Cython implementation where it is built
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
        #: the transactions, and all queries about them
        self.index = MemPoolIndex()
        self.coin = coin
        self.api = api
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._log_limit = RateLimitedLog(self.logger, lines=DROPPED_LINES)
        self.cached_compact_histogram: list[tuple[float, int]] = []
        self.refresh_secs = refresh_secs
        self.log_status_secs = log_status_secs
        self.settle_secs = settle_secs
        # Held while the maps change, which takes several turns of the loop.
        self.lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mempool")
        self._fetcher = CandidateFetcher(
            api, CandidateParser(coin, compiled=compiled), self._in_thread
        )
        self.arrivals = Arrivals()
        self._wake = asyncio.Event()  # ends the pause between refreshes
        #: height and tip at which all transactions in the maps are valid; some may be missing
        self._height = -1
        self._tip: bytes | None = None
        #: whether the maps held all transactions of the node when they were last refreshed, and no
        #: block was undone since
        self._complete = False
        #: counts the steps that undid blocks
        self._undone_steps = 0
        #: steps made while new transactions are fetched
        self._steps: list[Confirmed] = []
        self._fetching = False
        #: new transactions of the last listing, and those of them that were read
        self._to_read = self._read = 0
        self._lag = MempoolLag(self.logger, refresh_secs)
        #: durations of refreshes
        self.refresh_histogram = Histogram(REFRESH_BOUNDS)
        #: the transactions that a block on its way to the disk will remove
        self._departure: Departure | None = None
        #: of changes that are not reported yet, also of failed refreshes
        self._touched: set[bytes] = set()

    async def _in_thread(self, func: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, func, *args)

    # -- Tasks

    async def keep_synchronized(self, synchronized_event: asyncio.Event) -> None:
        """Keep the mempool like the node's, until cancelled.

        synchronized_event is set and cleared at once after each successful refresh.
        """
        try:
            # The refresh comes last, so that the others already wait when it first succeeds.
            await run_together(
                self._log_status(synchronized_event),
                self._refresh_histogram(synchronized_event),
                self._wake_after(self.api.wait_for_daemon_height_change),
                self._prepare_for_blocks(),
                self._follow_database(),
                self._watch_lag(),
                self._follow_arrivals(),
                self._refresh_hashes(synchronized_event),
            )
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

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
            await asyncio.sleep(self.log_status_secs)
            await synchronized_event.wait()

    async def _refresh_histogram(self, synchronized_event: asyncio.Event) -> None:
        """Compact the fee histogram from time to time."""
        while True:
            await synchronized_event.wait()
            # A copy of some hundred fee rates; later changes show next time.
            self.cached_compact_histogram = await asyncio.to_thread(
                self._compact_histogram_of,
                self.index.fee_histogram(),
                self.coin.MEMPOOL_COMPACT_HISTOGRAM_BINSIZE,
            )
            await asyncio.sleep(self.coin.MEMPOOL_HISTOGRAM_REFRESH_SECS)

    def _update_histogram(self, bin_size: float) -> None:
        self.cached_compact_histogram = self._compact_histogram_of(
            self.index.fee_histogram(), bin_size
        )

    def _compact_histogram_of(
        self, histogram: dict[float, int], bin_size: float
    ) -> list[tuple[float, int]]:
        """Return the fee histogram to serve. Runs in: a thread."""
        compact = compact_histogram(histogram, bin_size=bin_size)
        self.logger.info(f"compact fee histogram: {compact}")
        return compact

    async def compact_fee_histogram(self) -> list[tuple[float, int]]:
        """Return (fee rate in satoshis per virtual byte, virtual bytes) from the highest down."""
        return self.cached_compact_histogram

    # -- Blocks

    async def _follow_database(self) -> None:
        """Make each step that the database makes, and have the mempool refreshed."""
        timer: asyncio.TimerHandle | None = None
        while True:
            await self.api.wait_for_db_height_change()
            delay = 0.0
            while await self._make_step():
                # Clients wait for a refresh if the maps are not complete.
                delay = min(self.settle_secs, self.refresh_secs) if self._complete else 0.0
            self.arrivals.database_moved()
            if timer is not None:
                timer.cancel()
            timer = asyncio.get_running_loop().call_later(delay, self.refresh_soon)

    async def _prepare_for_blocks(self) -> None:
        """Compute the transactions that each block will remove, while the database writes it."""
        while True:
            await self.api.wait_for_processed_block()
            async with self.lock:
                confirmed = None if self._tip is None else self.api.processed_after(self._tip)
                if confirmed is not None:
                    self._departure = await self._in_thread(self.index.departure, confirmed)

    def _next_step(self) -> Confirmed | None:
        """Return the step from the maps' tip to the next one, None if the database is not ahead."""
        return None if self._tip is None else self.api.confirmed_after(self._tip)

    async def _make_step(self) -> bool:
        """Follow the database to its next tip and report that; False if no step is known."""
        async with self.lock:
            step = self._next_step()
            if step is None:
                return False
            if step.undone:
                self._undone_steps += 1
                self._complete = False
                self._departure = None
            departure = await self._departure_for(step)
            # From here on all answers are of the new tip.
            self.index.leaving = departure.tx_hashes
            self._height, self._tip = step.height, step.tip
            if self._fetching:
                self._steps.append(step)
            await self._touch_leaving()
            touched, self._touched = self._touched | departure.touched, set()
            telling = asyncio.ensure_future(self._report(touched, step.height))
            try:
                # A slow receiver of the report does not delay the cleaning of the maps.
                await asyncio.wait([telling], timeout=self.settle_secs)
                known: set[bytes] = set()
                await for_each(list(self.index.leaving), lambda h: self.index.remove_tx(h, known))
                self.index.leaving = {}
            except BaseException:
                telling.cancel()
                raise
        await telling
        return True

    async def _touch_leaving(self) -> None:
        """Mark the watched outpoints that a block's removals concern, in time slices."""
        if not self.index.watch:
            return
        txs, touch_tx = self.index.txs, self.index.watch.touch_tx
        concerned: dict[bytes, MemPoolTx] = {}
        leaving = [tx_hash for tx_hash in self.index.leaving if tx_hash in txs]
        await for_each(leaving, lambda h: self.index.add_with_children(h, txs[h], concerned))
        await for_each(concerned.items(), lambda item: touch_tx(item[0], item[1].prevouts))

    async def _departure_for(self, step: Confirmed) -> Departure:
        """Return the transactions that a step removes, if possible as computed beforehand."""
        departure, self._departure = self._departure, None
        if (
            departure is None
            or departure.confirmed is not step
            or departure.changes != self.index.changes
        ):
            departure = await self._in_thread(self.index.departure, step)
        return departure

    async def _report(self, touched: set[bytes], height: int) -> None:
        report = self.api.on_mempool if self._complete else self.api.on_mempool_partial
        await report(touched, height)

    # -- Being behind

    async def wait_until_usable(self) -> None:
        """Return when clients may be served, see MempoolLag."""

        def reading() -> str:
            return f" ({self._read:,d} of {self._to_read:,d} transactions read)"

        await self._lag.wait_until_usable(reading)

    def info(self) -> dict[str, Any]:
        """Return for administrators: whether it is behind, its height, number of transactions.

        While new transactions are read, also how many of how many there are.
        """
        info: dict[str, Any] = {
            "behind": self._lag.is_behind(),
            "height": self._height,
            "txs": len(self.index.txs),
        }
        if self._fetching:
            info["reading"] = f"{self._read:,d} of {self._to_read:,d}"
        return info

    async def _watch_lag(self) -> None:
        """Log when the mempool falls behind, and drop maps that do not follow the database."""
        lost = False
        while True:
            await asyncio.sleep(LOST_SECS)
            self._lag.log_change()
            if lost and not self._is_following():
                await self._drop_all()
            lost = not self._is_following()

    def _is_following(self) -> bool:
        """Return whether the maps are at the tip of the database, or a known way before it."""
        api = self.api
        if (self._height, self._tip) == (api.db_height(), api.db_tip()):
            return True
        return self._next_step() is not None

    async def _drop_all(self) -> None:
        """Empty the maps: it is not known which of their transactions blocks confirmed."""
        async with self.lock:
            if not self._is_following():
                self._complete = False
                await for_each(list(self.index.txs), self._remove_one)
        self._wake.set()

    def _remove_one(self, tx_hash: bytes) -> None:
        self.index.remove_tx(tx_hash, self._touched)

    # -- Single transactions

    def entered(self, tx_hash: bytes, raw: bytes | None = None) -> None:
        """Note that the node reports another transaction in its mempool.

        Without the raw transaction the node is asked for it.
        """
        # Also if it is here: it may have left and come back.
        self.arrivals.report(tx_hash, Report(True, raw))

    def left(self, tx_hash: bytes) -> None:
        """Take note that the node removed a transaction that no block confirmed."""
        self.arrivals.report(tx_hash, Report(False))

    def refresh_soon(self) -> None:
        """Have the node's mempool listed: reports of single transactions may have been lost."""
        self._wake.set()

    async def _follow_arrivals(self) -> None:
        """Apply reports of single transactions, in batches, indefinitely."""
        while True:
            await self.arrivals.event.wait()
            reports = self.arrivals.take(ARRIVALS)
            if self.arrivals.overflowed:
                self.refresh_soon()
            try:
                await self._apply_reports(reports)
            except DaemonError as e:
                self.logger.debug(f"ignoring daemon error: {str(e)[:200]!r}")
            await asyncio.sleep(ARRIVAL_PAUSE_SECS)

    async def _apply_reports(self, reports: dict[bytes, Report]) -> None:
        """Add and remove single transactions, and notify."""
        api, arrivals = self.api, self.arrivals
        place = api.db_height(), api.db_tip()
        entering = {h: r for h, r in reports.items() if r.entered and h not in self.index.txs}
        candidates = await self._candidates_of(entering)
        async with self.lock:
            touched: set[bytes] = set()
            left = [h for h, report in reports.items() if not report.entered]
            for tx_hash in [*left, *self.index.remove_with_descendants(left, touched)]:
                arrivals.applied(tx_hash, entered=False)
            # The outputs found are worth nothing if the database has moved since.
            if (api.db_height(), api.db_tip()) == place and self._tip == place[1]:
                accepted = candidates.take_acceptable(self.index.txs)
                await for_each(
                    list(accepted.items()), lambda item: self._add_arrival(*item, touched)
                )
            for tx_hash in candidates.txs:
                arrivals.retry_after_block(tx_hash, entering[tx_hash])
            if not touched:
                return
            # Begun with the lock held, so that no block is reported before.
            telling = asyncio.ensure_future(self._report(touched, self._height))
        await telling

    async def _candidates_of(self, entering: dict[bytes, Report]) -> Candidates:
        """Return transactions that entered, with the database's outputs that they spend."""
        raw_txs = {tx_hash: report.raw for tx_hash, report in entering.items()}
        missing = [tx_hash for tx_hash, raw in raw_txs.items() if raw is None]
        if missing:
            found = await self.api.raw_transactions([hash_to_hex_str(h) for h in missing])
            raw_txs.update(zip(missing, found, strict=True))
        for tx_hash in missing:
            if raw_txs[tx_hash] is None:
                self.arrivals.retry_later(tx_hash, entering[tx_hash])
        unconfirmed = ChainMap[bytes, object](self.index.txs, raw_txs)  # type: ignore[arg-type]
        result = await self._fetcher.parse(list(raw_txs), list(raw_txs.values()), unconfirmed)
        for tx_hash, report in entering.items():
            # Published with a block: a generation transaction, whose input is left out
            candidate = result.txs.get(tx_hash)
            if report.raw is not None and candidate is not None and not candidate.prevouts:
                del result.txs[tx_hash]
        return result

    def _add_arrival(self, tx_hash: bytes, tx: MemPoolTx, touched: set[bytes]) -> None:
        """Add a transaction in place of those that spend the same."""
        if tx_hash in self.index.txs:
            return
        for replaced in self.index.remove_with_descendants(self.index.conflicts(tx), touched):
            self.arrivals.applied(replaced, entered=False)
        self.index.add_tx(tx_hash, tx, touched)
        self.arrivals.applied(tx_hash, entered=True)

    # -- Refreshing

    async def _refresh_hashes(self, synchronized_event: asyncio.Event) -> None:
        """Refresh indefinitely."""
        while True:
            self._wake.clear()
            pause = self.refresh_secs
            start = time.monotonic()
            try:
                complete = await self._refresh()
            except DBSyncError:
                self.logger.debug("waiting for DB to sync")
            except _HeightMovedError:
                pause = min(pause, RESTART_DELAY_SECS)
            except DaemonError as e:
                self.logger.warning(f"ignoring daemon error: {str(e)[:200]!r}")
            else:
                self.refresh_histogram.observe(time.monotonic() - start)
                if complete:
                    self._lag.note_complete()
                    synchronized_event.set()
                    synchronized_event.clear()
                else:
                    pause = min(pause, RESTART_DELAY_SECS)
                touched, self._touched = self._touched, set()
                if touched or complete:
                    await self._report(touched, self._height)
            await self._pause(pause)

    async def _pause(self, secs: float) -> None:
        """Sleep, at longest until the node or the database is at another height."""
        await wait_for_event(self._wake, secs)

    async def _refresh(self) -> bool:
        """Make the mempool like the node's; return whether it is complete.

        If the tip moves during it, new transactions are added all the same; vanished ones stay.
        The hashXs of all changes are added to those touched, also if it raises.
        """
        api = self.api
        height = api.cached_height()
        if height is None or height != api.db_height():
            height = await api.height()
            self._check_in_sync(height, None)
        self.arrivals.listing_requested()
        listing = await api.mempool_listing()
        tip = await api.daemon_tip_hash()
        moved = height != await api.height()
        async with self.lock:
            at_tip = not moved and self._is_in_sync(height, tip)
            self._begin_refresh(height, at_tip=at_tip, moved=moved)
            undone_steps = self._undone_steps
            vanished, new = await self._in_thread(self._differences, listing)
            if at_tip:
                await for_each(vanished, self._remove_one)
        if new:
            await self._take_in(new, listing.members, at_tip)
        if at_tip and undone_steps == self._undone_steps:
            self._complete = True
        return at_tip and self._complete

    def _begin_refresh(self, height: int, *, at_tip: bool, moved: bool) -> None:
        """Note where the maps are; raise if they cannot be changed now."""
        if not at_tip:
            # At the same height, another block: ours will be undone.
            if not moved and height == self.api.db_height():
                raise DBSyncError
            followed = self._is_following() or not self.index.txs
            if self.api.db_tip() is None or not followed:
                raise _HeightMovedError if moved else DBSyncError
        if at_tip or not self.index.txs:
            self._height, self._tip = self.api.db_height(), self.api.db_tip()

    def _check_in_sync(self, height: int, tip: bytes | None) -> None:
        """Raise DBSyncError unless the database is at this height and, if known, this tip."""
        if not self._is_in_sync(height, tip):
            raise DBSyncError

    def _is_in_sync(self, height: int, tip: bytes | None) -> bool:
        """Return whether the database is at this height and, if known, this tip."""
        if height != self.api.db_height():
            return False
        # A reorganisation may end at the height where it began.
        db_tip = self.api.db_tip()
        return tip is None or db_tip is None or tip == db_tip

    def _differences(self, listing: Listing) -> tuple[list[bytes], list[bytes]]:
        """Return the hashes that vanished and those that are new. Runs in: a thread."""
        txs, members = self.index.txs, listing.members
        # Changes of single reports after the listing was requested are applied already.
        entered, left = self.arrivals.entered_since, self.arrivals.left_since
        new = [h for h in listing.hashes if h not in txs and h not in left]
        if len(members) < len(listing.hashes):
            # No node lists one twice.
            new = list(dict.fromkeys(new))
        if len(txs) + len(new) == len(members) and not left:
            # Most often nothing vanished between two polls.
            return [], new
        return [h for h in txs if h not in members and h not in entered], new

    async def _take_in(self, new: Sequence[bytes], listed: set[bytes], at_tip: bool) -> None:
        """Fetch new transactions and add them, in portions."""
        candidates = Candidates()
        skipped: set[bytes] = set()
        self._steps, self._fetching = [], True
        self._to_read, self._read = len(new), 0
        try:
            for portion in chunks(new, PORTION):
                await self._fetcher.fetch(portion, listed, candidates)
                self._read += len(portion)
                async with self.lock:
                    await self._accept(candidates, skipped)
                if len(portion) == PORTION:
                    # So many new objects make the collector look at all there are, for a fifth of
                    # a second, and find nothing: there are no circles among them.
                    gc.freeze()
        finally:
            self._steps, self._fetching = [], False
        dropped = len(candidates.txs)
        if dropped:
            # A list that was made at another tip may have transactions that are confirmed here.
            level = logging.ERROR if at_tip else logging.DEBUG
            self._log_limit.log(self.logger, "txs dropped", f"{dropped:,d} txs dropped", level)

    async def _accept(self, candidates: Candidates, skipped: set[bytes]) -> None:
        """Add those whose inputs are all there; the lock is held."""
        if not self._is_following():
            # The outputs found are worth nothing.
            raise DBSyncError
        if self._steps:
            await self._in_thread(candidates.drop_confirmed, self._steps)
        accepted = await self._in_thread(candidates.take_acceptable, self.index.txs)
        await for_each(list(accepted.items()), lambda item: self._add_listed(*item, skipped))

    def _add_listed(self, tx_hash: bytes, tx: MemPoolTx, skipped: set[bytes]) -> None:
        """Add a transaction of a listing, unless a later report has made it impossible."""
        if tx_hash in self.index.txs:
            return
        if (
            tx_hash in self.arrivals.left_since
            or self.index.conflicts(tx)
            or any(prev_hash in skipped for prev_hash, _idx in tx.prevouts)
        ):
            skipped.add(tx_hash)
            return
        self.index.add_tx(tx_hash, tx, self._touched)

    # -- The public names of the maps and the queries

    @property
    def txs(self) -> dict[bytes, MemPoolTx]:
        """The transactions of the index, by hash; not to be changed."""
        return self.index.txs

    @property
    def hashXs(self) -> HashXMap:
        """The hashes of the index's transactions, by hashX; not to be changed."""
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
