"""Chains made by the makers of formats: blocks that spend each other's outputs, and their index.

`MadeTx` and `MadeBlock` are as made, not as a parser found them: the oracle of whole servers.
`FormatModel` computes the index from raw blocks, by the coin's own parser, for quicker tests.
"""

from typing import NamedTuple

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tx import MINUS_1, ZERO
from tests.fakes.chain import BlockTree, Model, is_unspendable
from tests.fakes.formats import (
    AuxPow,
    Axe,
    BitcoinAtom,
    BitcoinCash,
    BitcoinDiamond,
    BitcoinGold,
    Dash,
    DashItself,
    Decred,
    Dogecoin,
    Emercoin,
    FairCoin,
    Groestlcoin,
    Koto,
    Litecoin,
    LongHeader,
    LongHeaderSegWit,
    Minexcoin,
    Names,
    Odin,
    Pivx,
    PlainAuxPow,
    Primecoin,
    Ravencoin,
    SmartCash,
    XayaNames,
    Zcash,
    Zcoin,
)
from tests.fakes.time_formats import (
    Blackcoin,
    ECCoin,
    Exos,
    GravityZeroCoin,
    Navcoin,
    Peercoin,
    ProofOfStake,
    Reddcoin,
    Simplicity,
    TimeByVersion,
    TokenPay,
    Trezarcoin,
)
from tests.fakes.world import ScriptedDaemon

# Those that need no optional package.
MAKERS = [
    AuxPow, PlainAuxPow, Dogecoin, Names, XayaNames, Emercoin, Zcash, Koto, Minexcoin, BitcoinGold,
    ProofOfStake, TokenPay, GravityZeroCoin, Exos, Blackcoin, Trezarcoin, Reddcoin, TimeByVersion,
    Simplicity, ECCoin, Peercoin, Navcoin, Dash, Groestlcoin, SmartCash, Pivx, Odin, Primecoin,
    Decred, Zcoin, BitcoinDiamond, BitcoinAtom, BitcoinCash, FairCoin, LongHeader,
    LongHeaderSegWit, Litecoin,
]  # fmt: skip
# Those that need one.
PACKAGED = [DashItself, Axe, Ravencoin]


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
    regular: int  # how many of them the next block's vote can make void
    unspent_if_void: dict


class FormatChain(BlockTree):
    """Makes random blocks of a coin's format, whose records are MadeBlocks.

    disapproval is the odds that a block makes the first tree of the one before void; then no
    block spends what it made itself.
    """

    def __init__(self, maker, disapproval=0.0):
        self.maker = maker
        self.coin = maker.coin
        self.random = maker.random
        self.scripts = maker.scripts()
        self.disapproval = disapproval
        txs = []
        if maker.spendable_genesis:
            tx = maker.genesis_tx
            txs.append(MadeTx(maker.tx_hash(tx), tx.serialize(), [], maker.genesis_outputs))
        unspent = unspent_after({}, txs)
        genesis = MadeBlock(maker.genesis, None, unspent, 0, maker.genesis_header, txs, 0, unspent)
        super().__init__(maker.header_hash(maker.genesis_header), genesis)

    def hash_of(self, raw, height):
        return self.coin.header_hash(self.coin.block_header(raw, height))

    def _outputs(self, total):
        count = self.random.randint(1, 3)
        outputs = [(total // count, self.random.choice(self.scripts)) for _ in range(count)]
        if self.random.random() < 0.2:
            outputs.append((0, b"\x6a\x01\x02"))
        return outputs

    def _make_tx(self, unspent):
        """Make a transaction that spends some of the newest outputs, or none; and its record."""
        spent, total = [(ZERO, MINUS_1)], 10**9
        if unspent is not None:
            count = min(len(unspent), self.random.randint(1, 3))
            spent = self.random.sample(list(unspent)[-9:], min(count, 9))
            total = sum(unspent[outpoint] for outpoint in spent)
        outputs = self._outputs(total)
        tx = self.maker.tx(spent, outputs)
        spends = [] if unspent is None else spent
        return tx, MadeTx(self.maker.tx_hash(tx), tx.serialize(), spends, outputs)

    def extend(self, prev_hash):
        """Make a block on a block; return its hash."""
        prev = self.blocks[prev_hash]
        void = self.random.random() < self.disapproval
        before, height = prev.unspent_if_void if void else prev.unspent, prev.height + 1
        self.maker.votes = int(not void)
        unspent, txs, made = dict(before), [], {}
        for n in range(self.random.randint(1, 5)):
            if n and not unspent:
                break
            tx, record = self._make_tx(unspent if n else None)
            after = unspent if not self.disapproval else {}
            apply(record, unspent, after)
            txs.append(tx)
            made[record.tx_hash] = record
        raw = self.maker.block(prev_hash, txs, height)
        # The maker may have put them into another order.
        records = [made[self.maker.tx_hash(tx)] for tx in txs]
        header = self.maker.last_header
        block_hash = self.maker.header_hash(header)
        regular = getattr(self.maker, "regular", 0)
        end = unspent_after(before, records)
        end_if_void = unspent_after(before, records[regular:]) if self.disapproval else {}
        self.blocks[block_hash] = MadeBlock(
            raw, prev_hash, end, height, header, records, regular, end_if_void
        )
        return block_hash

    def unconfirmed(self, tip, count):
        """Make transactions on a block that no block has; return their records."""
        unspent, records = dict(self.blocks[tip].unspent), []
        for _ in range(count):
            _tx, record = self._make_tx(unspent)
            apply(record, unspent, unspent)
            records.append(record)
        return records


def apply(record, spent_from, added_to):
    """Move a transaction's spent outputs out of one table, and its outputs into another."""
    for outpoint in record.spends:
        spent_from.pop(outpoint, None)
    for idx, (value, script) in enumerate(record.outputs):
        if not is_unspendable(script):
            added_to[record.tx_hash, idx] = value


def unspent_after(before, records):
    """Return the unspent outputs after transactions that may spend each other's outputs."""
    unspent = dict(before)
    for record in records:
        apply(record, {}, unspent)
    for record in records:
        for outpoint in record.spends:
            del unspent[outpoint]
    return unspent


class FormatDaemon(ScriptedDaemon):
    """The scripted node, for headers of any length and hash."""

    def __init__(self, chain, raw_blocks):
        self.of_chain = chain
        super().__init__(raw_blocks)

    def set_chain(self, raw_blocks):
        self.raw = list(raw_blocks)
        self.hashes = [
            hash_to_hex_str(self.of_chain.hash_of(raw, height))
            for height, raw in enumerate(self.raw)
        ]
        known = getattr(self, "by_hash", {})
        self.by_hash = known | dict(zip(self.hashes, self.raw, strict=True))
        self.announce()


class FormatModel(Model):
    """The index of a chain of the coin's format, names included."""

    def names_of(self, tx):
        """Return the hashXs of the names that a transaction registers or changes."""
        name_of = getattr(self.coin, "name_hashX_from_script", lambda script: None)
        return {name_of(txout.pk_script) for txout in tx.outputs} - {None}

    def hashX_of(self, script):
        """Return the hashX of a script, as the coin has it."""
        return self.coin.hashX_from_script(script)

    def is_generation(self, txin):
        """Return whether an input spends nothing, as its format has it."""
        return txin.is_generation()
