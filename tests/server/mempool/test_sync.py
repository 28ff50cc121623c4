"""The mempool's refresh, its failures and its answers, against a scripted node and database."""

import asyncio
import logging
import os
import re
import time

import pytest

from electrumx.lib import tasks
from electrumx.lib.coins import Coin
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool import fee_histogram, fetcher, refresher
from electrumx.server.mempool import sync as mempool_module
from electrumx.server.mempool.fetcher import FETCH_CHUNK
from electrumx.server.mempool.index import MemPoolIndex, compact_histogram
from electrumx.server.mempool.sync import MemPool, MemPoolAPI, MemPoolTx
from tests.fakes.fake_mempool import (
    FakeAPI,
    ModelTx,
    check_against_model,
    check_answers,
    hashX_of,
    refreshed,
    synchronizing,
)

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
ALICE, BOB = b"\x51", b"\x52\x52"


@pytest.fixture
def api():
    return FakeAPI()


def pay(api, source=None, script=BOB, value=None, fee=100):
    """Add a transaction spending source, or a new confirmed output of Alice."""
    source = source or api.add_utxo(ALICE, 10_000)
    tx = ModelTx([source], [(script, source[3] - fee if value is None else value)])
    api.add(tx)
    return tx


async def first_refresh(api):
    return await asyncio.wait_for(api.refreshes.get(), 60)


async def eventually(condition):
    """Wait until condition() is true."""

    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 60)


# -- Queries


async def test_queries_of_an_unknown_hashX_are_empty_and_leave_no_trace():
    mempool = MemPool(COIN, FakeAPI())
    hashX = os.urandom(11)
    assert await mempool.balance_delta(hashX) == 0
    assert await mempool.potential_spends(hashX) == set()
    assert await mempool.transaction_summaries(hashX) == []
    assert await mempool.unordered_UTXOs(hashX) == []
    assert await mempool.compact_fee_histogram() == []
    assert mempool.hashXs == {}


async def test_a_payment_is_seen_from_both_sides(api):
    tx = pay(api, value=9_000)
    async with synchronizing(COIN, api) as mempool:
        touched, height = await first_refresh(api)
        assert touched == {hashX_of(ALICE), hashX_of(BOB)}
        assert height == 100
        assert await mempool.balance_delta(hashX_of(ALICE)) == -10_000
        assert await mempool.balance_delta(hashX_of(BOB)) == 9_000
        (summary,) = await mempool.transaction_summaries(hashX_of(BOB))
        assert (summary.hash, summary.fee, summary.has_unconfirmed_inputs) == (tx.hash, 1000, False)
        assert await mempool.unordered_UTXOs(hashX_of(BOB)) == [(-1, 0, tx.hash, 0, 9_000)]
        assert await mempool.potential_spends(hashX_of(BOB)) == {tx.inputs[0][:2]}


async def test_spent_outputs_are_listed_as_utxos_and_as_potential_spends(api):
    parent = pay(api)
    child = pay(api, parent.spendables()[0], ALICE)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        (utxo,) = await mempool.unordered_UTXOs(hashX_of(BOB))
        assert utxo.tx_hash == parent.hash
        assert (parent.hash, 0) in await mempool.potential_spends(hashX_of(BOB))
        assert (child.hash, 0) not in await mempool.potential_spends(hashX_of(BOB))


async def test_summaries_come_with_confirmed_inputs_first_then_by_displayed_hash(api):
    parents = [pay(api) for _ in range(20)]
    children = [pay(api, parent.spendables()[0]) for parent in parents]
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        summaries = await mempool.transaction_summaries(hashX_of(BOB))
        expected = sorted(tx.hex_hash for tx in parents) + sorted(tx.hex_hash for tx in children)
        assert [s.hash[::-1].hex() for s in summaries] == expected
        assert [s.has_unconfirmed_inputs for s in summaries] == [False] * 20 + [True] * 20


async def test_a_transaction_that_creates_more_than_it_spends_has_no_fee(api):
    tx = pay(api, value=50_000)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert mempool.txs[tx.hash].fee == 0


async def test_a_generation_like_input_is_left_out(api):
    tx = ModelTx([(bytes(32), 0xFFFFFFFF, b"", 0)], [(BOB, 5)])
    api.add(tx)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert mempool.txs[tx.hash] == MemPoolTx((), (), ((hashX_of(BOB), 5),), 0, tx.size)


