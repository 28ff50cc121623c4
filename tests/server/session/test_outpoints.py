"""Requests about outpoints, and notifications of subscribers; their laws are tested elsewhere."""

import asyncio
from array import array

import pytest

from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.daemon.client import DaemonError
from electrumx.server.notifications import Confirmed
from electrumx.server.session.shared import outpoint_cache, outpoint_status
from electrumx.server.session.shared.outpoint_cache import BlockChanges, OnChain
from electrumx.server.session.shared.outpoint_status import Status
from tests.fakes.chain import COIN
from tests.fakes.session_world import FakeCoin, make_tx_hash, session_world, until

SUBSCRIBE, STATUS, UNSUBSCRIBE = (
    f"blockchain.outpoint.{verb}" for verb in ("subscribe", "get_status", "unsubscribe")
)
P, F, S, S2 = (make_tx_hash(name) for name in ("P", "F", "S", "S2"))
TXIDS = {name: hash_to_hex_str(tx_hash) for name, tx_hash in zip("PF", (P, F), strict=True)}
ABSENT = {"code": -5, "message": "No such mempool or blockchain transaction."}


class OutpointCoin(FakeCoin):
    DESERIALIZER = COIN.DESERIALIZER


@pytest.fixture
async def world():
    """A server whose node has no transactions but those that a test gives it."""
    async with session_world(
        coin=OutpointCoin, node=("submitpackage", "testmempoolaccept"), cost_hard_limit=0
    ) as world:
        world.daemon.errors["getrawtransaction"] = ABSENT
        yield world


@pytest.fixture
async def client(world):
    """A wallet that speaks protocol 1.7."""
    client = await world.connect()
    await client.request("server.version", "x", "1.7")
    return client


async def told(world, client):
    """Return the client's notifications since the last time, once all of it has been sent."""
    await world.manager.shared.outpoints.tell()
    await client.request("server.ping")
    found = [item["params"] for item in client.notifications if item["method"] == SUBSCRIBE]
    client.notifications.clear()
    return found


def change(world, **statuses):
    """Have the mempool say something else of the outpoints P:0 and F:0."""
    for name, has in statuses.items():
        outpoint = {"P": P, "F": F}[name], 0
        world.mempool.outpoints[outpoint] = has
        world.mempool.watch.touch_tx(outpoint[0], ())


def answer(height, spender=None, spender_height=None):
    if spender is None:
        return {"funder_height": height}
    txid = hash_to_hex_str(spender)
    return {"funder_height": height, "spender_txhash": txid, "spender_height": spender_height}


async def mine(world, *txs, fork=0):
    """Add a block with transactions: hash -> what each spends."""
    before = world.db.db_tip
    world.db.add_block(fork, txs=0)
    hashes = b"".join(tx_hash for tx_hash, _prevouts in txs)
    spent = b"".join(h + n.to_bytes(4, "little") for _tx_hash, prevouts in txs for h, n in prevouts)
    counts = [len(prevouts) for _tx_hash, prevouts in txs]
    step = Confirmed(
        world.db.db_height, world.db.db_tip, hashes, spent, spend_counts=array("I", counts)
    )
    world.bp.confirmed[before] = step
    for tx_hash, prevouts in txs:
        world.db.utxo_rows[tx_hash, 0] = world.db.db_height
        for prevout in prevouts:
            world.db.utxo_rows.pop(prevout, None)
    await world.manager.notifier.notify(world.db.db_height, set())


