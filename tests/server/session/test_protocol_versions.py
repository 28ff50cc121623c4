"""The highest protocol that is served, and the answers of protocol 1.6."""

import asyncio
import logging

import pytest

import electrumx
from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.protocol_versions import defined_version, maximum_of
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.jsonrpc import pulse
from electrumx.server.session import ElectrumX
from electrumx.server.session.shared.served_protocol import ServedProtocol
from tests.fakes import core31
from tests.fakes.formats import AuxPow, XayaNames
from tests.fakes.session_world import (
    FakeDaemon,
    FakeDB,
    Summary,
    make_tx_hash,
    script_hash,
    session_world,
    sha256,
    until,
)
from tests.server.session.conftest import NODE_METHODS
from tests.server.session.test_coin_sessions import chain_world

PACKAGES = ("submitpackage",)
PACKAGE_METHOD = "blockchain.transaction.broadcast_package"


async def negotiated(client, *requested):
    reply = await client.ask("server.version", "x", *requested)
    if "error" in reply:
        return reply["error"]["message"]
    assert reply["result"][0] == electrumx.version
    return reply["result"][1]


# -- versions


@pytest.mark.parametrize(
    ("version", "defined"),
    [
        ((1, 4), (1, 4)),
        ((1, 4, 2), (1, 4, 2)),
        ((1, 4, 9), (1, 4, 3)),
        ((1, 5), (1, 4, 3)),
        ((1, 6), (1, 6)),
        ((1, 6, 0), (1, 6)),
        ((1, 6, 1), (1, 6)),
        ((1, 7, 0), (1, 7)),
        ((2,), (1, 7)),
        ((0,), (0,)),
    ],
)
def test_an_undefined_version_has_the_methods_of_the_one_below(version, defined):
    assert defined == defined_version(version)


@pytest.mark.parametrize(
    ("text", "maximum"),
    [
        ("", None),
        (" ", None),
        ("1.4", (1, 4)),
        ("1.4.2", (1, 4, 2)),
        ("1.5", (1, 4, 3)),
        ("1.6", (1, 6, 0)),
        ("1.6.0", (1, 6, 0)),
        ("1.6.3", (1, 6, 0)),
        ("1.7", (1, 7, 0)),
        ("2.0", (1, 7, 0)),
    ],
)
def test_a_setting_means_a_defined_version(text, maximum):
    assert maximum == maximum_of(text)


@pytest.mark.parametrize("text", ["1.3", "x", "1", "-1.4", "1.6.-1"])
def test_a_setting_that_is_no_version_is_refused(text):
    with pytest.raises(ValueError, match=r"below 1\.4"):
        maximum_of(text)


# -- the maximum


@pytest.mark.parametrize(
    ("requested", "chosen"),
    [
        ([], "1.4"),
        (["1.4.3"], "1.4.3"),
        (["1.5"], "1.5"),
        (["1.6"], "1.6"),
        (["1.6.0"], "1.6.0"),
        ([["1.4", "1.6"]], "1.6"),
        ([["1.4", "1.6.0"]], "1.6.0"),
        ([["1.6.0", "1.8"]], "1.6.0"),
        ([["1.4", "2.0"]], "1.6.0"),
        ([[" 1.4", "1.6 "]], "1.6"),
        (["1.8"], "unsupported protocol version: 1.8"),
        ([["1.6.1", "1.9"]], "unsupported protocol version: ['1.6.1', '1.9']"),
        ([[1.4, 1.6]], "unsupported protocol version: [1.4, 1.6]"),
        (["x"], "unsupported protocol version: x"),
    ],
)
async def test_a_version_of_1_6_is_answered_as_the_side_spells_it_that_it_comes_from(
    requested, chosen
):
    async with session_world(node=PACKAGES, protocol_max=(1, 6, 0)) as world:
        assert chosen == await negotiated(await world.connect(), *requested)


