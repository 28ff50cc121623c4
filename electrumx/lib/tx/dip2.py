"""Special transactions of Dash and Axe (DIP2): a type beside the version, and a payload.

The readers take payloads of the types known here apart; of others, and of versions that do not fit,
they keep the bytes.  The index has nothing of either, and the hash covers them as they stand.

Pure; runs in whatever thread parses.  The public names are in lib.tx_dash and lib.tx_axe.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple, Union

from electrumx.lib.errors import DeserializeError
from electrumx.lib.tx.bitcoin import Deserializer
from electrumx.lib.tx.reader import Reader
from electrumx.lib.tx.types import AnyTx, TxInput, TxOutput, serialize_list
from electrumx.lib.util import (
    pack_be_uint16,
    pack_le_int32,
    pack_le_int64,
    pack_le_uint16,
    pack_le_uint32,
    pack_varbytes,
)

# The first version that has a type.
SPECIAL_VERSION: Final = 3


class TxOutPoint(NamedTuple):
    """An outpoint in a payload."""

    hash: bytes
    index: int  # type: ignore[assignment]  # a tuple has a method of that name

    @classmethod
    def read_outpoint(cls, reader: Any) -> "TxOutPoint":
        """Return the next outpoint of a reader."""
        return cls(reader._read_nbytes(32), reader._read_le_uint32())

    def serialize(self) -> bytes:
        """Return the 36 bytes of the outpoint on the wire."""
        assert len(self.hash) == 32
        return self.hash + pack_le_uint32(self.index)


# The type of a payload's field: a number of bytes, or one of these.
U16, U16BE, U32, I64, VARBYTES, OUTPOINT = "u16", "u16be", "u32", "i64", "varbytes", "outpoint"
Layout = tuple[Union[int, str], ...]

_READERS: Final[dict[str, Any]] = {
    U16: Reader._read_le_uint16,
    U16BE: Reader._read_be_uint16,
    U32: Reader._read_le_uint32,
    I64: Reader._read_le_int64,
    VARBYTES: Reader._read_varbytes,
    OUTPOINT: TxOutPoint.read_outpoint,
}
_WRITERS: Final[dict[str, Any]] = {
    U16: pack_le_uint16,
    U16BE: pack_be_uint16,
    U32: pack_le_uint32,
    I64: pack_le_int64,
    VARBYTES: pack_varbytes,
    OUTPOINT: TxOutPoint.serialize,
}


def _read_fields(reader: Reader, layout: Layout) -> list[Any]:
    return [
        reader._read_nbytes(kind) if isinstance(kind, int) else _READERS[kind](reader)
        for kind in layout
    ]


def _write_fields(fields: Sequence[Any], layout: Layout) -> bytes:
    parts = []
    for field, kind in zip(fields, layout, strict=True):
        if isinstance(kind, int):
            assert len(field) == kind, f"a field of {kind} bytes has {len(field)}"
            parts.append(field)
        else:
            parts.append(_WRITERS[kind](field))
    return b"".join(parts)


HASH, KEY_ID, IP_ADDRESS, BLS_KEY, BLS_SIG = 32, 20, 16, 48, 96


class ProRegTx(NamedTuple):
    """Type 1 (DIP3): a masternode registers."""

    version: int
    type: int
    mode: int
    collateralOutpoint: TxOutPoint
    ipAddress: bytes
    port: int
    KeyIdOwner: bytes
    PubKeyOperator: bytes
    KeyIdVoting: bytes
    operatorReward: int
    scriptPayout: bytes
    inputsHash: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _PRO_REG)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "ProRegTx":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _PRO_REG))


_PRO_REG: Final[Layout] = (
    U16, U16, U16, OUTPOINT, IP_ADDRESS, U16BE, KEY_ID, BLS_KEY, KEY_ID, U16, VARBYTES, HASH,
    VARBYTES,
)  # fmt: skip


class ProUpServTx(NamedTuple):
    """Type 2 (DIP3): a masternode changes its service."""

    version: int
    proTxHash: bytes
    ipAddress: bytes
    port: int
    scriptOperatorPayout: bytes
    inputsHash: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _PRO_UP_SERV)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "ProUpServTx":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _PRO_UP_SERV))


_PRO_UP_SERV: Final[Layout] = (U16, HASH, IP_ADDRESS, U16BE, VARBYTES, HASH, BLS_SIG)


class ProUpRegTx(NamedTuple):
    """Type 3 (DIP3): a masternode changes its keys or where it is paid."""

    version: int
    proTxHash: bytes
    mode: int
    PubKeyOperator: bytes
    KeyIdVoting: bytes
    scriptPayout: bytes
    inputsHash: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _PRO_UP_REG)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "ProUpRegTx":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _PRO_UP_REG))


_PRO_UP_REG: Final[Layout] = (U16, HASH, U16, BLS_KEY, KEY_ID, VARBYTES, HASH, VARBYTES)


class ProUpRevTx(NamedTuple):
    """Type 4 (DIP3): an operator gives up a masternode."""

    version: int
    proTxHash: bytes
    reason: int
    inputsHash: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _PRO_UP_REV)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "ProUpRevTx":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _PRO_UP_REV))


_PRO_UP_REV: Final[Layout] = (U16, HASH, U16, HASH, BLS_SIG)


class CbTx(NamedTuple):
    """Type 5 (DIP4): the state of the masternodes in a coinbase transaction."""

    version: int
    height: int
    merkleRootMNList: bytes
    merkleRootQuorums: bytes  # empty in version 1

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        quorums = (HASH,) if self.version > 1 else (0,)
        return _write_fields(self, _CB + quorums)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "CbTx":
        """Return the payload that begins at the reader's cursor."""
        version, height, masternodes = _read_fields(deser, _CB)
        quorums = deser._read_nbytes(HASH) if version > 1 else b""
        return cls(version, height, masternodes, quorums)


