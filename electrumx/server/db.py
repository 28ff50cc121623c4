"""The database: what the chain's blocks left behind, on disk.

Owns the committed state (height, tip, transaction count), the ``utxo`` store, the flat files and,
through :class:`History`, the ``hist`` store.  The methods that change it run in a worker thread
with the block processor's state lock held; those that answer clients are in ``queries``, and read
concurrently with a flush.

Order of writes
===============

Three things must agree: the flat files, the ``hist`` store and the ``utxo`` store with the state
row.  Each batch is atomic and synced, but nothing spans two of them, so a process can be killed,
or the power fail, between any two steps.  The state row decides what is true; the other two may
run ahead of it, never behind.

**Forward** (:meth:`DB.flush_dbs`)

1. Flat files: headers, tx counts and tx hashes are appended and synced, with their folder where a
   file is new.  *A stop after this* leaves bytes beyond the committed height, which nobody reads
   and the next flush overwrites.
2. History: one batch of rows with the new flush id, and the store's own flush count.  *A stop
   after this* leaves ``flush_count > utxo_flush_count``; opening deletes the rows above the
   latter (:meth:`History.clear_excess`).
3. UTXO store: one batch of deletes, coins, undo rows and the state row with the new height and
   ``utxo_flush_count := flush_count``.  When it is there, the flush happened.

Flushes do not overlap.  During the first synchronisation the block processor indexes more blocks
in memory while a flush writes what was set apart for it.  To the disk that makes no difference: of
what the later blocks changed nothing is written (but raw blocks, which are checked when they are
read) before the flush has ended, and whatever else writes to a store waits for that.  A coin that
the flush is writing and a later block spends is deleted by the next flush.

During the first synchronisation history may be flushed alone: step 3 then writes the state row
with the old height and count, so a stop costs the work since the last full flush.

**Backward** (:meth:`DB.flush_backup`, for at most 50 undone blocks), with F the flush count, equal
on both sides because a full flush precedes every reorganisation:

1. UTXO state alone: ``utxo_flush_count := F + 1``, all else as it was.
2. History: entries of undone transactions leave their rows and are *parked*, in order, in rows of
   flush id F + 1; ``flush_count := F + 1``.
3. UTXO store: coins and the state row at the lower height, ``utxo_flush_count := F``.
4. History: the parked rows are deleted; ``flush_count := F``.

*A stop after 1*: the history count is below the other one, which is tolerated, and all data is the
old tip's.  *After 2*: the counts agree and each script's rows, read in order, say what they said.
*After 3*: the history count F + 1 exceeds F, so the ordinary clearing of excess deletes exactly
the parked rows, in this program as in every ElectrumX that knows this layout.  *After 4*: done.
No recovery code of its own is needed, and that is the point.

Heights in memory: ``db_height <= fs_height <= the processor's height`` at rest.  Readers map
a tx number to a height through ``tx_counts``; while blocks are undone that array is shortened only
after ``db_height`` has fallen, so a reader in between finds heights above ``db_height``, knows
that it raced a reorganisation, and reads again.
"""

import asyncio
import os
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Protocol

import electrumx
from electrumx.lib import util
from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str
from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server import recovery
from electrumx.server.compaction import CompactionPass
from electrumx.server.env import Env
from electrumx.server.faults import fault_point
from electrumx.server.flat_files import FlatFiles
from electrumx.server.history import History
from electrumx.server.queries import UTXO, CoinRow, Queries
from electrumx.server.schema import (
    COIN_LEN,
    DB_VERSION,
    HASH_LEN,
    MAX_FLUSH_ID,
    STATE_KEY,
    TXNUM_LEN,
    UNDO_PREFIX,
    ChainState,
    DBError,
    undo_key,
    undo_key_height,
)
from electrumx.server.storage import Storage, WriteBatch, db_class, explained
from electrumx.server.upgrade import OLD_VERSIONS, upgrade_utxo_store

__all__ = ["DB", "UTXO", "CoinRow", "DBError", "FlushData"]

_LE8 = Struct("<Q")


class Adds(Protocol):
    """Coins that wait to be written."""

    def __len__(self) -> int:
        """Return how many coins there are."""

    def put_rows(self, put: Callable[[bytes, bytes], None]) -> None:
        """Call ``put`` with the ``h`` and ``u`` rows of every coin."""

    def clear(self) -> None:
        """Forget them."""


