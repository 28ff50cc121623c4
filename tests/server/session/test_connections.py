"""JSON-RPC versions, batches, bounds on size and time, and every kind of transport."""

import asyncio
import json
import logging
import socket
import ssl
import struct
import subprocess

import pytest

import electrumx
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.session.admin.tables import session_rows
from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.storage.schema import DBDamagedError
from tests.fakes.session_world import (
    FakeDB,
    FakeService,
    make_tx_hash,
    script_hash,
    session_world,
    until,
)

TXID = hash_to_hex_str(make_tx_hash("some"))
ALL_PROTOCOLS = ["tcp", "ssl", "ws", "wss"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return (certificate file, key file) for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


def tls_settings(certificate):
    context = ssl.create_default_context(cafile=certificate[0])
    context.check_hostname = False
    return {
        "tls_client": context,
        "ssl_certfile": certificate[0],
        "ssl_keyfile": certificate[1],
        "services": [FakeService(protocol) for protocol in [*ALL_PROTOCOLS, "rpc"]],
    }


# -- transports


async def test_every_transport_serves_requests_and_notifications(certificate):
    sh, hashX = script_hash("alice")
    async with session_world(**tls_settings(certificate)) as world:
        for protocol in ALL_PROTOCOLS:
            client = await world.connect(protocol)
            assert [electrumx.version, "1.4.2"] == await client.request(
                "server.version", "test", ["1.4", "1.6"]
            )
            assert None is await client.request("blockchain.scripthash.subscribe", sh)
            await client.request("blockchain.headers.subscribe")
            await client.send([{"method": "server.ping", "id": n} for n in range(3)])
            assert [0, 1, 2] == sorted(item["id"] for item in await client.recv())
            assert (1, "x is not a valid script hash") == await client.error(
                "blockchain.scripthash.subscribe", "x"
            )
        await world.new_block([hashX])
        for client in world.clients:
            method, (header,) = await client.notification()
            assert ("blockchain.headers.subscribe", 11) == (method, header["height"])
            assert ("blockchain.scripthash.subscribe", [sh, None]) == await client.notification()
        flags = [row[1][0] for row in session_rows(world.manager, for_log=True)]
        assert ["T", "S", "W", "W"] == flags
        for client in world.clients:
            await client.close()
        await until(lambda: world.manager.session_count() == 0)


@pytest.mark.parametrize("protocol", ["ws", "wss"])
async def test_a_websocket_that_was_cut_is_soon_written_to_no_more(protocol, certificate, caplog):
    async with session_world(**tls_settings(certificate)) as world:
        client = await world.connect(protocol)
        await client.request("server.ping")
        transport = world.session(0).transport
        connection = transport._transport
        connection.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        transport.send([b"1"] * 100)
        await until(lambda: not world.manager.sessions)
    # asyncio logs it from the sixth write on.
    assert "socket.send() raised exception" not in caplog.text


async def test_sessions_of_every_transport_can_be_closed_by_the_server(certificate):
    async with session_world(**tls_settings(certificate)) as world:
        clients = [await world.connect(protocol) for protocol in ALL_PROTOCOLS]
        for client in clients:
            await client.request("server.ping")
        await world.manager.shared.table.disconnect(list(world.manager.sessions), "testing")
        for client in clients:
            assert None is await client.recv()
        await until(lambda: world.manager.session_count() == 0)


async def test_sessions_count_their_requests_by_one_text_for_each_method():
    async with session_world() as world:
        clients = [await world.connect() for _ in range(2)]
        for client in clients:
            await client.request("server.ping")
            # Not in the form of most messages, which has its own code
            await client.request("blockchain.block.header", height=0)
        counts = [session.request_counts() for session in world.manager.sessions]
        assert len(counts) == len(clients)
        for method in ("server.ping", "blockchain.block.header"):
            assert [of_session[method] for of_session in counts] == [1, 1]
            texts = {id(key) for of_session in counts for key in of_session if key == method}
            assert len(texts) == 1


async def test_binary_websocket_messages_are_understood():
    from websockets.asyncio.client import connect

    async with (
        session_world(services=[FakeService("ws")]) as world,
        connect(f"ws://127.0.0.1:{world.port('ws')}") as ws,
    ):
        await ws.send(b'{"id": 1, "method": "server.ping"}')
        assert {"jsonrpc": "2.0", "result": None, "id": 1} == json.loads(await ws.recv())


async def test_a_bad_certificate_stops_only_its_listener(tmp_path, caplog):
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    caplog.set_level(logging.INFO)
    services = [FakeService("ssl"), FakeService("tcp")]
    async with session_world(
        services=services, ssl_certfile=str(bad), ssl_keyfile=str(bad), ready=False
    ) as world:
        world.mempool_event.set()
        await until(lambda: world.manager.listeners.open)
        client = await world.connect()
        await client.request("server.ping")
        assert "SSL server failed to listen on 127.0.0.1:0: " in caplog.text
        assert "TCP server listening on 127.0.0.1:0" in caplog.text


async def test_a_port_in_use_is_an_error_in_the_log_and_no_more(caplog):
    async with session_world() as world:
        taken = world.port("tcp")
        services = [FakeService("tcp", port=taken), FakeService("ws")]
        async with session_world(services=services, ready=False) as other:
            other.mempool_event.set()
            await until(lambda: other.manager.listeners.open)
            assert f"TCP server failed to listen on 127.0.0.1:{taken}: " in caplog.text


# -- JSON-RPC versions


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (
            {"jsonrpc": "2.0", "method": "server.ping", "id": 1},
            {"jsonrpc": "2.0", "result": None, "id": 1},
        ),
        (
            {"jsonrpc": "2.0", "method": "server.ping", "params": {}, "id": "a"},
            {"jsonrpc": "2.0", "result": None, "id": "a"},
        ),
        ({"method": "server.ping", "id": 1}, {"jsonrpc": "2.0", "result": None, "id": 1}),
        (
            {"jsonrpc": "1.0", "method": "server.ping", "params": [], "id": [1]},
            {"result": None, "error": None, "id": [1]},
        ),
        (
            {"jsonrpc": "1.0", "method": "server.ping", "params": {}, "id": 1},
            {
                "result": None,
                "error": {"code": -32602, "message": "invalid request arguments: {}"},
                "id": 1,
            },
        ),
        (
            {"jsonrpc": "1.0", "method": "x", "params": [], "id": 1},
            {
                "result": None,
                "error": {"code": -32601, "message": 'unknown method "x"'},
                "id": 1,
            },
        ),
        (
            {"method": "server.ping", "params": 5, "id": 1},
            {
                "jsonrpc": "2.0",
                "error": {"code": -32602, "message": "invalid request arguments: 5"},
                "id": 1,
            },
        ),
        (
            {"method": 5, "id": 1},
            {
                "jsonrpc": "2.0",
                "error": {"code": -32601, "message": "method must be a string"},
                "id": 1,
            },
        ),
        (
            5,
            {
                "jsonrpc": "2.0",
                "error": {"code": -32600, "message": "request object must be a dictionary"},
                "id": None,
            },
        ),
        (
            [],
            {
                "jsonrpc": "2.0",
                "error": {"code": -32600, "message": "batch is empty"},
                "id": None,
            },
        ),
    ],
)
async def test_each_json_rpc_version_is_answered_in_kind(client, message, reply):
    await client.send(message)
    assert reply == await client.recv()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"{", "invalid JSON"),
        (b"", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"id": 1, "method": "server.ping", "params": [' + b"9" * 5000 + b"]}", "invalid JSON"),
        (b"\xff\xfe", "messages must be encoded in UTF-8"),
    ],
)
async def test_invalid_json_is_answered_with_an_error_without_id(world, client, message, text):
    await client.send(message)
    assert {
        "jsonrpc": "2.0",
        "error": {"code": -32700, "message": text},
        "id": None,
    } == await client.recv()
    assert 1100 <= world.session().cost < 1200
    world.session().account.cost = 0
    await client.request("server.ping")


