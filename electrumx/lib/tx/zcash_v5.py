"""Zcash's transactions of versions 5 and 6: layout of ZIP 225, hash of ZIP 244.

The hash is the root of a tree of BLAKE2b hashes, each with a name of its own, and leaves the proofs
and signatures out, those of transparent inputs included.  Shielded parts stay bytes.

Version 6 (NU6.3, from height 3,428,143 on) has a third shielded part behind Orchard's, Ironwood,
with the layout of Orchard's.  Its hash has another tree: the names are those in librustzcash of
2026, and new ones stand exactly where version 5 hashes an anchor, so anchors are taken to be left
out.  No specification or test vector was available to check that, so a reader of a block with such
transactions must compare their hashes with its merkle root.

Pure; runs in whatever thread parses.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from electrumx.lib.tx.reader import Reader
from electrumx.lib.tx.types import TxInput, TxOutput, serialize_list
from electrumx.lib.util import pack_le_uint32

OVERWINTERED: Final = 0x8000_0000
GROUP_ID: Final = bytes.fromhex("0a27a726")
GROUP_ID_V6: Final = bytes.fromhex("98b684d8")

# Sizes in bytes.  A spend is commitment, nullifier, key; an output commitment, note commitment,
# ephemeral key, note, note for the sender; an action of Orchard all of these but for one commitment.
SPEND_SIZE: Final = 3 * 32
OUTPUT_SIZE: Final = 3 * 32 + 580 + 80
ACTION_SIZE: Final = 5 * 32 + 580 + 80
PROOF_SIZE: Final = 192
SIGNATURE_SIZE: Final = 64
# Of an encrypted note of 580 bytes: where its memo begins and ends.
MEMO_START, MEMO_END = 52, 564
ANCHOR_SIZE: Final = 32

# Names of the hashes of a part with actions: of it all, and of its actions' compact parts, memos
# and other fields.
_ACTIONS: Final = (b"ZTxIdOrcActCHash", b"ZTxIdOrcActMHash", b"ZTxIdOrcActNHash")
ORCHARD: Final = (b"ZTxIdOrchardHash", *_ACTIONS)
ORCHARD_V6: Final = (b"ZTxIdOrchardH_v6", *_ACTIONS)
_ACTIONS_V6: Final = (b"ZTxIdIrnActCH_v6", b"ZTxIdIrnActMH_v6", b"ZTxIdIrnActNH_v6")
IRONWOOD: Final = (b"ZTxIdIronwd_H_v6", *_ACTIONS_V6)
# Names of the hash of spends' fields but for their nullifiers.
SPENDS: Final = b"ZTxIdSSpendNHash"
SPENDS_V6: Final = b"ZTxIdSSpendNH_v6"


class Sapling(NamedTuple):
    """The hashed fields of Sapling's part; empty if it is missing."""

    spends: bytes
    outputs: bytes
    balance: bytes
    anchor: bytes


class Orchard(NamedTuple):
    """The hashed fields of Orchard's part; empty if it is missing."""

    actions: bytes
    flags_balance_anchor: bytes


class ShieldedReader(Reader):
    """Reads the parts behind the outputs of a transaction of version 5 or 6."""

    def read_sapling(self) -> Sapling:
        """Return Sapling's part and go over its proofs and signatures."""
        n_spends = self._read_size()
        spends = self._read_nbytes(SPEND_SIZE * n_spends)
        n_outputs = self._read_size()
        outputs = self._read_nbytes(OUTPUT_SIZE * n_outputs)
        if not n_spends and not n_outputs:
            return Sapling(b"", b"", b"", b"")
        balance = self._read_nbytes(8)
        anchor = self._read_nbytes(32) if n_spends else b""
        self._skip((PROOF_SIZE + SIGNATURE_SIZE) * n_spends + PROOF_SIZE * n_outputs)
        self._skip(SIGNATURE_SIZE)
        return Sapling(spends, outputs, balance, anchor)

    def read_orchard(self) -> Orchard:
        """Return Orchard's part, or Ironwood's, and go over its proofs and signatures."""
        n_actions = self._read_size()
        actions = self._read_nbytes(ACTION_SIZE * n_actions)
        if not n_actions:
            return Orchard(b"", b"")
        flags_balance_anchor = self._read_nbytes(1 + 8 + 32)
        self._skip(self._read_size())
        self._skip(SIGNATURE_SIZE * n_actions)
        self._skip(SIGNATURE_SIZE)
        return Orchard(actions, flags_balance_anchor)


