"""Bitcoin Diamond's transactions: version 12 names a block behind the version.

The transaction is then only valid on a chain with that block.

Pure; runs in whatever thread parses.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.tx.bitcoin import Deserializer, DeserializerSegWit
from electrumx.lib.tx.types import (
    AnyTx,
    Tx,
    TxInput,
    TxOutput,
    TxSegWit,
)

TX_VERSION: Final = 12


class TxBitcoinDiamond(NamedTuple):
    """A transaction of version 12 without witness."""

    version: int
    preblockhash: str  # display order
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        rest = Tx(self.version, self.inputs, self.outputs, self.locktime).serialize()
        return rest[:4] + hex_str_to_hash(self.preblockhash) + rest[4:]


class TxBitcoinDiamondSegWit(NamedTuple):
    """A transaction of version 12 with witness."""

    version: int
    preblockhash: str  # display order
    marker: int
    flag: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    witness: Sequence[Sequence[bytes]]
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, marker, flag and witness included."""
        rest = TxSegWit(self.version, *self[2:]).serialize()
        return rest[:4] + hex_str_to_hash(self.preblockhash) + rest[4:]


class DeserializerBitcoinDiamond(Deserializer):
    """Reads transactions without witness."""

    def _is_bound(self) -> bool:
        """Return True if the transaction that begins here names a block."""
        start = self.cursor
        version = self._read_le_int32()
        self.cursor = start
        return version == TX_VERSION

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        if not self._is_bound():
            return super().read_tx()
        return TxBitcoinDiamond(
            self._read_le_int32(),
            hash_to_hex_str(self._read_nbytes(32)),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
        )


class DeserializerBitcoinDiamondSegWit(DeserializerSegWit, DeserializerBitcoinDiamond):
    """Reads transactions with witness, and those without."""

    def _has_marker(self) -> bool:
        marker_at = self.cursor + (36 if self._is_bound() else 4)
        return marker_at < self.binary_length and not self.binary[marker_at]

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        if not self._is_bound() or not self._has_marker():
            return super()._read_tx_parts()
        start = self.cursor
        version = self._read_le_int32()
        preblockhash = hash_to_hex_str(self._read_nbytes(32))
        rest, hashed = self._read_from_marker(start)
        return TxBitcoinDiamondSegWit(version, preblockhash, *rest), hashed
