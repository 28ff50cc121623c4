"""Reads for clients: histories, UTXOs, balances, and the transactions of a block.

The ``async`` methods, and those that return a ``PendingRead``, run on the event loop;
threads of the :class:`~electrumx.server.db.read_pool.ReadPool` read, concurrently with a flush.

What a read sees
================

An iterator over a store is a snapshot, flat files only grow, and the committed state is one object;
but a read uses several of them, and a flush or a reorganisation may come between.

- *History* reaches the disk before the state row: a read leaves out entries of transactions that the
  state, looked at after it, does not count.
- *UTXOs* are in the same batch as the state row, and the state in memory follows at once: a UTXO of
  a transaction that it does not count yet makes the pool repeat the read.
- *A reorganisation* changes ``backup_count``: the pool repeats a read during which it changed.  A
  cached result is valid as long as that count is the same.
- ``commit_seq`` is odd during a write of UTXOs and state, and grows with each time.  A read
  during which it was even and stayed the same has raced nothing: an invalid row is damage, and the
  read fails with DBDamagedError, which names the row.
"""

from collections.abc import Callable
from struct import error as struct_error
from typing import NamedTuple, TypeVar

from electrumx.server.db import wire_rows
from electrumx.server.db.read_pool import RACED, TOO_MUCH, PendingRead, ReadPool, ReadStatus
from electrumx.server.db.stores import Stores
from electrumx.server.storage import damage
from electrumx.server.storage.base import NO_BOUND
from electrumx.server.storage.schema import (
    HASH_LEN,
    TXNUM_LEN,
    UTXO,
    UTXO_KEY_LEN,
    UTXO_PREFIX,
    VALUE_LEN,
    DBError,
    cut_row,
)

T = TypeVar("T")

#: bytes of history, and UTXOs, that a small read takes at most: about a millisecond's worth
SMALL_HISTORY_BYTES = 2_000 * TXNUM_LEN
SMALL_UTXOS = 1_000
#: bytes of a ``u`` row, key and value
UTXO_ROW_LEN = UTXO_KEY_LEN + VALUE_LEN
#: hashX, bytes of numbers at most, number before the first, whether only to count so many
WantedHistory = tuple[bytes, int | None, int, bool]


class PackedHistory(NamedTuple):
    """Entries of a script's history."""

    #: see ``wire_rows``
    entries: bytes
    #: the last one's transaction number; without entries the number asked from
    last_tx_num: int
    #: of the database when it was read
    backup_count: int
    #: whether there are as many as wanted, or more, and the read returned only their numbers
    only_counted: bool = False


class PackedUTXOs(NamedTuple):
    """A script's unspent outputs."""

    #: see ``wire_rows``
    utxos: bytes
    #: of the database when it was read
    backup_count: int


class Balance(NamedTuple):
    """The sum of a script's unspent outputs."""

    #: how many there are
    utxo_count: int
    #: in satoshis
    value: int
    #: of the database when it was read
    backup_count: int