@pytest.mark.parametrize(
    ("requested", "chosen"),
    [
        ([], "1.4"),
        (["1.4.3"], "1.4.3"),
        (["1.5"], "1.5"),
        (["1.6"], "1.6"),
        (["1.6.0"], "1.6.0"),
        (["1.7"], "1.7"),
        (["1.7.0"], "1.7.0"),
        ([["1.4", "1.6"]], "1.6"),
        ([["1.4", "1.7"]], "1.7"),
        ([["1.4", "1.7.0"]], "1.7.0"),
        ([["1.7.0", "1.8"]], "1.7.0"),
        ([["1.4", "2.0"]], "1.7.0"),
        (["1.8"], "unsupported protocol version: 1.8"),
        ([["1.7.1", "1.9"]], "unsupported protocol version: ['1.7.1', '1.9']"),
        ([[1.4, 1.6]], "unsupported protocol version: [1.4, 1.6]"),
        (["x"], "unsupported protocol version: x"),
    ],
)
async def test_a_version_of_1_7_is_answered_as_one_that_was_seen(requested, chosen):
    async with session_world(node=NODE_METHODS) as world:
        assert chosen == await negotiated(await world.connect(), *requested)


@pytest.mark.parametrize(
    ("methods", "version", "setting", "maximum"),
    [
        ((), 310000, None, "1.4.2"),
        (("testmempoolaccept",), 310000, None, "1.4.2"),
        (PACKAGES, 310000, None, "1.6.0"),
        (NODE_METHODS, 310000, None, "1.7.0"),
        (NODE_METHODS, 310000, (1, 6, 0), "1.6.0"),
        ((), 310000, (1, 7, 0), "1.7.0"),
        (PACKAGES, 270100, None, "1.4.2"),
        (PACKAGES, 310000, (1, 4), "1.4"),
        (PACKAGES, 310000, (1, 4, 3), "1.4.2"),
        ((), 310000, (1, 6, 0), "1.6.0"),
    ],
)
async def test_the_announced_protocol_is_served(methods, version, setting, maximum, caplog):
    caplog.set_level(logging.INFO)
    async with session_world(ready=False, node=methods, protocol_max=setting) as world:
        world.daemon.network_info["version"] = version
        world.mempool_event.set()
        await until(lambda: len(world.manager.listeners.open) == 2)
        client = await world.connect()
        features = await client.request("server.features")
        assert ("1.4", maximum) == (features["protocol_min"], features["protocol_max"])
        assert maximum == await negotiated(client, ["1.4", "9.9"])
        assert f"serving protocols 1.4 to {maximum}" in caplog.text
        peers = world.manager.shared.peers
        assert [electrumx.version, ["1.4", maximum]] == ElectrumX.server_version_args(
            peers.protocol_max
        )


async def test_another_node_changes_the_served_protocol_but_not_of_negotiated_sessions():
    async with session_world(node=PACKAGES) as world:
        before = await world.connect()
        assert "1.6.0" == await negotiated(before, ["1.4", "9.9"])
        world.daemon.methods.clear()
        world.daemon.url_changed.set()
        world.daemon.url_changed.clear()
        protocol = world.manager.shared.protocol
        await until(lambda: protocol.maximum == (1, 4, 2))
        assert (1, 4, 2) == world.manager.shared.peers.protocol_max
        assert "1.4.2" == await negotiated(await world.connect(), ["1.4", "9.9"])
        await before.request("mempool.get_info")


async def test_a_node_that_changes_before_wallets_are_served_is_asked():
    daemon = FakeDaemon()
    daemon.methods.update(PACKAGES)
    protocol = ServedProtocol(daemon, (1, 6, 0), logger=logging.getLogger("electrumx"))
    await protocol.start()
    assert protocol.maximum == (1, 6, 0)
    daemon.methods.clear()
    pulse(daemon.url_changed)
    following = asyncio.ensure_future(protocol.run())
    try:
        await until(lambda: protocol.maximum == (1, 4, 2))
    finally:
        following.cancel()