async def test_sizes_are_virtual(api):
    source = api.add_utxo(ALICE, 10_000)
    tx = ModelTx([source], [(BOB, 1)], witness_bytes=107)
    api.add(tx)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert tx.size < len(tx.raw)
        assert mempool.txs[tx.hash].size == tx.size


# -- What comes and goes


async def test_a_confirmed_transaction_leaves_and_its_child_loses_its_unconfirmed_input(api):
    parent = pay(api)
    child = pay(api, parent.spendables()[0], ALICE)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        api.confirm([parent.hash])
        touched, height = await refreshed(api)
        assert height == 101
        assert touched == parent.hashXs()
        await check_against_model(mempool, {child.hash: child})


async def test_only_changed_scripts_are_touched(api):
    first = pay(api, script=b"first")
    async with synchronizing(COIN, api):
        assert (await first_refresh(api))[0] == first.hashXs()
        second = pay(api, script=b"second")
        assert (await refreshed(api))[0] == second.hashXs()
        assert (await refreshed(api))[0] == set()


async def test_transactions_the_node_no_longer_has_are_passed_over(api, caplog):
    kept, evicted = pay(api), pay(api)
    api.missing = {evicted.hash}
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {kept.hash: kept})
    assert "dropped" not in caplog.text


async def test_a_child_of_a_missing_transaction_is_dropped_and_taken_later(api, caplog):
    parent = pay(api)
    child = pay(api, parent.spendables()[0])
    grandchild = pay(api, child.spendables()[0])
    api.missing = {parent.hash}
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert mempool.txs == {}
        assert "2 txs dropped" in caplog.messages
        api.missing = set()
        await refreshed(api)
        await check_against_model(mempool, {tx.hash: tx for tx in (parent, child, grandchild)})


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00", b"\x01\x00\x00\x00\xff", b"\xff" * 300, bytes(10)], ids=repr
)
async def test_what_cannot_be_parsed_costs_only_itself(api, garbage):
    good, bad = pay(api), pay(api)
    api.garbled = {bad.hash: garbage}
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert good.hash in mempool.txs
        await check_against_model(mempool, {good.hash: good})


async def test_an_exception_of_a_coins_own_parser_costs_only_its_transaction(api):
    class Fragile:
        def __init__(self, raw):
            self.raw = raw

        def read_unconfirmed(self):
            if self.raw == bad.raw:
                raise ZeroDivisionError
            return COIN.DESERIALIZER(self.raw).read_unconfirmed()

    coin = type("FragileCoin", (COIN,), {"DESERIALIZER": Fragile})
    good, bad = pay(api), pay(api)
    async with synchronizing(coin, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {good.hash: good})


async def test_an_output_that_the_parent_does_not_have_defers_the_child(api, caplog):
    parent = pay(api)
    child = ModelTx([(parent.hash, 7, hashX_of(BOB), 1)], [(ALICE, 1)])
    api.add(child)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {parent.hash: parent})
        # The same once the parent has long been accepted.
        await refreshed(api)
        await check_against_model(mempool, {parent.hash: parent})
    assert caplog.messages.count("1 txs dropped") == 2


async def test_transactions_that_spend_each_other_are_dropped(api):
    one = pay(api)
    two = pay(api)
    # No hash can be made so, but a node may send anything.
    api.garbled = {
        one.hash: ModelTx([(two.hash, 0, b"", 0)], [(BOB, 1)]).raw,
        two.hash: ModelTx([(one.hash, 0, b"", 0)], [(BOB, 1)]).raw,
    }
    good = pay(api)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {good.hash: good})


async def test_entries_of_the_listing_that_are_no_hashes_are_ignored(api):
    tx = pay(api)
    listing = api.mempool_hashes

    async def with_nonsense():
        return ["", "zz", "00", "é" * 64, *await listing()]

    api.mempool_hashes = with_nonsense
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {tx.hash: tx})


async def test_only_prevouts_outside_the_mempool_are_looked_up_once_for_each_chunk(api):
    parent = pay(api)
    pay(api, parent.spendables()[0])
    asked = []
    lookup = api.lookup_utxos

    async def recording(prevouts):
        asked.append(set(prevouts))
        return await lookup(prevouts)

    api.lookup_utxos = recording
    async with synchronizing(COIN, api):
        await first_refresh(api)
    assert asked == [{parent.inputs[0][:2]}]


