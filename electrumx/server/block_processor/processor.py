"""Takes blocks in order, keeps the index at their tip, and undoes them in a reorg.

Owns the tasks that follow the daemon's chain.  The parts: ``chain_state`` (the state in memory, and
the steps that change it), ``strategies`` (the rules of a coin's transactions), ``block_parser``,
``flush_scheduler`` (when to write the state), ``bulk_sync_task`` (how to fill an empty database),
``reorg`` (where the daemon's chain and ours diverge), ``prefetcher``, ``tip_reporter`` and
``compaction_tasks``.

Runs in: the event loop; worker threads parse and index blocks.

Theory of operation
===================

Two tasks run on the event loop: the prefetcher fills its list, and the main loop takes the
blocks there.  A worker thread parses a batch of blocks, the main loop checks that they form a chain on
top of the tip, and a worker thread indexes them.  Everything that changes state runs in such a thread
with the state lock held, shielded from cancellation: a shutdown waits for the end of the current
step, then flushes.  If a step *failed*, memory may be inconsistent, and no flush follows: the disk
still holds the last consistent state.

During a sync, a flush comes when the caches have grown to CACHE_MB (``cache_policy``); once caught
up, after every batch, so that clients see only committed data.  With the Cython implementation, a
flush first freezes its data, with the lock held, and a thread writes it without the lock while
another indexes more blocks *in memory*.  There is one such flush at a time, and all other writes, and
reads of the rows it writes, wait for its end: the disk sees the writes of a flush, in their order, and
nothing between them, as if indexing had stood still.

Three things show a reorg: a block whose predecessor is not our tip; the daemon naming another
hash than ours at a height that both have (a branch of the same or lower height, seen by polling);
the daemon having become shorter than it was (``invalidateblock``).  Undoing goes from the top, in
chunks of at most 50 blocks; undoing a chunk and committing it is one critical section, so that no
cancellation comes between.  Undoing needs raw blocks; they stay in ``meta/`` as long as undo
information does, and missing ones come from the daemon.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

import electrumx
from electrumx.lib import util
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.log_text import printable
from electrumx.lib.tasks import wait_for_event
from electrumx.server.block_processor.block_parser import BlockParser, ParsedBlock
from electrumx.server.block_processor.bulk_sync_task import BulkSyncTask
from electrumx.server.block_processor.cache_policy import known_bytes_to_keep
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.compaction_tasks import (
    EngineCompactionTask,
    RowCompactionTask,
)
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.errors import (
    BlockParseError,
    ChainError,
    UndoMissingError,
)
from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.block_processor.index_stats import IndexStats
from electrumx.server.block_processor.indexer import ParsedTx, Unspendable
from electrumx.server.block_processor.prefetcher import Prefetcher, above_text
from electrumx.server.block_processor.reorg import ReorgFinder
from electrumx.server.block_processor.strategies import InOrderStrategy, Strategy
from electrumx.server.block_processor.sync_progress import SyncProgress
from electrumx.server.block_processor.tip_reporter import TipReporter
from electrumx.server.block_processor.warm_up import WarmUp
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.jsonrpc import pulse
from electrumx.server.daemon.responses import in_parts
from electrumx.server.db import DB, DBError
from electrumx.server.env import Env
from electrumx.server.notifications import Confirmed, Notifications, ReportedTip
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.runtime.malloc_tuning import give_back_freed_memory
from electrumx.server.runtime.server_state import IndexProgress

# Seconds between two commits of an index that is behind while it serves clients.
COMMIT_SECS = 10.0

__all__ = ["BlockProcessor", "ChainError", "ParsedBlock", "Prefetcher", "UndoMissingError"]


class BlockProcessor:
    """Indexes the daemon's chain into the database."""

    #: blocks undone between two commits
    UNDO_CHUNK = 50
    #: seconds before retrying after an error of the daemon
    RETRY_SECS = 5.0

    def __init__(self, env: Env, db: DB, daemon: Daemon, notifications: Notifications):
        self.logger = logger = util.class_logger(__name__, self.__class__.__name__)
        self.env = env
        self.db = db
        self.daemon = daemon
        self.coin = coin = env.coin
        self.notifications = notifications

        height = daemon.cached_height
        self.strategy = strategy = self.make_strategy()
        compiled = self._make_compiled_index(strategy)
        self.state = ChainState(
            coin,
            db,
            env.reorg_limit,
            strategy,
            compiled,
            height,
            logger,
            steps=self,
            known_bytes=known_bytes_to_keep(env.cache_MB * 1_000_000),
        )
        self.parser = BlockParser(compiled.parse if compiled else coin.block)
        self.progress = SyncProgress(coin, self.state, env.cache_MB, height, logger)
        self.flush_scheduler = FlushScheduler(
            self.state, db, env.cache_MB * 1_000_000, self.progress
        )
        self.reorg_finder = ReorgFinder(
            coin, self.state, db, daemon, env.reorg_limit, strategy.reorg_margin, logger
        )
        self.stats = IndexStats()
        self.reports = TipReporter(self.state, db, height, notifications)
        #: of each reorg: the height up to which it left the chain as it was
        self.forks: list[int] = self.reports.forks
        self.bulk_sync = BulkSyncTask(env, db, daemon, self.state, strategy)
        self.row_compaction = RowCompactionTask(db, self.flush_scheduler)
        self.engine_compaction = EngineCompactionTask(db, self.state.lock, logger)
        self.warm_up = WarmUp(
            db,
            self.state,
            self.flush_scheduler,
            logger,
            gives_memory_back=not env.serve_always,
        )

        self.blocks_event = asyncio.Event()
        self.poll_secs = env.daemon_poll_interval_blocks_msec / 1000
        self.prefetcher = Prefetcher(daemon, coin, self.blocks_event, polling_delay=self.poll_secs)
        #: set and cleared after each reorg
        self.backed_up_event = asyncio.Event()
        #: set and cleared before a commit of blocks while caught up
        self.processed_event = asyncio.Event()
        #: set and cleared after a commit of new or undone blocks while caught up
        self.advanced_event = asyncio.Event()
        #: whether the last blocks from the daemon formed no chain
        self._incoherent = False
        #: whether a poll showed that the daemon's chain differs from ours, at our height or below
        self.reorg_seen = False
        #: set when the database is open
        self.opened_event = asyncio.Event()
        #: number of blocks that the operator asked to replace
        self._forced_reorg: int | None = None

    # -- the parts

    def make_strategy(self) -> Strategy:
        """Return the strategy that indexes the coin's transactions."""
        return InOrderStrategy()

    @classmethod
    def replaces_steps(cls) -> bool:
        """Return whether a subclass replaces a step, and so indexes in a way of its own."""
        return (cls.advance_txs, cls.backup_txs) != (
            BlockProcessor.advance_txs,
            BlockProcessor.backup_txs,
        )

    def _make_compiled_index(self, strategy: Strategy) -> CompiledIndex | None:
        """Return the Cython implementation, if it is built and computes what this class does."""
        index = None
        if self.env.indexer != "python" and strategy.in_cython and not self.replaces_steps():
            index = CompiledIndex.for_coin(
                self.coin,
                strategy.any_order,
                self.db.find_utxo_rows,
                lambda: self.db.state.tokens_from or 0,
            )
        if self.env.indexer == "compiled" and index is None:
            raise OperatorError(
                "INDEXER is compiled, but that form was not built or does not serve "
                f"{self.coin.NAME}: set INDEXER to auto, or reinstall where a C compiler and the "
                "headers of Python and OpenSSL are"
            )
        self.logger.info(f"indexing with the {'compiled' if index else 'pure-Python'} form")
        return index

    @property
    def height(self) -> int:
        """The height of the block processed last; -1 before the first."""
        return self.state.height

    @property
    def tip(self) -> bytes:
        """The hash of that block."""
        return self.state.tip

    @property
    def tx_count(self) -> int:
        """The number of transactions up to that block."""
        return self.state.tx_count

    @property
    def state_lock(self) -> asyncio.Lock:
        """The lock that every change of the index holds."""
        return self.state.lock

    @property
    def caught_up(self) -> bool:
        """Whether the index has caught up with the daemon's chain, and the database is open for serving."""
        return self.state.caught_up

    def index_progress(self) -> IndexProgress | None:
        """Return how far the index is; None while the database is not open."""
        if not self.opened_event.is_set():
            return None
        db, bulk = self.db, self.bulk_sync.progress
        if bulk is not None:
            return IndexProgress(
                bulk.height, -1, self.tx_count, bulk.percent, bulk.phase, bulk.eta, first_sync=True
            )
        return IndexProgress(
            self.height,
            db.db_height,
            self.tx_count,
            self.progress.percent(),
            None,
            self.progress.eta_secs(),
            db.first_sync,
        )

    @property
    def forks_ended(self) -> int:
        """How many of the reorgs led to the reported tip."""
        return self.reports.forks_reported

    @property
    def reported(self) -> ReportedTip | None:
        """The tip last reported to the notifications; None before the index has caught up."""
        return self.reports.reported

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        """Return the step from a tip to the next: blocks on top of it, or its undoing.

        None if it is unknown: the reporter keeps only the last steps since the index caught up.
        """
        return self.reports.step_from(tip)

    # -- the steps that a subclass may replace

    def advance_txs(self, txs: Sequence[ParsedTx], is_unspendable: Unspendable) -> list[bytes]:
        """Index a block's transactions; return its undo items."""
        return self.state.advance_txs(txs, is_unspendable)

    def backup_txs(
        self, txs: Sequence[ParsedTx], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs touched."""
        return self.state.backup_txs(txs, undo_info, is_unspendable)

    async def calc_reorg_range(self, count: int | None) -> tuple[int, int]:
        """Return (first height, number) of the blocks to replace; the number may be 0.

        ``count`` forces that many.  A reorg never replaces the genesis block.
        """
        return await self.reorg_finder.reorg_range(count)

    def spend_utxo(self, tx_hash: bytes, tx_idx: int) -> bytes:
        """Remove a UTXO; return its hashX, tx number (LE5) and value (LE8).

        For coins that index transactions in a way of their own.  Raise ChainError if it is missing.
        """
        return self.state.utxo_cache.spend(tx_hash, tx_idx)

    # -- life

    async def fetch_and_process_blocks(self, caught_up_event: asyncio.Event) -> None:
        """Open the database and follow the daemon's chain, until cancelled.

        Set ``caught_up_event`` when the index first catches up with the chain.  Flush everything on
        cancellation, and nothing on any other exception.  Close the database at the end.
        """
        await self._first_open_dbs()
        tasks = [
            asyncio.ensure_future(self.prefetcher.main_loop(self.height)),
            asyncio.ensure_future(self._process_prefetched_blocks(caught_up_event)),
            asyncio.ensure_future(self._watch_tip()),
            asyncio.ensure_future(self.reports.run()),
            asyncio.ensure_future(self.row_compaction.run()),
            asyncio.ensure_future(self._keep_warm(caught_up_event)),
        ]
        try:
            done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            failures = [task.exception() for task in tasks if not task.cancelled()]
            failures = [failure for failure in failures if failure is not None]
            await asyncio.shield(self._shut_down(bool(failures)))
            # A task that was writing at a shutdown, and found the disk full.
            for failure in failures:
                if isinstance(failure, OperatorError):
                    raise failure

    async def _keep_warm(self, caught_up_event: asyncio.Event) -> None:
        """Know the UTXOs of recent blocks, once the index has caught up with the chain."""
        await caught_up_event.wait()
        await self.warm_up.run(self.backed_up_event)
        await asyncio.get_running_loop().create_future()

    async def _shut_down(self, failed: bool) -> None:
        """Flush, unless a task failed, and close the database."""
        async with self.state.lock:
            error = await self.flush_scheduler.flush_at_shutdown(failed)
        await self.engine_compaction.stop()
        async with self.state.lock:
            await asyncio.to_thread(self.db.close_dbs)
        if error is not None:
            raise error

    async def _first_open_dbs(self) -> None:
        loop = asyncio.get_running_loop()

        def fetch_blocks(hex_hashes: Sequence[str]) -> Sequence[bytes]:
            # Called in the thread that opens the database.
            fetching = asyncio.run_coroutine_threadsafe(self._fetch_blocks(hex_hashes), loop)
            return fetching.result()

        await self.db.open_for_sync(fetch_blocks)
        self.state.read_committed()
        self.progress.start()
        if self.serves_while_behind():
            self.state.track_touched()
            self.flush_scheduler.commit_secs = COMMIT_SECS
            # The tip of the last run, which clients see until there is another.
            await self.reports.check()
        self.opened_event.set()

    def serves_while_behind(self) -> bool:
        """Return whether the server serves clients from an index that is complete, but behind the node's.

        It then reports each committed tip, as it does once caught up.
        """
        return self.env.serve_always and not self.caught_up and not self.db.first_sync

    async def _fetch_blocks(self, hex_hashes: Sequence[str]) -> Sequence[bytes]:
        try:
            return await in_parts(self.daemon.raw_blocks, hex_hashes)
        except DaemonError as e:
            raise DBError(f"the database needs blocks that the daemon does not give: {e}") from e

    async def _process_prefetched_blocks(self, caught_up_event: asyncio.Event) -> None:
        if not self.replaces_steps():
            start, height = time.monotonic(), self.height
            await self.bulk_sync.run(
                self.prefetcher, self.parser, self.refuse_if_repeated, self.RETRY_SECS
            )
            self.stats.indexed(self.height - height, time.monotonic() - start)
        while True:
            if self.height == self.daemon.cached_height() and not self.caught_up:
                await self.first_caught_up()
                await self.reports.check()
                self.state.set_caught_up()
                caught_up_event.set()
            await self.blocks_event.wait()
            self.blocks_event.clear()
            try:
                await self._process_next()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")
                await self._retry_later()
            except DeserializeError as e:
                self.logger.error(f"the daemon sent a block that does not parse: {e}")
                await self.refuse_if_repeated(e)
                await self._retry_later()

    async def refuse_if_repeated(self, error: DeserializeError) -> None:
        """Flush and raise OperatorError if the daemon keeps sending the same invalid block."""
        if not self.parser.is_repeated(error):
            return
        assert isinstance(error, BlockParseError)
        # The blocks indexed before it are valid.
        await self.flush_scheduler.flush(True)
        raise OperatorError(
            f"the daemon's block {error.height:,d} does not parse as one of {self.coin.NAME} "
            f"{self.coin.NET} ({error}): the daemon may be of another COIN or NET, or newer "
            "than this version; check COIN, NET and DAEMON_URL"
        )

    async def _retry_later(self) -> None:
        await asyncio.sleep(self.RETRY_SECS)
        await self.prefetcher.reset_height(self.height)

    async def _process_next(self) -> None:
        """Process a reorg that is due, else the fetched blocks."""
        if self._forced_reorg is not None:
            count, self._forced_reorg = self._forced_reorg, None
            await self.reorg_chain(count)
        elif self.reorg_seen:
            self.reorg_seen = False
            await self.reorg_chain(None)
        else:
            await self.check_and_advance_blocks(self.prefetcher.get_prefetched_blocks())

    async def first_caught_up(self) -> None:
        """Flush, and go on with the options for serving, for which large stores are reopened."""
        self.logger.info(f"caught up to height {self.height:,d}")
        first_sync = self.db.first_sync
        await self.flush_scheduler.run_locked(self.db.end_bulk_load)
        fault_point("caught up: filled")
        # Before the flush, which takes new memory of other sizes, and after it
        await self._give_back_freed_memory()
        await self.flush_scheduler.flush(True)
        fault_point("caught up: flushed")
        # The flush does nothing if the height is the committed one; this writes the row anyway.
        await self.flush_scheduler.run_locked(self.db.write_caught_up)
        if first_sync:
            self.logger.info(f"{electrumx.version} synced to height {self.height:,d}")
        await asyncio.shield(self._reopen_for_serving())
        await self._give_back_freed_memory()
        self.engine_compaction.start()

    async def _give_back_freed_memory(self) -> None:
        if not self.env.serve_always:
            # Clients would wait for it.
            await asyncio.to_thread(give_back_freed_memory)

    async def _reopen_for_serving(self) -> None:
        # A row compaction must not write while the stores are closed.
        async with self.state.lock:
            await self.db.open_for_serving()

    # -- advancing

    async def check_and_advance_blocks(self, raw_blocks: Sequence[bytes]) -> None:
        """Process raw blocks that should follow the tip, or find out why they do not.

        One thread parses a part while another indexes the one before it.
        """
        start = time.monotonic()
        parsed = self.parser.parse_ahead(raw_blocks, self.height + 1)
        # Parsing frees them part by part, while the prefetcher fetches the next ones.
        del raw_blocks
        async with aclosing(parsed):
            async for blocks in parsed:
                if not await self._check_and_advance(blocks, start):
                    return
                start = time.monotonic()

    async def _check_and_advance(self, blocks: Sequence[ParsedBlock], start: float) -> bool:
        """Process blocks; if they do not follow the tip, handle that and return False."""
        chain = [self.tip] + [self.coin.header_hash(block.header) for block in blocks[:-1]]
        prev_hashes = [self.coin.header_prevhash(block.header) for block in blocks]
        if prev_hashes == chain:
            await self._advance(blocks, start)
            return True
        if prev_hashes[0] != chain[0]:
            await self.reorg_chain(None)
        else:
            # The daemon changed branches between two requests of a batch.
            self.logger.warning("daemon blocks do not form a chain; resetting the prefetcher")
            if self._incoherent:
                # It happens every time: do not retry in a busy loop.
                await self._retry_later()
            else:
                self._incoherent = True
                await self.prefetcher.reset_height(self.height)
        return False

    async def _advance(self, blocks: Sequence[ParsedBlock], start: float) -> None:
        """Index blocks that follow the tip, flush if that is due, and report the tip."""
        state, prev_tip = self.state, self.tip
        await self.flush_scheduler.run_beside_flush(state.advance_blocks, blocks)
        if state.caught_up:
            # Before their flush.
            self.reports.add_step(prev_tip, await asyncio.to_thread(state.step_of, blocks))
            pulse(self.processed_event)
        await self.flush_scheduler.flush_if_due()
        elapsed = time.monotonic() - start
        self.stats.indexed(len(blocks), elapsed)
        if not self.db.first_sync:
            self._log_processed(blocks, elapsed)
        if state.caught_up:
            self.reports.blocks_advanced(blocks[-1].header)
            pulse(self.advanced_event)
            await self.reports.check()
        elif self.serves_while_behind():
            self.reports.blocks_advanced(blocks[-1].header)
            await self.reports.check()
        self._incoherent = False
        self.reorg_finder.note_followed()

    def _log_processed(self, blocks: Sequence[ParsedBlock], elapsed: float) -> None:
        plural = "" if len(blocks) == 1 else "s"
        size = sum(len(block.raw) for block in blocks) / 1_000_000
        self.logger.info(
            f"processed {len(blocks):,d} block{plural} size {size:.2f} MB in {elapsed:.1f}s"
        )

    # -- reorgs

    async def force_chain_reorg(self, count: int) -> bool:
        """Replace the last ``count`` blocks; False while the index still catches up.

        Raise ValueError for a count that cannot be undone, or if the daemon is behind.
        """
        if not self.caught_up:
            daemon_height = self.daemon.cached_height()
            if daemon_height is not None and daemon_height < self.height:
                raise ValueError(above_text(self.height, daemon_height))
            return False
        limit = max(0, min(self.env.reorg_limit, self.height))
        if not 0 <= count <= limit:
            raise ValueError(f"cannot reorganise {count:,d} blocks, at most {limit:,d}")
        if count:
            # REORG_LIMIT may have been lower when they were indexed; and Decred undoes one more.
            first, _number = await self.calc_reorg_range(count)
            if await self.flush_scheduler.run_locked(self.db.read_undo_info, first) is None:
                raise ValueError(
                    f"cannot reorganise {count:,d} blocks: there is no undo information for "
                    f"height {first:,d}"
                )
            self._forced_reorg = count
            self.blocks_event.set()
        return True

    async def _watch_tip(self) -> None:
        """Find reorgs that bring no block above our height."""
        while True:
            await self.poll_pause()
            try:
                if not self.reorg_seen and await self.reorg_finder.daemon_left_our_chain():
                    self.reorg_seen = True
                    self.blocks_event.set()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")

    async def poll_pause(self) -> None:
        """Sleep between two polls, less if a notification of another tip comes."""
        await wait_for_event(self.daemon.tip_changed, self.poll_secs)

    async def reorg_chain(self, count: int | None) -> None:
        """Undo blocks that the daemon's chain no longer has, or the last ``count`` ones."""
        if count is None:
            self.logger.info("chain reorg detected")
        else:
            self.logger.info(f"faking a reorg of {count:,d} blocks")
        await self.flush_scheduler.flush(True)
        start, count = await self.calc_reorg_range(count)
        if count:
            # All or nothing: the operator may only have named the wrong node.
            await self.flush_scheduler.run_locked(self.state.read_undo_items, start)
            self.reports.reorg_begins(start - 1)
            self.stats.undone(start, count)
            last = start + count - 1
            plural = "" if count == 1 else "s"
            self.logger.info(
                f"chain was reorganised replacing {count:,d} block{plural} at heights "
                f"{start:,d}-{last:,d}"
            )
            try:
                await self._undo_blocks(start, last)
            finally:
                # Again, on the loop: a proof in progress may have extended it.
                self.db.header_mc.truncate(self.height + 1)
                pulse(self.backed_up_event)
        else:
            # The daemon's blocks and its hashes disagree, or it is back on our chain.
            self.logger.info("the daemon's chain has all our blocks; asking again")
            await asyncio.sleep(self.poll_secs)
        await self.prefetcher.reset_height(self.height)
        # If the daemon's chain became shorter, no new block will follow.
        await self.reports.check()

    async def _undo_blocks(self, start: int, last: int) -> None:
        """Undo the blocks of these heights from the top, and commit."""
        while last >= start:
            first = max(start, last - self.UNDO_CHUNK + 1)
            blocks = await self.reorg_finder.blocks_to_undo(first, last)
            tip = self.tip
            await self.flush_scheduler.run_locked(self.state.undo_and_flush, blocks)
            self.reports.blocks_undone(tip)
            pulse(self.advanced_event)
            last = first - 1