@pytest.mark.parametrize(
    ("indexes", "has_index"),
    [
        (["txindex", "txospenderindex"], True),
        (["txindex"], False),
        ([], False),
    ],
)
async def test_an_index_of_spenders_is_used_where_the_node_has_one(indexes, has_index):
    daemon = FakeDaemon()
    daemon.indexes = {name: {"synced": True, "best_block_height": 126} for name in indexes}
    protocol = ServedProtocol(daemon, (1, 7, 0), logger=logging.getLogger("electrumx"))
    await protocol.start()
    assert protocol.has_spender_index is has_index
    # bcoin and the Bitcoin SV node know no such method.

    async def getindexinfo():
        raise DaemonError({"code": -32601, "message": "Method not found"})

    daemon.getindexinfo = getindexinfo
    await protocol.probe()
    assert protocol.has_spender_index is False


async def test_a_node_that_changes_while_it_is_asked_is_asked_again():
    async with session_world(node=PACKAGES) as world:
        change, asked, go_on = world.daemon.url_changed, [], asyncio.Event()

        async def knows_method(method):
            asked.append(method)
            await go_on.wait()
            return len(asked) == 1

        world.daemon.knows_method = knows_method
        pulse(change)
        await until(lambda: len(asked) == 1)
        # The answer of the first node is on its way.
        pulse(change)
        go_on.set()
        await until(lambda: world.manager.shared.protocol.maximum == (1, 4, 2))


async def test_a_node_that_does_not_list_its_methods_does_not_keep_the_server_from_starting(caplog):
    async with session_world(ready=False) as world:

        async def knows_method(method):
            raise DaemonError({"code": -28, "message": "warming up"})

        world.daemon.knows_method = knows_method
        world.mempool_event.set()
        await until(lambda: len(world.manager.listeners.open) == 2)
        assert "1.4.2" == await negotiated(await world.connect(), ["1.4", "9.9"])
        assert "could not find out what the daemon can do" in caplog.text


async def test_what_is_pipelined_behind_the_version_is_answered_by_it():
    async with session_world(node=PACKAGES) as world:
        client = await world.connect()
        version = {"jsonrpc": "2.0", "method": "server.version", "params": ["x", "1.6"], "id": 1}
        relayfee = {"jsonrpc": "2.0", "method": "blockchain.relayfee", "id": 2}
        await client.send([version, relayfee])
        replies = {reply["id"]: reply for reply in await client.recv()}
        assert "1.6" == replies[1]["result"][1]
        assert -32601 == replies[2]["error"]["code"]


# -- protocol 1.6


@pytest.mark.parametrize(("name", "answer", "expected"), core31.PACKAGES, ids=lambda v: str(v)[:9])
async def test_a_package_is_answered_as_core_31_judges_it(world, client_16, name, answer, expected):
    async def submitpackage(raw_txs):
        if isinstance(answer, DaemonError):
            raise answer
        return answer

    world.daemon.submitpackage = submitpackage
    reply = await client_16.ask(PACKAGE_METHOD, ["aa", "bb"])
    if isinstance(answer, DaemonError):
        text = f"the tx package was rejected by network rules.\n\n{expected}."
        assert {"code": 1, "message": text} == reply["error"]
        return
    assert expected == reply["result"]
    assert answer == await client_16.request(PACKAGE_METHOD, ["aa", "bb"], True)
    assert 4 == world.session().txs_sent


async def test_more_transactions_than_a_package_has_do_not_reach_the_node(world, client_16):
    text = f"the tx package was rejected by network rules.\n\n{core31.COUNT}."
    assert (1, text) == await client_16.error(PACKAGE_METHOD, ["00"] * 26)
    assert [] == world.daemon.calls