async def test_a_chain_of_thousands_takes_one_refresh_and_little_time(api):
    txs = [pay(api, api.add_utxo(ALICE, 10**9))]
    for _ in range(9_999):
        txs.append(pay(api, txs[-1].spendables()[0], fee=1))
    start = time.monotonic()
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert len(mempool.txs) == 10_000
    # Quadratic acceptance takes minutes.
    assert time.monotonic() - start < 30
    assert api.fetches == 10_000 / FETCH_CHUNK


async def test_every_state_seen_during_a_refresh_is_consistent(api, monkeypatch):
    # Each part of a loop is a time slice of its own.
    monkeypatch.setattr(tasks, "SLICE_SECS", 0.0)
    utxo = api.add_utxo(ALICE, 10**9)
    for n in range(1_000):
        utxo = pay(api, utxo, bytes([n % 7]), fee=1).spendables()[0]
    first = dict(api.txs)
    seen = set()

    def check(mempool):
        seen.add(len(mempool.txs))
        for hashX, tx_hashes in mempool.hashXs.items():
            assert tx_hashes
            assert all(hashX in mempool.txs[tx_hash].hashXs() for tx_hash in tx_hashes)
        count = sum(len(tx_hashes) for tx_hashes in mempool.hashXs.values())
        assert count == sum(len(tx.hashXs()) for tx in mempool.txs.values())

    async def watch(mempool, until):
        while not until.done():
            check(mempool)
            await asyncio.sleep(0)
        check(mempool)

    async with synchronizing(COIN, api) as mempool:
        await watch(mempool, asyncio.ensure_future(first_refresh(api)))
        await check_against_model(mempool, first)
        assert len(seen) > 3
        api.txs = {}
        for _ in range(10):
            pay(api)
        await watch(mempool, asyncio.ensure_future(refreshed(api)))
        await check_against_model(mempool, api.txs)


# -- In step with the database


async def test_nothing_happens_while_the_database_is_behind_and_it_wakes_the_refresh(api, caplog):
    caplog.set_level(logging.DEBUG)
    tx = pay(api)
    api.node_height = api.heard_height = 101
    async with synchronizing(COIN, api) as mempool:
        await eventually(lambda: "waiting for DB to sync" in caplog.text)
        assert mempool.txs == {}
        assert api.refreshes.empty()
        assert not mempool.event.is_set()
        api.database_height = 101
        # Well before the refresh time of an hour.
        FakeAPI.pulse(api.db_changed)
        assert await first_refresh(api) == (tx.hashXs(), 101)


async def test_equal_heights_with_different_tips_are_not_in_step(api, caplog):
    caplog.set_level(logging.DEBUG)
    pay(api)
    api.node_tip, api.database_tip = b"new", b"old"
    async with synchronizing(COIN, api) as mempool:
        await eventually(lambda: "waiting for DB to sync" in caplog.text)
        assert mempool.txs == {}
        api.database_tip = b"new"
        await refreshed(api)
        assert len(mempool.txs) == 1


async def test_a_tip_that_is_not_known_is_not_compared(api):
    api.node_tip = b"new"
    async with synchronizing(COIN, api):
        await first_refresh(api)


async def test_a_height_never_received_is_requested(api):
    api.heard_height = None
    async with synchronizing(COIN, api):
        assert (await first_refresh(api))[1] == 100


async def test_a_height_that_moves_while_listing_restarts_without_a_long_pause(api):
    listing = api.mempool_hashes

    async def moving():
        if api.listings == 0:
            api.node_height = api.database_height = 101
        return await listing()

    api.mempool_hashes = moving
    async with synchronizing(COIN, api):
        assert (await first_refresh(api))[1] == 101
    assert api.listings == 2


