"""The committed state, and its storage: the two key-value stores and the flat files.

Owns the state (height, tip, transaction count), the ``utxo`` store, the flat files and, through
:class:`History`, the ``hist`` store: their opening, checks, repair after a kill, and closing, and
the history compaction under way.  ``flusher`` decides the order of the writes.

Writing runs in a worker thread with the block processor's state lock held, or during the opening of
the database, before anything else uses it.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from logging import Logger
from pathlib import Path
from struct import Struct
from typing import NoReturn

import electrumx
from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.coins.base import NEVER, OutputRule
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import foreign_reorg_repair
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.db.foreign_reorg_repair import FetchBlocks
from electrumx.server.db.recent_blocks import RecentBlocks
from electrumx.server.db.upgrade import OLD_VERSIONS, upgrade_utxo_store
from electrumx.server.history.row_compaction import CompactionPass
from electrumx.server.history.store import History
from electrumx.server.runs import FOLDER as BULK_SYNC_FOLDER
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage
from electrumx.server.storage.damage import DamageLog
from electrumx.server.storage.errors import explained, read_error
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import (
    DB_VERSION,
    HASH_LEN,
    HIST_STATE_KEY,
    MAX_FLUSH_ID,
    STATE_KEY,
    UTXO_LOOKUP_LEN,
    CommittedState,
    DBError,
    DBReadError,
    HistState,
)
from electrumx.server.storage.shortage import Patience
from electrumx.server.storage.tuning import Tuning

_LE8 = Struct("<Q")


class Stores:
    """The database in ``db_dir``; closed until the first call of an ``open_…`` method.

    ``engine`` is the class of both key-value stores; undo rows of ``reorg_limit`` blocks stay.
    """

    DB_VERSIONS = [*OLD_VERSIONS, DB_VERSION]

    def __init__(
        self,
        db_dir: Path,
        engine: type[Storage],
        coin: type[Coin],
        reorg_limit: int,
        logger: Logger,
        tuning: Tuning | None = None,
    ) -> None:
        self._logger = logger
        self.db_dir = db_dir
        self.engine = engine
        self.tuning = tuning or Tuning()
        self.coin = coin
        #: enter it to read the stores or the flat files without the state lock
        self.gate = StoreGate(is_open=False)
        #: repeats writes that a shortage of descriptors or memory made fail
        self.patience = Patience(logger)
        self.damage_log = DamageLog(logger)
        self.history = History(
            self.gate,
            self.set_flush_count,
            self._restore_cut_history,
            self.tuning,
            lambda: None if self.state.height < 0 else self.state.utxo_flush_count,
        )
        self.utxo_db: Storage | None = None
        self.files = FlatFiles(str(db_dir), coin, self.patience.run)
        self.recent_blocks = RecentBlocks(self.files, reorg_limit, self.damage_log, logger)
        #: the committed state; replaced, never changed, so readers see one state
        self.state = CommittedState.new(coin.GENESIS_HASH)
        #: the flat files hold at least the blocks up to this height, and so many transactions
        self.fs_height = -1
        self.fs_tx_count = 0
        #: cumulative tx count by height
        self.tx_counts: array[int] = array("Q")
        #: number of times that committed blocks were undone
        self.backup_count = 0
        #: odd during a write of UTXOs and state; see ``queries``
        self.commit_seq = 0
        #: whether the stores were last opened for the initial sync
        self.opened_in_initial_sync = False
        # Caught up; but on disk the initial sync lasts until the engine has compacted its tables.
        self._tables_due = False
        self._fetch_blocks: FetchBlocks | None = None
        #: the history compaction under way, or the last one
        self.compaction: CompactionPass | None = None
        #: when the state's wall_time was last brought up to date
        self.last_timed = time.monotonic()

    @property
    def opened_for_sync(self) -> bool:
        """Whether the stores are open with the options for indexing."""
        return self.utxo_db is not None and self.utxo_db.for_sync

    # -- opening and closing

    def open_for_sync(self, fetch_blocks: FetchBlocks | None = None) -> None:
        """Open the database for fast indexing.  Raise DBError if it is unusable.

        ``fetch_blocks`` asks the daemon for raw blocks by their display hashes, blocking; a repair
        may need them.
        """
        self._fetch_blocks = fetch_blocks
        self._open(for_sync=True)
        self.opened_in_initial_sync = self.state.first_sync

    def exchange(self, move: Callable[[], None]) -> None:
        """Close both stores, call ``move``, which replaces them, and open them for fast indexing.

        Reads wait, as the height is known before the stores are open; if it fails, they fail too.
        """
        self.stop_table_compaction()
        with self.gate.exclusive():
            try:
                self._close_stores()
                self.patience.reserve.release()
                try:
                    move()
                except OSError as e:
                    self.raise_explained(e)
                self.open_for_sync()
            except BaseException:
                self.gate.set_closed()
                raise

    def open_for_compacting(self) -> None:
        """Open the database so that an interrupted history compaction can go on."""
        self._open(for_sync=True, compacting=True)

    def open_for_serving(self) -> None:
        """Open the database for serving clients; re-open one that is open, if it is large."""
        if not self.utxo_db:
            self._open(for_sync=False)
        elif self._stores_are_small():
            self._serve_without_reopening()
        else:
            self._logger.info("closing DBs to re-open for serving")
            # Reads of an administrator wait; those under way end first.
            with self.gate.exclusive():
                self._close_stores()
                fault_point("caught up: closed for re-opening")
                self._open(for_sync=False)

    def _stores_are_small(self) -> bool:
        stores = (self.utxo_db, self.history.db)
        return all(store is not None and store.is_small for store in stores)

    def _serve_without_reopening(self) -> None:
        """Prepare open stores for serving as opening them would.

        LevelDB writes at opening what its log holds into tables; that takes a third of a second
        after a short initial sync.
        """
        assert self.utxo_db
        assert self.history.db
        self.utxo_db.for_sync = self.history.db.for_sync = False
        self._compact_if_overdue()
        self.recent_blocks.delete_stale(self.utxo_db, self.state.height)

    def _open(self, *, for_sync: bool, compacting: bool = False) -> None:
        with self.gate.exclusive():
            self._open_stores(for_sync, compacting)
            for store in (self.utxo_db, self.history.db):
                assert store
                store.retry_writes(self.patience, self.gate)
            self.patience.reserve.fill()
            self.gate.set_open()

    def _open_stores(self, for_sync: bool, compacting: bool) -> None:
        assert self.utxo_db is None
        first_time = not self.tx_counts
        self.last_timed = time.monotonic()
        try:
            if (self.db_dir / BULK_SYNC_FOLDER).exists():
                # Rarely needed, and a start takes long enough.
                from electrumx.server.runs.workspace import finish_move

                finish_move(self.db_dir, self._logger, self._has_blocks, self._flush_count)
            self._refuse_half_a_database()
            self.utxo_db = self.new_utxo_store(self.db_dir / "utxo", for_sync)
            fault_point("open: utxo store opened")
            self._prepare_folder(self.utxo_db.is_new)
            fault_point("open: folder prepared")
            self._read_state()
            self._note_tokens()
            self.files.check_lengths(self.state.height, self.state.tx_count)
            self._open_history(for_sync, compacting)
            if self.state.height < 0:
                # The folders' own entries, without which a crash loses all synced files below them.
                util.sync_directory(self.db_dir)
            fault_point("open: history store opened")
            if for_sync and not compacting and self.state.first_sync:
                self._begin_bulk_load()
            if not compacting:
                self._compact_if_overdue()
            self.recent_blocks.delete_stale(self.utxo_db, self.state.height)
            self.fs_height = self.state.height
            self.fs_tx_count = self.state.tx_count
            if first_time:
                self.read_tx_counts()
                self._log_state()
        except BaseException as e:
            self.close()
            self.raise_explained(e)

    def _has_blocks(self) -> bool:
        """Return whether the closed ``utxo`` store is there and has a block."""
        raw = self._row_of_closed("utxo", STATE_KEY)
        return raw is not None and CommittedState.parse(raw).height >= 0

    def _flush_count(self) -> int:
        """Return the flush count of the closed ``hist`` store; 0 if it is missing."""
        raw = self._row_of_closed("hist", HIST_STATE_KEY)
        return HistState.parse(raw).flush_count if raw else 0

    def _row_of_closed(self, name: str, key: bytes) -> bytes | None:
        path = self.db_dir / name
        if not (path / "CURRENT").exists():
            return None
        make = self.new_utxo_store if name == "utxo" else self.new_hist_store
        store = make(path, True)
        try:
            return store.get(key)
        finally:
            store.close()

    def new_utxo_store(self, path: Path, for_sync: bool) -> Storage:
        """Open a store of UTXOs in a folder, with the options for those."""
        return self.engine(str(path), for_sync, prefix_len=UTXO_LOOKUP_LEN, tuning=self.tuning)

    def new_hist_store(self, path: Path, for_sync: bool) -> Storage:
        """Open a store of histories in a folder, with the options for those."""
        return self.history.new_store(self.engine, str(path), for_sync)

    def raise_explained(self, error: BaseException) -> NoReturn:
        """Raise a DBError in place of an error of the disk or the engine; others as they are."""
        better = explained(error, str(self.db_dir), self.engine)
        if better is error:
            raise error
        raise better from error

    def explain_read(self, error: Exception) -> Exception:
        """Return an error of the disk or the engine as a DBReadError, and log it once."""
        reason = read_error(error, self.engine)
        if reason is None:
            return error
        line = f"cannot read the database: {reason}"
        self.damage_log.log(line)
        return DBReadError(line)

    def _refuse_half_a_database(self) -> None:
        # A new store would make the next start clear the history that belongs to the lost one.
        store = self.db_dir / "utxo"
        rest = (self.db_dir / "hist" / "CURRENT", self.db_dir / "meta" / "txcounts00")
        if not (store / "CURRENT").exists() and all(path.exists() for path in rest):
            raise DBError(
                f"the UTXO store {store} is missing or has lost its file CURRENT: restore a backup "
                f"of the whole database directory, or empty {self.db_dir} to synchronise again"
            )

    def _prepare_folder(self, is_new: bool) -> None:
        try:
            if is_new:
                self._logger.info("created new database")
                self._logger.info("creating metadata directory")
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

    def check_state(self, state: CommittedState) -> None:
        """Raise DBError if the state of a database is of another version, or coin."""
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

    def _read_state(self) -> None:
        assert self.utxo_db
        raw = self.utxo_db.get(STATE_KEY)
        if raw is None:
            self.state = CommittedState.new(self.coin.GENESIS_HASH)
            return
        state = CommittedState.parse(raw)
        self.check_state(state)
        if state.db_version != DB_VERSION:
            floor = self.recent_blocks.lowest_height(state.height)
            state = upgrade_utxo_store(self.utxo_db, self.files, state, floor, self._logger)
        if self._tables_due:
            state = replace(state, first_sync=False)
        self.state = state

    def _note_tokens(self) -> None:
        """Note the first height with indexed tokens, if the coin has any."""
        activation = self.coin.TOKENS_ACTIVATION
        if activation == NEVER or self.state.tokens_from is not None:
            return
        height = self.state.height
        tokens_from = height + 1 if height >= activation else 0
        self.state = replace(self.state, tokens_from=tokens_from)

    def _open_history(self, for_sync: bool, compacting: bool) -> None:
        name = str(self.db_dir / "hist")
        if self.state.height >= 0 and not os.path.exists(os.path.join(name, "CURRENT")):
            raise DBError(
                f"the history store {name} is missing: restore a backup of the whole database "
                f"directory, or empty {self.db_dir} to synchronise again"
            )
        seen = self.state.utxo_flush_count
        tx_count = self.state.tx_count
        count = self.history.open_db(self.engine, for_sync, seen, compacting, name, tx_count)
        seen = self.state.utxo_flush_count
        if count != seen:
            # Written at once: with a stale higher count on disk, a kill after the next history
            # flush would leave orphaned rows that the next opening keeps.
            self.state = replace(self.state, utxo_flush_count=count)
            if self.state.height >= 0:
                self.write_state()
                fault_point("open: flush count lowered")

    def _restore_cut_history(self) -> None:
        """Repair what an interrupted reorganisation of another server left."""
        assert self.utxo_db
        state = self.state
        if state.height < 0:
            return
        if not foreign_reorg_repair.looks_cut(self.history, state.utxo_flush_count):
            return
        foreign_reorg_repair.CutHistory(
            self.coin,
            self.state,
            self.files,
            self.utxo_db,
            self.history,
            self._fetch_blocks,
            self._logger,
        ).restore()
        fault_point("open: cut history restored")

    def _begin_bulk_load(self) -> None:
        """Set the engines to bulk load, also where that was begun and interrupted."""
        assert self.utxo_db
        assert self.history.db
        self.utxo_db.begin_bulk_load()
        self.history.db.begin_bulk_load()
        fault_point("open: options for filling")

    def read_tx_counts(self) -> None:
        """Read the tx counts up to the committed height.  Raise DBError if they contradict it."""
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
        state = self.state
        self._logger.info(f"using {self.engine.ENGINE} for DB backend")
        self._logger.info(f"software version: {electrumx.version}")
        self._logger.info(f"DB version: {state.db_version:d}")
        self._logger.info(f"coin: {self.coin.NAME}")
        self._logger.info(f"network: {self.coin.NET}")
        self._logger.info(f"height: {state.height:,d}")
        self._logger.info(f"tip: {hash_to_hex_str(state.tip)}")
        self._logger.info(f"tx count: {state.tx_count:,d}")
        if state.first_sync:
            self._logger.info(f"sync time so far: {util.formatted_time(state.wall_time)}")
        tokens_from = state.tokens_from or 0
        if tokens_from > self.coin.TOKENS_ACTIVATION:
            self._logger.warning(
                f"blocks {self.coin.TOKENS_ACTIVATION:,d} to {tokens_from - 1:,d} were indexed by "
                "a server that does not know tokens: their outputs that hold tokens are missing "
                f"from histories and balances; empty {self.db_dir} to synchronise again"
            )

    def close(self) -> None:
        """Close both stores; harmless when already closed.

        Reads that wait, or are under way and long, fail with DBClosedError; wait for the others,
        which takes milliseconds.  Stop a compaction of the engine's tables.
        """
        self.gate.begin_closing()
        self.stop_table_compaction()
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

    def stop_table_compaction(self) -> None:
        """Make a compaction of the engine's tables end soon; closing must follow."""
        for store in (self.utxo_db, self.history.db):
            if store:
                store.stop_compaction()

    # -- the committed state

    def output_rule(self, height: int) -> OutputRule:
        """Return how outputs of the block at a height are, or were, indexed."""
        return self.coin.output_rule(height, self.state.tokens_from or 0)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Mark a write of UTXOs and state, for readers, for the length of a block."""
        self.commit_seq += 1
        try:
            yield
        finally:
            self.commit_seq += 1

    def timed(self, state: CommittedState) -> CommittedState:
        """Return a state with the time since the last call, or the opening, added to its own."""
        now = time.monotonic()
        elapsed = max(0.0, now - self.last_timed)
        self.last_timed = now
        return replace(state, wall_time=state.wall_time + elapsed)

    def state_row(self, state: CommittedState) -> bytes:
        """Return the value of a state's row on disk."""
        return replace(state, first_sync=state.first_sync or self._tables_due).pack()

    def write_state(self) -> None:
        """Write the state row, synced."""
        assert self.utxo_db
        with self.utxo_db.write_batch() as batch:
            batch.put(STATE_KEY, self.state_row(self.state))

    def set_flush_count(self, count: int) -> None:
        """Write the number of history flushes that the UTXOs have seen, synced."""
        self.state = replace(self.state, utxo_flush_count=count)
        self.write_state()

    def leave_initial_sync(self, *, tables_due: bool) -> None:
        """Note that the chain was caught up with; the next write of the state records it.

        With ``tables_due`` it does not before :meth:`tables_done`.
        """
        self._tables_due = tables_due
        self.state = replace(self.state, first_sync=False)

    @property
    def tables_due(self) -> bool:
        """Whether the initial sync lasts, on disk, until the engine has compacted its tables."""
        return self._tables_due

    def tables_done(self) -> None:
        """Note that the engine's tables need no compaction; the next write of the state records it."""
        self._tables_due = False

    # -- blocks

    def append_blocks(self, headers: Sequence[bytes], block_tx_hashes: Sequence[bytes]) -> None:
        """Append blocks to the flat files, synced: headers, and the tx hashes of each, joined."""
        counts = []
        tx_count = self.fs_tx_count
        for tx_hashes in block_tx_hashes:
            tx_count += len(tx_hashes) // HASH_LEN
            counts.append(tx_count)
        self.files.append(
            self.fs_height + 1,
            headers,
            self.fs_tx_count,
            b"".join(map(_LE8.pack, counts)),
            block_tx_hashes,
        )
        self.tx_counts.extend(counts)
        self.fs_height += len(headers)
        self.fs_tx_count = tx_count

    def set_undone(self, state: CommittedState) -> None:
        """Note that blocks were undone down to a state that is on disk."""
        # Readers: first the height falls, then what maps numbers to heights.
        self.state = state
        self.backup_count += 1
        self.fs_height = state.height
        self.fs_tx_count = state.tx_count
        del self.tx_counts[state.height + 1 :]

    # -- history compaction

    @property
    def compaction_due(self) -> bool:
        """True if the history should be compacted, or is being."""
        if self.compaction and not self.compaction.done:
            return True
        return self.history.flush_count >= self.history.COMPACT_FLUSH_COUNT

    @property
    def _counts_agree(self) -> bool:
        """True if no history flush waits for its UTXOs."""
        return self.state.utxo_flush_count == self.history.flush_count

    def begin_compaction(self) -> CompactionPass:
        """Return the compaction under way, or a new one.  Call it with the state lock held."""
        if self.compaction is None or self.compaction.done:
            self.compaction = CompactionPass(self.history, lambda: self._counts_agree)
        return self.compaction

    def _compact_if_overdue(self) -> None:
        if self.history.flush_count >= self.history.OPEN_COMPACT_FLUSH_COUNT:
            self.compact_now()

    def compact_now(self) -> None:
        """Compact the history, or finish a compaction, while no flush runs."""
        self._logger.warning(
            f"{self.history.flush_count:,d} of {MAX_FLUSH_ID:,d} history flushes are used: "
            "compacting the history first, which can take a long time"
        )
        self.begin_compaction().run_to_end()
