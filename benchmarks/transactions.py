"""The format of a generated chain: transactions of the sizes that real ones have, signed with noise.

No server validates a signature, so an output is unlocked by one of some hundred prepared byte
strings of the right length.  All else is right: every input spends a UTXO, values balance, ids are
the double SHA-256 of the right bytes.  One thread; no I/O.
"""

import hashlib
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from benchmarks.population import (
    P2PKH,
    P2SH_MULTISIG,
    P2SH_P2WPKH,
    P2TR,
    P2WPKH,
    P2WSH,
)
from tests.fakes.block_format import (
    GENESIS_HEADER,
    GENESIS_TIME,
    Format,
    header_of,
    merkle_root,
)
from tests.fakes.node import double_sha256

#: ways to unlock each kind
VARIANTS = 256
VERSION = b"\x02\x00\x00\x00"
SEGWIT = VERSION + b"\x00\x01"
LOCKTIME = bytes(4)
NO_WITNESS = b"\0"
SEQUENCE = b"\xfd\xff\xff\xff"
MOST_OUTPUTS = 250
INDEX = [number.to_bytes(4, "little") for number in range(MOST_OUTPUTS + 2)]
OP_RETURN_SHARE = 0.10
BLOCK_SECS = 600
HEADER_VERSION = 0x20000000
#: the last byte of a hash that regtest's target allows is no greater
MOST_LAST_BYTE = 0x7F
GENESIS_TX = bytes.fromhex(
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d"
    "0104455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66"
    "207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe55"
    "48271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba"
    "0b8d578a4c702b6bf11d5fac00000000"
)


def varint(number):
    """A number as Bitcoin packs it."""
    if number < 0xFD:
        return bytes((number,))
    return b"\xfd" + number.to_bytes(2, "little")


class UTXO(NamedTuple):
    """An unspent output: its outpoint, satoshis, the unlocking bytes, its owner."""

    outpoint: bytes
    value: int
    kind: int
    owner: int


VALUE, OWNER = itemgetter(1), itemgetter(3)
#: as ``UTXO`` makes one, of a tuple; without a frame of Python's
new_utxo = partial(tuple.__new__, UTXO)


class SignedTx(NamedTuple):
    """A transaction, serialised, and its properties.

    fee in satoshis; spent: UTXOs; outputs: (value, script, kind, number) of each; utxos: the same
    """

    raw: bytes
    tx_hash: bytes
    witness_hash: bytes
    fee: int
    weight: int
    spent: list
    outputs: list
    utxos: list

    @property
    def members(self):
        """The numbers of the owners that it touches, ``NOBODY`` perhaps among them."""
        return {*map(OWNER, self.spent), *map(OWNER, self.utxos)}


