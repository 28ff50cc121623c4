"""The maker of chains, and a model of the index in plain dictionaries.

``ChainMaker`` makes small random chains, with transactions of any shape that the index must bear: several
outputs to one script, unspendable outputs, spends within a block, empty blocks.  Options, and the
functions of ``small_chains``, give them other shapes.  Signatures are not made, because no test checks
them.  ``FormatChain`` makes chains of other coins' formats, and ``benchmarks.chain`` long ones on disk, of
the same parts: ``BlockTree``, ``header_of`` and ``merkle_root``.
"""

import hashlib
import random
import struct
from collections import defaultdict
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

#: prefixes of outputs that hold tokens (Bitcoin Cash): an amount, a token with a commitment, both
TOKEN_PREFIXES = [
    b"\xef" + b"\xc1" * 32 + b"\x10\x64",
    b"\xef" + b"\xc2" * 32 + b"\x61\x03abc",
    b"\xef" + b"\xc3" * 32 + b"\x32\xfd\xfd\x00",
]
#: and malformed ones: no token at all, an amount of zero
NO_TOKEN_PREFIXES = [b"\xef" + b"\xc1" * 32 + b"\x00", b"\xef" + b"\xc1" * 32 + b"\x10\x00"]


def merkle_root(hashes):
    while len(hashes) > 1:
        if len(hashes) & 1:
            hashes = [*hashes, hashes[-1]]
        hashes = [double_sha256(hashes[n] + hashes[n + 1]) for n in range(0, len(hashes), 2)]
    return hashes[0]


def header_of(prev_hash, root, *, version=1, time=GENESIS_TIME, nonce=0):
    """Serialise a block's header; it may lack the little proof of work that regtest asks for."""
    return HEADER.pack(version, prev_hash, root, time, REGTEST_BITS, nonce)


def make_block(prev_hash, txs, nonce=0):
    """Serialise a block; no proof of work is done."""
    root = merkle_root([double_sha256(tx.serialize()) for tx in txs])
    header = header_of(prev_hash, root, time=GENESIS_TIME + nonce, nonce=nonce & 0xFFFFFFFF)
    return header + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)


def hashX_of(script):
    return hashlib.sha256(script).digest()[:11]


def without_tokens(script):
    """Return an output's script without one of our token prefixes."""
    for prefix in TOKEN_PREFIXES:
        if script.startswith(prefix):
            return script[len(prefix) :]
    return script


def is_unspendable(script):
    return script[:1] == b"\x6a" or script[:2] == b"\x00\x6a"


class Block(NamedTuple):
    """A block as it was made, and the unspent outputs after it."""

    raw: bytes
    prev_hash: bytes
    unspent: dict  # outpoint -> value


class BlockTree:
    """Makes blocks on top of blocks, in as many branches as there are.  Subclasses have ``extend``."""

    def __init__(self, genesis_hash, genesis):
        self.genesis_hash = genesis_hash
        #: block hash -> Block, or a record like it
        self.blocks = {genesis_hash: genesis}

    def extend(self, prev_hash):
        """Make a block on a block; return its hash."""
        raise NotImplementedError

    def grow(self, prev_hash, count):
        """Make ``count`` blocks on a block; return the hash of the last."""
        for _ in range(count):
            prev_hash = self.extend(prev_hash)
        return prev_hash

    def made(self, tip):
        """Return the records of the blocks from genesis to a tip."""
        blocks = []
        while tip is not None:
            blocks.append(self.blocks[tip])
            tip = blocks[-1][1]
        return blocks[::-1]

    def chain(self, tip):
        """Return the raw blocks from genesis to a tip."""
        return [block[0] for block in self.made(tip)]


