"""The clients of the tests leave no connection open, also when a test that fails cancels them."""

import asyncio
import contextlib
import random

import pytest
import websockets

from tests.integration.client import ElectrumClient
from tests.integration.crowd import Line
from tests.integration.hostile_client import LineConnection, WebSocketConnection

SECS = 60
# More than the buffers of both sides hold, also compressed
UNREAD = random.Random(0).randbytes(1 << 23).hex().encode()


@contextlib.asynccontextmanager
async def deaf_server(protocol):
    """A server that accepts connections and reads nothing of them; its port."""
    stopping = asyncio.Event()

    async def line(_reader, writer):
        writer.transport.pause_reading()
        await stopping.wait()
        writer.transport.abort()

    async def message(connection):
        connection.transport.pause_reading()
        await stopping.wait()
        connection.transport.abort()

    if protocol == "ws":
        server = await websockets.serve(message, "127.0.0.1", 0, ping_interval=None)
    else:
        server = await asyncio.start_server(line, "127.0.0.1", 0)
    try:
        yield next(iter(server.sockets)).getsockname()[1]
    finally:
        stopping.set()
        server.close()
        await asyncio.wait_for(server.wait_closed(), SECS)


async def electrum_client(protocol, port):
    """A client, its transport and its messages."""
    client = await ElectrumClient.open(protocol, port)
    return client, client.transport, client.send_raw(UNREAD.decode())


async def hostile_connection(protocol, port):
    """A connection, its transport and its messages."""
    kind = LineConnection if protocol == "tcp" else WebSocketConnection
    connection = await kind.open(random.Random(0), protocol, port)
    return connection, connection.transport, connection.send([UNREAD])


async def crowd_line(_protocol, port):
    """A line, its transport and its messages."""
    line = await Line.open(port, "127.0.0.1")
    return line, line.writer.transport, line.call(UNREAD.decode())


async def cancel(coro):
    """Start what has to wait, and cancel it."""
    task = asyncio.ensure_future(coro)
    await asyncio.wait([task], timeout=0.1)
    assert not task.done(), task
    task.cancel()
    await asyncio.wait([task], timeout=SECS)
    assert task.cancelled()


async def closed(transport):
    """Wait until a transport has closed its socket."""
    while transport.get_extra_info("socket").fileno() != -1:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("opened", "protocol"),
    [
        (electrum_client, "tcp"),
        (electrum_client, "ws"),
        (hostile_connection, "tcp"),
        (hostile_connection, "ws"),
        (crowd_line, "tcp"),
    ],
)
async def test_a_connection_is_closed_though_closing_it_is_cancelled(opened, protocol):
    async with deaf_server(protocol) as port:
        client, transport, sending = await opened(protocol, port)
        await cancel(sending)
        await cancel(client.close())
        await asyncio.wait_for(closed(transport), SECS)


async def test_a_socket_is_closed_though_connecting_it_is_cancelled(monkeypatch):
    sockets = []

    async def sock_connect(sock, _address):
        sockets.append(sock)
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    await cancel(LineConnection.open(random.Random(0), "tcp", 1))
    assert [sock.fileno() for sock in sockets] == [-1]
