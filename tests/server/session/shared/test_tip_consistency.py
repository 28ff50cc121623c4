"""Answers belong to one tip: when it is known and stable, and when they are retried."""

import asyncio
from types import SimpleNamespace

import pytest
from aiorpcx import RPCError

from electrumx.server.session.engine.prices import COST_FAILED_TRY
from electrumx.server.session.shared import tip_consistency
from electrumx.server.session.shared.tip_consistency import TipChangedError, TipConsistency


class Chain:
    """A processor and a database at heights that tests set, and the tip over them."""

    def __init__(self, height=10):
        self.processor = SimpleNamespace(height=height, tip=b"%d" % height, forks=[])
        self.processor.state = self.processor
        self.db = SimpleNamespace(height=height, tip=b"%d" % height)
        self.tip = TipConsistency(self.processor, SimpleNamespace(state=self.db))
        self.notify()
        self.charged = []

    def process(self, name):
        self.processor.height += 1
        self.processor.tip = name

    def commit(self):
        self.db.height, self.db.tip = self.processor.height, self.processor.tip

    def notify(self):
        self.tip.notified(self.db.height, self.db.tip)

    def add_block(self, name):
        self.process(name)
        self.commit()
        self.notify()


def test_a_block_that_is_not_committed_leaves_the_tip_known_but_not_stable():
    chain = Chain()
    assert (chain.tip.is_tip_known(), chain.tip.is_tip_stable()) == (True, True)
    assert chain.tip.state() == (10, b"10", 0)
    chain.process(b"next")
    assert (chain.tip.is_tip_known(), chain.tip.is_tip_stable()) == (True, False)
    assert chain.tip.state() is None
    chain.commit()
    assert (chain.tip.is_tip_known(), chain.tip.is_tip_stable()) == (False, False)
    chain.notify()
    assert (chain.tip.is_tip_known(), chain.tip.is_tip_stable()) == (True, True)


def test_another_block_of_the_same_height_is_another_tip():
    chain = Chain()
    chain.processor.tip = chain.db.tip = b"other"
    assert not chain.tip.is_tip_known()
    assert chain.tip.state() is None


def test_blocks_below_an_unknown_reorganisation_are_known():
    chain = Chain()
    chain.processor.forks.append(7)
    assert [chain.tip.is_block_known(height) for height in (6, 7, 8)] == [True, True, False]
    chain.processor.forks.append(5)
    assert [chain.tip.is_block_known(height) for height in (5, 6)] == [True, False]
    chain.tip.set_known_reorgs(1)
    assert not chain.tip.is_block_known(6)
    chain.tip.set_known_reorgs(2)
    assert chain.tip.is_block_known(100)


def test_heights_up_to_the_notified_one_are_known():
    chain = Chain()
    assert (chain.tip.is_height_known(10), chain.tip.is_height_known(11)) == (True, False)


async def test_a_result_of_another_tip_is_computed_again_and_each_failure_is_charged():
    chain, results = Chain(), []

    async def compute():
        results.append(chain.db.height)
        if len(results) < 3:
            chain.add_block(b"block %d" % len(results))
        return results[-1]

    assert await chain.tip.retry_at_stable_tip(compute, chain.charged.append) == 12
    assert results == [10, 11, 12]
    assert chain.charged == [COST_FAILED_TRY] * 2


async def test_a_tip_that_is_never_stable_is_an_error_after_six_tries(monkeypatch):
    monkeypatch.setattr(tip_consistency, "WAITS", (0,) * 6)
    chain = Chain()
    chain.process(b"never committed")
    with pytest.raises(RPCError, match="chaintip moved too many times"):
        await chain.tip.retry_at_stable_tip(asyncio.Event().wait, chain.charged.append)
    assert chain.charged == [COST_FAILED_TRY] * 6


async def test_a_computation_that_notices_a_change_is_retried_without_a_look_at_the_tip():
    chain, tries = Chain(), []

    async def compute():
        tries.append(1)
        if len(tries) == 1:
            chain.add_block(b"next")
            raise TipChangedError
        return "result"

    tip = chain.tip
    assert await tip.retry_at_stable_tip(compute, chain.charged.append, check_tip=False) == "result"
    assert len(tries) == 2


async def test_a_block_that_is_being_replaced_is_waited_for():
    chain = Chain()
    chain.processor.forks.append(9)

    async def compute():
        return chain.db.tip

    below = await chain.tip.retry_at_known_blocks(9, compute, chain.charged.append)
    assert below == b"10"
    waiting = asyncio.ensure_future(
        chain.tip.retry_at_known_blocks(10, compute, chain.charged.append)
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    chain.db.tip = b"replaced"
    chain.tip.set_known_reorgs(1)
    assert await waiting == b"replaced"
    assert chain.charged == []
