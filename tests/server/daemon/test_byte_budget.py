"""The bytes being read at the same time are bounded, and each request is served in the end."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.daemon.byte_budget import ByteBudget


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def hold(budget, nbytes, until):
    async with budget.reserve(nbytes):
        await until.wait()


async def test_what_fits_is_reserved_at_once_and_the_rest_waits_in_order():
    budget = ByteBudget(100)
    ends = [asyncio.Event() for _ in range(4)]
    tasks = [
        asyncio.ensure_future(hold(budget, nbytes, end))
        for nbytes, end in zip((60, 40, 30, 100), ends, strict=True)
    ]
    await turns()
    assert budget.used == 100
    ends[1].set()
    await turns()
    assert budget.used == 90
    ends[2].set()
    await turns()
    # The last one wants everything, and later ones do not overtake it.
    late = asyncio.ensure_future(hold(budget, 1, ends[3]))
    await turns()
    assert budget.used == 60
    ends[0].set()
    await turns()
    assert budget.used == 100
    ends[3].set()
    await asyncio.gather(*tasks, late)
    assert budget.used == 0


async def test_more_than_the_total_is_granted_alone():
    budget = ByteBudget(10)
    async with budget.reserve(10**9):
        assert budget.used == 10
    assert budget.used == 0


async def test_what_is_charged_makes_others_wait():
    budget = ByteBudget(10)
    budget.charge(50)
    end = asyncio.Event()
    end.set()
    task = asyncio.ensure_future(hold(budget, 5, end))
    await turns()
    assert not task.done()
    budget.release(50)
    await asyncio.wait_for(task, 120)


@settings(max_examples=60, deadline=None)
@given(
    wants=st.lists(st.integers(0, 150), min_size=1, max_size=12),
    seed=st.integers(0, 1 << 30),
)
def test_cancelled_readers_leave_nothing_behind(wants, seed):
    async def run():
        chance = random.Random(seed)
        budget = ByteBudget(100)
        end = asyncio.Event()
        tasks = [asyncio.ensure_future(hold(budget, nbytes, end)) for nbytes in wants]
        for task in tasks:
            if chance.random() < 0.5:
                await turns(chance.randint(0, 2))
                assert budget.used <= 100
                if chance.random() < 0.5:
                    task.cancel()
        end.set()
        await asyncio.wait_for(asyncio.wait(tasks), 120)
        assert budget.used == 0

    asyncio.run(run())


async def test_a_grant_that_comes_with_a_cancellation_is_given_back():
    budget = ByteBudget(10)
    budget.charge(10)
    task = asyncio.ensure_future(hold(budget, 10, asyncio.Event()))
    await turns()
    budget.release(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.used == 0
