"""Flushes blocks to the stores, and undoes them there.

Owns the order of the writes.  Runs in: a worker thread with the block processor's state lock held.

Order of writes
===============

Three things must agree: the flat files, the ``hist`` store and the ``utxo`` store with the state
row.  Each batch is atomic and synced, but nothing spans two of them, so a kill of the process or a
power failure may come between any two steps.  The state row decides what is true; the other two may
run ahead of it, never behind.

**Forward** (:meth:`Flusher.flush_dbs`)

1. Flat files: headers, of coins whose headers vary in length also their offsets, tx counts and tx
   hashes are appended and synced, with their folder where a file is new.  *A kill after this* leaves
   bytes beyond the committed height, which nothing reads, and the next flush overwrites them.
2. History: the flush journal notes the touched scripts, unless the database is empty so far; then
   batches of rows with the new flush id, and in the first one the store's own flush count.  *A kill
   after this* leaves ``flush_count > utxo_flush_count``; opening deletes the orphaned rows, those
   above the latter (:meth:`History.clear_excess`).
3. UTXO store: one batch of deletes, UTXOs, undo rows and the state row with the new height and
   ``utxo_flush_count := flush_count``.  When it is there, the flush happened.

Flushes do not overlap.  During the initial sync the block processor indexes more blocks in memory
while a flush writes a frozen batch.  To the disk that makes no difference: of the changes of the
later blocks nothing reaches it (but raw blocks, whose readers check the headers) before the flush
has ended, and every other write to a store waits for that.  The next flush deletes a UTXO that the
flush is writing and a later block spends.

During the initial sync a flush may write history alone: step 3 then writes the state row with the old
height and count, so a kill costs the work since the last full flush.

**Backward** (:meth:`Flusher.flush_backup`, for at most 50 undone blocks), with F the flush count,
equal on both sides because a full flush precedes every reorganisation:

1. UTXO state alone: ``utxo_flush_count := F + 1``, all else as it was.
2. History: entries of undone transactions leave their rows and are *staged*, in order, in
   rows of flush id F + 1; ``flush_count := F + 1``.
3. UTXO store: UTXOs and the state row at the lower height, ``utxo_flush_count := F``.
4. History: the deletion of those rows; ``flush_count := F``.

*A kill after 1*: the history count is below the other one, which opening tolerates, and all data is
the old tip's.  *After 2*: the counts agree and each script's rows, read in order, have the entries that
they had.  *After 3*: the history count F + 1 exceeds F, so the ordinary deletion of orphaned rows
deletes exactly those rows, in this program as in every ElectrumX that knows this layout.
*After 4*: done.  So no recovery code of its own is needed.

Heights in memory: ``db_height <= fs_height <= the processor's height`` at rest.  Readers map
a tx number to a height through ``tx_counts``; undoing blocks shortens that array only after
``db_height`` has fallen, so a reader in between finds heights above ``db_height``, which
means that it raced a reorganisation, and reads again.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from logging import Logger

from electrumx.lib import util
from electrumx.lib.merkle import MerkleCache
from electrumx.server.db.flush_data import FlushData
from electrumx.server.db.flush_stats import FlushStats
from electrumx.server.db.stores import Stores
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import WriteBatch
from electrumx.server.storage.schema import HASH_LEN, MAX_FLUSH_ID, STATE_KEY, undo_key


class Flusher:
    """Writes to open stores; undoing blocks shortens ``header_mc``.

    ``write_files``, ``write_history`` and ``write_utxos`` are the steps of a forward flush, each
    durable when it returns; ``put_utxos`` adds the UTXOs of a flush, in either direction, to a batch.
    """

    def __init__(self, stores: Stores, header_mc: MerkleCache, logger: Logger) -> None:
        self._stores = stores
        self._history = stores.history
        self._header_mc = header_mc
        self.stats = FlushStats()
        self._logger = logger

    # -- flushing forward

    def assert_flushed(self, flush_data: FlushData) -> None:
        """Assert that nothing waits for a flush."""
        stores = self._stores
        state = stores.state
        assert flush_data.tx_count == stores.fs_tx_count == state.tx_count
        assert flush_data.height == stores.fs_height == state.height
        assert flush_data.tip == state.tip
        assert not flush_data.headers
        assert not flush_data.block_tx_hashes
        assert not flush_data.adds
        assert not flush_data.deletes
        assert not flush_data.undo_infos
        self._history.assert_flushed(flush_data.history)

    def flush_dbs(
        self,
        flush_data: FlushData,
        flush_utxos: bool,
        estimate_txs_remaining: Callable[[], float],
    ) -> None:
        """Write everything, or all but the UTXOs, and wait for the disk.

        Empties the collections of ``flush_data``.  Does nothing if the height is the committed one.
        """
        stores = self._stores
        if flush_data.height == stores.state.height:
            self.assert_flushed(flush_data)
            return
        start = time.monotonic()
        # Flush ids end at 65,535.  The last ones are for flushes that make both stores agree, without
        # which a history compaction is impossible.
        hold = self.must_flush_utxos
        prior_flush, prior_tx_count = stores.last_timed, stores.fs_tx_count
        marks = [start]
        self.write_files(flush_data)
        marks.append(time.monotonic())
        self.write_history(flush_data)
        marks.append(time.monotonic())
        self.write_utxos(flush_data, flush_utxos or hold)
        marks.append(time.monotonic())
        self.stats.ended(flush_data.height, marks)
        now = stores.last_timed
        tx_delta = stores.fs_tx_count - prior_tx_count
        self._logger.info(
            f"flush #{self._history.flush_count:,d} took {now - start:.1f}s.  Height "
            f"{flush_data.height:,d} txs: {flush_data.tx_count:,d} ({tx_delta:+,d})"
        )
        # The speed since genesis is that of the initial sync only.
        if stores.opened_for_sync and stores.opened_in_initial_sync:
            self._log_speed(tx_delta, now - prior_flush, estimate_txs_remaining)
        if hold:
            self._logger.warning(
                f"only {MAX_FLUSH_ID - self._history.flush_count:,d} history flushes are left: "
                "compacting before going on"
            )
            stores.compact_now()

    @property
    def must_flush_utxos(self) -> bool:
        """Whether the next flush has to be a whole one, before a history compaction."""
        return self._history.flush_count >= self._history.HOLD_FLUSH_COUNT

    def _log_speed(
        self, tx_delta: int, interval: float, estimate_txs_remaining: Callable[[], float]
    ) -> None:
        wall_time = self._stores.state.wall_time
        overall = int(self._stores.fs_tx_count / max(wall_time, 0.001))
        recent = 1 + int(tx_delta / max(interval, 0.001))
        eta = estimate_txs_remaining() / recent
        self._logger.info(f"tx/sec since genesis: {overall:,d}, since last flush: {recent:,d}")
        self._logger.info(
            f"sync time: {util.formatted_time(wall_time)}  ETA: {util.formatted_time(eta)}"
        )

    def write_files(self, flush_data: FlushData) -> None:
        """Step 1: append headers, tx counts and tx hashes."""
        start = time.monotonic()
        stores = self._stores
        headers, blobs = flush_data.headers, flush_data.block_tx_hashes
        assert len(blobs) == len(headers)
        assert flush_data.height == stores.fs_height + len(headers)
        added = sum(map(len, blobs)) // HASH_LEN
        assert flush_data.tx_count == stores.fs_tx_count + added
        stores.append_blocks(headers, blobs)
        headers.clear()
        blobs.clear()
        if stores.opened_for_sync:
            self._logger.info(f"flushed filesystem data in {time.monotonic() - start:.2f}s")

    def write_history(self, flush_data: FlushData) -> None:
        """Step 2: one history flush."""
        start = time.monotonic()
        count = self._history.flush(flush_data.history)
        fault_point("flush: history written")
        if self._stores.opened_for_sync:
            elapsed = time.monotonic() - start
            self._logger.info(f"flushed history in {elapsed:.1f}s for {count:,d} addrs")

    def write_utxos(self, flush_data: FlushData, flush_utxos: bool) -> None:
        """Step 3: the state row, and with ``flush_utxos`` UTXOs and undo rows before it."""
        stores = self._stores
        with stores.committing():
            self._commit_utxos(flush_data, flush_utxos)
        assert stores.utxo_db
        stores.utxo_db.put(STATE_KEY, stores.state_row(stores.state))
        fault_point("flush: state written again")

    def _commit_utxos(self, flush_data: FlushData, flush_utxos: bool) -> None:
        stores = self._stores
        assert stores.utxo_db
        state = stores.state
        with stores.utxo_db.write_batch() as batch:
            if flush_utxos:
                self.put_utxos(batch, flush_data)
                for undo_info, height in flush_data.undo_infos:
                    batch.put(undo_key(height), b"".join(undo_info))
                if not state.first_sync:
                    stores.recent_blocks.prune_undo_rows(batch, flush_data.height)
                state = replace(
                    state,
                    height=flush_data.height,
                    tx_count=flush_data.tx_count,
                    tip=flush_data.tip,
                    utxo_flush_count=self._history.flush_count,
                )
            state = stores.timed(state)
            batch.put(STATE_KEY, stores.state_row(state))
        fault_point("flush: UTXOs written")
        if flush_utxos:
            flush_data.adds.clear()
            flush_data.deletes.clear()
            flush_data.undo_infos.clear()
        # Written once more, unsynced, so that it counts the time the commit took.
        stores.state = stores.timed(state)

    def put_utxos(self, batch: WriteBatch, flush_data: FlushData) -> None:
        """Write deletes, then the UTXOs: a key may be in both, and must then remain."""
        start = time.monotonic()
        stores = self._stores
        flush_data.deletes.delete_rows(batch.delete)
        flush_data.adds.put_rows(batch.put)
        if stores.opened_for_sync:
            blocks = flush_data.height - stores.state.height
            txs = flush_data.tx_count - stores.state.tx_count
            self._logger.info(
                f"flushed {blocks:,d} blocks with {txs:,d} txs, {len(flush_data.adds):,d} UTXO "
                f"adds, {len(flush_data.deletes) // 2:,d} spends in "
                f"{time.monotonic() - start:.1f}s, committing..."
            )

    # -- flushing backward

    def flush_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        """Commit the undoing of blocks down to ``flush_data.height``.

        ``touched`` has every script with history in an undone block.  Nothing may wait for a
        forward flush.  The module's docstring explains why the order of the writes is safe.
        """
        with self._stores.committing():
            self._commit_backup(flush_data, touched)

    def _commit_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        stores, history = self._stores, self._history
        assert stores.utxo_db
        assert not flush_data.headers
        assert not flush_data.block_tx_hashes
        assert not flush_data.undo_infos
        assert flush_data.height < stores.state.height
        history.assert_flushed(flush_data.history)
        start = time.monotonic()
        hashXs = sorted(touched)
        count = history.flush_count
        assert stores.state.utxo_flush_count == count
        # 1
        stores.set_flush_count(count + 1)
        fault_point("reorg: state announces staging")
        # 2
        removed = history.stage(hashXs, flush_data.tx_count)
        fault_point("reorg: history staged")
        # 3
        state = replace(
            stores.timed(stores.state),
            height=flush_data.height,
            tx_count=flush_data.tx_count,
            tip=flush_data.tip,
            utxo_flush_count=count,
        )
        with stores.utxo_db.write_batch() as batch:
            self.put_utxos(batch, flush_data)
            batch.put(STATE_KEY, stores.state_row(state))
        fault_point("reorg: UTXOs written")
        stores.set_undone(state)
        self._header_mc.truncate(state.height + 1)
        flush_data.adds.clear()
        flush_data.deletes.clear()
        # 4
        history.drop_staged(hashXs)
        fault_point("reorg: staged history dropped")
        self._logger.info(f"backing up removed {removed:,d} history entries")
        self._logger.info(
            f"backup flush #{count:,d} took {time.monotonic() - start:.1f}s.  Height "
            f"{state.height:,d} txs: {state.tx_count:,d}"
        )
