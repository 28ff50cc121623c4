"""Refreshes: listings, the transactions that come and go by them, and the failures of the node."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from electrumx.lib import tasks
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool import refresher
from electrumx.server.mempool.arrivals import Arrivals
from electrumx.server.mempool.lag import MempoolLag
from electrumx.server.mempool.refresher import Refresher
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    ALICE,
    FakeAPI,
    by_hash,
    check_against_model,
    eventually,
    first_refresh,
    hold,
    notified,
    pay,
    refreshed,
    running,
    synchronizing,
)

LOGGER = logging.getLogger("refresher")

# -- Transactions that come and go


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


async def test_entries_of_the_listing_that_are_no_hashes_are_ignored(api):
    tx = pay(api)
    listing = api.mempool_hashes

    async def with_nonsense():
        return ["", "zz", "00", "é" * 64, *await listing()]

    api.mempool_hashes = with_nonsense
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        await check_against_model(mempool, {tx.hash: tx})


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


# -- Single reports during a refresh


class HeldListing:
    """Holds the node's listing back once it has been made."""

    def __init__(self, api):
        self.made, self.go_on = asyncio.Event(), asyncio.Event()
        self._hashes = api.mempool_hashes
        api.mempool_hashes = self

    async def __call__(self):
        result = await self._hashes()
        self.made.set()
        await self.go_on.wait()
        return result


async def test_a_listing_from_before_the_report_does_not_remove_the_transaction(with_tips):
    api = with_tips
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        listing = HeldListing(api)
        api.trigger()
        await listing.made.wait()
        tx = pay(api)
        mempool.entered(tx.hash)
        assert await notified(api) == tx.hashXs()
        listing.go_on.set()
        assert await notified(api) == set()
        await check_against_model(mempool, by_hash(tx))
        # But the next one does, if the node no longer has it.
        api.txs.clear()
        assert await refreshed(api) == (tx.hashXs(), 100)
        await check_against_model(mempool, {})


@pytest.mark.parametrize("reported", ["replacement", "left"])
async def test_a_listing_from_before_the_report_does_not_bring_back_a_transaction(
    with_tips, reported
):
    api = with_tips
    coin = api.add_utxo(ALICE, 10_000)
    old = pay(api, coin, b"old")
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        listing = HeldListing(api)
        api.trigger()
        await listing.made.wait()
        left = {}
        if reported == "left":
            mempool.left(old.hash)
            assert await notified(api) == old.hashXs()
        else:
            new = pay(api, coin, b"new", fee=500)
            left[new.hash] = new
            mempool.entered(new.hash)
            assert await notified(api) == old.hashXs() | new.hashXs()
        # The node still gives it, as one that has replaced it in a branch of the chain may.
        listing.go_on.set()
        assert await notified(api) == set()
        await check_against_model(mempool, left)


async def test_a_transaction_replaced_while_it_is_fetched_is_not_added(with_tips):
    api = with_tips
    coin = api.add_utxo(ALICE, 10_000)
    raw_transactions = api.raw_transactions
    fetched, go_on = asyncio.Event(), asyncio.Event()

    async def held(hex_hashes):
        result = await raw_transactions(hex_hashes)
        fetched.set()
        await go_on.wait()
        return result

    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        old = pay(api, coin, b"old")
        child = pay(api, old.spendables()[0], b"child")
        other = pay(api)
        api.raw_transactions = held
        api.trigger()
        await fetched.wait()
        del api.txs[old.hash], api.txs[child.hash]
        new = pay(api, coin, b"new", fee=500)
        # Twice, once through the report and once through the listing
        for tx in (new, other):
            mempool.entered(tx.hash, tx.raw)
        assert await notified(api) == new.hashXs() | other.hashXs()
        go_on.set()
        assert await notified(api) == set()
        await check_against_model(mempool, by_hash(new, other))


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


# -- Without a mempool


@pytest.fixture
def alone(state, fetcher):
    """A refresher of the state, which refreshes once and then when it is woken."""
    lag, wake = MempoolLag(LOGGER, 3600), asyncio.Event()
    part = Refresher(state, Arrivals(), fetcher, lag, wake=wake, refresh_secs=3600, logger=LOGGER)
    event = asyncio.Event()
    return SimpleNamespace(part=part, lag=lag, wake=wake, event=event, run=lambda: part.run(event))


async def test_a_refresh_at_the_tip_removes_and_adds_and_makes_the_maps_complete(state, alone):
    api = state.api
    gone, kept, new = (pay(api, script=script) for script in (b"gone", b"kept", b"new"))
    hold(state, gone, kept)
    del api.txs[gone.hash]
    pulsed = asyncio.create_task(alone.event.wait())
    async with running(alone.run()):
        assert await first_refresh(api) == (gone.hashXs() | new.hashXs(), 100)
        assert pulsed.done()
    assert state.index.txs.keys() == {kept.hash, new.hash}
    assert state.is_complete
    assert api.partial_heights == []
    assert not alone.event.is_set()
    assert not alone.lag.is_behind()
    assert alone.part.histogram.count == 1


