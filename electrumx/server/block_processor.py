"""Takes blocks in order, keeps the index at their tip, and undoes them in a reorganisation.

Owns the height, tip and transaction count of the block last *processed*, the coins and undo
information not yet flushed, and the decision when to flush.  It knows neither row formats
(``db``) nor what a transaction changes (``indexer``).

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

A third task compacts the history when many flushes were made (``compaction``): it reads in a
thread without the lock, and writes short slices with it.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast

import electrumx
from electrumx.lib import util
from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.script import is_unspendable_genesis, is_unspendable_legacy
from electrumx.lib.util import pack_le_uint32
from electrumx.server import indexer
from electrumx.server.cache_policy import CacheUse, flush_due, known_coins_to_keep
from electrumx.server.daemon import Daemon, DaemonError
from electrumx.server.db import DB, DBError, FlushData
from electrumx.server.env import Env
from electrumx.server.fast_index import CompiledIndex
from electrumx.server.faults import fault_point
from electrumx.server.indexer import ParsedTx, Unspendable
from electrumx.server.notifications import Confirmed, Notifications
from electrumx.server.prefetcher import Prefetcher
from electrumx.server.utxo_cache import ChainError, UTXOCache

__all__ = ["BlockProcessor", "ChainError", "LTORBlockProcessor", "Prefetcher"]

if TYPE_CHECKING:
    from electrumx.server._fastindex import FastBlock

T = TypeVar("T")

#: a block as the readable or the compiled form parses it
ParsedBlock = Union[Block, "FastBlock"]


class UndoMissingError(ChainError, OperatorError):
    """A reorganisation is deeper than the undo information that is kept."""


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


class BlockProcessor:
    """Indexes the chain of the node into the database."""

    #: blocks undone between two commits
    BACKUP_CHUNK = 50
    #: seconds between log lines on the caches, and on progress, while catching up
    CACHE_LOG_SECS = 30.0
    PROGRESS_LOG_SECS = 10.0
    #: seconds before trying again what the node made fail
    RETRY_SECS = 5.0
    #: of the time that a compaction in the background takes, the part in which it does nothing
    COMPACTION_REST = 0.5
    #: raw bytes of blocks that are parsed at a time: parsed, readable blocks take ten times that
    PARSE_BYTES = 1_000_000
    #: What a flush takes besides, measured with both engines: the batch and the engine's own copy
    #: of two rows for a coin, and of one for a key to delete.  History goes in bounded batches.
    FLUSH_BYTES_PER_COIN = 180
    FLUSH_BYTES_PER_DELETE = 60
    #: of unflushed blocks: a header as a bytes object, its count and those of its lists
    BYTES_PER_BLOCK = 250
    #: polls that a node must be seen without blocks it had, before they are undone
    SHORT_POLLS = 2
    #: batches of blocks, processed while caught up, of which is remembered what they confirmed
    CONFIRMED_BATCHES = 4

    def __init__(self, env: Env, db: DB, daemon: Daemon, notifications: Notifications):
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self.env = env
        self.db = db
        self.daemon = daemon
        self.notifications = notifications
        self.coin = env.coin

        self.blocks_event = asyncio.Event()
        self.poll_secs = env.daemon_poll_interval_blocks_msec / 1000
        self.prefetcher = Prefetcher(
            daemon, env.coin, self.blocks_event, polling_delay=self.poll_secs
        )
        #: held while in-memory state is being changed
        self.state_lock = asyncio.Lock()
        #: set and cleared after each reorganisation
        self.backed_up_event = asyncio.Event()
        #: set and cleared when blocks were committed while caught up
        self.advanced_event = asyncio.Event()
        self._caught_up_event = asyncio.Event()
        #: set by every flush
        self._flushed_event = asyncio.Event()
        #: a change of state raised: memory may be inconsistent and must not be flushed
        self._state_broken = False
        #: the flush under way beside indexing
        self._flushing: asyncio.Future[None] | None = None

        # Of the block last processed.
        self.height = -1
        self.tip = bytes(32)
        self.tx_count = 0
        #: hashXs changed since subscribers were last told
        self.touched: set[bytes] = set()
        #: tip -> what was confirmed on top of it, the last batches
        self._confirmed: dict[bytes, Confirmed] = {}
        #: blocks that the operator asked to be replaced
        self.reorg_count: int | None = None
        #: the node's chain was seen to differ from ours, at our height or below
        self._reorg_seen = False
        #: URL of the node last seen to have our tip, and for how many polls it has not had it
        self._followed_url = ""
        self._short_polls = 0

        # Unflushed.  Backing up always uses the readable form.
        self.utxo_cache = UTXOCache(db.lookup_coin)
        self.compiled = self._compiled_index()
        self.headers: list[bytes] = []
        self.block_tx_hashes: list[bytes] = []
        self.undo_infos: list[tuple[list[bytes], int]] = []
        self._undo_bytes = 0

        now = time.monotonic()
        self._next_cache_log = now
        self._next_progress_log = now + self.PROGRESS_LOG_SECS
        self._progress_mark = (now, 0)

    def _compiled_index(self) -> CompiledIndex | None:
        """Return the compiled form of indexing, if it is installed and serves this chain."""
        index = None
        own_rules = type(self) not in (BlockProcessor, LTORBlockProcessor)
        if self.env.indexer != "python" and not own_rules:
            any_order = isinstance(self, LTORBlockProcessor)
            index = CompiledIndex.for_coin(self.coin, any_order, self.db.lookup_coin)
        if self.env.indexer == "compiled" and index is None:
            raise OperatorError(
                "INDEXER is compiled, but that form was not built or does not serve "
                f"{self.coin.NAME}: set INDEXER to auto, or reinstall where a C compiler and the "
                "headers of Python and OpenSSL are"
            )
        self.logger.info(f"indexing with the {'compiled' if index else 'pure-Python'} form")
        self.db.history.pending = index
        return index

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
            better = self.db.explained(e)
            if better is e:
                raise
            raise better from e

    # -- life

    @property
    def caught_up(self) -> bool:
        """True once the node's chain was caught up with, and the database is open for serving."""
        return self._caught_up_event.is_set()

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
            await asyncio.to_thread(self.db.close_dbs)
            if trouble is not None:
                raise trouble

    async def _flush_at_the_end(self) -> None:
        """Flush with the lock held; if the disk fails, close the database before saying so."""
        try:
            await asyncio.to_thread(self._flush_all)
        except BaseException as e:
            await asyncio.to_thread(self.db.close_dbs)
            better = self.db.explained(e)
            if better is e:
                raise
            raise better from e

    async def _first_open_dbs(self) -> None:
        loop = asyncio.get_running_loop()

        def fetch_blocks(hex_hashes: Sequence[str]) -> Sequence[bytes]:
            # Called in the thread that opens the database.
            fetching = asyncio.run_coroutine_threadsafe(self._fetch_blocks(hex_hashes), loop)
            return fetching.result()

        self.db.fetch_blocks = fetch_blocks
        await self.db.open_for_sync()
        self.height = self.db.db_height
        self.tip = self.db.db_tip
        self.tx_count = self.db.db_tx_count
        self._progress_mark = (time.monotonic(), self.tx_count)

    async def _fetch_blocks(self, hex_hashes: Sequence[str]) -> Sequence[bytes]:
        try:
            return await self.daemon.raw_blocks(hex_hashes)
        except DaemonError as e:
            raise DBError(f"the database needs blocks that the daemon does not give: {e}") from e

    async def _process_prefetched_blocks(self) -> None:
        while True:
            if self.height == self.daemon.cached_height() and not self._caught_up_event.is_set():
                await self._first_caught_up()
                self._caught_up_event.set()
            await self.blocks_event.wait()
            self.blocks_event.clear()
            try:
                await self._do_what_is_due()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {e}")
                await self._start_over()
            except DeserializeError as e:
                self.logger.error(f"the daemon sent a block that does not parse: {e}")
                await self._start_over()

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
        self.db.first_sync = False
        await self.flush(True)
        fault_point("caught up: flushed")
        # The flush does nothing if the height is the committed one; the row is written anyway.
        await self.run_in_thread_with_lock(self.db.write_first_sync_done)
        if first_sync:
            self.logger.info(f"{electrumx.version} synced to height {self.height:,d}")
        await asyncio.shield(self._reopen_for_serving())

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
                await self._notify()
            self.touched = set()
            return True
        if prev_hashes[0] != chain[0]:
            await self.reorg_chain(None)
        else:
            # The node changed branches between two requests of a batch.
            self.logger.warning("daemon blocks do not form a chain; resetting the prefetcher")
            await self.prefetcher.reset_height(self.height)
        return False

    async def _note_confirmed(self, prev_tip: bytes, blocks: Sequence[ParsedBlock]) -> None:
        """Remember what the last blocks confirmed, before they are flushed."""
        while len(self._confirmed) >= self.CONFIRMED_BATCHES:
            del self._confirmed[next(iter(self._confirmed))]

        def join() -> tuple[bytes, bytes]:
            tx_hashes = b"".join(self.block_tx_hashes[-len(blocks) :])
            return tx_hashes, b"".join(map(spent_outpoints_of, blocks))

        self._confirmed[prev_tip] = Confirmed(self.height, self.tip, *await asyncio.to_thread(join))

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        """Return what the blocks processed next after a tip confirmed.

        None if there are none, or if they were not among the last: it is known only of some
        batches of blocks of the present chain, processed since it was caught up with.
        """
        return self._confirmed.get(tip)

    def _log_processed(self, blocks: Sequence[ParsedBlock], elapsed: float) -> None:
        plural = "" if len(blocks) == 1 else "s"
        size = sum(len(block.raw) for block in blocks) / 1_000_000
        self.logger.info(
            f"processed {len(blocks):,d} block{plural} size {size:.2f} MB in {elapsed:.1f}s"
        )

    async def _notify(self) -> None:
        touched, self.touched = self.touched, set()
        self.advanced_event.set()
        self.advanced_event.clear()
        await self.notifications.on_block(touched, self.height)

    def _parse_blocks(
        self, raw_blocks: Sequence[bytes], first_height: int
    ) -> Sequence[ParsedBlock]:
        parse = self.compiled.parse if self.compiled else self.coin.block
        return [parse(raw, height) for height, raw in enumerate(raw_blocks, start=first_height)]

    def advance_blocks(self, blocks: Sequence[ParsedBlock]) -> None:
        """Index blocks that are known to follow on the tip.  Runs in a thread, lock held."""
        min_height = self.db.min_undo_height(self.daemon.cached_height() or 0)
        height = self.height
        if self.compiled:
            self.compiled.prepare(cast("Sequence[FastBlock]", blocks))
        for block in blocks:
            height += 1
            undo_info = self._advance_block(block, height)
            if height >= min_height:
                self.undo_infos.append((undo_info, height))
                self._undo_bytes += sum(map(sys.getsizeof, undo_info))
                self.db.write_raw_block(block.raw, height)
            self.headers.append(block.header)
        self.height = height
        self.tip = self.coin.header_hash(blocks[-1].header)

    def _advance_block(self, block: ParsedBlock, height: int) -> list[bytes]:
        """Index a block; return its undo items."""
        if isinstance(block, Block):
            return self.advance_txs(block.transactions, self._unspendable_rule(height))
        assert self.compiled
        undo_info = self.compiled.advance(block, self.tx_count, height)
        self.block_tx_hashes.append(block.tx_hashes)
        if self._caught_up_event.is_set():
            self.touched |= self.compiled.touched()
        self.tx_count += block.tx_count
        return [undo_info]

    def _unspendable_rule(self, height: int) -> Unspendable:
        """Return the rule for outputs of the block at a height."""
        if height >= self.coin.GENESIS_ACTIVATION:
            return is_unspendable_genesis
        return is_unspendable_legacy

    #: how a block's transactions change the coins; coins with another order replace both
    _advance: Callable[..., tuple[list[bytes], list[set[bytes]]]] = staticmethod(
        indexer.advance_txs
    )
    _backup: Callable[..., set[bytes]] = staticmethod(indexer.backup_txs)

    def advance_txs(self, txs: Sequence[ParsedTx], is_unspendable: Unspendable) -> list[bytes]:
        """Index a block's transactions; return its undo items."""
        self.block_tx_hashes.append(b"".join([tx_hash for _tx, tx_hash in txs]))
        undo_info, hashXs_by_tx = self._advance(
            txs, self.tx_count, self.utxo_cache, self.coin.hashX_from_script, is_unspendable
        )
        self.db.history.add_unflushed(hashXs_by_tx, self.tx_count)
        if self._caught_up_event.is_set():
            self.touched.update(*hashXs_by_tx)
        self.tx_count += len(txs)
        return undo_info

    # -- flushing

    def flush_data(self, backing_up: bool = False) -> FlushData:
        """Return what waits to be flushed.  Only with the state lock held."""
        coins = self.utxo_cache if backing_up or not self.compiled else self.compiled
        return FlushData(
            self.height,
            self.tx_count,
            self.headers,
            self.block_tx_hashes,
            self.undo_infos,
            coins.adds,
            coins.deletes,
            self.tip,
        )

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
        flush_data = self.flush_data()
        self.headers, self.block_tx_hashes = [], []
        if flush_utxos:
            self.compiled.forget_known(known_coins_to_keep(self._cache_limit))
            self.undo_infos, self._undo_bytes = [], 0
        else:
            flush_data.undo_infos = []
        self.compiled.take(flush_utxos)
        return flush_data

    @property
    def _cache_limit(self) -> int:
        return self.env.cache_MB * 1_000_000

    def _cache_use(self) -> CacheUse:
        """Return what the caches take, with what flushing them will take."""
        # Tx hashes are joined before they are written, so there are two of each for a moment.
        history = (
            self.db.history.unflushed_memsize()
            + (self.tx_count - self.db.fs_tx_count) * 2 * 32
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
        """During the first synchronisation, say at a glance how far it is."""
        now = time.monotonic()
        if not self.db.first_sync or now < self._next_progress_log:
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
        coin = self.coin
        daemon_height = self.daemon.cached_height() or 0
        tail = max(0, daemon_height - max(self.height, coin.TX_COUNT_HEIGHT))
        estimate = tail * coin.TX_PER_BLOCK + max(coin.TX_COUNT - self.tx_count, 0)
        # Early blocks are emptier than the average; the figure shrinks as height grows.
        optimism = max(2.0 - 0.9 * self.height / max(coin.TX_COUNT_HEIGHT, 1), 1.0)
        return float(estimate * optimism) if daemon_height > self.height else 0.0

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

        Raise ValueError for a count that cannot be undone.
        """
        if not self._caught_up_event.is_set():
            return False
        limit = max(0, min(self.env.reorg_limit, self.height))
        if not 0 <= count <= limit:
            raise ValueError(f"cannot reorganise {count:,d} blocks, at most {limit:,d}")
        if count:
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
                self.logger.info(f"ignoring daemon error: {e}")

    async def _poll_pause(self) -> None:
        """Sleep between two polls, less if the node is said to have another tip."""
        news = asyncio.ensure_future(self.daemon.tip_changed.wait())
        try:
            await asyncio.wait([news], timeout=self.poll_secs)
        finally:
            news.cancel()

    async def _node_left_our_chain(self) -> bool:
        height, tip = self.height, self.tip
        daemon_height = await self.daemon.height()
        if self.state_lock.locked() or self._reorg_seen or not 0 <= daemon_height <= height:
            # Blocks above our height tell by themselves whether they follow on our tip.
            return False
        url = self.daemon.current_url()
        theirs = (await self.daemon.block_hex_hashes(daemon_height, 1))[0]
        if daemon_height == height:
            ours = tip
        elif daemon_height <= self.db.db_height:
            ours = (await self.db.fs_block_hashes(daemon_height, 1))[0]
        else:
            return False
        if (self.height, self.tip) != (height, tip):
            return False
        if ours != hex_str_to_hash(theirs):
            return True
        if daemon_height == height:
            self._followed_url, self._short_polls = url, 0
            return False
        # A node that lags behind us, say after a fail-over, is left in peace; one that had our
        # tip and stays without it has undone blocks.
        self._short_polls += 1
        return url == self._followed_url and self._short_polls >= self.SHORT_POLLS

    async def reorg_chain(self, count: int | None) -> None:
        """Undo blocks that the node's chain no longer has, or the last ``count`` ones."""
        if count is None:
            self.logger.info("chain reorg detected")
        else:
            self.logger.info(f"faking a reorg of {count:,d} blocks")
        await self.flush(True)
        start, count = await self.calc_reorg_range(count)
        if count:
            last = start + count - 1
            plural = "" if count == 1 else "s"
            self.logger.info(
                f"chain was reorganised replacing {count:,d} block{plural} at heights "
                f"{start:,d}-{last:,d}"
            )
            while last >= start:
                first = max(start, last - self.BACKUP_CHUNK + 1)
                blocks = await self._blocks_to_undo(first, last)
                await self.run_in_thread_with_lock(self._backup_and_flush, blocks)
                last = first - 1
            # Again, on the loop: a proof that was being made meanwhile may have extended it.
            self.db.header_mc.truncate(self.height + 1)
            self._confirmed.clear()
            self.backed_up_event.set()
            self.backed_up_event.clear()
        else:
            # The node's blocks and its hashes disagree, or it has come back meanwhile.
            self.logger.info("the daemon's chain has all our blocks; asking again")
            await asyncio.sleep(self.poll_secs)
        await self.prefetcher.reset_height(self.height)
        if count and self.daemon.cached_height() == self.height:
            # The node's chain became shorter: no new block will bring the news.
            await self._notify()

    async def calc_reorg_range(self, count: int | None) -> tuple[int, int]:
        """Return (first height, number) of the blocks to replace; the number may be 0.

        ``count`` forces that many.  The genesis block is never replaced.
        """
        if count is not None:
            start = max(1, self.height - count + 1)
            return start, self.height - start + 1
        # Heights above the node's are replaced in any case.
        top = min(self.height, await self.daemon.height())
        upper, step = top, 1
        while upper > 0:
            lower = max(1, upper - step + 1)
            same = await self._first_difference(lower, upper)
            if same > lower:
                return same, self.height - same + 1
            upper, step = lower - 1, step * 2
        return 1, self.height

    async def _first_difference(self, lower: int, upper: int) -> int:
        """Return the first height in a range at which the node's block is not ours.

        ``upper`` + 1 if there is none.
        """
        count = upper - lower + 1
        ours = await self.db.fs_block_hashes(lower, count)
        theirs = await self.daemon.block_hex_hashes(lower, count)
        for height, our_hash, their_hash in zip(range(lower, upper + 1), ours, theirs, strict=True):
            if our_hash != hex_str_to_hash(their_hash):
                return height
        return upper + 1

    async def _blocks_to_undo(self, first: int, last: int) -> list[Block]:
        """Return blocks, the newest first, from disk or, where one is damaged, the node."""
        hashes = await self.db.fs_block_hashes(first, last - first + 1)

        def parse(raw_blocks: Sequence[bytes]) -> list[Block] | None:
            try:
                block = self.coin.block
                blocks = [block(raw, height) for height, raw in enumerate(raw_blocks, first)]
            except DeserializeError:
                return None
            header_hash = self.coin.header_hash
            if [header_hash(block.header) for block in blocks] != hashes:
                return None
            return blocks[::-1]

        def read() -> list[Block] | None:
            try:
                return parse([self.db.read_raw_block(h) for h in range(first, last + 1)])
            except OSError:
                return None

        blocks = await asyncio.to_thread(read)
        if blocks is None:
            hex_hashes = [hash_to_hex_str(block_hash) for block_hash in hashes]
            raw_blocks = list(await self.daemon.raw_blocks(hex_hashes))
            blocks = await asyncio.to_thread(parse, raw_blocks)
            if blocks is None:
                raise DaemonError("the daemon sent other blocks than those asked for")
        return blocks

    def _backup_and_flush(self, blocks: Sequence[Block]) -> None:
        """Undo blocks, the newest first, and commit.  Runs in a thread, lock held."""
        # All that can be missing is looked at before anything is changed.
        undo_infos = [self._undo_info(self.height - n) for n in range(len(blocks))]
        touched: set[bytes] = set()
        for block, undo_info in zip(blocks, undo_infos, strict=True):
            touched |= self._backup_block(block, undo_info)
        self.db.flush_backup(self.flush_data(backing_up=True), touched)
        self.touched |= touched

    def _undo_info(self, height: int) -> list[bytes]:
        undo_info = self.db.read_undo_info(height)
        if undo_info is None:
            raise UndoMissingError(
                f"no undo information found for height {height:,d}: the reorganisation is deeper "
                f"than REORG_LIMIT ({self.env.reorg_limit:,d}); restore a backup of the database "
                "directory, or empty it to synchronise anew with a higher REORG_LIMIT"
            )
        return indexer.split_undo(undo_info)

    def _backup_block(self, block: Block, undo_info: list[bytes]) -> set[bytes]:
        block_hash = self.coin.header_hash(block.header)
        if block_hash != self.tip:
            raise ChainError(
                f"backup block {hash_to_hex_str(block_hash)} not tip "
                f"{hash_to_hex_str(self.tip)} at height {self.height:,d}"
            )
        touched = self.backup_txs(
            block.transactions, undo_info, self._unspendable_rule(self.height)
        )
        self.tip = self.coin.header_prevhash(block.header)
        self.height -= 1
        self.logger.info(f"backed up to height {self.height:,d}")
        return touched

    def backup_txs(
        self, txs: Sequence[ParsedTx], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs met."""
        touched = self._backup(txs, undo_info, self.utxo_cache, is_unspendable)
        self.tx_count -= len(txs)
        return touched


class LTORBlockProcessor(BlockProcessor):
    """For chains that order a block's transactions by their hash (Bitcoin Cash)."""

    _advance = staticmethod(indexer.advance_txs_any_order)
    _backup = staticmethod(indexer.backup_txs_any_order)


def __getattr__(name: str) -> Any:
    """Find the processors of other coins by the names that they have always had here.

    Their module imports this one.
    """
    if name.endswith("BlockProcessor"):
        found = getattr(import_module("electrumx.server.block_processor_variants"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
