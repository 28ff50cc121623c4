"""What is committed to disk: the chain state, the two stores and the flat files.

Owns the state (height, tip, transaction count), the ``utxo`` store, the flat files and, through
:class:`History`, the ``hist`` store: how they are opened, checked, mended after a stop, and closed;
what is kept for undoing blocks; and the compaction that is under way.  What a block changes in
them is told by ``db``, at the end of the classes that build on this one.

What writes runs in a worker thread with the block processor's state lock held, or while the
database is opened, before anybody else uses it.
"""

import asyncio
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from struct import Struct
from typing import NoReturn

import electrumx
from electrumx.lib import util
from electrumx.lib.coins.base import NEVER, OutputRule
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server.bulk_sync.workspace import finish_move
from electrumx.server.db import foreign_reorg_repair
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.db.queries import Queries
from electrumx.server.db.upgrade import OLD_VERSIONS, upgrade_utxo_store
from electrumx.server.env import Env
from electrumx.server.history.row_compaction import CompactionPass
from electrumx.server.history.store import History
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage, WriteBatch, db_class
from electrumx.server.storage.errors import explained
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import (
    COIN_LEN,
    DB_VERSION,
    MAX_FLUSH_ID,
    STATE_KEY,
    UNDO_PREFIX,
    ChainState,
    DBError,
    undo_key,
    undo_key_height,
)
from electrumx.server.storage.shortage import Patience

_LE8 = Struct("<Q")


