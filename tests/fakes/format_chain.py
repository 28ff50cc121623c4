"""The formats of other coins, for a ``ChainMaker``; the node and the index of chains of them.

The records of a ``ChainMaker`` are as made, not as a parser found them: the oracle of whole servers.
`FormatModel` computes the index from raw blocks, by the coin's own parser, for quicker tests.
"""

from electrumx.lib.hash import hash_to_hex_str
from tests.fakes import formats, time_formats
from tests.fakes.chain import Model
from tests.fakes.world import ScriptedDaemon

_ALL = [
    cls
    for module in (formats, time_formats)
    for cls in vars(module).values()
    if isinstance(cls, type)
    and cls.__module__ == module.__name__
    and issubclass(cls, formats.CoinFormat)
    and cls is not formats.CoinFormat
]
# Those that need no optional package, and those that need one.
FORMATS = [cls for cls in _ALL if not cls.package]
PACKAGED = [cls for cls in _ALL if cls.package]


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
