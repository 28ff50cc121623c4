"""Candidates for the mempool: fetched in batches, parsed, with the outputs that they spend."""

import asyncio

import pytest

from electrumx.lib.hash import hex_str_to_hash
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool import fetcher as fetcher_module
from electrumx.server.mempool.acceptance import CandidateParser, Candidates
from electrumx.server.mempool.fetcher import FETCH_CHUNK, FETCH_WORKERS, CandidateFetcher
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    ALICE,
    FakeAPI,
    ModelTx,
    check_against_model,
    eventually,
    first_refresh,
    pay,
    refreshed,
    synchronizing,
)


class CountingAPI(FakeAPI):
    """Records the sizes of batches, and how many are in flight."""

    def __init__(self, txs):
        super().__init__()
        self.node_txs = txs
        self.batches = []
        self.in_flight = self.most_in_flight = 0
        self.looked_up = []

    async def raw_transactions(self, hex_hashes):
        self.batches.append(len(hex_hashes))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        for _ in range(3):
            await asyncio.sleep(0)
        self.in_flight -= 1
        return [self.node_txs.get(hex_str_to_hash(hex_hash)) for hex_hash in hex_hashes]

    async def lookup_utxos(self, prevouts):
        self.looked_up.append(set(prevouts))
        return [(b"hashX", 5) if prevout[1] else None for prevout in prevouts]


def raw_tx(number, prev_hash, prev_idx, *, size=0):
    """A transaction that spends one output, of any length."""
    script = bytes([number % 256]) * size
    length = b"\xfe" + len(script).to_bytes(4, "little")
    outputs = b"\x01" + number.to_bytes(8, "little") + length + script
    return (
        b"\x01\0\0\0\x01" + prev_hash + prev_idx.to_bytes(4, "little") + b"\0" + b"\xff" * 4
    ) + (outputs + b"\0" * 4)


async def in_thread(func, *args):
    return func(*args)


def fetcher_over(api):
    return CandidateFetcher(api, CandidateParser(COIN), in_thread)


def txs_spending(prev_hash, count, **options):
    return {n.to_bytes(32, "big"): raw_tx(n, prev_hash, n + 1, **options) for n in range(count)}


async def fetch(api, listed=frozenset()):
    candidates = Candidates()
    await fetcher_over(api).fetch(list(api.node_txs), listed, candidates)
    return candidates


async def test_batches_are_bounded_and_so_is_their_number_in_flight():
    api = CountingAPI(txs_spending(b"\xaa" * 32, 20 * FETCH_CHUNK))
    candidates = await fetch(api)

    assert candidates.txs.keys() == api.node_txs.keys()
    assert max(api.batches) <= FETCH_CHUNK
    assert api.most_in_flight == FETCH_WORKERS


async def test_batches_of_large_transactions_are_smaller(monkeypatch):
    monkeypatch.setattr(fetcher_module, "FETCH_BYTES", 50_000)
    monkeypatch.setattr(fetcher_module, "FETCH_WORKERS", 1)
    api = CountingAPI(txs_spending(b"\xaa" * 32, 300, size=5_000))
    await fetch(api)

    # The first batch is sized by a guess, the others by its average.
    assert set(api.batches[1:-1]) == {9}


async def test_only_outputs_of_confirmed_transactions_are_looked_up():
    confirmed, unconfirmed = b"\xaa" * 32, b"\xbb" * 32
    api = CountingAPI({b"1" * 32: raw_tx(1, confirmed, 7), b"2" * 32: raw_tx(2, unconfirmed, 0)})
    candidates = await fetch(api, listed={unconfirmed})

    assert set().union(*api.looked_up) == {(confirmed, 7)}
    assert candidates.utxos == {(confirmed, 7): (b"hashX", 5)}


async def test_missing_and_invalid_transactions_and_outputs_are_left_out():
    api = CountingAPI(
        {b"1" * 32: None, b"2" * 32: b"no transaction", b"3" * 32: raw_tx(3, b"\xaa" * 32, 0)}
    )
    candidates = await fetch(api)

    assert candidates.txs.keys() == {b"3" * 32}
    assert candidates.utxos == {}


async def test_an_error_of_the_node_ends_all_batches():
    class FailingAPI(CountingAPI):
        async def raw_transactions(self, hex_hashes):
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await fetch(FailingAPI(txs_spending(b"\xaa" * 32, 10)))


# -- Within a mempool


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


async def test_large_transactions_are_asked_for_a_few_at_a_time(api, monkeypatch):
    monkeypatch.setattr(fetcher_module, "FETCH_BYTES", 20_000)
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
