"""Row compaction: combines the history rows of each script, so that flush ids never run out.

Owns how rows are combined, the pass over the store that a running server makes, and the pass of a
stopped one.  The store itself, its state and its flushes are ``store``'s.

Theory of operation
===================

Each history flush takes an id of two bytes, and a server that has caught up flushes once a block.
Combining a script's rows into full ones with the ids 0, 1, 2 … frees the higher ids; after doing so
for every script, a pass lowers the flush count to the highest id in use.

**While serving** (:class:`CompactionPass`) a pass goes through three stages.

1. *Scan.* The pass reads scripts in key order without a lock, since an iterator is a consistent
   snapshot, and writes the steps found, a slice at a time, with the block processor's state lock held.
   A slice is only a bounded batch of puts and deletes; all reading comes before.  The scan does not
   read rows above the *limit*, the flush count when it started.
2. *Catch up.* A script flushed or cut since is *dirty*.  Rounds, each of which sets a new limit and
   finds fewer scripts, combine the rows above the old limit with the last one that the pass wrote.
   A :class:`Tail` remembers its place, so that no round reads the rest of a long history again, nor
   the place of its deleted rows, which an engine skips slowly.
3. *Finish.* When only a few new rows are left, the pass reads and combines them under one lock, and
   lowers the count in three writes.

A flush only adds rows above the limit, so steps prepared before it stay valid.  Undoing blocks
changes any row, so the pass drops steps of the scripts that it *cuts*, and reads those scripts from
their first row in the next round.

Why a stop anywhere is harmless: every slice leaves content and order of each script's history as
they were, and no id is above the flush count, so the disk holds at each moment a valid database for
every program that knows the layout.  The cursor is in memory only.  (On disk, it would make the
offline tool of ElectrumX continue behind rows that later flushes have added.)  New flushes always
take the next higher id, never one that the pass has freed.

A pass must not combine rows of a flush whose UTXOs are not yet committed, nor rows staged by a reorg,
since their ids distinguish them.  Their ids are above the limit, because a pass sets that only while
both stores agree on the flush count.  ``History`` logs scripts in its ``ChangeLog`` before it writes
them.

The finish, with M the highest id in use (higher, if its row was undone since): (1) the last data;
(2) ``utxo_flush_count := M`` in the ``utxo`` store; (3) ``flush_count := M`` in this one.  A stop
after (2) leaves a count above M, for which opening finds no row to delete and sets M.

**Stopped** (:func:`compact_prefixes`): the same by two-byte key prefix, with the cursor in the state
row, as ElectrumX's tool keeps it, and the same finish.

Runs in: with the state lock held, or before the server serves; :meth:`CompactionPass.prepare` in
any thread.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from electrumx.lib.hash import HASHX_LEN
from electrumx.server.history.change_log import ChangeLog
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage, used_prefixes
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    HIST_STATE_KEY,
    TXNUM_LEN,
    DBClosedError,
    HistState,
    hist_key,
    hist_key_flush_id,
)

#: key prefixes of two bytes
PREFIXES = 0x10000
PROGRESS_LOG_SECS = 10.0

Row = tuple[bytes, bytes]


class CompactableHistory(Protocol):
    """The part of the history that a compaction uses."""

    logger: logging.Logger
    db: Storage | None
    state: HistState
    max_hist_row_entries: int
    #: scripts that changed since the pass set the limit
    changes: ChangeLog
    #: passed by whatever reads the store without the state lock
    gate: StoreGate
    #: writes the flush count of the ``utxo`` store, synced
    set_utxo_flush_count: Callable[[int], None]


class Step(NamedTuple):
    """A change of one script's rows that leaves its history as it was."""

    hashX: bytes
    puts: list[Row]
    deletes: Collection[bytes]
    #: length of the rows put
    put_bytes: int


def merge_rows(
    hashX: bytes, old: Mapping[bytes, bytes], full_hist: bytes, first_id: int, row_bytes: int
) -> tuple[list[Row], set[bytes]]:
    """Split history into rows numbered from ``first_id``; return (rows to put, keys to delete).

    ``old`` has the replaced rows, by key; an unchanged one is in neither.
    """
    puts = []
    deletes = set(old)
    for n, start in enumerate(range(0, len(full_hist), row_bytes), start=first_id):
        key = hist_key(hashX, n)
        chunk = full_hist[start : start + row_bytes]
        if old.get(key) == chunk:
            deletes.discard(key)
        else:
            puts.append((key, chunk))
    return puts, deletes


