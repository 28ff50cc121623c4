"""The history of every script: rows of transaction numbers in the ``hist`` store.

Owns the ``hist`` store, its state and the unflushed history of the pure-Python implementation.

Runs in: a worker thread with the block processor's state lock held; :meth:`History.get_txnums`,
:meth:`History.packed_tx_nums` and :meth:`History.first_tx_nums` in any thread at any time (an
iterator is a consistent snapshot).

Theory
------
A flush appends one row for each script it touched; the row's key ends in the id of the flush, so
a script's rows in key order are its history in chain order.  The ``utxo`` store notes, in the same
batch as the UTXOs, how many history flushes it has seen (``utxo_flush_count``).  A flush writes
history first; rows with a higher id than that count are *orphaned*: the UTXOs of their flush never
reached the disk.  :meth:`History.clear_excess` deletes them at opening.

Undoing blocks removes entries from *old* rows, which that rule cannot restore.  So a reorg does not
delete the entries that it removes at once: :meth:`History.stage` stages them, in rows of the next flush
id, and only when the UTXOs are at the lower height does
:meth:`History.drop_staged` delete those rows.  ``db.flusher`` describes the whole order, and why a
stop between any two steps is harmless.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Protocol

from electrumx.lib import util
from electrumx.lib.hash import HASHX_LEN
from electrumx.server.history import row_compaction, upgrade
from electrumx.server.history.change_log import ChangeLog
from electrumx.server.history.flush_journal import FlushJournal
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage import schema
from electrumx.server.storage.base import Storage
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    HIST_LOOKUP_LEN,
    HIST_STATE_KEY,
    HIST_VERSION,
    MAX_FLUSH_ID,
    TXNUM_LEN,
    DBError,
    HistState,
    cut_row,
    hist_key,
    hist_key_flush_id,
)
from electrumx.server.storage.tuning import Tuning


class PendingHistory(Protocol):
    """Unflushed history of the Cython implementation."""

    def has_history(self) -> bool:
        """Return whether there is any."""

    def history_hashXs(self) -> set[bytes]:
        """Return the hashXs of scripts that have some."""

    def sort_history(self) -> None:
        """Sort it by script, before putting rows."""

    def packed_hashXs(self) -> Iterable[bytes]:
        """Return the hashXs of its scripts, joined, in pieces, after sorting."""

    def put_history(
        self, put: Callable[[bytes, bytes], None], flush_id: bytes, max_bytes: int
    ) -> int:
        """Call ``put(hashX + flush_id, row)`` for the next scripts; return how many, 0 at the end."""

    def clear_history(self) -> None:
        """Note that it is on disk."""


class History:
    """The ``hist`` store; closed until :meth:`open_db`."""

    DB_VERSIONS = [0, HIST_VERSION]
    #: flushes after which a serving server compacts rows
    COMPACT_FLUSH_COUNT = 60_000
    #: flushes after which opening compacts them, before anything else
    OPEN_COMPACT_FLUSH_COUNT = 65_000
    #: flushes after which no block is processed before their compaction.  A few ids remain for the
    #: flush that makes both stores agree, and for staged rows.
    HOLD_FLUSH_COUNT = MAX_FLUSH_ID - 8
    #: approximate bytes of rows in one batch of a flush; an engine takes a multiple of it
    BATCH_BYTES = 4_000_000
    #: orphaned rows deleted in one batch
    CLEAR_KEYS = 100_000

    def __init__(
        self,
        gate: StoreGate | None = None,
        set_utxo_flush_count: Callable[[int], None] = lambda _count: None,
        before_clearing: Callable[[], None] = lambda: None,
        tuning: Tuning | None = None,
        utxo_flush_count: Callable[[], int | None] = lambda: None,
    ) -> None:
        """``gate``: of the database that the store is part of; without it, a gate of its own.

        ``set_utxo_flush_count`` writes the flush count of the ``utxo`` store, synced.
        ``before_clearing`` repairs the open store before the deletion of orphaned rows.
        ``utxo_flush_count`` returns the flush count of the ``utxo`` store, None while that is empty:
        then all rows are orphaned, and the :class:`FlushJournal` notes no flush.
        """
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        #: entries that a compacted row holds at most
        self.max_hist_row_entries = 12_500
        #: hashX -> transaction numbers LE5, ascending, not yet on disk
        self.unflushed: defaultdict[bytes, bytearray] = defaultdict(bytearray)
        self.unflushed_count = 0
        self.state = HistState()
        self.db: Storage | None = None
        #: scripts that changed since a compaction read them
        self.changes = ChangeLog()
        self.gate = gate or StoreGate()
        self.set_utxo_flush_count = set_utxo_flush_count
        self._before_clearing = before_clearing
        self._tuning = tuning
        self.utxo_flush_count = utxo_flush_count
        self._journal: FlushJournal | None = None

    # -- opening

    @property
    def flush_count(self) -> int:
        """The id of the last flush."""
        return self.state.flush_count

    @flush_count.setter
    def flush_count(self, count: int) -> None:
        self.state.flush_count = count

    @property
    def comp_flush_count(self) -> int:
        """The highest id that an interrupted compaction has written, or -1."""
        return self.state.comp_flush_count

    @comp_flush_count.setter
    def comp_flush_count(self, count: int) -> None:
        self.state.comp_flush_count = count

    @property
    def comp_cursor(self) -> int:
        """The first key prefix that an interrupted compaction has left to do, or -1."""
        return self.state.comp_cursor

    @comp_cursor.setter
    def comp_cursor(self, cursor: int) -> None:
        self.state.comp_cursor = cursor

    @property
    def db_version(self) -> int:
        """The version of the store's layout."""
        return self.state.db_version

    def open_db(
        self,
        db_class: type[Storage],
        for_sync: bool,
        utxo_flush_count: int,
        compacting: bool,
        name: str = "hist",
        tx_count: int = 0,
    ) -> int:
        """Open the store, delete orphaned rows and return the flush count.

        ``utxo_flush_count`` and ``tx_count`` are the flushes and transactions that the ``utxo``
        store has seen; ``name`` is the store's folder.  Raise DBError if it is unusable.
        """
        # Before the engine changes what shows who opened it last.
        self._journal = FlushJournal(name)
        self.db = self.new_store(db_class, name, for_sync)
        self._read_state()
        if self.state.db_version != HIST_VERSION:
            upgrade.upgrade_history(self.db, self.state, self.logger)
        self._before_clearing()
        self.clear_excess(utxo_flush_count, tx_count)
        self._repair_compaction(compacting)
        return self.flush_count

    def new_store(self, db_class: type[Storage], name: str, for_sync: bool) -> Storage:
        """Open a store of histories in a folder."""
        return db_class(
            name,
            for_sync,
            # Hashes and numbers: a sixth smaller at most.
            compressible=False,
            prefix_len=HIST_LOOKUP_LEN,
            tuning=self._tuning,
        )

    def close_db(self) -> None:
        """Close the store; harmless when already closed."""
        with self.gate.exclusive():
            if self.db:
                self.db.close()
                self.db = None

    def _read_state(self) -> None:
        assert self.db
        raw = self.db.get(HIST_STATE_KEY)
        self.state = HistState.parse(raw) if raw else HistState()
        if self.state.db_version not in self.DB_VERSIONS:
            raise DBError(
                f"history DB version {self.state.db_version} is not supported, only "
                f"{self.DB_VERSIONS}: use the server that wrote it, or another DB_DIRECTORY"
            )

    def _repair_compaction(self, compacting: bool) -> None:
        """Make an interrupted compaction safe, and cancel it unless ``compacting``.

        With a low flush count, a compaction of ElectrumX creates rows with ids above it; the next
        flushes would overwrite them.  So first raise both counts above them.
        """
        state = self.state
        if state.comp_cursor == -1 and state.comp_flush_count == -1:
            return
        raised = state.comp_flush_count > state.flush_count
        if raised:
            state.flush_count = state.comp_flush_count
            self.set_utxo_flush_count(state.flush_count)
            fault_point("open: flush count raised")
        if not compacting:
            self.logger.warning("cancelling in-progress history compaction")
            state.comp_flush_count = state.comp_cursor = -1
        if raised or not compacting:
            row_compaction.write_state(self)
            fault_point("open: compaction forgotten")

    def clear_excess(self, utxo_flush_count: int, tx_count: int = 0) -> None:
        """Delete the rows of flushes that the ``utxo`` store has not seen.

        Those start at transaction ``tx_count`` or above.  Other rows with a high id are of a
        compaction, and are committed history: they stay, and the counts rise to cover them.
        """
        state = self.state
        if state.flush_count <= utxo_flush_count:
            return
        assert self.db
        self.logger.info("DB shut down uncleanly.  Scanning for excess history flushes...")
        count = 0
        keys: list[bytes] = []
        limit = utxo_flush_count
        for key, row in self._rows_since(utxo_flush_count):
            if int.from_bytes(row[:TXNUM_LEN], "little") < tx_count:
                limit = max(limit, hist_key_flush_id(key))
                continue
            if len(keys) == self.CLEAR_KEYS:
                # The counts stay, so that a stop here makes the next opening go on.
                self.delete_rows(keys)
                keys.clear()
            keys.append(key)
            count += 1
        if limit > utxo_flush_count:
            # First: under the raised count rows with lower ids count as committed.
            self.delete_rows(keys)
            keys.clear()
            self.set_utxo_flush_count(limit)
            fault_point("open: flush count raised over a compaction's rows")
        state.flush_count = limit
        self.delete_rows(keys, state)
        fault_point("open: excess history deleted")
        self.logger.info(f"deleted {count:,d} excess history entries")

    def delete_rows(self, keys: list[bytes], state: HistState | None = None) -> None:
        """Delete rows, and write ``state``, if any, in the same batch."""
        assert self.db
        with self.db.write_batch() as batch:
            for key in keys:
                batch.delete(key)
            if state is not None:
                batch.put(HIST_STATE_KEY, state.pack())

    def has_noted_since(self, utxo_flush_count: int) -> bool:
        """Return whether all flushes that the ``utxo`` store has not seen are this program's.

        Then nothing else has opened the store since.
        """
        assert self._journal
        return self._journal.sections(utxo_flush_count + 1, self.state.flush_count) is not None

    def _rows_since(self, utxo_flush_count: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows, key and value, of flushes that the ``utxo`` store has not seen."""
        assert self.db
        assert self._journal
        first_id = utxo_flush_count + 1
        noted = self._journal.sections(first_id, self.state.flush_count)
        if noted is None:
            for key, row in self.db.iterator():
                if len(key) == HIST_KEY_LEN and hist_key_flush_id(key) >= first_id:
                    yield key, row
            return
        count = sum(section.scripts for section in noted)
        self.logger.info(f"looking at the {count:,d} rows of the flushes that were interrupted")
        for section in noted:
            flush_id = hist_key(b"", section.flush_id)
            for hashX in self._journal.hashXs(section):
                value = self.db.get(hashX + flush_id)
                if value is not None:
                    yield hashX + flush_id, value

    def _note_flush(self, hashXs: Callable[[], Iterable[bytes]]) -> None:
        """Note the scripts of a flush, before writing its rows; ``hashXs`` returns them."""
        committed = self.utxo_flush_count()
        if committed is not None and self._journal is not None:
            is_first = committed >= self.flush_count - 1
            journal, flush_id = self._journal, self.flush_count

            def note() -> None:
                journal.write(flush_id, hashXs(), is_first=is_first)

            assert self.db
            self.db.write_beside(note, "noting the scripts of a flush")
            fault_point("flush: history noted")

    # -- forward

    def add_unflushed(self, hashXs_by_tx: Iterable[Iterable[bytes]], first_tx_num: int) -> None:
        """Add consecutive transactions, the first numbered ``first_tx_num``, to their scripts.

        Each transaction's hashXs must be free of duplicates.
        """
        unflushed = self.unflushed
        count = 0
        tx_num = first_tx_num
        for tx_num, hashXs in enumerate(hashXs_by_tx, start=first_tx_num):
            packed = tx_num.to_bytes(TXNUM_LEN, "little")
            for hashX in hashXs:
                unflushed[hashX] += packed
                count += 1
        self.unflushed_count += count

    def unflushed_memsize(self) -> int:
        """Return an estimate, in bytes, of the memory that unflushed history takes."""
        return len(self.unflushed) * 180 + self.unflushed_count * TXNUM_LEN

    def assert_flushed(self, pending: PendingHistory | None = None) -> None:
        """Assert that nothing waits for a flush."""
        assert not self.unflushed
        assert not (pending and pending.has_history())

    def flush(self, pending: PendingHistory | None = None) -> int:
        """Write the unflushed history, and ``pending``, as one flush; return for how many scripts.

        Synced in batches of BATCH_BYTES.
        """
        assert self.db
        if self.flush_count >= MAX_FLUSH_ID:
            raise DBError(
                f"all {MAX_FLUSH_ID:,d} history flushes are used: run electrumx_compact_history"
            )
        self.flush_count += 1
        self.changes.note_flush(self.unflushed)
        if pending and self.changes.active:
            self.changes.note_flush(pending.history_hashXs())
        flush_id = schema.hist_key(b"", self.flush_count)
        touched = sorted(self.unflushed)
        put_rows = self._row_writers(flush_id, pending)
        if pending and pending.has_history():
            self._note_flush(lambda: chain(touched, pending.packed_hashXs()))
        else:
            self._note_flush(lambda: touched)
        count = 0
        # The state row is in the first batch: a stop after it leaves a count above the one that
        # the UTXOs have seen, so opening deletes whichever rows are there.  Rows leave memory as
        # they enter the engine's.
        state_due = True
        while put_rows or state_due:
            with self.db.write_batch() as batch:
                if state_due:
                    batch.put(HIST_STATE_KEY, self.state.pack())
                    state_due = False
                written = put_rows[0](batch.put) if put_rows else 0
            count += written
            if not written:
                del put_rows[:1]
        self.unflushed_count = 0
        if pending:
            pending.clear_history()
        return count

    def _row_writers(
        self, flush_id: bytes, pending: PendingHistory | None
    ) -> list[Callable[[Callable[[bytes, bytes], None]], int]]:
        """Return functions that each put a batch of rows, and return how many, until it is 0."""
        writers: list[Callable[[Callable[[bytes, bytes], None]], int]] = []
        unflushed = self.unflushed
        hashXs = sorted(unflushed, reverse=True)

        def put_unflushed(put: Callable[[bytes, bytes], None]) -> int:
            size = count = 0
            while hashXs and size < self.BATCH_BYTES:
                hashX = hashXs.pop()
                row = bytes(unflushed.pop(hashX))
                put(hashX + flush_id, row)
                size += len(row) + HIST_KEY_LEN
                count += 1
            return count

        if hashXs:
            writers.append(put_unflushed)
        if pending and pending.has_history():
            pending.sort_history()
            writers.append(lambda put: pending.put_history(put, flush_id, self.BATCH_BYTES))
        return writers

    # -- undoing

    def stage(self, hashXs: Iterable[bytes], tx_count: int) -> int:
        """Stage all entries of transactions from ``tx_count`` on in rows of the next flush id.

        ``hashXs`` must have every script that has such an entry.  Return the number of entries.
        Concurrent readers see each script's history unchanged.
        """
        assert self.db
        staged_id = self.flush_count + 1
        assert staged_id <= MAX_FLUSH_ID
        hashXs = sorted(hashXs)
        self.changes.note_cut(hashXs)
        self.flush_count = staged_id
        self._note_flush(lambda: hashXs)
        count = 0
        with self.db.write_batch() as batch:
            for hashX in hashXs:
                staged: list[bytes] = []
                for key, row in self.db.iterator(prefix=hashX, reverse=True):
                    keep = cut_row(row, tx_count)
                    if keep < len(row):
                        staged.append(row[keep:])
                    if keep:
                        if keep < len(row):
                            batch.put(key, row[:keep])
                        break
                    batch.delete(key)
                if staged:
                    staged_row = b"".join(reversed(staged))
                    count += len(staged_row) // TXNUM_LEN
                    batch.put(hist_key(hashX, staged_id), staged_row)
            batch.put(HIST_STATE_KEY, self.state.pack())
        return count

    def drop_staged(self, hashXs: Iterable[bytes]) -> None:
        """Delete the rows that :meth:`stage` wrote."""
        assert self.db
        staged_id = self.flush_count
        self.flush_count = staged_id - 1
        with self.db.write_batch() as batch:
            for hashX in hashXs:
                batch.delete(hist_key(hashX, staged_id))
            batch.put(HIST_STATE_KEY, self.state.pack())

    def backup(self, hashXs: Iterable[bytes], tx_count: int) -> int:
        """Remove all entries of transactions from ``tx_count`` on; return how many there were."""
        hashXs = list(hashXs)
        count = self.stage(hashXs, tx_count)
        self.drop_staged(hashXs)
        return count

    # -- reading

    def get_txnums(self, hashX: bytes, limit: int | None = 1000) -> Iterator[int]:
        """Yield the numbers of a script's first ``limit`` transactions (None: all), ascending.

        Runs in a thread: it reads the store.
        """
        assert self.db
        assert len(hashX) == HASHX_LEN
        max_count = util.resolve_limit(limit)
        # Unpack no more of a row than wanted: a compacted one has thousands of numbers.
        end = None if max_count < 0 else max_count * TXNUM_LEN
        numbers = (
            tx_num
            for _key, row in self.db.iterator(prefix=hashX)
            for tx_num in schema.unpack_tx_nums(row[:end])
        )
        return numbers if max_count < 0 else islice(numbers, max_count)

    def packed_tx_nums(self, hashX: bytes, max_bytes: int | None = None, after: int = -1) -> bytes:
        """Return the numbers of a script's transactions beyond ``after``, ascending, LE5 each.

        At most the first ``max_bytes`` (None: all).  With ``after``, read rows from the last one
        back, and no more than needed: a much used script has a long history and additions in each
        block.  Runs in a thread.
        """
        assert self.db
        assert len(hashX) == HASHX_LEN
        parts: list[bytes] = []
        if after < 0:
            size = 0
            for _key, row in self.db.iterator(prefix=hashX):
                parts.append(row)
                size += len(row)
                self.gate.check()
                if max_bytes is not None and size >= max_bytes:
                    break
        else:
            for _key, row in self.db.iterator(prefix=hashX, reverse=True):
                if int.from_bytes(row[:TXNUM_LEN], "little") <= after:
                    parts.append(row[cut_row(row, after + 1) :])
                    break
                parts.append(row)
                self.gate.check()
            parts.reverse()
        return b"".join(parts)[:max_bytes]

    def first_tx_nums(self, hashXs: list[bytes], max_bytes: int) -> list[bytes]:
        """Return :meth:`packed_tx_nums` of each of many scripts, in half the time."""
        assert self.db
        # Enough rows for max_bytes even if each row has one number.
        row_bytes = max_bytes + -(-max_bytes // TXNUM_LEN) * HIST_KEY_LEN
        return [
            (rows[0][1] if len(rows) == 1 else b"".join([row for _key, row in rows]))[:max_bytes]
            for rows in self.db.rows_of(hashXs, row_bytes)
        ]

    # -- compaction

    def _compact_hashX(
        self,
        hashX: bytes,
        hist_map: dict[bytes, bytes],
        hist_list: list[bytes],
        write_items: list[tuple[bytes, bytes]],
        keys_to_delete: set[bytes],
    ) -> int:
        """Merge a script's rows into full ones numbered from 0; return the bytes to write.

        ``hist_map`` has the rows by key and ``hist_list`` the rows in order.  Append rows to write
        to ``write_items`` and add keys to delete to ``keys_to_delete``.
        """
        puts, deletes = row_compaction.compact_hashX(self, hashX, hist_map, b"".join(hist_list))
        write_items += puts
        keys_to_delete |= deletes
        return sum(len(row) for _key, row in puts)

    def _compact_history(self, limit: int) -> int:
        """Compact a stopped server's history on from ``comp_cursor``.

        Stop after writing about ``limit`` bytes, and return how many; ``comp_cursor`` is -1 when
        nothing is left.
        """
        return row_compaction.compact_prefixes(self, limit)
