"""Learns the UTXOs of recent blocks again: after a start, a bulk sync and a reorg.

Owns the task.  Most outputs are spent within a day, by blocks whose raw bytes stay on disk for
undoing.  Without this each of them would take a look-up on disk: a start begins with nothing in
memory, and a reorg has to drop everything.

A thread reads and parses blocks, into an index of their own, while the server processes blocks and
serves clients; only the last step holds the state lock: it notes the blocks that came in the
meantime, and takes over the whole.
"""

import asyncio
import logging
import time

from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.compiled_indexer import RecentUTXOs
from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.db import DB
from electrumx.server.runtime.malloc_tuning import give_back_freed_memory
from electrumx.server.storage.schema import DBClosedError


class WarmUp:
    """Has a chain state know the UTXOs of recent blocks."""

    #: seconds after a start: the clients that connect again come first, and a block seldom comes so soon
    PAUSE_SECS = 60.0
    #: blocks noted between two turns in which others may read the disk, and left for the last step
    STEP_BLOCKS = 4
    #: raw bytes of blocks to read, at most
    MOST_BYTES = 400_000_000
    #: seconds before another attempt of the last step
    RETRY_SECS = 0.05

    def __init__(
        self,
        db: DB,
        state: ChainState,
        scheduler: FlushScheduler,
        logger: logging.Logger,
        *,
        gives_memory_back: bool = True,
    ):
        """``gives_memory_back``: whether freed memory went back to the system before, too.

        Otherwise there may be so much that clients would wait for it.
        """
        self._gives_memory_back = gives_memory_back
        self._db = db
        self._state = state
        self._scheduler = scheduler
        self._logger = logger
        #: how often it has come to its end
        self.done = 0

    async def run(self, reorged: asyncio.Event) -> None:
        """Begin soon after catching up with the chain, and again after each reorg; until cancelled.

        Each reorg sets and clears ``reorged`` at its end.
        """
        if self._state.compiled is None:
            return
        await asyncio.sleep(self.PAUSE_SECS)
        while True:
            backups = self._db.backup_count
            await self._warm(backups)
            # Without a pause for others between the look and the wait.
            if self._db.backup_count == backups:
                await reorged.wait()

    async def _warm(self, backups: int) -> None:
        assert self._state.compiled
        start = time.monotonic()
        recent = self._state.compiled.recent()
        height = self._db.db_height
        first = await asyncio.to_thread(self._first_height, height)
        count = height - first + 1
        while first <= self._db.db_height - self.STEP_BLOCKS:
            last = first + self.STEP_BLOCKS - 1
            try:
                await asyncio.to_thread(self._note, recent, first, last)
            except DBClosedError:
                return
            first = last + 1
            if self._db.backup_count != backups:
                return
        while not await self._scheduler.run_locked(self.adopt, recent, first, backups):
            # An indexed block waits for its flush.
            await asyncio.sleep(self.RETRY_SECS)
            if self._db.backup_count != backups:
                return
        if self._gives_memory_back and not self.done:
            # The blocks leave holes between the UTXOs, which later ones fill again.
            await asyncio.to_thread(give_back_freed_memory)
        self.done += 1
        self._logger.info(
            f"read {count:,d} recent blocks for their UTXOs in {time.monotonic() - start:.1f}s"
        )

    def _note(self, recent: RecentUTXOs, first: int, last: int) -> None:
        with self._db.gate.reading():
            self._state.note_recent(recent, first, last)

    def _first_height(self, height: int) -> int:
        """Return the height of the lowest block to read."""
        lowest = max(0, self._db.min_undo_height(height))
        size = 0
        while height >= lowest:
            try:
                size += self._db.files.raw_block_path(height).stat().st_size
            except OSError:
                break
            if size > self.MOST_BYTES:
                break
            height -= 1
        return height + 1

    def adopt(self, recent: RecentUTXOs, first: int, backups: int) -> bool:
        """Note the last blocks and take everything over, unless there was a reorg."""
        state = self._state
        if self._db.backup_count != backups or state.height != self._db.db_height:
            return False
        try:
            state.note_recent(recent, first, state.height)
            state.adopt_recent(recent)
        except MemoryError:
            # Look-ups on disk find the others.
            self._logger.exception("no memory for the UTXOs of recent blocks")
        return True
