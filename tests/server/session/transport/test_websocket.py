"""WebSocket connections: framing, control frames and their flow, the upgrade and its errors."""

import asyncio
import contextlib
import itertools
import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from electrumx.server.session.engine.prices import FRAME_COST
from electrumx.server.session.transport import websocket
from electrumx.server.session.transport.transport import LINGER_BYTES
from electrumx.server.session.transport.websocket import WebSocketTransport, frame_header
from tests.fakes.connections import FakeSocketTransport, connection_context
from tests.fakes.session_world import FakeService, session_world, until
from tests.server.session.transport.test_tls import EchoSession, settle

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode, data=b"", *, fin=True):
    return Frame(opcode, data, fin).serialize(mask=True)


class FreeWebSocketTransport(WebSocketTransport):
    """One whose methods a test can replace."""


def opened(max_recv=1_000_000, session=EchoSession, **settings):
    """Return (connection, socket) after the upgrade."""
    connection = FreeWebSocketTransport(connection_context(session, max_recv, **settings))
    connection.connection_made(socket := FakeSocketTransport())
    connection.data_received(UPGRADE)
    assert socket.sent.startswith(b"HTTP/1.1 101 ")
    socket.sent = b""
    return connection, socket


def messages_in(data):
    """Return the messages in the bytes of a server."""
    messages = []
    while data:
        assert data[0] == 0x81
        size, start = data[1], 2
        if size == 126:
            (size,), start = struct.unpack(">H", data[2:4]), 4
        elif size == 127:
            (size,), start = struct.unpack(">Q", data[2:10]), 10
        messages.append(data[start : start + size])
        data = data[start + size :]
    return messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
def test_headers_of_frames_are_the_librarys(size):
    assert frame_header(size) + b"x" * size == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)


parts = st.lists(
    st.one_of(
        st.binary(max_size=300).map(lambda data: ("message", data.hex().encode())),
        st.lists(st.binary(max_size=30), min_size=2, max_size=4).map(
            lambda pieces: ("fragments", [piece.hex().encode() for piece in pieces])
        ),
        st.binary(max_size=100).map(lambda data: ("ping", data)),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(parts=parts, cuts=st.lists(st.integers(0, 4_000), max_size=12))
def test_messages_do_not_depend_on_where_the_bytes_are_cut(parts, cuts):
    data, expected, pongs = UPGRADE, [], 0
    for kind, value in parts:
        if kind == "message":
            data += frame(Opcode.TEXT, value)
            expected.append(value)
        elif kind == "ping":
            data += frame(Opcode.PING, value)
            pongs += 1
        else:
            for n, piece in enumerate(value):
                opcode = Opcode.CONT if n else Opcode.BINARY
                data += frame(opcode, piece, fin=n + 1 == len(value))
                data += frame(Opcode.PONG)
            expected.append(b"".join(value))

    async def run():
        connection = WebSocketTransport(connection_context(EchoSession))
        connection.connection_made(socket := FakeSocketTransport())
        start = 0
        for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            if piece := data[start:cut]:
                connection.data_received(piece)
                start = cut
        await settle(connection)
        session = connection.session
        assert session.messages == expected
        assert session.size == len(data)
        assert socket.sent.count(b"\x8a") >= pongs
        connection.connection_lost(None)

    asyncio.run(run())


def raw_frame(first, payload, *, length=None, is_masked=True, mask=b"\x01\x02\x03\x04"):
    """Return a frame with any first byte; ``length`` chooses the form of its length."""
    size, flag = len(payload), 0x80 if is_masked else 0
    form = length or (1 if size < 126 else 2)
    header = {
        1: bytes([first, flag | size & 127]),
        2: bytes([first, flag | 126]) + (size & 65_535).to_bytes(2, "big"),
        8: bytes([first, flag | 127]) + size.to_bytes(8, "big"),
    }[form]
    if not is_masked:
        return header + payload
    return header + mask + bytes(c ^ mask[n % 4] for n, c in enumerate(payload))


MASK = b"\x80\x80\0\0"
# Twelve characters, which under a mask are a frame.
LIKE_A_FRAME = bytes(
    c ^ MASK[n % 4] for n, c in enumerate(raw_frame(0x81, b"inner!", mask=b"\x01\x02\x83\x84"))
)
# Text that is not UTF-8 has a test of its own: behind it the library alone takes the rest of a slice.
any_frames = st.builds(
    raw_frame,
    st.sampled_from([0x81, 0x81, 0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8A, 0x88, 0xC1, 0x83]),
    st.sampled_from([b"", b'{"id": 1}', b"x" * 125, b"x" * 126, b"y" * 700, LIKE_A_FRAME])
    | st.text(max_size=100).map(str.encode),
    length=st.sampled_from([None, None, None, None, 2, 8]),
    is_masked=st.sampled_from([True] * 9 + [False]),
    mask=st.just(MASK) | st.binary(min_size=4, max_size=4),
)


def control_frames(data):
    """Return the frames of a server that are no text."""
    client = ClientProtocol(parse_uri("ws://h/"), state=State.OPEN, max_size=None)
    client.receive_data(data)
    return [frame for frame in client.events_received() if frame.opcode is not Opcode.TEXT]


def outcome_of(pieces, max_recv, *, with_library_alone):
    """Return the messages of a session, and the control frames and the end that its client sees.

    Replies are left out: the library alone drops those to messages that precede an error in the same
    slice.
    """

    async def run():
        connection, socket = opened(max_recv)
        session = connection.session
        if with_library_alone:
            connection.take_plain = lambda protocol: False
        for piece in pieces:
            if not socket.is_closing():
                connection.data_received(piece)
        await settle(connection)
        ends = (socket.is_closing(), socket.eof_sent)
        seen = (session.messages, session.size, control_frames(socket.sent), ends)
        connection.connection_lost(None)
        return seen

    return asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(
    frames=st.lists(any_frames, max_size=8),
    cuts=st.lists(st.integers(0, 1_500), max_size=3),
    in_headers=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 14)), max_size=3),
    max_recv=st.sampled_from([1_000_000, 300]),
)
def test_frames_mean_the_same_with_and_without_the_library(frames, cuts, in_headers, max_recv):
    starts = [0, *itertools.accumulate(map(len, frames))]
    cuts += [starts[number] + offset for number, offset in in_headers if number < len(frames)]
    frames = b"".join(frames)
    cuts = sorted({0, len(frames), *(min(cut, len(frames)) for cut in cuts)})
    pieces = [frames[a:b] for a, b in itertools.pairwise(cuts)]

    expected, *others = outcome_of(pieces, max_recv, with_library_alone=True)
    messages, *others_without = outcome_of(pieces, max_recv, with_library_alone=False)

    assert (messages, others_without) == (expected, others)


