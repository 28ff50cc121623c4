"""Takes blocks in order, keeps the index at their tip, and undoes them in a reorganisation.

Owns the tasks that follow the node's chain, and what subscribers are told of it.  The classes build
on one another: ``chain_state`` (the state in memory, and the steps that change it), ``flush_scheduler``
(when and how it gets to the disk), ``reorg`` (where the node's chain parts from ours), and this.
None knows row formats (``db``), nor what a transaction changes (``indexer``).

Runs in: the event loop; blocks are parsed in worker threads.

Theory of operation
===================

Two tasks run on the event loop: the prefetcher fills its list, and the main loop takes what is
there.  A batch of blocks is parsed in a worker thread, checked to be a chain on top of the tip,
and handed to the indexer in a worker thread.  Everything that changes state runs in such a thread
with ``state_lock`` held, and is shielded from cancellation: a shutdown waits until the step in
hand is done, then flushes.  If a step *failed*, memory may be half-changed, and nothing is
flushed: the disk still holds the last consistent state.

While catching up, a flush comes when the caches have grown to CACHE_MB (``cache_policy``); once
caught up, after every batch, so that clients see only what is on disk.  With the compiled form of
indexing, what a flush writes is set apart first, with the lock held, and is written in a thread
without it while more blocks are indexed *in memory*.  There is one such flush at a time, and
whatever else writes or reads what it writes waits for its end: the disk sees the writes of a
flush, in their order, and nothing between them, as if indexing had stood still.

Reorganisations are found in three ways: a block whose predecessor is not our tip; the node naming
another hash than ours at a height that both have (a branch of the same or lower height, seen by
polling); the node having become shorter than it was before our eyes (``invalidateblock``).  Blocks
are undone from the top in chunks of at most 50; undoing a chunk and committing it is one critical
section, so that no cancellation comes between.  Raw blocks are needed for undoing; they are kept
in ``meta/`` as long as undo information is, and the node is asked for those that are missing.

A third task compacts the history when many flushes were made (``row_compaction``): it reads in a
thread without the lock, and writes short slices with it.  A fourth reports committed tips that were
not reported at their commit (``tip_reporter``).
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import electrumx
from electrumx.lib import util
from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import sha256
from electrumx.lib.log_text import printable
from electrumx.lib.util import pack_le_uint32
from electrumx.server.block_processor.chain_state import ParsedBlock, UndoMissingError
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.indexer import ParsedTx
from electrumx.server.block_processor.prefetcher import Prefetcher, above_text
from electrumx.server.block_processor.reorg import ForkFinder
from electrumx.server.block_processor.tip_reporter import TipReporter
from electrumx.server.bulk_sync.choice import use_bulk_sync
from electrumx.server.bulk_sync.driver import BulkSync
from electrumx.server.bulk_sync.source import ProcessorSource
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.jsonrpc import pulse
from electrumx.server.daemon.responses import in_parts
from electrumx.server.db.flusher import DB, DBError
from electrumx.server.db.wire_rows import Addition
from electrumx.server.env import Env
from electrumx.server.notifications import Confirmed, Notifications, ReportedTip
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import HASH_LEN

__all__ = [
    "BlockProcessor",
    "ChainError",
    "ParsedBlock",
    "Prefetcher",
    "UndoMissingError",
]


class BlockParseError(DeserializeError):
    """A block from the daemon that does not parse; which one, and a digest of its bytes."""

    def __init__(self, error: DeserializeError, height: int, digest: bytes):
        super().__init__(f"{error}, in block {height:,d}")
        self.height = height
        self.digest = digest


def spent_outpoints_of(block: ParsedBlock) -> bytes:
    """Return the outpoints that a block's transactions spend, as in Confirmed."""
    if not isinstance(block, Block):
        return block.spent_outpoints
    return b"".join(
        [
            txin.prev_hash + pack_le_uint32(txin.prev_idx)
            for tx, _tx_hash in block.transactions
            for txin in tx.inputs
            if not txin.is_generation()
        ]
    )


