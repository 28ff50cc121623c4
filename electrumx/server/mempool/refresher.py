"""Refreshes the mempool: lists the node's transactions, removes those that vanished, reads new ones.

A refresh reads new transactions some ten thousands at a time; one that lacks a parent waits for the
next portion, and at the end stays out until the next refresh.

A refresh during which the tip moved, at the node or here, still adds new transactions: only a list
made at the tip of the database shows that a transaction vanished, and makes the maps
complete.  While they are not, ``info`` of the mempool and the log report that it is behind.

Runs in: the event loop, in a task of ``MemPool``.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Sequence

from electrumx.lib.log_limit import RateLimitedLog
from electrumx.lib.tasks import for_each, wait_for_event
from electrumx.lib.util import chunks
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.mempool_listing import Listing
from electrumx.server.mempool.acceptance import Candidates
from electrumx.server.mempool.arrivals import Arrivals
from electrumx.server.mempool.fetcher import CandidateFetcher
from electrumx.server.mempool.index import MemPoolTx
from electrumx.server.mempool.lag import MempoolLag
from electrumx.server.mempool.state import MempoolState
from electrumx.server.runtime.histogram import Histogram

# New transactions in a portion, fetched first and then accepted.
PORTION = 20_000
# Before listing again because the node's height changed during a refresh, in seconds.
RESTART_DELAY_SECS = 0.1
# Upper bounds of the durations of refreshes, in seconds.
REFRESH_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60)
# Lines of the log in a minute about dropped transactions.
DROPPED_LINES = 10


class DBSyncError(Exception):
    """Internal: node and database are not at the same block."""


class _HeightMovedError(Exception):
    """Internal: the node's height changed during the listing of its transactions."""


