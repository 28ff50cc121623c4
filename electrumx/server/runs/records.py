"""The records of the bulk sync: their fields, their order, and the parts of the key space.

Owns the bytes of records.  Every record has a fixed length, and their bytes give the order of
records, so numbers that decide the order are big-endian.  The *key* of an outpoint is 24 bytes:
tx_hash[:4] ‖ txout_idx LE4 ‖ tx_hash[4:20].  It begins as the database's ``h`` rows do, so that
a join by outpoint returns records in the order of those rows.  20 bytes of a transaction hash
suffice to distinguish outpoints: making two that agree in them takes 2^80 hashes.

=========  =====  =====================================================================
outputs    48     key(24) tx_num BE5 hashX(11) value LE8: an output not spent in its chunk
spends     29     key(24) tx_num BE5: an input whose output is not of its chunk
late       37     key(24) tx_num BE5 height BE4 number BE4: also one of the spends, of a block that
                  may be undone, and its number among the block's
undo       32     height BE4 number BE4 hashX(11) tx_num LE5 value LE8: the output of such a spend
overwrit.  53     tx_num BE5, and one of the outputs: which coinbase made it again, unspent
history    16     hashX(11) tx_num BE5: a transaction that touches a script
utxos      28     hashX(11) txout_idx LE4 tx_num LE5 value LE8: a ``u`` row, key before value
=========  =====  =====================================================================

The ``h`` rows that the join makes are 24 bytes: tx_hash[:4] txout_idx LE4 tx_num LE5 hashX(11).

Pure; any thread may run it.
"""

from typing import Final, NamedTuple

from electrumx.server.storage.schema import HASH_LEN

KEY_LEN: Final = 24
OUTPUT_LEN: Final = 48
SPEND_LEN: Final = 29
HISTORY_LEN: Final = 16
LATE_LEN: Final = 37
UNDO_LEN: Final = 32
#: bytes of an undo record before its item
UNDO_KEY_LEN: Final = 8
OVERWRITTEN_LEN: Final = 53
UTXO_LEN: Final = 28
#: bytes of an ``h`` row after its prefix: 13 of key and 11 of value
OUTPOINT_ROW_LEN: Final = 24
OUTPOINT_ROW_KEY_LEN: Final = 13

#: bytes of a run file that one checksum is of, about
CHECKED_BYTES: Final = 1 << 14


class Kind(NamedTuple):
    """A kind of records."""

    #: also the name of its file
    name: str
    #: bytes of a record
    length: int
    #: first bytes, which divide the key space: records to treat together agree in them
    bound_len: int

    @property
    def piece_records(self) -> int:
        """The records that one checksum is of."""
        return CHECKED_BYTES // self.length

    def pieces(self, records: int) -> int:
        """Return how many checksums so many records have."""
        return -(-records // self.piece_records)


OUTPUTS: Final = Kind("outputs", OUTPUT_LEN, 8)
SPENDS: Final = Kind("spends", SPEND_LEN, 8)
HISTORY: Final = Kind("history", HISTORY_LEN, 16)
UTXOS: Final = Kind("utxos", UTXO_LEN, 16)
LATE: Final = Kind("late", LATE_LEN, 8)
UNDO: Final = Kind("undo", UNDO_LEN, 4)
KINDS: Final = (OUTPUTS, SPENDS, LATE, HISTORY, UTXOS, UNDO)


class UnmatchedSpendError(Exception):
    """A transaction spends an output that never existed, or that another spent before."""

    def __init__(self, key: bytes, tx_num: int):
        super().__init__(key, tx_num)
        #: of the outpoint
        self.key = key
        #: of the transaction that spends it
        self.tx_num = tx_num


class Joined(NamedTuple):
    """The results of joining outputs and spends; each is a buffer of records."""

    #: ``h`` rows, in the order of their keys
    rows: bytes
    #: utxos, sorted
    utxos: bytes
    #: history of the transactions that spend, sorted, each record once
    history: bytes
    #: undo records of the late spends, sorted
    undo: bytes
    #: overwritten outputs
    overwritten: bytes


def outpoint_key(tx_hash: bytes, idx: bytes) -> bytes:
    """Return the key of an outpoint; ``idx`` is LE4."""
    assert len(tx_hash) == HASH_LEN
    return tx_hash[:4] + idx + tx_hash[4:20]
