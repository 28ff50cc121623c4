"""LocalRPC: every command, its exact lines and its errors."""

import logging
import os

import pytest

import electrumx
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.bulk_sync.progress import Progress
from tests.fakes.session_world import FakeCoin, make_tx_hash, until, utxo


@pytest.fixture
async def admin(world):
    return await world.connect("rpc")


async def wallet(world, name="wallet"):
    client = await world.connect()
    await client.request("server.version", name, "1.4.2")
    return client, world.session().session_id


async def test_getinfo_sums_the_server_up(world, admin):
    client, _id = await wallet(world)
    await client.request("blockchain.scripthash.subscribe", "00" * 32)
    await client.error("nonsense")
    info = await admin.request("getinfo")
    uptime = info.pop("uptime")
    assert uptime.endswith("s")
    assert {
        "coin": "FakeCoin",
        "daemon": "fake-host:8332/",
        "daemon height": 10,
        "db height": 10,
        "db_flush_count": 7,
        "groups": 1,
        "history cache": "1 lookups 0 hits 1 entries",
        "loop lag": {"median ms": 0.0, "p99 ms": 0.0, "longest ms": 0.0},
        "mempool": {"behind": False, "height": 10, "txs": 0},
        "merkle cache": "0 lookups 0 hits 0 entries",
        "peers": {"bad": 0, "good": 1, "never": 0, "stale": 0, "total": 1},
        "pid": os.getpid(),
        "request counts": {
            "blockchain.scripthash.subscribe": 1,
            "getinfo": 1,
            "invalid method": 1,
            "server.version": 1,
        },
        "request total": 4,
        "sessions": {
            "count": 2,
            "count with subs": 1,
            "errors": 1,
            "logged": 0,
            "pending requests": 1,
            "subs": 1,
            "subs_txo": 0,
        },
        "tx hashes cache": "0 lookups 0 hits 0 entries",
        "txs sent": 0,
        "version": electrumx.version,
    } == info


async def test_a_session_is_inspected(world, admin):
    client, number = await wallet(world)
    await client.request("blockchain.scripthash.subscribe", "00" * 32)
    details = await admin.request("inspect_session", number)
    assert details.pop("conn_time").endswith("s")
    assert {
        "client_name": "wallet",
        "errors": 0,
        "is_logged": False,
        "pending requests": 0,
        "protocol": "1.4.2",
        "request counts": {"blockchain.scripthash.subscribe": 1, "server.version": 1},
        "request total": 2,
        "subs_sh": 1,
        "subs_txo": 0,
        "txs sent": 0,
    } == details
    assert (1, "no session with id=999999999") == await admin.error("inspect_session", 999999999)
    own = next(s.session_id for s in world.manager.sessions if s.kind == "rpc")
    assert (1, f"session with id={own} is not a client session") == await admin.error(
        "inspect_session", own
    )


async def test_getinfo_shows_the_progress_of_a_bulk_sync(world, admin):
    assert "bulk sync" not in await admin.request("getinfo")
    world.bp.bulk_sync.progress = Progress("join", 12.345, 870_000, 61.0)
    info = await admin.request("getinfo")
    assert info["bulk sync"] == {
        "phase": "join",
        "percent": 12.3,
        "height": 870_000,
        "eta": "01m 01s",
    }


async def test_sessions_are_listed_oldest_first(world, admin):
    await admin.request("getinfo")
    _client, number = await wallet(world)
    rows = await admin.request("sessions")
    assert ["RPC", "wallet"] == [row[3] for row in rows]
    assert ["RPC", "1.4.2"] == [row[4] for row in rows]
    assert ["R20", "T10"] == [row[1] for row in rows]
    assert number == rows[1][0]
    assert 15 == len(rows[1])
    assert rows[1][2].startswith("127.0.0.1:")
    # Half a unit for the request, 0.2 for its way, five for coming, a little for bytes
    assert 5.7 < rows[1][5] < 5.8
    assert [0, 0, 0, 0, 1] == rows[1][6:11]


async def test_groups_are_listed_with_their_sums(world, admin):
    from ipaddress import ip_address

    await wallet(world)
    world.manager.groups.join(world.session(), ip_address("1.2.3.4"))
    world.manager.groups.by_name["1.2.3.0/24"].retained_cost = 9.0
    row = next(row for row in await admin.request("groups") if row[0] == "1.2.3.0/24")
    session = world.session()
    assert [
        "1.2.3.0/24",
        1,
        session.cost,
        9.0,
        0,
        0,
        0,
        session.recv_count,
        session.recv_size,
        session.send_count,
        session.send_size,
    ] == row


