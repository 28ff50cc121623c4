"""The formats of other coins, for a ``ChainMaker``; the node and the index of chains of them.

The records of a ``ChainMaker`` are as made, not as a parser found them: the oracle of whole servers.
`FormatModel` computes the index from raw blocks, by the coin's own parser, for quicker tests.
"""

from electrumx.lib.hash import hash_to_hex_str
from tests.fakes.chain import Model
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
FORMATS = [
    AuxPow, PlainAuxPow, Dogecoin, Names, XayaNames, Emercoin, Zcash, Koto, Minexcoin, BitcoinGold,
    ProofOfStake, TokenPay, GravityZeroCoin, Exos, Blackcoin, Trezarcoin, Reddcoin, TimeByVersion,
    Simplicity, ECCoin, Peercoin, Navcoin, Dash, Groestlcoin, SmartCash, Pivx, Odin, Primecoin,
    Decred, Zcoin, BitcoinDiamond, BitcoinAtom, BitcoinCash, FairCoin, LongHeader,
    LongHeaderSegWit, Litecoin,
]  # fmt: skip
# Those that need one.
PACKAGED = [DashItself, Axe, Ravencoin]


class FormatDaemon(ScriptedDaemon):
    """The scripted node, for headers of any length and hash."""

    def __init__(self, chain, raw_blocks):
        self.of_chain = chain
        super().__init__(raw_blocks)

    def set_chain(self, raw_blocks):
        self.raw = list(raw_blocks)
        self.hashes = [
            hash_to_hex_str(self.of_chain.format.hash_of(raw, height))
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