async def test_headers_are_a_list(world, client_16):
    headers = [header.hex() for header in world.db.headers]
    method = "blockchain.block.headers"
    assert {"headers": headers[2:5], "count": 3, "max": 2016} == await client_16.request(
        method, 2, 3
    )
    assert {"headers": [], "count": 0, "max": 2016} == await client_16.request(method, 2, 0)
    assert {"headers": [], "count": 0, "max": 2016} == await client_16.request(method, 11, 5, 9)
    proven = await client_16.request(method, 2, 3, 8)
    last = await client_16.request("blockchain.block.header", 4, 8)
    assert headers[2:5] == proven["headers"]
    assert (last["branch"], last["root"]) == (proven["branch"], proven["root"])


async def test_2016_headers_fit_the_least_bound_of_replies():
    async with session_world(db=FakeDB(2020, 1), node=PACKAGES, max_send=350_000) as world:
        client = await world.connect()
        await negotiated(client, "1.6")
        answer = await client.request("blockchain.block.headers", 0, 2016)
        assert [header.hex() for header in world.db.headers[:2016]] == answer["headers"]


@pytest.mark.parametrize(("format_class", "size"), [(AuxPow, 80), (XayaNames, 85)])
async def test_headers_of_different_lengths_are_cut_one_by_one(format_class, size):
    worlds, headers = chain_world(format_class(1), node=PACKAGES)
    async with worlds as world:
        client = await world.connect()
        await negotiated(client, "1.6")
        method = "blockchain.block.headers"
        whole = await client.request(method, 3, 5)
        assert [header.hex() for header in headers[3:8]] == whole["headers"]
        proven = await client.request(method, 3, 5, 9)
        assert [header[:size].hex() for header in headers[3:8]] == proven["headers"]


async def test_the_relay_fee_has_moved(client_16):
    unknown = -32601, 'unknown method "blockchain.relayfee"'
    assert unknown == await client_16.error("blockchain.relayfee")


async def test_an_unset_mode_is_none(world, client_16):
    await client_16.request("blockchain.estimatefee", 2, "unset")
    assert ("estimatefee", 2, None) == world.daemon.calls[-1]


SH, HASHX = script_hash("alice")
LETTERS = {letter: sha256(letter.encode())[::-1] for letter in "ABCDE"}


@pytest.mark.parametrize("version", ["1.4", "1.6"])
async def test_the_status_vectors(version):
    async with session_world(node=PACKAGES) as world:
        client = await world.connect()
        await negotiated(client, version)
        world.db.histories[HASHX] = [(LETTERS["E"], 7)]
        # The order is the mempool's to keep: 0 before -1, then by txid as displayed.
        world.mempool.summaries[HASHX] = [
            Summary(LETTERS[letter], 1, letter in "CD") for letter in "ABDC"
        ]
        assert (
            "532c0437fa44d1d2abd0468c94d4e3c9a5358642ea66da041e4ec9bc4fc127ab"
            == await client.request("blockchain.scripthash.subscribe", SH)
        )
        tail = await client.request("blockchain.scripthash.get_mempool", SH)
        history = await client.request("blockchain.scripthash.get_history", SH)
        assert tail == history[1:]
        assert [(hash_to_hex_str(LETTERS[letter]), -(letter in "CD")) for letter in "ABDC"] == [
            (item["tx_hash"], item["height"]) for item in tail
        ]


# txid: height, and the status of each history
SEEN = [
    ("cc410036a4a7b2af4688154a97a4f5520b9256520c3d4ba235de31784827551f", 111),
    ("b023f98f5c834b25213803ab42de9e8d068be19b818078309fc42757cb827874", 111),
    ("36b0a00a6fae5d713c121671440b34e5e40ba38aa5a44463b25fcd6c248db89e", 111),
    ("1ce3a70dc11fe3c43069d4a5b8da1ca5f0d4e640684b9e4ae66417dc30956dc8", 0),
    ("2c445545b335053c69574482f8497d7c30193607222ebc46aed1881c32d3e122", 0),
    ("80e6a4ce73f5578348f709e5cc06e0d97fab440843d6758945ebed1300f6acb6", 0),
    ("95d810b7272f32cd6f58b72e5bf69c47e8c3318e19046e93438fae14a5b9af78", -1),
    ("c5e83389c81cddc8b9da8f8bb1c6186083ea8735de4a18f6e8799dfbc177155e", -1),
]