@pytest.mark.parametrize("blocks", [1, 10, 11, 60])
@pytest.mark.parametrize("first", [0x81, 0x82, 0x89, 0x01])
def test_content_that_looks_like_a_frame_is_none_wherever_it_is_cut(first, blocks):
    """Clients may write the header of a frame and its content separately."""
    # A ping has at most 125 bytes.
    content = LIKE_A_FRAME * (min(blocks, 10) if first == 0x89 else blocks)
    assert content.isascii()
    outer = raw_frame(first, content, mask=MASK)
    last = raw_frame(0x80, b"end") if first == 0x01 else raw_frame(0x81, b"last")
    expected = {0x89: [b"last"], 0x01: [content + b"end"]}.get(first, [content, b"last"])

    for cut in range(1, min(len(outer), 30)):
        pieces = [outer[:cut], outer[cut:] + last]
        for alone in (True, False):
            messages, size_, _control, ends = outcome_of(
                pieces, 1_000_000, with_library_alone=alone
            )
            assert messages == expected
            assert ends == (False, False)
            assert size_ == len(UPGRADE) + len(outer + last)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535])
def test_plain_text_frames_are_taken_without_the_library(size):
    message = bytes(range(32, 127)) * 700
    data = frame(Opcode.TEXT, message[:size]) + frame(Opcode.TEXT, b"next")

    assert ([message[:size], b"next"], len(data)) == websocket.take_messages(data, 0, 0, 1 << 20)
    for cut in (*range(min(size, 12)), len(data) - 1):
        taken, end = websocket.take_messages(data[:cut], 0, 0, 1 << 20)
        assert taken == ([message[:size]] if end else [])


@pytest.mark.parametrize(
    "data",
    [
        raw_frame(0x01, b"part"),
        raw_frame(0x82, b"binary"),
        raw_frame(0xC1, b"compressed"),
        raw_frame(0x89, b"ping"),
        raw_frame(0x81, b"unmasked", is_masked=False),
        raw_frame(0x81, b"long form", length=2),
        raw_frame(0x81, b"longer form", length=8),
        raw_frame(0x81, b"x" * 101),
    ],
)
def test_other_frames_are_left_to_the_library(data):
    assert websocket.take_messages(data, 0, 100, 1 << 20) == ([], 0)


@pytest.mark.parametrize("alone", [False, True])
def test_text_that_is_not_utf8_ends_the_connection_at_once(alone):
    pieces = [raw_frame(0x81, b"good"), raw_frame(0x81, b"\xff"), raw_frame(0x81, b"more")]
    messages, _size, control, (_closing, eof_sent) = outcome_of(
        pieces, 1_000, with_library_alone=alone
    )
    assert messages == [b"good"]
    assert [bytes(frame.data) for frame in control] == [b"\x03\xefnot UTF-8"]
    assert eof_sent


