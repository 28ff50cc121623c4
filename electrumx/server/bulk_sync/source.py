"""The blocks of a coin, as the bulk sync takes them.

Owns the step from a block as the block processor's parser returns it to the arrays of the scan, for
every coin.
Runs in: worker threads.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError
from electrumx.server.bulk_sync.contents import PackedBlock
from electrumx.server.db.database import DB
from electrumx.server.storage.undo import coinbase_outputs


class Strategy(Protocol):
    """The interface of an indexing strategy (``block_processor.strategies``)."""

    #: whether a transaction may spend outputs of a later one of its block
    any_order: bool

    @property
    def extra_hashXs(self) -> Callable[[Any], set[bytes]] | None:
        """The function that returns the additional hashXs of a transaction, or None."""

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[tuple[Any, bytes]]:
        """Return transactions with their hashes, in Bitcoin's fields."""


class CoinBlocks:
    """Parses the blocks of the database's coin.

    ``parse_blocks(raw_blocks, first_height)`` returns ``Block`` or ``FastBlock`` objects;
    ``parse_failed`` receives the error of a block, and raises if it does not end.
    """

    def __init__(
        self,
        db: DB,
        strategy: Strategy,
        parse_blocks: Callable[[Sequence[bytes], int], Sequence[Any]],
        parse_failed: Callable[[DeserializeError], Awaitable[None]],
    ):
        self._db = db
        self._strategy = strategy
        self._parse_blocks = parse_blocks
        self.any_order = strategy.any_order
        self.parse_failed = parse_failed

    def parse(self, raw_blocks: Sequence[bytes], first_height: int) -> Sequence[Any]:
        """Return parsed blocks, ``FastBlock`` or ``PackedBlock``.  Runs in: a thread."""
        blocks = self._parse_blocks(raw_blocks, first_height)
        return [
            self._packed(block, height) if isinstance(block, Block) else block
            for height, block in enumerate(blocks, start=first_height)
        ]

    def coinbase_outputs(self, raw_block: bytes, height: int) -> list[int]:
        """Return which outputs of a block's coinbase transaction can be spent."""
        block = self._db.coin.block(raw_block, height)
        txs = self._strategy.bitcoin_txs(block.transactions)
        return coinbase_outputs(txs, self._db.output_rule(height).is_unspendable)

    def _packed(self, block: Block, height: int) -> PackedBlock:
        strategy = self._strategy
        return PackedBlock(
            block.header,
            block.raw,
            strategy.bitcoin_txs(block.transactions),
            self._db.output_rule(height),
            strategy.extra_hashXs,
        )
