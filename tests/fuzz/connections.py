"""Fuzz targets of connections: first bytes and lines, WebSocket frames, LocalRPC, PROXY headers.

The first byte of an input chooses into how many pieces the rest is cut.  The pieces go to the
server's own transport and session, over an object in place of a socket.  Whatever a client sends:

- nothing raises, and no handler ends in an internal error;
- what is sent back is whole JSON lines, or WebSocket frames after an HTTP head;
- when the connection ends, its place is free again;
- LocalRPC executes nothing unless the first message is JSON-RPC.
"""

import asyncio
import atexit
import json
import logging
from collections.abc import Iterator
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from electrumx.server.session.engine.first_message import may_be_json_rpc
from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.session.transport.proxy_header import (
    MAX_HEADER_BYTES,
    HeaderReader,
    ProxyHeaderError,
)
from electrumx.server.session.transport.transport import StreamConnection
from electrumx.server.session.transport.websocket import WebSocketTransport
from tests.fakes.connections import FakeSocketTransport
from tests.fakes.session_world import FakeService, session_world

# Turns of the event loop that an input gets: none of it waits for time.
TURNS = 60
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
INTERNAL_ERROR = b'"code":-32603'


class _Connections:
    """A server's sessions in memory, and connections to it."""

    def __init__(self) -> None:
        logging.getLogger("electrumx").setLevel(logging.CRITICAL)
        self.errors: list[Any] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _loop, context: self.errors.append(context))
        self._world_context = session_world(services=[], lenient=True)
        self.world = self.loop.run_until_complete(self._world_context.__aenter__())
        atexit.register(self._close)

    def _close(self) -> None:
        self.loop.run_until_complete(self._world_context.__aexit__(None, None, None))
        self.loop.close()

    async def _exchange(
        self,
        protocol: str,
        connection_class: type[StreamConnection],
        pieces: list[bytes],
        header_count: int,
    ) -> bytes:
        manager = self.world.manager
        context = manager.listeners.context_for(FakeService(protocol), manager.env)
        context.header_count = header_count
        ticket = manager.admission.admit(
            "127.0.0.1", is_rpc=protocol == "rpc", is_proxied=header_count > 0
        )
        assert ticket is not None, "no place for a connection"
        connection = connection_class(context, ticket)
        ticket.connection = connection
        socket = FakeSocketTransport()
        connection.connection_made(socket)
        for piece in pieces:
            if socket.is_closing():
                break
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert manager.admission.count == 0, "a connection that ended keeps its place"
        assert not manager.sessions, "a session without a connection"
        return socket.sent

    def exchange(
        self,
        protocol: str,
        connection_class: type[StreamConnection],
        pieces: list[bytes],
        *,
        header_count: int = 0,
    ) -> bytes:
        """Return the bytes that a client gets in reply to the pieces."""
        self.world.manager.groups.by_name.clear()
        sent = self.loop.run_until_complete(
            self._exchange(protocol, connection_class, pieces, header_count)
        )
        assert not self.errors, f"an exception reached the event loop: {self.errors}"
        assert INTERNAL_ERROR not in sent, "a handler raised"
        return sent


_connections: list[_Connections] = []


def _server() -> _Connections:
    """Return the server, made at its first use."""
    if not _connections:
        _connections.append(_Connections())
    return _connections[0]


