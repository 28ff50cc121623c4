"""The mempool as a whole: its queries, its tasks and its log, against a scripted node and database."""

import asyncio
import logging
import os
import re

import pytest

from electrumx.server.mempool import script_views as mempool_scripts
from electrumx.server.mempool import sync as mempool_module
from electrumx.server.mempool.sync import MemPool, MemPoolAPI
from tests.fakes.chain import COIN, hashX_of
from tests.fakes.fake_mempool import (
    ALICE,
    BOB,
    FakeAPI,
    ModelTx,
    by_hash,
    check_against_model,
    eventually,
    first_refresh,
    notified,
    pay,
    refreshed,
    synchronizing,
)

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


async def test_answers_about_large_scripts_follow_reports_and_blocks(with_tips, monkeypatch):
    api = with_tips
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


# -- Tasks


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