# -- web pages


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://wallet.example", True),
        ("http://localhost:8080", True),
        (None, True),
        ("https://wallet.example:444", False),
        ("http://wallet.example", False),
        ("https://wallet.example.evil", False),
        ("null", False),
        ("", False),
    ],
)
async def test_pages_of_listed_origins_and_programs_may_connect(origin, allowed):
    origins = ["https://wallet.example", "http://localhost:8080"]
    async with session_world(services=[FakeService("ws")], ws_origins=origins) as world:
        uri = f"ws://127.0.0.1:{world.port('ws')}"
        headers = None if origin is None else {"Origin": origin}
        if allowed:
            async with connect(uri, additional_headers=headers) as client:
                await client.send('{"jsonrpc": "2.0", "id": 1, "method": "server.ping"}')
                assert json.loads(await client.recv())["id"] == 1
        else:
            with pytest.raises(InvalidStatus) as caught:
                await connect(uri, additional_headers=headers)
            assert caught.value.response.status_code == 403
            assert not world.manager.sessions


async def test_two_origins_are_refused():
    async with session_world(services=[FakeService("ws")], ws_origins=["https://a.b"]) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        header = b"Origin: https://a.b\r\n"
        writer.write(UPGRADE[:-2] + header * 2 + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        writer.close()
        await until(lambda: world.manager.admission.count == 0)


async def test_every_page_may_connect_by_default():
    async with session_world(services=[FakeService("ws")]) as world:
        uri = f"ws://127.0.0.1:{world.port('ws')}"
        async with connect(uri, additional_headers={"Origin": "https://any.page"}) as client:
            await client.send('{"jsonrpc": "2.0", "id": 1, "method": "server.ping"}')
            assert json.loads(await client.recv())["id"] == 1


async def test_replies_of_one_call_are_frames_of_one_write():
    connection, socket = opened()
    connection.send([b"a" * size for size in (1, 200, 70_000, 3)])

    assert [len(message) for message in messages_in(socket.sent)] == [1, 200, 70_000, 3]


async def test_pings_are_not_answered_while_the_client_does_not_read():
    connection, socket = opened()
    session = connection.session
    session.on_unwritable = session.on_writable = lambda: None
    connection.pause_writing()
    assert not socket.is_reading
    connection.data_received(frame(Opcode.PING, b"x" * 100) * 100)
    assert socket.sent == b""
    connection.resume_writing()
    await settle(connection)
    assert socket.sent.count(b"\x8a") == 100
    assert socket.is_reading


async def test_frames_are_processed_in_steps_and_charged():
    connection, socket = opened()
    before = connection.session.cost
    connection.data_received(frame(Opcode.PING) * 20_000)
    assert socket.sent.count(b"\x8a") < 20_000
    assert not socket.is_reading
    await settle(connection)
    assert socket.sent.count(b"\x8a") == 20_000
    assert connection.session.cost - before == pytest.approx(20_000 * FRAME_COST)


async def test_empty_fragments_take_no_memory_and_are_charged():
    connection, _socket = opened()
    before = connection.session.cost
    connection.data_received(frame(Opcode.TEXT, fin=False) + frame(Opcode.CONT, fin=False) * 5_000)
    await settle(connection)
    assert connection._fragments == b""
    assert connection.session.cost - before == pytest.approx(5_001 * FRAME_COST)
    connection.data_received(frame(Opcode.CONT, b"end"))
    await settle(connection)
    assert connection.session.messages == [b"end"]


async def test_a_session_at_its_limit_is_dropped_for_pings_alone():
    async with session_world(services=[FakeService("ws"), FakeService("rpc")]) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        session = world.session()
        session.bump_cost(9_900)
        with contextlib.suppress(ConnectionError):
            writer.write(frame(Opcode.PING) * 4_000)
            await writer.drain()
            await reader.read()
        await until(lambda: not world.manager.sessions)
        writer.close()


async def test_a_flood_of_pings_by_a_client_that_does_not_read_is_bounded():
    async with session_world(
        services=[FakeService("ws"), FakeService("tcp")], cost_hard_limit=0, cost_soft_limit=0
    ) as world:
        other = await world.connect("tcp")
        await other.request("server.ping")
        _reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        writer.write(UPGRADE)
        await until(lambda: world.manager.session_count() == 2)
        transport = world.session(1).transport
        writer.transport.pause_reading()
        pings = frame(Opcode.PING, b"x" * 125) * 4_000
        for _ in range(100):
            writer.write(pings)
            if not transport.is_writable:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.05)
        await until(lambda: not transport.is_writable)
        for _ in range(20):
            writer.write(pings)
            await other.request("server.ping")
        held = transport.unsent_bytes() + transport.input_size()
        assert held < 1_000_000
        writer.transport.abort()


