"""Scripts with many unconfirmed transactions: answered as others are, from threads, and once."""

import asyncio
import hashlib
import random

import pytest

from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.server.mempool import script_views as mempool_scripts
from electrumx.server.mempool.index import MemPoolIndex, MemPoolTx
from electrumx.server.mempool.script_views import UTXOsView
from electrumx.server.session.methods import scripthash
from tests.fakes.session_world import make_tx_hash, script_hash, session_world, until, utxo

SH, HASHX = script_hash("alice")
BOB_SH, BOB = script_hash("bob")
METHODS = [
    "blockchain.scripthash.get_balance",
    "blockchain.scripthash.get_history",
    "blockchain.scripthash.get_mempool",
    "blockchain.scripthash.listunspent",
    "blockchain.scripthash.subscribe",
]


class Index(MemPoolIndex):
    """A mempool whose transactions a test adds, and which remembers nothing else."""

    def __init__(self, count, seed=1):
        super().__init__()
        self.rng = random.Random(seed)
        self.histogram = []
        for number in range(count):
            self.put(number)

    def put(self, name):
        """Add a transaction that spends some output, of another one here or not, to Alice."""
        tx_hash = double_sha256(repr(name).encode())
        parent = self.rng.choice(list(self.txs) or [bytes(32)])
        free = [(parent, n) for n in range(2) if (parent, n) not in self.spenders]
        if not free or self.rng.random() < 0.5:
            free = [(make_tx_hash("confirmed", name), 0)]
        outputs = ((HASHX, self.rng.randrange(10**6)), (BOB, 5))
        tx = MemPoolTx((free[0],), ((HASHX, 700),), outputs, self.rng.randrange(9000), 200)
        self.add_tx(tx_hash, tx, set())
        return tx_hash

    def take(self, tx_hash):
        """Remove a transaction."""
        self.remove_tx(tx_hash, set())

    @property
    def index(self):
        return self

    async def compact_fee_histogram(self):
        return []

    def entered(self, tx_hash):
        """Do nothing: there is no node here."""


async def answers(world, client):
    """Return the result of each method; items without an order are sorted."""
    result = {}
    for method in METHODS:
        result[method] = await client.request(method, SH)
    result[METHODS[3]].sort(key=repr)
    return result


@pytest.fixture
async def world():
    async with session_world(cost_hard_limit=0, mempool=Index(40)) as result:
        result.db.histories[HASHX] = [(make_tx_hash("a"), 3), (make_tx_hash("b"), 4)]
        result.db.utxos[HASHX] = [utxo("a", 10**9)]
        yield result


@pytest.fixture
def everything_large(monkeypatch):
    monkeypatch.setattr(mempool_scripts, "LARGE_TXS", 3)
    monkeypatch.setattr(mempool_scripts, "SORTED_AT_ONCE", 3)


async def test_a_large_script_is_answered_like_any_other(world, monkeypatch):
    index = world.mempool
    client = await world.connect()
    rng = random.Random(2)
    for _ in range(4):
        ordinary = await answers(world, client)
        assert not index.large.are_cached
        with monkeypatch.context() as patch:
            patch.setattr(mempool_scripts, "LARGE_TXS", 3)
            patch.setattr(mempool_scripts, "SORTED_AT_ONCE", 3)
            large = await answers(world, client)
            assert await answers(world, client) == large
            assert index.large.are_cached
        assert large == ordinary
        # A parent that goes changes the height of its child, which need not touch the script.
        index.take(rng.choice(list(index.txs)))
        index.put(rng.random())
        index.leaving = dict.fromkeys(rng.sample(list(index.txs), 2))
        index.large.clear()


async def test_a_status_is_that_of_the_whole_history(world, everything_large):
    client = await world.connect()
    history = await client.request("blockchain.scripthash.get_history", SH)
    text = "".join(f"{item['tx_hash']}:{item['height']}:" for item in history)
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert await client.request("blockchain.scripthash.subscribe", SH) == expected
    unconfirmed = await client.request("blockchain.scripthash.get_mempool", SH)
    assert history[2:] == unconfirmed
    assert len(unconfirmed) == 40


async def test_subscribers_share_one_computation(everything_large, monkeypatch):
    made = []
    history_view = mempool_scripts.history_view

    def counted(*args):
        made.append(args)
        return history_view(*args)

    monkeypatch.setattr(mempool_scripts, "history_view", counted)
    index = Index(40)
    async with session_world(cost_hard_limit=0, mempool=index) as world:
        clients = [await world.connect() for _ in range(5)]
        statuses = await asyncio.gather(
            *(client.request("blockchain.scripthash.subscribe", SH) for client in clients)
        )
        assert len(set(statuses)) == 1
        assert len(made) == 1
        index.put("another")
        await world.touch(HASHX)
        told = [(await client.notification())[1] for client in clients]
        assert len({status for _script, status in told}) == 1
        assert told[0][1] != statuses[0]
        assert len(made) == 2


