"""The daemon layer against a node that misbehaves, and against an object in place of aiohttp."""

import asyncio
import json
import logging

import aiohttp
import pytest
from aiohttp import web

from electrumx.lib.coins import Coin
from electrumx.lib.errors import ElectrumXError, OperatorError
from electrumx.server.daemon import info_cache, tx_requests
from electrumx.server.daemon import retry as retry_module
from electrumx.server.daemon.client import BoundedResponse, Daemon, DaemonError
from electrumx.server.daemon.responses import SMALL_REPLY, Reading, ReplyTooLargeError, parse_json
from electrumx.server.daemon.retry import OUTAGE_LOG_SECS, OutageLog, Retry
from electrumx.server.daemon.variants import DashDaemon
from tests.fakes.chain import GENESIS
from tests.fakes.fake_node import (
    METHOD_NOT_FOUND,
    PASSWORD,
    USER,
    FakeNode,
    Fault,
    RPCFault,
    to_hex,
)

COIN = Coin.lookup_coin_class("Bitcoin", "regtest")
URLS = ["http://rpc_user:rpc_pass@127.0.0.1:8332/", "http://rpc_user:rpc_pass@192.168.0.1:8332/"]

BLOCKS = [GENESIS] + [n.to_bytes(4, "little") + bytes([n]) * 76 + b"\x00" for n in range(1, 6)]


