"""Who does not speak JSON-RPC is disconnected before anything it sent is executed."""

import asyncio
import json

import pytest

from electrumx.server.session import LocalRPC
from electrumx.server.session.engine.first_message import is_http, may_be_json_rpc
from tests.fakes.session_world import WAIT_SECS, FakeService, session_world, until

STOP = b'{"jsonrpc":"2.0","id":1,"method":"stop","params":[]}\n'
PING = b'{"jsonrpc":"2.0","id":1,"method":"server.ping","params":[]}\n'
HEADERS = (
    b"Host: 127.0.0.1:8000\r\nConnection: keep-alive\r\nContent-Type: text/plain;charset=UTF-8\r\n"
    b"Origin: http://attacker.example\r\nContent-Length: %d\r\n\r\n"
)
# The first bytes that a page can have a browser send, each with a command behind them.
FROM_BROWSERS = {
    "post": b"POST / HTTP/1.1\r\n" + HEADERS % len(STOP) + STOP,
    "long address": b"GET /" + 70_000 * b"a" + b" HTTP/1.1\r\n" + HEADERS % 0 + STOP,
    "over-long address": b"GET /" + 1_200_000 * b"a" + b" HTTP/1.1\r\n" + HEADERS % 0 + STOP,
    "preflight": b"OPTIONS / HTTP/1.1\r\n" + HEADERS % 0 + STOP,
    "own method": b"stop-it / HTTP/1.1\r\n" + HEADERS % 0 + STOP,
    "upgrade": b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n" + HEADERS % 0 + STOP,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + STOP,
}
NOT_HTTP = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n" + STOP,
    "turn": b"\x00\x03\x00\x08\x21\x12\xa4\x42\n" + STOP,
    "empty line": b"\n" + STOP,
    "scalar": b"1\n" + STOP,
    "truncated": b'{"method":"stop",\n' + STOP,
    "not a request": b'{"a":1}\n' + STOP,
}


async def exchange(world, protocol, *pieces):
    """Send pieces one after the other; return the bytes that the server sent until it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port(protocol))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            # Likely, not surely, a packet of its own: either way the outcome is the same.
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), WAIT_SECS)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def assert_still_serves(world):
    assert not world.shutdown_event.is_set()
    assert "stop" not in world.manager.method_counts
    admin = await world.connect("rpc")
    assert (await admin.request("getinfo"))["coin"] == "FakeCoin"


@pytest.mark.parametrize("sent", [*FROM_BROWSERS.values(), *NOT_HTTP.values()])
async def test_local_rpc_executes_nothing_after_a_first_message_that_is_no_request(sent):
    async with session_world() as world:
        for line in (await exchange(world, "rpc", sent)).splitlines():
            assert "error" in json.loads(line)
        await assert_still_serves(world)


@pytest.mark.parametrize("name", FROM_BROWSERS)
async def test_a_command_that_arrives_in_a_later_packet_is_not_executed_either(name):
    head, _, body = FROM_BROWSERS[name].rpartition(STOP)
    async with session_world() as world:
        await exchange(world, "rpc", head, STOP, STOP, body)
        await assert_still_serves(world)


async def test_a_request_split_anywhere_is_not_executed():
    sent = FROM_BROWSERS["post"]
    async with session_world() as world:
        for at in range(1, len(sent), 7):
            await exchange(world, "rpc", sent[:at], sent[at:])
        await assert_still_serves(world)


async def test_local_rpc_ends_a_connection_at_any_later_malformed_message():
    async with session_world() as world:
        admin = await world.connect("rpc")
        assert "coin" in await admin.request("getinfo")
        await admin.send(b"GET / HTTP/1.1\r\n" + STOP)
        assert (await admin.recv())["error"]["code"] == -32700
        assert await admin.recv() is None
        await assert_still_serves(world)


@pytest.mark.parametrize("request_", [b" \t{%b", b"[{%b]"])
async def test_local_rpc_takes_objects_and_batches(request_):
    async with session_world() as world:
        admin = await world.connect("rpc")
        await admin.send(request_.replace(b"{%b", b'{"id":1,"method":"getinfo","params":[]}'))
        assert b'"coin"' in await admin.recv_raw()


async def test_the_log_reports_once_a_minute_that_something_other_than_json_rpc_came(
    caplog, monkeypatch
):
    monkeypatch.setattr(LocalRPC, "_next_warning", 0.0)
    async with session_world() as world:
        for _ in range(3):
            await exchange(world, "rpc", FROM_BROWSERS["post"])
        said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(said) == 1
        assert "not JSON-RPC" in said[0]
        assert "stop" not in said[0]


@pytest.mark.parametrize("name", FROM_BROWSERS)
async def test_wallet_services_execute_nothing_after_an_http_request(name):
    sent = FROM_BROWSERS[name].replace(STOP, PING)
    async with session_world() as world:
        answer = await exchange(world, "tcp", sent)
        assert b'"result"' not in answer
        assert "server.ping" not in world.manager.method_counts
        client = await world.connect("tcp")
        assert await client.request("server.ping") is None


async def test_an_http_request_costs_what_invalid_json_costs():
    async with session_world(cost_soft_limit=10**6, cost_hard_limit=10**6) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("tcp"))
        await until(lambda: world.manager.sessions)
        session = world.session()
        writer.write(b"GET / HTTP/1.1\r\n")
        await asyncio.wait_for(reader.read(), WAIT_SECS)
        assert 1100 <= session.cost < 1110
        assert session.errors == 1
        writer.close()


async def test_wallet_services_answer_other_malformed_first_messages():
    async with session_world(services=[FakeService("tcp"), FakeService("rpc")]) as world:
        client = await world.connect("tcp")
        await client.send(b"hello")
        assert (await client.recv())["error"]["code"] == -32700
        assert await client.request("server.ping") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1\r", True),
        (b"PRI * HTTP/2.0\r", True),
        (b"post /a?b=c HTTP/1.0", True),
        (b"GET /", False),
        (b"GET", False),
        (b"", False),
        (b'{"method":"GET / HTTP/1.1"}', False),
        (b"A" * 40 + b" / HTTP/1.1", False),
        (b"GET " + b"a" * 900_000, False),
        (b"Host: 127.0.0.1:8000\r", True),
        (b"X-Header:", True),
        (b'"Host": 1', False),
    ],
)
def test_http_request_lines_are_known(line, expected):
    assert is_http(line) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [(b"{}", True), (b" \t[", True), (b"", False), (b"\xef\xbb\xbf{}", False), (b"null", False)],
)
def test_what_may_be_json_rpc_begins_with_a_bracket(message, expected):
    assert may_be_json_rpc(message) is expected
