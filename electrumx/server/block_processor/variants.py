"""Block processors of coins whose blocks mean something more, or otherwise, than Bitcoin's.

Coins name these classes.  Each names the strategy that indexes its transactions.  The public names
are those of ``electrumx.server.block_processor``.

Runs in: as the base class.
"""

from typing import cast

from electrumx.lib.coins.name_scripts import NameIndexMixin
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.block_processor.strategies import (
    AnyOrderStrategy,
    ConvertingStrategy,
    InOrderStrategy,
    NameIndexStrategy,
    Strategy,
)


class ConvertingBlockProcessor(BlockProcessor):
    """For formats whose inputs or outputs have other fields than Bitcoin's (TokenPay)."""

    def make_strategy(self) -> Strategy:
        """Return the strategy that indexes the coin's transactions."""
        return ConvertingStrategy(InOrderStrategy())


class LTORBlockProcessor(BlockProcessor):
    """For chains that order a block's transactions by their hash (Bitcoin Cash)."""

    def make_strategy(self) -> Strategy:
        """Return the strategy that indexes the coin's transactions."""
        return AnyOrderStrategy()


class DecredBlockProcessor(BlockProcessor):
    """The next block decides whether a block is valid, so a reorg goes one block deeper."""

    def make_strategy(self) -> Strategy:
        """Return the strategy that indexes the coin's transactions."""
        return ConvertingStrategy(InOrderStrategy(), reorg_margin=1)


class NameIndexBlockProcessor(BlockProcessor):
    """Indexes names: each has a history, of the transactions that register or update it."""

    def make_strategy(self) -> Strategy:
        """Return the strategy that indexes the coin's transactions."""
        coin = cast("type[NameIndexMixin]", self.coin)
        return NameIndexStrategy(InOrderStrategy(), coin.name_hashX_from_script)
