"""Transactions with a time field: Peercoin and its descendants, each with its own variant.

The time stands behind the version, 32 bits, seconds since 1970.  The hash of a transaction covers
all of its bytes but marker, flag and witness.

Pure; runs in whatever thread parses.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from electrumx.lib.header_hashes import trezar_blake2s
from electrumx.lib.tx.bitcoin import Deserializer, DeserializerSegWit
from electrumx.lib.tx.headers import DeserializerAuxPow
from electrumx.lib.tx.types import (
    AnyTx,
    Tx,
    TxInput,
    TxOutput,
    TxSegWit,
    serialize_list,
)
from electrumx.lib.util import (
    pack_le_int32,
    pack_le_uint32,
    pack_varbytes,
)


def _core(tx: Any) -> bytes:
    """Return inputs, outputs and lock time as they stand on the wire."""
    return b"".join(
        (serialize_list(tx.inputs), serialize_list(tx.outputs), pack_le_uint32(tx.locktime))
    )


class TxTime(NamedTuple):
    """A transaction with a time behind its version."""

    version: int  # 32 bits, signed
    time: int  # seconds since 1970
    inputs: Sequence[Any]
    outputs: Sequence[TxOutput]
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        return pack_le_int32(self.version) + pack_le_uint32(self.time) + _core(self)


class TxTimeLast(TxTime):
    """A transaction with a time at its end, from version 2 on (Reddcoin)."""

    __slots__ = ()

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        time = pack_le_uint32(self.time) if self.version > 1 else b""
        return pack_le_int32(self.version) + _core(self) + time


class TxTrezarcoin(NamedTuple):
    """A transaction with a time, and a comment at the end of most."""

    version: int
    time: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    txcomment: bytes  # from version 2 on

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        comment = pack_varbytes(self.txcomment) if self.version >= 2 else b""
        return pack_le_int32(self.version) + pack_le_uint32(self.time) + _core(self) + comment


class TxECCoin(NamedTuple):
    """A transaction with a time, and the hash of a service's record at the end of some."""

    version: int
    time: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    service_hash: bytes  # 32 bytes from version 2 on, else empty

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        head = pack_le_int32(self.version) + pack_le_uint32(self.time)
        return head + _core(self) + self.service_hash


class TxTimeSegWit(NamedTuple):
    """A transaction with a time and witness."""

    version: int
    time: int
    marker: int
    flag: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    witness: Sequence[Sequence[bytes]]
    locktime: int

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, marker, flag and witness included."""
        rest = TxSegWit(self.version, *self[2:]).serialize()
        return rest[:4] + pack_le_uint32(self.time) + rest[4:]


class TxNavCoin(NamedTuple):
    """Navcoin's transaction: a time, and a text at the end of most."""

    version: int
    time: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    str_d_zeel: bytes  # from version 2 on, else empty

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        text = pack_varbytes(self.str_d_zeel) if self.version >= 2 else b""
        return pack_le_int32(self.version) + pack_le_uint32(self.time) + _core(self) + text