async def test_the_life_of_an_outpoint(world, client):
    """The table of a node's life: P pays F, F:0 is watched, S spends it; P:0 is watched too."""
    for name in "FP":
        assert {} == await client.request(SUBSCRIBE, TXIDS[name].upper(), 0, "")
    # 1: P and F are in the mempool.
    change(world, P=(0, F, -1), F=(-1, None, None))
    assert sorted([[TXIDS["F"], 0, answer(-1)], [TXIDS["P"], 0, answer(0, F, -1)]]) == sorted(
        await told(world, client)
    )
    # 2: S too.
    change(world, F=(-1, S, -1))
    assert [[TXIDS["F"], 0, answer(-1, S, -1)]] == await told(world, client)
    # 3: P is mined; its spender has no unconfirmed inputs any more: sent of both.
    world.mempool.outpoints = {(P, 0): (None, F, 0), (F, 0): (0, S, -1)}
    await mine(world, (P, []))
    height = world.db.db_height
    assert sorted(
        [[TXIDS["F"], 0, answer(0, S, -1)], [TXIDS["P"], 0, answer(height, F, 0)]]
    ) == sorted(await told(world, client))
    # 4: F is mined.
    world.mempool.outpoints = {(F, 0): (None, S, 0)}
    await mine(world, (F, [(P, 0)]))
    assert sorted(
        [
            [TXIDS["F"], 0, answer(height + 1, S, 0)],
            [TXIDS["P"], 0, answer(height, F, height + 1)],
        ]
    ) == sorted(await told(world, client))
    # 5: S is mined, which does not concern P:0.
    world.mempool.outpoints = {}
    await mine(world, (S, [(F, 0)]))
    assert [[TXIDS["F"], 0, answer(height + 1, S, height + 2)]] == await told(world, client)
    # Nothing twice
    await world.touch()
    assert [] == await told(world, client)
    # 6: two blocks are undone.
    world.mempool.outpoints = {(P, 0): (None, F, 0), (F, 0): (0, S, -1)}
    tip = world.db.db_tip
    for tx_hash in (F, S):
        world.db.utxo_rows.pop((tx_hash, 0), None)
    world.db.utxo_rows[P, 0] = height
    world.bp.undo(2)
    world.bp.end_reorg()
    world.bp.confirmed[tip] = Confirmed(height, world.db.db_tip, b"", b"", undone=True)
    await world.manager.notifier.notify(height, set())
    assert sorted(
        [[TXIDS["F"], 0, answer(0, S, -1)], [TXIDS["P"], 0, answer(height, F, 0)]]
    ) == sorted(await told(world, client))
    # 7: S is replaced.
    change(world, F=(0, S2, -1))
    assert [[TXIDS["F"], 0, answer(0, S2, -1)]] == await told(world, client)
    # 8: F and S2 are mined together.
    world.mempool.outpoints = {}
    await mine(world, (F, [(P, 0)]), (S2, [(F, 0)]))
    height += 1
    world.daemon.errors.clear()
    # F:0 was never seen unspent: it has to be looked up.
    spender = spending(world, (F, 0), height)
    assert [TXIDS["P"], 0, answer(height - 1, F, height)] in await told(world, client)
    del spender
    assert [True, False] == [await client.request(UNSUBSCRIBE, TXIDS["P"], 0) for _ in range(2)]


def spending(world, outpoint, height):
    """Have history and node know a transaction that spends an outpoint; return its hash."""
    script = b"\x51"
    funder = Tx(1, [TxInput(bytes(32), 0, b"", 0)], [TxOutput(5, script)], 0)
    spender = Tx(1, [TxInput(*outpoint, b"", 0)], [TxOutput(5, script)], 0)
    tx_hash = double_sha256(spender.serialize())
    hashX = world.env.coin.hashX_from_script(script)
    world.db.histories[hashX] = [(outpoint[0], height), (tx_hash, height)]
    world.daemon.txs[hash_to_hex_str(outpoint[0])] = funder.serialize().hex()
    world.daemon.txs[hash_to_hex_str(tx_hash)] = spender.serialize().hex()
    return tx_hash


async def test_what_a_history_knows_needs_no_index_of_the_node(world, client):
    world.daemon.errors.clear()
    spender = spending(world, (F, 0), 7)
    expected = answer(7, spender, 7)
    for hint in ("", "51", "6a", "abcd"):
        assert expected == await client.request(STATUS, TXIDS["F"], 0, hint)
    # The second time it is known.
    calls = len(world.daemon.calls)
    assert expected == await client.request(SUBSCRIBE, TXIDS["F"], 0, "51")
    assert calls == len(world.daemon.calls)
    assert {} == await client.request(STATUS, TXIDS["F"], 1, "51")
    assert {} == await client.request(STATUS, TXIDS["F"], 2**80, "51")