async def test_the_first_message_that_parses_determines_the_json_rpc_version(client):
    await client.send(b"nonsense")
    await client.recv()
    await client.send({"jsonrpc": "1.0", "method": "server.ping", "params": [], "id": 1})
    assert {"result": None, "error": None, "id": 1} == await client.recv()
    await client.send([{"method": "server.ping", "id": 2}])
    assert "request object must be a dictionary" == (await client.recv())["error"]["message"]
    await client.send({"jsonrpc": "2.0", "method": "server.ping"})
    assert 'request has no "id"' == (await client.recv())["error"]["message"]


async def test_notifications_in_json_rpc_1_carry_a_null_id(world, client):
    await client.send(
        {"jsonrpc": "1.0", "method": "blockchain.headers.subscribe", "params": [], "id": 1}
    )
    await client.recv()
    await world.new_block()
    notification = await client.recv()
    assert ("blockchain.headers.subscribe", None) == (notification["method"], notification["id"])


@pytest.mark.parametrize(
    "message",
    [
        [{"result": 1, "id": None}, {"result": 2, "id": "a"}],
        [{"result": 1, "id": 1}],
        {"result": 1, "id": 7},
        {"error": {"code": 1}, "id": None},
        {"jsonrpc": "2.0", "error": 5, "id": 1},
        {"jsonrpc": "1.0", "result": 1, "error": None, "id": [1]},
        {"method": "server.ping"},
        {"method": "server.ping", "id": None},
        {"jsonrpc": "2.0", "method": "nonsense", "params": [1]},
    ],
)
async def test_replies_and_notifications_get_no_answer_but_are_charged(world, message):
    client = await world.connect()
    await client.send(message)
    if not (isinstance(message, dict) and message.get("jsonrpc") == "1.0"):
        await client.request("server.ping")
    await until(lambda: world.session().errors == 1)
    assert world.session().cost >= 100