class TxNavCoinSegWit(NamedTuple):
    """Navcoin's transaction with witness."""

    version: int
    time: int
    marker: int
    flag: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    witness: Sequence[Sequence[bytes]]
    locktime: int
    str_d_zeel: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire, marker, flag and witness included."""
        text = pack_varbytes(self.str_d_zeel) if self.version >= 2 else b""
        return TxTimeSegWit(*self[:8]).serialize() + text


class DeserializerTxTime(Deserializer):
    """Reads transactions with a time behind the version."""

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        return TxTime(
            self._read_le_int32(),
            self._read_le_uint32(),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
        )


class DeserializerTimeByVersion(Deserializer):
    """Reads transactions of which only some versions have a time."""

    def has_time(self, version: int) -> bool:
        """Return True if transactions of that version have a time."""
        raise NotImplementedError

    def read_tx(self) -> AnyTx:
        """Return the next transaction, a Tx if it has no time."""
        version = self._read_le_int32()
        if not self.has_time(version):
            return Tx(version, self._read_inputs(), self._read_outputs(), self._read_le_uint32())
        return TxTime(
            version,
            self._read_le_uint32(),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
        )


class DeserializerElectra(DeserializerTimeByVersion):
    """Electra: version 7 has no time."""

    def has_time(self, version: int) -> bool:
        """Return True but for version 7."""
        return version != 7


class DeserializerSimplicity(DeserializerTimeByVersion):
    """Simplicity and Myce: version 3 and later have no time."""

    def has_time(self, version: int) -> bool:
        """Return True for versions before 3."""
        return version < 3


class DeserializerBlackcoin(DeserializerTimeByVersion):
    """Blackcoin: version 2 and later have no time."""

    def has_time(self, version: int) -> bool:
        """Return True for versions before 2."""
        return version < 2


class DeserializerReddcoin(Deserializer):
    """Reads transactions with a time at their end, if the version is above 1."""

    def read_tx(self) -> AnyTx:
        """Return the next transaction; its time is 0 if it has none."""
        version = self._read_le_int32()
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        locktime = self._read_le_uint32()
        time = self._read_le_uint32() if version > 1 else 0
        return TxTimeLast(version, time, inputs, outputs, locktime)


class DeserializerTrezarcoin(Deserializer):
    """Reads transactions with a time, and with a comment from version 2 on."""

    # Header hash, kept here under the names that it always had.
    blake2s = staticmethod(trezar_blake2s)

    @staticmethod
    def blake2s_gen(data: bytes) -> str:
        """Return the hash of a header in its displayed form."""
        return trezar_blake2s(data)[::-1].hex()

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        version = self._read_le_int32()
        return TxTrezarcoin(
            version,
            self._read_le_uint32(),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
            self._read_varbytes() if version >= 2 else b"",
        )


class DeserializerECCoin(Deserializer):
    """Reads transactions with a time, and with 32 bytes more if the version is above 1."""

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        version = self._read_le_int32()
        return TxECCoin(
            version,
            self._read_le_uint32(),
            self._read_inputs(),
            self._read_outputs(),
            self._read_le_uint32(),
            self._read_nbytes(32) if version > 1 else b"",
        )


class TxInputTokenPay(TxInput):
    """An input that spends an output in the open."""

    __slots__ = ()


class TxInputTokenPayStealth(NamedTuple):
    """An anonymous input: a ring signature hides which output it spends."""

    keyimage: bytes  # 33 bytes
    ringsize: bytes  # 3 bytes
    script: bytes
    sequence: int

    def is_generation(self) -> bool:
        """Return True: it spends no indexed output."""
        return True

    def serialize(self) -> bytes:
        """Return the bytes of the input on the wire."""
        return b"".join(
            (
                self.keyimage,
                self.ringsize,
                pack_varbytes(self.script),
                pack_le_uint32(self.sequence),
            )
        )


class DeserializerTokenPay(DeserializerTxTime):
    """Reads transactions with a time, some inputs of which are anonymous."""

    ANON_PREFIX = bytes.fromhex("6ab9")
    MIN_ANON_SCRIPT_LEN = 99

    def _read_inputs(self) -> list[Any]:
        return [self._read_either_input() for _ in range(self._read_size())]

    def _read_either_input(self) -> Union[TxInputTokenPay, TxInputTokenPayStealth]:
        start = self.cursor
        txin = super()._read_input()
        script = txin.script
        if len(script) < self.MIN_ANON_SCRIPT_LEN or not script.startswith(self.ANON_PREFIX):
            return TxInputTokenPay(*txin)
        image = self.binary[start : start + 33]
        ring = self.binary[start + 33 : start + 36]
        return TxInputTokenPayStealth(image, ring, script, txin.sequence)


class DeserializerTxTimeSegWit(DeserializerSegWit, DeserializerTxTime):
    """Reads transactions with a time, and with witness or without."""

    def _has_marker(self) -> bool:
        # Behind version and time; there stands the count of inputs otherwise.
        marker_at = self.cursor + 8
        return marker_at < self.binary_length and not self.binary[marker_at]

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        if not self._has_marker():
            start = self.cursor
            tx = DeserializerTxTime.read_tx(self)
            return tx, self.binary[start : self.cursor]
        return self._read_time_segwit()

    def read_tx(self) -> AnyTx:
        """Return the next transaction, a TxTime if it has no marker of a witness."""
        return self._read_tx_parts()[0]

    def _read_time_segwit(self) -> tuple[TxTimeSegWit, bytes]:
        start = self.cursor
        version = self._read_le_int32()
        time = self._read_le_uint32()
        rest, hashed = self._read_from_marker(start)
        return TxTimeSegWit(version, time, *rest), hashed


class DeserializerPeercoin(DeserializerTxTimeSegWit):
    """Peercoin: version 3 and later have no time, and are Bitcoin's in all else."""

    def _has_time(self) -> bool:
        start = self.cursor
        version = self._read_le_int32()
        self.cursor = start
        return version < 3

    def _has_marker(self) -> bool:
        marker_at = self.cursor + (8 if self._has_time() else 4)
        return marker_at < self.binary_length and not self.binary[marker_at]

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        if self._has_time():
            return super()._read_tx_parts()
        if self._has_marker():
            return DeserializerSegWit._read_tx_parts(self)
        start = self.cursor
        tx = Deserializer.read_tx(self)
        return tx, self.binary[start : self.cursor]


class DeserializerTxTimeSegWitNavCoin(DeserializerTxTimeSegWit):
    """As DeserializerTxTimeSegWit, with a text at the end from version 2 on; the hash covers it."""

    def _read_tx_parts(self) -> tuple[AnyTx, bytes]:
        tx, hashed = super()._read_tx_parts()
        start = self.cursor
        text = self._read_varbytes() if tx.version >= 2 else b""
        hashed += self.binary[start : self.cursor]
        if isinstance(tx, TxTimeSegWit):
            return TxNavCoinSegWit(*tx, text), hashed
        assert isinstance(tx, TxTime)
        return TxNavCoin(*tx, text), hashed


class DeserializerEmercoin(DeserializerTxTimeSegWit, DeserializerAuxPow):
    """Reads Emercoin's transactions, and headers with a proof of merged mining.

    Reads the coinbase transaction of the parent block in Emercoin's own format.
    """

    def is_merged_block(self) -> bool:
        """Return True if the header that begins here announces a proof of merged mining."""
        start = self.cursor
        version = self._read_le_uint32()
        self.cursor = start
        return bool(version & self.VERSION_AUXPOW)