def are_whole(rows: Sequence[Row], logger: logging.Logger) -> bool:
    """Return whether no row of a script is cut short: that would shift all that follows it."""
    for key, row in rows:
        if len(row) % TXNUM_LEN:
            logger.error(
                f"compacting history: row {key.hex()} of the hist store is cut short, so its "
                "script is left as it is; run electrumx_rpc verify"
            )
            return False
    return True


class RowMerger:
    """Divides the compaction of one script's rows into steps, to commit one by one.

    A step consumes some of the rows, lowest id first.  It is complete where the rows it writes have
    ids below that of the next row, so that their order is right.  The last row of a step may not be
    full; the next step combines it with more.

    The first row gets the id ``first_id``; below it all must be full rows already.

    Afterwards ``highest`` is the script's highest id, and ``merged`` whether it combined the rows,
    or left them as they are because there are too few ids.
    """

    def __init__(
        self, hashX: bytes, rows: Sequence[Row], row_bytes: int, max_id: int, first_id: int = 0
    ):
        self.hashX = hashX
        self.rows = rows
        self.row_bytes = row_bytes
        #: the highest id that a step may write
        self.max_id = max_id
        self.first_id = first_id
        self.merged = False
        self.highest = max(hist_key_flush_id(key) for key, _row in rows)

    def steps(self, max_bytes: int, max_rows: int) -> Iterator[Step]:
        """Yield the steps, each of about ``max_bytes`` or ``max_rows`` at most."""
        row_bytes = self.row_bytes
        total = sum(len(row) for _key, row in self.rows)
        if self.first_id - (-total // row_bytes) - 1 > self.max_id:
            # The next flushes would overwrite rows with ids above it.
            return
        old: dict[bytes, bytes] = {}
        parts: list[bytes] = []
        first_id = self.first_id
        size = 0
        last = len(self.rows) - 1
        for n, (key, row) in enumerate(self.rows):
            old[key] = row
            parts.append(row)
            size += len(row)
            end_id = first_id + -(-size // row_bytes)
            if n < last and (
                end_id > hist_key_flush_id(self.rows[n + 1][0])
                or (size < max_bytes and len(old) < max_rows)
            ):
                continue
            full_hist = b"".join(parts)
            puts, deletes = merge_rows(self.hashX, old, full_hist, first_id, row_bytes)
            if puts or deletes:
                yield Step(self.hashX, puts, deletes, sum(len(row) for _key, row in puts))
            first_id += size // row_bytes
            carry = full_hist[size - size % row_bytes :]
            old, parts, size = {}, [], 0
            if carry and n < last:
                old[hist_key(self.hashX, first_id)] = carry
                parts, size = [carry], len(carry)
            self.highest = end_id - 1
        self.merged = True


class Tail(NamedTuple):
    """Where a script's combined rows end: it had none above ``last_id`` up to ``limit``."""

    last_id: int
    limit: int


class CompactionPass:
    """One pass over the history of a server that keeps flushing.

    Constructed, like everything but :meth:`prepare` called, with the state lock held.
    ``committed`` returns whether both stores agree on the flush count.
    """

    #: approximate bounds of a slice: bytes written, rows changed
    SLICE_BYTES = 200_000
    SLICE_ROWS = 1_000
    #: seconds that one call of ``prepare`` takes, at most
    PREPARE_SECS = 0.05
    #: dirty scripts, and rows flushed for them, that the finish combines itself, at most
    FINISH_SCRIPTS = 16
    FINISH_ROWS = 200
    #: rows read of a script, and written, from which on their end is always remembered
    TAIL_ROWS = 10_000
    TAIL_ROWS_MADE = 50
    #: scripts of a round up to which the pass remembers the end of each.  More would take long to
    #: free, and after such a long round another one is due anyway.
    TAIL_SCRIPTS = 5_000
    #: rounds after which the pass finishes however many scripts are dirty
    MAX_ROUNDS = 50

    def __init__(self, history: CompactableHistory, committed: Callable[[], bool]):
        self._history = history
        self._committed = committed
        self._row_bytes = history.max_hist_row_entries * TXNUM_LEN
        #: rows with higher ids are neither read nor written
        self._limit = -1
        self._highest = 1
        self._prefixes_read = 0
        self._scan_started = False
        self.rounds = 0
        self._tails: dict[bytes, Tail] = {}
        self._note_all_tails = False
        #: prepared and not yet written
        self._steps: list[Step] = []
        self._source: Iterator[Step | None] = iter(())
        self.exhausted = False
        self.done = False
        self.rows_deleted = 0
        self.bytes_written = 0
        #: seconds that the longest slice, and the finish, took
        self.longest_slice = 0.0
        self.finish_secs = 0.0
        history.logger.info(f"compacting history: flush count is {history.state.flush_count:,d}")
        if committed():
            self._start_scan()

    # -- reading, in any thread

    def prepare(self) -> None:
        """Read, without a lock, until there is a slice to write or PREPARE_SECS have passed.

        Do nothing with a closed store.
        """
        try:
            with self._history.gate.reading():
                if not self.done and self._history.db is not None:
                    self._prepare()
        except DBClosedError:
            return

    def _prepare(self) -> None:
        deadline = time.monotonic() + self.PREPARE_SECS
        size = sum(step.put_bytes for step in self._steps)
        rows = sum(len(step.puts) + len(step.deletes) for step in self._steps)
        while size < self.SLICE_BYTES and rows < self.SLICE_ROWS:
            if time.monotonic() > deadline:
                return
            try:
                step = next(self._source)
            except StopIteration:
                self.exhausted = True
                return
            if step is not None:
                self._steps.append(step)
                size += step.put_bytes
                rows += len(step.puts) + len(step.deletes)

    def _scan(self) -> Iterator[Step | None]:
        """Yield the steps of all scripts, and None periodically."""
        number = 0
        while True:
            # Catching up with the chain reopens the store: it is another object then, and this
            # generator is suspended at a yield.
            assert self._history.db
            number = next(used_prefixes(self._history.db, first=number), PREFIXES)
            if number == PREFIXES:
                break
            self._prefixes_read = number
            rows = self._read(number.to_bytes(2, "big"))
            for hashX, group in groupby(rows, key=lambda row: row[0][:HASHX_LEN]):
                yield from self._merge(hashX, list(group))
            yield None
            number += 1
        self._prefixes_read = PREFIXES

    def _catch_up(self, hashXs: set[bytes]) -> Iterator[Step | None]:
        """Yield the steps of these scripts, and None periodically."""
        for hashX in sorted(hashXs):
            yield from self._merge(hashX, *self._read_tail(hashX))
            yield None

    def _read(self, prefix: bytes, start: bytes = b"") -> list[Row]:
        assert self._history.db
        return [
            row
            for row in self._history.db.iterator(prefix=prefix, start=start)
            if len(row[0]) == HIST_KEY_LEN and hist_key_flush_id(row[0]) <= self._limit
        ]

    def _read_tail(self, hashX: bytes) -> tuple[list[Row], int]:
        """Return a script's rows from the last combined one on, and the id of that one."""
        assert self._history.db
        tail = self._tails.get(hashX)
        if tail:
            key = hist_key(hashX, tail.last_id)
            row = self._history.db.get(key)
            # It is missing if a reorg just cut the script; the pass then drops the rows read here.
            if row is not None:
                rows = self._read(hashX, start=hist_key(hashX, tail.limit + 1))
                return [(key, row), *rows], tail.last_id
        return self._read(hashX), 0

    def _merge(self, hashX: bytes, rows: list[Row], first_id: int = 0) -> Iterator[Step]:
        if not rows or hashX in self._history.changes.cut:
            return
        merger = RowMerger(hashX, rows, self._row_bytes, self._limit, first_id)
        if are_whole(rows, self._history.logger):
            yield from merger.steps(self.SLICE_BYTES, self.SLICE_ROWS)
        self._highest = max(self._highest, merger.highest)
        if not merger.merged:
            self._tails.pop(hashX, None)
        elif (
            self._note_all_tails
            # A remembered end must not become stale.
            or hashX in self._tails
            or len(rows) >= self.TAIL_ROWS
            or merger.highest >= self.TAIL_ROWS_MADE
        ):
            self._tails[hashX] = Tail(merger.highest, self._limit)

    @property
    def has_work(self) -> bool:
        """Whether there is something for ``write`` to do."""
        return bool(self._steps) or self.exhausted

    # -- writing, with the state lock held

    def write(self) -> bool:
        """Write the steps prepared, and start a round or finish where that is due.

        Return False if there is nothing to do before the UTXOs of a history flush are on disk.
        """
        if self.done or self._history.db is None:
            return True
        start = time.monotonic()
        self._write_steps()
        self.longest_slice = max(self.longest_slice, time.monotonic() - start)
        if not self.exhausted:
            return True
        if not self._committed():
            return False
        if not self._scan_started:
            self._start_scan()
        elif self._little_is_left():
            self._finish()
        else:
            self._start_round()
        return True

    def run_to_end(self) -> None:
        """Run to the end without pauses.  Both stores must agree on the flush count."""
        assert self._committed()
        next_log = time.monotonic() + PROGRESS_LOG_SECS
        with self._history.gate.reading():
            while not self.done:
                self.prepare()
                self._write_steps()
                if self.exhausted and self._scan_started:
                    self._finish()
                elif self.exhausted:
                    self._start_scan()
                if time.monotonic() > next_log:
                    next_log = time.monotonic() + PROGRESS_LOG_SECS
                    self._history.logger.info(f"compacting history: {self.progress}")

    @property
    def progress(self) -> str:
        """The progress of the pass, for the log."""
        return (
            f"{100 * self._prefixes_read / PREFIXES:.1f}% of scripts read, {self.rows_deleted:,d} "
            f"rows merged, {self.bytes_written:,d} bytes written"
        )

    def _little_is_left(self) -> bool:
        """Return whether one critical section can read and combine all dirty scripts."""
        history, changes = self._history, self._history.changes
        if changes.cut:
            return False
        if self.rounds >= self.MAX_ROUNDS:
            return True
        dirty = changes.dirty
        if len(dirty) > self.FINISH_SCRIPTS:
            return False
        tails = [self._tails[hashX] for hashX in dirty if hashX in self._tails]
        rows = sum(history.state.flush_count - tail.limit for tail in tails)
        return len(tails) == len(dirty) and rows <= self.FINISH_ROWS

    def _start_scan(self) -> None:
        """Start to read all scripts."""
        self._scan_started = True
        self._set_limit()
        self._source = self._scan()

    def _start_round(self) -> None:
        """Start to read the dirty scripts."""
        self.rounds += 1
        hashXs = self._history.changes.dirty
        self._note_all_tails = len(hashXs) <= self.TAIL_SCRIPTS
        for hashX in self._history.changes.cut:
            self._tails.pop(hashX, None)
        self._set_limit()
        self._source = self._catch_up(hashXs)

    def _set_limit(self) -> None:
        """Set the limit, now that all rows are committed."""
        self._limit = self._history.state.flush_count
        self._history.changes.start()
        self.exhausted = False

    def _write_steps(self) -> None:
        """Write the steps prepared, except for scripts that were cut."""
        assert self._history.db
        steps = [step for step in self._steps if step.hashX not in self._history.changes.cut]
        self._steps = []
        if not steps:
            return
        with self._history.db.write_batch() as batch:
            # The keys of a script's deletes and puts overlap.
            for step in steps:
                for key in step.deletes:
                    batch.delete(key)
                for key, row in step.puts:
                    batch.put(key, row)
        self.rows_deleted += sum(len(step.deletes) for step in steps)
        self.bytes_written += sum(step.put_bytes for step in steps)
        fault_point("compaction: slice written")

    def _finish(self) -> None:
        """Combine the rows of scripts that are still dirty and lower the flush count."""
        start = time.monotonic()
        history = self._history
        with history.gate.reading():
            while history.changes.dirty:
                self._start_round()
                while not self.exhausted:
                    self.prepare()
                    self._write_steps()
            before = history.state.flush_count
            lower_flush_count(history, self._highest)
            history.changes.stop()
            self._tails.clear()
            self.done = True
        self.finish_secs = time.monotonic() - start
        history.logger.info(
            f"compacted history: flush count {before:,d} is now {history.state.flush_count:,d}; "
            f"{self.progress}; longest slice {self.longest_slice * 1000:.1f} ms, finish "
            f"{self.finish_secs * 1000:.1f} ms"
        )


def write_state(history: CompactableHistory) -> None:
    """Write the history's state row, synced."""
    assert history.db
    with history.db.write_batch() as batch:
        batch.put(HIST_STATE_KEY, history.state.pack())


def lower_flush_count(history: CompactableHistory, highest: int) -> None:
    """Set the flush count of both stores to the highest id in use, in a safe order."""
    fault_point("compaction: data written")
    history.set_utxo_flush_count(highest)
    fault_point("compaction: utxo flush count lowered")
    history.state.flush_count = highest
    write_state(history)
    fault_point("compaction: flush count lowered")


# -- the stopped server's


def compact_hashX(
    history: CompactableHistory, hashX: bytes, hist_map: Mapping[bytes, bytes], full_hist: bytes
) -> tuple[list[Row], set[bytes]]:
    """Combine all rows of a script; return (rows to put, keys to delete).

    Raise ``comp_flush_count`` to the highest id written.
    """
    row_bytes = history.max_hist_row_entries * TXNUM_LEN
    rows = -(-len(full_hist) // row_bytes)
    if rows > 4:
        history.logger.info(
            f"hashX {hashX.hex()} is large: {len(full_hist) // TXNUM_LEN:,d} entries "
            f"across {rows:,d} rows"
        )
    history.state.comp_flush_count = max(history.state.comp_flush_count, rows - 1)
    return merge_rows(hashX, hist_map, full_hist, 0, row_bytes)


def compact_prefixes(history: CompactableHistory, limit: int) -> int:
    """Continue from ``comp_cursor``, to write about ``limit`` bytes; return how many.

    The cursor is 0 for a new compaction, and -1 when nothing is left.
    """
    state = history.state
    cursor = state.comp_cursor
    puts: list[Row] = []
    deletes: set[bytes] = set()
    write_size = 0
    assert history.db
    for prefix in used_prefixes(history.db, first=cursor):
        for new_puts, old_keys in _compact_prefix(history, prefix.to_bytes(2, "big")):
            puts += new_puts
            deletes |= old_keys
            write_size += sum(len(row) for _key, row in new_puts)
        cursor = prefix + 1
        if write_size >= limit or len(deletes) * HIST_KEY_LEN >= limit:
            break
    else:
        cursor = PREFIXES
    _write_prefixes(history, cursor, puts, deletes)
    return write_size


def _compact_prefix(
    history: CompactableHistory, prefix: bytes
) -> Iterator[tuple[list[Row], set[bytes]]]:
    assert history.db
    state = history.state
    max_entries = history.max_hist_row_entries
    rows = (row for row in history.db.iterator(prefix=prefix) if len(row[0]) == HIST_KEY_LEN)
    for hashX, group in groupby(rows, key=lambda row: row[0][:HASHX_LEN]):
        hist_map = dict(group)
        full_hist = b"".join(hist_map.values())
        # No id above flush_count: later flushes would overwrite such a row.
        if len(full_hist) // TXNUM_LEN <= max_entries * (state.flush_count + 1) and are_whole(
            list(hist_map.items()), history.logger
        ):
            yield compact_hashX(history, hashX, hist_map, full_hist)
        else:
            highest = max(map(hist_key_flush_id, hist_map))
            state.comp_flush_count = max(state.comp_flush_count, highest)


def _write_prefixes(
    history: CompactableHistory, cursor: int, puts: list[Row], deletes: set[bytes]
) -> None:
    """Write one batch of a compaction that has done all prefixes below ``cursor``."""
    assert history.db
    state = history.state
    highest = state.comp_flush_count
    state.comp_cursor = cursor
    if cursor == PREFIXES:
        state.comp_cursor = state.comp_flush_count = -1
    with history.db.write_batch() as batch:
        for key in deletes:
            batch.delete(key)
        for key, row in puts:
            batch.put(key, row)
        batch.put(HIST_STATE_KEY, state.pack())
    fault_point("compaction: batch of prefixes written")
    if cursor == PREFIXES:
        lower_flush_count(history, highest)