async def test_a_database_that_moves_while_fetching_accepts_nothing(api, caplog):
    caplog.set_level(logging.DEBUG)
    gone = pay(api, script=b"gone")
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        del api.txs[gone.hash]
        tx = pay(api, script=b"new")
        lookup = api.lookup_utxos

        async def moving(prevouts):
            api.database_height = 101
            return await lookup(prevouts)

        api.lookup_utxos = moving
        api.trigger()
        await eventually(lambda: "waiting for DB to sync" in caplog.text)
        assert mempool.txs == {}
        api.lookup_utxos = lookup
        api.set_height(101)
        # The hashXs that the failed refresh touched are not forgotten.
        assert await refreshed(api) == (gone.hashXs() | tx.hashXs(), 101)


# -- Blocks


@pytest.fixture
def with_tips(api):
    """The API, of a database that knows its tip and the confirmed transactions."""
    api.node_tip = api.database_tip = bytes(32)
    return api


async def told_of_block(api):
    api.announce_block()
    return await asyncio.wait_for(api.refreshes.get(), 60)


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


@pytest.fixture
def held_listings(with_tips):
    """An event; until it is set the node does not list its transactions again."""
    gate, listing = asyncio.Event(), with_tips.mempool_hashes
    gate.set()

    async def held():
        await gate.wait()
        return await listing()

    with_tips.mempool_hashes = held
    return gate


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


async def test_a_refresh_during_which_a_block_comes_adds_new_transactions(with_tips):
    api = with_tips
    mined, gone, kept = (pay(api) for _ in range(3))
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        late, listing = pay(api), api.mempool_hashes
        listed = asyncio.Event()

        async def moving():
            hashes = await listing()
            if listed.is_set():
                await asyncio.get_running_loop().create_future()
            listed.set()
            del api.txs[gone.hash]
            api.index_block([mined.hash])
            api.announce_block()
            return hashes

        api.mempool_hashes = moving
        api.trigger()
        await eventually(lambda: late.hash in mempool.txs)
        # Vanished transactions stay until a refresh at one tip.
        await check_against_model(mempool, {tx.hash: tx for tx in (gone, kept, late)})


async def test_maps_that_cannot_follow_the_database_are_dropped(
    with_tips, held_listings, monkeypatch
):
    monkeypatch.setattr(mempool_module, "LOST_SECS", 0.02)
    api = with_tips
    mined = pay(api)
    pay(api)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        held_listings.clear()
        api.index_block([mined.hash])
        api.confirmed.clear()
        await eventually(lambda: mempool.txs == {})
        held_listings.set()
        await eventually(lambda: set(mempool.txs) == set(api.txs))


async def test_a_load_that_a_block_interrupts_keeps_its_transactions(
    with_tips, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(refresher, "PORTION", 10)
    api = with_tips
    for _ in range(30):
        pay(api)
    raw_transactions = api.raw_transactions

    async def interrupted(hex_hashes):
        if api.fetches == 2:
            api.fetches += 1
            api.index_block(list(api.txs)[:1])
            api.announce_block()
            return [None] * len(hex_hashes)
        return await raw_transactions(hex_hashes)

    api.raw_transactions = interrupted
    async with synchronizing(COIN, api) as mempool:
        # Of the block; then of the refresh that goes on
        assert (await first_refresh(api))[1] == 101
        assert (await first_refresh(api))[1] == 101
        # Clients are notified first, and then the maps are put in order.
        await eventually(lambda: not mempool.index.leaving)
        assert len(mempool.txs) == 19
        await refreshed(api)
        await check_against_model(mempool, api.txs)
    assert "waiting for DB to sync" not in caplog.text


async def test_a_parent_in_a_later_portion_is_waited_for(api, monkeypatch, caplog):
    monkeypatch.setattr(refresher, "PORTION", 10)
    coin = api.add_utxo(ALICE, 10_000)
    chain = []
    for _ in range(45):
        chain.append(pay(api, coin, fee=1))
        (coin,) = chain[-1].spendables()
    api.txs = dict(reversed(api.txs.items()))
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {tx.hash: tx for tx in chain})
    assert "dropped" not in caplog.text


async def test_large_transactions_are_asked_for_a_few_at_a_time(api, monkeypatch):
    monkeypatch.setattr(fetcher, "FETCH_BYTES", 20_000)
    batches = []
    raw_transactions = api.raw_transactions

    async def recording(hex_hashes):
        batches.append(len(hex_hashes))
        return await raw_transactions(hex_hashes)

    api.raw_transactions = recording
    for _ in range(700):
        api.add(ModelTx([api.add_utxo(ALICE, 10)], [(b"x" * 250, 0)] * 20))
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        assert len(mempool.txs) == 700
    # 40 of the size expected at first
    assert batches[0] == 40
    assert set(batches[10:-1]) == {3}


