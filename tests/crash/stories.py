"""The chain of the node in a crash test: the states it goes through, one after another.

A story is made from its seed, so that the process under test and the one that checks it have the
same without talking.
"""

from functools import lru_cache

from electrumx.lib.hash import double_sha256
from tests.fakes.chain import NULL, ChainMaker, Model, hashX_of, is_unspendable

#: as in the settings of the server under test; deeper than any reorganisation of a story
REORG_LIMIT = 20
UNDO_CHUNK = 3


class Story:
    """Chains of a node: ``targets`` has the hash of each tip, in the order they become active.

    First a chain to catch up with, then single blocks, then a reorganisation, the old branch
    again, higher than the new one (the double reorganisation), and single blocks.
    """

    def __init__(self, seed):
        maker = ChainMaker(seed=seed, scripts=10)
        #: every script of the chain, all of which may be indexed
        self.maker = maker
        fork = maker.grow(anchor(maker), 25)
        self.fork = fork
        old = maker.grow(fork, 5)
        self.targets = [fork]
        # Block by block, so that each is a flush.
        path = self.chain_hashes(old)[-5:]
        self.targets += path
        #: index of the last target before the reorganisation; the next one is on the new branch
        self.before_reorg = len(self.targets) - 1
        new = maker.grow(fork, 6)
        self.targets.append(new)
        self.back_on_old = len(self.targets)
        old_again = maker.grow(old, 3)
        self.targets.append(old_again)
        for _ in range(2):
            self.targets.append(maker.extend(self.targets[-1]))
        self.scripts = [hashX_of(script) for script in maker.draws.scripts]

    def chain_hashes(self, tip):
        """Block hashes from genesis to a tip."""
        return [double_sha256(raw[:80]) for raw in self.maker.chain(tip)]

    def chain(self, tip):
        """Raw blocks from genesis to a tip."""
        return self.maker.chain(tip)

    def may_go_back(self, index):
        """Whether the node may be on the branch before targets[index] again after a restart."""
        return index in (self.before_reorg + 1, self.back_on_old)


def anchor(maker):
    """Make a first block that pays a script which sorts after all others, and is never spent.

    e-x on RocksDB never cuts the history of the script that sorts last: seeking beyond it finds
    no key, and its reverse iterator then yields nothing.  So the last one has nothing to cut.
    """
    number = 0
    while hashX_of(script := b"\x51" + number.to_bytes(4, "big"))[:2] != b"\xff\xff":
        number += 1
    scripts, maker.draws.scripts = maker.draws.scripts, [script]
    block_hash = maker.extend(maker.genesis_hash, max_txs=0)
    maker.draws.scripts = scripts
    maker.blocks[block_hash][2].clear()
    return block_hash


@lru_cache(maxsize=8)
def story(seed):
    """The story of a seed."""
    return Story(seed)


@lru_cache(maxsize=512)
def expected(seed, tip):
    """(model, undo items by height) of the chain up to a tip."""
    raws = story(seed).chain(tip)
    return Model(raws), undo_items(raws)


def undo_items(raws):
    """The 24-byte undo items, joined, of each block of a chain."""
    from tests.fakes.chain import COIN

    utxos = {}
    result = []
    tx_num = 0
    for height, raw in enumerate(raws):
        items = []
        for tx, tx_hash in COIN.block(raw, height).transactions:
            for txin in tx.inputs:
                if txin.prev_hash != NULL:
                    items.append(utxos.pop((txin.prev_hash, txin.prev_idx)))  # noqa: PERF401
            for idx, txout in enumerate(tx.outputs):
                if not is_unspendable(txout.pk_script):
                    number = tx_num.to_bytes(5, "little")
                    value = txout.value.to_bytes(8, "little")
                    utxos[tx_hash, idx] = hashX_of(txout.pk_script) + number + value
            tx_num += 1
        result.append(b"".join(items))
    return result