class Queries:
    """Reads of open stores, by the threads of a pool."""

    def __init__(self, stores: Stores, read_pool: ReadPool) -> None:
        self._stores = stores
        self._read_pool = read_pool

    @property
    def backup_count(self) -> int:
        """The number of times that committed blocks were undone."""
        return self._stores.backup_count

    def steady_read(self, read: Callable[[bool], T | ReadStatus | None]) -> PendingRead[T]:
        """Run a read in a thread, again if a reorganisation came between, or it returns None.

        So ``backup_count`` is the same wherever a read whose result is used has looked at it.
        """
        stores = self._stores

        def guarded(bounded: bool) -> T | ReadStatus:
            backups = stores.backup_count
            result = read(bounded)
            return RACED if result is None or backups != stores.backup_count else result

        return self._read_pool.read(guarded)

    # -- history

    def history_entries(
        self, hashX: bytes, *, limit: int | None = None, after: int = -1, only_below: bool = False
    ) -> PendingRead[PackedHistory]:
        """Return the first ``limit`` entries (None: all) beyond transaction number ``after``.

        With ``only_below`` they are no more than counted where there are that many: each hash would
        be a read of the disk.
        """
        max_bytes = None if limit is None else limit * TXNUM_LEN
        return self._read_pool.join(self._read_histories, (hashX, max_bytes, after, only_below))

    def _read_histories(
        self, wanted: list[WantedHistory], bounded: bool
    ) -> list[PackedHistory | ReadStatus]:
        """Return the wanted histories."""
        stores = self._stores
        backups, seq = stores.backup_count, stores.commit_seq
        rows = self._history_rows(wanted, bounded)
        too_much = SMALL_HISTORY_BYTES if bounded else NO_BOUND
        files = stores.files
        # After the read: see the module's docstring.
        tx_count = stores.state.tx_count
        full = {
            number
            for number, (_hashX, most, _after, only_below) in enumerate(wanted)
            if only_below and most and len(rows[number]) == most == cut_row(rows[number], tx_count)
        }
        try:
            found = wire_rows.pack_histories(
                [
                    row if len(row) <= too_much and number not in full else b""
                    for number, row in enumerate(rows)
                ],
                tx_count,
                stores.tx_counts,
                files.hash_file,
                files.hashes_per_file,
            )
        except (ValueError, struct_error):
            # The pool reads each of a batch again alone.
            for hashX, *_rest in wanted:
                self._refuse_damaged_history(hashX, seq)
            raise
        if backups != stores.backup_count:
            return [RACED] * len(wanted)
        result: list[PackedHistory | ReadStatus] = []
        for number, (row, history) in enumerate(zip(rows, found, strict=True)):
            hashX, _most, after, _only_below = wanted[number]
            if number in full:
                last_tx_num = int.from_bytes(row[-TXNUM_LEN:], "little")
                result.append(PackedHistory(b"", last_tx_num, backups, only_counted=True))
            elif history is None:
                self._refuse_damaged_history(hashX, seq)
                result.append(RACED)
            elif len(row) > too_much:
                result.append(TOO_MUCH)
            else:
                entries, last_tx_num = history
                if len(row) * wire_rows.HISTORY_ENTRY_LEN != len(entries) * TXNUM_LEN:
                    # Some are left out: not committed yet, or no transactions.
                    self._refuse_damaged_history(hashX, seq)
                result.append(PackedHistory(entries, last_tx_num if entries else after, backups))
        return result

    def _raced_since(self, seq: int) -> bool:
        """Return whether a commit or a reorg came since ``commit_seq`` was ``seq``."""
        return bool(seq & 1) or seq != self._stores.commit_seq

    def _refuse_damaged_history(self, hashX: bytes, seq: int) -> None:
        """Raise DBDamagedError for a damaged row of a script's history, if the read raced nothing.

        Flat files come first in a flush, so they have every transaction that a row may name.
        """
        if self._raced_since(seq):
            return
        stores = self._stores
        assert stores.history.db
        rows = stores.gate.rows(stores.history.db.iterator(prefix=hashX))
        fault = damage.history_fault(rows, stores.fs_tx_count, stores.files.tx_hashes)
        if fault and not self._raced_since(seq):
            raise stores.damage_log.error(fault)

    def _history_rows(self, wanted: list[WantedHistory], bounded: bool) -> list[bytes]:
        """Return the numbers of each wanted history; of long ones, if bounded, too many."""
        history = self._stores.history
        small = SMALL_HISTORY_BYTES + TXNUM_LEN
        if not bounded:
            return [history.packed_tx_nums(*one[:3]) for one in wanted]
        whole = [hashX for hashX, _most, after, _only_below in wanted if after < 0]
        first = iter(history.first_tx_nums(whole, small))
        return [
            (next(first) if after < 0 else history.packed_tx_nums(hashX, small, after))[:most]
            for hashX, most, after, _only_below in wanted
        ]

    async def limited_history(
        self, hashX: bytes, *, limit: int | None = 1000
    ) -> list[tuple[bytes, int]]:
        """Return (tx hash, height) of a script's first ``limit`` transactions, in chain order."""
        found = await self.history_entries(hashX, limit=limit)
        return wire_rows.entries_of(found.entries)

    # -- UTXOs

    def _packed(self, rows: wire_rows.UTXORows) -> bytes | None:
        stores = self._stores
        files = stores.files
        return wire_rows.pack_utxos(
            rows, stores.state.tx_count, stores.tx_counts, files.hash_file, files.hashes_per_file
        )

    def _of_utxos(
        self, read: Callable[[wire_rows.UTXORows], T | None], hashXs: list[bytes], bounded: bool
    ) -> list[T | ReadStatus]:
        """Return ``read(rows)`` of each script's rows; None from it means that it raced."""
        stores = self._stores
        assert stores.utxo_db
        backups, seq = stores.backup_count, stores.commit_seq
        prefixes = [UTXO_PREFIX + hashX for hashX in hashXs]
        if bounded:
            found = stores.utxo_db.rows_of(prefixes, (SMALL_UTXOS + 1) * UTXO_ROW_LEN)
        else:
            rows_of = stores.gate.rows
            found = [rows_of(stores.utxo_db.iterator(prefix=prefix)) for prefix in prefixes]
        results: list[T | ReadStatus] = []
        for rows in found:
            if bounded and len(rows) > SMALL_UTXOS:
                results.append(TOO_MUCH)
                continue
            try:
                result = read(rows)
            except (ValueError, struct_error):
                self._refuse_damaged_utxos(rows, seq)
                raise
            if result is None:
                self._refuse_damaged_utxos(rows, seq)
            results.append(RACED if result is None else result)
        return results if backups == stores.backup_count else [RACED] * len(hashXs)

    def _refuse_damaged_utxos(self, rows: wire_rows.UTXORows, seq: int) -> None:
        """Raise DBDamagedError for a damaged row of a script, if the read raced nothing."""
        if self._raced_since(seq):
            return
        stores = self._stores
        for row in rows:
            fault = damage.utxo_row_fault(row, stores.state.tx_count, stores.files.tx_hashes)
            if fault and not self._raced_since(seq):
                raise stores.damage_log.error(fault)

    def packed_utxos(self, hashX: bytes) -> PendingRead[PackedUTXOs]:
        """Return all unspent outputs of a script, packed and in chain order."""
        return self._read_pool.join(self._read_packed_utxos, hashX)

    def _read_packed_utxos(
        self, hashXs: list[bytes], bounded: bool
    ) -> list[PackedUTXOs | ReadStatus]:
        def read(rows: wire_rows.UTXORows) -> PackedUTXOs | None:
            packed = self._packed(rows)
            return None if packed is None else PackedUTXOs(packed, self._stores.backup_count)

        return self._of_utxos(read, hashXs, bounded)

    def balance(self, hashX: bytes) -> PendingRead[Balance]:
        """Return the number and the sum of a script's unspent outputs."""
        return self._read_pool.join(self._read_balances, hashX)

    def _read_balances(self, hashXs: list[bytes], bounded: bool) -> list[Balance | ReadStatus]:
        def read(rows: wire_rows.UTXORows) -> Balance | None:
            value = wire_rows.sum_utxos(rows, self._stores.state.tx_count)
            return None if value is None else Balance(len(rows), value, self._stores.backup_count)

        return self._of_utxos(read, hashXs, bounded)

    async def all_utxos(self, hashX: bytes) -> list[UTXO]:
        """Return all unspent outputs of a script, in chain order."""
        utxos: list[UTXO] = await self._read_pool.join(self._read_utxos, hashX)
        return utxos

    def _read_utxos(self, hashXs: list[bytes], bounded: bool) -> list[list[UTXO] | ReadStatus]:
        def read(rows: wire_rows.UTXORows) -> list[UTXO] | None:
            packed = self._packed(rows)
            if packed is None:
                return None
            tx_nums = sorted(int.from_bytes(key[-TXNUM_LEN:], "little") for key, _value in rows)
            return [
                UTXO(tx_num, txout_idx, tx_hash, height, value)
                for tx_num, (tx_hash, height, txout_idx, value) in zip(
                    tx_nums, wire_rows.utxos_of(packed), strict=True
                )
            ]

        return self._of_utxos(read, hashXs, bounded)

    # -- transactions

    def block_tx_hashes(self, block_height: int) -> PendingRead[bytes]:
        """Return the hashes of a block's transactions, in their order, joined.

        It raises DBError for an uncommitted height.
        """
        stores = self._stores

        def read(_bounded: bool) -> bytes:
            db_height = stores.state.height
            if not 0 <= block_height <= db_height:
                raise DBError(f"block {block_height:,d} not on disk (>{db_height:,d})")
            first = stores.tx_counts[block_height - 1] if block_height else 0
            count = stores.tx_counts[block_height] - first
            hashes = stores.files.read_tx_hashes(first, count)
            if len(hashes) != count * HASH_LEN:
                raise stores.damage_log.error(
                    f"hashes of transactions {first:,d} to {first + count - 1:,d} are missing from "
                    "meta/hashes"
                )
            return hashes

        return self._read_pool.read(read)

    async def tx_hashes_at_blockheight(self, block_height: int) -> list[bytes]:
        """Return the hashes of a block's transactions, in their order.

        Raise DBError for an uncommitted height.
        """
        raw = await self.block_tx_hashes(block_height)
        return [raw[n : n + HASH_LEN] for n in range(0, len(raw), HASH_LEN)]