async def test_a_binary_message_need_not_be_utf8():
    connection, _socket = opened()
    connection.data_received(frame(Opcode.BINARY, b"\xff", fin=False) + frame(Opcode.CONT, b"\xfe"))
    await settle(connection)
    assert connection.session.messages == [b"\xff\xfe"]
    assert not connection.is_closing()


# -- the upgrade


@pytest.mark.parametrize("offered", [["first", "second"], ["binary"]])
async def test_the_subprotocol_first_offered_is_selected(offered):
    async with (
        session_world(services=[FakeService("ws")]) as world,
        connect(f"ws://127.0.0.1:{world.port('ws')}", subprotocols=offered) as client,
    ):
        assert client.subprotocol == offered[0]
        await client.send('{"id": 1, "method": "server.ping"}')
        assert json.loads(await client.recv())["id"] == 1


async def test_neither_a_subprotocol_nor_compression_is_selected():
    async with (
        session_world(services=[FakeService("ws")]) as world,
        connect(f"ws://127.0.0.1:{world.port('ws')}", compression="deflate") as client,
    ):
        assert client.subprotocol is None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 "),
        (b'{"id": 1, "method": "server.ping"}\n', b""),
        (b"\x16\x03\x01\x02\x00" + os.urandom(512) + b"\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b""),
        (b"GET /" + b"x" * 200_000, b""),
    ],
    ids=["no upgrade", "POST", "JSON", "TLS", "many headers", "long path"],
)
async def test_an_invalid_upgrade_ends_the_connection_and_is_not_logged(data, reply, caplog):
    async with session_world(services=[FakeService("ws"), FakeService("rpc")]) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        caplog.clear()
        received = b""
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            received = await reader.read()
        assert received.startswith(reply) or not received
        writer.close()
        await until(lambda: world.manager.admission.count == 0)
        assert caplog.records == []


# -- the end


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.TEXT, b"x" * 1_001), 1009),
        (frame(Opcode.TEXT, b"x" * 600, fin=False) + frame(Opcode.CONT, b"x" * 600), 1009),
        (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
        (frame(Opcode.CONT, b"x"), 1002),
        (b"\x81\x01x", 1002),  # not masked
        (frame(Opcode.CLOSE, struct.pack(">H", 1000)), 1000),
    ],
    # Masks are random, and so are names made of them.
    ids=["large", "large in fragments", "no UTF-8", "no beginning", "no mask", "close"],
)
async def test_the_end_of_a_connection_has_a_code(data, code):
    connection, socket = opened(max_recv=1_000)
    connection.data_received(data)
    await settle(connection)
    assert socket.sent[0] == 0x88
    assert struct.unpack(">H", socket.sent[2:4])[0] == code
    assert socket.eof_sent
    assert connection.session is None or connection.is_closing()
    connection.connection_lost(None)


async def test_a_silent_client_is_pinged_and_dropped_if_it_does_not_answer(monkeypatch):
    # Time enough to answer, however busy the machine is
    monkeypatch.setattr(websocket, "PING_SECS", 1.0)
    async with (
        session_world(services=[FakeService("ws")]) as world,
        connect(f"ws://127.0.0.1:{world.port('ws')}", ping_interval=None) as living,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("ws"))
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b"\x89\x00"
        await living.send('{"id": 1, "method": "server.ping"}')
        assert json.loads(await living.recv())["id"] == 1
        writer.close()


async def test_input_after_a_protocol_error_is_bounded_and_charged():
    """The connection lingers for a second, so that the client can read why it ended."""
    transport, socket = opened(byte_cost=0.01)
    # A fragment of no message
    transport.data_received(frame(Opcode.CONT, b"", fin=False))
    await until(lambda: transport.session is None)
    assert transport.late_cost() == 0
    flood = bytes(100_000)
    for _ in range(LINGER_BYTES // len(flood)):
        transport.data_received(flood)
    assert not socket.is_aborted
    assert transport.late_cost() == LINGER_BYTES * 0.01
    transport.data_received(flood)
    assert socket.is_aborted


@pytest.mark.parametrize("key", [b"AAAAAAAAAAAAAAAAAAAAAA==", b"no key"])
@pytest.mark.parametrize("whole", [True, False])
def test_invalid_frames_behind_the_upgrade_request_end_the_connection(key, whole):
    async def run():
        connection = WebSocketTransport(connection_context(EchoSession))
        connection.connection_made(socket := FakeSocketTransport())
        data = UPGRADE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", key) + b"AAAAAAAAAA==\r\n"
        for piece in [data] if whole else [data[:-5], data[-5:]]:
            if not socket.is_closing():
                connection.data_received(piece)
        assert socket.is_closing()
        connection.connection_lost(None)

    asyncio.run(run())