def _pieces(data: bytes) -> list[bytes]:
    """Return the input after its first byte, cut into as many pieces as that byte counts."""
    if not data:
        return []
    count, rest = data[0] % 5 + 1, data[1:]
    size = max(1, -(-len(rest) // count))
    return [rest[n : n + size] for n in range(0, len(rest), size)]


def _check_lines(sent: bytes) -> None:
    if sent:
        assert sent.endswith(b"\n"), "a line without an end"
    for line in sent.splitlines():
        json.loads(line)


def first_bytes(data: bytes) -> None:
    """Send a wallet service anything."""
    _check_lines(_server().exchange("tcp", RawTransport, _pieces(data)))


def local_rpc(data: bytes) -> None:
    """Send LocalRPC anything."""
    server = _server()
    server.world.shutdown_event.clear()
    requests = server.world.manager.shared.requests
    requests.clear()
    pieces = _pieces(data)
    _check_lines(server.exchange("rpc", RawTransport, pieces))
    first, _newline, _rest = b"".join(pieces).partition(b"\n")
    if not may_be_json_rpc(first):
        assert not requests.started(), "a command of something that is not JSON-RPC"
        assert not server.world.shutdown_event.is_set(), "a server that was stopped"


def _frames_of(sent: bytes) -> Iterator[Any]:
    client = ClientProtocol(parse_uri("ws://h/"), max_size=None)
    client.key = "AAAAAAAAAAAAAAAAAAAAAA=="
    client.receive_data(sent)
    assert client.parser_exc is None, f"what is no WebSocket: {client.parser_exc!r}"
    yield from client.events_received()


def websocket(data: bytes) -> None:
    """Send a WebSocket service an upgrade and then anything; or anything at all."""
    upgraded = bool(data) and data[0] & 1 == 0
    pieces = _pieces(data)
    sent = _server().exchange("ws", WebSocketTransport, [UPGRADE, *pieces] if upgraded else pieces)
    if not upgraded:
        return
    _response, *frames = _frames_of(sent)
    for frame in frames:
        if frame.opcode is Opcode.TEXT:
            json.loads(frame.data)


def proxy_header(data: bytes) -> None:
    """Read anything as PROXY headers, whole and in pieces; then send it to a service behind proxies."""
    if not data:
        return
    depth, stream = data[0] % 4 + 1, data[1:]
    outcomes = []
    for pieces in (_pieces(data), [stream], [stream[:1], stream[1:]]):
        reader = HeaderReader(depth)
        rest: bytes | None = None
        try:
            for number, piece in enumerate(pieces):
                rest = reader.feed(piece)
                if rest is not None:
                    rest += b"".join(pieces[number + 1 :])
                    break
        except ProxyHeaderError:
            outcomes.append(None)
        else:
            assert rest is None or (len(rest) < len(stream) and stream.endswith(rest))
            outcomes.append((reader.header, rest))
    # A header that is too long may be noticed before the next one is seen to be malformed.
    assert len(set(outcomes)) == 1 or len(stream) >= MAX_HEADER_BYTES, "a cut makes a difference"
    _check_lines(_server().exchange("tcp", RawTransport, _pieces(data), header_count=depth))


REQUESTS = (
    b'{"jsonrpc":"2.0","id":1,"method":"server.version","params":["x","1.4"]}\n',
    b'[{"id":1,"method":"server.ping"},{"id":2,"method":"blockchain.headers.subscribe"},3,{}]\n',
    b'{"jsonrpc":"1.0","id":"a","method":"blockchain.block.header","params":[5,9]}\n',
    b'{"id":1,"method":"blockchain.scripthash.get_history","params":["' + b"ab" * 32 + b'"]}\n',
    b'{"id":1,"method":"blockchain.transaction.id_from_pos","params":{"height":1,"tx_pos":0}}\n',
    b'{"id":null,"method":"mempool.get_fee_histogram"}\n',
)
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HEADERS = (
    b"PROXY TCP4 192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY TCP6 fc00:dead:beef:4dad::1:29 ::1 65535 80\r\n",
    b"PROXY UNKNOWN\r\n",
    _SIGNATURE + b"\x20\x00\x00\x00",
    _SIGNATURE + b"\x21\x11\x00\x14" + bytes(range(12)) + b"\x20\x00\x05\x01\x00\x00\x00\x00",
    _SIGNATURE + b"\x21\x21\x00\x2b" + bytes(36) + b"\x03\x00\x04abcd",
    _SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
)
COMMANDS = (
    b'{"id":1,"method":"getinfo","params":[]}\n',
    b'{"id":1,"method":"sessions"}\n{"id":2,"method":"groups"}\n',
    b'{"id":1,"method":"log","params":{"session_ids":["all","1"]}}\n',
    b'{"id":1,"method":"query","params":{"items":["00ff","addr1"],"limit":3}}\n',
    b'{"id":1,"method":"disconnect","params":{"session_ids":["7"]}}\n',
    b'POST / HTTP/1.1\r\nHost: x\r\n\r\n{"id":1,"method":"stop"}\n',
    b'{"id":1,"method":"reorg","params":{"count":1}}\n',
)


def _frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a short client frame, whose mask is zero."""
    length = len(payload)
    head = bytes([opcode | 0x80 * fin])
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return head + size + bytes(4) + payload


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield (the name of a target, an input)."""
    for pieces in (0, 4):
        for request in REQUESTS:
            yield "first_bytes", bytes([pieces]) + request
            yield "websocket", bytes([pieces]) + _frame(1, request)
        yield "first_bytes", bytes([pieces]) + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        yield "first_bytes", bytes([pieces]) + b"\x16\x03\x01\x00\x05hello\n"
        for command in COMMANDS:
            yield "local_rpc", bytes([pieces]) + command
        yield "websocket", bytes([pieces]) + _frame(9, b"ping") + _frame(10, b"")
        yield "websocket", bytes([pieces]) + _frame(1, b'{"id"', fin=False) + _frame(0, b":1}")
        yield "websocket", bytes([pieces]) + _frame(8, b"\x03\xe8")
        yield "websocket", bytes([pieces + 1]) + UPGRADE

    for count, header in enumerate(HEADERS):
        for depth in (0, 1):
            for pieces in (b"", REQUESTS[0]):
                yield "proxy_header", bytes([depth]) + header * (depth + 1) + pieces
        yield "proxy_header", bytes([1]) + header + HEADERS[count - 1]


TARGETS = {
    "first_bytes": first_bytes,
    "local_rpc": local_rpc,
    "websocket": websocket,
    "proxy_header": proxy_header,
}
