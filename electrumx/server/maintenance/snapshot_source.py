"""The sources of a restore: a local folder, or a static file server.

Owns the connections, and trusts no source: the parser of the manifest checked the names, no read
goes beyond the size that the manifest gives, or follows a symbolic link, and a server's redirects,
pauses and speed have bounds.  Runs on the event loop; worker threads read files.
"""

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
from yarl import URL

import electrumx
from electrumx.lib.errors import OperatorError
from electrumx.lib.log_text import printable
from electrumx.lib.trusted_certificates import trusted_context
from electrumx.server.maintenance.snapshot_manifest import MANIFEST, MAX_MANIFEST_BYTES

_CHUNK = 1 << 20
_SCHEMES = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
#: statuses after which a request may succeed later
_LATER = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")


class SourceFault(OperatorError):
    """The source does not have a file as the manifest describes it."""


class SourceInterrupted(Exception):
    """The source did not deliver all of a file; another request may bring the rest."""


class RangeIgnored(Exception):
    """The server has no ranges: read the file from its beginning."""


class SnapshotSource(Protocol):
    """A place that has the files of a snapshot."""

    #: for people, without credentials
    name: str

    async def read_manifest(self) -> bytes:
        """Return the manifest as it is.  Raise SourceFault, SourceInterrupted."""

    def read(self, name: str, size: int, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file of ``size`` bytes from ``start`` on, which is below ``size``.

        Raise SourceFault, SourceInterrupted, and RangeIgnored before the first byte.
        """


class FolderSource:
    """A folder of this machine, or a mounted one of another machine."""

    def __init__(self, folder: Path):
        self.name = str(folder)
        self._folder = folder

    async def read_manifest(self) -> bytes:
        """Return the manifest as it is."""
        fd = await asyncio.to_thread(self._open, MANIFEST)
        try:
            raw = await asyncio.to_thread(os.pread, fd, MAX_MANIFEST_BYTES + 1, 0)
        finally:
            os.close(fd)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise SourceFault(f"it has more than {MAX_MANIFEST_BYTES:,d} bytes")
        return raw

    async def read(self, name: str, size: int, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file from ``start`` on."""
        fd = await asyncio.to_thread(self._open, name)
        try:
            there = os.fstat(fd).st_size
            if there != size:
                raise SourceFault(f"it has {there:,d} bytes, {size:,d} in the manifest")
            while start < size:
                chunk = await asyncio.to_thread(os.pread, fd, min(_CHUNK, size - start), start)
                if not chunk:
                    raise SourceFault("it was truncated while it was read")
                start += len(chunk)
                yield chunk
        except OSError as e:
            raise SourceFault(f"it cannot be read: {e.strerror}") from e
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        """Return a descriptor of a regular file, reached without symbolic links."""
        *folders, last = name.split("/")
        places: list[int] = []
        try:
            places.append(os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY))
            for folder in folders:
                places.append(os.open(folder, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=places[-1]))
            # A pipe would wait for a writer otherwise.
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=places[-1])
        except OSError as e:
            reason = "it is a symbolic link" if e.errno == errno.ELOOP else e.strerror
            raise SourceFault(f"it cannot be opened: {reason}") from e
        finally:
            for place in places:
                os.close(place)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise SourceFault("it is not a regular file")
        return fd