_CB: Final[Layout] = (U16, U32, HASH)


class SubTxRegister(NamedTuple):
    """Type 8 (DIP5): a user registers."""

    version: int
    userName: bytes
    pubKey: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _SUB_REGISTER)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "SubTxRegister":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _SUB_REGISTER))


_SUB_REGISTER: Final[Layout] = (U16, VARBYTES, BLS_KEY, BLS_SIG)


class SubTxTopup(NamedTuple):
    """Type 9 (DIP5): credit for a user."""

    version: int
    regTxHash: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _SUB_TOPUP)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "SubTxTopup":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _SUB_TOPUP))


_SUB_TOPUP: Final[Layout] = (U16, HASH)


class SubTxResetKey(NamedTuple):
    """Type 10 (DIP5): a user changes keys."""

    version: int
    regTxHash: bytes
    hashPrevSubTx: bytes
    creditFee: int
    newPubKey: bytes
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _SUB_RESET_KEY)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "SubTxResetKey":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _SUB_RESET_KEY))


_SUB_RESET_KEY: Final[Layout] = (U16, HASH, HASH, I64, BLS_KEY, BLS_SIG)


class SubTxCloseAccount(NamedTuple):
    """Type 11 (DIP5): a user leaves."""

    version: int
    regTxHash: bytes
    hashPrevSubTx: bytes
    creditFee: int
    payloadSig: bytes

    def serialize(self) -> bytes:
        """Return the bytes of the payload on the wire."""
        return _write_fields(self, _SUB_CLOSE)

    @classmethod
    def read_tx_extra(cls, deser: Reader) -> "SubTxCloseAccount":
        """Return the payload that begins at the reader's cursor."""
        return cls(*_read_fields(deser, _SUB_CLOSE))


_SUB_CLOSE: Final[Layout] = (U16, HASH, HASH, I64, BLS_SIG)

SPEC_TX_HANDLERS: Final[dict[int, Any]] = {
    1: ProRegTx,
    2: ProUpServTx,
    3: ProUpRegTx,
    4: ProUpRevTx,
    5: CbTx,
    8: SubTxRegister,
    9: SubTxTopup,
    10: SubTxResetKey,
    11: SubTxCloseAccount,
}


class SpecialTx(NamedTuple):
    """A transaction, special if its type is not 0."""

    version: int
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    tx_type: int
    extra_payload: Any  # of the class of the type, or bytes

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire.

        Raises ValueError if the payload is one of another type.
        """
        core = b"".join(
            (
                serialize_list(self.inputs),
                serialize_list(self.outputs),
                pack_le_uint32(self.locktime),
            )
        )
        if not self.tx_type:
            return pack_le_int32(self.version) + core
        payload = self.extra_payload
        if not isinstance(payload, bytes):
            handler = SPEC_TX_HANDLERS.get(self.tx_type)
            if handler is None or not isinstance(payload, handler):
                raise ValueError(f"transaction type {self.tx_type} has no {type(payload)} payload")
            payload = payload.serialize()
        head = pack_le_uint16(self.version) + pack_le_uint16(self.tx_type)
        return head + core + pack_varbytes(payload)


class DeserializerDIP2(Deserializer):
    """Reads transactions that may be special."""

    SPEC_TX_HANDLERS: ClassVar[dict[int, Any]] = SPEC_TX_HANDLERS

    def read_tx(self) -> AnyTx:
        """Return the next transaction."""
        start = self.cursor
        word = self._read_le_uint32()
        version, tx_type = word & 0xFFFF, word >> 16
        if version < SPECIAL_VERSION:
            tx_type = 0
        if not tx_type:
            self.cursor = start
            version = self._read_le_int32()
        inputs = self._read_inputs()
        outputs = self._read_outputs()
        locktime = self._read_le_uint32()
        payload = self._read_payload(tx_type) if tx_type else b""
        return SpecialTx(version, inputs, outputs, locktime, tx_type, payload)

    def _read_payload(self, tx_type: int) -> Any:
        raw = self._read_varbytes()
        handler = self.SPEC_TX_HANDLERS.get(tx_type)
        if handler is None:
            return raw
        # A reader of its own, so that no field reaches beyond the payload.
        reader = Reader(raw)
        try:
            payload = handler.read_tx_extra(reader)
        except DeserializeError:
            return raw
        # Later versions of a payload have more fields.
        return payload if reader.cursor == len(raw) else raw
