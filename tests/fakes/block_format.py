"""How transactions and blocks are written: the format of a ``ChainMaker``.

``Format`` has what all formats share, ``Regtest`` is that of most tests; ``formats`` has other coins',
``benchmarks.transactions`` one whose signatures have real sizes.  Nothing is mined or signed here, because
no test checks it.
"""

import random
import struct
from hashlib import sha256
from typing import NamedTuple

from electrumx.lib.coins import BitcoinSegwitRegtest
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.lib.util import pack_le_uint32, pack_varint

COIN = BitcoinSegwitRegtest
GENESIS_HEADER = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac7"
    "2c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4adae5494dffff7f2002000000"
)
#: the genesis block as it is indexed: without its transaction
GENESIS = GENESIS_HEADER + b"\0"
NULL = bytes(32)
MINUS_1 = 0xFFFFFFFF
GENESIS_TIME = 1296688602
REGTEST_BITS = 0x207FFFFF
SUBSIDY = 50_0000_0000
HEADER = struct.Struct("<i32s32sIII")


class MadeTx(NamedTuple):
    """A transaction: the fields that an index needs, and its bytes."""

    tx_hash: bytes
    raw: bytes
    spends: list  # outpoints (tx hash, index); empty for a coinbase
    outputs: list  # (value, script)


class MadeBlock(NamedTuple):
    """A block, and the parts it was made of."""

    raw: bytes
    prev_hash: bytes
    unspent: dict  # outpoint -> value, after it
    height: int
    header: bytes
    txs: list  # of MadeTx
    regular: int = 0  # how many of them the next block's vote can make void
    voids: bool = False  # whether it makes those of the block before it void


def merkle_root(hashes):
    while len(hashes) > 1:
        if len(hashes) & 1:
            hashes = [*hashes, hashes[-1]]
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [sha256(sha256(left + right).digest()).digest() for left, right in pairs]
    return hashes[0]


def header_of(prev_hash, root, *, version=1, time=GENESIS_TIME, nonce=0):
    """Serialise a block's header; it may lack the little proof of work that regtest asks for."""
    return HEADER.pack(version, prev_hash, root, time, REGTEST_BITS, nonce)


class Format:
    """The parts of blocks that formats override, and how they make a block together.

    nonce: a number for the block that is made, by which it differs from its siblings
    """

    coin = COIN
    #: whether a block may spend its own outputs
    spends_own = True
    #: how many transactions of the last block the vote of the next one can make void
    regular = 0

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        self.nonce = 0

    # --- transactions

    def scripts(self, count):
        """Return scripts to pay to: so many P2PKH scripts, and two odd ones."""
        paid = [b"\x76\xa9\x14" + bytes([n]) * 20 + b"\x88\xac" for n in range(count)]
        return [*paid, b"", b"\x51"]

    def inputs(self, outpoints):
        """Make the inputs of a transaction that spends these outpoints."""
        return [TxInput(h, n, b"", self.random.randint(0, MINUS_1)) for h, n in outpoints]

    def coinbase_inputs(self, extra):
        """Make the inputs of a coinbase; ``extra`` distinguishes it from others."""
        return [TxInput(NULL, MINUS_1, extra, MINUS_1)]

    def outputs(self, outputs):
        """Make outputs of pairs of value and script."""
        return [TxOutput(value, script) for value, script in outputs]

    def tx(self, inputs, outputs):
        """Make a transaction."""
        raise NotImplementedError

    def coinbase_tx(self, inputs, outputs):
        """Make a coinbase."""
        return self.tx(inputs, outputs)

    def tx_hash(self, _tx, raw):
        """Return the hash of a transaction, which has these bytes."""
        return double_sha256(raw)

    def made(self, tx, spends, outputs):
        """Return the record of a transaction."""
        raw = tx.serialize()
        return MadeTx(self.tx_hash(tx, raw), raw, spends, outputs)

    def record(self, tx):
        """Return the record of a transaction that a test made."""
        spends = [(txin.prev_hash, txin.prev_idx) for txin in tx.inputs if txin.prev_hash != NULL]
        return self.made(tx, spends, [(out.value, out.pk_script) for out in tx.outputs])

    def extra(self):
        """Return bytes that distinguish a block's coinbase from others."""
        return pack_le_uint32(self.nonce)

    def pay(self, spent, inputs, outputs):
        """Make a transaction of inputs, which spend these, and pairs of value and script."""
        return self.made(self.tx(inputs, self.outputs(outputs)), list(spent), outputs)

    def reward(self, extra, outputs, _height, _txs):
        """Make the coinbase of a block of other transactions."""
        tx = self.coinbase_tx(self.coinbase_inputs(extra), self.outputs(outputs))
        return self.made(tx, [], outputs)

    # --- blocks

    def order(self, txs):
        """Return a block's transactions in the order in which it has them."""
        return txs

    def votes_void(self):
        """Decide whether the next block makes the first tree of the one before it void."""
        return False

    def header(self, prev_hash, root, height):
        raise NotImplementedError

    def body(self, txs):
        """Return the bytes behind the header."""
        return pack_varint(len(txs)) + b"".join(tx.raw for tx in txs)

    def block(self, prev_hash, txs, height):
        """Return the header of a block of these transactions, and the whole block."""
        header = self.header(prev_hash, merkle_root([tx.tx_hash for tx in txs]), height)
        return header, header + self.body(txs)

    def header_hash(self, header):
        return double_sha256(header)

    def hash_of(self, raw, height):
        """Return the hash of a block, as the coin has it."""
        return self.coin.header_hash(self.coin.block_header(raw, height))

    def genesis(self):
        """Return the first block as it is indexed, its header, and its transactions that are."""
        raise NotImplementedError


class Regtest(Format):
    """Bitcoin's regtest, without witnesses."""

    def __init__(self, seed=0, ltor=False):
        super().__init__(seed)
        self.ltor = ltor

    def tx(self, inputs, outputs):
        return Tx(2, inputs, outputs, self.random.randint(0, 99))

    def coinbase_tx(self, inputs, outputs):
        return Tx(1, inputs, outputs, 0)

    def order(self, txs):
        return lexical_order(txs) if self.ltor else txs

    def header(self, prev_hash, root, _height):
        nonce = self.nonce
        return header_of(prev_hash, root, time=GENESIS_TIME + nonce, nonce=nonce & MINUS_1)

    def genesis(self):
        return GENESIS, GENESIS_HEADER, []


def lexical_order(txs):
    """Order transactions by their hashes, behind the coinbase: LTOR."""
    return txs[:1] + sorted(txs[1:], key=lambda tx: tx.tx_hash[::-1])


def make_block(prev_hash, txs, nonce=0):
    """Serialise a block of regtest."""
    regtest = Regtest()
    regtest.nonce = nonce
    return regtest.block(prev_hash, [regtest.record(tx) for tx in txs], 0)[1]