class Deletes(Protocol):
    """Rows that wait to be deleted."""

    def __len__(self) -> int:
        """Return how many rows there are: two a coin."""

    def delete_rows(self, delete: Callable[[bytes], None]) -> None:
        """Call ``delete`` with the key of every row."""

    def clear(self) -> None:
        """Forget them."""


@dataclass(slots=True)
class FlushData:
    """What the block processor hands over to be written; the lists are emptied by the flush."""

    height: int
    tx_count: int
    #: raw headers not yet on disk, in height order
    headers: list[bytes]
    #: for each of those blocks its tx hashes, joined
    block_tx_hashes: list[bytes]
    #: (undo items, height)
    undo_infos: list[tuple[list[bytes], int]]
    #: coins to write
    adds: "Adds"
    #: rows to delete from the ``utxo`` store
    deletes: "Deletes"
    tip: bytes


class DB(Queries):
    """The database in ``env.db_dir``; closed until one of the ``open_…`` methods is awaited."""

    DB_VERSIONS = [*OLD_VERSIONS, DB_VERSION]

    def __init__(self, env: Env):
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self.env = env
        self.coin = env.coin
        self.db_dir = Path(env.db_dir)
        self.db_class: type[Storage] = db_class(env.db_engine)
        self.history = History()
        self.history.set_utxo_flush_count = self.set_flush_count
        self.history.before_clearing = self._restore_cut_history
        #: asks the node for raw blocks by their display hashes, blocking; None without a node
        self.fetch_blocks: recovery.FetchBlocks | None = None
        #: the compaction that is under way
        self._compaction: CompactionPass | None = None
        self.utxo_db: Storage | None = None
        self.files = FlatFiles(str(env.db_dir), env.coin)
        #: what is committed to disk; replaced, never changed, so readers see one state
        self.state = ChainState.new(self.coin.GENESIS_HASH)
        #: heights and txs of which the flat files hold at least
        self.fs_height = -1
        self.fs_tx_count = 0
        #: cumulative tx count by height
        self.tx_counts: array[int] = array("Q")
        #: counts the times that committed blocks were undone
        self.backup_count = 0
        self.last_flush = time.time()
        self.last_flush_tx_count = 0
        #: undo rows below this height are deleted
        self._undo_floor = 0
        #: how often coins were flushed since the database was opened
        self._coin_flushes = 0
        #: a first synchronisation made more than one
        self._merge_due = False
        self.merkle = Merkle()
        self.header_mc = MerkleCache(self.merkle, self.fs_block_hashes)
        self._init_queries(self.logger)

    # -- committed state

    @property
    def db_height(self) -> int:
        """Height of the last committed block, -1 if there is none."""
        return self.state.height

    @property
    def db_tip(self) -> bytes:
        """Hash of the last committed block."""
        return self.state.tip

    @property
    def db_tx_count(self) -> int:
        """Transactions up to and including the last committed block."""
        return self.state.tx_count

    @property
    def db_version(self) -> int:
        """Version of the layout on disk."""
        return self.state.db_version

    @property
    def wall_time(self) -> float:
        """Seconds spent synchronising so far."""
        return self.state.wall_time

    @property
    def first_sync(self) -> bool:
        """True until the chain was first caught up with."""
        return self.state.first_sync

    @first_sync.setter
    def first_sync(self, value: bool) -> None:
        self.state = replace(self.state, first_sync=value)

    # -- opening and closing

    async def open_for_sync(self) -> None:
        """Open the database for fast indexing.  Raise DBError if it cannot be used."""
        await asyncio.to_thread(self._open, True, False)

    async def open_for_serving(self) -> None:
        """Open the database for serving clients; one that is open is re-opened if it is large."""
        await asyncio.to_thread(self._reopen_for_serving)

    async def open_for_compacting(self) -> None:
        """Open the database so that an interrupted history compaction can go on."""
        await asyncio.to_thread(self._open, True, True)

    def _reopen_for_serving(self) -> None:
        if self.utxo_db:
            if self._stores_are_small():
                self._serve_as_it_is()
                return
            self.logger.info("closing DBs to re-open for serving")
            self.close_dbs()
            fault_point("caught up: closed for re-opening")
        self._open(False, False)

    def _stores_are_small(self) -> bool:
        stores = (self.utxo_db, self.history.db)
        return all(store is not None and store.is_small for store in stores)

    def _serve_as_it_is(self) -> None:
        """Do what opening for serving does, without opening.

        LevelDB writes at opening what its log holds into tables; that takes a third of a second
        after a short first synchronisation.
        """
        assert self.utxo_db
        assert self.history.db
        self.utxo_db.for_sync = self.history.db.for_sync = False
        self._compact_if_overdue()
        self._clear_excess_undo_info()

    def _open(self, for_sync: bool, compacting: bool) -> None:
        assert self.utxo_db is None
        first_time = not self.tx_counts
        self.last_flush = time.time()
        try:
            self._refuse_half_a_database()
            self.utxo_db = self.db_class(str(self.db_dir / "utxo"), for_sync)
            fault_point("open: utxo store opened")
            self._prepare_folder(self.utxo_db.is_new)
            fault_point("open: folder prepared")
            self._read_state()
            self.files.check_lengths(self.state.height, self.state.tx_count)
            self._open_history(for_sync, compacting)
            if self.state.height < 0:
                # The folders' own entries, without which all that is synced below is lost.
                util.sync_directory(self.db_dir)
            fault_point("open: history store opened")
            if not compacting:
                self._compact_if_overdue()
            self._clear_excess_undo_info()
            self.fs_height = self.state.height
            self.fs_tx_count = self.last_flush_tx_count = self.state.tx_count
            if first_time:
                self._read_tx_counts()
                self._log_state()
        except BaseException as e:
            self.close_dbs()
            better = self.explained(e)
            if better is e:
                raise
            raise better from e

    def explained(self, error: BaseException) -> BaseException:
        """Return a DBError in place of an error of the disk or the engine; others as they are."""
        return explained(error, str(self.db_dir), self.db_class)

    def _refuse_half_a_database(self) -> None:
        # A new store would make the next start clear the history that belongs to the lost one.
        store = self.db_dir / "utxo"
        rest = (self.db_dir / "hist" / "CURRENT", self.db_dir / "meta" / "txcounts00")
        if not (store / "CURRENT").exists() and all(path.exists() for path in rest):
            raise DBError(
                f"the coin store {store} is missing or has lost its file CURRENT: restore a backup "
                f"of the whole database directory, or empty {self.db_dir} to synchronise anew"
            )

    def _prepare_folder(self, is_new: bool) -> None:
        try:
            if is_new:
                self.logger.info("created new database")
                self.logger.info("creating metadata directory")
            self.files.prepare()
            marker = self.db_dir / "COIN"
            if not marker.exists():
                marker.write_text(
                    f"ElectrumX databases and metadata for {self.coin.NAME} {self.coin.NET}"
                )
        except OSError as e:
            raise DBError(
                f"cannot write to {self.db_dir}: {e.strerror}; check its permissions and the free "
                "space on its disk"
            ) from e

    def _read_state(self) -> None:
        assert self.utxo_db
        raw = self.utxo_db.get(STATE_KEY)
        if raw is None:
            self.state = ChainState.new(self.coin.GENESIS_HASH)
            return
        state = ChainState.parse(raw)
        if state.db_version not in self.DB_VERSIONS:
            raise DBError(
                f"your UTXO DB version is {state.db_version} but this software only handles "
                f"versions {self.DB_VERSIONS}: use the server that wrote it, or another "
                "DB_DIRECTORY"
            )
        if state.genesis != self.coin.GENESIS_HASH:
            raise DBError(
                f"DB genesis hash {state.genesis} does not match coin {self.coin.GENESIS_HASH}: "
                f"check COIN and NET, or use another DB_DIRECTORY than {self.db_dir}"
            )
        if state.db_version != DB_VERSION:
            floor = self.min_undo_height(state.height)
            state = upgrade_utxo_store(self.utxo_db, self.files, state, floor, self.logger)
        self.state = state

    def _open_history(self, for_sync: bool, compacting: bool) -> None:
        name = str(self.db_dir / "hist")
        if self.state.height >= 0 and not os.path.exists(os.path.join(name, "CURRENT")):
            raise DBError(
                f"the history store {name} is missing: restore a backup of the whole database "
                f"directory, or empty {self.db_dir} to synchronise anew"
            )
        seen = self.state.utxo_flush_count
        tx_count = self.state.tx_count
        count = self.history.open_db(self.db_class, for_sync, seen, compacting, name, tx_count)
        seen = self.state.utxo_flush_count
        if count != seen:
            # Written at once: with a stale higher count on disk, a stop after the next history
            # flush would leave rows that nobody takes for excess.
            self.state = replace(self.state, utxo_flush_count=count)
            if self.state.height >= 0:
                self._write_state_only()
                fault_point("open: flush count lowered")

    def _restore_cut_history(self) -> None:
        """Mend what an interrupted reorganisation of another server left."""
        assert self.utxo_db
        if not recovery.looks_cut(self.history, self.state.utxo_flush_count):
            return
        recovery.CutHistory(
            self.coin,
            self.state,
            self.files,
            self.utxo_db,
            self.history,
            self.fetch_blocks,
            self.logger,
        ).restore()
        fault_point("open: cut history restored")

    def _read_tx_counts(self) -> None:
        count = self.state.height + 1
        raw = self.files.read_tx_counts(count)
        tx_counts = array("Q", [n for (n,) in _LE8.iter_unpack(raw)])
        last = tx_counts[-1] if tx_counts else 0
        if last != self.state.tx_count:
            raise DBError(
                f"the flat files in {self.files.folder} hold {last:,d} transactions at height "
                f"{self.state.height:,d} but the database {self.state.tx_count:,d}: restore a "
                "backup of the whole database directory"
            )
        self.tx_counts = tx_counts

    def _log_state(self) -> None:
        self.logger.info(f"using {self.env.db_engine} for DB backend")
        self.logger.info(f"software version: {electrumx.version}")
        self.logger.info(f"DB version: {self.db_version:d}")
        self.logger.info(f"coin: {self.coin.NAME}")
        self.logger.info(f"network: {self.coin.NET}")
        self.logger.info(f"height: {self.db_height:,d}")
        self.logger.info(f"tip: {hash_to_hex_str(self.db_tip)}")
        self.logger.info(f"tx count: {self.db_tx_count:,d}")
        if self.first_sync:
            self.logger.info(f"sync time so far: {util.formatted_time(self.wall_time)}")

    def close_dbs(self) -> None:
        """Close both stores; harmless if they are closed."""
        with self.history.reading:
            self.files.close()
            self.history.close_db()
            if self.utxo_db:
                self.utxo_db.close()
                self.utxo_db = None

    # -- flushing forward

    def assert_flushed(self, flush_data: FlushData) -> None:
        """Promise that nothing waits to be flushed."""
        assert flush_data.tx_count == self.fs_tx_count == self.db_tx_count
        assert flush_data.height == self.fs_height == self.db_height
        assert flush_data.tip == self.db_tip
        assert not flush_data.headers
        assert not flush_data.block_tx_hashes
        assert not flush_data.adds
        assert not flush_data.deletes
        assert not flush_data.undo_infos
        self.history.assert_flushed()

    def flush_dbs(
        self,
        flush_data: FlushData,
        flush_utxos: bool,
        estimate_txs_remaining: Callable[[], float],
    ) -> None:
        """Write everything, or all but the coins, and wait for the disk.

        Empties the lists of ``flush_data``.  Does nothing where the height is the committed one.
        """
        if flush_data.height == self.db_height:
            self.assert_flushed(flush_data)
            return
        start = time.time()
        # The last ids are for making both stores agree, so that the history can be compacted.
        hold = self.must_flush_coins
        flush_utxos = flush_utxos or hold
        prior_flush, prior_tx_count = self.last_flush, self.last_flush_tx_count
        self._flush_files(flush_data)
        self._flush_history()
        self._flush_utxos(flush_data, flush_utxos)
        self.last_flush_tx_count = self.fs_tx_count
        elapsed = self.last_flush - start
        tx_delta = self.fs_tx_count - prior_tx_count
        self.logger.info(
            f"flush #{self.history.flush_count:,d} took {elapsed:.1f}s.  Height "
            f"{flush_data.height:,d} txs: {flush_data.tx_count:,d} ({tx_delta:+,d})"
        )
        if self._opened_for_sync:
            self._log_speed(tx_delta, self.last_flush - prior_flush, estimate_txs_remaining)
        if hold:
            self.logger.warning(
                f"only {MAX_FLUSH_ID - self.history.flush_count:,d} history flushes are left: "
                "compacting before going on"
            )
            self._compact_now()

    @property
    def must_flush_coins(self) -> bool:
        """True if the next flush has to be a whole one, after which history is compacted."""
        return self.history.flush_count >= self.history.HOLD_FLUSH_COUNT

    @property
    def _opened_for_sync(self) -> bool:
        return self.utxo_db is not None and self.utxo_db.for_sync

    def _log_speed(
        self, tx_delta: int, interval: float, estimate_txs_remaining: Callable[[], float]
    ) -> None:
        overall = int(self.fs_tx_count / max(self.wall_time, 0.001))
        recent = 1 + int(tx_delta / max(interval, 0.001))
        eta = estimate_txs_remaining() / recent
        self.logger.info(f"tx/sec since genesis: {overall:,d}, since last flush: {recent:,d}")
        self.logger.info(
            f"sync time: {util.formatted_time(self.wall_time)}  ETA: {util.formatted_time(eta)}"
        )

    def _flush_files(self, flush_data: FlushData) -> None:
        """Step 1: append headers, tx counts and tx hashes."""
        start = time.monotonic()
        headers, blobs = flush_data.headers, flush_data.block_tx_hashes
        assert len(blobs) == len(headers)
        assert flush_data.height == self.fs_height + len(headers)
        counts = []
        tx_count = self.fs_tx_count
        for blob in blobs:
            tx_count += len(blob) // HASH_LEN
            counts.append(tx_count)
        assert tx_count == flush_data.tx_count
        self.files.append(
            self.fs_height + 1,
            headers,
            self.fs_tx_count,
            b"".join(map(_LE8.pack, counts)),
            blobs,
        )
        self.tx_counts.extend(counts)
        self.fs_height = flush_data.height
        self.fs_tx_count = flush_data.tx_count
        headers.clear()
        blobs.clear()
        if self._opened_for_sync:
            self.logger.info(f"flushed filesystem data in {time.monotonic() - start:.2f}s")

    def _flush_history(self) -> None:
        """Step 2: one history flush."""
        start = time.monotonic()
        count = self.history.flush()
        fault_point("flush: history written")
        if self._opened_for_sync:
            elapsed = time.monotonic() - start
            self.logger.info(f"flushed history in {elapsed:.1f}s for {count:,d} addrs")

    def _flush_utxos(self, flush_data: FlushData, flush_utxos: bool) -> None:
        """Step 3: the state row, and with ``flush_utxos`` coins and undo rows before it."""
        assert self.utxo_db
        state = self.state
        with self.utxo_db.write_batch() as batch:
            if flush_utxos:
                self._put_coins(batch, flush_data)
                for undo_info, height in flush_data.undo_infos:
                    batch.put(undo_key(height), b"".join(undo_info))
                self._prune_undo_rows(batch, flush_data.height)
                state = replace(
                    state,
                    height=flush_data.height,
                    tx_count=flush_data.tx_count,
                    tip=flush_data.tip,
                    utxo_flush_count=self.history.flush_count,
                )
            state = self._with_wall_time(state)
            batch.put(STATE_KEY, state.pack())
        fault_point("flush: coins written")
        if flush_utxos:
            self._coin_flushes += 1
            flush_data.adds.clear()
            flush_data.deletes.clear()
            flush_data.undo_infos.clear()
        # Once more, unsynced, so that the time the commit took is counted.
        self.state = self._with_wall_time(state)
        self.utxo_db.put(STATE_KEY, self.state.pack())
        fault_point("flush: state written again")

    def _with_wall_time(self, state: ChainState) -> ChainState:
        now = time.time()
        elapsed = max(0.0, now - self.last_flush)
        self.last_flush = now
        return replace(state, wall_time=state.wall_time + elapsed)

    def _put_coins(self, batch: WriteBatch, flush_data: FlushData) -> None:
        """Write deletes, then the coins: a key may be in both, and must then remain."""
        start = time.monotonic()
        flush_data.deletes.delete_rows(batch.delete)
        flush_data.adds.put_rows(batch.put)
        if self._opened_for_sync:
            blocks = flush_data.height - self.db_height
            txs = flush_data.tx_count - self.db_tx_count
            self.logger.info(
                f"flushed {blocks:,d} blocks with {txs:,d} txs, {len(flush_data.adds):,d} UTXO "
                f"adds, {len(flush_data.deletes) // 2:,d} spends in "
                f"{time.monotonic() - start:.1f}s, committing..."
            )

    def _write_state_only(self) -> None:
        assert self.utxo_db
        with self.utxo_db.write_batch() as batch:
            batch.put(STATE_KEY, self.state.pack())

    def end_filling(self) -> None:
        """Go on with the engine's options for a store in use, before the last flush of catching up.

        Call it when nobody reads or writes, neither clients nor a flush.
        """
        assert self.utxo_db
        assert self.history.db
        self._merge_due = self.first_sync and self._coin_flushes > 0
        with self.history.reading:
            self.utxo_db.end_filling(merge=self._merge_due)
            self.history.db.end_filling(merge=self._merge_due)

    def end_filling_if_large(self) -> None:
        """Do so with the coins if they are more than will be merged at the end."""
        assert self.utxo_db
        store = self.utxo_db
        if store.filling and store.table_bytes > store.MERGE_BYTES:
            with self.history.reading:
                store.end_filling()

    def merge(self) -> None:
        """Drop what many flushes of a first synchronisation left behind, if it is not too much.

        With a small cache, coins that were written and then spent are nearly half of the store.
        Runs in a thread, beside readers and flushes; closing the stores waits for it.  A stop at
        any instant is harmless: an engine exchanges tables when the new ones are whole.
        """
        start = time.monotonic()
        for owner, name in ((self, "utxo_db"), (self.history, "db")):
            with self.history.reading:
                store: Storage | None = getattr(owner, name)
                if not self._merge_due or store is None:
                    return
                store.merge()
        self._merge_due = False
        self.logger.info(f"merged tables in {time.monotonic() - start:.1f}s")

    def write_first_sync_done(self) -> None:
        """Record on disk that the chain was caught up with once."""
        self.first_sync = False
        self._write_state_only()
        fault_point("caught up: state written")

    # -- flushing backward

    def flush_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        """Commit that blocks down to ``flush_data.height`` were undone.

        ``touched`` has every script with history in an undone block.  Nothing may wait to be
        flushed forward.  The module's docstring tells why the order of the writes is safe.
        """
        assert self.utxo_db
        assert not flush_data.headers
        assert not flush_data.block_tx_hashes
        assert not flush_data.undo_infos
        assert flush_data.height < self.db_height
        self.history.assert_flushed()
        start = time.time()
        hashXs = sorted(touched)
        count = self.history.flush_count
        assert self.state.utxo_flush_count == count
        # 1
        self.state = replace(self.state, utxo_flush_count=count + 1)
        self._write_state_only()
        fault_point("backup: state announces parking")
        # 2
        removed = self.history.park(hashXs, flush_data.tx_count)
        fault_point("backup: history parked")
        # 3
        state = replace(
            self._with_wall_time(self.state),
            height=flush_data.height,
            tx_count=flush_data.tx_count,
            tip=flush_data.tip,
            utxo_flush_count=count,
        )
        with self.utxo_db.write_batch() as batch:
            self._put_coins(batch, flush_data)
            batch.put(STATE_KEY, state.pack())
        fault_point("backup: coins written")
        # Readers: first the height falls, then what maps numbers to heights.
        self.state = state
        self.backup_count += 1
        self.fs_height = state.height
        self.fs_tx_count = self.last_flush_tx_count = state.tx_count
        del self.tx_counts[state.height + 1 :]
        self.header_mc.truncate(state.height + 1)
        flush_data.adds.clear()
        flush_data.deletes.clear()
        # 4
        self.history.drop_parked(hashXs)
        fault_point("backup: parked history dropped")
        self.logger.info(f"backing up removed {removed:,d} history entries")
        self.logger.info(
            f"backup flush #{count:,d} took {time.time() - start:.1f}s.  Height "
            f"{state.height:,d} txs: {state.tx_count:,d}"
        )

    # -- undo information and raw blocks

    def min_undo_height(self, max_height: int) -> int:
        """Return the lowest height for which undo information is kept at ``max_height``."""
        return max_height - self.env.reorg_limit + 1

    def read_undo_info(self, height: int) -> bytes | None:
        """Return a block's undo items, joined, or None if they are not kept."""
        assert self.utxo_db
        return self.utxo_db.get(undo_key(height))

    def _prune_undo_rows(self, batch: WriteBatch, height: int) -> None:
        """Delete the undo rows that fall out of the window at the new height."""
        floor = self.min_undo_height(height)
        if self.first_sync or floor <= self._undo_floor:
            return
        for old in range(max(0, self._undo_floor), floor):
            batch.delete(undo_key(old))
        self._undo_floor = floor

    def _clear_excess_undo_info(self) -> None:
        """Delete undo rows and raw blocks below the window, as may be left by another server."""
        assert self.utxo_db
        floor = self.min_undo_height(self.state.height)
        keys = []
        for key, _items in self.utxo_db.iterator(prefix=UNDO_PREFIX):
            if undo_key_height(key) >= floor:
                break
            keys.append(key)
        if keys:
            with self.utxo_db.write_batch() as batch:
                for key in keys:
                    batch.delete(key)
            fault_point("open: undo rows pruned")
            self.logger.info(f"deleted {len(keys):,d} stale undo entries")
        self._undo_floor = max(0, floor)
        stale = [height for height in self.files.raw_block_heights() if height < floor]
        if stale:
            self.files.delete_raw_blocks(stale)
            self.logger.info(f"deleted {len(stale):,d} stale block files")

    def read_raw_block(self, height: int) -> bytes:
        """Return a recent raw block; FileNotFoundError if it is not kept."""
        return self.files.read_raw_block(height)

    def write_raw_block(self, block: bytes, height: int) -> None:
        """Keep a raw block, and drop the one that falls out of the window."""
        self.files.write_raw_block(block, height)
        fault_point("raw block: written")
        self.files.delete_raw_blocks([height - self.env.reorg_limit])
        fault_point("raw block: old one deleted")

    # -- headers

    async def populate_header_merkle_cache(self) -> None:
        """Prepare header proofs; to be awaited once, when caught up."""
        self.logger.info("populating header merkle cache...")
        start = time.monotonic()
        await self.header_mc.initialize(max(1, self.min_undo_height(self.db_height)))
        self.logger.info(f"header merkle cache populated in {time.monotonic() - start:.1f}s")

    # -- compaction

    @property
    def compaction_due(self) -> bool:
        """True if the history should be compacted, or is being."""
        if self._compaction and not self._compaction.done:
            return True
        return self.history.flush_count >= self.history.COMPACT_FLUSH_COUNT

    @property
    def _counts_agree(self) -> bool:
        """True if no history flush waits for its coins."""
        return self.state.utxo_flush_count == self.history.flush_count

    def begin_compaction(self) -> CompactionPass:
        """Return the compaction under way, or a new one.  Call it with the state lock held."""
        if self._compaction is None or self._compaction.done:
            self._compaction = CompactionPass(self.history, lambda: self._counts_agree)
        return self._compaction

    def _compact_if_overdue(self) -> None:
        if self.history.flush_count >= self.history.OPEN_COMPACT_FLUSH_COUNT:
            self._compact_now()

    def _compact_now(self) -> None:
        """Compact the history, or finish a compaction, while nobody flushes."""
        self.logger.warning(
            f"{self.history.flush_count:,d} of {MAX_FLUSH_ID:,d} history flushes are used: "
            "compacting the history first, which can take a long time"
        )
        self.begin_compaction().run_to_end()

    def set_flush_count(self, count: int) -> None:
        """Write the number of history flushes that the coins have seen, synced."""
        self.state = replace(self.state, utxo_flush_count=count)
        self._write_state_only()


assert COIN_LEN == HASHX_LEN + TXNUM_LEN + 8
