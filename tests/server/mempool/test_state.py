"""Where the mempool is: whether it follows the database, and how its changes are reported."""

import asyncio
import threading

import pytest

from electrumx.server.mempool.state import MempoolState
from tests.fakes.fake_mempool import FakeAPI, hold, pay


def test_maps_follow_the_database_at_its_tip_and_a_known_way_before_it(state):
    api = state.api
    assert state.is_following()
    assert state.next_step() is None
    api.index_block()
    api.index_block()
    assert state.is_following()
    assert state.next_step() is api.confirmed[state.tip]
    api.confirmed.clear()
    assert not state.is_following()
    assert state.next_step() is None
    state.move_to_database()
    assert (state.height, state.tip) == (102, api.database_tip)
    assert state.is_following()


@pytest.mark.parametrize(
    ("height", "tip"), [(101, bytes(32)), (100, b"another")], ids=["height", "tip"]
)
def test_maps_at_another_height_or_tip_do_not_follow(state, height, tip):
    state.api.database_height, state.api.database_tip = height, tip
    assert not state.is_following()


def test_without_a_tip_no_step_is_asked_for():
    api, asked = FakeAPI(), []
    api.confirmed_after = asked.append
    state = MempoolState(api)
    assert state.next_step() is None
    assert not state.is_following()
    state.move_to_database()
    assert state.next_step() is None
    assert state.is_following()
    assert asked == []


async def test_only_lost_maps_are_dropped(state):
    api = state.api
    tx = pay(api)
    hold(state, tx)
    state.is_complete = True
    api.index_block()
    await state.drop_if_lost()
    assert (set(state.index.txs), state.is_complete) == ({tx.hash}, True)
    assert state.touched == set()
    api.confirmed.clear()
    await state.drop_if_lost()
    assert (state.index.txs, state.is_complete) == ({}, False)
    assert state.touched == tx.hashXs()


async def test_whether_maps_are_lost_is_decided_with_the_lock_held(state):
    api = state.api
    tx = pay(api)
    hold(state, tx)
    api.index_block()
    api.confirmed.clear()
    async with state.lock:
        dropping = asyncio.create_task(state.drop_if_lost())
        await asyncio.sleep(0)
        # As a refresh does
        state.move_to_database()
    await dropping
    assert tx.hash in state.index.txs


def test_touched_hashXs_are_taken_once_and_are_the_callers(state):
    first, second = pay(state.api, script=b"first"), pay(state.api, script=b"second")
    hold(state, first, second)
    state.remove(first.hash)
    taken = state.take_touched()
    state.remove(second.hash)
    assert taken == first.hashXs()
    assert state.take_touched() == second.hashXs()
    assert state.take_touched() == set()


@pytest.mark.parametrize("is_complete", [True, False])
async def test_changes_of_maps_that_are_not_complete_are_reported_as_partial(state, is_complete):
    state.is_complete = is_complete
    await state.report({b"hashX"}, 7)
    assert state.api.refreshes.get_nowait() == ({b"hashX"}, 7)
    assert state.api.partial_heights == ([] if is_complete else [7])


async def test_long_computations_run_in_a_thread_until_it_is_shut_down(state):
    assert await state.in_thread(divmod, 7, 2) == (3, 1)
    assert await state.in_thread(threading.current_thread) is not threading.current_thread()
    state.shut_down()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await state.in_thread(divmod, 7, 2)
