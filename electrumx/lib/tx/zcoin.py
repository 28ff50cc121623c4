"""Zcoin: spends of the Sigma protocol, and headers with the data of Merkle tree proofs (MTP).

Pure; runs in whatever thread parses.
"""

from typing import Final

from electrumx.lib.tx.bitcoin import Deserializer
from electrumx.lib.tx.types import MINUS_1, ZERO, TxInput
from electrumx.lib.util import unpack_le_uint32_from

# First byte of the script of an input that spends a shielded coin.
OP_SIGMASPEND: Final = b"\xc4"
# Bit of the version of a block mined with MTP.
VERSION_MTP: Final = 0x1000
# Additional bytes of such a block's header, without the node's proof.
MTP_EXTRA_SIZE: Final = 100


class DeserializerZcoin(Deserializer):
    """Reads transactions without witness; those that spend shielded coins spend no output."""

    def _read_inputs(self) -> list[TxInput]:
        return [self._read_input() for _ in range(self._read_size())]

    def _read_input(self) -> TxInput:
        txin = super()._read_input()
        if txin.script[:1] == OP_SIGMASPEND and not txin.is_generation():
            return TxInput(ZERO, MINUS_1, txin.script, txin.sequence)
        return txin

    def read_header(self, size: int) -> bytes:
        """Return the header, whose length depends on its version."""
        start = self.cursor
        header = self._read_nbytes(size)
        if unpack_le_uint32_from(header)[0] & VERSION_MTP:
            self._skip(MTP_EXTRA_SIZE)
        return self.binary[start : self.cursor]
