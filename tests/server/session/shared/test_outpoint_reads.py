"""Concurrent reads of an outpoint that is not cached: one search, charged to each."""

import asyncio

import pytest

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.daemon.client import DaemonError
from electrumx.server.db import wire_rows
from electrumx.server.db.queries import PackedHistory
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.session.shared.outpoint_cache import NOWHERE, OnChain, OutpointCache
from electrumx.server.session.shared.outpoint_status import (
    BATCHES_AT_ONCE,
    CALL_COST,
    NO_SUCH_TX,
    OutpointStatuses,
)
from electrumx.server.session.shared.tip_consistency import TipChangedError
from tests.fakes.chain import COIN

OUTPOINT = (b"o" * 32, 0)
SCRIPT = b"\x51"
FUNDING = Tx(1, [TxInput(bytes(32), 0, b"", 0)], [TxOutput(1, SCRIPT)], 0)
FUNDING_HASH = double_sha256(FUNDING.serialize())


class World:
    """A database and a node that know no transaction; the node answers when the test opens a gate."""

    def __init__(self):
        self.calls = self.cancelled = 0
        self.gate = asyncio.Event()
        self.db_height, self.db_tip = 5, b"t" * 32
        self.hex_hashes = [self.db_tip.hex()]
        self.error = {"code": NO_SUCH_TX, "message": "none"}
        self.cache = OutpointCache(OutpointWatch())
        self.statuses = OutpointStatuses(self, self, None, self.cache, None, lambda: False)

    async def utxo_heights(self, outpoints):
        return [None] * len(outpoints)

    async def getrawtransaction(self, _hex_hash):
        self.calls += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise DaemonError(self.error)

    async def block_hex_hashes(self, first, count):
        assert (first, count) == (5, 1)
        if not self.hex_hashes:
            # Of a batch
            raise DaemonError([{"code": -8, "message": "Block height out of range"}])
        return self.hex_hashes

    def read(self):
        charged = []
        return asyncio.ensure_future(self.statuses.read(OUTPOINT, charged.append)), charged

    async def settle(self):
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def world():
    return World()


async def test_two_sessions_share_a_read_and_each_pays_for_it(world):
    first, first_charged = world.read()
    await world.settle()
    second, second_charged = world.read()
    await world.settle()
    world.gate.set()
    assert await asyncio.gather(first, second) == [NOWHERE, NOWHERE]
    assert world.calls == 1
    assert sum(first_charged) == sum(second_charged) == 2 * CALL_COST
    assert world.statuses.cached(OUTPOINT) == NOWHERE


async def test_a_session_that_leaves_does_not_end_the_read_of_the_other(world):
    first, _charged = world.read()
    await world.settle()
    second, _charged = world.read()
    await world.settle()
    first.cancel()
    await world.settle()
    assert world.cancelled == 0
    world.gate.set()
    assert await second == NOWHERE
    assert world.calls == 1


async def test_a_read_that_nothing_waits_for_is_cancelled_and_begun_again_later(world):
    first, _charged = world.read()
    await world.settle()
    first.cancel()
    await world.settle()
    assert world.cancelled == 1
    world.gate.set()
    second, _charged = world.read()
    assert await second == NOWHERE
    assert world.calls == 2


async def test_an_error_of_the_node_is_raised_for_each_and_not_cached(world):
    world.error = {"code": -1, "message": "busy"}
    first, _charged = world.read()
    second, _charged = world.read()
    world.gate.set()
    for answer in (first, second):
        with pytest.raises(DaemonError):
            await answer
    assert world.statuses.cached(OUTPOINT) is None


@pytest.mark.parametrize("hex_hashes", [[], ["00" * 32]])
async def test_a_node_that_has_not_our_tip_denies_no_transaction(world, hex_hashes):
    world.hex_hashes = hex_hashes
    world.gate.set()
    read, _charged = world.read()
    with pytest.raises(TipChangedError):
        await read
    assert world.statuses.cached(OUTPOINT) is None


