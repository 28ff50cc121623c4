"""Compacts the stores while the server serves: history rows, and the engine's tables.

Owns the two tasks, not the work (``row_compaction``, ``Storage``).

Runs in: the event loop; the work in threads.
"""

import asyncio
import logging
import time

from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.db import DB
from electrumx.server.runtime.fault_points import fault_point


class RowCompactionTask:
    """Compacts the history whenever there were many flushes.

    A thread reads rows without the state lock, and writes short slices with it.
    """

    #: of the time that a compaction takes, the part in which it sleeps: clients and blocks come first
    REST = 0.5

    def __init__(self, db: DB, flusher: FlushScheduler):
        self._db = db
        self._flusher = flusher
        #: whether a pass is in progress
        self.running = False

    async def run(self) -> None:
        """Compact whenever it is due, until cancelled."""
        flushed = self._flusher.flushed_event
        while True:
            if self._db.compaction_due:
                self.running = True
                try:
                    await self._compact()
                finally:
                    self.running = False
            flushed.clear()
            await flushed.wait()

    async def _compact(self) -> None:
        """Make one pass, or continue an interrupted one."""
        flushed, run_locked = self._flusher.flushed_event, self._flusher.run_locked
        compaction = await run_locked(self._db.begin_compaction)
        while not compaction.done:
            start = time.monotonic()
            await asyncio.to_thread(compaction.prepare)
            if compaction.has_work:
                flushed.clear()
                if not await run_locked(compaction.write):
                    # A flush wrote history without its UTXOs.
                    await flushed.wait()
            await asyncio.sleep((time.monotonic() - start) * self.REST / (1 - self.REST))


class EngineCompactionTask:
    """Has the engine compact its tables after the initial sync, while the server serves clients."""

    #: how long a shutdown waits for the end of the compaction
    GRACE_SECS = 15.0

    def __init__(self, db: DB, lock: asyncio.Lock, logger: logging.Logger):
        """``lock``: the state lock; recording the end holds it."""
        self._db = db
        self._lock = lock
        self._logger = logger
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether a compaction has ended."""
        return self._task is not None and self._task.done()

    @property
    def running(self) -> bool:
        """Whether a compaction is in progress."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the compaction."""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            merged = await asyncio.to_thread(self._db.compact_tables)
            fault_point("caught up: merged")
            if merged:
                async with self._lock:
                    await asyncio.to_thread(self._db.write_compacted)
        except Exception:
            # If the disk is full, the next flush raises the error.
            self._logger.exception("could not compact tables")

    async def stop(self) -> None:
        """Wait for the end of the compaction, and stop it after GRACE_SECS.

        Call it without the lock: the compaction may be recording its end.
        """
        if self._task is not None and not self._task.done():
            self._logger.info("waiting for the engine to compact tables")
            _done, pending = await asyncio.wait([self._task], timeout=self.GRACE_SECS)
            if pending:
                self._db.stop_table_compaction()
                await asyncio.wait(pending)
