"""Decred's transactions, which have a prefix that the hash covers and a witness that it does not.

A block holds two lists: the regular transactions and those of the stake system.

Pure; runs in whatever thread parses.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from electrumx.lib.errors import DeserializeError
from electrumx.lib.header_hashes import blake256
from electrumx.lib.tx.bitcoin import Deserializer, TxsWithHashes
from electrumx.lib.tx.types import MINUS_1, ZERO, AnyTx, serialize_list
from electrumx.lib.util import (
    pack_byte,
    pack_le_int32,
    pack_le_int64,
    pack_le_uint16,
    pack_le_uint32,
    pack_varbytes,
    pack_varint,
)

# Upper half of the first field: the parts of a transaction that are there.
SERIALIZED_FULL: Final = 0
SERIALIZED_WITHOUT_WITNESS: Final = 0x10000


class TxInputDcr(NamedTuple):
    """An input; its script is among the witnesses."""

    prev_hash: bytes
    prev_idx: int
    tree: int  # of the outpoint: 0 regular, 1 stake
    sequence: int

    def is_generation(self) -> bool:
        """Return True if the input spends nothing: of a coinbase, or the first of a vote."""
        return self.prev_idx == MINUS_1 and self.prev_hash == ZERO

    def serialize(self) -> bytes:
        """Return the bytes of the input on the wire."""
        return b"".join(
            (
                self.prev_hash,
                pack_le_uint32(self.prev_idx),
                pack_byte(self.tree),
                pack_le_uint32(self.sequence),
            )
        )


class TxOutputDcr(NamedTuple):
    """An output."""

    value: int
    version: int  # of the script, 16 bits
    pk_script: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the output on the wire."""
        return b"".join(
            (
                pack_le_int64(self.value),
                pack_le_uint16(self.version),
                pack_varbytes(self.pk_script),
            )
        )


class TxInWitnessDcr(NamedTuple):
    """The proof of the right to spend an input."""

    value_in: int
    height: int  # of the block with the output spent, and its place there
    block_index: int
    script: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the witness on the wire."""
        return b"".join(
            (
                pack_le_int64(self.value_in),
                pack_le_uint32(self.height),
                pack_le_uint32(self.block_index),
                pack_varbytes(self.script),
            )
        )


class TxDcr(NamedTuple):
    """A transaction of Decred."""

    version: int  # the upper half defines the serialized parts, all of them in blocks
    inputs: Sequence[TxInputDcr]
    outputs: Sequence[TxOutputDcr]
    locktime: int
    expiry: int  # a height
    witness: Sequence[TxInWitnessDcr]

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, witness included."""
        return b"".join(
            (
                pack_le_int32(self.version),
                serialize_list(self.inputs),
                serialize_list(self.outputs),
                pack_le_uint32(self.locktime),
                pack_le_uint32(self.expiry),
                pack_varint(len(self.witness)),
                *[witness.serialize() for witness in self.witness],
            )
        )


class DeserializerDecred(Deserializer):
    """Reads Decred's transactions."""

    TX_HASH_FN = staticmethod(blake256)
    blake256 = staticmethod(blake256)

    @staticmethod
    def blake256d(data: bytes) -> bytes:
        """Return BLAKE-256 applied twice."""
        return blake256(blake256(data))

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        return self._read_tx_parts()[0]

    def read_tx_and_vsize(self) -> tuple[AnyTx, int]:
        """Return the next transaction and its size; here the witness has no discount."""
        start = self.cursor
        tx, _hashed = self._read_tx_parts()
        return tx, self.cursor - start

    def read_tx_block(self) -> TxsWithHashes:
        """Return the pairs of the regular tree and then those of the stake tree."""
        return self.read_tx_tree() + self.read_tx_tree()

    def read_tx_tree(self) -> TxsWithHashes:
        """Return the (transaction, hash) pairs of one tree."""
        return [self.read_tx_and_hash() for _ in range(self._read_size())]

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        version = self._read_le_int32()
        body_start = self.cursor
        inputs = [self._read_dcr_input() for _ in range(self._read_size())]
        outputs = [self._read_dcr_output() for _ in range(self._read_size())]
        locktime = self._read_le_uint32()
        expiry = self._read_le_uint32()
        body = self.binary[body_start : self.cursor]
        count = self._read_size()
        if count != len(inputs):
            raise DeserializeError(f"{count:,d} witnesses for {len(inputs):,d} inputs")
        witness = [self._read_dcr_witness() for _ in range(count)]
        return (
            TxDcr(version, inputs, outputs, locktime, expiry, witness),
            pack_le_uint32(SERIALIZED_WITHOUT_WITNESS | version & 0xFFFF) + body,
        )

    def _read_dcr_input(self) -> TxInputDcr:
        return TxInputDcr(
            self._read_nbytes(32),
            self._read_le_uint32(),
            self._read_byte(),
            self._read_le_uint32(),
        )

    def _read_dcr_output(self) -> TxOutputDcr:
        return TxOutputDcr(self._read_le_int64(), self._read_le_uint16(), self._read_varbytes())

    def _read_dcr_witness(self) -> TxInWitnessDcr:
        return TxInWitnessDcr(
            self._read_le_int64(),
            self._read_le_uint32(),
            self._read_le_uint32(),
            self._read_varbytes(),
        )
