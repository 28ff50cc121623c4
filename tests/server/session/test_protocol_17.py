"""The additions of protocol 1.7: scripts by scriptpubkey, pings, acceptance."""

import json

import pytest

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str
from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.methods.server import PONG_MARGIN
from tests.fakes import core31
from tests.fakes.session_world import (
    Summary,
    make_tx_hash,
    session_world,
    sha256,
    utxo,
)

SCRIPT = "00143c8b5d66e09cdb4634bb7df0a28eb8c10758c5ce"
DIGEST = sha256(bytes.fromhex(SCRIPT))
SH, HASHX = hash_to_hex_str(DIGEST), DIGEST[:HASHX_LEN]
ACCEPT = "blockchain.transaction.testmempoolaccept"


@pytest.fixture
async def client_17(client):
    """A wallet that has negotiated protocol 1.7."""
    await client.request("server.version", "x", "1.7")
    return client


@pytest.fixture
async def other(world):
    """One that has not."""
    return await world.connect()


# -- scripts


@pytest.mark.parametrize(
    ("verb", "member"),
    [
        ("get_balance", None),
        ("get_history", "history"),
        ("get_mempool", "history"),
        ("listunspent", "utxos"),
    ],
)
@pytest.mark.parametrize("count", [0, 3, 3_000])
async def test_a_script_is_answered_as_its_hash_is_in_an_object(
    world, client_17, other, verb, member, count
):
    world.db.histories[HASHX] = [(make_tx_hash(n), 3) for n in range(count)]
    world.db.utxos[HASHX] = [utxo(str(n), 5, tx_num=n) for n in range(count)]
    world.mempool.summaries[HASHX] = [Summary(make_tx_hash("m"), 1, False)]
    answer = await client_17.request(f"blockchain.scriptpubkey.{verb}", SCRIPT)
    expected = await other.request(f"blockchain.scripthash.{verb}", SH)
    assert answer == ({member: expected} if member else expected)


async def test_a_script_is_subscribed_to_and_notified_of_by_its_hash(world, client_17):
    method = "blockchain.scriptpubkey.subscribe"
    assert None is await client_17.request(method, SCRIPT)
    assert None is await client_17.request(method, SCRIPT.upper())
    world.db.histories[HASHX] = [(make_tx_hash("a"), 11)]
    await world.new_block([HASHX])
    status = sha256(f"{hash_to_hex_str(make_tx_hash('a'))}:11:".encode()).hex()
    assert [(method, [SH, status])] == await notified(client_17)
    # By each of the ways that statuses are sent
    world.mempool.summaries[HASHX] = [Summary(make_tx_hash("b"), 1, False)]
    await world.touch(HASHX)
    assert [(method, SH)] == [(m, params[0]) for m, params in await notified(client_17)]
    unsubscribe = "blockchain.scriptpubkey.unsubscribe"
    assert [True, False] == [await client_17.request(unsubscribe, SCRIPT) for _ in range(2)]


async def notified(client):
    """Return a client's notifications since the last time."""
    await client.request("server.ping")
    found = [(item["method"], item["params"]) for item in client.notifications]
    client.notifications.clear()
    return found


async def test_the_empty_script_has_a_hash(world, client_17):
    assert None is await client_17.request("blockchain.scriptpubkey.subscribe", "")
    hashX = sha256(b"")[:HASHX_LEN]
    assert (
        "55b852781b9995a44c939b64e441ae2724b96f99c8f4fb9a141cfc9842c4b0e3"
        == world.session().scripts.get(hashX)
    )


@pytest.mark.parametrize("value", ["abc", "0 ", "zz", None, 5, ["00"]])
@pytest.mark.parametrize(
    "verb", ["get_balance", "get_history", "get_mempool", "listunspent", "subscribe", "unsubscribe"]
)
async def test_what_is_no_script_is_refused(client_17, verb, value):
    assert (1, f"{value} should be a hex string") == await client_17.error(
        f"blockchain.scriptpubkey.{verb}", value
    )


async def test_scripts_go_by_their_documented_name(client_17):
    answer = await client_17.ask("blockchain.scriptpubkey.get_balance", scriptpubkey=SCRIPT)
    assert {"confirmed": 0, "unconfirmed": 0} == answer["result"]


async def test_a_history_too_large_has_a_code_of_its_own():
    async with session_world(protocol_max=(1, 7, 0), max_send=350_000) as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.7")
        world.db.histories[HASHX] = [(make_tx_hash(n), 3) for n in range(20_000)]
        for verb in ("get_history", "subscribe"):
            assert (10001, "history too large") == await client.error(
                f"blockchain.scriptpubkey.{verb}", SCRIPT
            )


