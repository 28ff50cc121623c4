"""Zcash's transactions: shielded parts behind the transparent ones.

The readers go over the shielded parts and keep them as bytes: these hold nothing to index.  Of
versions 1 to 4 the hash covers all; versions 5 and 6 are another layout and hash, see ``zcash_v5``.

Pure; runs in whatever thread parses.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx.bitcoin import Deserializer, TxsWithHashes
from electrumx.lib.tx.headers import DeserializerEquihash
from electrumx.lib.tx.types import AnyTx, TxInput, TxOutput, serialize_list
from electrumx.lib.tx.zcash_v5 import (
    GROUP_ID,
    GROUP_ID_V6,
    OVERWINTERED,
    ShieldedReader,
    TxZcashV5,
    TxZcashV6,
)
from electrumx.lib.util import pack_le_uint32

# (group id, version) -> its values.  Another network's version 5 may be something else.
TREE_HASHED: Final[dict[tuple[bytes, int], type[TxZcashV5]]] = {
    (GROUP_ID, 5): TxZcashV5,
    (GROUP_ID_V6, 6): TxZcashV6,
}
# Where a block has its merkle root.
MERKLE_ROOT: Final = slice(36, 68)
SPEND_SIZE: Final = 384
OUTPUT_SIZE: Final = 948
# A description of a join-split has a proof of 296 bytes, of 192 from version 4 on.
JOINSPLIT_SIZE: Final = 1506 + 296
SAPLING_JOINSPLIT_SIZE: Final = 1506 + 192
BINDING_SIG_SIZE: Final = 64
# Public key and signature behind the join-splits.
JOINSPLIT_TAIL_SIZE: Final = 32 + 64


class TxJoinSplit(NamedTuple):
    """A transaction of Zcash.  It keeps unindexed fields as they are on the wire."""

    version: int  # without the "overwintered" bit
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


def _merkle_root(hashes: list[bytes]) -> bytes:
    """Return the root of Bitcoin's tree over hashes, at least one."""
    # lib.merkle loads asyncio, which takes as long as all coins.
    while len(hashes) > 1:
        if len(hashes) % 2:
            hashes = [*hashes, hashes[-1]]
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [double_sha256(left + right) for left, right in pairs]
    return hashes[0]


class DeserializerZcash(DeserializerEquihash, ShieldedReader):
    """Reads Zcash's transactions; the headers of the family, too."""

    def read_tx_block(self) -> TxsWithHashes:
        """Return the (transaction, hash) pairs that follow a block's header, in block order.

        Raise DeserializeError if there are transactions of version 6, and the hashes do not give
        the merkle root of the header, which the buffer begins with.
        """
        has_header = self.cursor >= MERKLE_ROOT.stop
        txs = super().read_tx_block()
        if has_header and any(isinstance(tx, TxZcashV6) for tx, _tx_hash in txs):
            self._check_hashes([tx_hash for _tx, tx_hash in txs])
        return txs

    def _check_hashes(self, tx_hashes: list[bytes]) -> None:
        if _merkle_root(tx_hashes) != self.binary[MERKLE_ROOT]:
            raise DeserializeError(
                "the hashes of a block with transactions of version 6 do not give its merkle "
                "root: this version of the server does not know how they are made"
            )

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
            tx_class = TREE_HASHED.get((self._read_nbytes(4), version))
            if tx_class is not None:
                return self._read_tree_hashed(tx_class, version)
        head = self.binary[start : self.cursor]
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        locktime = self._read_le_uint32()
        tail_start = self.cursor
        self._skip_shielded(version)
        tail = self.binary[tail_start : self.cursor]
        return TxJoinSplit(version, inputs, outputs, locktime, head, tail)

    def _read_tree_hashed(self, tx_class: type[TxZcashV5], version: int) -> TxZcashV5:
        branch_id = self._read_nbytes(4)
        locktime = self._read_le_uint32()
        expiry_height = self._read_le_uint32()
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        tail_start = self.cursor
        self.read_sapling()
        self.read_orchard()
        if tx_class is TxZcashV6:
            self.read_orchard()
        tail = self.binary[tail_start : self.cursor]
        return tx_class(version, inputs, outputs, locktime, branch_id, expiry_height, tail)

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
