"""Transactions of a generated chain: of the sizes that real ones have, signed with noise.

No server validates a signature, so an output is unlocked by one of some hundred prepared byte
strings of the right length.  All else is right: every input spends a UTXO, values balance, ids are
the double SHA-256 of the right bytes.  One thread; no I/O.
"""

import hashlib
from typing import NamedTuple

from benchmarks.population import (
    P2PKH,
    P2SH_MULTISIG,
    P2SH_P2WPKH,
    P2TR,
    P2WPKH,
    P2WSH,
)

#: ways to unlock each kind
VARIANTS = 256
VERSION = b"\x02\x00\x00\x00"
SEGWIT = VERSION + b"\x00\x01"
LOCKTIME = bytes(4)
SEQUENCE = b"\xfd\xff\xff\xff"
MOST_OUTPUTS = 250
INDEX = [number.to_bytes(4, "little") for number in range(MOST_OUTPUTS + 2)]
#: satoshis for an input, an output
FEE_IN, FEE_OUT = 150, 60
#: UTXOs that are young, and the share of inputs that spend one of those
YOUNG, YOUNG_SHARE = 10_000, 0.55
OP_RETURN_SHARE = 0.10


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


class MadeTx(NamedTuple):
    """A transaction, serialised, and its properties.

    fee in satoshis; payees: (script, kind, number) of each output; utxos: the outputs; members: the
    numbers of the owners that it touches, ``NOBODY`` perhaps among them
    """

    raw: bytes
    tx_hash: bytes
    witness_hash: bytes
    fee: int
    weight: int
    inputs: int
    payees: list
    utxos: list
    members: set


class UTXOSet:
    """The UTXOs, in two heaps: young ones, and the rest.

    About half of the inputs spend a young one, often of the same block, and the others any
    at all, so that an index finds some in its cache and must look for others.
    """

    def __init__(self, young=(), old=()):
        self._young, self._old = list(young), list(old)

    def copy(self):
        return UTXOSet(self._young, self._old)

    def __len__(self):
        return len(self._young) + len(self._old)

    def add(self, utxos, draw):
        """New UTXOs; as many young ones grow old when there are too many."""
        young = self._young
        young += utxos
        while len(young) > YOUNG:
            self._old.append(_take(young, int(draw() * len(young))))

    def take(self, draw):
        """Remove a UTXO and return it."""
        young, old = self._young, self._old
        if young and (not old or draw() < YOUNG_SHARE):
            count = len(young)
            # the square: a quarter of them among the last sixteenth
            return _take(young, count - 1 - int(draw() ** 2 * count))
        return _take(old, int(draw() * len(old)))


def _take(heap, place):
    last = heap.pop()
    if place == len(heap):
        return last
    heap[place], taken = last, heap[place]
    return taken