class SignedFormat(Format):
    """Bitcoin's regtest, with witnesses, commitments to them, and its little proof of work.

    random: a random.Random
    """

    def __init__(self, random):
        super().__init__()
        self.random = random
        self._draw = random.random
        self._bytes = random.randbytes
        self._unlock = [
            [make(random) for _ in range(VARIANTS)] for _kind, make in sorted(UNLOCKERS.items())
        ]

    def genesis(self):
        tx_hash = double_sha256(GENESIS_TX)
        tx = SignedTx(GENESIS_TX, tx_hash, bytes(32), 0, 0, [], [], [])
        return GENESIS_HEADER + self.body([tx]), GENESIS_HEADER, [tx]

    def inputs(self, spent):
        """Choose how each UTXO is unlocked: the parts of inputs, and their witnesses."""
        draw, unlock = self._draw, self._unlock
        parts, witnesses = [], []
        for outpoint, _value, kind, _owner in spent:
            script, witness = unlock[kind][int(draw() * VARIANTS)]
            parts.append(outpoint)
            parts.append(script)
            witnesses.append(witness)
        return parts, witnesses

    def pay(self, spent, inputs, outputs):
        """Make a transaction from UTXOs to (value, script, kind, number) of each output."""
        parts, witnesses = inputs
        written = [value.to_bytes(8, "little") + script for value, script, _kind, _n in outputs]
        if self._draw() < OP_RETURN_SHARE:
            note = self._bytes(20 + int(self._draw() * 50))
            written.append(bytes(8) + bytes((len(note) + 2, 0x6A, len(note))) + note)
        body = b"".join((varint(len(spent)), *parts, varint(len(written)), *written))
        sha256 = hashlib.sha256
        base = raw = b"".join((VERSION, body, LOCKTIME))
        tx_hash = witness_hash = sha256(sha256(base).digest()).digest()
        if witnesses.count(NO_WITNESS) < len(witnesses):
            raw = b"".join((SEGWIT, body, *witnesses, LOCKTIME))
            witness_hash = sha256(sha256(raw).digest()).digest()
        utxos = [
            new_utxo((tx_hash + INDEX[place], value, kind, number))
            for place, (value, _script, kind, number) in enumerate(outputs)
        ]
        fee = sum(map(VALUE, spent)) - sum(map(VALUE, utxos))
        weight = 3 * len(base) + len(raw)
        return SignedTx(raw, tx_hash, witness_hash, fee, weight, spent, outputs, utxos)

    def reward(self, extra, outputs, height, txs):
        """Make the transaction that pays the miner of a block of these others."""
        ((value, paid, kind, owner),) = outputs
        hashes = [bytes(32), *(tx.witness_hash for tx in txs)]
        commitment = double_sha256(merkle_root(hashes) + bytes(32))
        size = (height.bit_length() + 8) // 8
        # As BIP34 has it: small numbers have opcodes.
        push = bytes((0x50 + height,)) if height <= 16 else varint(size)
        number = b"" if height <= 16 else height.to_bytes(size, "little")
        script = push + number + b"\x09" + extra
        written = (
            b"\x02"
            + value.to_bytes(8, "little")
            + paid
            + bytes(8)
            + b"\x26\x6a\x24\xaa\x21\xa9\xed"
            + commitment
        )
        body = b"\x01" + bytes(32) + b"\xff" * 4 + varint(len(script)) + script + b"\xff" * 4
        base = VERSION + body + written + LOCKTIME
        raw = SEGWIT + body + written + b"\x01\x20" + bytes(32) + LOCKTIME
        tx_hash = double_sha256(base)
        utxos = [UTXO(tx_hash + INDEX[0], value, kind, owner)]
        weight = 3 * len(base) + len(raw)
        return SignedTx(raw, tx_hash, bytes(32), 0, weight, [], outputs, utxos)

    def header(self, prev_hash, root, height):
        """Make a header whose hash is small enough, by trying nonces."""
        stamp = GENESIS_TIME + BLOCK_SECS * height
        header, nonce = b"", 0
        while not header or double_sha256(header)[31] > MOST_LAST_BYTE:
            header = header_of(prev_hash, root, version=HEADER_VERSION, time=stamp, nonce=nonce)
            nonce += 1
        return header


def _push(data):
    return varint(len(data)) + data


def _signature(random):
    return _push(random.randbytes(71 + (random.random() < 0.5)))


def _pubkey(random):
    return _push(b"\x02" + random.randbytes(32))


def _input_script(script):
    return _push(script) + SEQUENCE


def _unlock_p2pkh(random):
    return _input_script(_signature(random) + _pubkey(random)), NO_WITNESS


def _unlock_p2wpkh(random):
    return _input_script(b""), b"\x02" + _signature(random) + _pubkey(random)


def _unlock_nested(random):
    return _input_script(_push(b"\x00\x14" + random.randbytes(20))), _unlock_p2wpkh(random)[1]


def _redeem_script(random):
    return b"\x52" + _pubkey(random) + _pubkey(random) + _pubkey(random) + b"\x53\xae"


def _unlock_multisig(random):
    script = b"\x00" + _signature(random) + _signature(random)
    # longer than 75 bytes: OP_PUSHDATA1
    return _input_script(script + b"\x4c" + _push(_redeem_script(random))), NO_WITNESS


def _unlock_p2wsh(random):
    signatures = _signature(random) + _signature(random)
    return _input_script(b""), b"\x04\x00" + signatures + _push(_redeem_script(random))


def _unlock_p2tr(random):
    signature = _push(random.randbytes(64))
    if random.random() < 0.9:
        return _input_script(b""), b"\x01" + signature
    # a script path, some of which carry kilobytes
    script = random.randbytes(min(8_000, int(100 / (1 - random.random()))))
    control = _push(b"\xc0" + random.randbytes(32))
    return _input_script(b""), b"\x03" + signature + _push(script) + control


UNLOCKERS = {
    P2PKH: _unlock_p2pkh,
    P2SH_P2WPKH: _unlock_nested,
    P2SH_MULTISIG: _unlock_multisig,
    P2WPKH: _unlock_p2wpkh,
    P2WSH: _unlock_p2wsh,
    P2TR: _unlock_p2tr,
}
