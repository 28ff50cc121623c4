"""Litecoin's transactions: BIP144, and the flag of the MimbleWimble extension blocks (MWEB).

Of the flag's bits, 1 announces witnesses and 8 data of the extension, behind the witnesses.  In
blocks that data is a single zero byte, which marks the integration transaction ("HogEx"); other
values, and the flag 0, occur only among a node's unconfirmed transactions.

An unconfirmed transaction with other data that has inputs pays from outside into the extension (a
peg-in).  Only reading all of the data gives its length; but the lock time is the
last four bytes, so the server can index inputs and outputs.  The node counts the weight of the
extension's data, and the fee paid within it, on top of theirs.

Pure; runs in whatever thread parses.
"""

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.tx.bitcoin import DeserializerSegWit
from electrumx.lib.tx.types import AnyTx, Tx, TxSegWit

FLAG_WITNESS = 1
FLAG_MWEB = 8


class TxMWEB(TxSegWit):
    """An integration transaction: its flag has FLAG_MWEB, and FLAG_WITNESS if witness is there."""

    __slots__ = ()

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, marker, flag and witness included."""
        rest = super().serialize()
        return rest[:-4] + b"\0" + rest[-4:]


class DeserializerLitecoin(DeserializerSegWit):
    """Reads Litecoin's transactions.

    Raises SkipTxDeserialize, a DeserializeError, for one whose inputs and outputs are all, or
    partly, within the extension and which the server thus cannot index.
    """

    # Flags other than 1 come back to _read_tx_parts from there.
    _has_loop = True

    def read_unconfirmed(self) -> tuple[AnyTx, int]:
        """Return the transaction that ends with the buffer, and its virtual size in bytes.

        Of a peg-in that is the form in its block, without the data of the extension.
        """
        start = self.cursor
        try:
            return super().read_unconfirmed()
        except SkipTxDeserialize:
            self.cursor = start
            return self._read_peg_in()

    def _read_peg_in(self) -> tuple[AnyTx, int]:
        version = self._read_le_int32()
        marker, flag = self._read_byte(), self._read_byte()
        if flag == 0:
            raise SkipTxDeserialize("a stripped transaction within the extension block")
        body_start = self.cursor
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        stripped_size = 4 + self.cursor - body_start + 4
        if not inputs:
            raise SkipTxDeserialize("a transaction within the extension block")
        witness_start = self.cursor
        witness = self._read_witness(len(inputs)) if flag & FLAG_WITNESS else []
        witness_size = self.cursor - witness_start
        self._skip(1)
        self.cursor = max(self.cursor, self.binary_length - 4)
        locktime = self._read_le_uint32()
        if not flag & FLAG_WITNESS:
            return Tx(version, inputs, outputs, locktime), stripped_size
        tx = TxSegWit(version, marker, FLAG_WITNESS, inputs, outputs, witness, locktime)
        # In units of weight, the marker and the flag among them.
        return tx, (4 * stripped_size + 2 + witness_size + 3) // 4

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        flag_at = self.cursor + 5
        if not self._has_marker() or self.binary[flag_at : flag_at + 1] == b"\x01":
            return super()._read_tx_parts()
        start = self.cursor
        version = self._read_le_int32()
        marker = self._read_byte()
        flag = self._read_byte()
        if flag == 0:
            raise SkipTxDeserialize("a stripped transaction within the extension block")
        if flag & ~(FLAG_WITNESS | FLAG_MWEB):
            raise DeserializeError(f"transaction flag {flag:#04x} is unknown")
        body_start = self.cursor
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        body_end = self.cursor
        witness = self._read_witness(len(inputs)) if flag & FLAG_WITNESS else []
        # Here the flag is never FLAG_WITNESS alone, so FLAG_MWEB is set.
        if self._read_byte():
            raise SkipTxDeserialize("a transaction with data of the extension block")
        locktime = self._read_le_uint32()
        buf = self.binary
        return (
            TxMWEB(version, marker, flag, inputs, outputs, witness, locktime),
            buf[start : start + 4] + buf[body_start:body_end] + buf[self.cursor - 4 : self.cursor],
        )