class ChainMaker(BlockTree):
    """Makes random blocks."""

    def __init__(self, seed=0, scripts=12, ltor=False, tokens=False, duplicates=0.0):
        super().__init__(double_sha256(GENESIS_HEADER), Block(GENESIS, None, {}))
        self.random = random.Random(seed)
        #: how often a block's coinbase is one that there was before, and those there were
        self.duplicates = duplicates
        self.coinbases = []
        #: the prefixes that an output's script may begin with
        self.prefixes = [b"", *TOKEN_PREFIXES, *NO_TOKEN_PREFIXES] if tokens else []
        self.scripts = [
            bytes([0x76, 0xA9, 0x14]) + bytes([n]) * 20 + b"\x88\xac" for n in range(scripts)
        ] + [b"", b"\x51"]
        self.ltor = ltor
        self.nonce = 0

    def _outputs(self, total):
        choose = self.random
        count = choose.randint(1, 4)
        outputs = []
        for n in range(count):
            value = total if n == count - 1 else choose.randint(0, total)
            total -= value
            outputs.append(TxOutput(value, choose.choice(self.scripts)))
        if choose.random() < 0.2:
            data = choose.choice([b"\x6a\x01\x02", b"\x00\x6a", b"\x6a"])
            outputs.insert(choose.randint(0, len(outputs)), TxOutput(0, data))
        if self.prefixes:
            outputs = [
                TxOutput(value, choose.choice(self.prefixes) + script) for value, script in outputs
            ]
        return outputs

    def extend(self, prev_hash, max_txs=6):
        """Make a block on ``prev_hash``; return its hash."""
        choose = self.random
        self.nonce += 1
        unspent = dict(self.blocks[prev_hash][2])
        txs = [self.coinbase(self._outputs(SUBSIDY))]
        if self.coinbases and choose.random() < self.duplicates:
            txs = [choose.choice(self.coinbases[-4:])]
        self.coinbases.append(txs[0])
        self.add_outputs(unspent, txs[0])
        for _ in range(choose.randint(0, max_txs)):
            if not unspent:
                break
            count = min(len(unspent), choose.randint(1, 3))
            # The newest coins are favoured, so that spends within a block are common.
            pool = list(unspent)[-8:] if choose.random() < 0.6 else list(unspent)
            spent = choose.sample(pool, min(count, len(pool)))
            total = sum(unspent.pop(outpoint) for outpoint in spent)
            inputs = [TxInput(h, n, b"", choose.randint(0, MINUS_1)) for h, n in spent]
            tx = Tx(2, inputs, self._outputs(total), choose.randint(0, 99))
            self.add_outputs(unspent, tx)
            txs.append(tx)
        if self.ltor:
            txs[1:] = sorted(txs[1:], key=lambda tx: double_sha256(tx.serialize())[::-1])
        return self._add(prev_hash, txs, unspent)

    def _add(self, prev_hash, txs, unspent):
        raw = make_block(prev_hash, txs, self.nonce)
        block_hash = double_sha256(raw[:80])
        self.blocks[block_hash] = Block(raw, prev_hash, unspent)
        return block_hash

    def coinbase(self, outputs):
        """Make a reward, unlike those of other blocks."""
        txin = TxInput(NULL, MINUS_1, pack_le_uint32(self.nonce), MINUS_1)
        return Tx(1, [txin], outputs, 0)

    def add_block(self, prev_hash, txs):
        """Make a block of these transactions; return its hash."""
        unspent = dict(self.blocks[prev_hash][2])
        for tx in txs:
            for txin in tx.inputs:
                unspent.pop((txin.prev_hash, txin.prev_idx), None)
            self.add_outputs(unspent, tx)
        return self._add(prev_hash, txs, unspent)

    def add_outputs(self, unspent, tx):
        tx_hash = double_sha256(tx.serialize())
        for idx, txout in enumerate(tx.outputs):
            # An output with tokens is spendable from the start, unless it is data.
            script = without_tokens(txout.pk_script)
            if not is_unspendable(script):
                unspent[tx_hash, idx] = txout.value


class Model:
    """The index of a chain, computed slowly from its raw blocks."""

    def __init__(self, raw_blocks, coin=COIN):
        self.coin = coin
        self.history = defaultdict(list)  # hashX -> [(tx_hash, height)]
        self.coins = {}  # (tx_hash, idx) -> (hashX, value, height, tx_num)
        self.tx_hashes = []
        self.headers = []
        tx_num = 0
        for height, raw in enumerate(raw_blocks):
            block = coin.block(raw, height)
            self.headers.append(block.header)
            self.tx_hashes.append([tx_hash for _tx, tx_hash in block.transactions])
            touched = []
            for tx, tx_hash in block.transactions:
                touched.append(self.names_of(tx))
                for idx, txout in enumerate(tx.outputs):
                    script = txout.pk_script
                    if height >= coin.TOKENS_ACTIVATION:
                        script = without_tokens(script)
                    if not is_unspendable(script):
                        hashX = self.hashX_of(script)
                        self.coins[tx_hash, idx] = (hashX, txout.value, height, tx_num)
                        touched[-1].add(hashX)
                tx_num += 1
            # Some coins' blocks spend what a later transaction makes.
            for (tx, tx_hash), hashXs in zip(block.transactions, touched, strict=True):
                for txin in tx.inputs:
                    if not self.is_generation(txin):
                        hashXs.add(self.coins.pop((txin.prev_hash, txin.prev_idx))[0])
                for hashX in hashXs:
                    self.history[hashX].append((tx_hash, height))

    def names_of(self, _tx):
        """Return the hashXs that a transaction touches, those of its inputs and outputs left out."""
        return set()

    def hashX_of(self, script):
        """Return the hashX of a script."""
        return hashX_of(script)

    def is_generation(self, txin):
        """Return whether an input spends nothing."""
        return txin.prev_hash == NULL

    def utxos(self, hashX):
        """Return the set of (tx_num, idx, tx_hash, height, value) of a script."""
        return {
            (tx_num, idx, tx_hash, height, value)
            for (tx_hash, idx), (owner, value, height, tx_num) in self.coins.items()
            if owner == hashX
        }