async def test_a_batch_is_answered_as_one_array_malformed_items_first(world, client):
    await client.send(
        [
            {"method": "server.ping", "id": 1},
            5,
            {"method": "nonsense", "id": 2},
            {"method": "server.ping"},
            {"method": "server.donation_address", "params": "x", "id": 3},
        ]
    )
    reply = await client.recv()
    assert [None, 3] == [item["id"] for item in reply[:2]]
    assert {1, 2} == {item["id"] for item in reply[2:]}
    # Two malformed, one unknown method, one notification
    await until(lambda: world.session().errors == 4)


async def test_a_batch_of_malformed_items_and_notifications_is_answered(world, client):
    await client.send([{"method": "server.ping"}, 5])
    assert [None] == [item["id"] for item in await client.recv()]
    await until(lambda: world.session().errors == 2)
    await client.send([5, "x"])
    assert ["request object must be a dictionary"] * 2 == [
        item["error"]["message"] for item in await client.recv()
    ]


async def test_an_unexpected_failure_is_an_internal_error(world, client, caplog):
    world.mempool.failure = KeyError("oops")
    assert (-32603, "internal server error") == await client.error(
        "blockchain.scripthash.get_mempool", script_hash("a")[0]
    )
    assert "KeyError" in caplog.text
    world.mempool.failure = None
    await client.request("server.ping")


async def test_a_read_that_failed_is_an_internal_error_and_logged_where_it_arose(
    world, client, caplog
):
    world.mempool.failure = DBDamagedError("row 75 of the utxo store is short")
    for _ in range(3):
        assert (-32603, "internal server error") == await client.error(
            "blockchain.scripthash.get_mempool", script_hash("a")[0]
        )
    assert "damaged" not in caplog.text


async def test_an_unserialisable_result_is_an_internal_error(world, client):
    world.mempool.histogram = [b"bytes"]
    error = await client.error("mempool.get_fee_histogram")
    assert (-32603, "internal server error") == error
    await client.request("server.ping")


# -- bounds


async def test_a_response_over_the_bound_is_replaced_by_an_error(world, client):
    world.daemon.txs[TXID] = "ab" * 600_000
    expected = (-32600, "response too large (over 1,000,000 bytes")
    assert expected == await client.error("blockchain.transaction.get", TXID)
    await client.request("server.ping")


async def test_long_replies_that_are_ready_together_are_not_joined(monkeypatch):
    sent = []

    def send(transport, messages):
        sent.append(len(messages))
        give_to_socket(transport, messages)

    give_to_socket = RawTransport.send
    monkeypatch.setattr(RawTransport, "send", send)
    async with session_world(db=FakeDB(height=2100, txs_per_block=1)) as world:
        client = await world.connect()
        request = '{"jsonrpc": "2.0", "id": %d, "method": "blockchain.block.headers", "params": %s}'
        await client.send("\n".join(request % (n, [n, 2016]) for n in range(4)).encode())
        assert [0, 1, 2, 3] == sorted([(await client.recv())["id"] for _ in range(4)])
    assert [1, 1, 1, 1] == sent


async def test_max_send_is_never_below_350000():
    async with session_world(max_send=10) as world:
        client = await world.connect()
        world.daemon.txs[TXID] = "ab" * 170_000
        assert 340_000 == len(await client.request("blockchain.transaction.get", TXID))
        world.daemon.txs[TXID] = "ab" * 175_000
        expected = (-32600, "response too large (over 350,000 bytes")
        assert expected == await client.error("blockchain.transaction.get", TXID)


async def test_in_a_batch_the_parts_past_the_bound_are_replaced(world, client):
    world.daemon.txs[TXID] = "ab" * 200_000
    await client.send(
        [{"method": "blockchain.transaction.get", "params": [TXID], "id": n} for n in range(4)]
    )
    reply = await client.recv()
    assert 4 == len(reply)
    assert [True, True, False, False] == ["result" in item for item in reply]


