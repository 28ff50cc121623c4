"""Crowds of clients: honest wallets with a stopwatch, idle ones, and five kinds of abusers.

Each client comes from a loopback address of its own, so that a server that groups loopback
addresses (launcher.py) sees subnets: wallets and idle clients are spread over many, the abusers of
one kind share one.
"""

import asyncio
import hashlib
import itertools
import json
import socket
import ssl
import time

from tests.integration.client import trusting_context

PING_PAUSE_SECS = 0.25
SUBSCRIBE_EVERY = 4  # pings
REPLY_SECS = 120

FLOOD = b"".join(
    b'{"jsonrpc":"2.0","id":%d,"method":"server.ping","params":[]}\n' % n for n in range(200)
)
BATCH = (
    "["
    + ",".join(
        f'{{"jsonrpc":"2.0","id":{n},"method":"server.ping","params":[]}}' for n in range(10_000)
    )
    + "]\n"
).encode()
HEADERS = b'{"jsonrpc":"2.0","id":1,"method":"blockchain.block.headers","params":[0,2016]}\n' * 50
# The beginning of a TLS record of 512 bytes that holds a ClientHello
HALF_HELLO = bytes.fromhex("16030102000100") + bytes(40)


def script_hash(script):
    """A script's hash as the protocol has it."""
    return hashlib.sha256(script).digest()[::-1].hex()


class Line:
    """A connection that asks one thing at a time."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self._ids = itertools.count()

    @classmethod
    async def open(cls, port, source, *, tls=False):
        context = trusting_context() if tls else None
        streams = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(source, 0), ssl=context, limit=1 << 20
        )
        return cls(*streams)

    async def call(self, method, *params):
        """The result; ConnectionError if there will be none."""
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.writer.write(json.dumps(message).encode() + b"\n")
        while True:
            line = await asyncio.wait_for(self.reader.readline(), REPLY_SECS)
            if not line:
                raise ConnectionError("the server closed the connection")
            reply = json.loads(line)
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return reply["result"]

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass
        finally:
            # If we are cancelled while the server reads nothing
            self.writer.transport.abort()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exc):
        await self.close()


class Wallets:
    """Honest wallets, and how long they waited."""

    def __init__(self, port, count, scripts):
        self.pings, self.subscribes = [], []
        self.lost = 0
        self._port, self._count = port, count
        self._scripts = iter(scripts)

    async def run(self, secs):
        """Use the server for so long."""
        end = time.monotonic() + secs
        await asyncio.gather(*(self._wallet(n, end) for n in range(self._count)))

    async def _wallet(self, number, end):
        await asyncio.sleep(PING_PAUSE_SECS * number / self._count)
        try:
            async with await Line.open(self._port, f"127.{10 + number}.0.1") as line:
                await self._use(line, end)
        except (OSError, asyncio.TimeoutError):
            self.lost += 1

    async def _use(self, line, end):
        await line.call("server.version", "wallet", "1.4.2")
        for turn in itertools.count():
            if time.monotonic() >= end:
                break
            start = time.perf_counter()
            if turn % SUBSCRIBE_EVERY == 0:
                status = await line.call("blockchain.scripthash.subscribe", next(self._scripts))
                self.subscribes.append(time.perf_counter() - start)
                assert status is not None
            else:
                await line.call("server.ping")
                self.pings.append(time.perf_counter() - start)
            await asyncio.sleep(PING_PAUSE_SECS)


def percentile(values, part):
    """The value that part (0 to 1) of the values do not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


class Idlers:
    """Clients that negotiate, subscribe to headers, and say no more."""

    def __init__(self, port, count):
        self._port, self._count = port, count
        self.lines = []

    async def __aenter__(self):
        gate = asyncio.Semaphore(20)

        async def connect(number):
            async with gate:
                line = await Line.open(self._port, f"127.{40 + number // 250}.{number % 250}.1")
                self.lines.append(line)
                await line.call("server.version", "idle", "1.4.2")
                await line.call("blockchain.headers.subscribe")

        try:
            await asyncio.gather(*(connect(number) for number in range(self._count)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc):
        await asyncio.gather(*(line.close() for line in self.lines))

    def lost(self):
        """How many the server has cut off."""
        return sum(line.reader.at_eof() for line in self.lines)


class Abusers:
    """Clients that each repeat one abuse, and reconnect when disconnected."""

    def __init__(self, tcp_port, ssl_port, count):
        """count is for all kinds together."""
        self._ports = (tcp_port, ssl_port)
        self.attempts = dict.fromkeys(self.KINDS, 0)
        self.sent = dict.fromkeys(self.KINDS, 0)
        self._tasks = []
        self._count = count

    async def __aenter__(self):
        for number in range(self._count):
            kind = list(self.KINDS)[number % len(self.KINDS)]
            source = f"127.{200 + number % len(self.KINDS)}.0.{1 + number // len(self.KINDS)}"
            self._tasks.append(asyncio.create_task(self._abuse(kind, source)))
        return self

    async def __aexit__(self, *_exc):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _abuse(self, kind, source):
        while True:
            self.attempts[kind] += 1
            port = self._ports[kind == "half-open TLS"]
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.bind((source, 0))
                try:
                    await loop.sock_connect(sock, ("127.0.0.1", port))
                    await self.KINDS[kind](self, kind, loop, sock)
                except OSError:
                    pass
            await asyncio.sleep(0.2)

    async def _send(self, kind, loop, sock, data):
        await loop.sock_sendall(sock, data)
        self.sent[kind] += len(data)

    async def _read_all(self, loop, sock):
        while await loop.sock_recv(sock, 1 << 18):
            pass
        raise ConnectionError

    async def _with_reader(self, loop, sock, coro):
        tasks = [
            asyncio.ensure_future(coro),
            asyncio.ensure_future(self._read_all(loop, sock)),
        ]
        try:
            done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _flood(self, kind, loop, sock):
        async def send():
            while True:
                await self._send(kind, loop, sock, FLOOD)

        await self._with_reader(loop, sock, send())

    async def _batches(self, kind, loop, sock):
        async def send():
            while True:
                await self._send(kind, loop, sock, BATCH)

        await self._with_reader(loop, sock, send())

    async def _slow_reader(self, kind, loop, sock):
        while True:
            await self._send(kind, loop, sock, HEADERS)

    async def _endless_line(self, kind, loop, sock):
        while True:
            await self._send(kind, loop, sock, b"x" * 65_536)

    async def _half_open_tls(self, kind, loop, sock):
        await self._send(kind, loop, sock, HALF_HELLO)
        await self._read_all(loop, sock)

    KINDS = {
        "flood": _flood,
        "slow reader": _slow_reader,
        "half-open TLS": _half_open_tls,
        "endless line": _endless_line,
        "batches": _batches,
    }


async def churn(port, secs, scripts, *, parallel=10, subscriptions=50, on_session=lambda: None):
    """Connect, negotiate, subscribe, disconnect, over and over; the number of sessions."""
    end = time.monotonic() + secs
    count = 0

    async def one(number):
        nonlocal count
        offset = number * subscriptions
        while time.monotonic() < end:
            async with await Line.open(port, f"127.{10 + number}.0.1") as line:
                await line.call("server.version", "churn", "1.4.2")
                for n in range(subscriptions):
                    await line.call(
                        "blockchain.scripthash.subscribe", scripts[(offset + n) % len(scripts)]
                    )
            offset += parallel * subscriptions
            count += 1
            on_session()

    await asyncio.gather(*(one(number) for number in range(parallel)))
    return count
