"""The questions that clients ask of the database, all of them reads.

Mixed into ``DB``, which owns the stores and the committed state.  The ``async`` methods, and those
that return futures, are called on the event loop; the reading is done by threads of the
:class:`~electrumx.server.db.read_pool.Reader`, concurrently with a flush.

What a read sees
================

An iterator over a store is a snapshot, flat files only grow, and the committed state is one object;
but a read uses several of them, and a flush or a reorganisation may come between.

- *History* is written before the state row: entries of transactions that the state, looked at
  after the read, does not count are left out.
- *Coins* are written in the same batch as the state row, and the state in memory follows at once:
  a coin of a transaction that it does not count yet makes the read be repeated.
- *A reorganisation* changes ``backup_count``: a read during which it changed is repeated.  What is
  kept of a read is good for as long as that count is the same.
- ``commit_seq`` is odd while coins and state are being written, and grows with each time.  A read
  during which it was even and stayed the same has raced nothing: what cannot be right in its rows
  is damage, and the read fails with DBDamagedError, which names the row.
"""

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Container, Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple, TypeVar

from electrumx.lib.coins import Coin
from electrumx.lib.hash import HASHX_LEN
from electrumx.lib.lru import LRUCache
from electrumx.lib.merkle import MerkleCache
from electrumx.server.db import wire_rows
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.db.read_pool import RACED, TOO_MUCH, Reader, Reading, Verdict
from electrumx.server.history.store import History
from electrumx.server.storage import damage
from electrumx.server.storage.base import NO_BOUND, Storage
from electrumx.server.storage.damage import DamageLog
from electrumx.server.storage.errors import read_error
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import (
    HASH_LEN,
    OUTPOINT_PREFIX,
    SUFFIX_LEN,
    TXNUM_LEN,
    UTXO,
    UTXO_KEY_LEN,
    UTXO_PREFIX,
    VALUE_LEN,
    ChainState,
    CoinRow,
    DBDamagedError,
    DBError,
    DBReadError,
)
from electrumx.server.storage.shortage import Patience

T = TypeVar("T")

_LE4 = Struct("<I")
_LE8 = Struct("<Q")
_TX_NUM = slice(4, SUFFIX_LEN)

#: bytes of history, and coins, that a small read takes at most: about a millisecond's worth
SMALL_HISTORY_BYTES = 2_000 * TXNUM_LEN
SMALL_COINS = 1_000
#: bytes of a ``u`` row, key and value
UTXO_ROW_LEN = UTXO_KEY_LEN + VALUE_LEN
#: headers read and remembered together, and the bytes of them that are remembered
HEADER_CHUNK = 256
HEADER_CACHE_BYTES = 4_000_000
#: chunks that are put together at most: more are read apart, and not remembered
MAX_CHUNKS = 16


class PackedHistory(NamedTuple):
    """Entries of a script's history, as the database has them."""

    #: see ``wire_rows``
    entries: bytes
    #: the last one's transaction number; that asked from, if there is none
    last_tx_num: int
    #: of the database when it was read
    backup_count: int


class Coins(NamedTuple):
    """A script's unspent outputs, as the database has them."""

    #: see ``wire_rows``
    coins: bytes
    #: of the database when it was read
    backup_count: int


class Balance(NamedTuple):
    """The sum of a script's unspent outputs."""

    #: how many there are
    coin_count: int
    #: in satoshis
    value: int
    #: of the database when it was read
    backup_count: int