@pytest.mark.parametrize("protocol", ["tcp", "rpc"])
async def test_an_over_long_message_is_dropped_up_to_its_newline(protocol, caplog):
    async with session_world(max_recv=1000) as world:
        client = await world.connect(protocol)
        await client.send(b"x" * 1001)
        await client.send(b"y" * 300_000)
        exact = json.dumps({"method": "nonsense", "id": 1}).encode()
        await client.send(exact + b" " * (1000 - len(exact)))
        assert 1 == (await client.recv())["id"]
        assert 2 == caplog.text.count("dropping message over 1,000 bytes")


async def test_an_over_long_websocket_message_ends_its_connection_only():
    async with session_world(max_recv=1000, services=[FakeService("ws")]) as world:
        client, other = await world.connect("ws"), await world.connect("ws")
        await client.send(b"x" * 1001)
        assert None is await client.recv()
        await other.request("server.ping")
        await until(lambda: world.manager.session_count() == 1)


async def test_a_slow_request_times_out(caplog):
    caplog.set_level(logging.INFO)
    async with session_world(request_timeout=1) as world:
        client = await world.connect()
        world.daemon.stall = asyncio.Event()
        assert (-102, "server busy - request timed out") == await client.error(
            "blockchain.transaction.get", TXID
        )
        assert (
            f"incoming request Request('blockchain.transaction.get', ['{TXID}']) "
            "timed out after 1 secs" in caplog.text
        )
        await client.request("server.ping")


async def test_requests_beyond_the_concurrency_wait_for_a_slot():
    async with session_world(initial_concurrent=2) as world:
        client = await world.connect()
        world.daemon.stall = asyncio.Event()
        for n in range(5):
            await client.send({"method": "blockchain.transaction.get", "params": [TXID], "id": n})
        await until(lambda: world.session().unanswered_request_count() == 5)
        await until(lambda: len(world.daemon.calls) == 2)
        world.daemon.stall.set()
        assert [0, 1, 2, 3, 4] == sorted([(await client.recv())["id"] for _ in range(5)])


async def test_a_session_over_the_hard_limit_is_closed(caplog):
    caplog.set_level(logging.INFO)
    async with session_world(cost_hard_limit=2000, request_sleep=0) as world:
        client = await world.connect()
        for _ in range(10):
            await client.send({"method": "nonsense", "id": 1})
            await client.recv()
        session = world.session()
        session.bump_cost(1000)
        assert (-101, "excessive resource usage") == await client.error("server.ping")
        assert None is await client.recv()
        assert "closing session over res usage. ip: 127.0.0.1. groups: ['loopback']" in caplog.text
        assert "changing task concurrency from " in caplog.text
        assert "disconnected whilst throttled" in caplog.text


async def client_with_a_stalled_request(world):
    client = await world.connect()
    world.daemon.stall = asyncio.Event()
    await client.send({"method": "blockchain.transaction.get", "params": [TXID], "id": 1})
    await until(lambda: world.daemon.calls)
    return client


async def test_a_client_that_vanishes_leaves_nothing_behind(world):
    client = await client_with_a_stalled_request(world)
    # A reset: after a plain close the server would still answer the request, or time it out.
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()
    await until(lambda: world.manager.session_count() == 0, secs=25)


async def test_a_client_that_closes_is_gone_when_its_last_request_times_out():
    async with session_world(request_timeout=1) as world:
        client = await client_with_a_stalled_request(world)
        await client.close()
        await until(lambda: world.manager.session_count() == 0)


async def test_a_logged_session_shows_what_it_receives(world, client, caplog):
    caplog.set_level(logging.INFO)
    await client.request("server.ping")
    session = world.session()
    session.log_me = True
    await client.send(b'{"id": 5, "method": "server.ping"}')
    await client.recv()
    assert (
        f'[{session.session_id}] processing b\'{{"id": 5, "method": "server.ping"}}\''
        in caplog.text
    )


async def test_new_sessions_are_logged_with_their_address_unless_masked(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        await (await world.connect()).request("server.ping")
        await (await world.connect()).request("server.ping")
        number = world.session().session_id
        assert f"[{number}] TCP 127.0.0.1:" in caplog.text
        assert ", 1 total" in caplog.text
    caplog.clear()
    async with session_world(anon_logs=True) as world:
        await (await world.connect()).request("server.ping")
        assert "TCP xx.xx.xx.xx:xx, 0 total" in caplog.text
        assert "127.0.0.1:" not in caplog.text.replace("listening on 127.0.0.1:0", "")