@pytest.mark.parametrize(
    "reason",
    [
        "Blockchain transactions are still in the process of being indexed",
        "Use -txindex or provide a block hash to enable blockchain transaction queries",
    ],
)
async def test_a_node_without_a_complete_txindex_denies_no_transaction(world, reason):
    world.error["message"] = f"No such mempool transaction. {reason}."
    world.gate.set()
    read, _charged = world.read()
    with pytest.raises(DaemonError, match=reason):
        await read
    assert world.statuses.cached(OUTPOINT) is None


async def test_a_read_of_another_tip_is_not_joined(world):
    first, _charged = world.read()
    await world.settle()
    world.cache.lose(-1)
    second, _charged = world.read()
    await world.settle()
    assert world.calls == 2
    world.gate.set()
    await asyncio.gather(first, second)


class HistoryWorld:
    """A script's history, in which one entry spends the output of the first, and a node that has it."""

    def __init__(self, count, spender):
        txs = [
            Tx(1, [TxInput(b"i" * 32, n, b"", 0)], [TxOutput(1, SCRIPT)], 0) for n in range(count)
        ]
        txs[0] = FUNDING
        if spender is not None:
            txs[spender] = Tx(1, [TxInput(FUNDING_HASH, 0, b"", 0)], [TxOutput(1, SCRIPT)], 0)
        raws = [tx.serialize() for tx in txs]
        self.hashes = [double_sha256(raw) for raw in raws]
        self.raws = {
            tx_hash[::-1].hex(): raw for tx_hash, raw in zip(self.hashes, raws, strict=True)
        }
        self.in_flight = self.most_in_flight = self.fetched = 0
        cache = OutpointCache(OutpointWatch())
        self.statuses = OutpointStatuses(self, self, None, cache, COIN, lambda: False)

    async def utxo_heights(self, outpoints):
        return [None] * len(outpoints)

    async def history_entries(self, _hashX, *, limit, after):
        numbers = range(after + 1, min(after + 1 + limit, len(self.hashes)))
        packed = b"".join(wire_rows.pack_entry(self.hashes[n], 5 + n) for n in numbers)
        last = numbers[-1] if numbers else after
        return PackedHistory(packed, last, backup_count=0)

    async def getrawtransaction(self, hex_hash):
        return self.raws[hex_hash].hex()

    async def getrawtransactions(self, hex_hashes):
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.001)
        finally:
            self.in_flight -= 1
        self.fetched += len(hex_hashes)
        return [self.raws.get(hex_hash) for hex_hash in hex_hashes]


@pytest.mark.parametrize("spender", [1, 20, 21, 120, 121, 5_000, 6_499])
async def test_the_spender_is_found_wherever_it_is(spender):
    world = HistoryWorld(6_500, spender)
    charged = []
    found = await world.statuses.read((FUNDING_HASH, 0), charged.append)
    assert OnChain(5, world.hashes[spender], 5 + spender) == found
    # A few batches more are fetched than are needed, and charged for.
    assert spender <= world.fetched <= spender + 400
    assert sum(charged) > world.fetched * 0.05
    assert world.in_flight == 0


async def test_searches_together_take_few_of_the_nodes_connections():
    world = HistoryWorld(3_000, 2_999)
    worlds = [world.statuses.read((FUNDING_HASH, n), lambda _cost: None) for n in (0, 0)]
    await asyncio.gather(*worlds)
    assert 1 < world.most_in_flight <= BATCHES_AT_ONCE


async def test_a_transaction_that_the_node_lacks_ends_the_search_and_its_batches_ahead():
    world = HistoryWorld(3_000, 2_999)
    del world.raws[world.hashes[50][::-1].hex()]
    with pytest.raises(TipChangedError):
        await world.statuses.read((FUNDING_HASH, 0), lambda _cost: None)
    assert world.in_flight == 0
    assert world.fetched < 500
