"""Single transactions that enter or leave the node's mempool, between two listings of it."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool import arrival_task
from electrumx.server.mempool import arrivals as mempool_arrivals
from electrumx.server.mempool.arrival_task import ArrivalTask
from electrumx.server.mempool.arrivals import Arrivals, Report
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    ALICE,
    BOB,
    ModelTx,
    applied,
    by_hash,
    check_against_model,
    eventually,
    hold,
    notified,
    pay,
    refreshed,
    running,
    synchronizing,
)

LOGGER = logging.getLogger("arrivals")


@pytest.fixture
def api(with_tips):
    """The node and the database, which know their tips."""
    return with_tips


async def test_a_reported_transaction_is_added_and_notified_without_a_listing(api):
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        listings = api.listings
        tx = pay(api)
        mempool.entered(tx.hash)
        assert await notified(api) == tx.hashXs()
        await check_against_model(mempool, by_hash(tx))
        child = pay(api, tx.spendables()[0], ALICE)
        mempool.entered(child.hash)
        assert await notified(api) == child.hashXs()
        await check_against_model(mempool, by_hash(tx, child))
        assert api.listings == listings
        assert await refreshed(api) == (set(), 100)


async def test_reports_that_come_together_are_one_batch_in_any_order(api):
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        parent = pay(api)
        child = pay(api, parent.spendables()[0], ALICE)
        for tx in (child, parent):
            mempool.entered(tx.hash)
        assert await notified(api) == parent.hashXs() | child.hashXs()
        await check_against_model(mempool, by_hash(parent, child))
        assert api.fetches == 1


async def test_a_replacement_removes_the_replaced_transaction_and_its_descendants(api):
    coin = api.add_utxo(ALICE, 10_000)
    replaced = pay(api, coin, b"replaced")
    child = pay(api, replaced.spendables()[0], b"child")
    other = pay(api)
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        del api.txs[replaced.hash], api.txs[child.hash]
        tx = pay(api, coin, b"replacement", fee=500)
        mempool.entered(tx.hash)
        assert await notified(api) == replaced.hashXs() | child.hashXs() | tx.hashXs()
        await check_against_model(mempool, by_hash(other, tx))


async def test_a_raw_transaction_that_came_with_the_report_is_not_fetched(api):
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        tx = pay(api)
        mempool.entered(tx.hash, tx.raw)
        assert await notified(api) == tx.hashXs()
        await check_against_model(mempool, by_hash(tx))
        assert api.fetches == 0


async def test_a_transaction_that_the_node_removed_goes_with_its_descendants(api):
    tx, kept = pay(api), pay(api)
    child = pay(api, tx.spendables()[0], b"child")
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        mempool.left(tx.hash)
        assert await notified(api) == tx.hashXs() | child.hashXs()
        await check_against_model(mempool, by_hash(kept))


async def test_a_transaction_that_the_node_does_not_have_is_not_added(api, monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "RETRY_SECS", (0.001, 0.001))
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        mempool.entered(bytes(32))
        await eventually(lambda: api.fetches == 3)
        await applied(mempool)
        await check_against_model(mempool, {})
        assert api.fetches == 3
        assert api.refreshes.empty()


async def test_a_node_that_verifies_after_it_accepted_is_asked_again(api, monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "RETRY_SECS", (0.001,))
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        tx = pay(api)
        api.missing = {tx.hash}
        mempool.entered(tx.hash)
        await eventually(lambda: api.fetches == 1)
        api.missing = set()
        assert await notified(api) == tx.hashXs()
        await check_against_model(mempool, by_hash(tx))


async def test_a_confirmed_transaction_is_not_added(api):
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        tx = pay(api)
        api.index_block([tx.hash])
        api.announce_block()
        await notified(api)
        # As a node with an index of transactions does.
        api.raw_tx = lambda _tx_hash: tx.raw
        mempool.entered(tx.hash)
        await eventually(lambda: api.fetches == 1)
        await applied(mempool)
        await check_against_model(mempool, {})
        assert api.refreshes.empty()


async def test_a_block_while_the_inputs_are_looked_up_makes_it_begin_again(api):
    lookup, looked_up = api.lookup_utxos, []

    async def with_a_block(prevouts):
        found = await lookup(prevouts)
        if not looked_up:
            looked_up.append(prevouts)
            api.index_block([tx.hash])
        return found

    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        api.lookup_utxos = with_a_block
        tx = pay(api)
        other = pay(api)
        for each in (tx, other):
            mempool.entered(each.hash, each.raw)
        await eventually(lambda: mempool.arrivals.has_unresolved())
        await check_against_model(mempool, {})
        api.announce_block()
        # Of the block, which found nothing of it here
        assert await notified(api) == set()
        assert await notified(api) == other.hashXs()
        await check_against_model(mempool, by_hash(other))


async def test_a_transaction_that_spends_from_a_block_not_yet_indexed_waits_for_it(api):
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        funding = ModelTx([api.add_utxo(ALICE, 10_000)], [(BOB, 9_000)])
        spend = ModelTx(funding.spendables(), [(ALICE, 8_000)])
        api.add(spend)
        mempool.entered(spend.hash)
        await eventually(lambda: mempool.arrivals.has_unresolved())
        txs = dict(api.txs)
        api.txs.clear()
        api.index_block(others=[funding])
        api.txs.update(txs)
        api.announce_block()
        assert await notified(api) == set()
        assert await notified(api) == spend.hashXs()
        await check_against_model(mempool, by_hash(spend))


async def test_a_daemon_error_loses_the_report_and_the_listing_finds_it(api):
    raw_transactions = api.raw_transactions
    failed = asyncio.Event()

    async def failing(_hex_hashes):
        failed.set()
        raise DaemonError({"code": -1, "message": "busy"})

    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        tx = pay(api)
        api.raw_transactions = failing
        mempool.entered(tx.hash)
        await failed.wait()
        api.raw_transactions = raw_transactions
        assert await refreshed(api) == (tx.hashXs(), 100)
        await check_against_model(mempool, by_hash(tx))


async def test_more_reports_than_are_kept_make_the_mempool_be_listed(api, monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "MAX_REPORTS", 3)
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        txs = [pay(api) for _ in range(5)]
        for tx in txs:
            mempool.entered(tx.hash)
        hashXs = set()
        while len(mempool.txs) < 5:
            hashXs |= await notified(api)
        await check_against_model(mempool, by_hash(*txs))


# -- Without a mempool


@asynccontextmanager
async def applying(state, fetcher, refresh_soon=lambda: None):
    """A queue whose reports are applied to the state for as long as the block lasts."""
    arrivals = Arrivals()
    async with running(ArrivalTask(state, arrivals, fetcher, refresh_soon, LOGGER).run()):
        yield arrivals


async def test_a_daemon_error_is_logged_and_the_next_batch_is_applied(state, fetcher, api, caplog):
    caplog.set_level(logging.DEBUG)

    async def failing(_hex_hashes):
        raise DaemonError({"code": -1, "message": "busy"})

    api.raw_transactions = failing
    lost, tx = pay(api), pay(api)
    async with applying(state, fetcher) as arrivals:
        arrivals.report(lost.hash, Report(True))
        await eventually(lambda: "ignoring daemon error: " in caplog.text)
        arrivals.report(tx.hash, Report(True, tx.raw))
        assert await notified(api) == tx.hashXs()
    assert state.index.txs.keys() == {tx.hash}
    assert "busy" in caplog.text


async def test_reports_that_were_dropped_make_the_node_be_asked(state, fetcher, api, monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "MAX_REPORTS", 1)
    asked = []
    first, second, dropped = (pay(api, script=script) for script in (b"first", b"second", b"third"))
    async with applying(state, fetcher, lambda: asked.append("listing")) as arrivals:
        arrivals.report(first.hash, Report(True, first.raw))
        assert await notified(api) == first.hashXs()
        assert asked == []
        for tx in (second, dropped):
            arrivals.report(tx.hash, Report(True, tx.raw))
        assert await notified(api) == second.hashXs()
        assert asked == ["listing"]
        # Once, also if the node is not listed for a while.
        arrivals.report(dropped.hash, Report(True, dropped.raw))
        assert await notified(api) == dropped.hashXs()
        assert asked == ["listing"]


async def test_a_batch_is_bounded(state, fetcher, api, monkeypatch):
    monkeypatch.setattr(arrival_task, "ARRIVALS", 2)
    txs = [pay(api, script=bytes([n])) for n in range(3)]
    async with applying(state, fetcher) as arrivals:
        for tx in txs:
            arrivals.report(tx.hash, Report(True, tx.raw))
        assert await notified(api) == txs[0].hashXs() | txs[1].hashXs()
        assert await notified(api) == txs[2].hashXs()


async def test_changes_are_recorded_for_a_listing_under_way(state, fetcher, api):
    coin = api.add_utxo(ALICE, 10_000)
    replaced, removed = pay(api, coin, b"replaced"), pay(api)
    hold(state, replaced, removed)
    tx = pay(api, coin, b"replacement", fee=500)
    async with applying(state, fetcher) as arrivals:
        arrivals.report(tx.hash, Report(True, tx.raw))
        arrivals.report(removed.hash, Report(False))
        await notified(api)
    assert arrivals.entered_since == {tx.hash}
    assert arrivals.left_since == {replaced.hash, removed.hash}


async def test_nothing_is_added_while_the_database_is_at_another_tip(state, fetcher, api):
    tx = pay(api)
    api.index_block()
    async with applying(state, fetcher) as arrivals:
        arrivals.report(tx.hash, Report(True, tx.raw))
        await eventually(arrivals.has_unresolved)
        assert state.index.txs == {}
        state.move_to_database()
        arrivals.database_moved()
        assert await notified(api) == tx.hashXs()
    assert state.index.txs.keys() == {tx.hash}