async def test_peers_are_listed_and_added(world, admin):
    (row,) = await admin.request("peers")
    assert "example.com" == row["host"]
    assert "peer 'a.example s t' added" == await admin.request("add_peer", "a.example s t")
    assert ["a.example s t"] == world.manager.shared.peers.added
    for name in (None, 5, ["a.example s t"], {}):
        assert (1, "expected the real name of a peer") == await admin.error("add_peer", name)


async def test_the_daemon_url_can_be_replaced(world, admin):
    assert "now using daemon at new:1/" == await admin.request("daemon_url", "http://u:p@new:1/")
    assert "now using daemon at env-host:8332/" == await admin.request("daemon_url", "")
    assert "now using daemon at host:1/" == await admin.request("daemon_url", "host:1/", "/cookie")
    assert world.daemon.login_files.cookies == ["/cookie"]
    assert (1, "invalid daemon URL") == await admin.error("daemon_url", daemon_url="nonsense")


async def test_a_reorg_is_scheduled_unless_catching_up(world, admin):
    assert "scheduled a reorg of 3 blocks" == await admin.request("reorg", count=3)
    assert [3] == world.bp.forced
    assert (1, "-3 should be a non-negative integer") == await admin.error("reorg", -3)
    expected = (1, "cannot reorg 1,000 blocks: undo information goes back 100")
    assert expected == await admin.error("reorg", 1000)
    world.bp.caught_up = False
    assert (1, "still catching up with daemon") == await admin.error("reorg", 3)


async def test_stop_asks_for_the_end(world, admin):
    assert "stopping" == await admin.request("stop")
    assert world.shutdown_event.is_set()


@pytest.mark.parametrize("value", ["5", 5, [5], None, {"a": 1}])
async def test_references_to_sessions_are_texts(admin, value):
    for method in ("disconnect", "log"):
        assert (1, "expected a list of session IDs") == await admin.error(method, value)


async def test_sessions_and_groups_are_disconnected(world, admin, caplog):
    from ipaddress import ip_address

    caplog.set_level(logging.INFO)
    one, id_one = await wallet(world)
    two, id_two = await wallet(world)
    world.manager.groups.join(world.session(), ip_address("1.2.3.4"))
    lines = await admin.request(
        "disconnect", [str(id_one), "1.2.3.0/24", "987654321", "None", "9" * 5000]
    )
    assert [
        f"disconnecting session {id_one}",
        "disconnecting group 1.2.3.0/24",
        "unknown: 987654321",
        "unknown: None",
        f"unknown: {'9' * 5000}",
    ] == lines
    ids = f"{id_one}, {id_two}"
    assert f"local RPC request to disconnect session ids {ids}" in caplog.text
    assert None is await one.recv()
    assert None is await two.recv()
    await until(lambda: world.manager.session_count() == 1)


async def test_disconnecting_all_includes_the_caller_which_gets_its_reply_first(world, admin):
    client, _id = await wallet(world)
    assert ["disconnecting all sessions"] == await admin.request("disconnect", ["ALL"])
    assert None is await client.recv()
    assert None is await admin.recv()
    await until(lambda: world.manager.session_count() == 0)


async def test_logging_is_toggled(world, admin):
    _client, number = await wallet(world)
    assert [f"logging session {number}", "unknown: x"] == await admin.request(
        "log", [str(number), "x"]
    )
    assert "TL10" == world.session().flags()
    assert [f"not logging session {number}"] == await admin.request("log", [str(number)])
    assert ["logging new sessions"] == await admin.request("log", ["New"])
    await wallet(world)
    assert [False, True] == [world.session(n).log_me for n in (0, 1)]
    assert ["not logging new sessions"] == await admin.request("log", ["new"])
    assert ["logging all sessions"] == await admin.request("log", ["all"])
    await wallet(world)
    assert all(session.log_me for session in world.manager.sessions)
    assert ["logging no sessions"] == await admin.request("log", ["none"])
    assert not any(session.log_me for session in world.manager.sessions)


async def test_a_nodes_password_is_not_logged_with_the_request(world, admin, caplog):
    caplog.set_level(logging.INFO)
    assert ["logging all sessions"] == await admin.request("log", ["all"])
    for url in ("http://user:secret@new:1/", 'u:"secret@a,user:secret@b', "user:secret"):
        await admin.ask("daemon_url", daemon_url=url)
    await admin.request("getinfo")
    lines = [line for line in caplog.text.splitlines() if "processing" in line]
    assert 4 == len(lines)
    assert all("processing daemon_url" in line for line in lines[:3])
    assert "processing b'" in lines[3]
    assert "getinfo" in lines[3]
    assert "secret" not in caplog.text


