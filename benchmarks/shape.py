"""The shape of a generated chain: how many transactions and blocks, and those held back.

Two chains of one shape are equal byte for byte, on any machine; the seed is a part of the shape.
"""

import re
from dataclasses import asdict, dataclass

#: blocks of a chain of T transactions, unless set otherwise: BLOCKS_PER_ROOT * sqrt(T)
BLOCKS_PER_ROOT = 4.0
#: height from which blocks hold more than a coinbase: the first coinbase has matured by then
FIRST_SPEND = 101
UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Shape:
    """Parameters of a chain.

    txs:      transactions of the main chain, coinbases and the genesis block's among them
    blocks:   height of its tip
    mempool:  transactions that are unconfirmed on top of it
    ordinary: blocks that extend it one by one, of the mean size; they confirm part of the mempool
    busy:     blocks after those, as full as consensus lets them be (4 million weight units), each
              of which pays to every script of the crowd
    busy_txs: most transactions of a busy block
    crowd:    scripts of the crowd, twice busy_txs at most
    fork:     blocks of the main chain that a reorganisation undoes; the branch is one longer
    utxos:    UTXOs that half of the blocks accumulate, to which nearly half of all inputs spend any
              one; 0: as many as transactions need
    """

    txs: int
    blocks: int
    seed: int = 1
    mempool: int = 3_000
    ordinary: int = 12
    busy: int = 8
    busy_txs: int = 6_000
    crowd: int = 10_000
    fork: int = 6
    utxos: int = 0

    def __post_init__(self):
        spending = self.blocks - FIRST_SPEND + 1
        if spending < 1 or self.txs < self.blocks + 1 + spending:
            raise ValueError(f"{self.txs} transactions do not fill {self.blocks} blocks")
        if not 0 <= self.fork < spending:
            raise ValueError(f"a fork of {self.fork} blocks would reach below any spending")
        if not 0 < self.crowd <= 2 * self.busy_txs:
            raise ValueError("a busy block has two outputs a transaction to pay to the crowd with")

    @classmethod
    def sized(cls, text, **changes):
        """The shape of so many transactions: "20k", "400k", "4m", "250000"."""
        match = re.fullmatch(r"(\d+)([km]?)", text.lower())
        if not match:
            raise ValueError(f"{text!r} is no number of transactions: 100k, 4m")
        txs = int(match[1]) * UNITS[match[2]]
        blocks = max(FIRST_SPEND + 50, round(BLOCKS_PER_ROOT * txs**0.5))
        return cls(**{"txs": txs, "blocks": blocks} | changes)

    def spends(self, height):
        """How many transactions a block of the main chain has in addition to its coinbase.

        They become more with the height, the last block having twice the mean; their sum over all
        heights is txs exactly.
        """
        return self._spent_below(height + 1) - self._spent_below(height)

    def enough_utxos(self, height):
        """How many UTXOs there should be at a height."""
        return self.utxos * min(2 * height, self.blocks) // self.blocks

    @property
    def mean_spends(self):
        """The mean of `spends` over the blocks that have any."""
        return (self.txs - self.blocks - 1) // (self.blocks - FIRST_SPEND + 1)

    def _spent_below(self, height):
        blocks = max(0, height - FIRST_SPEND)
        # One each, so that no block is empty; the rest grows as the square.
        rest = self.txs - self.blocks - 1 - (self.blocks - FIRST_SPEND + 1)
        return blocks + rest * blocks**2 // (self.blocks - FIRST_SPEND + 1) ** 2

    @property
    def name(self):
        """A folder's name that differs between shapes."""
        changed = [
            f"{key}{value}"
            for key, value in asdict(self).items()
            if value != getattr(type(self), key, None)
        ]
        return "-".join(changed)