async def test_the_nodes_index_is_asked_where_there_is_one(world, client):
    world.manager.shared.protocol.has_spender_index = True
    world.daemon.errors.clear()
    spender = spending(world, (F, 0), 7)

    async def gettxspendingprevout(txid, txout_idx):
        world.daemon.calls.append(("gettxspendingprevout", txid, txout_idx))
        return {"txid": txid, "vout": txout_idx, "spendingtxid": hash_to_hex_str(spender)}

    world.daemon.gettxspendingprevout = gettxspendingprevout
    assert answer(7, spender, 7) == await client.request(STATUS, TXIDS["F"], 0, "")
    assert ["getrawtransaction", "gettxspendingprevout"] == [c[0] for c in world.daemon.calls]


@pytest.mark.parametrize("outcome", ["no index", "not spent"])
async def test_where_the_nodes_index_knows_no_spender_the_history_is_searched(
    world, client, outcome
):
    world.manager.shared.protocol.has_spender_index = True
    world.daemon.errors.clear()
    spender = spending(world, (F, 0), 7)

    async def gettxspendingprevout(txid, txout_idx):
        if outcome == "not spent":
            return {"txid": txid, "vout": txout_idx}
        text = f"No spending tx for the outpoint {txid}:{txout_idx} in mempool, and "
        raise DaemonError({"code": -1, "message": text + "txospenderindex is unavailable."})

    world.daemon.gettxspendingprevout = gettxspendingprevout
    assert answer(7, spender, 7) == await client.request(STATUS, TXIDS["F"], 0, "")


async def test_an_output_that_cannot_be_spent_is_found_by_its_block(world, client):
    world.daemon.errors.clear()
    tx = Tx(1, [TxInput(bytes(32), 0, b"", 0)], [TxOutput(0, b"\x6a")], 0)
    block_hash = hash_to_hex_str(double_sha256(world.db.headers[5]))
    world.daemon.txs[TXIDS["F"]] = tx.serialize().hex()
    world.daemon.blocks = {TXIDS["F"]: block_hash}
    world.daemon.heights = {block_hash: 5}
    assert answer(5) == await client.request(STATUS, TXIDS["F"], 0, "6a")
    # A block that we do not have is none.
    world.manager.shared.outpoint_cache.lose(-1)
    world.daemon.heights = {block_hash: 6}
    assert {} == await client.request(STATUS, TXIDS["F"], 0, "6a")


@pytest.mark.parametrize("what", ["no transaction", "another block"])
async def test_a_node_on_another_branch_does_not_make_an_output_disappear(world, client, what):
    """It does not know transactions of our chain, and may come back to that."""
    height = world.db.db_height
    world.daemon.branch = {height: "00" * 32}
    if what == "another block":
        tx = Tx(1, [TxInput(bytes(32), 0, b"", 0)], [TxOutput(0, b"\x6a")], 0)
        world.daemon.errors.clear()
        world.daemon.txs[TXIDS["F"]] = tx.serialize().hex()
        world.daemon.blocks = {TXIDS["F"]: "00" * 32}
        world.daemon.heights = {"00" * 32: height}
    request = asyncio.ensure_future(client.request(STATUS, TXIDS["F"], 0, ""))
    await until(lambda: ("block_hex_hashes", height, 1) in world.daemon.calls)
    world.daemon.branch = {}
    world.daemon.errors.clear()
    spender = spending(world, (F, 0), 7)
    await world.new_block()
    assert answer(7, spender, 7) == await request


async def test_a_status_is_no_subscription_and_does_not_disturb_one(world, client):
    world.mempool.outpoints[F, 0] = (0, None, None)
    assert answer(0) == await client.request(STATUS, TXIDS["F"], 0, "")
    assert 0 == len(world.manager.shared.outpoints)
    assert answer(0) == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    change(world, F=(0, S, 0))
    assert answer(0, S, 0) == await client.request(STATUS, TXIDS["F"], 0, "")
    assert [[TXIDS["F"], 0, answer(0, S, 0)]] == await told(world, client)