PASSWORDS = [
    b'{"id":1,"method":"daemon\\u005furl","params":["http://u:secret@h:1/"]}',
    b'{"id":1,"meth\\u006fd":"daemon\\u005Furl","params":["http://u:secret@h:1/"]}',
    b'{"id":1,"method":"getinfo","method":"daemon\\u005furl","params":["u:secret@h"]}',
    b'[{"id":1,"method":"getinfo"},{"id":2,"method":"d\\u0061emon_url","params":["u:secret@h"]}]',
    b'{"id":1,"method":"Daemon_URL","params":["http://u:secret@h:1/"]}',
    b'{"id":1,"method":"daemon-url","params":["http://u:secret@h:1/"]}',
    b'{"id":1,"method":"daemon_url","params":["http://u:secret@h:1/"}',
    b'{"id":1,"params":["http://u:secret@h:1/"]}',
    b'{"id":1,"method":["daemon_url"],"params":["http://u:secret@h:1/"]}',
    b'[{"id":1,"method":"getinfo"},"http://u:secret@h:1/"]',
]


@pytest.mark.parametrize("message", PASSWORDS)
async def test_no_spelling_of_daemon_url_gets_a_password_logged(world, admin, caplog, message):
    caplog.set_level(logging.INFO)
    assert ["logging all sessions"] == await admin.request("log", ["all"])
    await admin.send(message)
    await until(lambda: "processing" in caplog.text)
    (line,) = [line for line in caplog.text.splitlines() if "processing" in line]
    assert "secret" not in caplog.text
    assert line.isprintable()


async def test_a_query_looks_scripts_and_addresses_up(world, admin):
    script = bytes.fromhex("76a9")
    hashX = FakeCoin.hashX_from_script(script)
    txs = [make_tx_hash(n) for n in range(3)]
    world.db.histories[hashX] = [(tx_hash, 100_000 + n) for n, tx_hash in enumerate(txs)]
    world.db.utxos[hashX] = [
        utxo("a", 150_000_000, tx_pos=1, height=123_456),
        utxo("b", 25, height=5),
        utxo("c", 10),
    ]
    lines = await admin.request("query", items=["76a9", "addr1", "foreign", "name"], limit=2)
    assert [
        "Script: 76a9",
        f"History #1: height 100,000 tx_hash {hash_to_hex_str(txs[0])}",
        f"History #2: height 100,001 tx_hash {hash_to_hex_str(txs[1])}",
        f"UTXO #1: tx_hash {hash_to_hex_str(make_tx_hash('a'))} tx_pos 1 height 123,456 "
        "value 150,000,000",
        f"UTXO #2: tx_hash {hash_to_hex_str(make_tx_hash('b'))} tx_pos 0 height 5 value 25",
        "Balance: 1.50000035 FAKE",
        "Address: addr1",
        "No history found",
        "No UTXOs found",
        "Balance: 0 FAKE",
        "unknown: foreign: neither a script in hex nor an address of Fakecoin mainnet: "
        "invalid address: foreign",
        "unknown: name: neither a script in hex nor an address of Fakecoin mainnet",
    ] == lines


async def test_an_unknown_query_item_is_repeated_without_control_characters(admin):
    (line,) = await admin.request("query", ["no\nsuch\x1b[2J"], 10)
    assert line.startswith("unknown: no\\nsuch\\x1b[2J: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (150_000_000, "1.5"),
        (100_000_000_000, "1,000"),
        (123456789012345, "1,234,567.89012345"),
    ],
)
async def test_balances_are_exact_decimals(world, admin, value, text):
    world.db.utxos[FakeCoin.hashX_from_script(b"\xaa")] = [utxo("a", value)]
    lines = await admin.request("query", ["aa"], 10)
    assert f"Balance: {text} FAKE" == lines[-1]


@pytest.mark.parametrize("items", ["aa", [1], None])
async def test_a_query_needs_texts(admin, items):
    assert 1 == (await admin.error("query", items, 10))[0]


async def test_replies_to_the_administrator_are_unbounded(world, admin):
    world.manager.shared.peers.rpc_data = lambda: _big()

    async def _big():
        return ["x" * 3_000_000]

    assert 3_000_000 == len((await admin.request("peers"))[0])
