"""Finds unspent outputs by outpoint: for the blocks that spend them, and for the mempool.

An ``h`` row has four bytes of the transaction's hash; where that does not suffice, a look-up compares
the full hash, which it reads from the flat files.

On a cold disk most of a look-up is waiting, and a disk serves many requests at once: then several
threads share the outpoints, which are in the order of their rows.  One thread finds rows in memory
faster, as the others would only wait for the GIL.

Runs in: worker threads, and threads of its own.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from struct import Struct

from electrumx.lib.hash import HASHX_LEN
from electrumx.lib.util import chunks
from electrumx.server.db.stores import Stores
from electrumx.server.storage import damage
from electrumx.server.storage.schema import (
    HASH_LEN,
    OUTPOINT_PREFIX,
    SUFFIX_LEN,
    TX_HASH_PREFIX_LEN,
    TXNUM_LEN,
    TXOUT_IDX_LEN,
    UTXO_PREFIX,
    VALUE_LEN,
    DBDamagedError,
    UTXORow,
)

_LE4 = Struct("<I")
_LE8 = Struct("<Q")
_TX_NUM = slice(TXOUT_IDX_LEN, SUFFIX_LEN)


class UTXOLookup:
    """Look-ups in the ``utxo`` store of open stores."""

    #: outpoints that one thread looks up first, to see how long they take
    SAMPLE = 32
    #: seconds of a look-up from which on several threads work: one with its rows in memory takes 5 to
    #: 60 µs
    COLD_SECS = 0.000_1
    #: outpoints of the mempool between two checks of whether the store is to close
    MEMPOOL_PART = 1_000

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._threads: ThreadPoolExecutor | None = None
        #: outpoints looked up on disk so far
        self.count = 0

    def close(self) -> None:
        """End the threads; look-ups that follow start them again.  Not during a look-up."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()

    def tx_hash(self, tx_num: int) -> tuple[bytes | None, int]:
        """Return (tx hash, height) of a tx number; the hash is None for an uncommitted one."""
        stores = self._stores
        height = bisect_right(stores.tx_counts, tx_num)
        if height > stores.state.height:
            return None, height
        return stores.files.tx_hashes([tx_num])[0] or None, height

    def row(
        self,
        tx_hash: bytes,
        txout_idx: int,
        spent: Container[bytes] = (),
        *,
        exact: bool = False,
    ) -> UTXORow | None:
        """Return the rows of an unspent output, or None.

        ``spent`` has the keys of rows that are still there but due for deletion.  An output that
        certainly exists needs no ``exact``: then the look-up compares the transaction's hash, of
        which the rows have four bytes, only where there are several rows.
        """
        outpoint = tx_hash + _LE4.pack(txout_idx)
        return self.rows([outpoint], spent, exact=exact)[0]

    def rows(
        self, outpoints: Sequence[bytes], spent: Container[bytes] = (), *, exact: bool = False
    ) -> list[UTXORow | None]:
        """Do as :meth:`row` for each of many outpoints (tx_hash, txout_idx LE4).

        They are in the order of their rows: by four bytes of the hash, then by the index.
        """
        if self._stores.state.height < 0:
            # Before the first flush.
            return [None] * len(outpoints)
        prefixes = [
            OUTPOINT_PREFIX + outpoint[:TX_HASH_PREFIX_LEN] + outpoint[HASH_LEN:]
            for outpoint in outpoints
        ]
        self.count += len(outpoints)

        def look_up() -> list[UTXORow | None]:
            start = time.monotonic()
            count = self.SAMPLE
            found = self.read_rows(outpoints[:count], prefixes[:count], spent, exact)
            if len(outpoints) > count:
                secs = (time.monotonic() - start) / count
                parallel = secs >= self.COLD_SECS
                look_up_rest = self._rows_in_threads if parallel else self.read_rows
                found += look_up_rest(outpoints[count:], prefixes[count:], spent, exact)
            return found

        return self._stores.patience.run(look_up, "looking up unspent outputs")

    def _rows_in_threads(
        self,
        outpoints: Sequence[bytes],
        prefixes: list[bytes],
        spent: Container[bytes],
        exact: bool,
    ) -> list[UTXORow | None]:
        """Do as :meth:`read_rows`, each thread with a part of the keys."""
        most = self._stores.tuning.lookup_threads
        if self._threads is None:
            self._threads = ThreadPoolExecutor(most, "utxo-lookup")
        size = max(self.SAMPLE, -(-len(outpoints) // most))
        parts = [
            self._threads.submit(
                self.read_rows, outpoints[n : n + size], prefixes[n : n + size], spent, exact
            )
            for n in range(0, len(outpoints), size)
        ]
        # All of them end before raising an error: the caller may close the store then.
        wait(parts)
        return [row for part in parts for row in part.result()]

    def read_rows(
        self,
        outpoints: Sequence[bytes],
        prefixes: list[bytes],
        spent: Container[bytes],
        exact: bool,
    ) -> list[UTXORow | None]:
        """Return the rows of outpoints, read in this thread; ``prefixes`` are those of their keys."""
        store = self._stores.utxo_db
        assert store
        return [
            self._row_among(found, outpoint[:HASH_LEN], spent, exact) if found else None
            for outpoint, found in zip(outpoints, store.rows_of(prefixes), strict=True)
        ]

    def _row_among(
        self,
        found: list[tuple[bytes, bytes]],
        tx_hash: bytes,
        spent: Container[bytes],
        exact: bool,
    ) -> UTXORow | None:
        """Return the rows of the one that is of a transaction, among those of like outpoints.

        Other servers' databases may have an output twice, of duplicate coinbases: the later one.
        """
        stores = self._stores
        assert stores.utxo_db
        rows = [row for row in found if row[0] not in spent]
        exact = exact or len(rows) > 1
        if len(rows) > 1:
            rows.sort(key=lambda row: row[0][: -TXNUM_LEN - 1 : -1], reverse=True)
        for key, hashX in rows:
            fault = damage.outpoint_row_fault(key, hashX)
            if fault:
                raise stores.damage_log.error(fault)
            suffix = key[-SUFFIX_LEN:]
            if exact:
                tx_num = int.from_bytes(suffix[_TX_NUM], "little")
                if self.tx_hash(tx_num)[0] != tx_hash:
                    continue
            utxo_key = UTXO_PREFIX + hashX + suffix
            value = stores.utxo_db.get(utxo_key)
            if value is not None:
                if len(value) != VALUE_LEN:
                    raise stores.damage_log.error(
                        f"row {utxo_key.hex()} of the utxo store has a value of {len(value):,d} "
                        "bytes"
                    )
                return UTXORow(key, utxo_key, hashX + suffix[_TX_NUM] + value)
        return None

    async def heights(self, outpoints: Sequence[tuple[bytes, int]]) -> list[int | None]:
        """Return the height of each outpoint's block, None if it is no unspent output.

        Indexes are below 2**32.
        """
        wanted = [tx_hash + _LE4.pack(txout_idx) for tx_hash, txout_idx in outpoints]

        def height_of(row: UTXORow | None) -> int | None:
            if row is None:
                return None
            tx_num = int.from_bytes(row.item[HASHX_LEN : HASHX_LEN + TXNUM_LEN], "little")
            return bisect_right(self._stores.tx_counts, tx_num)

        def lookup() -> list[int | None]:
            with self._stores.gate.reading():
                return [height_of(row) for row in self.rows(wanted, exact=True)]

        return await asyncio.to_thread(lookup)

    async def hashXs_and_values(
        self, prevouts: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int] | None]:
        """Return (hashX, value) of each outpoint, None where it is not an unspent output."""
        gate = self._stores.gate

        outpoints = [tx_hash + _LE4.pack(txout_idx) for tx_hash, txout_idx in prevouts]

        def lookup(part: Sequence[bytes]) -> list[UTXORow | None]:
            gate.check()
            # Always compared in full: an outpoint of the mempool need not exist here.
            try:
                return self.rows(part, exact=True)
            except DBDamagedError:
                if len(part) == 1:
                    # It is in the log, and the mempool has to do without that output.
                    return [None]
                return [row for outpoint in part for row in lookup([outpoint])]

        def lookup_all() -> list[tuple[bytes, int] | None]:
            order = sorted(set(outpoints), key=row_order)
            found: dict[bytes, tuple[bytes, int]] = {}
            with gate.reading():
                for part in chunks(order, self.MEMPOOL_PART):
                    for outpoint, row in zip(part, lookup(part), strict=True):
                        if row is not None:
                            value = _LE8.unpack(row.item[-VALUE_LEN:])[0]
                            found[outpoint] = row.item[:HASHX_LEN], value
            return [found.get(outpoint) for outpoint in outpoints]

        return await asyncio.to_thread(lookup_all)


def row_order(outpoint: bytes) -> bytes:
    """Sort outpoints as the ``h`` rows are: by four bytes of the hash, then by the index."""
    return outpoint[:TX_HASH_PREFIX_LEN] + outpoint[HASH_LEN:]
