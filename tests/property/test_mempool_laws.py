"""Whatever happens in the node's mempool, after a refresh the index equals a naive model of it."""

import asyncio
import random
from contextlib import asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.mempool.index import MemPoolIndex, compact_histogram
from electrumx.server.mempool.sync import MemPoolTx
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    FakeAPI,
    ModelTx,
    applied,
    check_against_model,
    check_answers,
    first_refresh,
    refreshed,
    synchronizing,
    told_of_block,
)

SCRIPTS = [bytes([n]) * (n % 40) for n in range(12)]


class Wallets:
    """Makes random events in a FakeAPI's node."""

    def __init__(self, api, rng):
        self.api = api
        self.rng = rng
        self.coins = [api.add_utxo(rng.choice(SCRIPTS), rng.randrange(10**9)) for _ in range(5)]

    def outputs_of(self, value):
        """Random outputs of at most value, or a little more."""
        outputs = []
        for _ in range(self.rng.randint(1, 4)):
            part = self.rng.randint(0, max(1, value // 2))
            outputs.append((self.rng.choice(SCRIPTS), part))
            value -= part
        return outputs

    def pay(self):
        """Add a transaction that spends a few coins, confirmed or not."""
        rng = self.rng
        if not self.coins or rng.random() < 0.1:
            self.coins.append(self.api.add_utxo(rng.choice(SCRIPTS), rng.randrange(10**9)))
        rng.shuffle(self.coins)
        inputs = [
            self.coins.pop() for _ in range(min(len(self.coins), rng.choice([1, 1, 1, 2, 5])))
        ]
        tx = ModelTx(inputs, self.outputs_of(sum(i[3] for i in inputs)), rng.choice([0, 0, 1, 107]))
        self.api.add(tx)
        self.coins.extend(tx.spendables())
        return tx

    def chain(self, length):
        """Add a chain of transactions each of which spends the one before."""
        coin = self.api.add_utxo(SCRIPTS[1], 10**9)
        for _ in range(length):
            tx = ModelTx([coin], [(self.rng.choice(SCRIPTS), coin[3] - 1)])
            self.api.add(tx)
            (coin,) = tx.spendables()

    def shuffle(self):
        items = list(self.api.txs.items())
        self.rng.shuffle(items)
        self.api.txs = dict(items)

    def _with_descendants(self, tx_hash):
        gone, added = {tx_hash}, True
        while added:
            more = {
                tx.hash
                for tx in self.api.txs.values()
                if tx.hash not in gone and any(prev_hash in gone for prev_hash, *_ in tx.inputs)
            }
            added = bool(more)
            gone |= more
        return gone

    def evict(self):
        """Remove a transaction and all that depend on it; return the removed one."""
        if not self.api.txs:
            return None
        victim = self.api.txs[self.rng.choice(list(self.api.txs))]
        gone = self._with_descendants(victim.hash)
        removed = [self.api.txs.pop(tx_hash) for tx_hash in gone]
        self.coins = [coin for coin in self.coins if coin[0] not in gone]
        for tx in removed:
            self.coins.extend(i for i in tx.inputs if i[0] not in gone)
        return victim

    def replace(self):
        """Remove a transaction and add another that spends the same and pays more."""
        victim = self.evict()
        if victim:
            self.coins = [coin for coin in self.coins if coin not in victim.inputs]
            tx = ModelTx(victim.inputs, self.outputs_of(sum(i[3] for i in victim.inputs) // 2))
            self.api.add(tx)
            self.coins.extend(tx.spendables())

    def mine(self):
        """Confirm some transactions, and whatever they depend on."""
        self.api.confirm(self.chosen())

    def chosen(self):
        """Hashes of transactions for a block."""
        chosen = {tx_hash for tx_hash in self.api.txs if self.rng.random() < 0.3}
        pending = list(chosen)
        while pending:
            for prev_hash, *_ in self.api.txs[pending.pop()].inputs:
                if prev_hash in self.api.txs and prev_hash not in chosen:
                    chosen.add(prev_hash)
                    pending.append(prev_hash)
        return chosen

    def withhold(self):
        """Let the node list some transactions without having them."""
        self.api.missing = {h for h in self.api.txs if self.rng.random() < 0.2}

    def garble(self):
        """Let the node send nonsense for some transactions."""
        self.api.garbled = {
            h: tx.raw[: self.rng.randrange(len(tx.raw))]
            for h, tx in self.api.txs.items()
            if self.rng.random() < 0.2
        }


def acceptable(api, accepted):
    """The transactions of the mempool after a refresh if it held ``accepted`` before."""
    result = {h: tx for h, tx in api.txs.items() if h in accepted}
    bad = api.missing | set(api.garbled)
    progress = True
    while progress:
        progress = False
        for tx in api.txs.values():
            if tx.hash in result or tx.hash in bad:
                continue
            if all(
                i[0] in result if i[0] in api.txs else (i[0], i[1]) in api.utxos for i in tx.inputs
            ):
                result[tx.hash] = tx
                progress = True
    return result


@asynccontextmanager
async def wallets_of(seed, tip=None):
    """Wallets, their FakeAPI with a tip, and a mempool that has refreshed once."""
    rng = random.Random(seed)
    api = FakeAPI(tip)
    wallets = Wallets(api, rng)
    async with synchronizing(COIN, api) as mempool:
        await first_refresh(api)
        yield wallets, api, mempool


async def run_events(seed, rounds):
    rng = random.Random(seed)
    api = FakeAPI()
    wallets = Wallets(api, rng)
    accepted = {}
    async with synchronizing(COIN, api) as mempool:
        touched, height = await first_refresh(api)
        assert touched == set()
        for events in rounds:
            api.missing, api.garbled = set(), {}
            for event in events:
                getattr(wallets, event)()
            wallets.shuffle()
            before = accepted
            accepted = acceptable(api, before)
            touched, height = await refreshed(api)
            assert height == api.node_height
            await check_against_model(mempool, accepted)
            changed = {**before, **accepted}
            for tx_hash in set(before) & set(accepted):
                del changed[tx_hash]
            assert touched == set().union(*(tx.hashXs() for tx in changed.values()))


EVENTS = st.sampled_from(
    ["pay"] * 8 + ["evict", "replace", "replace", "mine", "withhold", "garble"]
)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rounds=st.lists(st.lists(EVENTS, max_size=25), min_size=1, max_size=8),
)
def test_all_queries_equal_the_naive_model_after_each_refresh(seed, rounds):
    asyncio.run(run_events(seed, rounds))


async def run_blocks(seed, rounds):
    async with wallets_of(seed, tip=bytes(32)) as (wallets, api, mempool):
        for events in rounds:
            for event in events:
                getattr(wallets, event)()
            await refreshed(api)
            before = dict(api.txs)
            mined = wallets.chosen()
            coins = [coin for coin in wallets.coins if coin[:2] in api.utxos]
            spent = [i for tx in before.values() for i in tx.inputs if i[:2] in api.utxos]
            others = [
                ModelTx([coin], wallets.outputs_of(coin[3]))
                for coin in wallets.rng.sample(coins + spent, min(2, len(coins + spent)))
            ]
            # A block does not spend an output twice.
            taken = {i[:2] for tx_hash in mined for i in before[tx_hash].inputs}
            others = [tx for tx in others if tx.inputs[0][:2] not in taken]
            listings = api.listings
            api.index_block(mined, others)
            wallets.coins = [c for c in wallets.coins if c[:2] in api.utxos or c[0] in api.txs]
            if wallets.rng.random() < 0.7:
                # Looked at while it is written, or while that is beginning
                api.process_block()
                await asyncio.sleep(wallets.rng.choice([0, 0.003]))
            touched, height = await told_of_block(api)
            assert (height, api.listings) == (api.node_height, listings)
            # The same as the node's mempool, by other means; at once, though not yet in the maps
            await check_answers(mempool, api.txs)
            await check_against_model(mempool, api.txs)
            gone = [tx for tx_hash, tx in before.items() if tx_hash not in api.txs]
            assert touched == set().union(*(tx.hashXs() for tx in gone))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rounds=st.lists(
        st.lists(st.sampled_from(["pay", "pay", "pay", "evict", "replace"]), max_size=25),
        min_size=1,
        max_size=6,
    ),
)
def test_a_block_leaves_the_same_transactions_as_the_node(seed, rounds):
    asyncio.run(run_blocks(seed, rounds))


class Reporter:
    """Reports what happens in a FakeAPI's node, as ZMQ and broadcasts do."""

    def __init__(self, api, mempool, rng):
        self.api, self.mempool, self.rng = api, mempool, rng

    def happen(self, event, *, loss=0.0):
        """Call event() and report the added and removed transactions; return the added ones."""
        before = dict(self.api.txs)
        event()
        came = [tx for tx_hash, tx in self.api.txs.items() if tx_hash not in before]
        for tx_hash in before:
            if tx_hash not in self.api.txs and self.rng.random() >= loss:
                self.mempool.left(tx_hash)
        for tx in came:
            if self.rng.random() >= loss:
                self.mempool.entered(tx.hash, tx.raw if self.rng.random() < 0.5 else None)
        return came


async def run_reports(seed, rounds):
    async with wallets_of(seed, tip=bytes(32)) as (wallets, api, mempool):
        reporter = Reporter(api, mempool, wallets.rng)
        for events in rounds:
            listings, before, touched = api.listings, dict(api.txs), set()
            for event in events:
                reporter.happen(getattr(wallets, event))
            await applied(mempool)
            await check_against_model(mempool, api.txs)
            assert api.listings == listings
            while not api.refreshes.empty():
                more, height = api.refreshes.get_nowait()
                assert height == api.node_height
                touched |= more
            changed = {**before, **api.txs}
            for tx_hash in set(before) & set(api.txs):
                del changed[tx_hash]
            # Those that came and went within a batch are no change.
            assert touched >= set().union(*(tx.hashXs() for tx in changed.values()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rounds=st.lists(
        st.lists(st.sampled_from(["pay", "pay", "pay", "evict", "replace"]), max_size=15),
        min_size=1,
        max_size=3,
    ),
)
def test_reports_alone_make_the_mempool_like_the_nodes(seed, rounds):
    asyncio.run(run_reports(seed, rounds))


async def run_anything(seed, steps):
    async with wallets_of(seed, tip=bytes(32)) as (wallets, api, mempool):
        reporter = Reporter(api, mempool, wallets.rng)
        for step in steps:
            if step == "refresh":
                api.trigger()
            elif step == "block":
                api.index_block(wallets.chosen())
                wallets.coins = [c for c in wallets.coins if c[:2] in api.utxos or c[0] in api.txs]
                if wallets.rng.random() < 0.5:
                    api.process_block()
                    await asyncio.sleep(0)
                api.announce_block()
            elif step == "wait":
                await asyncio.sleep(wallets.rng.choice([0, 0, 0.002, 0.03]))
            elif step == "stale":
                # Reported once more, long after; or never true at all
                known = [*api.txs, *(outpoint[0] for outpoint in api.utxos), bytes(32)]
                mempool.entered(wallets.rng.choice(known))
            else:
                reporter.happen(getattr(wallets, step), loss=0.2)
        await applied(mempool)
        while not api.refreshes.empty():
            api.refreshes.get_nowait()
        # Whatever came before, a listing of the node's puts it right.
        listings = api.listings
        while api.listings == listings or mempool.lock.locked():
            api.trigger()
            await asyncio.sleep(0.001)
        for _ in range(2):
            await refreshed(api)
        await check_against_model(mempool, api.txs)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(
        st.sampled_from(
            ["pay"] * 6
            + ["wait"] * 4
            + ["evict", "replace", "replace", "refresh", "block", "stale"]
        ),
        max_size=40,
    ),
)
def test_reports_refreshes_and_blocks_in_any_order_end_as_a_listing_does(seed, steps):
    asyncio.run(run_anything(seed, steps))


async def run_chains(seed, lengths):
    async with wallets_of(seed) as (wallets, api, mempool):
        for length in lengths:
            wallets.chain(length)
        wallets.shuffle()
        await refreshed(api)
        await check_against_model(mempool, api.txs)
        # A block takes the beginning of each chain.
        wallets.mine()
        await refreshed(api)
        await check_against_model(mempool, api.txs)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(150, 700), min_size=1, max_size=3))
def test_chains_of_hundreds_in_any_order_are_accepted_in_one_refresh(seed, lengths):
    asyncio.run(run_chains(seed, lengths))


@settings(max_examples=200, deadline=None)
@given(
    fees=st.lists(st.tuples(st.integers(0, 10**6), st.integers(60, 10**6)), max_size=200),
    bin_size=st.integers(1, 10**6),
)
def test_a_compact_histogram_falls_and_counts_no_byte_twice(fees, bin_size):
    index = MemPoolIndex()
    for n, (fee, size) in enumerate(fees):
        index.add_tx(n.to_bytes(32, "big"), MemPoolTx((), (), (), fee, size), set())
    histogram = compact_histogram(index.fee_histogram(), bin_size=bin_size)
    rates = [rate for rate, _size in histogram]
    assert rates == sorted(set(rates), reverse=True)
    # Each bin ends at a rate that exists, and together they are all that pays as much or more.
    total = 0
    for rate, size in histogram:
        total += size
        assert total == sum(s for fee, s in fees if (10 * fee // s) / 10 >= rate)