# -- Failures of the node


async def test_a_daemon_error_is_logged_and_survived(api, caplog):
    tx = pay(api)
    listing = api.mempool_hashes

    async def broken():
        raise DaemonError({"code": -1, "message": "no listing"})

    api.mempool_hashes = broken
    async with synchronizing(COIN, api) as mempool:
        await eventually(lambda: "no listing" in caplog.text)
        api.mempool_hashes = listing
        await refreshed(api)
        await check_against_model(mempool, {tx.hash: tx})


async def test_when_one_chunk_fails_the_others_are_cancelled(api, caplog):
    for _ in range(FETCH_CHUNK * 3):
        pay(api)
    calls, cancelled = [], []
    raw_transactions = api.raw_transactions

    async def failing(hex_hashes):
        calls.append(hex_hashes)
        if len(calls) == 3:
            raise DaemonError({"code": -1, "message": "enough"})
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(hex_hashes)
            raise

    api.raw_transactions = failing
    async with synchronizing(COIN, api) as mempool:
        await eventually(lambda: "enough" in caplog.text)
        assert len(cancelled) == 2
        assert mempool.txs == {}
        assert not mempool.lock.locked()
        api.raw_transactions = raw_transactions
        await refreshed(api)
        await check_against_model(mempool, api.txs)


async def test_other_exceptions_end_keep_synchronized(api):
    async def broken():
        raise KeyError("a bug")

    api.mempool_hashes = broken
    mempool = MemPool(COIN, api)
    with pytest.raises(KeyError, match="a bug"):
        await asyncio.wait_for(mempool.keep_synchronized(asyncio.Event()), 60)


async def test_a_cancellation_that_comes_with_a_wake_up_is_not_lost(api):
    mempool = MemPool(COIN, api, refresh_secs=3600)
    task = asyncio.ensure_future(mempool.keep_synchronized(asyncio.Event()))
    await first_refresh(api)
    api.trigger()
    mempool.refresh_soon()
    task.cancel()
    done, _pending = await asyncio.wait([task], timeout=60)
    assert done
    assert task.cancelled()


async def test_cancelling_leaves_no_task_behind(api):
    before = asyncio.all_tasks()
    async with synchronizing(COIN, api):
        await first_refresh(api)
    assert asyncio.all_tasks() == before


# -- An API that overrides only the abstract methods


class PlainAPI(MemPoolAPI):
    """Has none of the optional parts."""

    def __init__(self, inner):
        self.inner = inner

    async def height(self):
        return await self.inner.height()

    def cached_height(self):
        return self.inner.cached_height()

    def db_height(self):
        return self.inner.db_height()

    async def mempool_hashes(self):
        return await self.inner.mempool_hashes()

    async def raw_transactions(self, hex_hashes):
        return await self.inner.raw_transactions(hex_hashes)

    async def lookup_utxos(self, prevouts):
        return await self.inner.lookup_utxos(prevouts)

    async def on_mempool(self, touched, height):
        await self.inner.on_mempool(touched, height)


async def test_without_wake_ups_the_refresh_time_decides(api):
    async with synchronizing(COIN, PlainAPI(api), refresh_secs=0.001) as mempool:
        await first_refresh(api)
        tx = pay(api)
        while tx.hash not in mempool.txs:
            await first_refresh(api)
    assert api.listings >= 2


async def test_the_event_is_pulsed_and_on_mempool_called_before_who_waits_runs(api):
    async with synchronizing(COIN, PlainAPI(api)) as mempool:
        await asyncio.wait_for(mempool.event.wait(), 60)
        assert api.refreshes.qsize() == 1
        assert not mempool.event.is_set()


async def test_an_api_must_be_one():
    with pytest.raises(AssertionError):
        MemPool(COIN, object())


# -- The log


