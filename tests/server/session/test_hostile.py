"""Whatever a client sends, or refuses to read, costs at most its own connection."""

import asyncio
import itertools
import json
from dataclasses import replace

import pytest

from electrumx.server.session.engine import receive, send_queue
from electrumx.server.session.engine.jsonrpc import parse_message
from electrumx.server.session.transport import admission
from tests.fakes.session_world import FakeService, script_hash, session_world, until

SH, HASHX = script_hash("alice")
TXID = "ab" * 32

METHODS = [
    ("blockchain.block.header", 2),
    ("blockchain.block.headers", 3),
    ("blockchain.estimatefee", 2),
    ("blockchain.scripthash.get_balance", 1),
    ("blockchain.scripthash.subscribe", 1),
    ("blockchain.scripthash.unsubscribe", 1),
    ("blockchain.transaction.broadcast", 1),
    ("blockchain.transaction.get", 2),
    ("blockchain.transaction.get_merkle", 2),
    ("blockchain.transaction.id_from_pos", 3),
    ("server.add_peer", 1),
    ("server.version", 2),
]
DISPATCH = "electrumx.server.session.engine.dispatch"
NASTY = [None, True, -1, 0, 1.5, 10**400, "", "x", "9" * 5000, "٣", [], [[]], {}, {"a": [1]}]
NASTY += ["ab" * 32, "\ud800", "\x00" * 64, float("nan"), float("-inf"), 1e308]


@pytest.mark.parametrize(("method", "count"), METHODS)
async def test_no_parameter_is_an_internal_error(method, count, caplog):
    async with session_world(cost_hard_limit=0) as world:
        for value in NASTY:
            for position in range(count):
                params = [1] * count
                params[position] = value
                client = await world.connect()
                if method.endswith("unsubscribe"):
                    await client.request("server.version", "x", "1.4.2")
                reply = await client.ask(method, *params)
                if "error" in reply:
                    assert reply["error"]["code"] in (1, -32602), reply
                await client.close()
        assert "Traceback" not in caplog.text


def deepest(opening, closing):
    """Return how deep what the thread that parses it can still read may be nested."""
    low, high = 1, 100_000
    while low + 1 < high:
        depth = (low + high) // 2
        try:
            json.loads(opening * depth + "1" + closing * depth)
            low = depth
        except RecursionError:
            high = depth
    return low


@pytest.mark.parametrize(
    ("method", "more"), [("blockchain.block.header", 0), ("blockchain.transaction.get_merkle", 1)]
)
@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}")])
async def test_what_can_just_be_parsed_is_refused_like_anything_else(
    method, more, opening, closing, caplog
):
    depth = await asyncio.to_thread(deepest, opening, closing)
    async with session_world(cost_hard_limit=0) as world:
        client = await world.connect()
        for nested in range(depth - 12, depth + 2):
            value = opening * nested + "1" + closing * nested
            params = f"[{value}]" if not more else f"[{value}, 1]"
            # Large, so that it is parsed in a thread: there is more room than on the event loop.
            request = f'{{"id": {nested}, "method": "{method}", "params": {params}}}'
            await client.send(request.ljust(60_000).encode())
            reply = await client.recv()
            assert reply["error"]["code"] in (1, -32700), reply
        assert "Traceback" not in caplog.text


@pytest.mark.parametrize("protocol", ["tcp", "ws"])
async def test_a_client_that_does_not_read_is_cut_off(protocol, monkeypatch):
    monkeypatch.setattr(send_queue, "MAX_SEND_DELAY", 0.2)
    async with session_world(services=[FakeService(protocol), FakeService("rpc")]) as world:
        world.daemon.txs[TXID] = "ab" * 450_000
        client, good = await world.connect(protocol), await world.connect(protocol)
        await good.request("server.ping")
        await client.send({"method": "server.ping", "id": 0})
        await until(lambda: world.manager.session_count() == 2)
        session = world.session(0)
        client.stop_reading()
        session.account.limits = replace(session.account.limits, cost_hard_limit=0)
        for n in range(30):
            await client.send({"method": "blockchain.transaction.get", "params": [TXID], "id": n})
        await until(lambda: world.manager.session_count() == 1)
        await good.request("server.ping")
        client.abort()


async def test_a_subscriber_that_does_not_read_does_not_delay_the_others():
    async with session_world() as world:
        world.daemon.txs[TXID] = "ab" * 450_000
        stuck, good = await world.connect(), await world.connect()
        for client in (stuck, good):
            await client.request("blockchain.headers.subscribe")
        session = world.session(0)
        session.account.limits = replace(session.account.limits, cost_hard_limit=0)
        request = {"jsonrpc": "2.0", "method": "blockchain.transaction.get", "params": [TXID]}
        stuck.stop_reading()
        for n in range(20):
            await stuck.send(request | {"id": n})
        await until(lambda: not session.transport.is_writable)
        for _ in range(3):
            await world.new_block()
            assert "blockchain.headers.subscribe" == (await good.notification())[0]
        assert session.queue.has_messages()
        stuck.abort()


async def test_a_half_open_websocket_handshake_does_not_delay_the_end(monkeypatch):
    # Its own end would be a long time in coming.
    monkeypatch.setattr(admission, "HANDSHAKE_SECS", 3600.0)
    async with session_world(services=[FakeService("ws"), FakeService("tcp")]) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        writer.write(b"GET / HTTP/1.1\r\n")
        await writer.drain()
        world.serving.cancel()
        _done, pending = await asyncio.wait([world.serving], timeout=60)
        assert not pending
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        del reader