@pytest.mark.parametrize("method", METHODS)
async def test_a_block_while_a_view_is_made_makes_the_answer_one_of_the_new_tip(
    world, everything_large, method, monkeypatch
):
    index = world.mempool
    confirmed = next(h for h, tx in index.txs.items() if tx.prevouts[0][0] not in index.txs)
    client = await world.connect()
    # In memory, so that nothing but the view is waited for
    for each in METHODS[:4]:
        await client.request(each, BOB_SH)
        await client.request(each, SH)
    index.large.clear()
    views = index.large.utxos if method in (METHODS[0], METHODS[3]) else index.large.histories
    begun, go_on = [], asyncio.Event()
    get = views.get

    async def held(*args):
        view = await get(*args)
        begun.append(view)
        await go_on.wait()
        return view

    monkeypatch.setattr(views, "get", held)
    waiting = asyncio.create_task(client.request(method, SH))
    await until(lambda: begun)
    index.take(confirmed)
    world.db.histories[HASHX].append((confirmed, world.db.db_height + 1))
    world.db.utxos[HASHX].append(utxo("new", 77, tx_num=9))
    await world.new_block([HASHX])
    go_on.set()
    got = await waiting
    assert len(begun) == 2
    monkeypatch.undo()
    expected = await client.request(method, SH)
    if method == METHODS[3]:
        got.sort(key=repr)
        expected.sort(key=repr)
    assert got == expected


# -- The cache


@pytest.fixture
def index(everything_large):
    return Index(40)


async def test_views_are_dropped_only_by_transactions_that_change_them(index):
    large = index.large
    other = MemPoolTx((), (), ((b"x" * 11, 1),), 0, 100)
    view = await large.history(HASHX)
    index.add_tx(b"o" * 32, other, set())
    assert await large.history(HASHX) is view
    # A child of the other one: its script has not changed, but the view of it has.
    child = MemPoolTx(((b"p" * 32, 0),), ((b"y" * 11, 1),), ((HASHX, 1),), 0, 100)
    index.add_tx(b"c" * 32, child, set())
    view = await large.history(HASHX)
    index.add_tx(b"p" * 32, other, set())
    assert large.histories.ready(HASHX) is None
    after = await large.history(HASHX)
    line = f"{hash_to_hex_str(b'c' * 32)}:-1:".encode()
    assert line in after.status_text
    assert line not in view.status_text
    coins = await large.unspent(HASHX)
    index.leaving = {b"c" * 32: None}
    assert (await large.unspent(HASHX)).delta == coins.delta - 1
    assert (await large.history(HASHX)).count == view.count - 1


async def test_a_view_that_failed_is_made_again(index, monkeypatch):
    results = [OSError("no"), UTXOsView(5, [], set())]

    def make(_hashX, _tx_hashes):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(index.large.utxos, "make", make)
    with pytest.raises(OSError, match="no"):
        await index.large.unspent(HASHX)
    assert (await index.large.unspent(HASHX)).delta == 5


async def test_a_script_that_changes_all_the_time_is_answered_all_the_same(index, monkeypatch):
    made = []
    loop = asyncio.get_running_loop()

    def make(_hashX, tx_hashes):
        made.append(tx_hashes)
        # Before the loop learns that this thread has ended
        loop.call_soon_threadsafe(index.put, len(made) + 1000)
        return UTXOsView(len(made), [], set())

    monkeypatch.setattr(index.large.utxos, "make", make)
    assert (await index.large.unspent(HASHX)).delta == mempool_scripts.TRIES


async def test_what_is_cached_is_bounded_in_transactions(index, monkeypatch):
    monkeypatch.setattr(mempool_scripts, "MAX_CACHED_TXS", 79)
    await index.large.history(HASHX)
    await index.large.history(BOB)
    assert index.large.histories.ready(HASHX) is None
    assert index.large.histories.ready(BOB) is not None


@pytest.mark.parametrize(("txs", "pairs", "large"), [(2, 9, False), (4, 9, True), (2, 5, True)])
def test_many_outputs_make_a_script_large_as_well(monkeypatch, txs, pairs, large):
    index = Index(txs)
    # Three each
    monkeypatch.setattr(mempool_scripts, "LARGE_TXS", 3)
    monkeypatch.setattr(mempool_scripts, "LARGE_PAIRS", pairs)
    assert index.large.is_large(HASHX) == large
    assert not index.large.is_large(b"unknown".ljust(11))


async def test_unspent_outputs_of_a_large_script_that_cannot_be_sent_are_not_encoded(
    world, everything_large, monkeypatch
):
    made = []
    monkeypatch.setattr(scripthash, "_unspent", lambda *args: made.append(args))
    client = await world.connect()
    world.manager.shared.oversized.max_send = 100
    code, message = await client.error("blockchain.scripthash.listunspent", SH)
    assert (code, message) == (-32600, "response too large (over 100 bytes")
    assert not made