async def test_progress_is_logged(api, caplog):
    caplog.set_level(logging.INFO)
    pay(api)
    async with synchronizing(COIN, api) as mempool:
        await asyncio.wait_for(mempool.event.wait(), 60)
        await eventually(lambda: "compact fee histogram" in caplog.text)
    assert "beginning processing of daemon mempool.  This can take some time..." in caplog.messages
    assert re.search(r"synced in \d+\.\d+s", caplog.text)
    assert "1 txs 0.00 MB touching 2 addresses" in caplog.messages
    assert "dropped" not in caplog.text


async def test_the_status_line_counts_the_bytes_of_the_present_transactions(api, caplog):
    caplog.set_level(logging.INFO)
    big = ModelTx([api.add_utxo(ALICE, 10)], [(b"x" * 250, n) for n in range(200)])
    api.add(big)
    async with synchronizing(COIN, api, log_status_secs=0) as mempool:
        await first_refresh(api)
        await eventually(lambda: "1 txs 0.05 MB touching 2 addresses" in caplog.messages)
        api.txs = {}
        await refreshed(api)
        await eventually(lambda: "0 txs 0.00 MB touching 0 addresses" in caplog.messages)
        assert mempool.index.total_size == 0


# -- The fee histogram

LUMPS = {22: 1, 21: 75, 20: 1, 19: 1, 18: 900, 12: 10_000, 11: 1, 10: 100}
LUMPS.update(dict.fromkeys(range(13, 18), 1))
LUMPS = {rate: size * 1000 for rate, size in LUMPS.items()}
LOW = {11: 50_000, 10.1: 1000, 10: 500_000, 1.2: 40_000, 1.1: 30_000, 1.0: 10_000_000}


@pytest.mark.parametrize(
    ("sizes", "bin_size", "expected"),
    [
        (LUMPS, 100_000, [(19, 78_000), (18, 900_000), (13, 5000), (12, 10_000_000)]),
        (
            LUMPS,
            30_000,
            [
                (22, 1000),
                (21, 75_000),
                (19, 2000),
                (18, 900_000),
                (13, 5000),
                (12, 10_000_000),
                (10, 101_000),
            ],
        ),
        (LOW, 100_000, [(10.1, 51_000), (10, 500_000), (1.1, 70_000), (1.0, 10_000_000)]),
        ({}, 30_000, []),
    ],
)
def test_the_histogram_of_known_fees_is_known(sizes, bin_size, expected):
    mempool = MemPool(COIN, FakeAPI())
    for n, (rate, size) in enumerate(sizes.items()):
        tx = MemPoolTx((), (), (), round(rate * 10) * size // 10, size)
        mempool.index.add_tx(bytes([n]), tx, set())
    mempool._update_histogram(bin_size)
    assert mempool.cached_compact_histogram == expected


@pytest.mark.parametrize(
    ("fee", "size", "rate"), [(199, 100, 1.9), (1, 1000, 0.0), (199, 1000, 0.1), (250, 100, 2.5)]
)
def test_fee_rates_are_rounded_down_to_tenths(fee, size, rate):
    index = MemPoolIndex()
    index.add_tx(b"x", MemPoolTx((), (), (), fee, size), set())
    assert compact_histogram(index.fee_histogram(), bin_size=1) == [(rate, size)]


async def test_the_histogram_is_served_after_a_refresh_and_renewed_later(api):
    class Coin(COIN):
        MEMPOOL_COMPACT_HISTOGRAM_BINSIZE = 10
        MEMPOOL_HISTOGRAM_REFRESH_SECS = 0

    first = pay(api, fee=8200)
    async with synchronizing(Coin, api) as mempool:
        await first_refresh(api)
        await eventually(lambda: mempool.cached_compact_histogram)
        rate = 10 * 8200 // first.size / 10
        assert await mempool.compact_fee_histogram() == [(rate, first.size)]
        pay(api, fee=820)
        await refreshed(api)
        await refreshed(api)
        await eventually(lambda: len(mempool.cached_compact_histogram) == 2)


async def test_computing_the_histogram_does_not_delay_a_refresh(api, monkeypatch):
    computing = asyncio.Event()

    async def never(func, *args):
        if func.__qualname__.startswith("FeeHistogram."):
            computing.set()
            await asyncio.get_running_loop().create_future()
        return func(*args)

    monkeypatch.setattr(fee_histogram.asyncio, "to_thread", never)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await asyncio.wait_for(computing.wait(), 60)
        tx = pay(api)
        await refreshed(api)
        assert tx.hash in mempool.txs
