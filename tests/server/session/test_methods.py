"""Every method: its result, and each way its parameters can be wrong."""

import asyncio
import gc

import pytest

import electrumx
from electrumx.lib.hash import double_sha256, hash_to_hex_str, sha256
from electrumx.lib.log_limit import LINES
from electrumx.lib.tasks import Batcher
from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.shared.fee_estimates import FeeEstimates
from tests.fakes.session_world import (
    FakeCoin,
    FakeDB,
    FakeService,
    Summary,
    make_tx_hash,
    script_hash,
    session_world,
    until,
    utxo,
)

NEW_IN_1_6 = ("blockchain.transaction.broadcast_package", "mempool.get_info")
SH, HASHX = script_hash("alice")
TXID = hash_to_hex_str(make_tx_hash("some"))
BLOCK_5_TXS = [make_tx_hash(5, n) for n in range(3)]


# method, parameters, code, text
SCRIPTHASH_METHODS = ["get_balance", "get_history", "get_mempool", "listunspent", "subscribe"]
BAD_SCRIPTHASHES = [
    ("abc", "abc"),
    ("", ""),
    (SH[:-2], SH[:-2]),
    (SH + "00", SH + "00"),
    (5, "5"),
    (None, "None"),
    ([SH], f"['{SH}']"),
    ({"a": True}, "{'a': True}"),
    ("zz" * 32, "zz" * 32),
]
BAD_INTEGERS = [
    (-1, "-1"),
    ("-5", "-5"),
    (-1.9, "-1"),
    ("x", "x"),
    (None, "None"),
    ([], "[]"),
    ("1.5", "1.5"),
    (float("inf"), "inf"),
    (float("nan"), "nan"),
]


@pytest.mark.parametrize(("value", "shown"), BAD_SCRIPTHASHES)
async def test_a_bad_script_hash_is_refused_by_every_script_hash_method(
    world, client, value, shown
):
    await client.request("server.version", "test", "1.4.2")
    for name in [*SCRIPTHASH_METHODS, "unsubscribe"]:
        error = await client.error(f"blockchain.scripthash.{name}", value)
        assert (1, f"{shown} is not a valid script hash") == error
        # One error costs 100; these are all deserved
        world.session().account.cost = 0


@pytest.mark.parametrize(("value", "shown"), BAD_INTEGERS)
async def test_other_values_than_non_negative_integers_are_refused(world, client, value, shown):
    expected = (1, f"{shown} should be a non-negative integer")
    for method, params in (
        ("blockchain.block.header", [value]),
        ("blockchain.block.header", [1, value]),
        ("blockchain.block.headers", [value, 1]),
        ("blockchain.block.headers", [1, value]),
        ("blockchain.block.headers", [1, 1, value]),
        ("blockchain.estimatefee", [value]),
        ("blockchain.transaction.get_merkle", [TXID, value]),
        ("blockchain.transaction.id_from_pos", [value, 0]),
        ("blockchain.transaction.id_from_pos", [0, value]),
    ):
        assert expected == await client.error(method, *params)
        world.session().account.cost = 0


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("blockchain.block.header", [12345], (1, "height 12,345 out of range")),
        ("blockchain.block.header", [10**30], (1, f"height {10**30:,d} out of range")),
        (
            "blockchain.block.header",
            [5, 4],
            (1, "require header height 5 <= cp_height 4 <= chain height 10"),
        ),
        (
            "blockchain.block.header",
            [5, 1000],
            (1, "require header height 5 <= cp_height 1,000 <= chain height 10"),
        ),
        ("blockchain.block.header", [11, 4], (1, "height 11 out of range")),
        (
            "blockchain.block.headers",
            [2, 4, 4],
            (1, "require header height 5 <= cp_height 4 <= chain height 10"),
        ),
        (
            "blockchain.transaction.get_merkle",
            [TXID, 5],
            (1, f"tx {TXID} not in block at height 5"),
        ),
        (
            "blockchain.transaction.get_merkle",
            [TXID, 11],
            (1, "db error: DBError('block 11 not on disk (>10)')"),
        ),
        (
            "blockchain.transaction.get_merkle",
            ["ab", -1],
            (1, "ab should be a transaction hash"),
        ),
        (
            "blockchain.transaction.id_from_pos",
            [5, 1000],
            (1, "no tx at position 1,000 in block at height 5"),
        ),
        # The position is looked at first
        (
            "blockchain.transaction.id_from_pos",
            ["x", "y", 2],
            (1, "y should be a non-negative integer"),
        ),
        (
            "blockchain.transaction.id_from_pos",
            ["x", 0, 2],
            (1, "x should be a non-negative integer"),
        ),
        ("blockchain.transaction.id_from_pos", [5, 0, 2], (1, '"merkle" must be a boolean')),
        ("blockchain.transaction.get", ["ab"], (1, "ab should be a transaction hash")),
        ("blockchain.transaction.get", [7, "x"], (1, "7 should be a transaction hash")),
        ("blockchain.transaction.get", [TXID, "true"], (1, '"verbose" must be a boolean')),
        ("blockchain.transaction.get", [TXID, None], (1, '"verbose" must be a boolean')),
        ("blockchain.transaction.get", [TXID, 2], (1, '"verbose" must be a boolean')),
        ("blockchain.transaction.get", [TXID, []], (1, '"verbose" must be a boolean')),
        ("blockchain.transaction.broadcast", ["abc"], (1, "abc should be a hex string")),
        ("blockchain.transaction.broadcast", ["ab cd "], (1, "ab cd  should be a hex string")),
        ("blockchain.transaction.broadcast", [12], (1, "12 should be a hex string")),
        ("blockchain.transaction.broadcast", [None], (1, "None should be a hex string")),
        ("blockchain.estimatefee", [2, "fast"], (1, "unknown estimatefee mode: FAST")),
        ("blockchain.estimatefee", [2, ""], (1, "unknown estimatefee mode: ")),
        ("nonsense", [], (-32601, 'unknown method "nonsense"')),
        (
            "blockchain.transaction.broadcast_package",
            [{"a": 1}],
            (1, "{'a': 1} should be a list"),
        ),
        (
            "blockchain.transaction.broadcast_package",
            [["ab", "abc", 5]],
            (1, "abc should be a hex string"),
        ),
        ("blockchain.transaction.broadcast_package", [[5]], (1, "5 should be a hex string")),
        (
            "blockchain.transaction.broadcast_package",
            [["ab"], "yes"],
            (1, '"verbose" must be a boolean'),
        ),
        (
            "blockchain.transaction.broadcast_package",
            [["ab"] * 26],
            (
                1,
                "the tx package was rejected by network rules.\n\n"
                "Array must contain between 1 and 25 transactions..",
            ),
        ),
        (
            "blockchain.block.header",
            [],
            (-32602, '0 arguments passed to method "blockchain.block.header" but it requires 1'),
        ),
        (
            "server.ping",
            [1],
            (-32602, "1 argument passed to method server.ping taking at most 0"),
        ),
        (
            "blockchain.transaction.get",
            [TXID, True, 1],
            (
                -32602,
                "3 arguments passed to method blockchain.transaction.get taking at most 2",
            ),
        ),
    ],
)
async def test_a_bad_request_gets_its_exact_error(client, method, params, error):
    if method in NEW_IN_1_6:
        await client.request("server.version", "x", "1.6")
    assert error == await client.error(method, *params)


