"""Every command of electrumx_rpc against a running server, as an operator types and reads them."""

import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import sys

import pytest

import electrumx
from tests.conftest import REPOSITORY
from tests.fakes.chain import COIN, Model
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration.server import ServerProcess
from tests.ports import free_port, free_ports

HEIGHT = 60
ADDRESS_HASH = bytes([3]) * 20
SCRIPT = b"\x76\xa9\x14" + ADDRESS_HASH + b"\x88\xac"


@pytest.fixture
def node(stopping):
    maker, tip = small_chain(HEIGHT)
    return stopping.enter_context(NodeThread(maker.chain(tip)))


@pytest.fixture
def server(node, tmp_path, stopping):
    return stopping.enter_context(ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc")))


@pytest.fixture
def run(server):
    """Function: run electrumx_rpc with some words; its output. status: the expected exit status."""

    def type_in(*words, status=0, port=None):
        env = {"PATH": os.environ["PATH"], "RPC_PORT": str(port or server.ports["rpc"])}
        command = [sys.executable, str(REPOSITORY / "electrumx_rpc"), *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done.stdout if status != 2 else done.stderr

    return type_in


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
def test_a_unix_socket_serves_the_operator_alone(policy, node, short_tmp, stopping):
    if policy == "uvloop":
        pytest.importorskip("uvloop")
    path = short_tmp / "rpc.sock"
    (port,) = free_ports(1)
    server = ServerProcess(
        short_tmp,
        node.env,
        protocols=("tcp",),
        SERVICES=f"tcp://127.0.0.1:{port},rpc://{path}",
        EVENT_LOOP_POLICY=policy,
    )
    server.ports["tcp"] = port
    stopping.enter_context(server)

    def type_in(*words):
        command = [sys.executable, str(REPOSITORY / "electrumx_rpc"), "--socket", path, *words]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(type_in("getinfo"))["db height"] == HEIGHT
    assert " unknown" in type_in("sessions").splitlines()[1]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        body = b'{"id":1,"method":"stop","params":[]}\n'
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        heard = b""
        while data := sock.recv(4096):
            heard += data
        assert b'"result"' not in heard
    server.kill()
    assert path.is_socket()
    server.start()
    assert json.loads(type_in("getinfo"))["db height"] == HEIGHT
    assert type_in("stop") == '"stopping"\n'
    assert server.wait_exit() == 0
    assert not os.path.lexists(path)


@pytest.mark.parametrize("policy", ["asyncio", "uvloop"])
def test_rpc_beyond_this_machine_serves_it_too(policy, node, tmp_path, stopping):
    if policy == "uvloop":
        pytest.importorskip("uvloop")
    (port,) = free_ports(1)
    server = ServerProcess(
        tmp_path,
        node.env,
        protocols=("rpc",),
        SERVICES=f"rpc://0.0.0.0:{port}",
        RPC_ALLOW="192.0.2.0/24",
        EVENT_LOOP_POLICY=policy,
    )
    server.ports["rpc"] = port
    stopping.enter_context(server)
    assert server.rpc("getinfo")["pid"] == server.child.pid


def test_getinfo_shows_the_state_of_the_server(run, server, node):
    info = json.loads(run("getinfo"))
    # Sorted, indented by four
    assert run("--json", "getinfo").startswith('{\n    "coin": "Bitcoin')
    assert list(info) == sorted(info)
    assert set(info) == {
        *("coin", "daemon", "daemon height", "db height", "db_flush_count", "groups"),
        *("history cache", "merkle cache", "tx hashes cache", "peers", "pid", "request counts"),
        *("request total", "sessions", "txs sent", "uptime", "version"),
        *("loop lag", "mempool"),
        *("state", "status", "ready", "reason", "lag", "processed height", "progress", "node"),
    }
    assert (info["state"], info["ready"], info["reason"], info["lag"]) == ("serving", True, "", 0)
    assert info["status"] == f"serving: height {HEIGHT}"
    assert info["processed height"] == HEIGHT
    assert info["progress"]["percent"] == 100
    assert info["node"]["last reply secs"] < 60
    assert info["node"]["failing"] is False
    assert info["mempool"] == {"behind": False, "height": HEIGHT, "txs": 0}
    assert set(info["loop lag"]) == {"median ms", "p99 ms", "longest ms"}
    assert info["coin"] == COIN.__name__
    assert info["daemon"] == f"127.0.0.1:{node.node.port}/"
    assert info["daemon height"] == info["db height"] == HEIGHT
    assert info["db_flush_count"] >= 1
    for cache in ("history cache", "merkle cache", "tx hashes cache"):
        assert info[cache] == "0 lookups 0 hits 0 entries"
    assert info["peers"] == {"bad": 0, "good": 0, "never": 0, "stale": 0, "total": 0}
    assert info["pid"] == server.child.pid
    assert info["request counts"] == {"getinfo": 1}
    assert info["request total"] == 1
    assert set(info["sessions"]) == {
        *("count", "count with subs", "errors", "logged", "pending requests", "subs"),
        "subs_txo",
    }
    assert info["txs sent"] == 0
    assert re.fullmatch(r"(\d\dm )?\d\ds", info["uptime"])
    assert info["version"] == electrumx.version


async def test_sessions_and_groups_are_tables(run, server):
    header = (
        "ID     Flags            Client Proto    Cost   XCost  Reqs   Txs    Subs    Recv Recv KB"
        "    Sent Sent KB      Time                  Peer"
    )
    async with server.connect() as client:
        await client.hello("a long name of a wallet", "1.4.2")
        await client.call("blockchain.headers.subscribe")
        lines = run("sessions").splitlines()
        assert lines[0] == header
        [wallet] = [line.split() for line in lines[1:] if " RPC " not in line]
        assert wallet[1] == "T10"
        assert " ".join(wallet[2:]).startswith("a long name of a 1.4.2 ")
        [admin] = [line.split() for line in lines[1:] if " RPC " in line]
        assert admin[1].startswith("R")
        assert admin[2:4] == ["RPC", "RPC"]
        # Ids are plain numbers, and rows are as many as the header's columns
        rows = json.loads(run("--json", "sessions"))
        assert {len(row) for row in rows} == {15}
        heading, group = run("groups").splitlines()
        assert heading == (
            "Name            Sessions     Cost Retained   Reqs    Txs     Subs   Recv   Recv KB"
            "    Sent   Sent KB"
        )
        # Who comes from this machine shares one group.
        assert group.split()[:2] == ["loopback", "2"]


async def test_log_and_disconnect_name_what_they_did(run, server):
    async with server.connect() as client:
        await client.hello()
        [row] = [row for row in json.loads(run("--json", "sessions")) if row[3] == "test"]
        number = str(row[0])
        assert json.loads(run("log", "new", number, "z")) == [
            "logging new sessions",
            f"logging session {number}",
            "unknown: z",
        ]
        await client.call("server.ping")
        server.wait_log(rf"\[{number}\] processing b'.*server\.ping")
        assert json.loads(run("log", number)) == [f"not logging session {number}"]
        assert json.loads(run("log", "all")) == ["logging all sessions"]
        assert json.loads(run("log", "none")) == ["logging no sessions"]
        assert json.loads(run("disconnect", number, "z")) == [
            f"disconnecting session {number}",
            "unknown: z",
        ]
        await client.wait_closed()
    async with server.connect() as client:
        assert json.loads(run("disconnect", "all")) == ["disconnecting all sessions"]
        await client.wait_closed()
    server.wait_log("local RPC request to disconnect session ids ")


def test_query_shows_history_coins_and_balance(run, node):
    model = Model(node.node.blocks)
    hashX = hashlib.sha256(SCRIPT).digest()[:11]
    history, utxos = model.history[hashX], model.utxos(hashX)
    assert len(history) > 2
    assert len(utxos) > 2
    lines = run("query", SCRIPT.hex()).splitlines()
    assert lines[0] == f"Script: {SCRIPT.hex()}"
    assert lines[1 : 1 + len(history)] == [
        f"History #{n}: height {height} tx_hash {tx_hash[::-1].hex()}"
        for n, (tx_hash, height) in enumerate(history, start=1)
    ]
    shown = [line.partition(": ") for line in lines[1 + len(history) : -1]]
    assert [first for first, _colon, _rest in shown] == [
        f"UTXO #{n}" for n in range(1, len(utxos) + 1)
    ]
    assert sorted(rest for _first, _colon, rest in shown) == sorted(
        f"tx_hash {tx_hash[::-1].hex()} tx_pos {index} height {height} value {value:,d}"
        for _num, index, tx_hash, height, value in utxos
    )
    balance = f"{sum(utxo[4] for utxo in utxos) / 10**8:,.8f}".rstrip("0").rstrip(".")
    assert lines[-1] == f"Balance: {balance} {COIN.SHORTNAME}"

    limited = run("query", "--limit", "2", SCRIPT.hex()).splitlines()
    assert [line.partition(":")[0] for line in limited] == [
        *("Script", "History #1", "History #2", "UTXO #1", "UTXO #2", "Balance"),
    ]
    address = COIN.P2PKH_VERBYTE + ADDRESS_HASH
    text = _base58check(address)
    # An item that is neither makes the status 1, and does not stop the others.
    lines = run("query", text, "nonsense?", "6a", status=1).splitlines()
    assert lines[0] == f"Address: {text}"
    assert f"Balance: {balance} {COIN.SHORTNAME}" in lines
    assert lines[-4:] == [
        "Script: 6a",
        "No history found",
        "No UTXOs found",
        f"Balance: 0 {COIN.SHORTNAME}",
    ]


def _base58check(payload):
    digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    check = hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(payload + check, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = digits[digit] + text
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + text


def test_peers_can_be_added_and_are_listed(run):
    header = run("peers").splitlines()
    assert len(header) == 1
    assert re.sub(" +", " ", header[0]).strip() == (
        "Host Status TCP SSL Server Min Max Pruning Last Good Last Try Tries Source IP Address"
    )
    name = "electrum.example.org v1.4 s50002 t50001"
    assert run("add_peer", name) == f"\"peer '{name}' added\"\n"


def test_daemon_url_is_replaced_and_a_bad_one_changes_nothing(run, node):
    elsewhere = "http://operator:sesame@127.0.0.2:1/"
    assert run("daemon_url", elsewhere) == '"now using daemon at 127.0.0.2:1/"\n'
    assert json.loads(run("getinfo"))["daemon"] == "127.0.0.2:1/"
    # Nothing is the environment's.
    assert run("daemon_url") == f'"now using daemon at 127.0.0.1:{node.node.port}/"\n'
    error = run("daemon_url", "operator:sesame@nowhere:x", status=1)
    assert error.startswith('error making request: invalid daemon URL: "')
    assert "sesame" not in error
    assert json.loads(run("getinfo"))["daemon"] == f"127.0.0.1:{node.node.port}/"


@pytest.mark.parametrize(("words", "count"), [((), 3), (("5",), 5)])
def test_reorg_undoes_blocks_and_indexes_them_again(words, count, run, server):
    script = hashlib.sha256(SCRIPT).digest()[::-1].hex()
    before = electrum.call(server.ports["tcp"], "blockchain.scripthash.get_history", script)
    assert run("reorg", *words) == f'"scheduled a reorg of {count} blocks"\n'
    server.wait_log(f"backed up to height {HEIGHT - count}\n")
    server.wait_log(rf"processed {count} blocks")
    server.wait_height(HEIGHT)
    after = electrum.call(server.ports["tcp"], "blockchain.scripthash.get_history", script)
    assert after == before


def test_reorg_of_more_than_there_is_is_refused(run):
    assert run("reorg", "100000", status=1).startswith("error making request: ")
    refusal = "error making request: -1 should be a non-negative integer\n"
    assert run("reorg", "-1", status=1) == refusal


def test_stop_ends_the_server_and_then_no_port_answers(run, server):
    assert run("stop") == '"stopping"\n'
    assert server.wait_exit(10) == 0
    port = server.ports["rpc"]
    assert run("getinfo", status=1) == (
        "cannot connect - is ElectrumX catching up, not running, or "
        f"is {port} the wrong RPC port?\n"
    )


def test_a_wrong_command_line_is_refused_with_the_usage(run):
    assert "usage:" in run("frobnicate", status=2)
    assert "usage:" in run("query", status=2)
    unused = free_port()
    assert f"is {unused} the wrong RPC port?" in run("-p", str(unused), "getinfo", status=1)