class BlockProcessor(ForkFinder):
    """Indexes the chain of the node into the database."""

    #: for exactly this class: whether the compiled index takes transactions in any order
    COMPILED_ANY_ORDER = False
    #: for exactly this class: whether the bulk sync knows how it indexes
    FITS_BULK_SYNC = True
    #: blocks undone between two commits
    BACKUP_CHUNK = 50
    #: seconds before trying again what the node made fail
    RETRY_SECS = 5.0
    #: how long a shutdown waits for the engine to merge all that a first synchronisation left
    MERGE_GRACE_SECS = 15.0
    #: of the time that a compaction in the background takes, the part in which it does nothing
    COMPACTION_REST = 0.5
    #: raw bytes of blocks that are parsed at a time: parsed, readable blocks take ten times that
    PARSE_BYTES = 1_000_000
    #: times that the daemon may send the same block that does not parse, before the server ends
    PARSE_ATTEMPTS = 3

    def __init__(self, env: Env, db: DB, daemon: Daemon, notifications: Notifications):
        super().__init__(util.class_logger(__name__, self.__class__.__name__), env, db, daemon)
        self.notifications = notifications
        self.reports = TipReporter(self, notifications)
        #: of each reorganisation: the height up to which it left the chain as it was
        self.forks: list[int] = self.reports.forks

        self.blocks_event = asyncio.Event()
        self.poll_secs = env.daemon_poll_interval_blocks_msec / 1000
        self.prefetcher = Prefetcher(
            daemon, env.coin, self.blocks_event, polling_delay=self.poll_secs
        )
        #: set and cleared after each reorganisation
        self.backed_up_event = asyncio.Event()
        #: set and cleared when blocks are about to be committed while caught up
        self.processed_event = asyncio.Event()
        #: set and cleared when blocks were committed, or undone, while caught up
        self.advanced_event = asyncio.Event()
        #: the last blocks from the node formed no chain
        self._incoherent = False
        #: digest of the block that did not parse last, and how many times it came
        self._unparsed = (b"", 0)
        #: blocks that the operator asked to be replaced
        self.reorg_count: int | None = None
        self.compiled = self._compiled_index()
        #: the bulk sync that is under way
        self.bulk: BulkSync | None = None
        #: what tidies the stores up after the first synchronisation
        self._merging: asyncio.Task[None] | None = None

    @property
    def forks_ended(self) -> int:
        """How many of the reorganisations led to the reported tip."""
        return self.reports.forks_reported

    @property
    def reported(self) -> ReportedTip | None:
        """The tip last reported to the notifications; None before the chain is caught up with."""
        return self.reports.reported

    def _compiled_index(self) -> CompiledIndex | None:
        """Return the compiled form of indexing, if it is installed and serves this chain."""
        index = None
        # Not inherited: a subclass may index otherwise.
        any_order = vars(type(self)).get("COMPILED_ANY_ORDER")
        if self.env.indexer != "python" and any_order is not None:
            index = CompiledIndex.for_coin(self.coin, any_order, self.db.lookup_coins)
        if self.env.indexer == "compiled" and index is None:
            raise OperatorError(
                "INDEXER is compiled, but that form was not built or does not serve "
                f"{self.coin.NAME}: set INDEXER to auto, or reinstall where a C compiler and the "
                "headers of Python and OpenSSL are"
            )
        self.logger.info(f"indexing with the {'compiled' if index else 'pure-Python'} form")
        self.db.history.pending = index
        return index

    # -- life

    async def fetch_and_process_blocks(self, caught_up_event: asyncio.Event) -> None:
        """Open the database and follow the node's chain for ever.

        ``caught_up_event`` is set when the chain is first caught up with.  On cancellation
        everything is flushed; on any other exception nothing is.  The database is closed.
        """
        self._caught_up_event = caught_up_event
        await self._first_open_dbs()
        tasks = [
            asyncio.ensure_future(self.prefetcher.main_loop(self.height)),
            asyncio.ensure_future(self._process_prefetched_blocks()),
            asyncio.ensure_future(self._watch_tip()),
            asyncio.ensure_future(self.reports.run()),
            asyncio.ensure_future(self._compact_when_due()),
        ]
        try:
            done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(self._shut_down(tasks))

    async def _shut_down(self, tasks: Sequence["asyncio.Future[None]"]) -> None:
        """Flush, unless something failed, and close the database."""
        async with self.state_lock:
            trouble = None
            if self._flushing is not None:
                await asyncio.wait([self._flushing])
                trouble = self._flushing.exception()
            failed = self._state_broken or any(
                not task.cancelled() and task.exception() for task in tasks
            )
            if failed:
                self.logger.error("not flushing: the last consistent state is on disk")
            else:
                self.logger.info("flushing to DB for a clean shutdown...")
                await self._flush_at_the_end()
        # Without the lock, as it may be about to write that it has ended.
        await self._stop_merging()
        async with self.state_lock:
            await asyncio.to_thread(self.db.close_dbs)
        if trouble is not None:
            raise trouble

    async def _flush_at_the_end(self) -> None:
        """Flush with the lock held; if the disk fails, close the database before saying so."""
        try:
            await asyncio.to_thread(self._flush_all)
        except BaseException as e:
            await asyncio.to_thread(self.db.close_dbs)
            self.db.raise_explained(e)

    async def _first_open_dbs(self) -> None:
        loop = asyncio.get_running_loop()

        def fetch_blocks(hex_hashes: Sequence[str]) -> Sequence[bytes]:
            # Called in the thread that opens the database.
            fetching = asyncio.run_coroutine_threadsafe(self._fetch_blocks(hex_hashes), loop)
            return fetching.result()

        self.db.fetch_blocks = fetch_blocks
        await self.db.open_for_sync()
        self._read_committed()

    def _read_committed(self) -> None:
        """Go on from the block that the database was committed at."""
        self.db.logs_speed = self.db.first_sync
        self.height = self.db.db_height
        self.tip = self.db.db_tip
        self.tx_count = self.db.db_tx_count
        self._progress_mark = (time.monotonic(), self.tx_count)

    async def _fetch_blocks(self, hex_hashes: Sequence[str]) -> Sequence[bytes]:
        try:
            return await in_parts(self.daemon.raw_blocks, hex_hashes)
        except DaemonError as e:
            raise DBError(f"the database needs blocks that the daemon does not give: {e}") from e

    # -- the bulk sync

    #: what a transaction touches beside the scripts of its inputs and outputs, for coins with names
    extra_hashXs: Callable[[Any], set[bytes]] | None = None

    @property
    def any_order(self) -> bool:
        """Whether a transaction may spend what a later one of its block makes."""
        return self.COMPILED_ANY_ORDER is True

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in the fields that Bitcoin's have."""
        return txs

    async def _sync_in_bulk(self) -> None:
        """Fill an empty database up to REORG_LIMIT blocks below the node's tip, if that is far."""
        # Not inherited: a subclass may index otherwise.
        if not vars(type(self)).get("FITS_BULK_SYNC"):
            return
        height = self.daemon.cached_height() or 0
        if not await asyncio.to_thread(use_bulk_sync, self.env, self.db, height, self.logger):
            return
        source = ProcessorSource(self, self._parse_blocks, self._refuse_if_repeated)
        self.bulk = BulkSync(
            self.env,
            self.db,
            self.daemon,
            self.prefetcher,
            source,
            compiled=self.env.indexer != "python",
        )
        self.bulk.RETRY_SECS = self.RETRY_SECS
        await self.bulk.run(self._exchange_stores)
        self.bulk = None
        await self.prefetcher.reset_height(self.height)

    async def _exchange_stores(self, move: Callable[[], None]) -> None:
        """Close the database, have its stores moved, and open it again."""

        async def exchange() -> None:
            async with self.state_lock:
                await asyncio.to_thread(self.db.close_dbs)
                await asyncio.to_thread(move)
                await self.db.open_for_sync()
                self._read_committed()

        await asyncio.shield(exchange())

    async def _process_prefetched_blocks(self) -> None:
        await self._sync_in_bulk()
        while True:
            if self.height == self.daemon.cached_height() and not self._caught_up_event.is_set():
                await self._first_caught_up()
                await self.reports.check()
                self._caught_up_event.set()
            await self.blocks_event.wait()
            self.blocks_event.clear()
            try:
                await self._do_what_is_due()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")
                await self._start_over()
            except DeserializeError as e:
                self.logger.error(f"the daemon sent a block that does not parse: {e}")
                await self._refuse_if_repeated(e)
                await self._start_over()

    async def _refuse_if_repeated(self, error: DeserializeError) -> None:
        """Flush and raise OperatorError if the daemon sends the same bytes again and again."""
        if not isinstance(error, BlockParseError):
            return
        digest, count = self._unparsed
        count = count + 1 if digest == error.digest else 1
        self._unparsed = (error.digest, count)
        if count >= self.PARSE_ATTEMPTS:
            # What was indexed before it is good.
            await self.flush(True)
            raise OperatorError(
                f"the daemon's block {error.height:,d} does not parse as one of {self.coin.NAME} "
                f"{self.coin.NET} ({error}): the daemon may be of another COIN or NET, or newer "
                "than this version; check COIN, NET and DAEMON_URL"
            )

    async def _start_over(self) -> None:
        await asyncio.sleep(self.RETRY_SECS)
        await self.prefetcher.reset_height(self.height)

    async def _do_what_is_due(self) -> None:
        if self.reorg_count is not None:
            count, self.reorg_count = self.reorg_count, None
            await self.reorg_chain(count)
        elif self._reorg_seen:
            self._reorg_seen = False
            await self.reorg_chain(None)
        else:
            blocks = self.prefetcher.get_prefetched_blocks()
            await self.check_and_advance_blocks(blocks)

    async def _first_caught_up(self) -> None:
        """Flush, and re-open the database for serving."""
        self.logger.info(f"caught up to height {self.height:,d}")
        first_sync = self.db.first_sync
        await self.run_in_thread_with_lock(self.db.end_filling)
        fault_point("caught up: filled")
        self.db.first_sync = False
        await self.flush(True)
        fault_point("caught up: flushed")
        # The flush does nothing if the height is the committed one; the row is written anyway.
        await self.run_in_thread_with_lock(self.db.write_first_sync_done)
        if first_sync:
            self.logger.info(f"{electrumx.version} synced to height {self.height:,d}")
        await asyncio.shield(self._reopen_for_serving())
        self._merging = asyncio.ensure_future(self._merge())

    async def _merge(self) -> None:
        """Let the engine tidy up while clients are served."""
        try:
            merged = await asyncio.to_thread(self.db.merge)
            fault_point("caught up: merged")
            if merged:
                async with self.state_lock:
                    await asyncio.to_thread(self.db.write_merged)
        except Exception:
            # If the disk is full, the next flush says so.
            self.logger.exception("could not merge tables")

    async def _stop_merging(self) -> None:
        if self._merging is not None and not self._merging.done():
            self.logger.info("waiting for the engine to merge tables")
            _done, pending = await asyncio.wait([self._merging], timeout=self.MERGE_GRACE_SECS)
            if pending:
                self.db.stop_merging()
                await asyncio.wait(pending)

    async def _reopen_for_serving(self) -> None:
        # A compaction in the background must not write while the stores are closed.
        async with self.state_lock:
            await self.db.open_for_serving()

    # -- advancing

    async def check_and_advance_blocks(self, raw_blocks: Sequence[bytes]) -> None:
        """Process raw blocks that should follow on the tip, or find out why they do not.

        Each part is parsed while the one before it is indexed.
        """
        parts = self._parts(raw_blocks)
        parsing = self._start_parsing(parts, self.height + 1)
        while parsing is not None:
            start = time.monotonic()
            blocks = await parsing
            parsing = self._start_parsing(parts, self.height + 1 + len(blocks))
            try:
                if await self._check_and_advance(blocks, start):
                    continue
            except BaseException:
                self._forget(parsing)
                raise
            self._forget(parsing)
            return

    def _parts(self, raw_blocks: Sequence[bytes]) -> deque[list[bytes]]:
        """Divide blocks into what is parsed at a time."""
        parts: deque[list[bytes]] = deque()
        size = self.PARSE_BYTES
        for raw_block in raw_blocks:
            size += len(raw_block)
            if size > self.PARSE_BYTES:
                parts.append([])
                size = len(raw_block)
            parts[-1].append(raw_block)
        return parts

    def _start_parsing(
        self, parts: deque[list[bytes]], first_height: int
    ) -> "asyncio.Future[Sequence[ParsedBlock]] | None":
        """Begin to parse the next part in a thread; None if there is none."""
        if not parts:
            return None
        coroutine = asyncio.to_thread(self._parse_blocks, parts.popleft(), first_height)
        return asyncio.ensure_future(coroutine)

    @staticmethod
    def _forget(parsing: "asyncio.Future[Sequence[ParsedBlock]] | None") -> None:
        """Let nobody miss the outcome of parsing, which goes on in its thread."""
        if parsing is not None:
            parsing.cancel()
            parsing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _check_and_advance(self, blocks: Sequence[ParsedBlock], start: float) -> bool:
        """Process blocks; False if they do not follow on the tip, which is seen to."""
        chain = [self.tip] + [self.coin.header_hash(block.header) for block in blocks[:-1]]
        prev_hashes = [self.coin.header_prevhash(block.header) for block in blocks]
        if prev_hashes == chain:
            await asyncio.shield(self._run_locked(False, self.advance_blocks, blocks))
            if self._caught_up_event.is_set():
                await self._note_confirmed(chain[0], blocks)
            await self._maybe_flush()
            if not self.db.first_sync:
                self._log_processed(blocks, time.monotonic() - start)
            if self._caught_up_event.is_set():
                self.reports.blocks_advanced(blocks[-1].header)
                pulse(self.advanced_event)
                await self.reports.check()
            self._incoherent = False
            # It had them a moment ago: if it lacks them from now on, it has undone them.
            self._followed_url = self.daemon.current_url()
            return True
        if prev_hashes[0] != chain[0]:
            await self.reorg_chain(None)
        else:
            # The node changed branches between two requests of a batch.
            self.logger.warning("daemon blocks do not form a chain; resetting the prefetcher")
            if self._incoherent:
                # Not once, but always: it is not asked in a busy loop.
                await self._start_over()
            else:
                self._incoherent = True
                await self.prefetcher.reset_height(self.height)
        return False

    async def _note_confirmed(self, prev_tip: bytes, blocks: Sequence[ParsedBlock]) -> None:
        """Remember what the last blocks confirmed, before they are flushed."""
        confirmed = await asyncio.to_thread(self._what_confirmed, blocks)
        self.reports.add_step(prev_tip, confirmed)
        pulse(self.processed_event)

    def _what_confirmed(self, blocks: Sequence[ParsedBlock]) -> Confirmed:
        """Put together what the last blocks did.  Runs in: a thread."""
        hashes = self.block_tx_hashes[-len(blocks) :]
        counts = [len(block_hashes) // HASH_LEN for block_hashes in hashes]
        first_tx_num = self.tx_count - sum(counts)
        ends = array("Q", accumulate(counts, initial=first_tx_num))[1:]
        tx_hashes = b"".join(hashes)
        return Confirmed(
            self.height,
            self.tip,
            tx_hashes,
            b"".join(map(spent_outpoints_of, blocks)),
            Addition(self.records, tx_hashes, first_tx_num, ends, self.height + 1 - len(blocks)),
            blocks[-1].header,
        )

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        """Return the step from a tip to the next: blocks on top of it, or that it was undone.

        None if there is none, or if it was not among the last since the chain was caught up with.
        """
        return self.reports.step_from(tip)

    def _log_processed(self, blocks: Sequence[ParsedBlock], elapsed: float) -> None:
        plural = "" if len(blocks) == 1 else "s"
        size = sum(len(block.raw) for block in blocks) / 1_000_000
        self.logger.info(
            f"processed {len(blocks):,d} block{plural} size {size:.2f} MB in {elapsed:.1f}s"
        )

    def _parse_blocks(
        self, raw_blocks: Sequence[bytes], first_height: int
    ) -> Sequence[ParsedBlock]:
        parse: Callable[[bytes, int], ParsedBlock] = self.coin.block
        if self.compiled:
            self.compiled.tokens_from = self.db.state.tokens_from or 0
            parse = self.compiled.parse
        blocks: list[ParsedBlock] = []
        for height, raw in enumerate(raw_blocks, start=first_height):
            try:
                blocks.append(parse(raw, height))
            except DeserializeError as e:
                raise BlockParseError(e, height, sha256(raw)) from e
        return blocks

    # -- compaction

    async def _compact_when_due(self) -> None:
        """Compact the history in the background whenever many flushes were made."""
        while True:
            if self.db.compaction_due:
                await self._compact()
            self._flushed_event.clear()
            await self._flushed_event.wait()

    async def _compact(self) -> None:
        """Make one pass, or go on with one that was interrupted."""
        compaction = await self.run_in_thread_with_lock(self.db.begin_compaction)
        while not compaction.done:
            start = time.monotonic()
            await asyncio.to_thread(compaction.prepare)
            if compaction.has_work:
                self._flushed_event.clear()
                if not await self.run_in_thread_with_lock(compaction.write):
                    # History was flushed without its coins.
                    await self._flushed_event.wait()
            # Clients and blocks come first.
            rest = (time.monotonic() - start) * self.COMPACTION_REST / (1 - self.COMPACTION_REST)
            await asyncio.sleep(rest)

    # -- reorganisations

    async def force_chain_reorg(self, count: int) -> bool:
        """Replace the last ``count`` blocks; False if the chain is still being caught up with.

        Raise ValueError for a count that cannot be undone, or if the daemon is behind.
        """
        if not self._caught_up_event.is_set():
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
            if await self.run_in_thread_with_lock(self.db.read_undo_info, first) is None:
                raise ValueError(
                    f"cannot reorganise {count:,d} blocks: there is no undo information for "
                    f"height {first:,d}"
                )
            self.reorg_count = count
            self.blocks_event.set()
        return True

    async def _watch_tip(self) -> None:
        """Find reorganisations that bring no block above our height."""
        while True:
            await self._poll_pause()
            try:
                if await self._node_left_our_chain():
                    self._reorg_seen = True
                    self.blocks_event.set()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")

    async def _poll_pause(self) -> None:
        """Sleep between two polls, less if the node is said to have another tip."""
        news = asyncio.ensure_future(self.daemon.tip_changed.wait())
        try:
            await asyncio.wait([news], timeout=self.poll_secs)
        finally:
            news.cancel()

    async def reorg_chain(self, count: int | None) -> None:
        """Undo blocks that the node's chain no longer has, or the last ``count`` ones."""
        if count is None:
            self.logger.info("chain reorg detected")
        else:
            self.logger.info(f"faking a reorg of {count:,d} blocks")
        await self.flush(True)
        start, count = await self.calc_reorg_range(count)
        if count:
            # All or nothing: the operator may only have named the wrong node.
            await self.run_in_thread_with_lock(self._undo_info, start)
            self.reports.reorg_begins(start - 1)
            last = start + count - 1
            plural = "" if count == 1 else "s"
            self.logger.info(
                f"chain was reorganised replacing {count:,d} block{plural} at heights "
                f"{start:,d}-{last:,d}"
            )
            try:
                await self._undo_blocks(start, last)
            finally:
                # Again, on the loop: a proof that was being made meanwhile may have extended it.
                self.db.header_mc.truncate(self.height + 1)
                pulse(self.backed_up_event)
        else:
            # The node's blocks and its hashes disagree, or it has come back meanwhile.
            self.logger.info("the daemon's chain has all our blocks; asking again")
            await asyncio.sleep(self.poll_secs)
        await self.prefetcher.reset_height(self.height)
        # If the node's chain became shorter, no new block will follow.
        await self.reports.check()

    async def _undo_blocks(self, start: int, last: int) -> None:
        """Undo the blocks of these heights from the top, and commit."""
        while last >= start:
            first = max(start, last - self.BACKUP_CHUNK + 1)
            blocks = await self._blocks_to_undo(first, last)
            tip = self.tip
            await self.run_in_thread_with_lock(self._backup_and_flush, blocks)
            self.reports.blocks_undone(tip)
            pulse(self.advanced_event)
            last = first - 1