async def test_named_parameters_are_checked_by_name(client):
    header = "blockchain.block.header"
    assert (-32602, f'method "{header}" requires parameter "height"') == await client.error(
        header, cp_height=1
    )
    assert (-32602, f'method "{header}" does not take parameter "depth"') == await client.error(
        header, height=1, depth=2
    )
    assert (
        -32602,
        'method "blockchain.block.headers" requires parameters "count", "start_height"',
    ) == await client.error("blockchain.block.headers", cp_height=1)


# -- headers


async def test_a_header_is_hex(world, client):
    for height in (5, "5", 5.9):
        assert world.db.headers[5].hex() == await client.request("blockchain.block.header", height)
    assert world.db.headers[1].hex() == await client.request("blockchain.block.header", True)
    assert world.db.headers[5].hex() == await client.request("blockchain.block.header", height=5)


async def test_a_header_with_a_checkpoint_has_a_proof(world, client):
    result = await client.request("blockchain.block.header", 5, 8)
    branch, root = await world.db.header_branch_and_root(9, 5)
    assert {
        "header": world.db.headers[5].hex(),
        "branch": [hash_to_hex_str(item) for item in branch],
        "root": hash_to_hex_str(root),
    } == result


async def test_headers_are_clipped_to_the_chain_and_to_2016(world):
    async with session_world(db=FakeDB(height=2100, txs_per_block=1)) as world:
        client = await world.connect()
        result = await client.request("blockchain.block.headers", 2099, 10)
        assert {"hex": b"".join(world.db.headers[2099:]).hex(), "count": 2, "max": 2016} == result
        result = await client.request("blockchain.block.headers", 0, 3000)
        assert (2016, 2016 * 160) == (result["count"], len(result["hex"]))
        for start in (2101, 10**40):
            assert {"hex": "", "count": 0, "max": 2016} == await client.request(
                "blockchain.block.headers", start, 5, 3
            )
        assert 0 == (await client.request("blockchain.block.headers", 5, 0, 5))["count"]


async def test_an_absurd_count_of_headers_is_charged_without_failing(world, client):
    result = await client.request("blockchain.block.headers", 0, "9" * 400)
    assert 11 == result["count"]
    # That was more than the hard limit
    assert (-101, "excessive resource usage") == await client.error("server.ping")


async def test_headers_with_a_checkpoint_prove_the_last(world, client):
    result = await client.request("blockchain.block.headers", 2, 3, 8)
    branch, root = await world.db.header_branch_and_root(9, 4)
    assert [hash_to_hex_str(item) for item in branch] == result["branch"]
    assert hash_to_hex_str(root) == result["root"]


async def test_subscribing_to_headers_answers_with_the_tip(world, client):
    assert {"hex": world.db.headers[10].hex(), "height": 10} == await client.request(
        "blockchain.headers.subscribe"
    )


# -- scripts