async def test_an_outpoint_subscribed_to_again_is_answered_again_whatever_the_hint(world, client):
    for hint in ("", "51", "6a"):
        assert {} == await client.request(SUBSCRIBE, TXIDS["F"], 0, hint)
    assert 1 == world.session(0).sub_count()
    change(world, F=(0, None, None))
    assert answer(0) == await client.request(SUBSCRIBE, TXIDS["F"], 0, "ab")
    # The answer had the status.
    assert [] == await told(world, client)
    change(world, F=(0, S, 0))
    assert [[TXIDS["F"], 0, answer(0, S, 0)]] == await told(world, client)
    assert [True, False] == [await client.request(UNSUBSCRIBE, TXIDS["F"], 0) for _ in range(2)]
    change(world, F=(0, S2, 0))
    assert [] == await told(world, client)


async def test_an_outpoint_subscribed_to_while_a_block_is_taken_over_is_true_of_it(
    world, client, monkeypatch
):
    """The block spends it, and is being read for those that were subscribed to before."""
    world.db.utxo_rows[F, 0] = 3
    # Something is watched, so that blocks are read at all.
    assert {} == await client.request(SUBSCRIBE, TXIDS["P"], 0, "")
    reading, go_on = asyncio.Event(), asyncio.Event()
    to_thread = asyncio.to_thread

    async def slow_to_thread(func, *args):
        result = await to_thread(func, *args)
        if func == BlockChanges.of_step:
            reading.set()
            await go_on.wait()
        return result

    monkeypatch.setattr(asyncio, "to_thread", slow_to_thread)
    world.daemon.errors.clear()
    height = world.db.db_height + 1
    spender = spending(world, (F, 0), height)
    world.db.histories[world.env.coin.hashX_from_script(b"\x51")][0] = (F, 3)
    mining = asyncio.ensure_future(mine(world, (spender, [(F, 0)])))
    await asyncio.wait_for(reading.wait(), 30)
    expected = answer(3, spender, height)
    assert expected == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    go_on.set()
    await mining
    assert [] == await told(world, client)
    # And it is computed again, and cached.
    statuses = world.manager.shared.outpoint_statuses
    await until(lambda: statuses.cached((F, 0)) == OnChain(3, spender, height))
    assert [] == await told(world, client)


async def test_no_notification_is_sent_before_the_answer_or_after_the_end(world, client):
    stall = world.daemon.stall = asyncio.Event()
    del world.daemon.errors["getrawtransaction"]
    world.daemon.txs[TXIDS["F"]] = Tx(1, [TxInput(P, 0, b"", 0)], [], 0).serialize().hex()
    request = asyncio.ensure_future(client.ask(SUBSCRIBE, TXIDS["F"], 0, ""))
    await until(lambda: any(call[0] == "getrawtransaction" for call in world.daemon.calls))
    change(world, F=(0, None, None))
    await world.manager.shared.outpoints.tell()
    stall.set()
    # The status is that of the moment of the answer, whatever was worked out before.
    assert answer(0) == (await request)["result"]
    assert [] == client.notifications
    assert [] == await told(world, client)
    await client.close()
    await until(lambda: len(world.manager.shared.outpoints) == 0)
    assert not world.mempool.watch


async def test_an_error_of_the_node_is_returned_and_no_subscription_made(world, client):
    error = {"code": -1, "message": "a hiccup"}
    world.daemon.errors["getrawtransaction"] = error
    text = f"daemon error: {DaemonError(error)!r}"
    for method in (SUBSCRIBE, STATUS):
        assert (2, text) == await client.error(method, TXIDS["F"], 0, "")
    assert 0 == len(world.manager.shared.outpoints)
    assert False is await client.request(UNSUBSCRIBE, TXIDS["F"], 0)


