"""An Electrum protocol client for tests: lines of JSON over TCP or TLS, or messages of WebSocket.

Deliberately thin: it sends the given messages, also nonsense, and keeps the replies.
"""

import asyncio
import itertools
import json
import socket
import ssl
from contextlib import suppress

import websockets

REPLY_SECS = 120
MAX_LINE = 64 * 2**20


class ElectrumError(Exception):
    """The server answered with an error: code, message and data."""

    def __init__(self, error):
        super().__init__(error)
        self.code = error.get("code")
        self.message = error.get("message")
        self.data = error.get("data")


def trusting_context():
    """TLS that accepts any certificate, as wallets do for self-signed ones."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _LineTransport:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @property
    def transport(self):
        return self.writer.transport

    async def send(self, text):
        self.writer.write(text.encode() + b"\n")
        await self.writer.drain()

    async def receive(self):
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the server closed the connection")
        return line.decode()

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass  # the other side was quicker
        finally:
            # If we are cancelled while the server reads nothing.  Python 3.11.2 fails over TLS when the
            # connection has ended.
            with suppress(AttributeError):
                self.writer.transport.abort()


class _WebSocketTransport:
    def __init__(self, connection):
        self.connection = connection

    @property
    def transport(self):
        return self.connection.transport

    async def send(self, text):
        await self.connection.send(text)

    async def receive(self):
        try:
            message = await self.connection.recv()
        except websockets.ConnectionClosed as e:
            raise ConnectionError("the server closed the connection") from e
        return message if isinstance(message, str) else message.decode()

    async def close(self):
        try:
            await self.connection.close()
        finally:
            self.connection.transport.abort()


class ElectrumClient:
    """One connection. Use as `async with ElectrumClient.connect(...) as client`.

    Notifications wait in `notifications`, a queue of (method, params).
    """

    def __init__(self, transport):
        self._transport = transport
        self._ids = itertools.count()
        self._waiting = {}
        self.notifications = asyncio.Queue()
        self.unexpected = []  # messages that answer no request of ours
        self._closed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._receive_all())

    @property
    def transport(self):
        """The transport of asyncio below the protocol."""
        return self._transport.transport

    @classmethod
    def connect(cls, protocol, port, host="127.0.0.1"):
        """A context manager of a connection by tcp, ssl, ws or wss."""
        return _Connecting(cls, protocol, host, port)

    @classmethod
    async def open(cls, protocol, port, host="127.0.0.1"):
        """Connect and return the client; the caller closes it."""
        context = trusting_context() if protocol in ("ssl", "wss") else None
        if protocol in ("ws", "wss"):
            uri = f"{protocol}://{host}:{port}/"
            connection = await websockets.connect(uri, ssl=context, max_size=MAX_LINE)
            return cls(_WebSocketTransport(connection))
        streams = await asyncio.open_connection(host, port, ssl=context, limit=MAX_LINE)
        return cls.from_streams(*streams)

    @classmethod
    def from_streams(cls, reader, writer):
        """A client by tcp or ssl over a connection that the caller has made; the caller closes it."""
        return cls(_LineTransport(reader, writer))

    async def _receive_all(self):
        try:
            while True:
                message = json.loads(await self._transport.receive())
                for item in message if isinstance(message, list) else [message]:
                    self._sort(item)
        except (ConnectionError, OSError, ssl.SSLError) as e:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError(str(e)))
                    future.exception()  # the waiting task may have ended
        finally:
            self._closed.set()

    def _sort(self, item):
        if "method" in item:
            self.notifications.put_nowait((item["method"], item.get("params")))
            return
        future = self._waiting.pop(item.get("id"), None)
        if future is None or future.done():
            self.unexpected.append(item)
        else:
            future.set_result(item)

    def _expect(self):
        request_id = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        if self._closed.is_set():
            raise ConnectionError("the connection is closed")
        self._waiting[request_id] = future
        return request_id, future

    async def send_raw(self, text):
        """Send text as one line or message, of any content."""
        await self._transport.send(text)

    async def request(self, method, params=(), *, timeout=REPLY_SECS):
        """The whole reply, as a dictionary, to a request."""
        request_id, future = self._expect()
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        await self.send_raw(json.dumps(message))
        return await asyncio.wait_for(future, timeout)

    async def call(self, method, *params, timeout=REPLY_SECS):
        """The result of a request; ElectrumError if the server refuses it."""
        reply = await self.request(method, params, timeout=timeout)
        if reply.get("error") is not None:
            raise ElectrumError(reply["error"])
        return reply["result"]

    async def call_many(self, calls, *, window=20):
        """Results of many (method, *params), in order, some of them under way at a time."""
        gate = asyncio.Semaphore(window)

        async def one(method, *params):
            async with gate:
                return await self.call(method, *params)

        return await asyncio.gather(*(one(*call) for call in calls))

    async def batch(self, calls, *, timeout=REPLY_SECS):
        """Replies, as dictionaries, to one JSON-RPC batch of (method, *params)."""
        messages, futures = [], []
        for method, *params in calls:
            request_id, future = self._expect()
            futures.append(future)
            messages.append(
                {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
            )
        await self.send_raw(json.dumps(messages))
        return await asyncio.wait_for(asyncio.gather(*futures), timeout)

    async def hello(self, name="test", protocol="1.4.2"):
        """server.version; the pair that the server answers."""
        return await self.call("server.version", name, protocol)

    async def notification(self, method=None, *, timeout=REPLY_SECS):
        """The next notification's params, of one method if given; others before it are dropped."""

        async def wait():
            while True:
                got, params = await self.notifications.get()
                if method in (None, got):
                    return params

        return await asyncio.wait_for(wait(), timeout)

    async def wait_closed(self, *, timeout=REPLY_SECS):
        """Wait until the server has closed the connection."""
        await asyncio.wait_for(self._closed.wait(), timeout)

    async def close(self):
        """Close from our side."""
        try:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self._transport.close()


class _Connecting:
    def __init__(self, cls, protocol, host, port):
        self.arguments = (protocol, port, host)
        self.cls = cls

    async def __aenter__(self):
        self.client = await self.cls.open(*self.arguments)
        return self.client

    async def __aexit__(self, *_exc):
        await self.client.close()


def call(port, method, *params, timeout=REPLY_SECS):
    """One request over a TCP connection of its own, without asyncio; the result."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        message = {"jsonrpc": "2.0", "id": 0, "method": method, "params": params}
        with sock.makefile("rwb") as lines:
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()
            for line in lines:
                reply = json.loads(line)
                if reply.get("id") != 0:
                    continue  # a notification
                if reply.get("error") is not None:
                    raise ElectrumError(reply["error"])
                return reply["result"]
    raise ConnectionError("the server closed the connection")