class TxZcashV5(NamedTuple):
    """A transaction of version 5."""

    version: int  # without the "overwintered" bit
    inputs: Sequence[TxInput]
    outputs: Sequence[TxOutput]
    locktime: int
    branch_id: bytes  # of the consensus rules, 4 bytes as on the wire
    expiry_height: int
    tail: bytes  # the shielded parts

    def _group_id(self) -> bytes:
        return GROUP_ID

    def _head(self) -> bytes:
        return b"".join(
            (
                pack_le_uint32(self.version | OVERWINTERED),
                self._group_id(),
                self.branch_id,
                pack_le_uint32(self.locktime),
                pack_le_uint32(self.expiry_height),
            )
        )

    def serialize(self) -> bytes:
        """Return the bytes of the transaction on the wire."""
        return self._head() + serialize_list(self.inputs) + serialize_list(self.outputs) + self.tail

    def tx_hash(self) -> bytes:
        """Return the hash by which blocks and inputs name the transaction, natural order."""
        return _hash(
            b"ZcashTxHash_" + self.branch_id,
            _hash(b"ZTxIdHeadersHash", self._head()),
            _transparent_hash(self.inputs, self.outputs),
            *self._shielded_hashes(ShieldedReader(self.tail)),
        )

    def _shielded_hashes(self, reader: ShieldedReader) -> Iterable[bytes]:
        yield _sapling_hash(reader.read_sapling(), SPENDS)
        orchard = reader.read_orchard()
        yield _actions_hash(orchard.actions, orchard.flags_balance_anchor, ORCHARD)


class TxZcashV6(TxZcashV5):
    """A transaction of version 6."""

    __slots__ = ()

    def _group_id(self) -> bytes:
        return GROUP_ID_V6

    def _shielded_hashes(self, reader: ShieldedReader) -> Iterable[bytes]:
        yield _sapling_hash(reader.read_sapling()._replace(anchor=b""), SPENDS_V6)
        for names in (ORCHARD_V6, IRONWOOD):
            part = reader.read_orchard()
            yield _actions_hash(part.actions, part.flags_balance_anchor[:-ANCHOR_SIZE], names)


def _hash(name: bytes, *parts: bytes) -> bytes:
    """Return BLAKE2b-256 with a name of 16 bytes."""
    return blake2b(b"".join(parts), digest_size=32, person=name).digest()


def _transparent_hash(inputs: Sequence[TxInput], outputs: Sequence[TxOutput]) -> bytes:
    if not inputs and not outputs:
        return _hash(b"ZTxIdTranspaHash")
    outpoints = [txin.prev_hash + pack_le_uint32(txin.prev_idx) for txin in inputs]
    return _hash(
        b"ZTxIdTranspaHash",
        _hash(b"ZTxIdPrevoutHash", *outpoints),
        _hash(b"ZTxIdSequencHash", *[pack_le_uint32(txin.sequence) for txin in inputs]),
        _hash(b"ZTxIdOutputsHash", *[txout.serialize() for txout in outputs]),
    )


def _items(joined: bytes, size: int) -> Iterable[bytes]:
    return (joined[at : at + size] for at in range(0, len(joined), size))


def _sapling_hash(part: Sapling, spends_name: bytes) -> bytes:
    if not part.balance:
        return _hash(b"ZTxIdSaplingHash")
    return _hash(
        b"ZTxIdSaplingHash",
        _spends_hash(part, spends_name),
        _outputs_hash(part.outputs),
        part.balance,
    )


def _spends_hash(part: Sapling, name: bytes) -> bytes:
    if not part.spends:
        return _hash(b"ZTxIdSSpendsHash")
    nullifiers, others = [], []
    for spend in _items(part.spends, SPEND_SIZE):
        nullifiers.append(spend[32:64])
        others.append(spend[:32] + part.anchor + spend[64:])
    return _hash(
        b"ZTxIdSSpendsHash",
        _hash(b"ZTxIdSSpendCHash", *nullifiers),
        _hash(name, *others),
    )


def _outputs_hash(outputs: bytes) -> bytes:
    if not outputs:
        return _hash(b"ZTxIdSOutputHash")
    compact, memos, others = [], [], []
    for output in _items(outputs, OUTPUT_SIZE):
        note = output[96:676]
        compact.append(output[32:96] + note[:MEMO_START])
        memos.append(note[MEMO_START:MEMO_END])
        others.append(output[:32] + note[MEMO_END:] + output[676:])
    return _hash(
        b"ZTxIdSOutputHash",
        _hash(b"ZTxIdSOutC__Hash", *compact),
        _hash(b"ZTxIdSOutM__Hash", *memos),
        _hash(b"ZTxIdSOutN__Hash", *others),
    )


def _actions_hash(actions: bytes, rest: bytes, names: Sequence[bytes]) -> bytes:
    whole_name, compact_name, memos_name, others_name = names
    if not actions:
        return _hash(whole_name)
    compact, memos, others = [], [], []
    for action in _items(actions, ACTION_SIZE):
        note = action[160:740]
        # Nullifier, note commitment and ephemeral key; before them the commitment to the value,
        # among them, third, the key.
        compact.append(action[32:64] + action[96:160] + note[:MEMO_START])
        memos.append(note[MEMO_START:MEMO_END])
        others.append(action[:32] + action[64:96] + note[MEMO_END:] + action[740:])
    return _hash(
        whole_name,
        _hash(compact_name, *compact),
        _hash(memos_name, *memos),
        _hash(others_name, *others),
        rest,
    )