async def test_a_balance_adds_up_confirmed_and_unconfirmed(world, client):
    assert {"confirmed": 0, "unconfirmed": 0} == await client.request(
        "blockchain.scripthash.get_balance", SH
    )
    world.db.utxos[HASHX] = [utxo("a", 100), utxo("b", 23)]
    await world.new_block([HASHX])
    world.mempool.deltas[HASHX] = -40
    assert {"confirmed": 123, "unconfirmed": -40} == await client.request(
        "blockchain.scripthash.get_balance", SH.upper()
    )


async def test_a_history_lists_confirmed_then_mempool_txs(world, client):
    a, b, c, d = (make_tx_hash(name) for name in "abcd")
    world.db.histories[HASHX] = [(a, 3), (b, 7)]
    world.mempool.summaries[HASHX] = [Summary(c, 150, False), Summary(d, 99, True)]
    mempool = [
        {"tx_hash": hash_to_hex_str(c), "height": 0, "fee": 150},
        {"tx_hash": hash_to_hex_str(d), "height": -1, "fee": 99},
    ]
    assert [
        {"tx_hash": hash_to_hex_str(a), "height": 3},
        {"tx_hash": hash_to_hex_str(b), "height": 7},
        *mempool,
    ] == await client.request("blockchain.scripthash.get_history", SH)
    assert mempool == await client.request("blockchain.scripthash.get_mempool", SH)


async def test_unspent_outputs_are_sorted_and_without_what_the_mempool_spends(world, client):
    late, early = utxo("late", 5, tx_num=9), utxo("early", 6, tx_num=2, tx_pos=3, height=4)
    spent = utxo("spent", 7, tx_num=3)
    fresh = utxo("fresh", 8, tx_num=-1, tx_pos=1, height=0)
    world.db.utxos[HASHX] = [late, spent, early]
    world.mempool.utxos[HASHX] = [fresh]
    world.mempool.spends[HASHX] = {(spent.tx_hash, 0)}
    result = await client.request("blockchain.scripthash.listunspent", SH)
    assert [
        {
            "tx_hash": hash_to_hex_str(item.tx_hash),
            "tx_pos": item.tx_pos,
            "height": item.height,
            "value": item.value,
        }
        for item in (early, late, fresh)
    ] == result


async def test_a_status_is_the_hash_of_the_history_text(world, client):
    assert None is await client.request("blockchain.scripthash.subscribe", SH)
    a, b, c = (make_tx_hash(name) for name in "abc")
    bob, hashX = script_hash("bob")
    world.db.histories[hashX] = [(a, 3)]
    world.mempool.summaries[hashX] = [Summary(b, 1, False), Summary(c, 1, True)]
    text = f"{hash_to_hex_str(a)}:3:{hash_to_hex_str(b)}:0:{hash_to_hex_str(c)}:-1:"
    expected = sha256(text.encode()).hex()
    for _ in range(2):
        assert expected == await client.request("blockchain.scripthash.subscribe", bob)


async def test_the_status_of_the_published_example_is_reproduced(world, client):
    history = [
        ("a6c9c361bd0bc536d6a22648efbf8f9b200e425ef6c3a7a9669dc444c532a347", 2472),
        ("9c42f84b2fcdaff676ba25d9d4941741cc0d1a01cce0c23fdc4c0b2afa38431c", 2473),
        ("770f2d4371b3fabb902dd9a103e2dd005fcd3971181078fca4a2a1d6ff127b30", 2473),
    ]
    mempool = [
        ("80b19848aed792565ab7c5a79b7c2a00fbf985741579396ebe0ab6098e607311", False),
        ("e02a1dadfa83b996b24175df807b271ea5d02937ef5b35c195fac1e1bdc3198f", False),
        ("bb4c8ab438c13b89ca80d1d5bee25b0b6b7f55673f4d801998ba97db161d9e85", True),
    ]
    scripthash = "f04bf26fc16a27abaa2f10540da7a24e369e6ec408f2d901202a7c0cd4a6112d"
    hashX = bytes.fromhex(scripthash)[::-1][:11]
    world.db.histories[hashX] = [(bytes.fromhex(txid)[::-1], h) for txid, h in history]
    world.mempool.summaries[hashX] = [
        Summary(bytes.fromhex(txid)[::-1], 1, chained) for txid, chained in mempool
    ]
    expected = "78e96c6562cafa71c115503b9411fdfdc595a45031e2ab76ff75162fe1b0590d"
    assert expected == await client.request("blockchain.scripthash.subscribe", scripthash)


async def test_unsubscribing_returns_whether_there_was_a_subscription(world, client):
    await client.request("server.version", "test", "1.4.2")
    method = "blockchain.scripthash.unsubscribe"
    assert False is await client.request(method, SH)
    await client.request("blockchain.scripthash.subscribe", SH)
    assert 1 == world.session().sub_count()
    assert True is await client.request(method, SH)
    assert False is await client.request(method, SH)
    assert 0 == world.session().sub_count()