class HttpSource:
    """A folder that a web server serves as files; a context manager of its connections.

    Uses ranges where the server has them.  Requests no content encodings, since sizes would be
    unknown then.
    """

    #: redirects that one request may take
    MAX_REDIRECTS = 5
    #: the longest pause between two packets, and the longest wait for a connection
    PAUSE_SECS = 30.0
    #: bytes a second below which a request fails, measured over so many seconds
    MIN_SPEED = 2_000
    SPEED_SECS = 30.0

    def __init__(self, url: str, connections: int):
        """Raise SourceFault if ``url`` is not one of a folder."""
        self.name = printable(url)
        try:
            self._base = URL(url)
        except ValueError as e:
            raise SourceFault(f"the URL {self.name} is not valid: {printable(e)}") from None
        if self._base.scheme not in _SCHEMES or not self._base.host:
            raise SourceFault(f"the URL {self.name} is not valid: give http://… or https://…")
        if self._base.query_string or self._base.fragment:
            raise SourceFault(f"the URL {self.name} has a query: give one of a folder")
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HttpSource":
        pause = self.PAUSE_SECS
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=await trusted_context()),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=None, sock_connect=pause, sock_read=pause
            ),
            headers={
                "User-Agent": electrumx.version.replace(" ", "/"),
                "Accept-Encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_CHUNK,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session:
            await self._session.close()

    async def read_manifest(self) -> bytes:
        """Return the manifest as it is."""
        chunks, length = [], 0
        async with self._response(MANIFEST, {}) as response:
            if response.status != 200:
                raise SourceFault(_refusal(response))
            async for chunk in self._body(response):
                length += len(chunk)
                if length > MAX_MANIFEST_BYTES:
                    raise SourceFault(f"it has more than {MAX_MANIFEST_BYTES:,d} bytes")
                chunks.append(chunk)
        return b"".join(chunks)

    async def read(self, name: str, size: int, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file from ``start`` on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._response(name, headers) as response:
            if response.status == 200 and start:
                raise RangeIgnored
            _check_length(response, size, start)
            async for chunk in self._body(response):
                start += len(chunk)
                if start > size:
                    raise SourceFault(f"the server sends more than the {size:,d} bytes of it")
                yield chunk
        if start < size:
            raise SourceInterrupted(f"the server sent {start:,d} of {size:,d} bytes")

    @asynccontextmanager
    async def _response(
        self, name: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Request a file; the response at the end of the redirects."""
        assert self._session
        url = self._base / name
        try:
            for _ in range(self.MAX_REDIRECTS + 1):
                # The time-out is for servers that send their headers one byte after the other.
                request = self._session.get(url, headers=headers, allow_redirects=False)
                async with await asyncio.wait_for(request, 2 * self.PAUSE_SECS) as found:
                    if found.status not in _REDIRECTS:
                        yield found
                        return
                    url = redirected(url, found)
        except asyncio.TimeoutError as e:
            raise SourceInterrupted(f"the server paused for {self.PAUSE_SECS:g} seconds") from e
        except (aiohttp.ClientError, OSError) as e:
            raise SourceInterrupted(printable(e) or type(e).__name__) from e
        raise SourceFault(f"the server redirects more than {self.MAX_REDIRECTS} times")

    async def _body(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yield the bytes of a response; raise SourceInterrupted if they come too slowly."""
        since, count = time.monotonic(), 0
        async for chunk in response.content.iter_any():
            yield chunk
            count += len(chunk)
            secs = time.monotonic() - since
            if secs >= self.SPEED_SECS:
                if count < self.MIN_SPEED * secs:
                    raise SourceInterrupted(f"the server sends {count / secs:,.0f} bytes a second")
                since, count = time.monotonic(), 0


def redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    """Return where a redirect leads.  Credentials stay with the server that they are for."""
    location = response.headers.get("Location", "")
    try:
        target = url.join(URL(location))
        valid = bool(location and target.host and target.scheme in _SCHEMES)
    except ValueError:
        valid, target = False, url
    if not valid:
        raise SourceFault("the server redirects to an invalid URL")
    if url.scheme == "https" and target.scheme != "https":
        raise SourceFault("the server redirects from https to http")
    if target.origin() == url.origin():
        return target.with_user(url.user).with_password(url.password)
    return target


def _refusal(response: aiohttp.ClientResponse) -> str:
    return f"the server answers {response.status} {printable(response.reason or '')}".rstrip()


def _check_length(response: aiohttp.ClientResponse, size: int, start: int) -> None:
    """Raise SourceFault or SourceInterrupted unless a response has the rest of a file."""
    if response.status in _LATER:
        raise SourceInterrupted(_refusal(response))
    if response.status != (206 if start else 200):
        raise SourceFault(_refusal(response))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceFault("the server encodes it: serve files as they are")
    there = response.content_length
    if start:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or (int(found[1]), int(found[2])) != (start, size - 1):
            raise SourceFault(
                f"the server answers with another range than {start:,d} to {size - 1:,d}"
            )
    if there is not None and there != size - start:
        raise SourceFault(f"it has {start + there:,d} bytes, {size:,d} in the manifest")