async def test_a_refresh_during_which_the_tip_moves_adds_only_and_is_repeated_soon(state, alone):
    api = state.api
    gone, mined, new = (pay(api, script=script) for script in (b"gone", b"mined", b"new"))
    hold(state, gone, mined)
    del api.txs[gone.hash]
    listing = api.mempool_hashes

    async def moving():
        hashes = await listing()
        if api.listings == 1:
            api.index_block([mined.hash])
        return hashes

    api.mempool_hashes = moving
    async with running(alone.run()):
        assert await first_refresh(api) == (new.hashXs(), 100)
        assert state.index.txs.keys() == {gone.hash, mined.hash, new.hash}
        assert not state.is_complete
        assert api.partial_heights == [100]
        assert alone.lag.is_behind()
        # At the tip of both
        assert await first_refresh(api) == (gone.hashXs() | mined.hashXs(), 101)
    assert state.index.txs.keys() == {new.hash}
    assert state.is_complete
    assert api.partial_heights == [100]


async def test_the_wake_event_ends_the_pause(state, alone):
    api = state.api
    async with running(alone.run()):
        assert await first_refresh(api) == (set(), 100)
        tx = pay(api)
        alone.wake.set()
        assert await first_refresh(api) == (tx.hashXs(), 100)


async def test_a_wake_during_a_refresh_causes_another_one(state, alone):
    api = state.api
    listing = api.mempool_hashes

    async def waking():
        hashes = await listing()
        if api.listings == 1:
            late.append(pay(api))
            alone.wake.set()
        return hashes

    late = []
    api.mempool_hashes = waking
    async with running(alone.run()):
        assert await first_refresh(api) == (set(), 100)
        assert await first_refresh(api) == (late[0].hashXs(), 100)
    assert api.listings == 2


async def test_the_number_of_transactions_read_is_known_while_they_are_read(
    state, alone, monkeypatch
):
    monkeypatch.setattr(refresher, "PORTION", 2)
    api, part = state.api, alone.part
    for _ in range(3):
        pay(api)
    raw_transactions, seen = api.raw_transactions, []

    async def noted(hex_hashes):
        seen.append((part.is_reading(), part.reading()))
        return await raw_transactions(hex_hashes)

    api.raw_transactions = noted
    assert not part.is_reading()
    async with running(alone.run()):
        await first_refresh(api)
        assert seen == [(True, "0 of 3"), (True, "2 of 3")]
        assert not part.is_reading()
        assert part.reading() == "3 of 3"


async def test_a_failure_ends_the_reading(state, alone, caplog):
    api = state.api
    pay(api)

    async def failing(_hex_hashes):
        raise DaemonError({"code": -1, "message": "busy"})

    api.raw_transactions = failing
    async with running(alone.run()):
        await eventually(lambda: "busy" in caplog.text)
        assert not alone.part.is_reading()
    assert alone.part.histogram.count == 0


async def test_a_block_undone_while_transactions_are_read_makes_the_refresh_incomplete(
    state, alone
):
    api = state.api
    tx = pay(api)
    raw_transactions = api.raw_transactions

    async def undoing(hex_hashes):
        # As a step does
        state.note_loss()
        return await raw_transactions(hex_hashes)

    api.raw_transactions = undoing
    async with running(alone.run()):
        assert await first_refresh(api) == (tx.hashXs(), 100)
        assert not state.is_complete
        assert await first_refresh(api) == (set(), 100)
    assert state.is_complete
    assert api.partial_heights == [100]


async def test_maps_dropped_while_transactions_are_read_make_the_refresh_incomplete(state, alone):
    api = state.api
    kept, tx = pay(api), pay(api)
    hold(state, kept)
    raw_transactions, tip = api.raw_transactions, api.database_tip

    async def dropping(hex_hashes):
        api.database_tip = b"another tip, which no step leads to"
        await state.drop_if_lost()
        api.database_tip = tip
        return await raw_transactions(hex_hashes)

    api.raw_transactions = dropping
    async with running(alone.run()):
        await first_refresh(api)
        assert (set(state.index.txs), state.is_complete) == ({tx.hash}, False)
        api.raw_transactions = raw_transactions
        await first_refresh(api)
    assert (set(state.index.txs), state.is_complete) == ({kept.hash, tx.hash}, True)


async def test_a_transaction_that_a_step_confirms_while_it_is_read_is_not_added(state, alone):
    api = state.api
    mined, new = pay(api, script=b"mined"), pay(api, script=b"new")
    lookup = api.lookup_utxos

    async def stepping(prevouts):
        found = await lookup(prevouts)
        api.index_block([mined.hash])
        state.steps.append(state.next_step())
        state.move_to_database()
        return found

    api.lookup_utxos = stepping
    async with running(alone.run()):
        assert await first_refresh(api) == (new.hashXs(), 101)
    assert state.index.txs.keys() == {new.hash}
