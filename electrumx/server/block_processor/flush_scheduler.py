"""Schedules flushes: when to write the unflushed state, and which steps run concurrently.

Owns the critical sections that change state or disk, the flush in progress, and the decision when
one is due (by the limits of ``cache_policy``).  With the Cython implementation, a flush first
freezes its data, with the lock held, and a thread writes it without the lock while another indexes
more blocks *in memory*.  If a change of state *failed*, memory may be inconsistent, and no flush
follows: the disk still holds the last consistent state.

Runs in: the event loop.  Changes of state, and writes, run in a worker thread, shielded from
cancellation.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from electrumx.server.block_processor.cache_policy import (
    CacheUse,
    flush_due,
    written_bytes_to_keep,
)
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.sync_progress import SyncProgress
from electrumx.server.db import DB, FlushData

T = TypeVar("T")
P = ParamSpec("P")


class FlushScheduler:
    """Runs changes of a chain state, and flushes it to the database."""

    #: Memory that a flush takes, measured with both engines: the batch and the engine's own copy of two
    #: rows for a UTXO, and of one for a key to delete.  History goes to disk in bounded batches.
    FLUSH_BYTES_PER_UTXO = 180
    FLUSH_BYTES_PER_DELETE = 60

    def __init__(self, state: ChainState, db: DB, cache_bytes: int, progress: SyncProgress):
        """``cache_bytes``: the memory that the caches may take."""
        self._state = state
        self._db = db
        self._cache_bytes = cache_bytes
        self._progress = progress
        #: set by every flush
        self.flushed_event = asyncio.Event()
        #: whether a change of state raised: memory may be inconsistent, and no flush may follow
        self.broken = False
        #: seconds between two commits, at most, of an index that serves clients while it catches
        #: up: they see committed blocks only; None if it serves no clients
        self.commit_secs: float | None = None
        self._committed_at = float("-inf")
        #: the flush in progress beside indexing
        self._writing: asyncio.Future[None] | None = None

    # -- critical sections

    async def run_locked(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change of state in a thread, under the lock, shielded from cancellation.

        Wait for the end of a flush beside indexing first.
        """
        return await asyncio.shield(self._run_locked(True, partial(func, *args, **kwargs)))

    async def run_beside_flush(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the same beside a flush: ``func`` must change memory only."""
        return await asyncio.shield(self._run_locked(False, partial(func, *args, **kwargs)))

    async def _run_locked(self, wait: bool, func: Callable[[], T]) -> T:
        async with self._state.lock:
            if wait:
                await self._end_writing()
            return await self._run(func)

    async def _run(self, func: Callable[[], T]) -> T:
        """Run a change of state, or of the disk, in a thread; no flush follows a failure."""
        try:
            return await asyncio.to_thread(func)
        except BaseException as e:
            self.broken = True
            self._db.raise_explained(e)

    # -- flushing

    async def flush(self, flush_utxos: bool) -> None:
        """Write all that waits, or all but the UTXOs, and wait for the disk."""
        await self.run_locked(self._flush, flush_utxos)
        self.flushed_event.set()

    def _flush(self, flush_utxos: bool) -> None:
        self._db.flush_dbs(
            self._state.flush_data(), flush_utxos, self._progress.estimate_txs_remaining
        )
        self._state.note_flushed()

    async def flush_if_due(self) -> None:
        """Flush if the caches are full; once caught up, always."""
        if self._state.caught_up:
            await self.flush(True)
            return
        if self.commit_secs is not None:
            await self._commit_if_due(self.commit_secs)
            self._progress.log_progress(self.cache_use)
            return
        if self._writing is not None and self._writing.done():
            await self._end_writing()
        flush_utxos = self.due()
        if flush_utxos is not None and self._writing is not None:
            await self._end_writing()
            flush_utxos = self.due()
        if flush_utxos is not None:
            if self._state.compiled and not self._db.must_flush_utxos:
                await asyncio.shield(self._start_writing(flush_utxos))
            else:
                await self.flush(flush_utxos)
        self._progress.log_progress(self.cache_use)

    async def _commit_if_due(self, secs: float) -> None:
        """Commit everything, with no flush beside indexing, as a report of the tip needs it."""
        now = asyncio.get_running_loop().time()
        if now >= self._committed_at + secs or self.due() is not None:
            await self.flush(True)
            self._committed_at = asyncio.get_running_loop().time()

    async def _start_writing(self, flush_utxos: bool) -> None:
        """Start a flush beside indexing; none is in progress."""
        flush_data = await self._run_locked(False, partial(self._freeze, flush_utxos))
        self._writing = asyncio.ensure_future(
            self._run(
                partial(
                    self._db.flush_dbs,
                    flush_data,
                    flush_utxos,
                    self._progress.estimate_txs_remaining,
                )
            )
        )

    def _freeze(self, flush_utxos: bool) -> FlushData:
        self._db.end_bulk_load_if_large()
        return self._state.freeze(flush_utxos, written_bytes_to_keep(self._cache_bytes))

    async def _end_writing(self) -> None:
        """Wait for the end of the flush beside indexing, if there is one; raise its error."""
        if self._writing is None:
            return
        await asyncio.wait([self._writing])
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self.flushed_event.set()

    async def flush_at_shutdown(self, failed: bool) -> BaseException | None:
        """Flush unless something ``failed``; return the error of the flush beside indexing.

        Lock held.  If the disk fails, close the database, then raise.
        """
        error = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
            error = self._writing.exception()
        if failed or self.broken:
            self._progress.logger.error("not flushing: the last consistent state is on disk")
            return error
        self._progress.logger.info("flushing to DB for a clean shutdown...")
        try:
            await asyncio.to_thread(self._flush, True)
        except BaseException as e:
            await asyncio.to_thread(self._db.close_dbs)
            self._db.raise_explained(e)
        return error

    # -- the decision

    def cache_use(self) -> CacheUse:
        """Return the memory that the caches take, and that flushing them will take."""
        state, db = self._state, self._db
        history = (
            db.history.unflushed_memsize()
            + (state.tx_count - db.fs_tx_count) * 32
            + (state.height - db.fs_height) * state.BYTES_PER_BLOCK
        )
        cache, compiled = state.utxo_cache, state.compiled
        utxos = cache.memsize()
        adds, deletes = len(cache.adds), len(cache.deletes)
        unwritten = utxos
        if compiled:
            adds, spent = compiled.pending_rows()
            deletes = 2 * spent
            utxos += compiled.memsize()
            unwritten += adds * compiled.BYTES_PER_UTXO
            history += compiled.history_memsize()
        flushing = (
            adds * self.FLUSH_BYTES_PER_UTXO
            + deletes * self.FLUSH_BYTES_PER_DELETE
            + state.undo_bytes
        )
        return CacheUse(utxos + flushing, unwritten + flushing, history)

    def due(self) -> bool | None:
        """Return None if no flush is due, else whether to flush UTXOs, too."""
        use = self.cache_use()
        self._progress.log_cache(use)
        return flush_due(use, self._cache_bytes)
