"""Writes what is unflushed to the database: when, and beside what else.

Owns the flush under way, the decision when one is due (by the limits of ``cache_policy``), and the
log lines that tell of it.  With the compiled form of indexing, what a flush writes is set apart
first, with the lock held, and is written in a thread without it while more blocks are indexed *in
memory*.  If a change of state *failed*, memory may be half-changed, and nothing is flushed: the
disk still holds the last consistent state.

Runs in: the event loop.  What changes state, or writes, runs in a worker thread and is shielded
from cancellation.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from electrumx.lib import util
from electrumx.server.block_processor.cache_policy import CacheUse, flush_due, known_coins_to_keep
from electrumx.server.block_processor.chain_state import Unflushed
from electrumx.server.daemon.client import Daemon
from electrumx.server.db.flusher import DB, FlushData
from electrumx.server.env import Env
from electrumx.server.sync_estimate import txs_remaining

T = TypeVar("T")


class Flushing(Unflushed):
    """The state of the index with its critical sections, and how it gets to the disk."""

    #: seconds between log lines on the caches, and on progress, while catching up
    CACHE_LOG_SECS = 30.0
    PROGRESS_LOG_SECS = 10.0
    #: What a flush takes besides, measured with both engines: the batch and the engine's own copy
    #: of two rows for a coin, and of one for a key to delete.  History goes in bounded batches.
    FLUSH_BYTES_PER_COIN = 180
    FLUSH_BYTES_PER_DELETE = 60
    #: of unflushed blocks: a header as a bytes object, its count and those of its lists
    BYTES_PER_BLOCK = 250

    def __init__(self, logger: logging.Logger, env: Env, db: DB, daemon: Daemon):
        super().__init__(logger, env, db, daemon)
        #: set by every flush
        self._flushed_event = asyncio.Event()
        #: a change of state raised: memory may be inconsistent and must not be flushed
        self._state_broken = False
        #: the flush under way beside indexing
        self._flushing: asyncio.Future[None] | None = None

        now = time.monotonic()
        self._next_cache_log = now
        self._next_progress_log = now + self.PROGRESS_LOG_SECS
        self._progress_mark = (now, 0)

    # -- critical sections

    async def run_in_thread_with_lock(self, func: Callable[..., T], *args: Any) -> T:
        """Run what changes state in a thread, under the lock, uninterrupted by cancellation.

        A flush beside indexing is waited for.
        """
        return await asyncio.shield(self._run_locked(True, func, *args))

    async def _run_locked(self, wait: bool, func: Callable[..., T], *args: Any) -> T:
        async with self.state_lock:
            if wait:
                await self._end_flushing()
            return await self._run_explaining(func, *args)

    async def _run_explaining(self, func: Callable[..., T], *args: Any) -> T:
        """Run what changes state, or the disk, in a thread; nothing is flushed after it failed."""
        try:
            return await asyncio.to_thread(func, *args)
        except BaseException as e:
            self._state_broken = True
            self.db.raise_explained(e)

    # -- flushing

    async def flush(self, flush_utxos: bool) -> None:
        """Write what waits, all of it or all but the coins."""
        await self.run_in_thread_with_lock(self._flush, flush_utxos)
        self._flushed_event.set()

    def _flush(self, flush_utxos: bool) -> None:
        self.db.flush_dbs(self.flush_data(), flush_utxos, self.estimate_txs_remaining)
        if not self.undo_infos:
            self._undo_bytes = 0
            if self.compiled:
                # Blocks may be undone next, or clients be served: the disk has it all.
                self.compiled.forget_known(0)

    def _flush_all(self) -> None:
        self._flush(True)

    async def _maybe_flush(self) -> None:
        if self._caught_up_event.is_set():
            await self.flush(True)
            return
        if self._flushing is not None and self._flushing.done():
            await self._end_flushing()
        flush_utxos = self._check_cache_size()
        if flush_utxos is not None and self._flushing is not None:
            await self._end_flushing()
            flush_utxos = self._check_cache_size()
        if flush_utxos is not None:
            if self.compiled and not self.db.must_flush_coins:
                await asyncio.shield(self._start_flushing(flush_utxos))
            else:
                await self.flush(flush_utxos)
        self._log_progress()

    async def _start_flushing(self, flush_utxos: bool) -> None:
        """Begin a flush beside indexing; none is under way."""
        flush_data = await self._run_locked(False, self._take_flush_data, flush_utxos)
        writing = self._run_explaining(
            self.db.flush_dbs, flush_data, flush_utxos, self.estimate_txs_remaining
        )
        self._flushing = asyncio.ensure_future(writing)

    async def _end_flushing(self) -> None:
        """Wait for the end of the flush beside indexing, if there is one; raise what it raised."""
        if self._flushing is None:
            return
        await asyncio.wait([self._flushing])
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            flushing.result()
            self._flushed_event.set()

    def _take_flush_data(self, flush_utxos: bool) -> FlushData:
        """Set apart what waits to be flushed.  Runs in a thread, lock held."""
        assert self.compiled
        self.db.end_filling_if_large()
        flush_data = self.flush_data()
        self.headers, self.block_tx_hashes = [], []
        if flush_utxos:
            self.compiled.forget_known(known_coins_to_keep(self._cache_limit))
            self.undo_infos, self._undo_bytes = [], 0
        else:
            flush_data.undo_infos = []
        self.compiled.take(flush_utxos)
        return flush_data

    # -- cache and progress

    @property
    def _cache_limit(self) -> int:
        return self.env.cache_MB * 1_000_000

    def _cache_use(self) -> CacheUse:
        """Return what the caches take, with what flushing them will take."""
        history = (
            self.db.history.unflushed_memsize()
            + (self.tx_count - self.db.fs_tx_count) * 32
            + (self.height - self.db.fs_height) * self.BYTES_PER_BLOCK
        )
        coins = self.utxo_cache.memsize()
        adds, deletes = len(self.utxo_cache.adds), len(self.utxo_cache.deletes)
        unwritten = coins
        if self.compiled:
            adds, spent = self.compiled.pending_rows()
            deletes = 2 * spent
            coins += self.compiled.memsize()
            unwritten += adds * self.compiled.BYTES_PER_COIN
        flushing = (
            adds * self.FLUSH_BYTES_PER_COIN
            + deletes * self.FLUSH_BYTES_PER_DELETE
            + self._undo_bytes
        )
        return CacheUse(coins + flushing, unwritten + flushing, history)

    def _check_cache_size(self) -> bool | None:
        """Return None if no flush is due, else whether coins are to be flushed, too."""
        use = self._cache_use()
        now = time.monotonic()
        if now >= self._next_cache_log:
            self._next_cache_log = now + self.CACHE_LOG_SECS
            self.logger.info(
                f"our height: {self.height:,d} daemon: {self.daemon.cached_height() or 0:,d} "
                f"UTXOs {use.coins // 1_000_000:,d}MB hist {use.history // 1_000_000:,d}MB"
            )
        return flush_due(use, self._cache_limit)

    def _log_progress(self) -> None:
        """Log how far synchronising is, if it takes long."""
        now = time.monotonic()
        if now < self._next_progress_log:
            return
        self._next_progress_log = now + self.PROGRESS_LOG_SECS
        then, tx_count = self._progress_mark
        self._progress_mark = (now, self.tx_count)
        rate = max((self.tx_count - tx_count) / max(now - then, 0.001), 0.001)
        remaining = self.estimate_txs_remaining()
        percent = 100 * self.tx_count / max(self.tx_count + remaining, 1)
        self.logger.info(
            f"sync {percent:.1f}%  height {self.height:,d} of "
            f"{self.daemon.cached_height() or 0:,d}  {rate:,.0f} tx/s  "
            f"ETA {util.formatted_time(remaining / rate)}  "
            f"cache {self._cache_use().total // 1_000_000:,d} of {self.env.cache_MB:,d} MB"
        )

    def estimate_txs_remaining(self) -> float:
        """Return a rough number of transactions still to index."""
        daemon_height = self.daemon.cached_height() or 0
        return txs_remaining(self.coin, self.height, self.tx_count, daemon_height)