async def test_a_history_at_the_limit_is_too_large_also_when_cached(world, client):
    limit = (1_000_000 - 100) // 99
    entries = [(make_tx_hash("big", n), n) for n in range(limit)]
    world.db.histories[HASHX] = entries
    for name in ("get_history", "subscribe", "get_history"):
        error = await client.error(f"blockchain.scripthash.{name}", SH)
        assert (10001, "history too large") == error
        world.session().account.cost = 0
    assert 1 == world.db.history_reads
    assert 0 == world.session().sub_count()
    bob, hashX = script_hash("bob")
    world.db.histories[hashX] = entries[:-1]
    assert limit - 1 == len(await client.request("blockchain.scripthash.get_history", bob))


# -- transactions


async def test_a_broadcast_returns_the_txid(world, client):
    expected = hash_to_hex_str(double_sha256(bytes.fromhex("beef")))
    assert expected == await client.request("blockchain.transaction.broadcast", "beef")
    assert expected == await client.request("blockchain.transaction.broadcast", raw_tx="BEEF")
    assert ["beef", "BEEF"] == world.daemon.sent
    assert (2, 2) == (world.session().txs_sent, world.manager.shared.node.txs_sent)
    await client.request("blockchain.transaction.broadcast", "")


async def test_accepted_transactions_are_reported_to_the_mempool(world, client, monkeypatch):
    await client.request("blockchain.transaction.broadcast", "beef")
    assert [double_sha256(bytes.fromhex("beef"))] == world.mempool.reported
    world.daemon.errors["sendrawtransaction"] = {"code": -25, "message": "missing inputs"}
    await client.error("blockchain.transaction.broadcast", "beef")

    async def broadcast_transaction(_raw_tx):
        return "no hash"

    monkeypatch.setattr(world.daemon, "broadcast_transaction", broadcast_transaction)
    assert "no hash" == await client.request("blockchain.transaction.broadcast", "beef")
    assert 1 == len(world.mempool.reported)


async def test_a_rejected_broadcast_repeats_the_nodes_words(world, client):
    world.daemon.errors["sendrawtransaction"] = {"code": -25, "message": "missing inputs"}
    expected = "the transaction was rejected by network rules.\n\nmissing inputs\n[beef]"
    assert (1, expected) == await client.error("blockchain.transaction.broadcast", "beef")
    assert 0 == world.session().txs_sent


async def test_an_old_client_gets_a_warning_instead_of_the_txid(world, client):
    await client.request("server.version", "3.3.2", "1.4")
    assert "<br/>upgrade" == await client.request("blockchain.transaction.broadcast", "beef")
    assert 1 == world.session().txs_sent


def result_of(name, **members):
    """The node's result for a transaction of a package, by its wtxid."""
    txid = hash_to_hex_str(make_tx_hash(name))
    return {hash_to_hex_str(make_tx_hash("w", name)): {"txid": txid, **members}}


async def test_a_package_is_handed_to_the_node_and_then_to_the_mempool(world, client_16):
    answer = {"package_msg": "success", "tx-results": {**result_of("p"), **result_of("c")}}
    world.daemon.package = answer
    method = "blockchain.transaction.broadcast_package"
    assert {"success": True} == await client_16.request(method, ["beef", "FEED"])
    assert answer == await client_16.request(method, ["beef", "feed"], True)
    assert ("submitpackage", ["beef", "FEED"]) == world.daemon.calls[0]
    assert [make_tx_hash("p"), make_tx_hash("c")] * 2 == world.mempool.reported
    assert (4, 4) == (world.session().txs_sent, world.manager.shared.node.txs_sent)


async def test_packages_are_a_bounded_number_of_lines(world, client_16, caplog):
    caplog.set_level("INFO")
    method = "blockchain.transaction.broadcast_package"
    world.daemon.package = {"package_msg": "success", "tx-results": {}}
    for error in (None, {"code": -25, "message": "refused"}):
        if error:
            world.daemon.errors["submitpackage"] = error
        for _number in range(LINES + 20):
            world.session().account.cost = 0
            await client_16.ask(method, ["beef", "feed"])
    for text in ("sent package of", "error sending package"):
        assert caplog.text.count(text) == LINES


@pytest.mark.parametrize("verbose", [False, 0])
async def test_a_package_that_failed_in_part_has_the_reasons(world, client_16, verbose):
    world.daemon.package = {
        "package_msg": "transaction failed",
        "tx-results": {**result_of("p", error=""), **result_of("c", error="min relay fee not met")},
    }
    child = hash_to_hex_str(make_tx_hash("c"))
    assert {
        "success": False,
        "errors": [{"txid": child, "error": "min relay fee not met"}],
    } == await client_16.request("blockchain.transaction.broadcast_package", ["be", "ef"], verbose)
    # The other one was accepted all the same.
    assert [make_tx_hash("p")] == world.mempool.reported


@pytest.mark.parametrize("results", [{}, [], None, {"w": "no object"}])
async def test_a_package_that_failed_without_a_reason_blames_the_child(
    world, client_16, results, monkeypatch
):
    class Parser:
        def __init__(self, raw_tx):
            self.raw_tx = raw_tx

        def read_tx_and_hash(self):
            return None, double_sha256(self.raw_tx)

    method = "blockchain.transaction.broadcast_package"
    world.daemon.package = {"package_msg": "package topology", "tx-results": results}
    for deserializer, txid in (
        (None, ""),
        (Parser, hash_to_hex_str(double_sha256(bytes.fromhex("beef")))),
    ):
        monkeypatch.setattr(FakeCoin, "DESERIALIZER", deserializer, raising=False)
        error = {"txid": txid, "error": "package topology"}
        assert {"success": False, "errors": [error]} == await client_16.request(
            method, ["", "beef"]
        )


