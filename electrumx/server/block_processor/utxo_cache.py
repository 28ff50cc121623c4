"""The unspent outputs that are not on disk yet, and the spent ones that are still there.

Owns both until a flush writes them.  Used by the block processor's worker thread only, with the
state lock held; does no writing.

An entry maps the outpoint, *tx_hash(32) txout_idx LE4*, to the coin, *hashX(11) tx_num LE5 value
LE8*: two bytes objects and a dictionary slot, about 205 bytes.  Most outputs are spent soon after
they were made, and one that is both made and spent between two flushes never reaches the disk.
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
    CoinRow,
)

_LE4 = Struct("<I")


class CoinAdds(dict[bytes, bytes]):
    """Outpoint to coin, for coins to be written."""

    def put_rows(self, put: Callable[[bytes, bytes], None]) -> None:
        """Call ``put`` with the ``h`` and ``u`` rows of every coin."""
        for outpoint, coin in self.items():
            hashX = coin[:HASHX_LEN]
            suffix = outpoint[HASH_LEN:] + coin[HASHX_LEN:-8]
            put(OUTPOINT_PREFIX + outpoint[:TX_HASH_PREFIX_LEN] + suffix, hashX)
            put(UTXO_PREFIX + hashX + suffix, coin[-8:])


class CoinDeletes(set[bytes]):
    """Keys of rows to be deleted."""

    def delete_rows(self, delete: Callable[[bytes], None]) -> None:
        """Call ``delete`` with every key, in order."""
        for key in sorted(self):
            delete(key)


class UTXOCache:
    """Unflushed coins over a database.

    ``lookup(tx_hash, txout_idx, spent, exact)`` finds a coin on disk, as :meth:`DB.lookup_coin`
    does.
    """

    #: measured with 64-bit CPython 3.11: bytes for an entry, and for a key to delete
    BYTES_PER_COIN = 205
    BYTES_PER_DELETE = 90

    def __init__(self, lookup: Callable[..., CoinRow | None]):
        #: outpoint -> coin
        self.adds = CoinAdds()
        #: keys of rows on disk to delete
        self.deletes = CoinDeletes()
        self._lookup = lookup

    def memsize(self) -> int:
        """Return an estimate of the memory taken, in bytes."""
        return len(self.adds) * self.BYTES_PER_COIN + len(self.deletes) * self.BYTES_PER_DELETE

    def spend(self, tx_hash: bytes, txout_idx: int) -> bytes:
        """Remove an unspent output and return its coin.

        Raise ChainError if there is none such.
        """
        coin = self.adds.pop(tx_hash + _LE4.pack(txout_idx), None)
        if coin is not None:
            return coin
        return self._delete(self._lookup(tx_hash, txout_idx, self.deletes), tx_hash, txout_idx)

    def overwrite(self, tx_hash: bytes, txout_idx: int) -> bytes | None:
        """Remove an output that may or may not be unspent; return its coin, or None."""
        coin = self.adds.pop(tx_hash + _LE4.pack(txout_idx), None)
        if coin is not None:
            return coin
        row = self._lookup(tx_hash, txout_idx, self.deletes, exact=True)
        return None if row is None else self._delete(row, tx_hash, txout_idx)

    def _delete(self, row: CoinRow | None, tx_hash: bytes, txout_idx: int) -> bytes:
        if row is None:
            raise utxo_not_found(tx_hash, txout_idx)
        self.deletes.add(row.outpoint_key)
        self.deletes.add(row.utxo_key)
        return row.coin
