"""New transactions, parsed and given their inputs: those accepted, and those that are not."""

import time

import pytest

from electrumx.server.mempool.fetcher import FETCH_CHUNK
from electrumx.server.mempool.sync import MemPoolTx
from tests.fakes.chain import COIN, hashX_of
from tests.fakes.fake_mempool import (
    ALICE,
    BOB,
    ModelTx,
    check_against_model,
    first_refresh,
    pay,
    refreshed,
    synchronizing,
)


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
