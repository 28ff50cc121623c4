"""Logins, refused calls, causes of failures, and nodes of the list that cannot be used."""

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import asynccontextmanager

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import double_sha256
from electrumx.server.daemon import retry as outage
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import ForbiddenCallError
from electrumx.server.daemon.tip_watcher import TipWatcher
from tests.conftest import require
from tests.fakes.chain import COIN, GENESIS
from tests.fakes.fake_node import PASSWORD, FakeNode, Fault, RPCFault
from tests.ports import free_port

BLOCKS = [GENESIS] + [n.to_bytes(4, "little") + bytes([n]) * 76 + b"\x00" for n in range(1, 6)]
OTHER_GENESIS = GENESIS[:76] + b"\x05\0\0\0\0"


class Whitelisted(FakeNode):
    """A node that answers status 403, with an empty body, to calls that are not allowed."""

    def __init__(self, *args, forbidden=(), allowed=None):
        super().__init__(*args)
        self.forbidden = set(forbidden)
        self.allowed = allowed

    def is_allowed(self, method):
        return method not in self.forbidden and (self.allowed is None or method in self.allowed)

    def reply_to(self, body, fault):
        reply = super().reply_to(body, fault)
        request = self.bodies[-1]
        items = request if isinstance(request, list) else [request]
        if not all(self.is_allowed(item["method"]) for item in items):
            return 403, "Forbidden", "text/html; charset=ISO-8859-1", b""
        return reply


@asynccontextmanager
async def daemon_of(*nodes, coin=COIN, **kwargs):
    kwargs = {"init_retry": 0.002, "max_retry": 0.01, **kwargs}
    async with Daemon(coin, ",".join(getattr(n, "url", n) for n in nodes), **kwargs) as daemon:
        yield daemon


def logged(caplog, text, level=None):
    return [
        record.message
        for record in caplog.records
        if text in record.message and (level is None or record.levelno == level)
    ]


async def until(condition, timeout=120):
    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), timeout)


# -- Logins


@pytest.mark.parametrize(
    ("login", "received"),
    [
        ("user:пароль", "user:пароль"),
        ("user:pässwörd", "user:pässwörd"),
        ("юзер:p", "юзер:p"),
        ("user:p%C3%A4ss", "user:päss"),
        ("user:100%25", "user:100%"),
        ("user:50%off", "user:50%off"),
        ("user:a:b", "user:a:b"),
        ("user:🔑", "user:🔑"),
        ("user:", "user:"),
    ],
)
async def test_a_login_is_sent_as_utf_8(login, received):
    async with FakeNode(BLOCKS) as node:
        async with daemon_of(f"{login}@127.0.0.1:{node.port}") as daemon:
            assert await daemon.height() == 5
        assert node.authorizations == [received]


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        ("user:secret%FF", "the password has percent escapes that are no UTF-8"),
        ("user:secret%0A", "the password has a control character"),
        ("user:secret\udcff", "the password is no valid UTF-8"),
        ("us%3Aer:secret", "the user name has a colon"),
        ("us%E4er:secret", "the user name has percent escapes"),
    ],
)
def test_a_login_that_cannot_be_sent_is_refused_with_a_reason(login, reason):
    with pytest.raises(OperatorError, match=reason) as info:
        Daemon(COIN, f"http://{login}@127.0.0.1:8332/")
    assert "DAEMON_URL" in str(info.value)
    assert "secret" not in str(info.value)
    assert "\n" not in str(info.value)


# -- Calls that the node does not allow


async def test_a_call_that_is_not_allowed_is_an_error_at_once_and_named_once(caplog):
    async with Whitelisted(BLOCKS, forbidden=["getmempoolinfo", "getrawtransaction"]) as node:
        async with daemon_of(node) as daemon:
            for _ in range(3):
                with pytest.raises(ForbiddenCallError, match="does not allow getmempoolinfo"):
                    await daemon.getmempoolinfo()
            for call in (daemon.getrawtransaction("ab"), daemon.getrawtransaction("ab", True)):
                with pytest.raises(DaemonError, match="does not allow getrawtransaction"):
                    await call
            # A batch is refused as a whole.
            with pytest.raises(DaemonError) as info:
                await daemon.getrawtransactions(["ab", "cd"])
            assert isinstance(info.value.args[0], list)
        assert node.counts()["getmempoolinfo"] == 3
    assert len(logged(caplog, "getmempoolinfo", logging.WARNING)) == 1
    assert len(logged(caplog, "getrawtransaction", logging.WARNING)) == 1
    assert PASSWORD not in caplog.text


async def test_transactions_asked_for_together_meet_the_refusal_too():
    node = Whitelisted(BLOCKS, forbidden=["getrawtransaction"])
    async with node, daemon_of(node) as daemon:
        calls = [daemon.getrawtransaction(f"{n:064x}") for n in range(3)]
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in found] == [ForbiddenCallError] * 3
    # Clients are shown a daemon error, whatever kind it is.
    assert repr(found[0]).startswith("DaemonError({'code': 403")


