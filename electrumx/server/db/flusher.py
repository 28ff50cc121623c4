"""The database: what the chain's blocks left behind, on disk.

Owns how blocks, added or undone, change what is there.  The classes build on one another:
``queries`` (what clients ask, read beside a flush), ``stores`` (the state, the stores and the
files: opening and closing them), ``initial_sync`` (what is special about a new database), and this.
The methods that change something run in a worker thread with the block processor's state lock held.

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

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from struct import Struct
from typing import Protocol

from electrumx.lib import util
from electrumx.server.db.initial_sync import Filling
from electrumx.server.history.store import PendingHistory
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import WriteBatch
from electrumx.server.storage.schema import (
    HASH_LEN,
    MAX_FLUSH_ID,
    STATE_KEY,
    UTXO,
    ChainState,
    CoinRow,
    DBError,
    undo_key,
)

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
    #: history of the Cython implementation to write besides :attr:`History.unflushed`
    history: PendingHistory | None = None


class DB(Filling):
    """The database in ``env.db_dir``, whole: what is in memory is flushed to it, forth and back."""

    #: what its methods raise, for those who have a database and no need of this module
    DBError = DBError

    # -- flushing forward

    #: whether the speed since genesis is logged: that of the first synchronisation only
    logs_speed = True

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
        self.history.assert_flushed(flush_data.history)

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
        start = time.monotonic()
        # The last ids are for making both stores agree, so that the history can be compacted.
        hold = self.must_flush_coins
        flush_utxos = flush_utxos or hold
        prior_flush, prior_tx_count = self.last_flush, self.last_flush_tx_count
        self._flush_files(flush_data)
        self._flush_history(flush_data)
        self._flush_utxos(flush_data, flush_utxos)
        self.last_flush_tx_count = self.fs_tx_count
        elapsed = self.last_flush - start
        tx_delta = self.fs_tx_count - prior_tx_count
        self.logger.info(
            f"flush #{self.history.flush_count:,d} took {elapsed:.1f}s.  Height "
            f"{flush_data.height:,d} txs: {flush_data.tx_count:,d} ({tx_delta:+,d})"
        )
        if self._opened_for_sync and self.logs_speed:
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

    def _flush_history(self, flush_data: FlushData) -> None:
        """Step 2: one history flush."""
        start = time.monotonic()
        count = self.history.flush(flush_data.history)
        fault_point("flush: history written")
        if self._opened_for_sync:
            elapsed = time.monotonic() - start
            self.logger.info(f"flushed history in {elapsed:.1f}s for {count:,d} addrs")

    def _flush_utxos(self, flush_data: FlushData, flush_utxos: bool) -> None:
        """Step 3: the state row, and with ``flush_utxos`` coins and undo rows before it."""
        with self._committing():
            self._commit_utxos(flush_data, flush_utxos)
        assert self.utxo_db
        self.utxo_db.put(STATE_KEY, self._state_row(self.state))
        fault_point("flush: state written again")

    def _commit_utxos(self, flush_data: FlushData, flush_utxos: bool) -> None:
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
            batch.put(STATE_KEY, self._state_row(state))
        fault_point("flush: coins written")
        if flush_utxos:
            flush_data.adds.clear()
            flush_data.deletes.clear()
            flush_data.undo_infos.clear()
        # Written once more, unsynced, so that the time the commit took is counted.
        self.state = self._with_wall_time(state)

    def _with_wall_time(self, state: ChainState) -> ChainState:
        now = time.monotonic()
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

    # -- flushing backward

    def flush_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        """Commit that blocks down to ``flush_data.height`` were undone.

        ``touched`` has every script with history in an undone block.  Nothing may wait to be
        flushed forward.  The module's docstring tells why the order of the writes is safe.
        """
        with self._committing():
            self._commit_backup(flush_data, touched)

    def _commit_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        assert self.utxo_db
        assert not flush_data.headers
        assert not flush_data.block_tx_hashes
        assert not flush_data.undo_infos
        assert flush_data.height < self.db_height
        self.history.assert_flushed(flush_data.history)
        start = time.monotonic()
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
            batch.put(STATE_KEY, self._state_row(state))
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
            f"backup flush #{count:,d} took {time.monotonic() - start:.1f}s.  Height "
            f"{state.height:,d} txs: {state.tx_count:,d}"
        )