class Refresher:
    """Makes the mempool like the node's, each ``refresh_secs`` or on ``wake``.

    wake: ends the pause between refreshes
    """

    def __init__(
        self,
        state: MempoolState,
        arrivals: Arrivals,
        fetcher: CandidateFetcher,
        lag: MempoolLag,
        *,
        wake: asyncio.Event,
        refresh_secs: float,
        logger: logging.Logger,
    ) -> None:
        self._state = state
        self._arrivals = arrivals
        self._fetcher = fetcher
        self._lag = lag
        self._wake = wake
        self._refresh_secs = refresh_secs
        self._logger = logger
        self._log_limit = RateLimitedLog(logger, lines=DROPPED_LINES)
        #: durations of refreshes
        self.histogram = Histogram(REFRESH_BOUNDS)
        # New transactions of the last listing, and those of them read so far
        self._to_read = self._read = 0

    def reading(self) -> str:
        """Return as text how many of how many new transactions a refresh has read."""
        return f"{self._read:,d} of {self._to_read:,d}"

    def is_reading(self) -> bool:
        """Return whether a refresh is reading new transactions."""
        return self._state.steps is not None

    async def run(self, synchronized_event: asyncio.Event) -> None:
        """Refresh indefinitely."""
        state = self._state
        while True:
            self._wake.clear()
            pause = self._refresh_secs
            start = time.monotonic()
            try:
                complete = await self._refresh()
            except DBSyncError:
                self._logger.debug("waiting for DB to sync")
            except _HeightMovedError:
                pause = min(pause, RESTART_DELAY_SECS)
            except DaemonError as e:
                self._logger.warning(f"ignoring daemon error: {str(e)[:200]!r}")
            else:
                self.histogram.observe(time.monotonic() - start)
                if complete:
                    self._lag.note_complete()
                    synchronized_event.set()
                    synchronized_event.clear()
                else:
                    pause = min(pause, RESTART_DELAY_SECS)
                touched = state.take_touched()
                if touched or complete:
                    await state.report(touched, state.height)
            # At longest until the node or the database is at another height
            await wait_for_event(self._wake, pause)

    async def _refresh(self) -> bool:
        """Make the mempool like the node's; return whether it is complete.

        If the tip moves during it, it adds new transactions all the same; vanished ones stay.
        The hashXs of all changes go to those touched, also if it raises.
        """
        state = self._state
        api = state.api
        height = api.cached_height()
        if height is None or height != api.db_height():
            height = await api.height()
            if not self._is_in_sync(height, None):
                raise DBSyncError
        self._arrivals.listing_requested()
        listing = await api.mempool_listing()
        tip = await api.daemon_tip_hash()
        moved = height != await api.height()
        async with state.lock:
            at_tip = not moved and self._is_in_sync(height, tip)
            self._begin(height, at_tip=at_tip, moved=moved)
            losses = state.losses
            vanished, new = await state.in_thread(self._differences, listing)
            if at_tip:
                await for_each(vanished, state.remove)
        if new:
            await self._take_in(new, listing.members, at_tip)
        if at_tip and losses == state.losses:
            state.is_complete = True
        return at_tip and state.is_complete

    def _begin(self, height: int, *, at_tip: bool, moved: bool) -> None:
        """Note where the maps are; raise if they must not change now."""
        state = self._state
        if not at_tip:
            # At the same height, another block: ours will be undone.
            if not moved and height == state.api.db_height():
                raise DBSyncError
            followed = state.is_following() or not state.index.txs
            if state.api.db_tip() is None or not followed:
                raise _HeightMovedError if moved else DBSyncError
        if at_tip or not state.index.txs:
            state.move_to_database()

    def _is_in_sync(self, height: int, tip: bytes | None) -> bool:
        """Return whether the database is at this height and, if known, this tip."""
        api = self._state.api
        if height != api.db_height():
            return False
        # A reorganisation may end at the height where it began.
        db_tip = api.db_tip()
        return tip is None or db_tip is None or tip == db_tip

    def _differences(self, listing: Listing) -> tuple[list[bytes], list[bytes]]:
        """Return the hashes that vanished and those that are new. Runs in: a thread."""
        txs, members = self._state.index.txs, listing.members
        # The maps already have the changes of single reports since the request of the listing.
        entered, left = self._arrivals.entered_since, self._arrivals.left_since
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
        self._state.steps = []
        self._to_read, self._read = len(new), 0
        try:
            for portion in chunks(new, PORTION):
                await self._fetcher.fetch(portion, listed, candidates)
                self._read += len(portion)
                async with self._state.lock:
                    await self._accept(candidates, skipped)
                if len(portion) == PORTION:
                    # So many new objects make the collector look at all there are, for a fifth of
                    # a second, and find nothing: there are no circles among them.
                    gc.freeze()
        finally:
            self._state.steps = None
        dropped = len(candidates.txs)
        if dropped:
            # A list made at another tip may have transactions confirmed here.
            level = logging.ERROR if at_tip else logging.DEBUG
            self._log_limit.log(self._logger, "txs dropped", f"{dropped:,d} txs dropped", level)

    async def _accept(self, candidates: Candidates, skipped: set[bytes]) -> None:
        """Add those whose inputs are all there; the caller holds the lock."""
        state = self._state
        if not state.is_following():
            # The outputs found are worth nothing.
            raise DBSyncError
        if state.steps:
            await state.in_thread(candidates.drop_confirmed, state.steps)
        accepted = await state.in_thread(candidates.take_acceptable, state.index.txs)
        await for_each(list(accepted.items()), lambda item: self._add(*item, skipped))

    def _add(self, tx_hash: bytes, tx: MemPoolTx, skipped: set[bytes]) -> None:
        """Add a transaction of a listing, unless a later report has made it impossible."""
        index = self._state.index
        if tx_hash in index.txs:
            return
        if (
            tx_hash in self._arrivals.left_since
            or index.has_conflict(tx)
            or (skipped and any(prev_hash in skipped for prev_hash, _idx in tx.prevouts))
        ):
            skipped.add(tx_hash)
            return
        index.add_tx(tx_hash, tx, self._state.touched)
