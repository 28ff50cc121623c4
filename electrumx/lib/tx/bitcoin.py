"""Bitcoin's transactions, without witness and with (BIP144), alone and as lists in blocks.

``Deserializer`` is also the frame of every other family.  A family defines the differences:

- ``read_tx``, if the hash of a transaction covers all of its bytes;
- ``_read_tx_parts`` beside it, if the hash leaves some bytes out;
- ``_read_input`` or ``_read_output``, if only these are different;
- ``TX_HASH_FN``, the hash itself.

The rest builds upon these.  Whole blocks of the two formats here go through one loop,
``_read_txs``, which does the same with fewer calls; a subclass that defines one of the above does
not inherit it.

Pure; runs in whatever thread parses.
"""

from struct import Struct
from typing import Any, ClassVar

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx.reader import (
    OUT_OF_BOUNDS,
    Reader,
    read_inputs,
    read_outputs,
    read_size,
    read_witness,
)
from electrumx.lib.tx.types import AnyTx, Tx, TxInput, TxOutput, TxSegWit

TxsWithHashes = list[tuple[Any, bytes]]
# marker, flag, inputs, outputs, witness, locktime
SegWitFields = tuple[int, int, list[TxInput], list[TxOutput], list[list[bytes]], int]

_new: Any = tuple.__new__
_unpack_int32 = Struct("<i").unpack_from
_unpack_uint32 = Struct("<I").unpack_from

# The methods that define how to read a transaction: see the module's docstring.
_FORMAT_METHODS = frozenset(
    (
        "read_tx",
        "read_tx_and_hash",
        "_read_tx_parts",
        "_read_inputs",
        "_read_input",
        "_read_outputs",
        "_read_output",
        "_read_witness",
    )
)


class Deserializer(Reader):
    """Reads transactions without witness.

    Whatever the bytes are, the only error is DeserializeError.
    """

    # Maps the bytes that identify a transaction to its 32-byte hash.
    TX_HASH_FN = staticmethod(double_sha256)

    # Whether a zero count of inputs is the marker of a witness.
    HAS_WITNESS: ClassVar[bool] = False
    # Whether one loop reads the transactions of a block; else each is read by itself.
    _has_loop: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_has_loop" not in cls.__dict__ and _FORMAT_METHODS & cls.__dict__.keys():
            cls._has_loop = False

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        return Tx(
            self._read_le_int32(),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
        )

    def read_tx_and_hash(self) -> tuple[AnyTx, bytes]:
        """Return the next transaction and its hash."""
        tx, hashed = self._read_tx_parts()
        return tx, self.TX_HASH_FN(hashed)

    def read_tx_and_vsize(self) -> tuple[AnyTx, int]:
        """Return the next transaction and its virtual size in bytes.

        Four units of weight for every byte without marker, flag and witness, one for each byte
        of those; a virtual byte is four units, begun ones counted whole (BIP141).
        """
        start = self.cursor
        tx, stripped = self._read_tx_parts()
        weight = 3 * len(stripped) + (self.cursor - start)
        return tx, (weight + 3) // 4

    def read_unconfirmed(self) -> tuple[AnyTx, int]:
        """Return the transaction that ends with the buffer, and its virtual size in bytes.

        As a node's mempool has it, which may be otherwise than in a block.
        """
        return self.read_tx_and_vsize()

    def read_tx_block(self) -> TxsWithHashes:
        """Return the (transaction, hash) pairs that follow a block's header, in block order.

        Ignores bytes behind the last transaction: some coins put signatures there.
        """
        count = self._read_size()
        if not self._has_loop:
            read_tx_and_hash = self.read_tx_and_hash
            return [read_tx_and_hash() for _ in range(count)]
        try:
            return self._read_txs(count)
        except OUT_OF_BOUNDS as e:
            raise DeserializeError(
                f"truncated within the {count:,d} transactions of a block"
            ) from e

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        """Return the next transaction and those of its bytes that its hash covers."""
        start = self.cursor
        tx = self.read_tx()
        return tx, self.binary[start : self.cursor]

    def _read_inputs(self) -> list[TxInput]:
        read_input = self._read_input
        return [read_input() for _ in range(self._read_size())]

    def _read_input(self) -> TxInput:
        try:
            (txin,), self.cursor = read_inputs(self.binary, self.cursor, 1)
        except OUT_OF_BOUNDS as e:
            raise self._truncated() from e
        return txin

    def _read_outputs(self) -> list[TxOutput]:
        read_output = self._read_output
        return [read_output() for _ in range(self._read_size())]

    def _read_output(self) -> TxOutput:
        try:
            (txout,), self.cursor = read_outputs(self.binary, self.cursor, 1)
        except OUT_OF_BOUNDS as e:
            raise self._truncated() from e
        return txout

    def _read_txs(self, count: int) -> TxsWithHashes:
        """Return count transactions, where HAS_WITNESS also ones with a witness.

        One with a flag other than 1 is left to read_tx_and_hash, for the families that give
        other flags a meaning.  OUT_OF_BOUNDS is the caller's to catch.
        """
        buf, pos, hash_fn = self.binary, self.cursor, self.TX_HASH_FN
        may_have_witness = self.HAS_WITNESS
        txs: TxsWithHashes = []
        for _ in range(count):
            start = pos
            (version,) = _unpack_int32(buf, pos)
            n = buf[pos + 4]
            has_witness = not n and may_have_witness
            if has_witness:
                if buf[pos + 5] != 1:
                    self.cursor = pos
                    txs.append(self.read_tx_and_hash())
                    pos = self.cursor
                    continue
                pos += 2
                n = buf[pos + 4]
            pos += 5
            body_start = pos - 1
            if n >= 253:
                n, pos = read_size(buf, pos - 1)
            inputs, pos = read_inputs(buf, pos, n)

            n = buf[pos]
            pos += 1
            if n >= 253:
                n, pos = read_size(buf, pos - 1)
            outputs, pos = read_outputs(buf, pos, n)

            if has_witness:
                body_end = pos
                witness, pos = read_witness(buf, pos, len(inputs))
                (locktime,) = _unpack_uint32(buf, pos)
                pos += 4
                tx = _new(TxSegWit, (version, 0, 1, inputs, outputs, witness, locktime))
                hashed = buf[start : start + 4] + buf[body_start:body_end] + buf[pos - 4 : pos]
            else:
                (locktime,) = _unpack_uint32(buf, pos)
                pos += 4
                tx = _new(Tx, (version, inputs, outputs, locktime))
                hashed = buf[start:pos]
            txs.append((tx, hash_fn(hashed)))
        self.cursor = pos
        return txs


