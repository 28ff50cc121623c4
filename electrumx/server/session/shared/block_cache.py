"""A cache of the tx hashes of blocks and of the merkle trees over them, for proofs.

Holds at most 1,000 blocks and 32 MiB each of hashes and of trees, least recently used evicted first.
A read that began before an invalidation may end after it, hence the generations of ``LRUCache``.
Runs on the event loop; the database reads in threads.
"""

import asyncio
import math
from collections.abc import Awaitable
from typing import Protocol

from aiorpcx import RPCError

from electrumx.lib.lru import LRUCache
from electrumx.server.db import DBError, wire_rows
from electrumx.server.session.engine.params import BAD_REQUEST
from electrumx.server.session.engine.prices import COST_CACHED, merkle_cost, tx_hashes_cost
from electrumx.server.storage.schema import DBReadError

CACHE_ENTRIES = 1_000
CACHE_BYTES = 32 << 20
# Blocks of at least this many txs get their merkle levels cached apart.
MERKLE_CACHE_MIN_TXS = 200
# A thread builds trees over more leaves, which takes about a millisecond.
INLINE_LEAVES = 4_000 if wire_rows.COMPILED else 500
HASH_LEN = 32


class BlockSource(Protocol):
    """The database, as the cache uses it."""

    def cached_header(self, height: int) -> bytes | None:
        """Return the raw header of a block if it is in memory."""

    async def raw_header(self, height: int) -> bytes:
        """Return the raw header of a block; raise IndexError above the tip."""

    def block_tx_hashes(self, height: int) -> Awaitable[bytes]:
        """Return the joined tx hashes of a block; raise DBError above the tip."""


class BlockTxs:
    """The tx hashes of one block, and the merkle tree over them if it is small."""

    __slots__ = ("hashes", "levels")

    def __init__(self, hashes: bytes) -> None:
        #: joined, in block order
        self.hashes = hashes
        #: the levels above, see ``wire_rows.merkle_levels``
        self.levels: bytes | None = None

    def __len__(self) -> int:
        return len(self.hashes) // HASH_LEN

    def __getitem__(self, tx_pos: int) -> bytes:
        return self.hashes[tx_pos * HASH_LEN : (tx_pos + 1) * HASH_LEN]

    def index(self, tx_hash: bytes) -> int:
        """Return the position of a transaction, -1 if it is not there."""
        found = self.hashes.find(tx_hash)
        # A match may straddle two hashes, if anyone makes such a pair.
        while found % HASH_LEN > 0 and found >= 0:
            found = self.hashes.find(tx_hash, found + 1)
        return found // HASH_LEN


def branch_of(txs: BlockTxs, levels: bytes, tx_pos: int) -> list[str]:
    """Return the merkle branch, leaf side first, of a position: hashes as displayed."""
    branch = []
    level, start, width = txs.hashes, 0, len(txs)
    while width > 1:
        sibling = min(tx_pos ^ 1, width - 1)
        at = start + sibling * HASH_LEN
        branch.append(level[at : at + HASH_LEN][::-1].hex())
        # The leaves are a string of their own.
        start = 0 if level is txs.hashes else start + width * HASH_LEN
        level = levels
        width = (width + 1) // 2
        tx_pos //= 2
    return branch


class BlockCache:
    """Tx hashes and merkle levels of blocks, by height and header, for proofs."""

    def __init__(self, db: BlockSource) -> None:
        self._db = db
        # The header identifies the block of that height.
        self.tx_hashes: LRUCache[tuple[int, bytes | None], BlockTxs] = LRUCache(
            CACHE_ENTRIES, CACHE_BYTES
        )
        self.levels: LRUCache[tuple[int, bytes | None], bytes] = LRUCache(
            CACHE_ENTRIES, CACHE_BYTES
        )

    def clear(self) -> None:
        """Drop everything, after a reorganisation."""
        self.tx_hashes.clear()
        self.levels.clear()

    async def header(self, height: int) -> bytes | None:
        """Return the raw header of a block, None above the tip."""
        try:
            return await self._db.raw_header(height)
        except IndexError:
            return None

    def hashes_now(self, height: int) -> tuple[BlockTxs, bytes] | None:
        """Return (tx hashes, header) of a block if both are in memory."""
        header = self._db.cached_header(height)
        if header is None or (height, header) not in self.tx_hashes:
            return None
        txs = self.tx_hashes.get((height, header))
        assert txs is not None
        return txs, header

    async def hashes_at(self, height: int, header: bytes | None) -> tuple[BlockTxs, float]:
        """Return (tx hashes in block order, cost) of a height whose header was just read."""
        txs = self.tx_hashes.get((height, header))
        if txs is not None:
            return txs, COST_CACHED
        while True:
            generation = self.tx_hashes.generation
            try:
                txs = BlockTxs(await self._db.block_tx_hashes(height))
            except DBReadError:
                raise
            except DBError as e:
                raise RPCError(BAD_REQUEST, f"db error: {e!r}") from None
            if generation == self.tx_hashes.generation:
                break
        size = len(txs.hashes) * (2 if len(txs) < MERKLE_CACHE_MIN_TXS else 1)
        self.tx_hashes.put((height, header), txs, generation, size)
        return txs, tx_hashes_cost(len(txs))

    def branch_now(
        self, height: int, header: bytes | None, txs: BlockTxs, tx_pos: int
    ) -> tuple[list[str], float] | None:
        """Return ``branch`` if that needs no thread, else None."""
        count = len(txs)
        if count < MERKLE_CACHE_MIN_TXS:
            if txs.levels is None:
                txs.levels = wire_rows.merkle_levels(txs.hashes)
            return branch_of(txs, txs.levels, tx_pos), merkle_cost(count)
        levels = self.levels.get((height, header))
        cost = 10 * math.sqrt(count)
        if levels is None:
            if count > INLINE_LEAVES:
                return None
            levels = wire_rows.merkle_levels(txs.hashes)
            self._keep(height, header, levels)
            cost = float(count)
        return branch_of(txs, levels, tx_pos), merkle_cost(cost)

    def _keep(self, height: int, header: bytes | None, levels: bytes) -> None:
        self.levels.put((height, header), levels, self.levels.generation, len(levels))

    async def branch(
        self, height: int, header: bytes | None, txs: BlockTxs, tx_pos: int
    ) -> tuple[list[str], float]:
        """Return (merkle branch of displayed hashes, cost) of the tx at a position."""
        found = self.branch_now(height, header, txs, tx_pos)
        if found is not None:
            return found
        levels = await asyncio.to_thread(wire_rows.merkle_levels, txs.hashes)
        self._keep(height, header, levels)
        return branch_of(txs, levels, tx_pos), merkle_cost(len(txs))
