"""The blocks of a block processor's coin, as the bulk sync takes them.

Owns the step from what the processor parses to what the scan adds, for every kind of processor.
Runs in: worker threads.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError
from electrumx.server.bulk_sync.contents import PackedBlock
from electrumx.server.db.flusher import DB
from electrumx.server.storage.undo import coinbase_outputs


class Processor(Protocol):
    """What a block processor knows of its coin's transactions."""

    db: DB
    #: returns what a transaction touches beside its inputs' and outputs' scripts, if there is more
    extra_hashXs: Callable[[Any], set[bytes]] | None

    @property
    def any_order(self) -> bool:
        """Whether a transaction may spend what a later one of its block makes."""

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[Any]:
        """Return transactions with their hashes, in the fields that Bitcoin's have."""


class ProcessorSource:
    """The blocks that a processor indexes.

    ``parse_blocks(raw_blocks, first_height)`` returns ``Block`` or ``FastBlock`` objects;
    ``parse_failed`` is told of blocks that do not parse, and raises if that does not change.
    """

    def __init__(
        self,
        processor: Processor,
        parse_blocks: Callable[[Sequence[bytes], int], Sequence[Any]],
        parse_failed: Callable[[DeserializeError], Awaitable[None]],
    ):
        self._parse_blocks = parse_blocks
        self._processor = processor
        self.any_order = processor.any_order
        self.parse_failed = parse_failed

    def parse(self, raw_blocks: Sequence[bytes], first_height: int) -> Sequence[Any]:
        """Return parsed blocks, ``FastBlock`` or ``PackedBlock``.  Runs in a thread."""
        blocks = self._parse_blocks(raw_blocks, first_height)
        return [
            self._packed(block, height) if isinstance(block, Block) else block
            for height, block in enumerate(blocks, start=first_height)
        ]

    def coinbase_outputs(self, raw_block: bytes, height: int) -> list[int]:
        """Return which outputs of a block's coinbase transaction can be spent."""
        processor = self._processor
        block = processor.db.coin.block(raw_block, height)
        rule = processor.db.output_rule(height)
        return coinbase_outputs(processor.bitcoin_txs(block.transactions), rule.is_unspendable)

    def _packed(self, block: Block, height: int) -> PackedBlock:
        processor = self._processor
        return PackedBlock(
            block.header,
            block.raw,
            processor.bitcoin_txs(block.transactions),
            processor.db.output_rule(height),
            processor.extra_hashXs,
        )