async def test_a_package_that_the_node_refuses_repeats_its_words(world, client_16):
    method = "blockchain.transaction.broadcast_package"
    world.daemon.errors["submitpackage"] = {"code": -25, "message": "package topology disallowed."}
    text = "the tx package was rejected by network rules.\n\npackage topology disallowed.."
    assert (1, text) == await client_16.error(method, ["beef"])
    # How many there must be is the node's rule, but no more are sent to it than it ever takes.
    assert (1, text) == await client_16.error(method, [])
    world.daemon.errors["submitpackage"] = {"code": -32601, "message": "Method not found"}
    assert (1, "the daemon has no submitpackage") == await client_16.error(method, ["beef"])
    assert 0 == world.session().txs_sent
    assert [] == world.mempool.reported


async def test_the_mempools_fees_are_served_from_1_6_on(world, client_16):
    fees = {"mempoolminfee": 2e-5, "minrelaytxfee": 1e-5, "incrementalrelayfee": 1e-5}
    assert fees == await client_16.request("mempool.get_info")
    world.daemon.errors["mempool_fees"] = {"code": -28, "message": "busy"}
    code, message = await client_16.error("mempool.get_info")
    assert 2 == code
    assert "busy" in message


@pytest.mark.parametrize(
    "params", [[False], [True], [None, 5, {}], {"raw": True}, {"self": 1, "session": 2}]
)
async def test_a_subscription_to_headers_tolerates_surplus_arguments(world, client, params):
    method = "blockchain.headers.subscribe"
    await client.send({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
    assert 10 == (await client.recv())["result"]["height"]


async def test_a_transaction_is_the_reply_of_the_node(world, client):
    assert "beef" * 4 == await client.request("blockchain.transaction.get", TXID)
    for verbose in (True, 1):
        details = await client.request("blockchain.transaction.get", TXID.upper(), verbose)
        assert {"txid": TXID.upper(), "hex": "beef" * 4, "confirmations": 1} == details
    assert ("getrawtransaction", TXID, False) == world.daemon.calls[0]


async def test_a_transaction_in_the_mempool_is_fetched_once_while_it_is_there(world, client):
    def asked():
        return sum(call[0] == "getrawtransaction" for call in world.daemon.calls)

    world.mempool.tx_hashes.add(make_tx_hash("some"))
    for _ in range(2):
        assert "beef" * 4 == await client.request("blockchain.transaction.get", TXID)
        await world.new_block()
    assert 1 == asked()
    world.mempool.tx_hashes.clear()
    world.daemon.errors["getrawtransaction"] = {"code": -5, "message": "evicted"}
    code, _message = await client.error("blockchain.transaction.get", TXID)
    assert (2, 2) == (code, asked())


async def test_a_confirmed_transaction_is_fetched_twice_per_tip(world, client):
    def asked():
        return [call[2] for call in world.daemon.calls if call[0] == "getrawtransaction"]

    for _ in range(2):
        for _ in range(4):
            assert "beef" * 4 == await client.request("blockchain.transaction.get", TXID)
        # The second time in detail, which states that it is confirmed.
        assert [False, True] == asked()
        # The verbose form depends on more than the transaction.
        await client.request("blockchain.transaction.get", TXID, True)
        assert [False, True, True] == asked()
        world.daemon.calls.clear()
        await world.new_block()
        await client.request("blockchain.transaction.get", TXID, True)
        world.daemon.calls.clear()
    # Not if the tip changed while the node was asked
    await client.request("blockchain.transaction.get", TXID)
    world.daemon.stall = asyncio.Event()
    waiting = asyncio.create_task(client.request("blockchain.transaction.get", TXID))
    await until(lambda: len(asked()) == 2)
    await world.new_block()
    world.daemon.stall.set()
    await waiting
    await client.request("blockchain.transaction.get", TXID)
    assert [False, True, False] == asked()


async def test_a_transaction_that_was_replaced_before_our_mempool_had_it_is_not_served(
    world, client
):
    world.daemon.unconfirmed.add(TXID)
    for _ in range(4):
        assert "beef" * 4 == await client.request("blockchain.transaction.get", TXID)
    world.daemon.errors["getrawtransaction"] = {"code": -5, "message": "replaced"}
    code, message = await client.error("blockchain.transaction.get", TXID)
    assert 2 == code
    assert "replaced" in message


async def test_requests_for_transactions_that_do_not_exist_leave_no_reference_cycles():
    async def send(keys):
        return [DaemonError({"code": -5, "message": "no such transaction"}) for _key in keys]

    batcher = Batcher(send, batch_size=25, batches=2, max_batches=6, late_secs=1)
    txids = [f"{number:064x}" for number in range(200)]
    async with session_world(cost_soft_limit=10**9, cost_hard_limit=10**9) as world:
        world.daemon.raw_tx = lambda *args: batcher.get(args)
        client = await world.connect()
        await client.error("blockchain.transaction.get", txids[0])
        gc.collect()
        gc.disable()
        try:
            for txid in txids:
                await client.error("blockchain.transaction.get", txid)
            assert gc.collect() < len(txids)
        finally:
            gc.enable()


async def test_a_transaction_that_came_back_with_another_witness_is_fetched_again(world, client):
    world.mempool.tx_hashes.add(make_tx_hash("some"))
    assert "beef" * 4 == await client.request("blockchain.transaction.get", TXID)
    world.mempool.tx_hashes.clear()
    await client.request("blockchain.transaction.get", TXID)
    world.mempool.tx_hashes.add(make_tx_hash("some"))
    world.daemon.txs[TXID] = "feed"
    assert "feed" == await client.request("blockchain.transaction.get", TXID)


@pytest.mark.parametrize("details", ["no object", {"confirmations": 3}, {"hex": 5}])
async def test_a_node_whose_verbose_form_lacks_the_hex_is_asked_for_it(
    world, client, details, monkeypatch
):
    async def getrawtransaction(_hex_hash, verbose=False, *, max_bytes=None):
        return details if verbose else "beef"

    monkeypatch.setattr(world.daemon, "getrawtransaction", getrawtransaction)
    for _ in range(3):
        assert "beef" == await client.request("blockchain.transaction.get", TXID)


async def test_long_transactions_are_not_remembered(world, client):
    world.daemon.txs[TXID] = "ab" * 60_000
    world.mempool.tx_hashes.add(make_tx_hash("some"))
    for _ in range(2):
        await client.request("blockchain.transaction.get", TXID)
    assert 2 == len(world.daemon.calls)
    assert 0 == len(world.manager.shared.raw_txs.cache)


async def test_a_daemon_error_has_code_2_and_shows_the_nodes_reply(world, client):
    reply = {"code": -5, "message": "No such mempool or blockchain transaction."}
    for call, method, params in (
        ("getrawtransaction", "blockchain.transaction.get", [TXID]),
        ("relayfee", "blockchain.relayfee", []),
        ("estimatefee", "blockchain.estimatefee", [2]),
    ):
        world.daemon.errors[call] = reply
        expected = (2, f"daemon error: DaemonError({reply!r})")
        assert expected == await client.error(method, *params)


@pytest.mark.parametrize("txs", [1, 3, 199, 200, 450])
async def test_a_merkle_proof_leads_to_the_root_of_the_block(txs):
    from electrumx.lib.merkle import Merkle

    async with session_world(db=FakeDB(txs_per_block=txs)) as world:
        client = await world.connect()
        hashes = world.db.block_txs[5]
        for _ in range(2):
            for pos in {0, txs // 2, txs - 1}:
                txid = hash_to_hex_str(hashes[pos])
                result = await client.request("blockchain.transaction.get_merkle", txid, 5)
                branch = [bytes.fromhex(item)[::-1] for item in result.pop("merkle")]
                assert {"block_height": 5, "pos": pos} == result
                root = Merkle().root_from_proof(hashes[pos], branch, pos)
                assert Merkle().root(hashes) == root
                proof = await client.request("blockchain.transaction.id_from_pos", 5, pos, True)
                assert txid == proof["tx_hash"]
                assert branch == [bytes.fromhex(item)[::-1] for item in proof["merkle"]]
        assert (txs >= 200) == ("0 entries" not in world.manager.shared.blocks.levels.summary())


async def test_a_txid_is_found_by_its_position(client):
    for pos, tx_hash in enumerate(BLOCK_5_TXS):
        expected = hash_to_hex_str(tx_hash)
        assert expected == await client.request("blockchain.transaction.id_from_pos", 5, pos)
        assert expected == await client.request(
            "blockchain.transaction.id_from_pos", height=5, tx_pos=pos, merkle=0
        )


async def test_a_proof_is_computed_again_if_the_block_was_replaced(world, client):
    db = world.db
    original = db.tx_hashes_at_blockheight
    replaced = [make_tx_hash("other", n) for n in range(3)]

    async def replace_while_reading(height):
        result = await original(height)
        db.tx_hashes_at_blockheight = original
        db.headers[5] = bytes(80)
        db.block_txs[5] = replaced
        return result

    db.tx_hashes_at_blockheight = replace_while_reading
    result = await client.request("blockchain.transaction.id_from_pos", 5, 1)
    assert hash_to_hex_str(replaced[1]) == result


async def test_what_is_asked_of_undone_blocks_waits_until_clients_know_those_that_replace_them(
    world, client
):
    db = world.db
    txid, header = hash_to_hex_str(db.block_txs[10][0]), db.headers[10]
    kept_txs = list(db.block_txs[10])
    requests = [
        ("blockchain.transaction.get_merkle", txid, 10),
        ("blockchain.transaction.id_from_pos", 10, 0),
        ("blockchain.block.header", 10),
        ("blockchain.block.header", 5, 10),
        ("blockchain.block.headers", 10, 1),
        ("blockchain.block.headers", 8, 5),
        ("blockchain.block.headers", 2, 3, 9),
    ]
    clients = [await world.connect() for _ in requests]
    world.bp.undo(2)

    def ask():
        pairs = zip(clients, requests, strict=True)
        return [asyncio.create_task(client.request(*request)) for client, request in pairs]

    asked = ask()
    # Requests about other blocks are answered during the reorganisation.
    assert db.headers[8].hex() == await client.request("blockchain.block.header", 8)
    # The new blocks are in the database, but clients do not know them.
    db.add_block(fork=1)
    db.headers.append(header)
    db.block_txs.append(kept_txs)
    assert 1 == (await client.request("blockchain.block.headers", 8, 1))["count"]
    assert not any(task.done() for task in asked)
    # Another notification, which began before, is not yet that of the new chain.
    await world.touch()
    assert not any(task.done() for task in asked)
    world.bp.end_reorg()
    await world.touch()
    answers = await asyncio.gather(*asked)
    assert 10 == answers[0]["block_height"]
    assert [txid, header.hex()] == answers[1:3]
    assert [db.headers[5].hex(), header.hex()] == [answers[3]["header"], answers[4]["hex"]]
    assert b"".join(db.headers[8:]).hex() == answers[5]["hex"]
    assert {"hex", "count", "max", "branch", "root"} == set(answers[6])
    assert answers == await asyncio.gather(*ask())


async def test_a_tx_that_no_new_block_has_is_refused_when_clients_know_the_new_blocks(
    world, client
):
    txid = hash_to_hex_str(world.db.block_txs[10][0])
    other = await world.connect()
    world.bp.undo(1)
    asked = asyncio.create_task(client.error("blockchain.transaction.get_merkle", txid, 10))
    await other.request("server.ping")
    assert not asked.done()
    world.bp.end_reorg()
    await world.new_block(fork=1)
    assert (1, f"tx {txid} not in block at height 10") == await asked
    # The node's chain may also stay shorter.
    world.bp.undo(1)
    asked = asyncio.create_task(client.error("blockchain.block.header", 10))
    await other.request("server.ping")
    assert not asked.done()
    world.bp.end_reorg()
    await world.touch()
    assert (1, "height 10 out of range") == await asked


async def test_a_block_missing_by_surprise_is_asked_for_again(world, client):
    txid = hash_to_hex_str(world.db.block_txs[10][1])
    header, txs = world.db.headers.pop(), world.db.block_txs.pop()
    asked = asyncio.create_task(client.request("blockchain.transaction.get_merkle", txid, 10))
    await (await world.connect()).request("server.ping")
    world.db.headers.append(header)
    world.db.block_txs.append(txs)
    assert 1 == (await asked)["pos"]


# -- fees


async def test_fees_come_from_mempool_and_node(world, client):
    assert [[12.5, 1000], [1.0, 50000]] == await client.request("mempool.get_fee_histogram")
    assert 0.00001 == await client.request("blockchain.relayfee")
    assert 0.0002 == await client.request("blockchain.estimatefee", 6)
    assert ("estimatefee", 6, None) == world.daemon.calls[-1]


async def test_a_fee_estimate_is_asked_for_once_per_target_mode_and_tip(world, client):
    def asked():
        return [call[1:] for call in world.daemon.calls if call[0] == "estimatefee"]

    for mode in (None, "economical", "ECONOMICAL", 5, "Conservative"):
        for _ in range(2):
            await client.request("blockchain.estimatefee", 6, mode)
    assert [(6, None), (6, "ECONOMICAL"), (6, "CONSERVATIVE")] == asked()
    await world.new_block()
    await client.request("blockchain.estimatefee", 6)
    assert 4 == len(asked())
    for number in (1008, 2000, 10**30):
        await client.request("blockchain.estimatefee", number)
    assert (1008, None) == asked()[-1]
    assert 5 == len(asked())


async def test_no_number_is_passed_on_that_a_node_might_not_parse(world, client, monkeypatch):
    # As coins do whose nodes have no coarser targets.
    fees = FeeEstimates(lambda: world.db.db_tip, lambda number: number)
    monkeypatch.setattr(world.manager.shared, "fees", fees)
    for number in (2**31 - 1, 2**31, 10**400):
        assert 0.0002 == await client.request("blockchain.estimatefee", number)
    assert [("estimatefee", 2**31 - 1, None)] == world.daemon.calls


# -- server


async def test_a_ping_is_answered_with_null(client):
    assert None is await client.request("server.ping")


async def test_the_donation_address_is_returned(client):
    assert "donate-here" == await client.request("server.donation_address")


async def test_a_peer_may_introduce_itself(world, client):
    assert True is await client.request("server.add_peer", {"hosts": {}})
    features, source = world.manager.shared.peers.added[0]
    assert ({"hosts": {}}, "127.0.0.1") == (features, source)


async def test_peers_are_returned_and_tor_clients_recognised(world, client):
    expected = [["1.2.3.4", "example.com", ["v1.4.2", "s50002"]]]
    assert expected == await client.request("server.peers.subscribe")
    world.manager.shared.peers.proxy = "127.0.0.1"
    await client.request("server.peers.subscribe")
    assert [False, True] == world.manager.shared.peers.asked_by_tor


async def test_features_describe_the_server():
    report = [
        FakeService("tcp", "a.example", 50001),
        FakeService("ssl", "a.example", 50002),
        FakeService("ssl", "a.example", 50003),
        FakeService("wss", "b.onion", 443),
    ]
    async with session_world(report_services=report) as world:
        client = await world.connect()
        assert {
            "hosts": {
                "a.example": {"tcp_port": 50001, "ssl_port": 50003},
                "b.onion": {"wss_port": 443},
            },
            "pruning": None,
            "server_version": electrumx.version,
            "protocol_min": "1.4",
            "protocol_max": "1.4.2",
            "genesis_hash": "00" * 32,
            "hash_function": "sha256",
            "services": [str(service) for service in report],
        } == await client.request("server.features")


async def test_without_a_file_the_banner_is_a_plain_greeting(client):
    expected = f"You are connected to an {electrumx.version} server."
    assert expected == await client.request("server.banner")


async def test_a_banner_file_has_its_variables_replaced(tmp_path):
    clear, tor = tmp_path / "banner", tmp_path / "tor"
    clear.write_text(
        "é $SERVER_VERSION|$SERVER_SUBVERSION|$DAEMON_VERSION|$DAEMON_SUBVERSION|$DONATION_ADDRESS"
    )
    tor.write_text("onion")
    async with session_world(banner_file=str(clear), tor_banner_file=str(tor)) as world:
        client = await world.connect()
        assert (
            f"é {electrumx.version_short}|{electrumx.version}|29.1.0|/Satoshi:29.1.0/|donate-here"
            == await client.request("server.banner")
        )
        world.daemon.errors["getnetworkinfo"] = {"code": -1, "message": "no"}
        assert 2 == (await client.error("server.banner"))[0]
        world.daemon.errors.clear()
        world.manager.shared.peers.proxy = "127.0.0.1"
        assert "onion" == await client.request("server.banner")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
async def test_an_unreadable_banner_file_is_replaced_by_the_greeting(tmp_path, content):
    file = tmp_path / "banner"
    if content is not None:
        file.write_bytes(content)
    async with session_world(banner_file=str(file)) as world:
        client = await world.connect()
        assert "You are connected" in await client.request("server.banner")


# -- costs


@pytest.mark.parametrize(
    ("method", "params", "cost"),
    [
        ("blockchain.block.header", [1], 0.25),
        ("blockchain.block.header", [1, 5], 1.25),
        ("blockchain.block.headers", [1, 5], 0.25),
        ("blockchain.block.headers", [1, 5, 9], 1.25),
        ("blockchain.block.headers", [1, 5000], 100),
        ("blockchain.estimatefee", [1], 2.1),
        ("blockchain.relayfee", [], 1),
        ("blockchain.headers.subscribe", [], 0.25),
        ("blockchain.scripthash.get_balance", [SH], 1 + 2 / 50),
        ("blockchain.scripthash.listunspent", [SH], 1 + 3 / 50),
        ("blockchain.scripthash.get_mempool", [SH], 0.25 + 1 / 50),
        ("blockchain.scripthash.get_history", [SH], 0.25 + 0.002 + 0.25 + 1 / 50),
        ("blockchain.scripthash.subscribe", [SH], 0.25 + 0.002 + 0.1 + 0.00002 * (67 * 3)),
        ("blockchain.transaction.broadcast", ["ab" * 50], 0.25 + 100 / 5000),
        ("blockchain.transaction.broadcast_package", [["ab" * 50] * 2], 0.25 + 200 / 5000),
        ("blockchain.transaction.get", [TXID], 1),
        ("blockchain.transaction.id_from_pos", [5, 1], 0.25 + 0.0003),
        ("blockchain.transaction.id_from_pos", [5, 1, True], 0.25 + 0.0003 + 3 / 2500),
        ("mempool.get_fee_histogram", [], 1),
        ("mempool.get_info", [], 1),
        ("server.add_peer", [{}], 100),
        ("server.banner", [], 0.5),
        ("server.donation_address", [], 0.1),
        ("server.features", [], 0.2),
        ("server.peers.subscribe", [], 1),
        ("server.ping", [], 0.1),
        ("server.version", [], 0.5),
    ],
)
@pytest.mark.usefixtures("free_way")
async def test_each_method_has_its_cost(method, params, cost):
    async with session_world(
        bw_unit_cost=10**15, cost_hard_limit=0, node=("submitpackage",)
    ) as world:
        world.db.utxos[HASHX] = [utxo("a", 1), utxo("b", 2)]
        world.db.histories[HASHX] = [(make_tx_hash("a"), 3), (make_tx_hash("b"), 4)]
        world.mempool.summaries[HASHX] = [Summary(make_tx_hash("c"), 1, False)]
        world.mempool.utxos[HASHX] = [utxo("c", 1)]
        client = await world.connect()
        if method in NEW_IN_1_6:
            await client.request("server.version", "x", "1.6")
            cost += 0.5
        await client.request(method, *params)
        assert pytest.approx(5.0 + cost, abs=0.0001) == world.session().cost
