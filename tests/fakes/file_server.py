"""A web server on loopback that serves the files of a folder, well or badly.

    async with FileServer(folder) as server:
        server.url; server.requests
        server.script["utxo/CURRENT"] = [redirect("/elsewhere"), ...]

Each request of a path takes the next behaviour of its script, and the last one stays; without a
script the file is served, with ranges.
"""

import asyncio
import re
from urllib.parse import unquote

from tests.ports import free_port


class FileServer:
    """Serves until the block is left.

    ranges: whether the Range header is understood
    chunk, pause: bytes sent at a time, and seconds after each
    host: its address
    tls: its TLS context, None for plain HTTP
    """

    def __init__(
        self, folder, *, ranges=True, chunk=1 << 16, pause=0.0, host="127.0.0.1", tls=None
    ):
        self.folder = folder
        self._host = host
        self._tls = tls
        self.ranges = ranges
        self.chunk, self.pause = chunk, pause
        self.script = {}
        self.requests = []  # (path, Range header or None)
        self.headers = []
        self.sent = 0
        self._server = None
        self._tasks = set()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def __aenter__(self):
        self.port = free_port()
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *_exc):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._respond(head.decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _respond(self, head, writer):
        first, *lines = head.split("\r\n")
        path = unquote(first.split(" ")[1]).lstrip("/")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        self.requests.append((path, headers.get("range")))
        self.headers.append(headers)
        script = self.script.get(path)
        if script:
            behaviour = script.pop(0) if len(script) > 1 else script[0]
            await behaviour(self, path, headers, writer)
        else:
            await serve(self, path, headers, writer)


async def send(server, writer, data):
    """Send bytes at the server's speed."""
    for start in range(0, len(data), server.chunk):
        writer.write(data[start : start + server.chunk])
        await writer.drain()
        server.sent += min(server.chunk, len(data) - start)
        await asyncio.sleep(server.pause)


async def serve(server, path, headers, writer, *, limit=None):
    """Serve a file, or only the first ``limit`` of the bytes requested."""
    file = server.folder / path
    if not file.is_file():
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    data = file.read_bytes()
    found = re.fullmatch(r"bytes=(\d+)-", headers.get("range", "")) if server.ranges else None
    status, extra = "200 OK", ""
    if found:
        start = int(found[1])
        extra = f"Content-Range: bytes {start}-{len(data) - 1}/{len(data)}\r\n"
        status, data = "206 Partial Content", data[start:]
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode())
    await send(server, writer, data if limit is None else data[:limit])


def cut_after(limit, *, when=lambda: True):
    """The connection breaks after so many bytes of the body, and when a condition is true.

    A client may drop bytes that it has not taken when the connection breaks.
    """

    async def behaviour(server, path, headers, writer):
        await serve(server, path, headers, writer, limit=limit)
        while not when():
            await asyncio.sleep(0.005)
        raise ConnectionResetError

    return behaviour


def answer(status, body=b"", *, headers="", length=True):
    """A fixed response."""

    async def behaviour(server, _path, _headers, writer):
        size = f"Content-Length: {len(body)}\r\n" if length else "Connection: close\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{size}{headers}\r\n".encode())
        await send(server, writer, body)
        if not length:
            raise ConnectionResetError

    return behaviour


def redirect(location):
    """A redirect to a URL."""
    return answer("302 Found", headers=f"Location: {location}\r\n")


def endless(block=bytes(1 << 16)):
    """A body without an end, and without a length."""

    async def behaviour(server, _path, _headers, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await send(server, writer, block)

    return behaviour


def silent():
    """No response."""

    async def behaviour(_server, _path, _headers, _writer):
        await asyncio.sleep(3600)

    return behaviour
