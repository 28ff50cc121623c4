"""Errors of clients and operators, against the whole server process."""

import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as ws_connect

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from tests.fakes.chain import MINUS_1
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import chained_block, script_of, small_chain
from tests.integration.client import trusting_context
from tests.integration.server import ServerProcess
from tests.ports import free_port

SECS = 120
MAX_RECV = 200_000
# The least that MAX_SEND may be
MAX_SEND = 350_000
PROTOCOLS = ("tcp", "ssl", "ws")
SERVICES = (*PROTOCOLS, "rpc")
BUSY_SCRIPT = script_of(1)


# --- what operators may do wrong


@pytest.fixture
def ends_with(tmp_path):
    """Function: start the server with wrong settings; the one line of the error."""

    def run(**settings):
        node_env = {"COIN": "Bitcoin", "NET": "regtest"}
        node_env["DAEMON_URL"] = "http://operator:sesame@127.0.0.1:1/"
        server = ServerProcess(tmp_path, node_env, protocols=("rpc",), **settings)
        server.launch()
        assert server.wait_exit() == 1
        log = server.log()
        assert "Traceback" not in log
        assert "operator" not in log
        assert "sesame" not in log
        # In a file each line begins with the time.
        log = re.sub(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ", "", log, flags=re.MULTILINE)
        bad = [line for line in log.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
        assert len(bad) == 1, log
        prefix = "CRITICAL:electrumx:ElectrumX server terminated abnormally: "
        assert bad[0].startswith(prefix)
        assert log.endswith(bad[0] + "\n")
        return bad[0][len(prefix) :]

    return run


WRONG_SETTINGS = [
    ({"COIN": None}, "required envvar COIN not set"),
    ({"COIN": "Nocoin"}, "unknown coin Nocoin and network regtest combination"),
    ({"NET": "moonnet"}, "unknown coin Bitcoin and network moonnet combination"),
    ({"DB_DIRECTORY": None}, "required envvar DB_DIRECTORY not set"),
    ({"DAEMON_URL": None}, "required envvar DAEMON_URL not set"),
    ({"DAEMON_URL": ""}, 'invalid daemon URL: ""'),
    ({"DAEMON_URL": "127.0.0.1:8332"}, 'invalid daemon URL: "'),
    ({"DAEMON_URL": "operator:sesame@localhost:many"}, 'invalid daemon URL: "'),
    ({"DAEMON_URL": "operator:sesame@localhost/path"}, 'invalid daemon URL: "'),
    ({"DAEMON_URL": "operator:sesame@localhost,nowhere"}, 'invalid daemon URL: "nowhere"'),
    ({"DAEMON_URL": "operator:ses\name@localhost:x"}, 'invalid daemon URL: "'),
    ({"CACHE_MB": ""}, "cannot convert envvar CACHE_MB value  to an integer"),
    ({"REQUEST_TIMEOUT": "1.5"}, "cannot convert envvar REQUEST_TIMEOUT value 1.5 to an integer"),
    ({"BANDWIDTH_UNIT_COST": "0"}, "envvar BANDWIDTH_UNIT_COST value 0 is too small"),
    ({"DROP_CLIENT": "("}, "cannot parse envvar DROP_CLIENT value ("),
    ({"DB_ENGINE": "paper"}, 'unrecognised DB engine "paper"'),
    ({"LOG_LEVEL": "loud"}, "envvar LOG_LEVEL value loud is not a level"),
    ({"LOG_FORMAT": "%(nothing)s"}, "envvar LOG_FORMAT value %(nothing)s is not a log format"),
    ({"EVENT_LOOP_POLICY": ""}, 'unknown event loop policy ""'),
    (
        {"COST_SOFT_LIMIT": "9", "COST_HARD_LIMIT": "8"},
        "COST_HARD_LIMIT must be >= COST_SOFT_LIMIT. got (",
    ),
    ({"SERVICES": "tcp//:1"}, '"tcp//:1" invalid: invalid service string: tcp//:1'),
    ({"SERVICES": "udp://h:1"}, '"udp://h:1" invalid: unknown protocol'),
    ({"SERVICES": "tcp://"}, '"tcp://" invalid: '),
    ({"SERVICES": "tcp://:99999"}, '"tcp://:99999" invalid: invalid port: 99999'),
    ({"SERVICES": "tcp://h:1,ws://h:1"}, "address h:1 has multiple services"),
    ({"SERVICES": "tcp://hidden.onion:1"}, "bad host for SERVICES: "),
    ({"SERVICES": "ssl://:1"}, "required envvar SSL_CERTFILE not set"),
    ({"SERVICES": "wss://:1", "SSL_CERTFILE": "c"}, "required envvar SSL_KEYFILE not set"),
    ({"REPORT_SERVICES": "rpc://h:1"}, "bad protocol for REPORT_SERVICES: rpc"),
    ({"REPORT_SERVICES": "tcp://localhost:1"}, "bad host for REPORT_SERVICES: localhost"),
    ({"REPORT_SERVICES": "tcp://0.0.0.0:1"}, "bad IP address for REPORT_SERVICES: 0.0.0.0"),
    (
        {"HOST": "0.0.0.0", "RPC_PORT": "8000", "MAX_SUBS": "5"},
        "remove obsolete environment variables ['MAX_SUBS', 'HOST', 'RPC_PORT']",
    ),
]


@pytest.mark.parametrize(
    ("settings", "text"), WRONG_SETTINGS, ids=["-".join(case[0]) for case in WRONG_SETTINGS]
)
def test_a_wrong_setting_ends_the_server_with_one_line(settings, text, ends_with):
    assert ends_with(**settings).startswith(text)


def test_root_is_refused_unless_allowed(ends_with):
    if os.geteuid():
        pytest.skip("not run by root")
    assert ends_with(ALLOW_ROOT=None).startswith("running as root is refused")


def test_a_database_directory_that_cannot_be_used_ends_the_server_with_one_line(
    tmp_path, ends_with
):
    missing = tmp_path / "missing"
    assert ends_with(DB_DIRECTORY=missing).startswith(
        f"envvar DB_DIRECTORY value {missing} does not exist"
    )
    file = tmp_path / "file"
    file.touch()
    assert ends_with(DB_DIRECTORY=file).startswith(
        f"envvar DB_DIRECTORY value {file} is not a directory"
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, which nobody may write to")
def test_a_database_directory_without_permission_ends_the_server_with_one_line(tmp_path, ends_with):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if not os.access(locked, os.W_OK):
        error = ends_with(DB_DIRECTORY=locked)
        assert error.startswith(f"envvar DB_DIRECTORY value {locked} is not writable")
        return
    # Nothing keeps root out but the file system itself, which not every kernel reports before.
    maker, tip = small_chain(2)
    with NodeThread(maker.chain(tip)) as node:
        error = ends_with(DB_DIRECTORY="/proc/self", DAEMON_URL=node.env["DAEMON_URL"])
    assert error.startswith(
        ("cannot open the database in /proc/", "envvar DB_DIRECTORY value /proc/self is not writ")
    )


def _utxo_is_a_file(folder):
    (folder / "utxo").touch()


def _current_is_dangling(folder):
    (folder / "utxo").mkdir()
    (folder / "utxo" / "CURRENT").write_text("MANIFEST-000009\n")


@pytest.mark.parametrize("spoil", [_utxo_is_a_file, _current_is_dangling])
def test_a_database_that_cannot_be_opened_ends_the_server_with_one_line(spoil, tmp_path, ends_with):
    folder = tmp_path / "db"
    folder.mkdir()
    spoil(folder)
    maker, tip = small_chain(2)
    with NodeThread(maker.chain(tip)) as node:
        error = ends_with(DAEMON_URL=node.env["DAEMON_URL"])
    assert error.startswith(f"cannot open the database in {folder}/utxo: ")


def test_a_database_of_something_else_ends_the_server_with_one_line(tmp_path, ends_with):
    maker, tip = small_chain(2)
    with NodeThread(maker.chain(tip)) as node:
        url = {"DAEMON_URL": node.env["DAEMON_URL"]}
        with ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")):
            error = ends_with(**url)
            assert f"cannot open the database in {tmp_path}/db/utxo: another process" in error
        error = ends_with(**url, NET="testnet")
        # Before the database is looked at
        assert re.match("the daemon at 127.0.0.1:[0-9]+/ follows the chain of .*regtest", error)
        assert error.endswith("check COIN, NET and DAEMON_URL")
        error = ends_with(**url, DB_ENGINE="rocksdb")
        assert error.startswith(f"the database in {tmp_path}/db/utxo was written by leveldb")


# --- what clients may do wrong


class Raw:
    """A connection that sends bytes as they are: lines, or frames of a websocket."""

    def __init__(self, protocol, port):
        self.protocol = protocol
        context = trusting_context() if protocol in ("ssl", "wss") else None
        if protocol in ("ws", "wss"):
            uri = f"{protocol}://127.0.0.1:{port}/"
            self.dialling = ws_connect(uri, ssl=context, max_size=None, open_timeout=SECS)
            self.ws = self.dialling.__enter__()
            return
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=SECS)
        if context:
            self.sock = context.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")

    def send(self, data, *, text=True):
        """Send a message. A websocket sends it as text unless text is false."""
        if self.protocol in ("ws", "wss"):
            self.ws.send(data, text=text)
        else:
            self.sock.sendall(data + b"\n")

    def receive(self):
        """The next message, parsed; None if the server has closed the connection."""
        try:
            if self.protocol in ("ws", "wss"):
                return json.loads(self.ws.recv(timeout=SECS))
            line = self.file.readline()
        except (ConnectionClosed, ConnectionError, ssl.SSLError):
            return None
        return json.loads(line) if line else None

    def request(self, method, *params):
        """The reply to a well-formed request."""
        self.send(
            json.dumps({"jsonrpc": "2.0", "id": 5, "method": method, "params": params}).encode()
        )
        return self.receive()

    def close(self):
        if self.protocol in ("ws", "wss"):
            self.dialling.__exit__(None, None, None)
        else:
            self.file.close()
            self.sock.close()


def huge_tx(maker, tip):
    """A transaction whose hex is longer than a reply may be."""
    (tx_hash, index), value = list(maker.blocks[tip][2].items())[-1]
    txin = TxInput(tx_hash, index, bytes(MAX_SEND // 2), MINUS_1)
    return Tx(2, [txin], [TxOutput(value, script_of(2))], 0).serialize()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server over a fake node, with a client that has done nothing wrong."""
    maker, tip = small_chain()
    tip = chained_block(maker, tip, MAX_SEND // 99, script=BUSY_SCRIPT, sig_size=10)
    tip = maker.grow(tip, 3)
    tx = huge_tx(maker, tip)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(NodeThread(maker.chain(tip)))
        node.node.mempool[double_sha256(tx)] = tx
        server = ServerProcess(
            tmp_path_factory.mktemp("bad-input"),
            node.env,
            protocols=SERVICES,
            MAX_RECV=MAX_RECV,
            MAX_SEND=0,
            PROTOCOL_MAX="1.6",
        )
        stack.enter_context(server)
        server.huge_txid = double_sha256(tx)[::-1].hex()
        server.height = len(node.node.blocks) - 1
        server.bystander = Raw("tcp", server.ports["tcp"])
        stack.callback(server.bystander.close)
        yield server


@pytest.fixture
def dial(world, stopping):
    """Function: a new connection. Afterwards the others must be served as if nothing was."""

    def connect(protocol):
        raw = Raw(protocol, world.ports[protocol])
        stopping.callback(raw.close)
        return raw

    yield connect
    start = time.monotonic()
    assert world.bystander.request("server.ping") == {"jsonrpc": "2.0", "result": None, "id": 5}
    # At once, on a machine that may be busy
    assert time.monotonic() - start < 30
    assert world.child.running()
    assert "Traceback" not in world.log()


NOT_A_DICT = (-32600, "request object must be a dictionary")
INVALID_JSON = (-32700, "invalid JSON")

MALFORMED = {
    "half an object": (b'{"id": 1', INVALID_JSON),
    "nothing": (b"", INVALID_JSON),
    "words": (b"hello, server", INVALID_JSON),
    "a text": (b'"server.ping"', NOT_A_DICT),
    "a number": (b"7", NOT_A_DICT),
    "null": (b"null", NOT_A_DICT),
    "an empty batch": (b"[]", (-32600, "batch is empty")),
    "brackets": (b"[" * 100_000, INVALID_JSON),
    "nested lists": (b"[" * 90_000 + b"]" * 90_000, INVALID_JSON),
    "nested objects": (b'{"a":' * 30_000 + b"1" + b"}" * 30_000, INVALID_JSON),
    "a number of many digits": (b"9" * 50_000, INVALID_JSON),
    "zero bytes": (bytes(1000), INVALID_JSON),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_gets_its_error(case, protocol, dial):
    message, (code, text) = MALFORMED[case]
    raw = dial(protocol)
    raw.send(message)
    reply = raw.receive()
    assert reply["error"] == {"code": code, "message": text}
    assert reply["id"] is None
    # The same connection goes on.
    assert raw.request("server.ping")["result"] is None


@pytest.mark.parametrize("protocol", ["tcp", "ssl"])
def test_bytes_that_are_no_utf8_get_their_error(protocol, dial):
    raw = dial(protocol)
    raw.send(b'{"id": 1, "method": "\xff\xfe"}')
    reply = raw.receive()
    assert reply["error"] == {"code": -32700, "message": "messages must be encoded in UTF-8"}
    raw.send(bytes(range(256)).replace(b"\n", b"") * 100)
    assert raw.receive()["error"]["code"] == -32700
    assert raw.request("server.ping")["result"] is None


def test_a_websocket_may_send_binary_frames_but_no_text_that_is_no_utf8(dial):
    raw = dial("ws")
    raw.send(b"\xff\xfe", text=False)
    assert raw.receive()["error"]["message"] == "messages must be encoded in UTF-8"
    raw.send(b"\xff\xfe", text=True)
    assert raw.receive() is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_members_of_a_batch_fail_one_by_one(protocol, dial):
    raw = dial(protocol)
    good = {"jsonrpc": "2.0", "id": 1, "method": "server.ping"}
    unknown = {"jsonrpc": "2.0", "id": 2, "method": "no.such"}
    raw.send(json.dumps([1, good, "x", unknown, None]).encode())
    replies = raw.receive()
    assert [reply["id"] for reply in replies[:3]] == [None] * 3
    assert all(reply["error"]["code"] == -32600 for reply in replies[:3])
    by_id = {reply["id"]: reply for reply in replies[3:]}
    assert by_id[1]["result"] is None
    assert by_id[2]["error"] == {"code": -32601, "message": 'unknown method "no.such"'}
    assert len(replies) == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_huge_batch_is_answered_whole(protocol, dial):
    raw = dial(protocol)
    count = 3_000
    batch = [{"jsonrpc": "2.0", "id": n, "method": "server.ping"} for n in range(count)]
    raw.send(json.dumps(batch, separators=(",", ":")).encode())
    assert sorted(reply["id"] for reply in raw.receive()) == list(range(count))


@pytest.mark.parametrize("protocol", ["tcp", "ssl"])
def test_an_oversized_message_is_dropped_without_a_reply(protocol, dial, world):
    raw = dial(protocol)
    raw.send(b" " * (3 * MAX_RECV))
    # The reply to the next request is the first that comes.
    assert raw.request("server.ping") == {"jsonrpc": "2.0", "result": None, "id": 5}
    text = f"dropping message over {MAX_RECV:,d} bytes and re-synchronizing"
    assert re.search(rf"WARNING:\w+:\[\d+\] {text}\n", world.log())


def test_an_oversized_message_closes_a_websocket(dial):
    raw = dial("ws")
    # The server may close before it has taken everything.
    with contextlib.suppress(ConnectionClosed, ConnectionError):
        raw.send(b" " * (3 * MAX_RECV))
    assert raw.receive() is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reply_that_would_be_too_large_is_an_error(protocol, dial, world):
    raw = dial(protocol)
    too_large = {"code": -32600, "message": f"response too large (over {MAX_SEND:,d} bytes"}
    assert raw.request("blockchain.transaction.get", world.huge_txid)["error"] == too_large

    call = {"jsonrpc": "2.0", "method": "blockchain.block.headers", "params": [0, 100]}
    raw.send(json.dumps([{**call, "id": n} for n in range(30)]).encode())
    replies = raw.receive()
    good = [reply for reply in replies if "result" in reply]
    assert len(replies) == 30
    assert 15 < len(good) < 30
    assert all(reply["error"] == too_large for reply in replies if "error" in reply)


def test_a_history_that_would_be_too_large_is_an_error(dial):
    raw = dial("tcp")
    scripthash = hashlib.sha256(BUSY_SCRIPT).digest()[::-1].hex()
    too_large = {"code": 10001, "message": "history too large"}
    assert raw.request("blockchain.scripthash.get_history", scripthash)["error"] == too_large
    assert raw.request("blockchain.scripthash.subscribe", scripthash)["error"] == too_large


HASH = "00" * 32
SCRIPTHASH = "is not a valid script hash"
NUMBER = "should be a non-negative integer"
TX_HASH = "should be a transaction hash"
WRONG_ARGUMENTS = [
    *(
        (f"blockchain.scripthash.{name}", [value], 1, f"{value} {SCRIPTHASH}")
        for name in ("get_balance", "get_history", "get_mempool", "listunspent", "subscribe")
        for value in ("xy", 5, None, "00" * 31)
    ),
    ("blockchain.block.header", ["x"], 1, f"x {NUMBER}"),
    ("blockchain.block.header", [-1], 1, f"-1 {NUMBER}"),
    ("blockchain.block.header", [[]], 1, f"[] {NUMBER}"),
    ("blockchain.block.header", [10**30], 1, None),
    ("blockchain.block.header", [99_999], 1, "height 99,999 out of range"),
    ("blockchain.block.header", [5, 4], 1, None),
    ("blockchain.block.headers", [0, None], 1, f"None {NUMBER}"),
    ("blockchain.block.headers", [0, 5, {}], 1, f"{{}} {NUMBER}"),
    ("blockchain.block.headers", [0, 5, 99_999], 1, None),
    ("blockchain.estimatefee", ["soon"], 1, f"soon {NUMBER}"),
    ("blockchain.estimatefee", [5, "bold"], 1, "unknown estimatefee mode: BOLD"),
    ("blockchain.transaction.broadcast", [5], 1, "5 should be a hex string"),
    ("blockchain.transaction.broadcast", ["abc"], 1, "abc should be a hex string"),
    ("blockchain.transaction.broadcast", ["00"], 1, None),
    ("blockchain.transaction.get", ["00"], 1, f"00 {TX_HASH}"),
    ("blockchain.transaction.get", [HASH, "yes"], 1, '"verbose" must be a boolean'),
    ("blockchain.transaction.get", [HASH], 2, None),
    ("blockchain.transaction.get_merkle", [7, 0], 1, f"7 {TX_HASH}"),
    ("blockchain.transaction.get_merkle", [HASH, "x"], 1, f"x {NUMBER}"),
    ("blockchain.transaction.get_merkle", [HASH, 5], 1, f"tx {HASH} not in block at height 5"),
    ("blockchain.transaction.id_from_pos", ["x", 0], 1, f"x {NUMBER}"),
    ("blockchain.transaction.id_from_pos", [5, 0, 2], 1, '"merkle" must be a boolean'),
    (
        "blockchain.transaction.id_from_pos",
        [5, 999],
        1,
        "no tx at position 999 in block at height 5",
    ),
    ("blockchain.relayfee", [1], -32602, None),
    ("mempool.get_fee_histogram", [1], -32602, None),
    ("server.banner", [1], -32602, None),
    ("server.donation_address", [1], -32602, None),
    ("server.features", [1], -32602, None),
    ("server.peers.subscribe", [1], -32602, None),
    ("server.ping", [1], -32602, None),
    ("server.add_peer", [], -32602, None),
    (
        "blockchain.scripthash.get_balance",
        [],
        -32602,
        '0 arguments passed to method "blockchain.scripthash.get_balance" but it requires 1',
    ),
    ("blockchain.scripthash.get_balance", {"what": 1}, -32602, None),
    ("blockchain.scripthash.get_balance", 5, -32602, "invalid request arguments: 5"),
    ("no.such", [], -32601, 'unknown method "no.such"'),
    ("", [], -32601, 'unknown method ""'),
    ("getinfo", [], -32601, 'unknown method "getinfo"'),
]


# Of methods that protocol 1.6 added
WRONG_ARGUMENTS_OF_1_6 = [
    ("blockchain.transaction.broadcast_package", ["00"], 1, "00 should be a list"),
    ("blockchain.transaction.broadcast_package", [["0"]], 1, "0 should be a hex string"),
    ("blockchain.transaction.broadcast_package", [["00"], 2], 1, '"verbose" must be a boolean'),
    (
        "blockchain.transaction.broadcast_package",
        [["00"]],
        1,
        "the tx package was rejected by network rules.\n\nTX decode failed.",
    ),
    ("mempool.get_info", [1], -32602, None),
    ("blockchain.relayfee", [], -32601, 'unknown method "blockchain.relayfee"'),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", ["1.4", "1.6"])
def test_wrong_arguments_get_their_errors(version, protocol, dial):
    wrong = []
    raw = dial(protocol)
    assert raw.request("server.version", "test", version)["result"][1] == version
    cases = WRONG_ARGUMENTS if version == "1.4" else WRONG_ARGUMENTS_OF_1_6
    for method, params, code, text in cases:
        request = {"jsonrpc": "2.0", "id": 9, "method": method, "params": params}
        raw.send(json.dumps(request).encode())
        error = raw.receive().get("error", {})
        if error.get("code") != code or (text is not None and error.get("message") != text):
            wrong.append((method, params, error))
    assert not wrong


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", ["0.9", "9.9", "one", ["1.7", "1.8"], 1.4, {}, [[], 1]])
def test_a_protocol_that_we_do_not_speak_is_an_error_and_the_end(version, protocol, dial):
    raw = dial(protocol)
    error = raw.request("server.version", "test", version)["error"]
    assert error == {"code": 1, "message": f"unsupported protocol version: {version}"}
    assert raw.receive() is None


def test_replies_without_a_request_change_nothing(dial):
    raw = dial("tcp")
    for reply in ({"id": 0, "result": 1}, {"id": [], "result": 1}, {"id": None, "error": {}}):
        raw.send(json.dumps({"jsonrpc": "2.0", **reply}).encode())
    while (reply := raw.request("server.ping"))["id"] != 5:
        assert "error" in reply


def test_junk_in_place_of_a_handshake_ends_only_that_connection(dial, world):
    dial("tcp")
    for protocol in ("ssl", "ws"):
        with socket.create_connection(("127.0.0.1", world.ports[protocol]), timeout=SECS) as sock:
            sock.sendall(bytes(range(256)) * 40)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):
                    pass
    # An HTTP request that asks for no websocket
    with socket.create_connection(("127.0.0.1", world.ports["ws"]), timeout=SECS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 4")


def test_connections_that_are_reset_or_left_half_open_delay_no_others(dial, world, stopping):
    hello = bytes.fromhex("160301020001")  # the beginning of a TLS handshake
    socks = []
    for protocol in SERVICES:
        for start in (b"", hello, b"GET / HT", b'{"id": 0, "met'):
            address = ("127.0.0.1", world.ports[protocol])
            sock = stopping.enter_context(socket.create_connection(address, timeout=SECS))
            sock.sendall(start)
            socks.append(sock)
    for protocol in PROTOCOLS:
        assert dial(protocol).request("server.ping")["result"] is None
    for sock in socks[::2]:
        # Closing resets the connection
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    for protocol in PROTOCOLS:
        assert dial(protocol).request("server.ping")["result"] is None


def test_the_operators_port_survives_nonsense_too(dial, world):
    for message, _error in MALFORMED.values():
        # Each ends its connection: the rest may have been sent by a web page.
        raw = dial("rpc")
        raw.send(message)
        assert raw.receive()["error"]["code"] in (-32700, -32600)
    raw = dial("rpc")
    wrong = [
        ("reorg", ["x"]),
        ("reorg", [10**9]),
        ("disconnect", [5]),
        ("log", [[1]]),
        ("query", [5, 1]),
        ("query", [["00"], -1]),
        ("daemon_url", ["nowhere"]),
        ("daemon_url", [7]),
        ("getinfo", [1]),
        ("server.ping", []),
    ]
    for method, params in wrong:
        reply = raw.request(method, *params)
        assert "error" in reply, (method, params, reply)
        assert reply["error"]["code"] in (1, -32601, -32602), (method, params, reply)
    assert raw.request("getinfo")["result"]["db height"] == world.height


def test_a_certificate_that_cannot_be_read_ends_the_server_before_it_asks_the_node(
    tmp_path, ends_with
):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate\n")
    services = {"SERVICES": f"ssl://127.0.0.1:{free_port()},rpc://127.0.0.1:{free_port()}"}
    files = {"SSL_CERTFILE": broken, "SSL_KEYFILE": broken}
    error = ends_with(**services, **files)
    assert error.startswith(f"envvar SSL_CERTFILE value {broken} holds no certificate in PEM form")
    files["SSL_CERTFILE"] = tmp_path / "missing.pem"
    error = ends_with(**services, **files)
    assert error.startswith(f"envvar SSL_CERTFILE value {tmp_path}/missing.pem cannot be read: No")
    files["SSL_CERTFILE"] = ""
    assert ends_with(**services, **files).startswith("envvar SSL_CERTFILE value is empty: ")
    # The database was not made, nor the node asked, which does not answer.
    assert not (tmp_path / "db" / "utxo").exists()


def test_a_port_in_use_ends_the_server_before_it_asks_the_node(tmp_path, ends_with):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = ends_with(SERVICES=f"rpc://127.0.0.1:{free_port()},ws://127.0.0.1:{port}")
    assert error.startswith(f"WS server failed to listen on 127.0.0.1:{port}: Address already in ")
    assert not (tmp_path / "db" / "utxo").exists()


def test_rpc_beyond_this_machine_ends_the_server_unless_rpc_allow_is_set(ends_with):
    error = ends_with(SERVICES="rpc://0.0.0.0:8000")
    assert error.startswith("bad host for SERVICES: rpc://0.0.0.0:8000; whoever reaches")
