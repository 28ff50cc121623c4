"""The server is stopped: while it synchronises, while it serves, while it waits."""

import contextlib
import hashlib
import signal
import socket
import ssl
import time

import pytest

from tests.fakes.chain import COIN, Model
from tests.fakes.fake_node import Fault
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration.server import ServerProcess

# Closing sessions by force takes one second, waiting for listeners three; the rest is for a machine
# that is busy.
END_SECS = 100


def send_int(server):
    server.child.popen.send_signal(signal.SIGINT)


def send_term(server):
    server.child.popen.send_signal(signal.SIGTERM)


def send_hup(server):
    server.child.popen.send_signal(signal.SIGHUP)


def send_stop(server):
    assert server.rpc("stop") == "stopping"


def insist(server):
    """An operator who cannot wait: signals until the process has ended."""
    deadline = time.monotonic() + END_SECS
    while server.child.running() and time.monotonic() < deadline:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            server.child.popen.send_signal(signum)
            time.sleep(0.005)


WAYS = [send_int, send_term, send_hup, send_stop, insist]


def assert_ends(server, way):
    """Stop it, and see that it ends in order and in time."""
    start = time.monotonic()
    way(server)
    status = server.wait_exit(END_SECS)
    elapsed = time.monotonic() - start
    log = server.log()
    assert status == 0, log
    assert log.endswith("INFO:electrumx:ElectrumX server terminated normally\n")
    assert "Traceback" not in log
    assert "Task " not in log  # never awaited, or destroyed while pending
    print(f"ended {elapsed:.1f} s after {way.__name__}")
    return log


def assert_index_is(server, raw_blocks):
    """Compare the index with one made slowly from the blocks."""
    model = Model(raw_blocks)
    scripts = {
        txout.pk_script
        for block in (COIN.block(raw, h) for h, raw in enumerate(raw_blocks))
        for tx, _hash in block.transactions
        for txout in tx.outputs
    }
    for script in scripts:
        scripthash = hashlib.sha256(script).digest()
        hashX, shown = scripthash[:11], scripthash[::-1].hex()
        history = electrum.call(server.ports["tcp"], "blockchain.scripthash.get_history", shown)
        expected = [(tx_hash[::-1].hex(), height) for tx_hash, height in model.history[hashX]]
        assert [(item["tx_hash"], item["height"]) for item in history] == expected
        utxos = electrum.call(server.ports["tcp"], "blockchain.scripthash.listunspent", shown)
        found = {(u["tx_hash"], u["tx_pos"], u["height"], u["value"]) for u in utxos}
        assert found == {
            (tx_hash[::-1].hex(), index, height, value)
            for _num, index, tx_hash, height, value in model.utxos(hashX)
        }


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_while_it_synchronises_and_goes_on_from_there(way, tmp_path, stopping):
    maker, tip = small_chain(400)
    blocks = maker.chain(tip)
    node = stopping.enter_context(NodeThread(blocks))
    node.node.delay = 0.3
    server = ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")).launch()
    stopping.callback(server.kill)
    server.child.wait_for(
        lambda: node.do(lambda n: n.counts()["getblock"]) > 250, what="blocks fetched"
    )
    log = assert_ends(server, way)
    assert "flushing to DB for a clean shutdown..." in log
    assert "caught up" not in log

    node.node.delay = 0
    asked = len(node.node.calls)
    server.start()
    server.wait_height(400)
    heights = [params[0] for method, params in node.node.calls[asked:] if method == "getblockhash"]
    # Flushed blocks are not fetched again; block 0 identifies the daemon's chain.
    assert min(height for height in heights if height) >= 10
    assert_index_is(server, blocks)
    assert_ends(server, send_term)


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_while_clients_are_connected(way, tmp_path, stopping):
    maker, tip = small_chain(50)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    server = stopping.enter_context(ServerProcess(tmp_path, node.env))
    lines = []
    for protocol in ("tcp", "ssl", "rpc"):
        sock = socket.create_connection(("127.0.0.1", server.ports[protocol]), timeout=END_SECS)
        if protocol == "ssl":
            sock = electrum.trusting_context().wrap_socket(sock)
        stopping.enter_context(sock)
        sock.sendall(b'{"id": 0, "method": "server.ping"}\n')
        # Padded by TLS services
        reply = b""
        while not reply.endswith(b"\n"):
            reply += sock.recv(1000)
        lines.append(sock)
    # Connections without a request, or with half of one
    for protocol, start in (
        ("ssl", b"\x16\x03\x01"),
        ("wss", b""),
        ("ws", b"GET /"),
        ("tcp", b"{"),
    ):
        address = ("127.0.0.1", server.ports[protocol])
        stopping.enter_context(socket.create_connection(address, timeout=END_SECS)).sendall(start)
    # One that asks for more than it reads
    greedy = stopping.enter_context(
        socket.create_connection(("127.0.0.1", server.ports["tcp"]), timeout=END_SECS)
    )
    request = b'{"id": 0, "method": "blockchain.block.headers", "params": [0, 50]}\n'
    greedy.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for _ in range(2_000):
            greedy.sendall(request)

    log = assert_ends(server, way)
    assert "flushing to DB for a clean shutdown..." in log
    for sock in lines:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert sock.recv(1000) == b""
    server.start()
    assert electrum.call(server.ports["tcp"], "blockchain.headers.subscribe")["height"] == 50


@pytest.mark.parametrize("trouble", [Fault.WARMING_UP, Fault.HANG])
def test_it_ends_while_it_waits_for_the_node(trouble, tmp_path, stopping):
    maker, tip = small_chain(3)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    node.node.fail_always(trouble)
    server = ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")).launch()
    stopping.callback(server.kill)
    server.child.wait_for(lambda: node.node.authorizations, what="request to the node")
    assert_ends(server, send_term)


def test_it_ends_while_the_node_hangs_in_the_middle_of_serving(tmp_path, stopping):
    maker, tip = small_chain(10)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    server = stopping.enter_context(ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")))
    node.node.fail_always(Fault.HANG)
    seen = len(node.node.authorizations)
    address = ("127.0.0.1", server.ports["tcp"])
    with socket.create_connection(address, timeout=END_SECS) as sock:
        sock.sendall(b'{"id": 0, "method": "blockchain.relayfee"}\n')
        server.child.wait_for(lambda: len(node.node.authorizations) > seen + 1, what="requests")
        assert_ends(server, send_int)