OLD_CALLS = [
    *("getblockcount", "getblockhash", "getblock", "getrawmempool", "getrawtransaction"),
    *("sendrawtransaction", "estimatesmartfee", "estimatefee", "getnetworkinfo"),
]


async def test_a_node_that_allows_only_the_calls_of_1_15_serves(caplog):
    caplog.set_level(logging.INFO)
    async with Whitelisted(BLOCKS, allowed=OLD_CALLS) as node, daemon_of(node) as daemon:
        await daemon.check_at_start()
        assert "does not let us list its indexes" in caplog.text
        hashes = await daemon.block_hex_hashes(0, 3)
        assert await daemon.raw_blocks(hashes) == BLOCKS[:3]
        assert await daemon.estimatefee(2) == 0.0001
        watcher = asyncio.ensure_future(TipWatcher(daemon).run())
        await until(lambda: "refuses waitfornewblock: polling it" in caplog.text)
        watcher.cancel()
        await asyncio.wait([watcher])
    assert "Retrying" not in caplog.text


async def test_without_leave_to_estimate_fees_there_is_no_estimate():
    node = Whitelisted(BLOCKS, forbidden=["estimatesmartfee", "estimatefee"])
    async with node, daemon_of(node) as daemon:
        assert await daemon.estimatefee(2) == -1
        node.forbidden.clear()
        assert await daemon.estimatefee(2) == 0.0001


async def test_a_node_that_does_not_allow_its_height_ends_the_start_with_one_line():
    async with Whitelisted(BLOCKS, forbidden=["getblockcount"]) as node, daemon_of(node) as daemon:
        with pytest.raises(OperatorError, match="does not allow getblockcount") as info:
            await daemon.check_at_start()
    assert "\n" not in str(info.value)


# -- Causes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    require(shutil.which("openssl"), "openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    paths = [str(folder / "node.crt"), str(folder / "node.key")]
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-out", paths[0], "-keyout", paths[1]], check=True)
    return paths


async def test_a_refused_connection_is_named(caplog):
    async with daemon_of(f"u:p@127.0.0.1:{free_port()}") as daemon:
        await cause_of(daemon, caplog, "(connection refused).  Retrying occasionally...")


