"""Blocks: the transactions that they remove, at once and without a request to the node."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from electrumx.server.mempool import state as mempool_state
from electrumx.server.mempool.arrivals import Arrivals, Report
from electrumx.server.mempool.block_steps import BlockSteps
from electrumx.server.mempool.state import MempoolState
from electrumx.server.mempool.sync import MemPoolTx
from tests.fakes.chain import COIN, hashX_of
from tests.fakes.fake_mempool import (
    ALICE,
    BOB,
    WAIT_SECS,
    FakeAPI,
    ModelTx,
    check_against_model,
    check_answers,
    eventually,
    first_refresh,
    hold,
    pay,
    running,
    synchronizing,
    told_of_block,
)
from tests.fakes.virtual_time import InlineExecutor, run_in_virtual_time


async def test_a_block_is_applied_without_asking_the_node(with_tips):
    api = with_tips
    mined, kept = pay(api), pay(api)
    child = pay(api, mined.spendables()[0], ALICE)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        listings, fetches = api.listings, api.fetches
        api.index_block([mined.hash])
        assert await told_of_block(api) == (mined.hashXs(), 101)
        await check_against_model(mempool, {tx.hash: tx for tx in (kept, child)})
        assert (api.listings, api.fetches) == (listings, fetches)
        assert not mempool.lock.locked()


async def test_answers_are_of_the_new_block_from_the_notification_on(with_tips):
    api = with_tips
    mined, kept = pay(api), pay(api)
    child = pay(api, mined.spendables()[0], ALICE)
    left = {tx.hash: tx for tx in (kept, child)}
    told, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_touched, _height):
        told.set()
        await go_on.wait()

    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        (summary,) = [
            s for s in mempool.index.sync_summaries(hashX_of(ALICE)) if s.hash == child.hash
        ]
        assert summary.has_unconfirmed_inputs
        api.on_mempool = slow
        api.index_block([mined.hash])
        api.announce_block()
        await asyncio.wait_for(told.wait(), 60)
        await check_answers(mempool, left)
        # They come first.
        assert mined.hash in mempool.txs
        go_on.set()
        await check_against_model(mempool, left)


async def test_slow_clients_do_not_keep_the_maps_from_being_put_in_order(with_tips):
    api = with_tips
    mined = [pay(api) for _ in range(3)]
    async with synchronizing(COIN, api, settle_secs=0.01) as mempool:
        await first_refresh(api)
        api.on_mempool = lambda *_args: asyncio.get_running_loop().create_future()
        api.index_block([tx.hash for tx in mined])
        api.announce_block()
        while mempool.txs:
            await asyncio.sleep(0.001)
        await check_against_model(mempool, {})


@pytest.mark.parametrize("changed", [False, True])
async def test_the_transactions_that_a_block_removes_are_determined_while_it_is_written(
    with_tips, changed
):
    api = with_tips
    mined, kept = pay(api), pay(api)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        found = []
        departure = mempool.index.departure

        def noted(confirmed):
            found.append(confirmed)
            return departure(confirmed)

        mempool.index.departure = noted
        previous = api.database_tip
        api.index_block([mined.hash])
        api.process_block()
        while not found or mempool.lock.locked():
            await asyncio.sleep(0.001)
        # But it is not reported before it is there.
        assert mempool.index.has_tx(mined.hash)
        assert api.refreshes.empty()
        left = {kept.hash: kept}
        if changed:
            # As if a refresh had been under way
            late = pay(api)
            mempool.index.add_tx(late.hash, MemPoolTx((), (), ((hashX_of(BOB), 5),), 0, 100), set())
            mempool.index.remove_tx(late.hash, set())
            api.txs.pop(late.hash)
        assert await told_of_block(api) == (mined.hashXs(), 101)
        assert found == [api.confirmed[previous]] * (2 if changed else 1)
        await check_against_model(mempool, left)


async def test_after_a_block_the_node_is_asked_as_well(with_tips):
    api = with_tips
    async with synchronizing(COIN, api, settle_secs=0.01) as mempool:
        await first_refresh(api)
        api.index_block()
        tx = pay(api)
        assert await told_of_block(api) == (set(), 101)
        assert await first_refresh(api) == (tx.hashXs(), 101)
        await check_against_model(mempool, {tx.hash: tx})


async def test_the_node_is_asked_only_some_time_after_the_last_of_several_blocks(with_tips):
    api = with_tips
    timers = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    async with synchronizing(COIN, api, settle_secs=1234) as mempool:

        def noted(delay, callback, *args, **kwargs):
            timer = call_later(delay, callback, *args, **kwargs)
            if delay == 1234 and callback == mempool.refresh_soon:
                timers.append(timer)
            return timer

        loop.call_later = noted
        await first_refresh(api)
        for height in (101, 102, 103):
            api.index_block()
            assert await told_of_block(api) == (set(), height)
            while len(timers) < height - 100:
                await asyncio.sleep(0)
        assert [timer.cancelled() for timer in timers] == [True, True, False]
        assert api.listings == 1
        assert not mempool.lock.locked()


async def test_what_a_block_made_impossible_goes_with_all_that_depends_on_it(with_tips):
    api = with_tips
    coin = api.add_utxo(ALICE, 10_000)
    replaced = pay(api, coin, b"replaced")
    child = pay(api, replaced.spendables()[0], b"child")
    grandchild = pay(api, child.spendables()[0], b"grandchild")
    # Touched by the block as well, and still possible
    other = pay(api)
    payment = pay(api, api.add_utxo(BOB, 5000), ALICE)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        double_spend = ModelTx([coin], [(b"double spend", 9000)])
        api.index_block(others=[double_spend])
        touched, height = await told_of_block(api)
        assert height == 101
        assert touched == replaced.hashXs() | child.hashXs() | grandchild.hashXs()
        await check_against_model(mempool, {tx.hash: tx for tx in (other, payment)})


async def test_several_blocks_are_applied_one_after_the_other(with_tips):
    api = with_tips
    first, second = pay(api, script=b"first"), pay(api, script=b"second")
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        api.index_block([first.hash])
        api.index_block([second.hash])
        assert await told_of_block(api) == (first.hashXs(), 101)
        assert await first_refresh(api) == (second.hashXs(), 102)
        await check_against_model(mempool, {})
        assert api.listings == 1


async def test_a_block_that_is_not_known_is_found_by_asking_the_node(with_tips):
    api = with_tips
    tx = pay(api)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        api.index_block([tx.hash])
        api.confirmed.clear()
        assert await told_of_block(api) == (tx.hashXs(), 101)
        await check_against_model(mempool, {})
        assert api.listings == 2


async def test_a_block_during_a_refresh_is_notified_before_the_refresh_ends(with_tips):
    api = with_tips
    mined = pay(api)
    asked = asyncio.Event()

    async def slow(_hex_hashes):
        asked.set()
        await asyncio.get_running_loop().create_future()

    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        api.raw_transactions = slow
        late = pay(api)
        api.trigger()
        await asyncio.wait_for(asked.wait(), 60)
        api.index_block([mined.hash])
        assert await told_of_block(api) == (mined.hashXs(), 101)
        await check_against_model(mempool, {})
        assert late.hash in api.txs


async def test_undone_blocks_are_followed_without_the_node(with_tips, held_listings):
    api = with_tips
    mined, other, kept = (pay(api) for _ in range(3))
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert api.partial_heights == []
        held_listings.clear()
        previous = api.database_tip
        api.index_block([mined.hash])
        await told_of_block(api)
        api.undo_block(previous)
        assert await told_of_block(api) == (set(), 100)
        api.index_block([other.hash])
        assert await told_of_block(api) == (other.hashXs(), 101)
        assert api.partial_heights == [100, 101]
        await check_against_model(mempool, {kept.hash: kept})
        held_listings.set()
        # Until a refresh is complete
        await asyncio.wait_for(mempool.event.wait(), 60)
        api.partial_heights.clear()
        api.index_block([kept.hash])
        api.announce_block()
        await eventually(lambda: mempool.txs == {})
        assert api.partial_heights == []


# -- Without a mempool


@asynccontextmanager
async def following(state, arrivals=None, refresh_soon=lambda: None, pause_secs=3600):
    """The state follows the database for as long as the block lasts."""
    steps = BlockSteps(
        state, arrivals or Arrivals(), refresh_soon, pause_secs=pause_secs, settle_secs=3600
    )
    async with running(steps.prepare()), running(steps.follow()):
        yield


@pytest.mark.parametrize("changed", ["nothing", "maps", "block"])
async def test_a_departure_computed_beforehand_is_used_if_nothing_has_changed(state, changed):
    api = state.api
    mined, other = pay(api, script=b"mined"), pay(api, script=b"other")
    hold(state, mined, other)
    departure, computed_for = state.index.departure, []

    def noted(confirmed):
        computed_for.append(confirmed)
        return departure(confirmed)

    state.index.departure = noted
    async with following(state):
        previous = state.tip
        api.index_block([mined.hash])
        api.process_block()
        await eventually(lambda: computed_for and not state.lock.locked())
        left, touched = {other.hash}, mined.hashXs()
        if changed == "maps":
            child = pay(api, mined.spendables()[0])
            hold(state, child)
            left.add(child.hash)
        elif changed == "block":
            both = mined.hash + other.hash
            api.confirmed[previous] = replace(api.confirmed[previous], tx_hashes=both)
            left, touched = set(), mined.hashXs() | other.hashXs()
        assert await told_of_block(api) == (touched, 101)
        await eventually(lambda: not state.index.leaving)
    assert state.index.txs.keys() == left
    assert len(computed_for) == (1 if changed == "nothing" else 2)
    assert computed_for[-1] is api.confirmed[previous]


@pytest.mark.parametrize("is_reading", [False, True])
async def test_a_step_while_transactions_are_read_is_recorded(state, is_reading):
    api = state.api
    state.steps = [] if is_reading else None
    async with following(state):
        api.index_block()
        step = state.next_step()
        await told_of_block(api)
    assert (state.height, state.tip) == (101, api.database_tip)
    assert state.steps == ([step] if is_reading else None)


async def test_changes_that_are_not_reported_yet_are_reported_with_a_step(state):
    api = state.api
    mined = pay(api)
    hold(state, mined)
    state.touched = {b"earlier"}
    async with following(state):
        api.index_block([mined.hash])
        assert await told_of_block(api) == (mined.hashXs() | {b"earlier"}, 101)
    assert state.touched == set()


async def test_an_undone_block_makes_the_maps_incomplete_and_removes_nothing(state):
    api = state.api
    kept, previous = pay(api), state.tip
    hold(state, kept)
    api.index_block()
    state.move_to_database()
    state.is_complete = True
    async with following(state):
        api.undo_block(previous)
        assert await told_of_block(api) == (set(), 100)
    assert (state.height, state.tip) == (100, previous)
    assert (state.losses, state.is_complete) == (1, False)
    assert api.partial_heights == [100]
    assert state.index.txs.keys() == {kept.hash}


@pytest.mark.parametrize(("is_complete", "pause_secs"), [(True, 7.0), (False, 0.0)])
def test_the_node_is_asked_after_a_pause_unless_transactions_are_missing(
    monkeypatch, is_complete, pause_secs
):
    monkeypatch.setattr(mempool_state, "ThreadPoolExecutor", InlineExecutor)

    async def main():
        loop = asyncio.get_running_loop()
        asked_at = loop.create_future()
        api = FakeAPI(tip=bytes(32))
        state = MempoolState(api)
        state.move_to_database()
        state.is_complete = is_complete
        async with following(
            state, refresh_soon=lambda: asked_at.set_result(loop.time()), pause_secs=7.0
        ):
            api.index_block()
            await told_of_block(api)
            return await asked_at

    assert run_in_virtual_time(main()) == pytest.approx(pause_secs)


async def test_a_move_of_the_database_queues_the_transactions_that_waited_for_it(state):
    api = state.api
    arrivals, asked = Arrivals(), asyncio.Event()
    arrivals.retry_after_block(b"waits", Report(True))
    async with following(state, arrivals, asked.set):
        # Also if it is not known how it came there
        api.index_block()
        api.confirmed.clear()
        api.announce_block()
        await asyncio.wait_for(asked.wait(), WAIT_SECS)
    assert list(arrivals.take(9)) == [b"waits"]
    assert state.height == 100
    assert api.refreshes.empty()
