"""Raw blocks of the chain, checked: from disk, or else from the daemon.

A raw block on disk is not synced, and a daemon may be wrong; so either counts only if it parses
and has the hash of the header on file.  Runs in: worker threads.
"""

from collections.abc import Callable

from electrumx.lib.coins import Block, Coin
from electrumx.lib.errors import DeserializeError


def checked_block(coin: type[Coin], raw: bytes, height: int, block_hash: bytes) -> Block | None:
    """Return the parsed block, or None if the bytes are not the block with this hash."""
    try:
        block = coin.block(raw, height)
    except DeserializeError:
        return None
    return block if coin.header_hash(block.header) == block_hash else None


def stored_block(
    coin: type[Coin], read_raw_block: Callable[[int], bytes], height: int, block_hash: bytes
) -> Block | None:
    """Return the parsed block on disk, or None if it is missing or damaged."""
    try:
        return checked_block(coin, read_raw_block(height), height, block_hash)
    except OSError:
        return None
