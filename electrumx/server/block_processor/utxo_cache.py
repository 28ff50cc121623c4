"""The UTXOs that are not on disk yet, and the rows on disk of outputs that were spent.

Owns both until a flush writes them.  Does no writing.

An entry maps the outpoint, *tx_hash(32) txout_idx LE4*, to the UTXO, *hashX(11) tx_num LE5 value
LE8*: two bytes objects and a dictionary slot, about 205 bytes.  Most outputs are spent soon after
their creation, and one both created and spent between two flushes never reaches the disk.

Runs in: the block processor's worker thread, with the state lock held.
"""

from collections.abc import Callable
from struct import Struct

from electrumx.lib.hash import HASHX_LEN
from electrumx.server.block_processor.errors import utxo_not_found
from electrumx.server.storage.schema import (
    HASH_LEN,
    OUTPOINT_PREFIX,
    TX_HASH_PREFIX_LEN,
    UTXO_PREFIX,
    UTXORow,
)

_LE4 = Struct("<I")


class UTXOAdds(dict[bytes, bytes]):
    """Outpoint to UTXO, for UTXOs to write."""

    def put_rows(self, put: Callable[[bytes, bytes], None]) -> None:
        """Call ``put`` with the ``h`` and ``u`` rows of every UTXO."""
        for outpoint, utxo in self.items():
            hashX = utxo[:HASHX_LEN]
            suffix = outpoint[HASH_LEN:] + utxo[HASHX_LEN:-8]
            put(OUTPOINT_PREFIX + outpoint[:TX_HASH_PREFIX_LEN] + suffix, hashX)
            put(UTXO_PREFIX + hashX + suffix, utxo[-8:])


class UTXODeletes(set[bytes]):
    """Keys of rows to delete."""

    def delete_rows(self, delete: Callable[[bytes], None]) -> None:
        """Call ``delete`` with every key, in order."""
        for key in sorted(self):
            delete(key)


class UTXOCache:
    """Unflushed UTXOs over a database.

    ``lookup(tx_hash, txout_idx, spent, exact)`` finds a UTXO on disk, as :meth:`DB.find_utxo_row`
    does.
    """

    #: bytes of an entry, and of a key to delete, measured with 64-bit CPython 3.11
    BYTES_PER_UTXO = 205
    BYTES_PER_DELETE = 90

    def __init__(self, lookup: Callable[..., UTXORow | None]):
        #: outpoint -> UTXO
        self.adds = UTXOAdds()
        #: keys of rows on disk to delete
        self.deletes = UTXODeletes()
        self._lookup = lookup

    def memsize(self) -> int:
        """Return an estimate of the memory taken, in bytes."""
        return len(self.adds) * self.BYTES_PER_UTXO + len(self.deletes) * self.BYTES_PER_DELETE

    def spend(self, tx_hash: bytes, txout_idx: int) -> bytes:
        """Remove a UTXO and return it.  Raise ChainError if it is missing."""
        utxo = self.adds.pop(tx_hash + _LE4.pack(txout_idx), None)
        if utxo is not None:
            return utxo
        return self._delete(self._lookup(tx_hash, txout_idx, self.deletes), tx_hash, txout_idx)

    def overwrite(self, tx_hash: bytes, txout_idx: int) -> bytes | None:
        """Remove an output that may be spent already; return its UTXO, or None."""
        utxo = self.adds.pop(tx_hash + _LE4.pack(txout_idx), None)
        if utxo is not None:
            return utxo
        row = self._lookup(tx_hash, txout_idx, self.deletes, exact=True)
        return None if row is None else self._delete(row, tx_hash, txout_idx)

    def _delete(self, row: UTXORow | None, tx_hash: bytes, txout_idx: int) -> bytes:
        if row is None:
            raise utxo_not_found(tx_hash, txout_idx)
        self.deletes.add(row.outpoint_key)
        self.deletes.add(row.utxo_key)
        return row.item
