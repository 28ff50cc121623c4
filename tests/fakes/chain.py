"""The maker of chains, and a model of the index in plain dictionaries.

``ChainMaker`` makes random blocks on top of blocks.  It consists of a format (``block_format``,
``formats``), a policy that draws the spends and payments (``draws``) and a store of blocks; without
any of them named, it makes small chains of regtest in memory.  ``small_chains`` has blocks of special
shapes, ``benchmarks.chain`` makes long chains on disk.
"""

import hashlib
from collections import defaultdict

from tests.fakes.block_format import (
    COIN,
    GENESIS,
    GENESIS_HEADER,
    MINUS_1,
    NULL,
    SUBSIDY,
    MadeBlock,
    Regtest,
    make_block,
)
from tests.fakes.draws import Reward, SmallDraws, is_unspendable, without_tokens

__all__ = [
    "COIN", "GENESIS", "GENESIS_HEADER", "MINUS_1", "NULL", "SUBSIDY", "ChainMaker", "Model", "hashX_of",
    "is_unspendable", "make_block",
]  # fmt: skip


def hashX_of(script):
    return hashlib.sha256(script).digest()[:11]


class Unspent(dict):
    """Outpoint -> value, of the UTXOs after a block."""

    def spend(self, tx):
        """Remove the outpoints that a transaction spends, as far as they are there."""
        for outpoint in tx.spends:
            self.pop(outpoint, None)

    def add(self, tx):
        """Add the outputs of a transaction."""
        for idx, (value, script) in enumerate(tx.outputs):
            # An output with tokens is spendable from the start, unless it is data.
            if not is_unspendable(without_tokens(script)):
                self[tx.tx_hash, idx] = value

    def add_reward(self, tx):
        """Add the outputs of a coinbase: here they need not mature."""
        self.add(tx)

    def unconfirmed(self):
        """Return where the outputs of unconfirmed transactions are added."""
        return self


class BlockTree(dict):
    """The store of blocks in memory: block hash -> MadeBlock, in as many branches as there are."""

    new_utxos = Unspent

    def after(self, block_hash, void=False):
        """Return a block's height, and a copy of the UTXOs after it; after it was voted void, if so."""
        block = self[block_hash]
        if not void or block.prev_hash is None:
            return block.height, Unspent(block.unspent)
        _height, unspent = self.after(block.prev_hash, block.voids)
        for tx in block.txs[block.regular :]:
            unspent.spend(tx)
            unspent.add(tx)
        return block.height, unspent

    def made(self, tip):
        """Return the records of the blocks from genesis to a tip."""
        blocks = []
        while tip is not None:
            blocks.append(self[tip])
            tip = blocks[-1].prev_hash
        return blocks[::-1]


class ChainMaker:
    """Makes random blocks on top of blocks, each of which spends outputs of those below.

    seed, ltor: of the format, and scripts, tokens, duplicates: of the policy, unless these are given
    """

    def __init__(self, seed=0, *, ltor=False, format=None, draws=None, blocks=None, **drawing):
        self.format = format or Regtest(seed, ltor)
        self.coin = self.format.coin
        self.draws = draws or SmallDraws(self.format, **drawing)
        self.blocks = BlockTree() if blocks is None else blocks
        raw, header, txs = self.format.genesis()
        self.genesis_hash = self.format.header_hash(header)
        unspent = self.blocks.new_utxos()
        for tx in txs:
            unspent.add(tx)
        self.blocks[self.genesis_hash] = MadeBlock(raw, None, unspent, 0, header, txs)

    def extend(self, prev_hash, ready=(), **wishes):
        """Make a block on a block, of transactions that are ready and of drawn ones; return its hash.

        wishes: parameters of the policy for this block
        """
        self.format.nonce += 1
        void = self.format.votes_void()
        height, utxos = self.blocks.after(prev_hash, void)
        made = utxos if self.format.spends_own else self.blocks.new_utxos()
        txs = list(ready)
        self._make(self.draws.block(utxos, height + 1, txs, **wishes), height + 1, txs, made)
        if made is not utxos:
            utxos.update(made)
        return self._add(prev_hash, self.format.order(txs), height + 1, utxos, void)

    def grow(self, prev_hash, count):
        """Make ``count`` blocks on a block; return the hash of the last."""
        for _ in range(count):
            prev_hash = self.extend(prev_hash)
        return prev_hash

    def add_block(self, prev_hash, txs):
        """Make a block of these transactions of regtest; return its hash."""
        height, utxos = self.blocks.after(prev_hash)
        made = [self.format.record(tx) for tx in txs]
        for tx in made:
            utxos.add(tx)
        for tx in made:
            utxos.spend(tx)  # by LTOR, perhaps what a later one made
        return self._add(prev_hash, made, height + 1, utxos)

    def unconfirmed(self, tip, count):
        """Make transactions on a block that no block has; return their records."""
        height, utxos = self.blocks.after(tip)
        txs, made = [], utxos.unconfirmed()
        self._make(self.draws.unconfirmed(utxos, made, count), height + 1, txs, made)
        return txs

    def coinbase(self, outputs):
        """Make a reward for a block of regtest, unlike those of other blocks."""
        self.format.nonce += 1
        return self.format.coinbase_tx(self.format.coinbase_inputs(self.format.extra()), outputs)

    def chain(self, tip):
        """Return the raw blocks from genesis to a tip."""
        return [block.raw for block in self.blocks.made(tip)]

    def _make(self, drafts, height, txs, made):
        """Make the transactions that a policy drafts, and add their outputs to those made."""
        format, outputs_of = self.format, self.draws.outputs
        for draft in drafts:
            if type(draft) is Reward:
                tx = format.reward(*draft, height, txs)
                txs.insert(0, tx)
                made.add_reward(tx)
            else:
                spent, payees = draft
                inputs = format.inputs(spent)
                tx = format.pay(spent, inputs, outputs_of(spent, payees))
                txs.append(tx)
                made.add(tx)

    def _add(self, prev_hash, txs, height, utxos, void=False):
        header, raw = self.format.block(prev_hash, txs, height)
        block_hash = self.format.header_hash(header)
        regular = self.format.regular
        block = MadeBlock(raw, prev_hash, utxos, height, header, txs, regular, void)
        self.blocks[block_hash] = block
        return block_hash


class Model:
    """The index of a chain, computed slowly from its raw blocks."""

    def __init__(self, raw_blocks, coin=COIN):
        self.coin = coin
        self.history = defaultdict(list)  # hashX -> [(tx_hash, height)]
        self.unspent = {}  # (tx_hash, idx) -> (hashX, value, height, tx_num)
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
                        self.unspent[tx_hash, idx] = (hashX, txout.value, height, tx_num)
                        touched[-1].add(hashX)
                tx_num += 1
            # Some coins' blocks spend what a later transaction makes.
            for (tx, tx_hash), hashXs in zip(block.transactions, touched, strict=True):
                for txin in tx.inputs:
                    if not self.is_generation(txin):
                        hashXs.add(self.unspent.pop((txin.prev_hash, txin.prev_idx))[0])
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
            for (tx_hash, idx), (owner, value, height, tx_num) in self.unspent.items()
            if owner == hashX
        }
