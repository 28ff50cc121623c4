"""Zcash's transactions: shielded parts behind the transparent ones.

The shielded parts are gone over and kept as bytes: nothing in them can be indexed.  Versions 1 to
4 are hashed whole; version 5 is another layout and hash, see ``zcash_v5``.

Pure; runs in whatever thread parses.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from electrumx.lib.tx.bitcoin import Deserializer
from electrumx.lib.tx.headers import DeserializerEquihash
from electrumx.lib.tx.types import AnyTx, TxInput, TxOutput, serialize_list
from electrumx.lib.tx.zcash_v5 import GROUP_ID, OVERWINTERED, ShieldedReader, TxZcashV5
from electrumx.lib.util import pack_le_uint32

V5: Final = 5
SPEND_SIZE: Final = 384
OUTPUT_SIZE: Final = 948
# A description of a join-split has a proof of 296 bytes, of 192 from version 4 on.
JOINSPLIT_SIZE: Final = 1506 + 296
SAPLING_JOINSPLIT_SIZE: Final = 1506 + 192
BINDING_SIG_SIZE: Final = 64
# Public key and signature behind the join-splits.
JOINSPLIT_TAIL_SIZE: Final = 32 + 64


class TxJoinSplit(NamedTuple):
    """A transaction of Zcash.  What is not indexed is kept as it stands on the wire."""

    version: int  # without the bit that says "overwintered"
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    head: bytes = b""  # the first field, and the group id if there is one
    tail: bytes = b""  # all behind the lock time

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        return b"".join(
            (
                self.head or pack_le_uint32(self.version),
                serialize_list(self.inputs),
                serialize_list(self.outputs),
                pack_le_uint32(self.locktime),
                self.tail,
            )
        )


class DeserializerZcash(DeserializerEquihash, ShieldedReader):
    """Reads Zcash's transactions; the headers of the family, too."""

    def read_tx_and_hash(self) -> tuple[AnyTx, bytes]:
        """Return the next transaction and its hash."""
        tx, hashed = self._read_tx_parts()
        return tx, tx.tx_hash() if isinstance(tx, TxZcashV5) else self.TX_HASH_FN(hashed)

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        start = self.cursor
        version = self._read_le_uint32()
        if version & OVERWINTERED:
            version &= ~OVERWINTERED
            # Another network's version 5 may be something else.
            if self._read_nbytes(4) == GROUP_ID and version == V5:
                return self._read_v5()
        head = self.binary[start : self.cursor]
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        locktime = self._read_le_uint32()
        tail_start = self.cursor
        self._skip_shielded(version)
        tail = self.binary[tail_start : self.cursor]
        return TxJoinSplit(version, inputs, outputs, locktime, head, tail)

    def _read_v5(self) -> TxZcashV5:
        branch_id = self._read_nbytes(4)
        locktime = self._read_le_uint32()
        expiry_height = self._read_le_uint32()
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        tail_start = self.cursor
        self.read_sapling()
        self.read_orchard()
        tail = self.binary[tail_start : self.cursor]
        return TxZcashV5(V5, inputs, outputs, locktime, branch_id, expiry_height, tail)

    def _skip_shielded(self, version: int) -> None:
        has_shielded = False
        if version in (3, 4):
            self._skip(4)  # expiry height
        if version == 4:
            self._skip(8)  # value balance
            has_shielded = bool(self._skip_items(SPEND_SIZE))
            has_shielded = bool(self._skip_items(OUTPUT_SIZE)) or has_shielded
        if version >= 2:
            size = SAPLING_JOINSPLIT_SIZE if version == 4 else JOINSPLIT_SIZE
            if self._skip_items(size):
                self._skip(JOINSPLIT_TAIL_SIZE)
        if has_shielded:
            self._skip(BINDING_SIG_SIZE)


class DeserializerPIVX(Deserializer):
    """Reads PIVX's transactions: those of Bitcoin, with Sapling's parts from version 3 on.

    The first field is the version, and a type in its upper half if that is not zero.
    """

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        start = self.cursor
        version = self._read_le_uint32()
        tx_type = version >> 16
        if tx_type and version & 0xFFFF >= 3:
            version &= 0xFFFF
        else:
            tx_type = 0
        head = self.binary[start : self.cursor]
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        locktime = self._read_le_uint32()
        tail_start = self.cursor
        if version >= 3:
            self._read_varint()  # whether there is a shielded part; it always is
            self._skip(8)  # value balance
            self._skip_items(SPEND_SIZE)
            self._skip_items(OUTPUT_SIZE)
            self._skip(BINDING_SIG_SIZE)
            if tx_type:
                self._skip(2)
        tail = self.binary[tail_start : self.cursor]
        return TxJoinSplit(version, inputs, outputs, locktime, head, tail)
