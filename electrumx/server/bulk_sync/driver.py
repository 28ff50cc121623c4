"""The bulk sync: the first sync of a chain, without a look-up on disk.

Owns its course: the scan of the chain up to the node's tip, the merge of its runs, and the
exchange of the empty stores for the new ones.  The ordinary sync indexes the blocks that come until
then.

Theory of operation
===================

The ordinary sync keeps UTXOs in a cache, and looks a spent output up on disk when it is not there.
Where the UTXO set is larger than the cache that is most of its work.  The bulk sync looks nothing up:

1. **Scan.**  Consecutive blocks are a *chunk*.  The scan matches an output spent in its chunk in
   memory, and keeps only its history: the script and the two transactions.  At the end of the
   chunk it sorts the unspent outputs, the spends whose outputs are older, and the history, and
   writes them as a *run*.
2. **Join.**  It merges outputs and spends of all runs by outpoint.  A pair gives the history of
   the transaction that spends, as the output has the script; an output without a spend is a UTXO.
   The ``h`` rows come out in the order of their keys.
3. **UTXOs**, sorted by script, become the ``u`` rows.
4. **Undo.**  Spends of blocks that may yet be undone, the last REORG_LIMIT ones, have numbers; the
   outputs that they spent, found in the chunk or by the join, become the undo rows, in the order of
   these numbers.  The raw blocks stay on disk as in the ordinary sync.
5. **History** of all runs, and of the join, merged by script: one row a script, or several of
   ``row_entries`` numbers.

The merge writes every row once, in the order of its key, to stores in a folder beside the database's
own, which stay empty.  At last it writes the state rows, and the exchange of the stores follows: ``hist``
first, then ``utxo``, whose state row decides.  Until then any server finds an empty database.

Reading order does not matter to the join, so a chain whose blocks are not in topological order
needs nothing of its own beyond the chunk.  A duplicate coinbase overwrites the first one; the join
sees all events of an outpoint that a coinbase made, in their order.

Stops.  The manifest (``manifest``) names all that is valid.  A kill or a power cut during the scan
costs the chunk in memory and the runs since the manifest; ``scan`` and ``merge`` describe the order of
their writes.  A shutdown writes the chunk as it is.  In the last phase, ``swap``, a stop between the
exchange of the two stores leaves ``hist`` with rows and ``utxo`` empty:
:func:`workspace.finish_move` completes it before the database opens.

The scan follows a node that is in its own initial block download: it adds the node's blocks as they
come, and the merge begins when the node has all.

Reorganisations.  A run ends below the blocks that may be undone.  When a block does not follow on
ours, the scan keeps the runs whose last block the node's chain still has, and drops the others.  The
same check comes before the merge begins.  The ordinary sync finds a fork that comes during the merge
afterwards, and undoes its blocks.

Memory.  CACHE_MB covers two chunks (one of them for its write) and two buffers of history during
the scan; later the ranges of the merge.  Other memory does not depend on CACHE_MB: the prefetcher's
blocks (8 MB, and a request's 16), those of the parsing threads (1 MB each), the engine's own.

Runs in: the event loop.  Parsing, adding, writing and merging run in worker threads, with the
Cython implementation without the GIL.
"""

import asyncio
import os
import sys
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from electrumx.lib import util
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.log_text import printable
from electrumx.server.bulk_sync.kernels import Kernels
from electrumx.server.bulk_sync.merge import Merge, MergeStopped, UndoBlocks, part_done
from electrumx.server.bulk_sync.progress import Progress, ProgressLog
from electrumx.server.bulk_sync.scan import ParsedPart, Scan, part_of
from electrumx.server.bulk_sync.stores import filler
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import block_hash
from electrumx.server.db.database import DB
from electrumx.server.env import Env
from electrumx.server.runs.manifest import SCAN, SWAP, Run
from electrumx.server.runs.records import UnmatchedSpendError
from electrumx.server.runs.run_files import DamagedRunError
from electrumx.server.runs.workspace import Workspace
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import HIST_STATE_KEY, STATE_KEY, DBError, HistState
from electrumx.server.storage.undo import NO_UTXO
from electrumx.server.sync_estimate import txs_remaining


