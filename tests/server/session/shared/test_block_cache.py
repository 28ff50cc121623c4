"""The cache of blocks' tx hashes: proofs, single reads, and reads across a reorg."""

import pytest
from aiorpcx import RPCError

from electrumx.lib.hash import double_sha256
from electrumx.lib.merkle import Merkle
from electrumx.server.db import DBError
from electrumx.server.session.engine.limits import COST_CACHED
from electrumx.server.session.shared import block_cache
from electrumx.server.session.shared.block_cache import BlockCache, BlockTxs

HEADER = b"header"


class Database:
    """One block at each height, with transactions that a test sets."""

    def __init__(self, count):
        self.hashes = [double_sha256(b"%d" % n) for n in range(count)]
        self.reads = 0
        self.during_read = None

    def cached_header(self, height):
        return HEADER

    async def raw_header(self, height):
        if height > 10:
            raise IndexError
        return HEADER

    async def block_tx_hashes(self, height):
        if height > 10:
            raise DBError("not on disk")
        self.reads += 1
        found = b"".join(self.hashes)
        if self.during_read is not None:
            during_read, self.during_read = self.during_read, None
            during_read()
        return found


@pytest.mark.parametrize("count", [1, 2, 3, 150, 199, 200, 333])
@pytest.mark.parametrize("inline_leaves", [0, 10_000])
async def test_branches_prove_each_position(count, inline_leaves, monkeypatch):
    monkeypatch.setattr(block_cache, "INLINE_LEAVES", inline_leaves)
    db = Database(count)
    cache = BlockCache(db)
    txs, _cost = await cache.hashes_at(5, HEADER)
    root = Merkle().root(db.hashes)
    for position in {0, count // 2, count - 1}:
        branch, _cost = await cache.branch(5, HEADER, txs, position)
        hashes = [bytes.fromhex(item)[::-1] for item in branch]
        assert Merkle().root_from_proof(db.hashes[position], hashes, position) == root


async def test_a_block_is_read_once_until_the_chain_is_reorganised():
    db = Database(3)
    cache = BlockCache(db)
    assert cache.hashes_now(5) is None
    _txs, cost = await cache.hashes_at(5, HEADER)
    assert cost > COST_CACHED
    assert cache.hashes_now(5)[1] == HEADER
    assert (await cache.hashes_at(5, HEADER))[1] == COST_CACHED
    assert db.reads == 1
    cache.clear()
    assert cache.hashes_now(5) is None


async def test_a_read_across_a_reorg_is_repeated():
    db = Database(3)
    cache = BlockCache(db)
    db.during_read = cache.clear
    await cache.hashes_at(5, HEADER)
    assert db.reads == 2


async def test_blocks_above_the_tip_are_missing():
    cache = BlockCache(Database(3))
    assert await cache.header(11) is None
    with pytest.raises(RPCError, match="db error"):
        await cache.hashes_at(11, None)


def test_a_hash_across_two_transactions_has_no_position():
    first, second = bytes(range(32)), bytes(range(32, 64))
    txs = BlockTxs(first + second)
    assert (txs.index(first), txs.index(second)) == (0, 1)
    assert txs.index(first[16:] + second[:16]) == -1
    assert txs.index(b"x" * 32) == -1