async def cause_of(daemon, caplog, text):
    asking = asyncio.ensure_future(daemon.height())
    try:
        await until(lambda: logged(caplog, outage.CONNECTION_PROBLEM, logging.ERROR))
        [line] = logged(caplog, outage.CONNECTION_PROBLEM, logging.ERROR)
        assert line.startswith("connection problem - check your daemon is running (")
        assert text in line
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def test_an_unknown_host_is_named(caplog, monkeypatch):
    def fail(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    async with daemon_of("u:p@node.invalid:8332") as daemon:
        await cause_of(daemon, caplog, "unknown host")


async def test_a_certificate_that_is_not_trusted_is_named(caplog, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        async with daemon_of(f"https://u:p@127.0.0.1:{port}") as daemon:
            await cause_of(daemon, caplog, "TLS: its certificate is not trusted, self")
    finally:
        server.close()


async def test_https_to_a_port_that_does_not_speak_it_is_named(caplog):
    async def answer(_reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with daemon_of(f"https://u:p@127.0.0.1:{port}") as daemon:
            await cause_of(daemon, caplog, "TLS: ")
    finally:
        server.close()


# -- Nodes of the list that cannot be used


async def test_a_node_of_another_chain_is_left_out_and_named_once(caplog):
    caplog.set_level(logging.INFO)
    async with (
        FakeNode(BLOCKS) as first,
        FakeNode([OTHER_GENESIS, *BLOCKS[1:]]) as foreign,
        FakeNode(BLOCKS[:3]) as third,
        daemon_of(first, foreign, third) as daemon,
    ):
        daemon.rpc.LEFT_OUT_SECS = 0.0
        await daemon.check_at_start()
        for _ in range(3):
            first.fail_always(Fault.WORK_QUEUE)
            third.fail_always(None)
            assert await daemon.height() == 2
            first.fail_always(None)
            third.fail_always(Fault.WORK_QUEUE)
            assert await daemon.height() == 5
        assert foreign.counts()["getblockcount"] == 0
        [line] = logged(caplog, "left out", logging.WARNING)
        assert f"127.0.0.1:{foreign.port}/" in line
        assert "another chain" in line
        assert f"regtest: its genesis block is {hex_of(OTHER_GENESIS)}" in line


def hex_of(raw):
    return double_sha256(raw[:80])[::-1].hex()


async def test_a_second_node_without_an_index_is_not_used(caplog):
    async with (
        FakeNode(BLOCKS) as first,
        FakeNode(BLOCKS) as second,
        daemon_of(first, second) as daemon,
    ):
        second.indexes = {}
        await daemon.check_at_start()
        first.fail_next(*[Fault.WORK_QUEUE] * 10)
        assert await daemon.height() == 5
        assert second.counts()["getblockcount"] == 0
        [line] = logged(caplog, "left out", logging.WARNING)
        assert "restart it with txindex=1 in its configuration; it builds the index" in line
        # It has one now.
        second.indexes = first.indexes
        daemon.rpc.clock = lambda: time.monotonic() + daemon.rpc.LEFT_OUT_SECS
        first.fail_always(Fault.WORK_QUEUE)
        assert await daemon.height() == 5
        assert second.counts()["getblockcount"] == 1


async def test_when_no_node_can_be_used_requests_wait_for_one(caplog):
    async with (
        FakeNode(BLOCKS) as first,
        FakeNode([OTHER_GENESIS]) as foreign,
        daemon_of(first, foreign) as daemon,
    ):
        daemon.rpc.LEFT_OUT_SECS = 0.01
        await daemon.check_at_start()
        daemon.set_url(foreign.url)
        task = asyncio.ensure_future(daemon.height())
        await until(lambda: logged(caplog, "another chain", logging.ERROR))
        assert not task.done()
        foreign.blocks = BLOCKS[:2]
        assert await asyncio.wait_for(task, 120) == 1


async def test_a_first_node_of_another_chain_is_left_out_at_the_start(caplog):
    async with (
        FakeNode([OTHER_GENESIS]) as foreign,
        FakeNode(BLOCKS) as second,
        daemon_of(foreign, second) as daemon,
    ):
        await daemon.check_at_start()
        assert daemon.current_url() == second.url
        assert len(logged(caplog, "left out", logging.WARNING)) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_only_nodes_of_another_chain_end_the_start_with_one_line(count):
    async with (
        FakeNode([OTHER_GENESIS]) as foreign,
        FakeNode([OTHER_GENESIS]) as second,
        daemon_of(*[foreign, second][:count]) as daemon,
    ):
        with pytest.raises(OperatorError, match="check COIN, NET and DAEMON_URL") as info:
            await daemon.check_at_start()
    assert "\n" not in str(info.value)
    assert PASSWORD not in str(info.value)


async def test_a_node_of_another_coin_is_named():
    dash = Coin.lookup_coin_class("Dash", "regtest")
    async with FakeNode(BLOCKS) as node, daemon_of(node, coin=dash) as daemon:
        with pytest.raises(OperatorError, match=r"follows the chain of .*Bitcoin") as info:
            await daemon.check_at_start()
    assert "not that of Dash regtest" in str(info.value)


@pytest.mark.parametrize("answer", [7, None, ["x"]])
async def test_a_node_whose_first_block_hash_makes_no_sense_ends_the_start_with_one_line(answer):
    async with FakeNode(BLOCKS) as node, daemon_of(node) as daemon:
        node.overrides["getblockhash"] = lambda _height: answer
        with pytest.raises(OperatorError, match="getblockhash makes no sense") as info:
            await daemon.check_at_start()
    assert "\n" not in str(info.value)


# -- Forms of a request


class Zebra(FakeNode):
    """A node that takes a verbosity as a number only."""

    def rpc_getblock(self, hex_hash, verbosity=1):
        if isinstance(verbosity, bool):
            raise RPCFault(-32602, "Invalid params")
        return super().rpc_getblock(hex_hash, verbosity)


async def test_a_verbosity_is_a_number_where_the_node_wants_one():
    async with Zebra(BLOCKS) as node, daemon_of(node) as daemon:
        hashes = await daemon.block_hex_hashes(0, 4)
        for _ in range(3):
            assert await daemon.raw_blocks(hashes) == BLOCKS[:4]
        assert (await daemon.deserialised_block(hashes[1]))["height"] == 1
        # It was refused once.
        assert node.counts()["getblock"] == 4 * 4 + 1


async def test_a_verbosity_is_true_or_false_where_the_node_takes_that():
    async with FakeNode(BLOCKS) as node, daemon_of(node) as daemon:
        hashes = await daemon.block_hex_hashes(0, 1)
        await daemon.raw_blocks(hashes)
        await daemon.deserialised_block(hashes[0])
        sent = [params[1] for method, params in node.calls if method == "getblock"]
        assert [type(verbosity) for verbosity in sent] == [bool, bool]


async def test_other_errors_do_not_change_the_form(caplog):
    async with FakeNode(BLOCKS) as node, daemon_of(node) as daemon:
        with pytest.raises(DaemonError, match="Block not found"):
            await daemon.raw_blocks(["00" * 32])
        assert node.counts()["getblock"] == 1


async def test_a_node_without_rest_is_named_at_the_start(caplog):
    caplog.set_level(logging.INFO)
    async with FakeNode(BLOCKS) as node, daemon_of(node) as daemon:
        await daemon.check_at_start()
        [line] = logged(caplog, "REST interface is off", logging.INFO)
        assert "rest=1" in line
        assert node.rest_paths == [f"/rest/block/{hex_of(GENESIS)}.bin"]
        await daemon.raw_blocks(await daemon.block_hex_hashes(0, 3))
        assert len(node.rest_paths) == 1