class Committed(Queries):
    """The database in ``env.db_dir``; closed until one of the ``open_…`` methods is awaited."""

    DB_VERSIONS = [*OLD_VERSIONS, DB_VERSION]

    def __init__(self, env: Env):
        self.logger = util.class_logger(type(self).__module__, type(self).__name__)
        self.env = env
        self.coin = env.coin
        self.db_dir = Path(env.db_dir)
        self.db_class: type[Storage] = db_class(env.db_engine)
        #: passed by who reads the stores or the flat files without the state lock
        self.gate = StoreGate(is_open=False)
        self.history = History(self.gate, self.set_flush_count, self._restore_cut_history)
        #: asks the node for raw blocks by their display hashes, blocking; None without a node
        self.fetch_blocks: foreign_reorg_repair.FetchBlocks | None = None
        #: the compaction that is under way
        self._compaction: CompactionPass | None = None
        self.utxo_db: Storage | None = None
        self.files = FlatFiles(str(env.db_dir), env.coin)
        #: repeats writes that a shortage of descriptors or memory made fail
        self.patience = Patience(self.logger)
        self.files.patiently = self.patience.run
        #: what is committed to disk; replaced, never changed, so readers see one state
        self.state = ChainState.new(self.coin.GENESIS_HASH)
        #: heights and txs of which the flat files hold at least
        self.fs_height = -1
        self.fs_tx_count = 0
        #: cumulative tx count by height
        self.tx_counts: array[int] = array("Q")
        #: counts the times that committed blocks were undone
        self.backup_count = 0
        #: odd while coins and state are being written; see ``queries``
        self.commit_seq = 0
        self.last_flush = time.monotonic()
        self.last_flush_tx_count = 0
        #: undo rows below this height are deleted
        self._undo_floor = 0
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
            # Reads of an administrator wait; those under way end first.
            with self.gate.exclusive():
                self._close_stores()
                fault_point("caught up: closed for re-opening")
                self._open(False, False)
            return
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
        with self.gate.exclusive():
            self._open_stores(for_sync, compacting)
            for store in (self.utxo_db, self.history.db):
                assert store
                store.patience, store.gate = self.patience, self.gate
            self.patience.reserve.fill()
            self.gate.set_open()

    def _open_stores(self, for_sync: bool, compacting: bool) -> None:
        assert self.utxo_db is None
        first_time = not self.tx_counts
        self.last_flush = time.monotonic()
        try:
            finish_move(self.db_dir, self.logger)
            self._refuse_half_a_database()
            self.utxo_db = self.db_class(str(self.db_dir / "utxo"), for_sync)
            fault_point("open: utxo store opened")
            self._prepare_folder(self.utxo_db.is_new)
            fault_point("open: folder prepared")
            self._read_state()
            self._note_tokens()
            self.files.check_lengths(self.state.height, self.state.tx_count)
            self._open_history(for_sync, compacting)
            if self.state.height < 0:
                # The folders' own entries, without which all that is synced below is lost.
                util.sync_directory(self.db_dir)
            fault_point("open: history store opened")
            if for_sync and not compacting and self.first_sync:
                self._begin_filling()
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
            self.raise_explained(e)

    def raise_explained(self, error: BaseException) -> NoReturn:
        """Raise a DBError in place of an error of the disk or the engine; others as they are."""
        better = explained(error, str(self.db_dir), self.db_class)
        if better is error:
            raise error
        raise better from error

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

    def _note_tokens(self) -> None:
        """Note from which height on the blocks' tokens are indexed, if the coin has any."""
        activation = self.coin.TOKENS_ACTIVATION
        if activation == NEVER or self.state.tokens_from is not None:
            return
        height = self.state.height
        tokens_from = height + 1 if height >= activation else 0
        self.state = replace(self.state, tokens_from=tokens_from)

    def output_rule(self, height: int) -> OutputRule:
        """Return how outputs of the block at a height are, or were, indexed."""
        return self.coin.output_rule(height, self.state.tokens_from or 0)

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
        if not foreign_reorg_repair.looks_cut(self.history, self.state.utxo_flush_count):
            return
        foreign_reorg_repair.CutHistory(
            self.coin,
            self.state,
            self.files,
            self.utxo_db,
            self.history,
            self.fetch_blocks,
            self.logger,
        ).restore()
        fault_point("open: cut history restored")

    def _begin_filling(self) -> None:
        """Set the stores to be filled in bulk, also where that was begun and interrupted."""
        assert self.utxo_db
        assert self.history.db
        self.utxo_db.begin_filling()
        self.history.db.begin_filling()
        fault_point("open: options for filling")

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
        tokens_from = self.state.tokens_from or 0
        if tokens_from > self.coin.TOKENS_ACTIVATION:
            self.logger.warning(
                f"blocks {self.coin.TOKENS_ACTIVATION:,d} to {tokens_from - 1:,d} were indexed by "
                "a server that does not know tokens: their outputs that hold tokens are missing "
                f"from histories and balances; empty {self.db_dir} to synchronise again"
            )

    def close_dbs(self) -> None:
        """Close both stores; harmless if they are closed.

        Reads that wait, or are under way and long, fail with DBClosedError; the others are waited
        for, which takes milliseconds.
        """
        self.gate.begin_closing()
        with self.gate.exclusive():
            self._close_stores()
            self.patience.reserve.release()
            self.gate.set_closed()

    def _close_stores(self) -> None:
        self.files.close()
        self.history.close_db()
        if self.utxo_db:
            self.utxo_db.close()
            self.utxo_db = None

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """Let readers know that coins and state are being written, for the length of a block."""
        self.commit_seq += 1
        try:
            yield
        finally:
            self.commit_seq += 1

    def _write_state_only(self) -> None:
        assert self.utxo_db
        with self.utxo_db.write_batch() as batch:
            batch.put(STATE_KEY, self._state_row(self.state))

    def _state_row(self, state: ChainState) -> bytes:
        """Return how a state stands on disk."""
        return state.pack()

    def set_flush_count(self, count: int) -> None:
        """Write the number of history flushes that the coins have seen, synced."""
        self.state = replace(self.state, utxo_flush_count=count)
        self._write_state_only()

    # -- undo information and raw blocks

    def min_undo_height(self, max_height: int) -> int:
        """Return the lowest height for which undo information is kept at ``max_height``."""
        return max_height - self.env.reorg_limit + 1

    def read_undo_info(self, height: int) -> bytes | None:
        """Return a block's undo items, joined, or None if they are not kept.

        Raise DBDamagedError if they are not whole.
        """
        assert self.utxo_db
        undo_info = self.utxo_db.get(undo_key(height))
        if undo_info is not None and len(undo_info) % COIN_LEN:
            raise self.damage_log.error(
                f"undo row {undo_key(height).hex()} of the utxo store, of height {height:,d}, has "
                f"{len(undo_info):,d} bytes"
            )
        return undo_info

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