# -- what the node would accept


@pytest.mark.parametrize(
    ("name", "answer", "expected"), core31.ACCEPTANCES, ids=lambda v: str(v)[:12]
)
async def test_acceptance_is_answered_as_core_31_judges_it(
    world, client_17, name, answer, expected
):
    world.daemon.acceptances = answer
    assert expected == await client_17.request(ACCEPT, ["aa", "BB"])
    assert ("testmempoolaccept", ["aa", "BB"]) == world.daemon.calls[-1]


@pytest.mark.parametrize(
    ("raw_txs", "error"),
    [
        ([], {"code": -8, "message": core31.COUNT}),
        (["00"], {"code": -22, "message": core31.UNDECODED}),
    ],
)
async def test_the_nodes_errors_are_returned(world, client_17, raw_txs, error):
    world.daemon.errors["testmempoolaccept"] = error
    text = f"daemon error: {DaemonError(error)!r}"
    assert text.startswith("daemon error: DaemonError({'code': -")
    assert (2, text) == await client_17.error(ACCEPT, raw_txs)


async def test_what_is_to_be_judged_is_checked(client_17):
    assert (1, "aa should be a list") == await client_17.error(ACCEPT, "aa")
    assert (1, "5 should be a hex string") == await client_17.error(ACCEPT, ["aa", 5])


async def test_more_transactions_than_a_node_judges_do_not_reach_it(world, client_17):
    error = DaemonError({"code": -8, "message": core31.COUNT})
    for raw_txs in (["00"] * 26, [""] * 900):
        assert (2, f"daemon error: {error!r}") == await client_17.error(ACCEPT, raw_txs)
    assert [] == world.daemon.calls


async def test_the_newest_transactions_are_returned(world, client_17):
    assert [] == await client_17.request("mempool.recent")
    world.mempool.newest = [(make_tx_hash(n), n, 141) for n in range(12)]
    assert [
        {"txid": hash_to_hex_str(make_tx_hash(n)), "fee": n, "vsize": 141} for n in range(10)
    ] == await client_17.request("mempool.recent")


# -- pings


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        ([], 0),
        ([5], 5),
        ([3, "abc"], 3),
        (["2", "AB"], 2),
        ([-1], "-1 should be a non-negative integer"),
        ([-1, "x"], "x should be a hex string"),
        ([0, None], "None should be a hex string"),
        ([1_000_001], "pong_len value too high"),
    ],
)
async def test_a_ping_is_answered_with_as_many_digits(client_17, params, answer):
    reply = await client_17.ask("server.ping", *params)
    if isinstance(answer, int):
        assert {"data": "0" * answer} == reply["result"]
    else:
        assert {"code": 1, "message": answer} == reply["error"]


async def test_the_longest_pong_is_not_too_long(world, client_17):
    longest = 1_000_000 - PONG_MARGIN
    assert longest == len((await client_17.request("server.ping", longest))["data"])
    world.session().account.cost = 0
    assert (1, "pong_len value too high") == await client_17.error("server.ping", longest + 1)


async def test_a_ping_below_1_7_takes_no_arguments(other):
    assert None is await other.request("server.ping")
    assert -32602 == (await other.error("server.ping", 5))[0]


def ping(*params):
    return json.dumps({"jsonrpc": "2.0", "method": "server.ping", "params": params}).encode()


async def test_a_ping_may_be_a_notification(world, client_17):
    await client_17.send(ping("00" * 64))
    await client_17.send(ping())
    await client_17.request("server.ping")
    assert 0 == world.session().errors
    # A bad one costs an error, and is not answered either.
    await client_17.send(ping("xyz"))
    await client_17.send(ping("00", "00"))
    assert {"data": ""} == await client_17.request("server.ping")
    assert 2 == world.session().errors


async def test_below_1_7_it_may_not(world, other):
    await other.send(ping("00"))
    await other.request("server.ping")
    assert 1 == world.session().errors


async def test_features_name_no_hash_function(client_17, other):
    features = await other.request("server.features")
    assert "sha256" == features.pop("hash_function")
    assert features == await client_17.request("server.features")


async def test_scripts_go_by_hash_no_more(client_17):
    assert (-32601, 'unknown method "blockchain.scripthash.get_balance"') == await client_17.error(
        "blockchain.scripthash.get_balance", SH
    )
