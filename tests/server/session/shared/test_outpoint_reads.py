"""Concurrent reads of an outpoint that is not cached: one search, charged to each."""

import asyncio

import pytest

from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.shared.outpoint_status import (
    CALL_COST,
    NO_SUCH_TX,
    NOWHERE,
    OutpointStatuses,
)

OUTPOINT = (b"o" * 32, 0)


class World:
    """A database and a node that know no transaction; the node answers when the test opens a gate."""

    def __init__(self):
        self.calls = self.cancelled = 0
        self.gate = asyncio.Event()
        self.error = {"code": NO_SUCH_TX, "message": "none"}
        self.statuses = OutpointStatuses(self, self, None, None, lambda: False)

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
    assert sum(first_charged) == sum(second_charged) == CALL_COST
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


async def test_a_read_of_another_tip_is_not_joined(world):
    first, _charged = world.read()
    await world.settle()
    world.statuses.clear()
    second, _charged = world.read()
    await world.settle()
    assert world.calls == 2
    world.gate.set()
    await asyncio.gather(first, second)
