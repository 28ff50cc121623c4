"""The compact histogram of fee rates: its bins, and when it is computed."""

import asyncio
import logging

import pytest

from electrumx.server.mempool import fee_histogram
from electrumx.server.mempool.fee_histogram import FeeHistogram
from electrumx.server.mempool.index import MemPoolIndex, compact_histogram
from electrumx.server.mempool.sync import MemPool, MemPoolTx
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    FakeAPI,
    eventually,
    first_refresh,
    pay,
    refreshed,
    running,
    synchronizing,
)
from tests.fakes.virtual_time import run_in_virtual_time

LOGGER = logging.getLogger("fee histogram")

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


# -- Without a mempool


class SmallBins(COIN):
    MEMPOOL_COMPACT_HISTOGRAM_BINSIZE = 10
    MEMPOOL_HISTOGRAM_REFRESH_SECS = 30


def index_of(*fees):
    """An index with transactions of 100 virtual bytes that pay these fees."""
    index = MemPoolIndex()
    for number, fee in enumerate(fees):
        index.add_tx(bytes([number]), MemPoolTx((), (), (), fee, 100), set())
    return index


def test_an_update_replaces_the_histogram_at_once(caplog):
    caplog.set_level(logging.INFO)
    histogram = FeeHistogram(index_of(100, 500), SmallBins, LOGGER)
    assert histogram.compact == []
    histogram.update(10)
    assert histogram.compact == [(5.0, 100), (1.0, 100)]
    histogram.update(150)
    assert histogram.compact == [(1.0, 200)]
    assert caplog.messages[-1] == "compact fee histogram: [(1.0, 200)]"


def test_the_histogram_is_computed_after_a_refresh_and_again_only_after_the_pause():
    async def main():
        index, refreshed_now = index_of(500), asyncio.Event()
        histogram = FeeHistogram(index, SmallBins, LOGGER)
        async with running(histogram.run(refreshed_now)):
            await asyncio.sleep(100)
            assert histogram.compact == []
            FakeAPI.pulse(refreshed_now)
            await asyncio.sleep(29)
            assert histogram.compact == [(5.0, 100)]
            index.add_tx(b"later", MemPoolTx((), (), (), 100, 100), set())
            # Within the pause, so that the next refresh counts
            FakeAPI.pulse(refreshed_now)
            await asyncio.sleep(2)
            assert histogram.compact == [(5.0, 100)]
            FakeAPI.pulse(refreshed_now)
            await asyncio.sleep(1)
            assert histogram.compact == [(5.0, 100), (1.0, 100)]

    run_in_virtual_time(main())