async def test_a_node_that_errs_in_a_round_ends_no_session(world, client):
    assert {} == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    world.daemon.errors["getrawtransaction"] = {"code": -1, "message": "a hiccup"}
    world.manager.shared.outpoint_cache.lose(-1)
    change(world, F=(0, None, None))
    assert [] == await told(world, client)
    world.daemon.errors["getrawtransaction"] = ABSENT
    assert [[TXIDS["F"], 0, answer(0)]] == await told(world, client)


async def test_only_the_subscriber_is_notified(world, client):
    other = await world.connect()
    await other.request("server.version", "x", "1.7")
    assert {} == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    assert {} == await other.request(SUBSCRIBE, TXIDS["P"], 0, "")
    change(world, F=(0, None, None), P=(0, None, None))
    assert [[TXIDS["F"], 0, answer(0)]] == await told(world, client)
    assert [[TXIDS["P"], 0, answer(0)]] == await told(world, other)
    assert (1, 1) == (world.session(0).sub_count(), world.session(1).sub_count())


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ((), -32602),
        ((TXIDS["F"],), -32602),
        ((TXIDS["F"], 0), -32602),
        (("abc", -1, 5), "abc should be a transaction hash"),
        ((TXIDS["F"], -1, 5), "-1 should be a non-negative integer"),
        ((TXIDS["F"], 0, 5), "5 should be a hex string"),
        ((TXIDS["F"], 0, None), "None should be a hex string"),
        ((TXIDS["F"], 0, "abc"), "abc should be a hex string"),
    ],
)
@pytest.mark.parametrize("method", [SUBSCRIBE, STATUS])
async def test_arguments_are_checked_from_left_to_right(client, method, params, error):
    code, message = await client.error(method, *params)
    assert error == (code if type(error) is int else message)


@pytest.mark.parametrize("index", ["0", 0.9, False])
async def test_what_int_takes_is_an_index(client, index):
    assert {} == await client.request(SUBSCRIBE, TXIDS["F"], index, "")
    assert True is await client.request(UNSUBSCRIBE, TXIDS["F"].upper(), 0)
    assert -32602 == (await client.error(UNSUBSCRIBE, TXIDS["F"], 0, ""))[0]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status(None), {}),
        (Status(5), {"funder_height": 5}),
        (Status(-1), {"funder_height": -1}),
        (Status(5, S, 0), answer(5, S, 0)),
    ],
)
def test_a_status_has_the_members_that_are_known(status, expected):
    assert expected == status.answer()


async def test_blocks_change_what_is_cached_only_where_they_touch_it(world):
    statuses = world.manager.shared.outpoint_statuses
    world.db.utxo_rows = {(F, 0): 3, (F, 1): 3, (P, 0): 4}
    await statuses.load([(F, 0), (F, 1), (P, 0)])
    await mine(world, (S, [(F, 0)]))
    height = world.db.db_height
    assert OnChain(3, S, height) == statuses.cached((F, 0))
    assert (OnChain(3), OnChain(4)) == (statuses.cached((F, 1)), statuses.cached((P, 0)))
    await world.manager.shared.outpoint_cache.undo_blocks(height - 1)
    assert None is statuses.cached((F, 0))
    assert OnChain(4) == statuses.cached((P, 0))
    # Where it is not known what has happened, all is forgotten.
    await world.new_block()
    assert None is statuses.cached((P, 0))


async def test_many_subscriptions_of_a_session_end_in_parts(world, client):
    assert {} == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    outpoints, subscriptions = world.session(0).outpoints, world.manager.shared.outpoints
    for index in range(5_000):
        outpoints.note_subscribed((F, index), Status(None))
    outpoints.end()
    assert 0 < len(subscriptions)
    await until(lambda: len(subscriptions) == 0)
    assert not world.mempool.watch


@pytest.fixture
def tiny_limits(monkeypatch):
    """Few outpoints are cached, and few transactions searched."""
    monkeypatch.setattr(outpoint_cache, "CACHE_ENTRIES", 2)
    monkeypatch.setattr(outpoint_status, "MAX_SEARCHED", 10)