class Clock:
    """Takes the place of the module time in the modules that read it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    result = Clock()
    for module in (info_cache, retry_module):
        monkeypatch.setattr(module, "time", result)
    return result


@pytest.fixture
async def node():
    async with FakeNode(BLOCKS) as fake_node:
        yield fake_node


def make_daemon(*urls, cls=Daemon, **kwargs):
    kwargs = {"init_retry": 0.002, "max_retry": 0.01, **kwargs}
    return cls(COIN, ",".join(urls), **kwargs)


@pytest.fixture
async def daemon(node):
    async with make_daemon(node.url) as result:
        yield result


def messages(caplog, text, level=None):
    return [
        record.message
        for record in caplog.records
        if text in record.message and (level is None or record.levelno == level)
    ]


# -- URLs


def test_urls_are_logged_without_credentials_and_the_first_is_current(caplog):
    caplog.set_level(logging.INFO)
    daemon = Daemon(COIN, ",".join(URLS))
    assert "daemon #1 at 127.0.0.1:8332/ (current)" in caplog.messages
    assert "daemon #2 at 192.168.0.1:8332/" in caplog.messages
    assert "rpc_pass" not in caplog.text
    assert daemon.current_url() == URLS[0]
    assert daemon.logged_url() == "127.0.0.1:8332/"
    assert daemon.logged_url(URLS[1]) == "192.168.0.1:8332/"


def test_a_bad_url_in_a_list_leaves_the_old_list_in_use():
    daemon = Daemon(COIN, ",".join(URLS))
    daemon.failover()
    with pytest.raises(OperatorError):
        daemon.set_url("http://a:b@10.0.0.1:8332/,no-credentials-here")
    assert daemon.urls == URLS
    assert daemon.current_url() == URLS[1]


@pytest.mark.parametrize(
    "login",
    [
        "u:1/s",
        "u:p/s",
        "u:12?s",
        "u:12#s",
        "u:a@b",
        "u:a%b",
        "u:[a]\\b",
        "u:a://b",
        "u/1:p",
        "u:p w",
    ],
)
async def test_a_login_of_any_characters_reaches_the_node_that_the_url_names(node, login):
    async with make_daemon(f"{login}@127.0.0.1:{node.port}") as daemon:
        assert await daemon.height() == 5
        await daemon.raw_blocks(await daemon.block_hex_hashes(1, 1))
        assert daemon.logged_url() == f"127.0.0.1:{node.port}/"
    assert set(node.authorizations) == {login}
    assert all(path.startswith("/rest/") for path in node.rest_paths)


async def test_an_encoded_login_is_decoded(node):
    async with make_daemon(f"a%40b:c%2Fd@127.0.0.1:{node.port}") as daemon:
        await daemon.height()
    assert node.authorizations == ["a@b:c/d"]


def test_a_new_list_starts_at_its_first_url():
    daemon = Daemon(COIN, ",".join(URLS))
    daemon.failover()
    daemon.set_url(",".join(reversed(URLS)))
    assert daemon.current_url() == URLS[1]


def test_failover_goes_round_and_does_nothing_with_one_url(caplog):
    caplog.set_level(logging.INFO)
    daemon = Daemon(COIN, ",".join(URLS))
    assert daemon.failover()
    assert daemon.current_url() == URLS[1]
    assert "failing over to 192.168.0.1:8332/" in caplog.messages
    assert daemon.failover()
    assert daemon.current_url() == URLS[0]
    daemon.set_url(URLS[1])
    assert not daemon.failover()
    assert daemon.current_url() == URLS[1]


# -- Calls


async def test_height_is_cached_and_none_before_the_first_time(daemon):
    assert daemon.cached_height() is None
    assert await daemon.height() == 5
    assert daemon.cached_height() == 5


async def test_requests_carry_credentials_and_have_the_old_form(node, daemon):
    await daemon.height()
    await daemon.block_hex_hashes(1, 2)
    assert set(node.authorizations) == {f"{USER}:{PASSWORD}"}
    single, batch = node.bodies
    assert set(single) == {"method", "id"}
    assert [set(item) for item in batch] == [{"method", "params", "id"}] * 2
    ids = [single["id"]] + [item["id"] for item in batch]
    assert len(set(ids)) == 3


async def test_block_hashes_and_raw_blocks_come_in_order(node, daemon):
    hashes = await daemon.block_hex_hashes(1, 4)
    assert hashes == [to_hex(node.block_hash(raw)) for raw in BLOCKS[1:5]]
    wanted = hashes[::-1]
    assert list(await daemon.raw_blocks(wanted)) == BLOCKS[1:5][::-1]


async def test_empty_batches_are_answered_without_a_request(node, daemon):
    assert await daemon.block_hex_hashes(3, 0) == []
    assert list(await daemon.raw_blocks([])) == []
    assert await daemon.getrawtransactions([]) == []
    assert node.bodies == []


async def test_a_batch_answered_in_another_order_is_put_in_ours(node, daemon, monkeypatch):
    reply_to = node.reply_to

    def shuffled(body, fault):
        status, reason, content_type, reply = reply_to(body, fault)
        return status, reason, content_type, json.dumps(json.loads(reply)[::-1]).encode()

    monkeypatch.setattr(node, "reply_to", shuffled)
    hashes = await daemon.block_hex_hashes(0, 6)
    assert hashes == [to_hex(node.block_hash(raw)) for raw in BLOCKS]


async def test_big_blocks_survive_the_way_through_threads(node, daemon):
    big = [bytes(80) + bytes([n]) * 1_500_000 for n in (1, 2)]
    node.parse_txs = False
    node.block_hash = lambda raw: raw[-32:]
    node.blocks = big
    hashes = await daemon.block_hex_hashes(0, 2)
    assert list(await daemon.raw_blocks(hashes)) == big


async def test_an_unknown_block_in_a_batch_is_a_daemon_error_listing_the_errors(daemon):
    hashes = await daemon.block_hex_hashes(0, 1)
    with pytest.raises(DaemonError) as excinfo:
        await daemon.raw_blocks([hashes[0], "00" * 32])
    assert excinfo.value.args[0] == [{"code": -5, "message": "Block not found"}]


async def test_a_single_error_is_a_daemon_error_with_the_error_object(daemon):
    with pytest.raises(DaemonError) as excinfo:
        await daemon.deserialised_block("00" * 32)
    assert excinfo.value.args[0] == {"code": -5, "message": "Block not found"}
    assert isinstance(excinfo.value, ElectrumXError)


async def test_deserialised_block_is_the_verbose_form(node, daemon):
    (block_hash,) = await daemon.block_hex_hashes(2, 1)
    assert (await daemon.deserialised_block(block_hash))["height"] == 2
    assert node.calls[-1] == ("getblock", [block_hash, True])


@pytest.mark.parametrize("answer", [None, 5, "xyz", "abc", {"hex": "00"}])
async def test_a_raw_block_that_is_not_hex_is_a_daemon_error(node, daemon, answer):
    node.overrides["getblock"] = lambda *_args: answer
    with pytest.raises(DaemonError):
        await daemon.raw_blocks(["00" * 32])


@pytest.mark.parametrize(
    ("method", "call", "answer"),
    [
        ("getblockcount", Daemon.height, "5"),
        ("getblockcount", Daemon.height, True),
        ("getrawmempool", Daemon.mempool_hashes, {"txids": []}),
        ("getrawmempool", Daemon.mempool_hashes, ["aa", 5]),
        ("getblockhash", lambda d: d.block_hex_hashes(0, 1), 7),
        ("getnetworkinfo", Daemon.getnetworkinfo, []),
        ("getnetworkinfo", Daemon.relayfee, {}),
        ("getmempoolinfo", Daemon.getmempoolinfo, 1),
        ("getindexinfo", Daemon.getindexinfo, "none"),
        ("estimatesmartfee", lambda d: d.estimatefee(2), 0.1),
        ("estimatesmartfee", lambda d: d.estimatefee(2), {"feerate": "much"}),
        ("getblock", lambda d: d.deserialised_block("00"), "00"),
        ("getblockheader", lambda d: d.getblockheader("00"), "00"),
        ("sendrawtransaction", lambda d: d.broadcast_transaction("00"), None),
        ("testmempoolaccept", lambda d: d.testmempoolaccept(["00"]), ["00"]),
        ("submitpackage", lambda d: d.submitpackage(["00"]), []),
        ("gettxspendingprevout", lambda d: d.gettxspendingprevout("00", 0), []),
    ],
)
async def test_a_result_of_another_form_is_a_daemon_error(node, daemon, method, call, answer):
    node.overrides[method] = lambda *_args: answer
    with pytest.raises(DaemonError, match="makes no sense"):
        await call(daemon)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"initialblockdownload": True, "blocks": 5, "headers": 900}, 900),
        ({"initialblockdownload": True, "blocks": 5, "headers": 5}, None),
        ({"initialblockdownload": False, "blocks": 5, "headers": 900}, None),
        ({"initialblockdownload": "yes", "blocks": 5, "headers": 900}, None),
        ({"initialblockdownload": True, "blocks": 5, "headers": 1 << 80}, None),
        ({"initialblockdownload": True, "blocks": 5, "headers": 9.5}, None),
        ({}, None),
        ("none", None),
    ],
)
async def test_a_node_that_downloads_the_chain_names_its_target(node, daemon, answer, expected):
    node.overrides["getblockchaininfo"] = lambda *_args: answer
    assert await daemon.sync_target() == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"size_on_disk": 850_000_000_000}, 850_000_000_000),
        ({"size_on_disk": -1}, None),
        ({"size_on_disk": 1 << 70}, None),
        ({"size_on_disk": "5"}, None),
        ({}, None),
        ([], None),
    ],
)
async def test_a_node_states_the_size_of_its_blocks(node, daemon, answer, expected):
    node.overrides["getblockchaininfo"] = lambda *_args: answer
    assert await daemon.size_on_disk() == expected


async def test_a_node_without_that_call_has_neither_target_nor_size(daemon):
    # The fake node does not have it.
    assert await daemon.sync_target() is None
    assert await daemon.size_on_disk() is None


async def test_a_wrong_height_is_not_remembered(node, daemon):
    await daemon.height()
    node.overrides["getblockcount"] = lambda: "many"
    with pytest.raises(DaemonError):
        await daemon.height()
    assert daemon.cached_height() == 5


async def test_raw_transactions_unknown_to_the_node_are_none_or_an_error(node, daemon):
    node.mempool = {bytes([n]) * 32: bytes([n]) * 9 for n in (1, 2)}
    hashes = ["01" * 32, "ff" * 32, "02" * 32]
    assert await daemon.getrawtransactions(hashes) == [b"\x01" * 9, None, b"\x02" * 9]
    with pytest.raises(DaemonError) as excinfo:
        await daemon.getrawtransactions(hashes, replace_errs=False)
    assert [error["code"] for error in excinfo.value.args[0]] == [-5]
    known = await daemon.getrawtransactions([hashes[2], hashes[0]], replace_errs=False)
    assert known == [b"\x02" * 9, b"\x01" * 9]


async def test_raw_transactions_that_are_not_hex_count_as_unknown(node, daemon):
    node.overrides["getrawtransaction"] = lambda *_args: "no hex"
    assert await daemon.getrawtransactions(["00" * 32]) == [None]
    with pytest.raises(DaemonError):
        await daemon.getrawtransactions(["00" * 32], replace_errs=False)


async def test_verbose_is_sent_as_an_integer(node, daemon):
    node.overrides["getrawtransaction"] = lambda _hash, verbose: {"hex": "00"} if verbose else "00"
    assert await daemon.getrawtransaction("ab", True) == {"hex": "00"}
    await daemon.getrawtransaction("ab")
    assert [params for _method, params in node.calls] == [["ab", 1], ["ab", 0]]
    assert [type(params[1]) for _method, params in node.calls] == [int, int]


async def test_a_raw_transaction_that_is_no_text_is_a_daemon_error(node, daemon):
    node.overrides["getrawtransaction"] = lambda *_args: {"hex": "00"}
    with pytest.raises(DaemonError, match="getrawtransaction makes no sense"):
        await daemon.getrawtransaction("ab")


async def test_a_broadcast_transaction_reaches_the_mempool(daemon):
    raw = "01000000" + "01" + "11" * 32 + "00000000" + "00" + "ffffffff"
    raw += "01" + "0500000000000000" + "0151" + "00000000"
    tx_hash = await daemon.broadcast_transaction(raw)
    assert await daemon.mempool_hashes() == [tx_hash]
    assert await daemon.getrawtransaction(tx_hash) == raw
    spender = await daemon.gettxspendingprevout("11" * 32, 0)
    assert spender["spendingtxid"] == tx_hash
    assert await daemon.testmempoolaccept([raw]) == [{"txid": tx_hash, "allowed": True}]
    assert (await daemon.submitpackage([raw]))["package_msg"] == "success"
    with pytest.raises(DaemonError, match="TX decode failed"):
        await daemon.broadcast_transaction("00")


async def test_a_transaction_error_is_not_retried(node, daemon):
    with pytest.raises(DaemonError, match="TX decode failed"):
        await daemon.broadcast_transaction("zz")
    assert node.counts()["sendrawtransaction"] == 1


# -- Fee estimates and node information


async def test_estimatefee_uses_the_smart_one_and_probes_it_once(node, daemon):
    assert await daemon.estimatefee(3) == 0.0001
    assert await daemon.estimatefee(2, "ECONOMICAL") == 0.0001
    assert node.calls == [
        ("estimatesmartfee", []),
        ("estimatesmartfee", [3]),
        ("estimatesmartfee", [2, "ECONOMICAL"]),
    ]


async def test_estimatefee_without_data_is_minus_one(node, daemon):
    node.overrides["estimatesmartfee"] = lambda _n: {"errors": ["Insufficient data"]}
    assert await daemon.estimatefee(3) == -1


async def test_estimatefee_falls_back_to_the_old_method(node, daemon):
    node.overrides["estimatesmartfee"] = None
    node.overrides["estimatefee"] = lambda *args: 0.001 * len(args)
    assert await daemon.estimatefee(3) == 0.001
    assert await daemon.estimatefee(3, "X") == 0.002
    assert node.counts() == {"estimatesmartfee": 1, "estimatefee": 2}


async def test_estimatefee_of_a_node_without_any_estimate_is_minus_one(node, daemon):
    node.overrides["estimatesmartfee"] = None
    assert await daemon.estimatefee(3) == -1

    def broken(_n):
        raise RPCFault(-1, "broken")

    node.overrides["estimatefee"] = broken
    with pytest.raises(DaemonError, match="broken"):
        await daemon.estimatefee(3)


async def test_network_info_is_asked_for_once_a_minute(node, daemon, clock):
    infos = await asyncio.gather(*(daemon.getnetworkinfo() for _ in range(20)))
    assert infos == [node.network_info] * 20
    assert node.counts() == {"getnetworkinfo": 1}
    infos[0]["version"] = "changed by the caller"
    clock.now += 59
    assert (await daemon.getnetworkinfo())["version"] == 310000
    clock.now += 2
    node.network_info = {**node.network_info, "relayfee": 2}
    assert await daemon.relayfee() == 2
    assert node.counts() == {"getnetworkinfo": 2}


async def test_a_failed_network_info_is_not_remembered(node, daemon):
    def broken():
        raise RPCFault(-1, "broken")

    node.overrides["getnetworkinfo"] = broken
    with pytest.raises(DaemonError):
        await daemon.relayfee()
    del node.overrides["getnetworkinfo"]
    assert await daemon.relayfee() == 0.00001


async def test_mempool_info_is_asked_for_once_a_second(node, daemon, clock):
    node.mempool[bytes(32)] = b"\0"
    assert (await daemon.getmempoolinfo())["size"] == 1
    node.mempool.clear()
    assert (await daemon.getmempoolinfo())["size"] == 1
    clock.now += 1.1
    assert (await daemon.getmempoolinfo())["size"] == 0


@pytest.mark.parametrize(
    ("mempool_info", "network_info", "expected"),
    [
        # Bitcoin Core; Litecoin Core 0.21; bcoin and the Bitcoin SV node; none of all this
        ((3e-6, 2e-6, 1e-6), {}, (3e-6, 2e-6, 1e-6)),
        ((3e-6, 2e-6, None), {"incrementalfee": 5e-6}, (3e-6, 2e-6, 5e-6)),
        ((3e-6, None, None), {"relayfee": 4e-6}, (3e-6, 4e-6, 4e-6)),
        ((0, None, None), {"relayfee": 0, "incrementalfee": 0}, (0, 0, 0)),
        (None, {"relayfee": 4e-6}, (4e-6, 4e-6, 4e-6)),
        ((-1, "x", True), {"relayfee": 4e-6, "incrementalfee": []}, (4e-6, 4e-6, 4e-6)),
    ],
)
async def test_fees_that_a_node_does_not_state_follow_from_others(
    node, daemon, mempool_info, network_info, expected
):
    names = ("mempoolminfee", "minrelaytxfee", "incrementalrelayfee")

    def getmempoolinfo():
        if mempool_info is None:
            raise RPCFault(METHOD_NOT_FOUND, "Method not found")
        found = dict(zip(names, mempool_info, strict=True))
        return {name: value for name, value in found.items() if value is not None}

    node.overrides["getmempoolinfo"] = getmempoolinfo
    node.network_info = network_info
    assert await daemon.mempool_fees() == dict(zip(names, expected, strict=True))


async def test_fees_of_a_failing_node_are_an_error(node, daemon):
    def broken():
        raise RPCFault(-1, "broken")

    node.overrides["getmempoolinfo"] = broken
    with pytest.raises(DaemonError, match="broken"):
        await daemon.mempool_fees()
    node.overrides["getmempoolinfo"] = dict
    node.network_info = {}
    with pytest.raises(DaemonError):
        await daemon.mempool_fees()


# -- Checks at start


async def test_a_complete_txindex_passes_silently(daemon, caplog):
    await daemon.check_indexes()
    assert caplog.records == []


async def test_the_error_without_txindex_names_the_setting(node, daemon):
    node.indexes = {}
    with pytest.raises(OperatorError, match="txindex=1") as excinfo:
        await daemon.check_indexes()
    assert "\n" not in str(excinfo.value)
    assert PASSWORD not in str(excinfo.value)


async def test_an_unfinished_txindex_only_warns(node, daemon, caplog):
    node.indexes["txindex"]["synced"] = False
    await daemon.check_indexes()
    assert messages(caplog, "txindex", logging.WARNING)


async def test_a_node_that_cannot_list_indexes_is_not_checked(node, daemon, caplog):
    caplog.set_level(logging.INFO)
    node.overrides["getindexinfo"] = None
    await daemon.check_indexes()
    assert messages(caplog, "not checked", logging.INFO)


async def test_another_error_of_the_index_check_is_not_swallowed(node, daemon):
    def broken():
        raise RPCFault(-1, "broken")

    node.overrides["getindexinfo"] = broken
    with pytest.raises(DaemonError):
        await daemon.check_indexes()


@pytest.mark.parametrize(
    ("version", "minimum", "good"),
    [
        (280000, "28.0", True),
        (270200, "28.0", False),
        (310001, "31.0.1", True),
        (310000, "31.0.1", False),
        (1, None, True),
    ],
)
async def test_the_version_is_compared_with_the_coins_minimum(node, version, minimum, good):
    coin = type("Demanding", (COIN,), {"MIN_REQUIRED_DAEMON_VERSION": minimum})
    node.network_info["version"] = version
    async with Daemon(coin, node.url) as daemon:
        if good:
            await daemon.check_version()
        else:
            with pytest.raises(OperatorError, match=f"at least {minimum} is needed"):
                await daemon.check_version()


# -- The height pulse


async def test_a_changed_height_wakes_who_waits_and_an_equal_one_does_not(node, daemon):
    await daemon.height()
    waiter = asyncio.ensure_future(daemon.height_changed.wait())
    await asyncio.sleep(0)
    await daemon.height()
    # A woken waiter needs a few turns of the loop.
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done()
    node.append(b"\x09" * 80 + b"\x00")
    await daemon.height()
    assert await asyncio.wait_for(waiter, 120)
    assert not daemon.height_changed.is_set()


async def test_a_lower_height_wakes_too(node, daemon):
    await daemon.height()
    waiter = asyncio.ensure_future(daemon.height_changed.wait())
    await asyncio.sleep(0)
    node.fork(3, [])
    await daemon.height()
    assert await asyncio.wait_for(waiter, 120)
    assert daemon.cached_height() == 2


# -- Retrying


@pytest.mark.parametrize(
    ("fault", "text", "recovery"),
    [
        (Fault.WARMING_UP, "starting up checking blocks", "running normally"),
        (Fault.WORK_QUEUE, "daemon service refused: Work queue depth exceeded", "running normally"),
        (Fault.UNAUTHORIZED, "daemon service refused: Unauthorized", "running normally"),
        (Fault.DISCONNECT, "disconnected", "connection restored"),
        (Fault.RESET, "connection reset", "connection restored"),
        (Fault.DISCONNECT_MID_REPLY, "daemon error: ", "running normally"),
        (Fault.GARBAGE, "malformed reply", "running normally"),
        (Fault.NOT_HTTP, "daemon error: ", "running normally"),
        (Fault.WRONG_SHAPE, "malformed reply", "running normally"),
        (Fault.OTHER_SHAPE, "malformed reply", "running normally"),
        (Fault.ERROR_IS_TEXT, "malformed reply", "running normally"),
        (Fault.PARSE_ERROR, "received RPC_PARSE_ERROR (Parse error)", "running normally"),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
async def test_a_failure_is_logged_once_retried_and_its_end_logged(
    node, daemon, caplog, fault, text, recovery, batch
):
    caplog.set_level(logging.INFO)
    node.fail_next(fault, fault, fault)
    if batch:
        assert len(await daemon.block_hex_hashes(0, 3)) == 3
    else:
        assert await daemon.height() == 5
    assert len(messages(caplog, text, logging.ERROR)) == 1
    assert messages(caplog, text)[0].endswith(".  Retrying occasionally...")
    assert messages(caplog, recovery, logging.INFO) == [recovery]
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("fault", [Fault.SHORT_BATCH, Fault.ITEM_PARSE_ERROR])
async def test_a_batch_with_a_missing_or_unparsed_item_is_repeated(node, daemon, fault):
    node.fail_next(fault)
    assert len(await daemon.block_hex_hashes(0, 3)) == 3
    assert len(node.bodies) == 2


async def test_a_whole_batch_is_repeated_while_the_node_warms_up_even_if_errors_are_replaced(
    node, daemon
):
    node.mempool = {bytes([1]) * 32: b"\x01"}
    node.fail_next(Fault.WARMING_UP)
    assert await daemon.getrawtransactions(["01" * 32]) == [b"\x01"]


async def test_a_batch_refused_as_a_whole_is_a_daemon_error(node, daemon, monkeypatch):
    reply = {"result": None, "error": {"code": -32600, "message": "no batches"}, "id": None}
    monkeypatch.setattr(
        node, "reply_to", lambda *_args: (500, "x", "application/json", json.dumps(reply).encode())
    )
    with pytest.raises(DaemonError, match="no batches"):
        await daemon.block_hex_hashes(0, 3)


async def test_the_logged_request_of_a_parse_error_is_capped(node, daemon, caplog):
    node.overrides["sendrawtransaction"] = lambda _raw: "hash"
    node.fail_next(Fault.PARSE_ERROR)
    await daemon.broadcast_transaction("ab" * 500_000)
    (line,) = messages(caplog, "request was", logging.ERROR)
    assert "sendrawtransaction" in line
    assert len(line) < 1000


async def test_a_refused_connection_is_retried_until_the_node_is_back(node, daemon, caplog):
    caplog.set_level(logging.INFO)
    await node.stop()
    task = asyncio.ensure_future(daemon.height())
    while not messages(caplog, "connection problem - check your daemon is running"):
        await asyncio.sleep(0.001)
    await node.start()
    assert await asyncio.wait_for(task, 120) == 5
    assert messages(caplog, "connection restored")


async def test_a_timeout_is_retried_and_has_no_recovery_message(node, caplog):
    caplog.set_level(logging.INFO)

    class Impatient(Daemon):
        # Long enough for the second try on a machine that is busy
        TIMEOUT_SECS = 3

    node.fail_next(Fault.HANG)
    async with make_daemon(node.url, cls=Impatient) as daemon:
        assert await daemon.height() == 5
    assert len(messages(caplog, "timeout error", logging.ERROR)) == 1
    assert not messages(caplog, "running normally")
    assert not messages(caplog, "connection restored")


async def test_a_retrying_request_can_be_cancelled(node, daemon):
    node.fail_always(Fault.WARMING_UP)
    task = asyncio.ensure_future(daemon.height())
    while len(node.bodies) < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_json_with_parameters_in_its_content_type_is_json(node, daemon):
    node.content_type = "application/json; charset=utf-8"
    assert await daemon.height() == 5


async def test_a_huge_reply_is_given_up_as_a_daemon_error(node):
    class SmallResponse(BoundedResponse):
        max_bytes = 50_000

    class Cautious(Daemon):
        RESPONSE_CLASS = SmallResponse

    node.overrides["getrawmempool"] = lambda: ["00" * 32] * 10_000
    async with make_daemon(node.url, cls=Cautious) as daemon:
        with pytest.raises(DaemonError, match="larger than 50,000"):
            await daemon.mempool_hashes()
        assert await daemon.height() == 5
        node.overrides["getblock"] = lambda *_args: "00" * 100_000
        with pytest.raises(DaemonError) as excinfo:
            await daemon.raw_blocks(["00"])
        assert isinstance(excinfo.value.args[0], list)


async def test_a_number_of_any_size_can_be_passed_on(node):
    node.overrides["protx"] = lambda number: str(number)
    async with make_daemon(node.url, cls=DashDaemon) as daemon:
        assert await daemon.protx((1 << 70,)) == str(1 << 70)


async def test_a_listing_is_binary_in_every_form_of_the_reply(node, daemon):
    node.mempool = {n.to_bytes(32, "big"): b"" for n in range(5000)}
    listing = await daemon.mempool_listing()
    assert listing.hashes == list(node.mempool)
    node.overrides["getrawmempool"] = lambda: ["00" * 31 + "ff", "é", "00"]
    assert (await daemon.mempool_listing()).hashes == [b"\xff" + bytes(31)]
    node.overrides["getrawmempool"] = lambda: {"txids": []}
    with pytest.raises(DaemonError):
        await daemon.mempool_listing()


async def test_a_listing_is_asked_for_until_it_comes(node, daemon):
    node.fail_next(Fault.WARMING_UP, Fault.GARBAGE, Fault.NULL_RESULT, Fault.OTHER_SHAPE)
    with pytest.raises(DaemonError):
        await daemon.mempool_listing()
    assert (await daemon.mempool_listing()).hashes == []


async def test_a_batch_of_transactions_that_is_too_large_is_asked_for_in_parts(
    node, daemon, monkeypatch
):
    reading = Reading(parse_json, max_bytes=50_000)
    monkeypatch.setattr(tx_requests, "AS_TX_BATCH", reading)
    txs = {bytes([n]) * 32: bytes([n]) * 10_000 for n in range(1, 8)}
    # Larger than allowed for a batch, which one alone may be
    txs[bytes(32)] = bytes(60_000)
    node.mempool = txs
    hex_hashes = [to_hex(tx_hash) for tx_hash in txs]
    unknown = "77" * 32
    expected = [*txs.values(), None]
    assert await daemon.getrawtransactions([*hex_hashes, unknown]) == expected


async def test_a_transaction_that_is_too_large_alone_counts_as_unknown_and_is_named_once(
    node, caplog
):
    class SmallResponse(BoundedResponse):
        max_bytes = 50_000

    class Cautious(Daemon):
        RESPONSE_CLASS = SmallResponse

    node.mempool = {bytes(32): bytes(60_000), bytes([1] * 32): b"1"}
    hex_hashes = [to_hex(tx_hash) for tx_hash in node.mempool]
    async with make_daemon(node.url, cls=Cautious) as daemon:
        for _ in range(3):
            assert await daemon.getrawtransactions(hex_hashes) == [None, b"1"]
        [line] = messages(caplog, hex_hashes[0], logging.WARNING)
        assert "larger than 50,000 bytes" in line
        with pytest.raises(DaemonError, match="larger than 50,000"):
            await daemon.getrawtransactions(hex_hashes, replace_errs=False)


async def test_a_verbose_transaction_is_read_up_to_the_callers_limit(node, daemon):
    node.overrides["getrawtransaction"] = lambda *_args: {"hex": "00" * 5000}
    assert await daemon.getrawtransaction("ab", True, max_bytes=11_000) == {"hex": "00" * 5000}
    with pytest.raises(ReplyTooLargeError, match="answer to getrawtransaction is larger than 9,"):
        await daemon.getrawtransaction("ab", True, max_bytes=9_000)


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (Daemon.height, "getblockcount"),
        (Daemon.getnetworkinfo, "getnetworkinfo"),
        (Daemon.getindexinfo, "getindexinfo"),
        (lambda daemon: daemon.block_hex_hashes(0, 1), "getblockhash"),
        (lambda daemon: daemon.estimatefee(2), "estimatesmartfee"),
        (lambda daemon: daemon.call_aside(daemon.urls[0], "waitfornewblock", (1,), 30), "waitfor"),
    ],
)
async def test_an_answer_is_read_up_to_the_limit_of_its_method(node, daemon, call, method):
    for name in ("getblockcount", "getnetworkinfo", "getindexinfo", "getblockhash"):
        node.overrides[name] = lambda *_args: "0" * (SMALL_REPLY + 100_000)
    for name in ("estimatesmartfee", "waitfornewblock"):
        node.overrides[name] = lambda *_args: "0" * (SMALL_REPLY + 100_000)
    with pytest.raises(ReplyTooLargeError, match=f"answer to {method}.* is larger than 1,0"):
        await call(daemon)


async def test_a_batch_may_be_answered_at_greater_length(node, daemon):
    node.overrides["getblockhash"] = lambda _height: "0" * 900
    assert len(await daemon.block_hex_hashes(0, 3000)) == 3000


@pytest.mark.parametrize("height", [-1, 1 << 32, 10**30, 5.0])
async def test_a_height_that_cannot_be_is_a_daemon_error(node, daemon, height):
    node.overrides["getblockcount"] = lambda: height
    with pytest.raises(DaemonError, match="getblockcount makes no sense"):
        await daemon.height()


async def test_a_long_refusal_is_cut_off_in_the_log(node, daemon, caplog, monkeypatch):
    reply_to = node.reply_to
    replies = [(500, "x", "text/html", b"<b>no\n</b>" * 100_000)]
    monkeypatch.setattr(
        node, "reply_to", lambda *args: replies.pop() if replies else reply_to(*args)
    )
    assert await daemon.height() == 5
    (line,) = messages(caplog, "daemon service refused: <b>no </b>")
    assert len(line) < 500
    assert "\n" not in line


async def test_no_more_requests_than_allowed_are_in_flight(node):
    node.gate.clear()
    async with make_daemon(node.url, max_workqueue=3) as daemon:
        tasks = [asyncio.ensure_future(daemon.height()) for _ in range(12)]
        while node.in_flight < 3:
            await asyncio.sleep(0.001)
        node.gate.set()
        assert await asyncio.gather(*tasks) == [5] * 12
    assert node.most_in_flight == 3


async def test_a_request_between_attempts_holds_no_slot(node):
    node.fail_next(Fault.WARMING_UP)
    async with make_daemon(node.url, max_workqueue=1, init_retry=3600) as daemon:
        sleeper = asyncio.ensure_future(daemon.height())
        while not node.bodies:
            await asyncio.sleep(0.001)
        assert await asyncio.wait_for(daemon.height(), 120) == 5
        sleeper.cancel()


# -- Fail-over


async def test_the_next_url_is_used_after_the_delays_are_exhausted(node, caplog):
    caplog.set_level(logging.INFO)
    async with FakeNode(BLOCKS[:2]) as other, make_daemon(node.url, other.url) as daemon:
        node.fail_always(Fault.WORK_QUEUE)
        assert await daemon.height() == 1
        assert daemon.current_url() == other.url
        # 2, 4, 8, 10 ms: the fourth failure finds the longest delay.
        assert len(node.bodies) == 4
        assert messages(caplog, "failing over to") == [f"failing over to 127.0.0.1:{other.port}/"]


def test_going_round_dead_nodes_is_logged_calmly(caplog, clock):
    caplog.set_level(logging.INFO)
    daemon = Daemon(COIN, ",".join(URLS))
    caplog.clear()
    log = daemon.rpc.outage
    for _second in range(60):
        log.failed("connection problem", "connection restored")
        daemon.failover()
        clock.now += 1
    assert 6 <= len(caplog.messages) <= 60 / OUTAGE_LOG_SECS + 1
    # The first is logged at once, and so is the first of another outage.
    assert caplog.messages[1] == "failing over to 192.168.0.1:8332/"
    log.succeeded()
    caplog.clear()
    assert daemon.failover()
    assert len(messages(caplog, "failing over to")) == 1


async def test_requests_that_fail_together_move_on_together(node):
    async with FakeNode(BLOCKS[:2]) as other:
        port = node.port
        await node.stop()
        async with make_daemon(node.url, other.url, max_workqueue=50) as daemon:
            heights = await asyncio.gather(*(daemon.height() for _ in range(50)))
            assert heights == [1] * 50
            assert daemon.current_url() == other.url
        assert port == node.port


async def test_a_request_that_failed_at_a_url_no_longer_in_use_does_not_move_on(node):
    # The delay is exhausted from the start, so that each failure would move on.
    async with (
        FakeNode(BLOCKS[:2]) as other,
        make_daemon(node.url, other.url, init_retry=0.01, max_retry=0.01) as daemon,
    ):
        node.gate.clear()
        node.fail_always(Fault.WARMING_UP)
        task = asyncio.ensure_future(daemon.height())
        while not node.in_flight:
            await asyncio.sleep(0.001)
        daemon.failover()
        node.gate.set()
        assert await task == 1
        assert daemon.current_url() == other.url
        assert len(node.bodies) == 1


async def test_a_dead_first_url_does_not_keep_the_checks_from_passing(node):
    dead = FakeNode()
    await dead.start()
    await dead.stop()
    async with make_daemon(dead.url, node.url) as daemon:
        assert await daemon.height() == 5
        await daemon.check_version()
        await daemon.check_indexes()


def test_delays_double_to_the_longest_and_stay_there_with_one_url():
    retry = Retry(0.25, 4.0)
    delays = []
    for _ in range(7):
        retry.failed_at("a")
        delays.append(retry.next_delay())
    assert delays == [0.25, 0.5, 1, 2, 4, 4, 4]


def test_the_fifth_failure_moves_on_at_once_and_resets_the_patience():
    retry = Retry(0.25, 4.0)
    delays, url = [], "a"
    for _ in range(11):
        retry.failed_at(url)
        if retry.exhausted:
            url = "b" if url == "a" else "a"
            retry.at_once()
        delays.append(retry.next_delay())
    assert delays == [0.25, 0.5, 1, 2, 0, 0.25, 0.5, 1, 2, 0, 0.25]


def test_a_url_changed_by_another_request_is_given_the_full_patience():
    retry = Retry(0.25, 4.0)
    for _ in range(4):
        retry.failed_at("a")
        retry.next_delay()
    assert retry.exhausted
    retry.failed_at("b")
    assert not retry.exhausted
    assert retry.next_delay() == 0.25


# -- Log limits


def test_one_request_logs_at_most_once_a_minute(clock, caplog):
    retry = Retry(0.25, 4.0)
    outage = OutageLog(logging.getLogger("test"))
    for _ in range(150):
        retry.log(outage, aiohttp.ServerDisconnectedError())
        clock.now += 1
    assert len(messages(caplog, "disconnected", logging.ERROR)) == 3


def test_many_requests_together_log_the_same_once_a_minute_and_a_change_after_five_seconds(
    clock, caplog
):
    outage = OutageLog(logging.getLogger("test"))

    def fail(error, secs):
        for _ in range(secs):
            for _ in range(100):
                Retry(0.25, 4.0).log(outage, error)
            clock.now += 1

    fail(aiohttp.ServerDisconnectedError(), 59)
    assert len(messages(caplog, "disconnected", logging.ERROR)) == 1
    fail(aiohttp.ServerDisconnectedError(), 6)
    assert len(messages(caplog, "disconnected", logging.ERROR)) == 2
    fail(ConnectionResetError(), 4)
    assert len(messages(caplog, "connection reset", logging.ERROR)) == 1
    fail(aiohttp.ServerDisconnectedError(), 6)
    assert len(messages(caplog, "disconnected", logging.ERROR)) == 3


def test_the_end_of_an_outage_is_logged_once(clock, caplog):
    caplog.set_level(logging.INFO)
    outage = OutageLog(logging.getLogger("test"))
    outage.succeeded()
    assert caplog.messages == []
    outage.failed("disconnected", "connection restored")
    outage.succeeded()
    outage.succeeded()
    assert messages(caplog, "connection restored") == ["connection restored"]


def test_credentials_within_an_error_are_not_logged(clock, caplog):
    error = aiohttp.InvalidURL("http://user:pa@ss@127.0.0.1:8332/")
    Retry(0.25, 4.0).log(OutageLog(logging.getLogger("test")), error)
    assert "127.0.0.1:8332" in caplog.text
    assert "user" not in caplog.text
    assert "ss@" not in caplog.text


async def test_a_node_is_asked_at_the_start_for_height_chain_version_and_indexes(node):
    class Demanding(COIN):
        MIN_REQUIRED_DAEMON_VERSION = "28.0"

    async with Daemon(Demanding, node.url) as daemon:
        await daemon.check_at_start()
        assert [m for m, _params in node.calls] == [
            "getblockcount",
            "getblockhash",
            "getnetworkinfo",
            "getindexinfo",
        ]
    node.network_info["version"] = 270_100
    async with Daemon(Demanding, node.url) as daemon:
        with pytest.raises(OperatorError, match=r"27\.1\.0"):
            await daemon.check_at_start()
    node.calls.clear()
    async with Daemon(COIN, node.url) as daemon:
        await daemon.check_at_start()
    assert "getnetworkinfo" not in node.counts()


async def test_a_service_that_is_no_node_ends_the_start_with_one_line(node):
    node.overrides["getblockcount"] = None
    async with make_daemon(node.url) as daemon:
        with pytest.raises(OperatorError, match="Method not found") as info:
            await daemon.check_at_start()
    assert "\n" not in str(info.value)
    assert f"127.0.0.1:{node.port}/" in str(info.value)
    assert PASSWORD not in str(info.value)


# -- What stands before the node


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_request_goes_nowhere_else_than_to_the_node_of_the_url(caplog, status):
    async with FakeNode(BLOCKS) as elsewhere:

        async def redirect(_request):
            return web.Response(status=status, headers={"Location": elsewhere.url})

        app = web.Application()
        app.router.add_post("/", redirect)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            url = f"u:p@127.0.0.1:{runner.addresses[0][1]}"
            async with make_daemon(url, elsewhere.url) as daemon:
                assert await daemon.height() == 5
                # It was asked as the second node of the list, not for the first.
                assert daemon.rpc.url_index == 1
        finally:
            await runner.cleanup()
    assert elsewhere.counts()["getblockcount"] == 1
    assert messages(caplog, "daemon service refused: ", logging.ERROR)


# -- An object in place of the aiohttp session


class FakeResponse:
    """Has only the documented attributes of a response of a replaced Daemon.session."""

    def __init__(self, *, value=None, text=None, reason=None):
        content_type = "text/html; charset=ISO-8859-1" if text is not None else "application/json"
        self.headers = {"Content-Type": content_type}
        self.reason = reason
        self._value = value
        self._text = text

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exc_info):
        pass

    async def json(self):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    async def text(self):
        return self._text


class FakeSession:
    """Answers from a list of responses, or raises those that are exceptions."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def post(self, url, data=""):
        self.requests.append((url, json.loads(data)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def good(result):
    return FakeResponse(value={"result": result, "error": None, "id": 0})


@pytest.fixture
def bare_daemon():
    return make_daemon(*URLS)


async def test_a_fake_session_is_enough(bare_daemon):
    bare_daemon.session = FakeSession(good(5), good({"relayfee": 1, "other": "cruft"}))
    assert await bare_daemon.height() == 5
    assert await bare_daemon.relayfee() == 1
    assert [url for url, _request in bare_daemon.session.requests] == [URLS[0]] * 2


async def test_hashes_are_passed_through_as_the_node_writes_them(bare_daemon):
    reply = [{"result": f"hash{n}", "error": None, "id": None} for n in range(3)]
    bare_daemon.session = FakeSession(FakeResponse(value=reply), good(["tx1", "tx2"]))
    assert await bare_daemon.block_hex_hashes(7, 3) == ["hash0", "hash1", "hash2"]
    assert await bare_daemon.mempool_hashes() == ["tx1", "tx2"]


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (asyncio.TimeoutError(), "timeout error"),
        (aiohttp.ServerDisconnectedError(), "disconnected"),
        (ConnectionResetError(), "connection reset"),
        (aiohttp.ClientConnectionError(), "connection problem"),
        (aiohttp.ClientError("strange"), "daemon error: strange"),
        (aiohttp.ClientPayloadError(), "daemon error: ClientPayloadError"),
        (BrokenPipeError(), "connection problem"),
        (FakeResponse(text="busy\n", reason="R"), "daemon service refused: busy"),
        (FakeResponse(text=" ", reason="Unauthorized"), "daemon service refused: Unauthorized"),
        (FakeResponse(value=json.JSONDecodeError("bad", "x", 0)), "malformed reply"),
    ],
)
async def test_failures_of_a_fake_session_are_retried(bare_daemon, caplog, failure, text):
    bare_daemon.session = FakeSession(failure, good(9))
    assert await bare_daemon.height() == 9
    assert len(messages(caplog, text, logging.ERROR)) == 1