class DeserializerSegWit(Deserializer):
    """Reads transactions with witness (BIP144), and those without."""

    HAS_WITNESS = True
    _has_loop = True

    def read_tx(self) -> AnyTx:
        """Return the next transaction, a Tx if it has no marker of a witness."""
        if self._has_marker():
            return self._read_tx_parts()[0]
        return super().read_tx()

    def _has_marker(self) -> bool:
        # Where the marker would be stands the count of inputs otherwise, which is never zero.
        marker_at = self.cursor + 4
        return marker_at < self.binary_length and not self.binary[marker_at]

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        if not self._has_marker():
            return super()._read_tx_parts()
        start = self.cursor
        version = self._read_le_int32()
        rest, hashed = self._read_from_marker(start)
        return TxSegWit(version, *rest), hashed

    def _read_from_marker(self, start: int) -> tuple[SegWitFields, bytes]:
        """Return the fields of a transaction with witness from its marker on, and the hashed bytes.

        ``start`` is where the transaction began; the hash covers all before the marker, too.
        """
        head = self.binary[start : self.cursor]
        marker = self._read_byte()
        flag = self._read_byte()
        body_start = self.cursor
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        body_end = self.cursor
        witness = self._read_witness(len(inputs))
        locktime = self._read_le_uint32()
        buf, end = self.binary, self.cursor
        return (
            (marker, flag, inputs, outputs, witness, locktime),
            head + buf[body_start:body_end] + buf[end - 4 : end],
        )

    def _read_witness(self, count: int) -> list[list[bytes]]:
        """Return the witness stacks of count inputs."""
        try:
            witness, self.cursor = read_witness(self.binary, self.cursor, count)
        except OUT_OF_BOUNDS as e:
            raise self._truncated() from e
        return witness