@pytest.mark.parametrize("request_id", ["x" * 4_097, ["x" * 5_000], {"x" * 5_000: 1}])
async def test_an_id_that_is_too_long_to_repeat_is_refused(request_id, client):
    await client.send({"id": request_id, "method": "server.ping", "params": []})
    reply = await client.recv()
    assert reply["id"] is None
    assert reply["error"]["code"] == -32600
    assert len(json.dumps(reply)) < 6_000


async def test_errors_repeat_a_bounded_part_of_a_malformed_request():
    async with session_world(max_recv=5_000_000, max_send=350_000, cost_hard_limit=0) as world:
        client = await world.connect()
        for message in (
            {"jsonrpc": "2.0", "id": 1, "method": "x", "params": "\x00" * 200_000},
            [{"jsonrpc": "2.0", "id": 1, "method": "x", "params": "\x00" * 200_000}],
            [1, {"jsonrpc": "2.0", "id": 1, "method": "x" * 400_000}],
        ):
            await client.send(message)
            assert len(await client.recv_raw()) <= 350_001


# -- memory that requests take


def ping(number):
    return {"jsonrpc": "2.0", "id": number, "method": "server.ping"}


def big_params(value, size=900_000):
    """A ping with one argument that repeats a value."""
    values = b",".join([value] * (size // (len(value) + 1)))
    return b'{"id":1,"method":"server.ping","params":[[%b]]}' % values


@pytest.mark.parametrize("value", [b"{}", b"[]", b"1", b'{"":1}', b'"ab"', b"[[1],{}]"])
@pytest.mark.parametrize("size", [20_000, 900_000])
async def test_arguments_of_many_values_are_refused_before_they_are_parsed(
    value, size, monkeypatch
):
    parsed = []

    def parse(message, *args):
        parsed.append(len(message))
        return parse_message(message, *args)

    monkeypatch.setattr(receive, "parse_message", parse)
    async with session_world() as world:
        client = await world.connect()
        await client.send(big_params(value, size))
        error = (await client.recv())["error"]
        assert {"code": -32600, "message": "message has too many JSON values"} == error
        assert not parsed
        assert world.session().cost >= 100
        await client.request("server.ping")


@pytest.mark.parametrize("member", [b"1", b"{}", b'{"":[]}'])
async def test_a_batch_of_more_values_than_requests_have_is_refused_before_it_is_parsed(member):
    async with session_world() as world:
        client = await world.connect()
        count = 900_000 // (len(member) + 1)
        await client.send(b"[" + b",".join([member] * count) + b"]")
        assert (await client.recv())["error"]["message"] == "message has too many JSON values"


async def test_a_session_takes_on_no_more_requests_than_fit_in_its_memory():
    """They wait for the node; later requests stay unread."""
    async with session_world() as world:
        world.daemon.stall = asyncio.Event()
        client = await world.connect()
        await client.request("server.version", "x", "1.4")
        session = world.session()
        get = {"jsonrpc": "2.0", "method": "blockchain.transaction.get", "params": [TXID, True]}
        for number in range(100):
            await client.send(json.dumps(get | {"id": number}).ljust(40_000).encode())
        await until(lambda: session.transport.is_held)
        assert session.unanswered_bytes() < 1_000_000
        assert session.unanswered_request_count() < 10
        world.daemon.txs[TXID] = {"txid": TXID}
        world.daemon.stall.set()
        for number in range(100):
            assert (await client.recv())["id"] == number
        assert session.unanswered_bytes() == 0


async def test_requests_that_end_together_make_room_for_those_that_wait(monkeypatch):
    """Sessions at a limit start waiting requests in time slices; none is forgotten between them."""
    # Each reading of the clock takes a second: a time slice has room for one request.
    monkeypatch.setattr(f"{DISPATCH}.monotonic", itertools.count().__next__)
    monkeypatch.setattr(f"{DISPATCH}.SLICE_SECS", 1.5)
    async with session_world(initial_concurrent=1) as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.4")
        world.daemon.stall = asyncio.Event()
        world.daemon.txs[TXID] = "00"
        get = {"jsonrpc": "2.0", "method": "blockchain.transaction.get", "params": [TXID]}
        await client.send(json.dumps(get | {"id": -1}).encode())
        for number in range(20):
            await client.send(json.dumps(ping(number)).ljust(45_000).encode())
        await until(lambda: world.session().transport.is_held)
        world.daemon.stall.set()
        replies = [await client.recv() for _ in range(21)]
        assert {reply["id"]: reply.get("result") for reply in replies} == {
            -1: "00",
            **dict.fromkeys(range(20)),
        }
        assert not any("error" in reply for reply in replies)


@pytest.mark.parametrize("protocol", ["tcp", "ws"])
async def test_the_largest_incomplete_requests_end_when_all_are_too_large(protocol, caplog):
    services = [FakeService(kind) for kind in ("tcp", "ws", "rpc")]
    async with session_world(services=services) as world:
        memory = world.manager.listeners.receive_memory
        memory.limit = 2_000_000
        good = await world.connect("tcp")
        await good.request("server.ping")
        clients = [await world.connect(protocol) for _ in range(4)]
        for client in clients:
            await client.request("server.ping")
            # A frame that begins a text, masked by zeros, and more is to come
            head = b"" if protocol == "tcp" else b"\x01\xff%b" % (700_000).to_bytes(8, "big")
            mask = b"" if protocol == "tcp" else bytes(4)
            client.transport.write(head + mask + b"x" * 700_000)
        await until(lambda: world.manager.session_count() <= 3)
        assert memory.total <= memory.limit
        await good.request("server.ping")
        assert caplog.text.count("over the bound of 2,000,000") == 2
