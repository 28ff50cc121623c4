"""Parses raw blocks in worker threads, a part ahead of the processing.

Owns the size of a part, and how often the same invalid block may come.

Runs in: the event loop; :meth:`BlockParser.parse_blocks` in any thread.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Union

from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import sha256
from electrumx.lib.util import pack_le_uint32
from electrumx.server.block_processor.errors import BlockParseError

if TYPE_CHECKING:
    from electrumx.server.block_processor._fastblock import FastBlock

#: a block as the pure-Python or the Cython implementation parses it
ParsedBlock = Union[Block, "FastBlock"]


def spent_outpoints_of(block: ParsedBlock) -> bytes:
    """Return the outpoints that a block's transactions spend, 36 bytes each, joined.

    Generation inputs are left out.
    """
    if not isinstance(block, Block):
        return block.spent_outpoints
    return b"".join(
        [
            txin.prev_hash + pack_le_uint32(txin.prev_idx)
            for tx, _tx_hash in block.transactions
            for txin in tx.inputs
            if not txin.is_generation()
        ]
    )


def spend_counts_of(block: ParsedBlock) -> "array[int]":
    """Return how many of the outpoints spent are of each of a block's transactions."""
    if not isinstance(block, Block):
        return array("I", block.spend_counts)
    return array(
        "I",
        [
            sum(not txin.is_generation() for txin in tx.inputs)
            for tx, _tx_hash in block.transactions
        ],
    )


class BlockParser:
    """Parses blocks with a given function."""

    #: bytes of raw blocks in a part: parsed by the pure-Python implementation, they
    #: take ten times that
    PARSE_BYTES = 1_000_000
    #: how often the daemon may send the same block that does not parse
    PARSE_ATTEMPTS = 3

    def __init__(self, parse: Callable[[bytes, int], ParsedBlock]):
        """``parse`` takes a raw block and its height, and raises DeserializeError."""
        self._parse = parse
        #: digest of the block that did not parse last, and how often it came
        self._invalid = (b"", 0)

    def parse_blocks(self, raw_blocks: Sequence[bytes], first_height: int) -> Sequence[ParsedBlock]:
        """Parse consecutive blocks.  Raise BlockParseError if one is invalid."""
        parse = self._parse
        blocks: list[ParsedBlock] = []
        for height, raw in enumerate(raw_blocks, start=first_height):
            try:
                blocks.append(parse(raw, height))
            except DeserializeError as e:
                raise BlockParseError(e, height, sha256(raw)) from e
        return blocks

    async def parse_ahead(
        self, raw_blocks: Sequence[bytes], first_height: int
    ) -> AsyncGenerator[Sequence[ParsedBlock], None]:
        """Yield parsed blocks, in parts; parse the next part concurrently.

        Drop each raw block once its parsed block is yielded.

        Close the generator where it is left early (:func:`contextlib.aclosing`).
        """
        parts = self._parts(raw_blocks)
        del raw_blocks
        height = first_height
        parsing = self._start(parts, height)
        try:
            while parsing is not None:
                blocks = await parsing
                height += len(blocks)
                parsing = self._start(parts, height)
                yield blocks
        finally:
            if parsing is not None:
                # It continues in its thread, and nothing takes its result.
                parsing.cancel()
                parsing.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _parts(self, raw_blocks: Sequence[bytes]) -> deque[list[bytes]]:
        """Divide blocks into parts to parse together."""
        parts: deque[list[bytes]] = deque()
        size = self.PARSE_BYTES
        for raw_block in raw_blocks:
            size += len(raw_block)
            if size > self.PARSE_BYTES:
                parts.append([])
                size = len(raw_block)
            parts[-1].append(raw_block)
        return parts

    def _start(
        self, parts: deque[list[bytes]], first_height: int
    ) -> "asyncio.Future[Sequence[ParsedBlock]] | None":
        """Start to parse the next part in a thread; return None without one."""
        if not parts:
            return None
        return asyncio.ensure_future(
            asyncio.to_thread(self.parse_blocks, parts.popleft(), first_height)
        )

    def is_repeated(self, error: DeserializeError) -> bool:
        """Count an error; return whether the same block has now failed PARSE_ATTEMPTS times."""
        if not isinstance(error, BlockParseError):
            return False
        digest, count = self._invalid
        count = count + 1 if digest == error.digest else 1
        self._invalid = (error.digest, count)
        return count >= self.PARSE_ATTEMPTS