class TxMaker:
    """Makes transactions.

    random: a random.Random; population: the payees
    """

    def __init__(self, random, population):
        self._draw = random.random
        self._bytes = random.randbytes
        self._population = population
        self._unlock = [
            [make(random) for _ in range(VARIANTS)] for _kind, make in sorted(UNLOCKERS.items())
        ]

    def spend(self, spent, payees):
        """A transaction from UTXOs to payees (script, kind, number), the values at random."""
        draw = self._draw
        total, any_witness = 0, False
        inputs, witnesses, members = [], [], set()
        unlock = self._unlock
        for outpoint, value, kind, owner in spent:
            total += value
            members.add(owner)
            script, witness = unlock[kind][int(draw() * VARIANTS)]
            inputs.append(outpoint)
            inputs.append(script)
            witnesses.append(witness)
            any_witness |= witness != b"\0"
        fee = min(total // 50, FEE_IN * len(spent) + FEE_OUT * len(payees))
        left, more = total - fee, len(payees)
        outputs, owners = [], []
        for script, kind, number in payees:
            more -= 1
            value = int(left * draw() ** more) if more else left
            left -= value
            members.add(number)
            outputs.append(value.to_bytes(8, "little") + script)
            owners.append((value, kind, number))
        if draw() < OP_RETURN_SHARE:
            note = self._bytes(20 + int(draw() * 50))
            outputs.append(bytes(8) + bytes((len(note) + 2, 0x6A, len(note))) + note)
        body = b"".join((varint(len(spent)), *inputs, varint(len(outputs)), *outputs))
        sha256 = hashlib.sha256
        base = raw = b"".join((VERSION, body, LOCKTIME))
        tx_hash = witness_hash = sha256(sha256(base).digest()).digest()
        if any_witness:
            raw = b"".join((SEGWIT, body, *witnesses, LOCKTIME))
            witness_hash = sha256(sha256(raw).digest()).digest()
        utxos = [UTXO(tx_hash + INDEX[place], *owner) for place, owner in enumerate(owners)]
        weight = 3 * len(base) + len(raw)
        return MadeTx(raw, tx_hash, witness_hash, fee, weight, len(spent), payees, utxos, members)

    def coinbase(self, height, reward, commitment, branch):
        """The transaction that pays the miner; branch: a byte that sets forks apart."""
        population = self._population
        size = (height.bit_length() + 8) // 8
        # As BIP34 has it: small numbers have opcodes.
        push = bytes((0x50 + height,)) if height <= 16 else varint(size)
        number = b"" if height <= 16 else height.to_bytes(size, "little")
        script = push + number + b"\x09" + bytes((branch,)) + self._bytes(8)
        payee = paid, kind, owner = population.choose()
        outputs = (
            b"\x02"
            + reward.to_bytes(8, "little")
            + paid
            + bytes(8)
            + b"\x26\x6a\x24\xaa\x21\xa9\xed"
            + commitment
        )
        body = b"\x01" + bytes(32) + b"\xff" * 4 + varint(len(script)) + script + b"\xff" * 4
        base = VERSION + body + outputs + LOCKTIME
        raw = SEGWIT + body + outputs + b"\x01\x20" + bytes(32) + LOCKTIME
        tx_hash = hashlib.sha256(hashlib.sha256(base).digest()).digest()
        utxos = [UTXO(tx_hash + INDEX[0], reward, kind, owner)]
        weight = 3 * len(base) + len(raw)
        return MadeTx(raw, tx_hash, bytes(32), 0, weight, 1, [payee], utxos, {owner})

    def input_count(self):
        """How many UTXOs a transaction spends: mostly one or two, now and then a great many."""
        return _heavy_tailed(self._draw, 0.64, 200)

    def payees(self):
        """The payees of a transaction: mostly two, now and then a great many."""
        draw, choose = self._draw, self._population.choose
        count = 1 + _heavy_tailed(draw, 0.80, MOST_OUTPUTS - 1) if draw() < 0.82 else 1
        return [choose() for _ in range(count)]


def _heavy_tailed(draw, alone, most):
    """1 in a share of the cases, else 2 and more, numbers above n about every n ** 1.6th time."""
    share = draw()
    if share < alone:
        return 1
    return min(most, 1 + int(((1 - alone) / (1 - share)) ** 0.625))


def _push(data):
    return varint(len(data)) + data


def _signature(random):
    return _push(random.randbytes(71 + (random.random() < 0.5)))


def _pubkey(random):
    return _push(b"\x02" + random.randbytes(32))


def _input_script(script):
    return _push(script) + SEQUENCE


def _unlock_p2pkh(random):
    return _input_script(_signature(random) + _pubkey(random)), b"\0"


def _unlock_p2wpkh(random):
    return _input_script(b""), b"\x02" + _signature(random) + _pubkey(random)


def _unlock_nested(random):
    return _input_script(_push(b"\x00\x14" + random.randbytes(20))), _unlock_p2wpkh(random)[1]


def _redeem_script(random):
    return b"\x52" + _pubkey(random) + _pubkey(random) + _pubkey(random) + b"\x53\xae"


def _unlock_multisig(random):
    script = b"\x00" + _signature(random) + _signature(random)
    # longer than 75 bytes: OP_PUSHDATA1
    return _input_script(script + b"\x4c" + _push(_redeem_script(random))), b"\0"


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
