"""Single transactions that enter or leave the node's mempool, between two listings of it."""

import asyncio

import pytest

from electrumx.lib.coins import Coin
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool import arrivals as mempool_arrivals
from electrumx.server.mempool import script_views as mempool_scripts
from electrumx.server.mempool.arrivals import Arrivals, Report
from tests.fakes.fake_mempool import (
    FakeAPI,
    ModelTx,
    check_against_model,
    hashX_of,
    refreshed,
    synchronizing,
)

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
ALICE, BOB = b"\x51", b"\x52\x52"
WAIT_SECS = 120


@pytest.fixture
def api():
    result = FakeAPI()
    result.node_tip = result.database_tip = bytes(32)
    return result


def pay(api, source=None, script=BOB, fee=100):
    """Add a transaction to the node that spends source, or a new confirmed output of Alice."""
    source = source or api.add_utxo(ALICE, 10_000)
    tx = ModelTx([source], [(script, source[3] - fee)])
    api.add(tx)
    return tx


async def notified(api):
    """Return the hashXs of the next notification."""
    touched, height = await asyncio.wait_for(api.refreshes.get(), WAIT_SECS)
    assert height == api.database_height
    return touched


def by_hash(*txs):
    return {tx.hash: tx for tx in txs}


async def eventually(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), WAIT_SECS)


async def applied(mempool):
    """Wait until all reports have been applied."""
    await eventually(lambda: not mempool.arrivals.event.is_set())
    # The next batch is taken only when this one is done.
    mempool.left(bytes(32))
    await eventually(lambda: not mempool.arrivals.event.is_set())


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


# -- Refreshes


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


async def test_a_listing_from_before_the_report_does_not_remove_the_transaction(api):
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
async def test_a_listing_from_before_the_report_does_not_bring_back_a_transaction(api, reported):
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


async def test_a_transaction_replaced_while_it_is_fetched_is_not_added(api):
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


async def test_answers_about_large_scripts_follow_reports_and_blocks(api, monkeypatch):
    monkeypatch.setattr(mempool_scripts, "LARGE_TXS", 1)
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        txs = [pay(api, script=ALICE) for _ in range(5)]
        for tx in txs:
            mempool.entered(tx.hash)
        await notified(api)
        await check_against_model(mempool, by_hash(*txs))
        view = await mempool.index.large.history(hashX_of(ALICE))
        assert view.count == 5
        api.index_block([txs[0].hash])
        api.announce_block()
        await notified(api)
        # Of the new block at once, though it may not be out of the maps yet
        assert (await mempool.index.large.history(hashX_of(ALICE))).count == 4
        await check_against_model(mempool, by_hash(*txs[1:]))


# -- Bounds


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


async def test_raw_transactions_that_wait_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "MAX_RAW_BYTES", 100)
    arrivals = Arrivals()
    for number in range(3):
        arrivals.report(bytes([number]), Report(True, bytes(40)))
    assert arrivals.overflowed
    # A later report of the same transaction replaces the earlier one.
    arrivals.report(bytes([0]), Report(False))
    arrivals.report(bytes([2]), Report(True, bytes(60)))
    assert list(arrivals.take(2)) == [bytes([1]), bytes([0])]
    assert arrivals.event.is_set()
    assert list(arrivals.take(2)) == [bytes([2])]
    assert not arrivals.event.is_set()
    arrivals.report(bytes([3]), Report(True, bytes(100)))
    assert list(arrivals.take(9)) == [bytes([3])]
