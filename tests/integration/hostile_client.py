"""One hostile connection: it sends a Dialogue in pieces, reads as it likes, and ends as it likes."""

import asyncio
import json
import socket
import ssl
import struct

import websockets

from tests.fakes.connections import abort
from tests.integration.client import trusting_context
from tests.integration.hostile_messages import Dialogue, Ledger, id_text

# For whatever the server is to do on a machine that is busy
REPLY_SECS = 120
# Between two pauses of a client that reads slowly
READ_SIZE = 1 << 14
WEBSOCKETS = ("ws", "wss")
ENDINGS = ("finish", "finish", "finish", "half-close", "vanish", "reset", "bad version")
PIPELINE = 1_000
SHORT_REPLY = 1_000
NO_SUCH_VERSION = "0.1"
TOO_BUSY = (-101, -102)
# The error of a batch's members that it has no room for
TOO_LARGE = "response too large"


class LineConnection:
    """Lines of bytes by tcp or ssl, in pieces of any size."""

    def __init__(self, rng, reader, writer):
        self._rng, self._reader, self._writer = rng, reader, writer
        #: the transport of asyncio below the protocol
        self.transport = writer.transport

    @classmethod
    async def open(cls, rng, protocol, port):
        context = trusting_context() if protocol == "ssl" else None
        host = "localhost" if context else None
        sock = socket.socket()
        try:
            if rng.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            streams = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        return cls(rng, *streams)

    async def send(self, messages):
        data = b"".join(message + b"\n" for message in messages)
        cut = self._rng.choice([1 << 20, 5000, 100, 7])
        while data:
            size = self._rng.randrange(1, cut + 1) if len(data) < 300 * cut else len(data)
            piece, data = data[:size], data[size:]
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def texts(self, pause):
        """Messages as they come, until the connection ends."""
        rest = b""
        while data := await self._reader.read(READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode()
            await asyncio.sleep(pause)

    def half_close(self):
        """Send the end of the stream; False if this kind of connection cannot."""
        if not self._writer.can_write_eof():
            return False
        self._writer.write_eof()
        return True

    def reset(self):
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort(self._writer.transport)

    async def close(self):
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass
        finally:
            # If we are cancelled while the server reads nothing
            abort(self._writer.transport)


class WebSocketConnection:
    """Messages by ws or wss, as text or bytes, in fragments."""

    def __init__(self, rng, ws):
        self._rng, self._ws = rng, ws
        #: the transport of asyncio below the protocol
        self.transport = ws.transport

    @classmethod
    async def open(cls, rng, protocol, port):
        context = trusting_context() if protocol == "wss" else None
        uri = f"{protocol}://127.0.0.1:{port}/"
        ws = await websockets.connect(
            uri, ssl=context, max_size=None, compression=None, ping_interval=None, max_queue=4
        )
        return cls(rng, ws)

    async def send(self, messages):
        for message in messages:
            content = message
            if self._rng.random() < 0.8:
                try:
                    content = message.decode()
                except UnicodeDecodeError:
                    pass  # as bytes, then
            if len(content) > 1 and self._rng.random() < 0.3:
                cut = self._rng.randrange(len(content))
                content = [content[:cut], content[cut:]]
            await self._ws.send(content)

    async def texts(self, pause):
        size = 0
        async for message in self._ws:
            yield message
            size += len(message)
            if size > READ_SIZE:
                size = 0
                await asyncio.sleep(pause)

    def half_close(self):
        return False

    def reset(self):
        self._ws.transport.abort()

    async def close(self):
        try:
            await self._ws.close()
        finally:
            self._ws.transport.abort()


class Hostile:
    """A connection that follows its seed.

    calls: (method, params) that the server has an answer to; answers: the replies that a calm
    client got to them.
    """

    def __init__(self, rng, protocol, port, calls, answers, *, count):
        self._rng, self.protocol, self._port = rng, protocol, port
        self._answers = answers
        self._dialogue = Dialogue(rng, calls)
        self.ending = rng.choice(ENDINGS)
        self.messages = self._dialogue.messages(count)
        if rng.random() < 0.15:
            # As much as a wallet asks in a month, without waiting
            short = [n for n, a in enumerate(answers) if len(json.dumps(a)) < SHORT_REPLY]
            self.messages += self._dialogue.pipeline(PIPELINE, short)
        self._pause = rng.choice([0, 0, 0, 0.001, 0.02])
        self._ledger = Ledger()
        self._progress = asyncio.Event()
        self._ended = asyncio.Event()
        self.replies = 0

    def __repr__(self):
        return f"{self.protocol} {self._dialogue.dialect} {self.ending} {len(self.messages)}"

    async def run(self):
        """Talk until the end; AssertionError if the server does not answer as it should."""
        kind = WebSocketConnection if self.protocol in WEBSOCKETS else LineConnection
        connection = await kind.open(self._rng, self.protocol, self._port)
        tasks = [
            asyncio.ensure_future(self._read(connection)),
            asyncio.ensure_future(self._talk(connection)),
        ]
        try:
            reading, talking = tasks
            await asyncio.wait(tasks, timeout=REPLY_SECS, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            if not talking.done():
                await self._seen_off(talking)
            talking.result()
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await connection.close()

    async def _seen_off(self, talking):
        """The server has ended the connection, or does not go on; was that right?"""
        assert self._ended.is_set(), f"not answered: {self._ledger.due()[:3]}"
        if self.ending in ("half-close", "bad version"):
            await asyncio.wait([talking], timeout=REPLY_SECS)
        assert talking.done(), f"the server ended the connection, due: {self._ledger.due()[:3]}"

    async def _talk(self, connection):
        rng, rest = self._rng, self.messages
        if self.ending == "reset":
            rest = rest[: rng.randrange(len(rest))]
        while rest:
            size = rng.choice([1, 3, 20, len(rest)])
            await self._send(connection, rest[:size])
            rest = rest[size:]
        await getattr(self, "_" + self.ending.replace(" ", "_").replace("-", "_"))(connection)

    async def _send(self, connection, messages):
        for message in messages:
            self._ledger.sent(message)
        await connection.send(messages)

    def _request(self, name, method, *params):
        version = {} if self._dialogue.dialect == "loose" else {"jsonrpc": self._dialogue.dialect}
        return json.dumps({**version, "id": name, "method": method, "params": params}).encode()

    async def _finish(self, connection):
        # A reply that came twice would come before the second.
        for name in ("first", "second"):
            await self._send(connection, [self._request(name, "server.ping")])
            while self._ledger.due():
                self._progress.clear()
                await self._progress.wait()

    async def _half_close(self, connection):
        if connection.half_close():
            await self._ended.wait()
        else:
            await self._finish(connection)

    async def _vanish(self, _connection):
        pass

    async def _reset(self, connection):
        connection.reset()

    async def _bad_version(self, connection):
        await self._finish(connection)
        await self._send(connection, [self._request("v", "server.version", "x", NO_SUCH_VERSION)])
        await self._ended.wait()
        assert not self._ledger.due()

    async def _read(self, connection):
        try:
            async for text in connection.texts(self._pause):
                for reply in self._ledger.received(text):
                    self.replies += 1
                    self._check(reply)
                self._progress.set()
        except (OSError, websockets.ConnectionClosed):
            pass  # who resets is reset
        finally:
            self._ended.set()

    def _check(self, reply):
        index = self._dialogue.asked.get(id_text(reply["id"]))
        error = reply.get("error")
        if index is None or (
            error and (error["code"] in TOO_BUSY or TOO_LARGE in error["message"])
        ):
            return
        expected = self._answers[index]
        got = reply.get("result"), error
        assert got == (expected.get("result"), expected.get("error")), (expected, reply)