class Queries:
    """The reading half of :class:`~electrumx.server.db.flusher.DB`."""

    #: block hashes computed on the event loop at most: a hash takes about 2 µs
    MAX_LOOP_HASHES = 100

    coin: type[Coin]
    db_class: type[Storage]
    utxo_db: Storage | None
    history: History
    files: FlatFiles
    state: ChainState
    tx_counts: "array[int]"
    fs_tx_count: int
    backup_count: int
    commit_seq: int
    header_mc: MerkleCache
    gate: StoreGate
    patience: Patience
    #: set by :meth:`_init_queries`
    reader: Reader

    def _init_queries(self, logger: Any) -> None:
        self.reader = Reader(logger, self.gate, self._explained)
        self.damage_log = DamageLog(logger)
        # Of the generation that is the backup count; see cached_header.
        self._chunks: LRUCache[int, list[bytes]] = LRUCache(10_000, HEADER_CACHE_BYTES)

    def _explained(self, error: Exception) -> Exception:
        """Return an error of the disk or the engine as a DBReadError, and log it once."""
        reason = read_error(error, self.db_class)
        if reason is None:
            return error
        line = f"cannot read the database: {reason}"
        self.damage_log.log(line)
        return DBReadError(line)

    def _once(self, read: Callable[[], T]) -> Reading[T]:
        """Run a small read that needs no guard in a thread."""
        return self.reader.read(lambda _bounded: read())

    def _steady(self, read: Callable[[bool], T | Verdict | None]) -> Reading[T]:
        """Run a read in a thread, again if a reorganisation came between, or it returns None.

        So ``backup_count`` is the same wherever a read whose result is used has looked at it.
        """

        def guarded(bounded: bool) -> T | Verdict:
            backups = self.backup_count
            result = read(bounded)
            return RACED if result is None or backups != self.backup_count else result

        return self.reader.read(guarded)

    # -- history

    def history_entries(
        self, hashX: bytes, *, limit: int | None = None, after: int = -1
    ) -> Reading[PackedHistory]:
        """Return the first ``limit`` entries (None: all) beyond transaction number ``after``."""
        max_bytes = None if limit is None else limit * TXNUM_LEN
        return self.reader.join(self._read_histories, (hashX, max_bytes, after))

    def _read_histories(
        self, wanted: list[tuple[bytes, int | None, int]], bounded: bool
    ) -> list[PackedHistory | Verdict]:
        """Return a history for each (hashX, bytes of numbers at most, number before the first)."""
        backups, seq = self.backup_count, self.commit_seq
        rows = self._history_rows(wanted, bounded)
        too_much = SMALL_HISTORY_BYTES if bounded else NO_BOUND
        files = self.files
        try:
            found = wire_rows.pack_histories(
                [row if len(row) <= too_much else b"" for row in rows],
                # After the read: see the module's docstring.
                self.state.tx_count,
                self.tx_counts,
                files.hash_file,
                files.hashes_per_file,
            )
        except (ValueError, struct_error):
            # Made together with others, each is read again alone.
            for hashX, _most, _after in wanted:
                self._refuse_damaged_history(hashX, seq)
            raise
        if backups != self.backup_count:
            return [RACED] * len(wanted)
        result: list[PackedHistory | Verdict] = []
        for row, history, (hashX, _most, after) in zip(rows, found, wanted, strict=True):
            if history is None:
                self._refuse_damaged_history(hashX, seq)
                result.append(RACED)
            elif len(row) > too_much:
                result.append(TOO_MUCH)
            else:
                entries, last_tx_num = history
                if len(row) * wire_rows.HISTORY_ENTRY_LEN != len(entries) * TXNUM_LEN:
                    # Left out are those not committed yet, or what is no transaction.
                    self._refuse_damaged_history(hashX, seq)
                result.append(PackedHistory(entries, last_tx_num if entries else after, backups))
        return result

    def _raced_since(self, seq: int) -> bool:
        """Return whether something was committed or undone since ``commit_seq`` was ``seq``."""
        return bool(seq & 1) or seq != self.commit_seq

    def _refuse_damaged_history(self, hashX: bytes, seq: int) -> None:
        """Raise DBDamagedError if a row of a script's history is damaged, and nothing was raced.

        Flat files come first in a flush, so they have every transaction that a row may name.
        """
        if self._raced_since(seq):
            return
        assert self.history.db
        rows = self.gate.rows(self.history.db.iterator(prefix=hashX))
        fault = damage.history_fault(rows, self.fs_tx_count, self.files.tx_hashes)
        if fault and not self._raced_since(seq):
            raise self.damage_log.error(fault)

    def _history_rows(
        self, wanted: list[tuple[bytes, int | None, int]], bounded: bool
    ) -> list[bytes]:
        """Return the numbers of each that is wanted; of long ones, if bounded, too many."""
        history = self.history
        small = SMALL_HISTORY_BYTES + TXNUM_LEN
        if not bounded:
            return [history.packed_tx_nums(*one) for one in wanted]
        whole = [hashX for hashX, _most, after in wanted if after < 0]
        first = iter(history.first_tx_nums(whole, small))
        return [
            (next(first) if after < 0 else history.packed_tx_nums(hashX, small, after))[:most]
            for hashX, most, after in wanted
        ]

    async def limited_history(
        self, hashX: bytes, *, limit: int | None = 1000
    ) -> list[tuple[bytes, int]]:
        """Return (tx hash, height) of a script's first ``limit`` transactions, in chain order."""
        found = await self.history_entries(hashX, limit=limit)
        return wire_rows.entries_of(found.entries)

    # -- coins

    def _packed_coins(self, rows: wire_rows.CoinRows) -> bytes | None:
        files = self.files
        return wire_rows.pack_coins(
            rows, self.state.tx_count, self.tx_counts, files.hash_file, files.hashes_per_file
        )

    def _of_coins(
        self, read: Callable[[wire_rows.CoinRows], T | None], hashXs: list[bytes], bounded: bool
    ) -> list[T | Verdict]:
        """Return what ``read`` makes of the coins of each script; None says that it raced."""
        assert self.utxo_db
        backups, seq = self.backup_count, self.commit_seq
        prefixes = [UTXO_PREFIX + hashX for hashX in hashXs]
        if bounded:
            found = self.utxo_db.rows_of(prefixes, (SMALL_COINS + 1) * UTXO_ROW_LEN)
        else:
            rows_of = self.gate.rows
            found = [rows_of(self.utxo_db.iterator(prefix=prefix)) for prefix in prefixes]
        results: list[T | Verdict] = []
        for rows in found:
            if bounded and len(rows) > SMALL_COINS:
                results.append(TOO_MUCH)
                continue
            try:
                result = read(rows)
            except (ValueError, struct_error):
                self._refuse_damaged_coins(rows, seq)
                raise
            if result is None:
                self._refuse_damaged_coins(rows, seq)
            results.append(RACED if result is None else result)
        return results if backups == self.backup_count else [RACED] * len(hashXs)

    def _refuse_damaged_coins(self, rows: wire_rows.CoinRows, seq: int) -> None:
        """Raise DBDamagedError if one of a script's rows is damaged, and nothing was raced."""
        if self._raced_since(seq):
            return
        for row in rows:
            fault = damage.utxo_row_fault(row, self.state.tx_count, self.files.tx_hashes)
            if fault and not self._raced_since(seq):
                raise self.damage_log.error(fault)

    def coins(self, hashX: bytes) -> Reading[Coins]:
        """Return all unspent outputs of a script, packed and in chain order."""
        return self.reader.join(self._read_coins, hashX)

    def _read_coins(self, hashXs: list[bytes], bounded: bool) -> list[Coins | Verdict]:
        def read(rows: wire_rows.CoinRows) -> Coins | None:
            coins = self._packed_coins(rows)
            return None if coins is None else Coins(coins, self.backup_count)

        return self._of_coins(read, hashXs, bounded)

    def balance(self, hashX: bytes) -> Reading[Balance]:
        """Return the number and the sum of a script's unspent outputs."""
        return self.reader.join(self._read_balances, hashX)

    def _read_balances(self, hashXs: list[bytes], bounded: bool) -> list[Balance | Verdict]:
        def read(rows: wire_rows.CoinRows) -> Balance | None:
            value = wire_rows.sum_coins(rows, self.state.tx_count)
            return None if value is None else Balance(len(rows), value, self.backup_count)

        return self._of_coins(read, hashXs, bounded)

    async def all_utxos(self, hashX: bytes) -> list[UTXO]:
        """Return all unspent outputs of a script, in chain order."""
        utxos: list[UTXO] = await self.reader.join(self._read_utxos, hashX)
        return utxos

    def _read_utxos(self, hashXs: list[bytes], bounded: bool) -> list[list[UTXO] | Verdict]:
        def read(rows: wire_rows.CoinRows) -> list[UTXO] | None:
            coins = self._packed_coins(rows)
            if coins is None:
                return None
            tx_nums = sorted(int.from_bytes(key[-TXNUM_LEN:], "little") for key, _value in rows)
            return [
                UTXO(tx_num, txout_idx, tx_hash, height, value)
                for tx_num, (tx_hash, height, txout_idx, value) in zip(
                    tx_nums, wire_rows.coins_of(coins), strict=True
                )
            ]

        return self._of_coins(read, hashXs, bounded)

    def lookup_coin(
        self,
        tx_hash: bytes,
        txout_idx: int,
        spent: Container[bytes] = (),
        *,
        exact: bool = False,
    ) -> CoinRow | None:
        """Return the rows of an unspent output, or None.  Runs in a thread.

        ``spent`` has the keys of rows that are to be deleted but are still there.  An output that
        is known to exist need not be looked up with ``exact``: then the transaction's hash, of
        which the rows have four bytes, is compared only where there are several rows.
        """
        outpoint = tx_hash + _LE4.pack(txout_idx)
        return self.lookup_coins([outpoint], spent, exact=exact)[0]

    def lookup_coins(
        self, outpoints: Sequence[bytes], spent: Container[bytes] = (), *, exact: bool = False
    ) -> list[CoinRow | None]:
        """Do as :meth:`lookup_coin` for each of many outpoints (tx_hash, txout_idx LE4).

        They are in the order of their rows: by four bytes of the hash, then by the index.
        """
        prefixes = [OUTPOINT_PREFIX + outpoint[:4] + outpoint[32:] for outpoint in outpoints]
        return self.patience.run(
            lambda: self._lookup_coins(outpoints, prefixes, spent, exact),
            "looking up unspent outputs",
        )

    def _lookup_coins(
        self,
        outpoints: Sequence[bytes],
        prefixes: list[bytes],
        spent: Container[bytes],
        exact: bool,
    ) -> list[CoinRow | None]:
        assert self.utxo_db
        return [
            self._coin_among(found, outpoint[:32], spent, exact) if found else None
            for outpoint, found in zip(outpoints, self.utxo_db.rows_of(prefixes), strict=True)
        ]

    def _coin_among(
        self,
        found: list[tuple[bytes, bytes]],
        tx_hash: bytes,
        spent: Container[bytes],
        exact: bool,
    ) -> CoinRow | None:
        """Return the rows of the one that is of a transaction, among those of like outpoints.

        Other servers' databases may have an output twice, of duplicate coinbases: the later one.
        """
        assert self.utxo_db
        rows = [row for row in found if row[0] not in spent]
        exact = exact or len(rows) > 1
        if len(rows) > 1:
            rows.sort(key=lambda row: row[0][: -TXNUM_LEN - 1 : -1], reverse=True)
        for key, hashX in rows:
            fault = damage.outpoint_row_fault(key, hashX)
            if fault:
                raise self.damage_log.error(fault)
            suffix = key[-SUFFIX_LEN:]
            if exact:
                tx_num = int.from_bytes(suffix[_TX_NUM], "little")
                if self.fs_tx_hash(tx_num)[0] != tx_hash:
                    continue
            utxo_key = UTXO_PREFIX + hashX + suffix
            value = self.utxo_db.get(utxo_key)
            if value is not None:
                if len(value) != 8:
                    raise self.damage_log.error(
                        f"row {utxo_key.hex()} of the utxo store has a value of {len(value):,d} "
                        "bytes"
                    )
                return CoinRow(key, utxo_key, hashX + suffix[_TX_NUM] + value)
        return None

    async def lookup_utxos(
        self, prevouts: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int] | None]:
        """Return (hashX, value) of each outpoint, None where it is not an unspent output."""

        def lookup(prevout: tuple[bytes, int]) -> tuple[bytes, int] | None:
            tx_hash, txout_idx = prevout
            self.gate.check()
            # Always compared in full: an outpoint of the mempool need not exist here.
            try:
                row = self._lookup_exact(tx_hash, txout_idx)
            except DBDamagedError:
                # It is in the log, and the mempool has to do without that output.
                row = None
            if row is None:
                return None
            return row.coin[:HASHX_LEN], _LE8.unpack(row.coin[-8:])[0]

        def lookup_all() -> list[tuple[bytes, int] | None]:
            with self.gate.reading():
                return [lookup(prevout) for prevout in prevouts]

        return await asyncio.to_thread(lookup_all)

    def _lookup_exact(self, tx_hash: bytes, txout_idx: int) -> CoinRow | None:
        return self.lookup_coin(tx_hash, txout_idx, exact=True)

    # -- transactions

    def fs_tx_hash(self, tx_num: int) -> tuple[bytes | None, int]:
        """Return (tx hash, height) of a tx number; the hash is None if it is not committed."""
        height = bisect_right(self.tx_counts, tx_num)
        if height > self.state.height:
            return None, height
        return self.files.tx_hashes([tx_num])[0] or None, height

    def block_tx_hashes(self, block_height: int) -> Reading[bytes]:
        """Return the hashes of a block's transactions, in their order, joined.

        It raises DBError for a height that is not committed.
        """

        def read() -> bytes:
            db_height = self.state.height
            if not 0 <= block_height <= db_height:
                raise DBError(f"block {block_height:,d} not on disk (>{db_height:,d})")
            first = self.tx_counts[block_height - 1] if block_height else 0
            count = self.tx_counts[block_height] - first
            hashes = self.files.read_tx_hashes(first, count)
            if len(hashes) != count * HASH_LEN:
                raise self.damage_log.error(
                    f"hashes of transactions {first:,d} to {first + count - 1:,d} are missing from "
                    "meta/hashes"
                )
            return hashes

        return self._once(read)

    async def tx_hashes_at_blockheight(self, block_height: int) -> list[bytes]:
        """Return the hashes of a block's transactions, in their order.

        Raise DBError for a height that is not committed.
        """
        raw = await self.block_tx_hashes(block_height)
        return [raw[n : n + HASH_LEN] for n in range(0, len(raw), HASH_LEN)]

    # -- headers

    def cached_header(self, height: int) -> bytes | None:
        """Return the header of a height if it is remembered; does not block."""
        if self._chunks.generation != self.backup_count:
            self._forget_headers()
        if not 0 <= height <= self.state.height:
            return None
        chunk = self._chunks.get(height // HEADER_CHUNK)
        position = height % HEADER_CHUNK
        return None if chunk is None or position >= len(chunk) else chunk[position]

    def cached_headers(self, start_height: int, count: int) -> bytes | None:
        """Return headers joined, all committed, if they are all remembered; does not block."""
        if self._chunks.generation != self.backup_count:
            self._forget_headers()
        end = start_height + count
        parts: list[bytes] = []
        first = start_height // HEADER_CHUNK
        for number in range(first, (end - 1) // HEADER_CHUNK + 1):
            base = number * HEADER_CHUNK
            chunk = self._chunks.get(number)
            if chunk is None or len(chunk) < min(end - base, HEADER_CHUNK):
                return None
            parts += chunk[max(0, start_height - base) : end - base]
        return b"".join(parts)

    def _forget_headers(self) -> None:
        self._chunks.clear()
        self._chunks.generation = self.backup_count

    def _read_chunks(self, numbers: Sequence[int]) -> list[tuple[int, list[bytes]]]:
        """Read chunks of headers.  Runs in: a thread."""
        found = []
        for number in numbers:
            start = number * HEADER_CHUNK
            count = min(HEADER_CHUNK, self.state.height + 1 - start)
            if count > 0:
                headers = self.files.read_headers(start, count)
                found.append((number, self.files.split_headers(start, headers)))
        return found

    async def _remember_headers(self, start_height: int, count: int) -> None:
        """See to it that the headers of committed heights are remembered."""
        first, last = start_height // HEADER_CHUNK, (start_height + count - 1) // HEADER_CHUNK
        backups = self.backup_count
        end = start_height + count
        wanted = []
        for number in range(first, last + 1):
            chunk = self._chunks.peek(number)
            if chunk is None or len(chunk) < min(end - number * HEADER_CHUNK, HEADER_CHUNK):
                wanted.append(number)
        chunks = await self._steady(lambda _bounded: self._read_chunks(wanted))
        for number, chunk in chunks:
            size = sum(map(len, chunk)) + len(chunk) * 40
            self._chunks.put(number, chunk, backups, size)

    async def raw_header(self, height: int) -> bytes:
        """Return the header of a height.  Raise IndexError if it is out of range."""
        header, count = await self.read_headers(height, 1)
        if count != 1:
            raise IndexError(f"height {height:,d} out of range")
        return header

    async def read_headers(self, start_height: int, count: int) -> tuple[bytes, int]:
        """Return (headers joined, how many), as many of ``count`` as the chain has.

        Raise DBError for a negative height or count.
        """
        if start_height < 0 or count < 0:
            raise DBError(f"{count:,d} headers starting at {start_height:,d} not on disk")
        available = max(0, min(count, self.state.height + 1 - start_height))
        if not available:
            return b"", 0
        if available <= (MAX_CHUNKS - 1) * HEADER_CHUNK:
            cached = self.cached_headers(start_height, available)
            if cached is None:
                await self._remember_headers(start_height, available)
                cached = self.cached_headers(start_height, available)
            if cached is not None:
                return cached, available

        def read() -> tuple[bytes, int]:
            available = max(0, min(count, self.state.height + 1 - start_height))
            if not available:
                return b"", 0
            with self.gate.reading():
                return self.files.read_headers(start_height, available), available

        return await asyncio.to_thread(read)

    async def fs_block_hashes(self, height: int, count: int) -> list[bytes]:
        """Return the hashes of ``count`` blocks, from ``height`` on.

        Raise DBError if the chain does not have all of them.
        """
        headers, available = await self.read_headers(height, count)
        if available != count:
            raise DBError(f"only got {available:,d} headers starting at {height:,d}")

        def hash_all() -> list[bytes]:
            header_hash = self.coin.header_hash
            return [header_hash(header) for header in self.files.split_headers(height, headers)]

        if count <= self.MAX_LOOP_HASHES and self.coin.STATIC_BLOCK_HEADERS:
            return hash_all()
        return await asyncio.to_thread(hash_all)

    async def header_branch_and_root(self, length: int, height: int) -> tuple[list[bytes], bytes]:
        """Return (branch, root) that prove the header of ``height`` among ``length`` headers."""
        return await self.header_mc.branch_and_root(length, height)

    def header_proof_hashes(self, length: int, height: int) -> int:
        """Return how many hashes ``header_branch_and_root`` would make now, of leaves included."""
        return self.header_mc.hashes_needed(length, height)