class BlockFeed(Protocol):
    """Raw blocks fetched ahead: the block processor's prefetcher."""

    #: set whenever there are blocks to take, or the node has no more
    blocks_event: asyncio.Event

    def get_prefetched_blocks(self) -> list[bytes]:
        """Take the blocks fetched so far, in height order."""

    async def reset_height(self, height: int) -> None:
        """Drop fetched blocks and go on above ``height``."""


class BlockSource(Protocol):
    """The block processor's view of its coin's blocks."""

    #: whether a transaction may spend what a later one of its block makes
    any_order: bool

    def coinbase_outputs(self, raw_block: bytes, height: int) -> list[int]:
        """Return which outputs of a block's coinbase transaction can be spent."""

    def parse(self, raw_blocks: Sequence[bytes], first_height: int) -> Sequence[Any]:
        """Return parsed blocks, ``FastBlock`` or ``PackedBlock``.  Runs in a thread."""

    @property
    def parse_failed(self) -> Callable[[DeserializeError], Awaitable[None]]:
        """Note a block that does not parse; raises OperatorError if that does not change."""


class BulkSync:
    """One first sync; ``await run()``."""

    #: threads that parse or merge, at most
    MAX_THREADS = 8
    #: raw bytes of blocks to parse at a time
    PARSE_BYTES = 1_000_000
    #: blocks below the height that a node downloads itself, at which it may end
    TARGET_MARGIN = 300
    #: polls that must show a node below our height before it counts as having undone blocks
    SHORT_POLLS = 3

    def __init__(
        self,
        env: Env,
        db: DB,
        daemon: Daemon,
        prefetcher: BlockFeed,
        source: BlockSource,
        *,
        compiled: bool,
        retry_secs: float,
    ):
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self.env = env
        self.db = db
        self.coin = env.coin
        self.daemon = daemon
        self.prefetcher = prefetcher
        self.source = source
        self.retry_secs = retry_secs
        self.kernels = Kernels(compiled)
        self.threads = min(os.cpu_count() or 1, self.MAX_THREADS)
        self.workspace = Workspace(db.db_dir, self.logger)
        self.log = ProgressLog(self.logger, lambda: self.workspace.temporary_bytes)
        self._scan: Scan | None = None
        #: raw blocks from the prefetcher that wait for parsing, and the next one's height
        self._raw: deque[bytes] = deque()
        self._next_height = 0
        #: height that the node is to reach, while it downloads the chain itself
        self._node_target = 0
        self._is_first_scan = True
        self._parsing: deque[asyncio.Future[ParsedPart]] = deque()
        self._writing: asyncio.Future[None] | None = None
        self._merge: Merge | None = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.log.now

    @property
    def scan(self) -> Scan:
        """The scan; there is one from the start of :meth:`run` on."""
        assert self._scan is not None
        return self._scan

    async def run(self, reopen: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Fill the database up to the node's tip.

        ``reopen(move)`` closes the database, calls ``move`` in a thread, and opens it again.
        On cancellation, write all data in memory.
        """
        try:
            await self._in_thread(self._open)
            await self._run(reopen)
        finally:
            self.workspace.close()

    async def _run(self, reopen: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        while self.workspace.manifest.phase != SWAP:
            if self.workspace.manifest.phase == SCAN:
                await self._scan_chain()
                if await self._left_chain():
                    continue
            await self._merge_runs()
        await reopen(self.workspace.move_stores)
        fault_point("bulk: database opened")
        await self._in_thread(self.workspace.remove)
        self.logger.info(
            f"bulk sync to height {self.db.db_height:,d} took "
            f"{util.formatted_time(self.db.wall_time)}"
        )

    def _open(self) -> None:
        self.workspace.open(
            self.coin.GENESIS_HASH, self.db.stores.engine.ENGINE, self._has_files_of
        )
        self._scan = Scan(
            self.workspace,
            self.kernels,
            self.db.files,
            self.env.cache_MB * 1_000_000,
            genesis_activation=self.coin.GENESIS_ACTIVATION,
            any_order=self.source.any_order,
        )
        manifest = self.workspace.manifest
        if manifest.runs:
            self.logger.info(
                f"going on with the bulk sync: phase {manifest.phase}, "
                f"{len(manifest.runs):,d} runs up to height {manifest.height:,d}"
            )

    def _has_files_of(self, run: Run) -> bool:
        """Return whether the flat files have the blocks up to the end of a run."""
        files = self.db.files
        try:
            files.check_lengths(run.height, run.tx_count)
            header = files.read_headers(run.height, 1)
            count = files.tx_count(run.height)
        except DBError:
            return False
        return (self.coin.header_hash(header).hex(), count) == (run.tip, run.tx_count)

    async def _in_thread(self, func: Callable[..., Any], *args: Any) -> Any:
        """Run a function that uses the disk in a thread; its errors name the remedy."""
        try:
            return await asyncio.to_thread(func, *args)
        except Exception as e:
            self.db.raise_explained(e)

    async def _to_its_end(self, func: Callable[..., Any], *args: Any) -> None:
        """Do the same; a cancellation waits for it, and its error comes first.

        A shutdown never writes its half-done changes.
        """
        running = asyncio.ensure_future(self._in_thread(func, *args))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            running.result()
            raise

    # -- the scan

    async def _scan_chain(self) -> None:
        """Add blocks until REORG_LIMIT are left; then everything is in runs."""
        # At the start of an empty database the prefetcher has begun where we do.
        if self.scan.height >= 0 or not self._is_first_scan:
            await self._start_over()
        self._is_first_scan = False
        await self._node_is_syncing()
        self.log.begin(SCAN, self.scan.height, self.scan.tx_count)
        try:
            while True:
                try:
                    if await self._scan_part():
                        break
                except DaemonError as e:
                    self.logger.info(f"ignoring daemon error: {printable(e)}")
                    await asyncio.sleep(self.retry_secs)
                    await self._start_over()
                except DeserializeError as e:
                    self.logger.error(f"the daemon sent a block that does not parse: {e}")
                    await self.source.parse_failed(e)
                    await asyncio.sleep(self.retry_secs)
                    await self._start_over()
            if self.scan.has_news:
                await self._spill(end_chunk=True)
            await self._end_writing()
            # Requests to the node come next, and may wait for it.
            await self._in_thread(self.scan.commit)
            self.log.scan_ended(len(self.workspace.manifest.runs))
        except asyncio.CancelledError:
            await asyncio.shield(self._write_the_rest())
            raise
        except BaseException:
            await self._abandon_writing()
            raise
        finally:
            self._forget_parsing()

    async def _write_the_rest(self) -> None:
        """Make a run of the chunk as it is."""
        self.logger.info("writing the bulk sync's chunk for a clean shutdown...")
        if self.scan.has_news:
            await self._spill(end_chunk=True)
        await self._end_writing()
        await self._in_thread(self.scan.commit)

    async def _abandon_writing(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _target(self) -> int:
        """Return the height up to which the scan can add blocks."""
        return self.daemon.cached_height() or 0

    def _min_undo_height(self) -> int:
        """Return the lowest height that may be undone, by the heights known now.

        A node that downloads the chain may call itself ready some blocks below its target.
        """
        target = max(self._target(), self._node_target - self.TARGET_MARGIN)
        return max(0, self.db.min_undo_height(target))

    async def _node_is_syncing(self) -> bool:
        """Return whether the node still downloads the chain itself, and so will have more blocks."""
        target = await self.daemon.sync_target() or 0
        if target and not self._node_target:
            self.logger.info(
                f"the daemon itself is synchronising, at height {self._target():,d} of "
                f"{target:,d}: the bulk sync goes on as it does"
            )
        self._node_target = target
        return target > self._target()

    async def _scan_part(self) -> bool:
        """Add the next part of the chain; return whether it was the last."""
        self._start_parsing()
        if not self._parsing:
            if self.scan.height >= self._target() and not await self._node_is_syncing():
                return True
            await self.prefetcher.blocks_event.wait()
            self.prefetcher.blocks_event.clear()
            return False
        part = await self._parsing.popleft()
        self._start_parsing()
        if [self.scan.tip, *part.hashes[:-1]] != part.prev_hashes:
            await self._resolve_fork(part)
            return False
        floor = self._min_undo_height()
        await self._to_its_end(self.scan.add, part, floor)
        # A reorganisation does not cost what is below the blocks that it may undo.
        at_floor = self.scan.height + 1 == floor
        if self.scan.spill_due or at_floor:
            await self._spill(end_chunk=at_floor or self.scan.chunk_is_full)
        self._report_scan()
        return False

    def _start_parsing(self) -> None:
        """Have every thread parse a part, as far as there are blocks."""
        while len(self._parsing) <= self.threads:
            if not self._raw:
                self._raw.extend(self.prefetcher.get_prefetched_blocks())
            part: list[bytes] = []
            size = 0
            last = self._target()
            floor = self._min_undo_height()
            if self._next_height < floor:
                last = min(last, floor - 1)
            while self._raw and self._next_height + len(part) <= last and size < self.PARSE_BYTES:
                part.append(self._raw.popleft())
                size += len(part[-1])
            if not part:
                return
            parsing = asyncio.to_thread(self._parse, part, self._next_height)
            self._parsing.append(asyncio.ensure_future(parsing))
            self._next_height += len(part)

    def _parse(self, raw_blocks: Sequence[bytes], first_height: int) -> ParsedPart:
        blocks = self.source.parse(raw_blocks, first_height)
        headers = [block.header for block in blocks]
        return part_of(
            self.kernels,
            blocks,
            [self.coin.header_hash(header) for header in headers],
            [self.coin.header_prevhash(header) for header in headers],
            sum(map(len, raw_blocks)),
        )

    async def _start_over(self) -> None:
        """Ask for blocks again, from the one last added on."""
        self._forget_parsing()
        self._raw.clear()
        self._next_height = self.scan.height + 1
        await self.prefetcher.reset_height(self.scan.height)

    def _forget_parsing(self) -> None:
        for parsing in self._parsing:
            parsing.cancel()
            parsing.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._parsing.clear()

    async def _spill(self, end_chunk: bool) -> None:
        """Begin the write that is due, after the end of the one before it."""
        await self._end_writing()
        spill = self.scan.take_spill(end_chunk)
        self._writing = asyncio.ensure_future(self._in_thread(self.scan.write, spill))

    async def _end_writing(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
            writing, self._writing = self._writing, None
            writing.result()

    # -- forks

    async def _resolve_fork(self, part: ParsedPart) -> None:
        """Go back to a block that the node's chain has, as the next one does not follow on ours."""
        if part.prev_hashes[0] == self.scan.tip or not await self._left_chain():
            self.logger.warning("daemon blocks do not form a chain; resetting the prefetcher")
            await asyncio.sleep(min(self.retry_secs, 1.0))
        await self._start_over()

    async def _left_chain(self) -> bool:
        """Return whether the node's chain lacks our tip; then go back to the last run that it has.

        Wait for a node that has fewer blocks than we, unless it stays a little below.
        """
        await self._end_writing()
        polls = 0
        while (missing := self.scan.height - await self._daemon_height()) > 0:
            polls += 1
            if polls > self.SHORT_POLLS and missing <= self.env.reorg_limit:
                break
            self.logger.warning(
                f"the daemon's height is below {self.scan.height:,d}: waiting for it"
            )
            await asyncio.sleep(self.retry_secs)
        if missing <= 0 and await self._has(self.scan.height, self.scan.tip):
            return False
        top = self.scan.height - missing
        runs = self.workspace.manifest.runs
        kept = len(runs)
        while kept:
            run = runs[kept - 1]
            if run.height <= top and await self._has(run.height, bytes.fromhex(run.tip)):
                break
            kept -= 1
        lost = f"the daemon's chain does not have our block of height {self.scan.height:,d}"
        await self._to_its_end(self._go_back, kept)
        self.logger.warning(f"{lost}: going back to height {self.scan.height:,d}")
        return True

    def _go_back(self, runs: int) -> None:
        self.workspace.go_back(runs)
        self.scan.reset()

    async def _daemon_height(self) -> int:
        while True:
            try:
                height: int = await self.daemon.height()
                return height
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")
                await asyncio.sleep(self.retry_secs)

    async def _has(self, height: int, tip: bytes) -> bool:
        if height < 0:
            return True
        while True:
            try:
                return block_hash((await self.daemon.block_hex_hashes(height, 1))[0]) == tip
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")
                await asyncio.sleep(self.retry_secs)

    # -- the merge

    async def _merge_runs(self) -> None:
        manifest = self.workspace.manifest
        if manifest.phase != SCAN:
            self.log.begin(manifest.phase, manifest.height, part_done(manifest))
        memory = self.env.cache_MB * 1_000_000
        entries = max(self.db.history.max_hist_row_entries, self.scan.tx_count // 20_000)
        self._merge = merge = Merge(
            self.workspace,
            self.kernels,
            memory,
            self.threads,
            entries,
            await self._in_thread(self._undo_blocks),
            self.log.merged,
        )
        merging = asyncio.ensure_future(self._in_thread(self._fill_stores, merge))
        try:
            await asyncio.shield(merging)
        except asyncio.CancelledError:
            self.logger.info("stopping the bulk sync's merge; it goes on after the next start")
            merge.stop.set()
            with suppress(MergeStopped):
                await merging
            raise
        except UnmatchedSpendError as e:
            raise await asyncio.to_thread(self._explained, e) from e
        except DamagedRunError as e:
            raise await self._in_thread(self._drop_damaged, e) from e

    def _drop_damaged(self, error: DamagedRunError) -> DBError:
        """Keep the runs before a damaged one, if they are still whole; return the error to end with."""
        runs = self.workspace.intact_runs(error.kind, error.section)
        self._go_back(runs)
        height = self.scan.height
        rest = f"goes on from height {height:,d}" if runs else "begins again"
        return DBError(f"{error}: check the disk; after the next start the initial sync {rest}")

    def _undo_blocks(self) -> UndoBlocks:
        """Return the blocks that may be undone, all of whose spends have numbers."""
        manifest, files = self.workspace.manifest, self.db.files
        last = manifest.height
        numbered = last + 1 if manifest.undo_from is None else manifest.undo_from
        first = max(0, self.db.min_undo_height(last), numbered)
        counts = array("Q", files.read_tx_counts(last + 1))
        if sys.byteorder == "big":
            counts.byteswap()

        def overwritten_items(height: int, items: dict[int, bytes]) -> bytes:
            outputs = self.source.coinbase_outputs(files.read_raw_block(height), height)
            return b"".join([items.get(idx, NO_UTXO) for idx in outputs])

        return UndoBlocks(
            first,
            last,
            counts[first - 1] if first else 0,
            overwritten_items,
            lambda tx_num: bisect_right(counts, tx_num),
        )

    def _fill_stores(self, merge: Merge) -> None:
        folder, manifest = self.workspace.folder, self.workspace.manifest
        self.scan.count_time()
        stores = self.db.stores
        utxo_store = stores.new_utxo_store(folder / "utxo", True)
        try:
            hist_store = stores.new_hist_store(folder / "hist", True)
            try:
                for store in (utxo_store, hist_store):
                    store.begin_bulk_load()
                merge.run(filler(utxo_store, folder, "utxo"), filler(hist_store, folder, "hist"))
                flush_count = max(1, manifest.max_flush_id)
                with hist_store.write_batch() as batch:
                    batch.put(HIST_STATE_KEY, HistState(flush_count=flush_count).pack())
                self.scan.count_time()
                state = replace(
                    self.db.state,
                    height=manifest.height,
                    tx_count=manifest.tx_count,
                    tip=manifest.tip,
                    utxo_flush_count=flush_count,
                    wall_time=manifest.wall_time,
                )
                with utxo_store.write_batch() as batch:
                    batch.put(STATE_KEY, state.pack())
                fault_point("bulk: state written")
            finally:
                hist_store.close()
        finally:
            utxo_store.close()
        manifest.enter(SWAP)
        self.workspace.save()
        self.workspace.files_done()

    def _explained(self, error: UnmatchedSpendError) -> OperatorError:
        """Return an error that names the transaction whose input has no output."""
        tx_hash = self.db.files.read_tx_hashes(error.tx_num, 1)
        idx = int.from_bytes(error.key[4:8], "little")
        return OperatorError(
            f"transaction {hash_to_hex_str(tx_hash)} spends output {idx:,d} of a transaction whose "
            f"hash ends in {(error.key[:4] + error.key[8:])[::-1].hex()}, which does not exist: the "
            "daemon's chain does not fit; check COIN, NET and DAEMON_URL, then empty the database "
            "directory"
        )

    def _report_scan(self) -> None:
        scan = self.scan
        daemon_height = max(self._target(), self._node_target)
        left = txs_remaining(self.coin, scan.height, scan.tx_count, daemon_height)
        self.log.scanned(scan.height, scan.tx_count, left, daemon_height)