async def test_a_daemon_that_is_not_open_raises(bare_daemon):
    with pytest.raises(RuntimeError, match="not open"):
        await bare_daemon.height()


async def test_subclasses_may_bring_their_own_connector(node):
    used = []

    class Custom(Daemon):
        def connector(self):
            used.append(aiohttp.TCPConnector(limit=1))
            return used[0]

    async with make_daemon(node.url, cls=Custom) as daemon:
        assert await daemon.height() == 5
        assert daemon.session.connector is used[0]
    assert daemon.session is None


async def test_transactions_asked_for_together_share_a_batch_and_each_has_its_answer(node, daemon):
    node.mempool = {bytes([n]) * 32: bytes([n]) * 9 for n in (1, 2)}
    hashes = ["01" * 32, "ff" * 32, "02" * 32]
    before = len(node.bodies)
    found = await asyncio.gather(*map(daemon.getrawtransaction, hashes), return_exceptions=True)
    assert len(node.bodies) == before + 1
    assert [found[0], found[2]] == ["01" * 9, "02" * 9]
    with pytest.raises(DaemonError) as alone:
        await daemon.getrawtransaction(hashes[1])
    assert repr(alone.value) == repr(found[1])
    assert found[1].args[0]["code"] == -5


async def test_where_batches_are_refused_transactions_are_asked_for_singly(
    node, daemon, monkeypatch
):
    node.mempool = {bytes([n]) * 32: bytes([n]) * 9 for n in (1, 2)}
    reply_to = node.reply_to
    error = {"result": None, "error": {"code": -32600, "message": "no batches"}, "id": None}

    def refuse(body, fault):
        if isinstance(json.loads(body), list):
            return 500, "x", "application/json", json.dumps(error).encode()
        return reply_to(body, fault)

    monkeypatch.setattr(node, "reply_to", refuse)
    hashes = ["01" * 32, "02" * 32]
    assert ["01" * 9, "02" * 9] == await asyncio.gather(*map(daemon.getrawtransaction, hashes))


async def test_hex_of_a_transaction_is_read_up_to_the_callers_limit(node, daemon):
    node.overrides["getrawtransaction"] = lambda *_args: "00" * 5_000
    assert await daemon.getrawtransaction("ab", max_bytes=11_000) == "00" * 5_000
    with pytest.raises(ReplyTooLargeError, match="answer to getrawtransaction is larger than 9,"):
        await daemon.getrawtransaction("ab", max_bytes=9_000)


async def test_transactions_too_large_for_a_batch_are_each_read_up_to_the_callers_limit(node):
    sizes = {"aa": 9_000_000, "bb": 100, "cc": 4_000_000}
    node.overrides["getrawtransaction"] = lambda hex_hash, *_args: "00" * sizes[hex_hash]
    async with make_daemon(node.url) as daemon:
        requests = [daemon.getrawtransaction(name, max_bytes=10_000_000) for name in sizes]
        found = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(found[0], ReplyTooLargeError)
    assert [len(raw_tx) for raw_tx in found[1:]] == [200, 8_000_000]