@pytest.mark.parametrize(
    ("history", "status"),
    [
        (SEEN, "883e3b8c771facb155b8cda2a000a0d53cff6c158562e8acb0c4be21d724c570"),
        (
            [("df7e70e5021544f4834bbee64a9e3789febc4be81470df629cad6ddb03320a5c", 0)],
            "092553dc4cc953b2b9129b8fdbc86529d3b58d44350b7537da8a5dc57e1f1d46",
        ),
    ],
)
async def test_the_status_of_a_history_that_was_seen(history, status):
    async with session_world(node=PACKAGES) as world:
        client = await world.connect()
        await negotiated(client, "1.6")
        world.db.histories[HASHX] = [(hex_str_to_hash(txid), h) for txid, h in history if h > 0]
        world.mempool.summaries[HASHX] = [
            Summary(hex_str_to_hash(txid), 1, h < 0) for txid, h in history if h <= 0
        ]
        assert status == await client.request("blockchain.scripthash.subscribe", SH)
        answer = await client.request("blockchain.scripthash.get_history", SH)
        assert history == [(item["tx_hash"], item["height"]) for item in answer]


# -- protocol 1.4.3


async def test_other_coins_have_no_names():
    async with session_world(node=NODE_METHODS) as world:
        client = await world.connect()
        await negotiated(client, ["1.4", "9.9"])
        assert -32601 == (await client.error("blockchain.name.get_value_proof", SH))[0]


@pytest.mark.parametrize(
    ("cp_height", "expiry", "heights"),
    [
        (0, None, [9, 8, 3, 2]),
        (0, 30, [9, 8, 3, 2]),
        (0, 4, [9, 8]),
        (8, None, [9, 8]),
        (5, None, [9, 8, 3]),
        (9, 1, [9]),
    ],
)
async def test_the_value_of_a_name_is_proven(cp_height, expiry, heights, monkeypatch):
    worlds, _headers = chain_world(XayaNames(1))
    async with worlds as world:
        monkeypatch.setattr(world.env.coin, "NAME_EXPIRY_BLOCKS", expiry)
        world.db.histories[HASHX] = [(world.db.block_txs[h][1], h) for h in (2, 3, 8, 9)]
        # An unconfirmed transaction proves nothing.
        world.mempool.summaries[HASHX] = [Summary(make_tx_hash("u"), 1, False)]
        client = await world.connect()
        assert "1.4.3" == await negotiated(client, ["1.4", "1.4.9"])
        answer = await client.request("blockchain.name.get_value_proof", SH, cp_height)
        assert [SH] == list(answer)
        proofs = answer[SH]
        assert heights == [proof["height"] for proof in proofs]
        for proof in proofs:
            height = proof["height"]
            txid = hash_to_hex_str(world.db.block_txs[height][1])
            merkle = await client.request("blockchain.transaction.get_merkle", txid, height)
            assert height == merkle.pop("block_height")
            assert (merkle, "beef" * 4) == (proof["tx_merkle"], proof["tx"])
            assert ("header" in proof) == (height <= cp_height)
            if height <= cp_height:
                header = await client.request("blockchain.block.header", height, cp_height)
                assert header == proof["header"]


async def test_proofs_of_a_name_check_their_arguments():
    worlds, _headers = chain_world(XayaNames(1))
    async with worlds as world:
        client = await world.connect()
        await negotiated(client, "1.4.3")
        method = "blockchain.name.get_value_proof"
        assert (1, "x should be a non-negative integer") == await client.error(method, SH, "x")
        assert (1, "zz is not a valid script hash") == await client.error(method, "zz")
        assert {SH: []} == await client.request(method, SH)