async def watch_among_others(world, client):
    """Subscribe to F:0, unspent since block 3, and have others asked for."""
    world.db.utxo_rows[F, 0] = 3
    assert answer(3) == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    assert [] == await told(world, client)
    for number in range(5):
        tx_hash = make_tx_hash("other", number)
        world.db.utxo_rows[tx_hash, 0] = 4
        assert answer(4) == await client.request(STATUS, hash_to_hex_str(tx_hash), 0, "")


def long_history(world, spender_height):
    """Have many transactions between F and one that spends F:0; return that one's hash."""
    world.daemon.errors.clear()
    spender = spending(world, (F, 0), spender_height)
    between = []
    for number in range(30):
        tx = Tx(1, [TxInput(P, number, b"", 0)], [TxOutput(5, b"\x51")], 0).serialize()
        between.append((double_sha256(tx), 4))
        world.daemon.txs[hash_to_hex_str(between[-1][0])] = tx.hex()
    hashX = world.env.coin.hashX_from_script(b"\x51")
    world.db.histories[hashX] = [(F, 3), *between, (spender, spender_height)]
    return spender


@pytest.mark.usefixtures("tiny_limits")
async def test_a_spend_is_notified_however_much_was_asked_for_since_the_subscription(world, client):
    await watch_among_others(world, client)
    height = world.db.db_height + 1
    spender = long_history(world, height)
    await mine(world, (spender, [(F, 0)]))
    assert [[TXIDS["F"], 0, answer(3, spender, height)]] == await told(world, client)


@pytest.mark.usefixtures("tiny_limits")
async def test_an_unconfirmed_spend_is_notified_however_much_was_asked_for(world, client):
    await watch_among_others(world, client)
    change(world, F=(None, S, -1))
    assert [[TXIDS["F"], 0, answer(3, S, -1)]] == await told(world, client)


@pytest.mark.usefixtures("tiny_limits")
async def test_a_block_that_creates_and_spends_an_output_is_notified(world, client):
    """Nothing was known of the output before, but its spender is named by the block."""
    assert {} == await client.request(SUBSCRIBE, TXIDS["F"], 0, "")
    height = world.db.db_height + 1
    spender = long_history(world, height)
    hashX = world.env.coin.hashX_from_script(b"\x51")
    world.db.histories[hashX] = [(h, height) for h, _height in world.db.histories[hashX]]
    await mine(world, (F, []), (spender, [(F, 0)]))
    assert [[TXIDS["F"], 0, answer(height, spender, height)]] == await told(world, client)


@pytest.mark.usefixtures("tiny_limits")
async def test_a_spend_in_blocks_of_which_nothing_is_known_is_notified(world, client):
    """Only transactions above the last known tip are searched."""
    await watch_among_others(world, client)
    height = world.db.db_height + 1
    spender = long_history(world, height)
    del world.db.utxo_rows[F, 0]
    await world.new_block()
    assert [[TXIDS["F"], 0, answer(3, spender, height)]] == await told(world, client)


@pytest.mark.usefixtures("tiny_limits")
async def test_a_spend_that_is_undone_and_made_again_is_notified(world, client):
    await watch_among_others(world, client)
    height = world.db.db_height + 1
    spender = long_history(world, height)
    await mine(world, (spender, [(F, 0)]))
    assert [[TXIDS["F"], 0, answer(3, spender, height)]] == await told(world, client)
    # Both in one round; nothing has to be searched for.
    tip = world.db.db_tip
    world.bp.undo(1)
    world.bp.end_reorg()
    world.bp.confirmed[tip] = Confirmed(height - 1, world.db.db_tip, b"", b"", undone=True)
    world.daemon.errors["getrawtransaction"] = {"code": -1, "message": "a hiccup"}
    await mine(world, (S2, [(F, 0)]), fork=1)
    assert [[TXIDS["F"], 0, answer(3, S2, height)]] == await told(world, client)
