"""The values that parsing a transaction returns, and their serialised form.

Named tuples, because a first sync makes some billions of them; no reading, and no knowledge of
coins.  Any thread may use them.  Hashes are 32 bytes in natural order, amounts are in the
coin's smallest unit.
"""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol

from electrumx.lib.util import (
    pack_byte,
    pack_le_int32,
    pack_le_int64,
    pack_le_uint32,
    pack_varbytes,
    pack_varint,
)

ZERO: Final = bytes(32)
MINUS_1: Final = 0xFFFFFFFF

_pack_outpoint = Struct("<32sI").pack


class TxInput(NamedTuple):
    """An input: the outpoint that it spends, and how."""

    prev_hash: bytes  # tx hash of the outpoint
    prev_idx: int  # txout_idx of the outpoint
    script: bytes
    sequence: int

    def is_generation(self) -> bool:
        """Return True if the input spends nothing: that of a coinbase transaction."""
        return self.prev_idx == MINUS_1 and self.prev_hash == ZERO

    def serialize(self) -> bytes:
        """Return the bytes of the input on the wire."""
        return b"".join(
            (
                _pack_outpoint(self.prev_hash, self.prev_idx),
                pack_varbytes(self.script),
                pack_le_uint32(self.sequence),
            )
        )


class TxOutput(NamedTuple):
    """An output: an amount in the smallest unit, and the script that guards it."""

    value: int
    pk_script: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the output on the wire."""
        return pack_le_int64(self.value) + pack_varbytes(self.pk_script)


class Serializable(Protocol):
    """A value with bytes on the wire."""

    def serialize(self) -> bytes:
        """Return the bytes."""


def serialize_list(items: Sequence[Serializable]) -> bytes:
    """Return a varint count and then each item serialised."""
    return pack_varint(len(items)) + b"".join([item.serialize() for item in items])


def serialize_witness(witness: Iterable[Sequence[bytes]]) -> bytes:
    """Return the witness stacks of a transaction, one per input, each behind its count."""
    parts = []
    for stack in witness:
        parts.append(pack_varint(len(stack)))
        parts.extend(map(pack_varbytes, stack))
    return b"".join(parts)


class Tx(NamedTuple):
    """A transaction without witness."""

    version: int  # 32 bits, signed
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        return b"".join(
            (
                pack_le_int32(self.version),
                serialize_list(self.inputs),
                serialize_list(self.outputs),
                pack_le_uint32(self.locktime),
            )
        )


class TxSegWit(NamedTuple):
    """A transaction with witness, BIP144."""

    version: int  # 32 bits, signed
    marker: int  # 0, where a transaction without witness counts its inputs
    flag: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    witness: Sequence[Sequence[bytes]]  # for each input the items of its stack
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, marker, flag and witness included."""
        return b"".join(
            (
                pack_le_int32(self.version),
                pack_byte(self.marker),
                pack_byte(self.flag),
                serialize_list(self.inputs),
                serialize_list(self.outputs),
                serialize_witness(self.witness),
                pack_le_uint32(self.locktime),
            )
        )


class AnyTx(Protocol):
    """The fields of every transaction, of any format."""

    @property
    def version(self) -> int:
        """The version, without the other parts of its field."""

    @property
    def inputs(self) -> Sequence[Any]:
        """The inputs, each with prev_hash, prev_idx and is_generation()."""

    @property
    def outputs(self) -> Sequence[Any]:
        """The outputs, each with value and pk_script."""

    @property
    def locktime(self) -> int:
        """The lock time, 32 bits."""

    def serialize(self) -> bytes:
        """Return the bytes on the wire."""
