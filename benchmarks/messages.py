#!/usr/bin/env python3
"""Measure the CPU time that the transport takes for one received message, without its request.

    python -m benchmarks.messages [--messages 20000]

The connection is real, its socket and its session are not.  ``tcp`` splits lines; ``ws`` takes frames
by its own code, ``ws by the library`` by the ``websockets`` library alone, and ``picows`` is that
library's protocol, if it is installed, without anything of ours.  Messages come one at a time,
or 20 in one read.  Prints microseconds a message, the best of five rounds.
"""

import argparse
import asyncio
import importlib.util
import logging
import socket
import time

from websockets.frames import Frame, Opcode

from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.session.transport.websocket import WebSocketTransport
from tests.fakes.connections import FakeSocketTransport, connection_context

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "server.ping", "params": []}'
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ROUNDS = 5
TOGETHER = 20


class CountingSession:
    """A session that counts its messages."""

    def __init__(self, _transport):
        self.count = 0
        self.receiver = self

    def receive(self, messages):
        self.count += len(messages)

    def received_bytes(self, count):
        pass

    def bump_cost(self, cost):
        pass

    def is_over_limit(self):
        return False

    def unanswered_bytes(self):
        return 0

    def on_lost(self):
        pass


class LibraryTransport(WebSocketTransport):
    """One that leaves every frame to the library."""

    def take_plain(self, _protocol):
        return False


class PicowsTransport(FakeSocketTransport):
    """A transport with a socket whose options can be set."""

    def __init__(self):
        super().__init__()
        self._socket = socket.socket()

    def get_extra_info(self, name):
        return self._socket if name == "socket" else super().get_extra_info(name)

    def abort(self):
        super().abort()
        self._socket.close()


class PicowsConnection:
    """The server's side of a connection by ``picows``, as far as it is measured."""

    def __init__(self, _context):
        picows = importlib.import_module("picows")
        protocol_class = importlib.import_module("picows.picows").WSProtocol
        session = self.session = CountingSession(None)

        class Listener(picows.WSListener):
            def on_ws_frame(self, _transport, frame):
                if frame.msg_type == picows.WSMsgType.TEXT and frame.fin:
                    session.receive([frame.get_payload_as_bytes()])

        logger = logging.getLogger("picows")
        logger.setLevel(logging.CRITICAL)
        # Time-outs, automatic pings and pongs, and bounds, in their order
        settings = (logger, False, None, False, 10, 10, 1, True, 1_000_000, None, 65_536)
        self._protocol = protocol_class(None, None, False, lambda _request: Listener(), *settings)
        self._transport = PicowsTransport()

    def connection_made(self, _transport):
        self._protocol.connection_made(self._transport)

    def data_received(self, data):
        self._protocol.get_buffer(-1)[: len(data)] = data
        self._protocol.buffer_updated(len(data))

    def has_input(self):
        return False

    def connection_lost(self, exc):
        self._transport.abort()
        self._protocol.connection_lost(exc)


async def micros(connection_class, message, count, together):
    """Microseconds of CPU a message."""
    connection = connection_class(connection_context(CountingSession))
    connection.connection_made(FakeSocketTransport())
    if connection_class is not RawTransport:
        connection.data_received(UPGRADE)
    data, calls = message * together, count // together
    best = float("inf")
    for _ in range(ROUNDS):
        before, start = connection.session.count, time.process_time()
        for _ in range(calls):
            connection.data_received(data)
            while connection.has_input():  # noqa: ASYNC110 - turns of the event loop process it
                await asyncio.sleep(0)
        best = min(best, time.process_time() - start)
        assert connection.session.count - before == calls * together
    connection.connection_lost(None)
    return best / (calls * together) * 1e6


async def main(count):
    """Print a table."""
    frame = Frame(Opcode.TEXT, PING).serialize(mask=True)
    kinds = {
        "tcp": (RawTransport, PING + b"\n"),
        "ws": (WebSocketTransport, frame),
        "ws by the library": (LibraryTransport, frame),
    }
    if importlib.util.find_spec("picows"):
        kinds["picows"] = (PicowsConnection, frame)
    for name, (connection_class, message) in kinds.items():
        figures = [await micros(connection_class, message, count, n) for n in (1, TOGETHER)]
        print(f"{name:18} alone {figures[0]:6.2f}  {TOGETHER} together {figures[1]:6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    asyncio.run(main(parser.parse_args().messages))
