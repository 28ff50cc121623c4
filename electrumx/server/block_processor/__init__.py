"""Follows the chain of the full node, block by block, and indexes it."""

from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.prefetcher import Prefetcher
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.block_processor.variants import (
    ConvertingBlockProcessor,
    DecredBlockProcessor,
    LTORBlockProcessor,
    NameIndexBlockProcessor,
)

__all__ = [
    "BlockProcessor",
    "ChainError",
    "ConvertingBlockProcessor",
    "DecredBlockProcessor",
    "LTORBlockProcessor",
    "NameIndexBlockProcessor",
    "Prefetcher",
]
