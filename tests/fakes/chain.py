"""A generator of small random chains, and a model of the index in plain dictionaries.

The chains are made here, with transactions of any shape that the index must bear: several outputs
to one script, unspendable outputs, spends within a block, empty blocks.  Signatures are not made,
because no test checks them.
"""

import hashlib
import random
from collections import defaultdict

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


def make_block(prev_hash, txs, nonce=0):
    """Serialise a block; no proof of work is done."""
    hashes = [double_sha256(tx.serialize()) for tx in txs]
    header = b"".join(
        (
            pack_le_uint32(1),
            prev_hash,
            merkle_root(hashes),
            pack_le_uint32(1296688602 + nonce),
            bytes.fromhex("ffff7f20"),
            pack_le_uint32(nonce & 0xFFFFFFFF),
        )
    )
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


class ChainMaker:
    """Makes blocks on top of blocks; keeps for each block what is unspent after it."""

    def __init__(self, seed=0, scripts=12, ltor=False, tokens=False, duplicates=0.0):
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
        genesis_hash = double_sha256(GENESIS_HEADER)
        #: block hash -> (raw, prev hash, unspent outpoints with values)
        self.blocks = {genesis_hash: (GENESIS, None, {})}
        self.genesis_hash = genesis_hash

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
        coinbase_in = TxInput(NULL, MINUS_1, pack_le_uint32(self.nonce), MINUS_1)
        txs = [Tx(1, [coinbase_in], self._outputs(50_0000_0000), 0)]
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
        raw = make_block(prev_hash, txs, self.nonce)
        block_hash = double_sha256(raw[:80])
        self.blocks[block_hash] = (raw, prev_hash, unspent)
        return block_hash

    def add_outputs(self, unspent, tx):
        tx_hash = double_sha256(tx.serialize())
        for idx, txout in enumerate(tx.outputs):
            # An output with tokens is spendable from the start, unless it is data.
            script = without_tokens(txout.pk_script)
            if not is_unspendable(script):
                unspent[tx_hash, idx] = txout.value

    def grow(self, prev_hash, count):
        """Make ``count`` blocks on a block; return the hash of the last."""
        for _ in range(count):
            prev_hash = self.extend(prev_hash)
        return prev_hash

    def chain(self, tip):
        """Return the raw blocks from genesis to a tip."""
        raws = []
        while tip is not None:
            raw, tip, _unspent = self.blocks[tip]
            raws.append(raw)
        return raws[::-1]


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
