"""One HTTP/1.1 connection to a node, for GET requests with binary answers.

Owns the socket and the answer in progress.  A body goes into one buffer, which the next one uses
again, and costs the event loop about a third of a general client's time: during the initial sync
there is a request for every block.

A body of more than SPOOL_BYTES, such as the blocks of gigabytes that Bitcoin SV has, goes through a
small buffer to a file without a name, piece by piece, and becomes a map of that: memory that the
system can reclaim.  A thread makes and writes the file, while reading from the socket pauses.

Used on the event loop, for one request at a time.  Whatever is not as expected ends the connection
and is a :class:`RestError`.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from electrumx.server.daemon.spool import NoRoomError, Spool


class RestError(Exception):
    """Internal: no reply came; the JSON-RPC call that follows reports the cause."""


class RestTooLargeError(Exception):
    """Internal: a reply is larger than the limit, which is args[0] in bytes."""


class Disconnected(RestError):
    """Internal: the connection ended before any of the answer came; it may have been idle long."""


class RestConnection(asyncio.BufferedProtocol):
    """A connection; made by :meth:`open`.

    ``host`` is the value of the Host header.  An answer must begin within ``timeout`` seconds, and end
    within as many, for each GiB that it has begun.
    """

    #: bytes of a status line and headers at most
    MAX_HEAD = 16_384
    #: bytes of a body allocated before any of it came, and kept for the next one
    FIRST_ROOM = 4_194_304
    #: a larger body goes into a file, in pieces of so many bytes
    SPOOL_BYTES = 1 << 25
    PIECE_BYTES = 1 << 22
    #: seconds by which a timer may be early
    CLOCK_SECS = 0.01
    #: seconds for making a connection
    CONNECT_SECS = 30.0

    def __init__(self, host: str, timeout: float, spool_folder: str | None = None) -> None:
        self._host = host
        self._spool_folder = spool_folder
        #: the file of a large body; then ``_body`` has the piece in progress
        self._spool: Spool | None = None
        #: whether a thread is writing it
        self._spooling = False
        #: called with the announced length of the body, to raise RestTooLargeError
        self._admit: Callable[[int], None] | None = None
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        #: when the answer must have begun or ended, by the loop's clock; None if none is due
        self._deadline: float | None = None
        #: looks at the deadline; requests follow each other too fast for a timer each
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._head = bytearray(self.MAX_HEAD)
        #: receives bodies, one after the other, in memory that needs no second allocation
        self._room = bytearray()
        #: None while the head arrives; may be longer than the body
        self._body: bytearray | None = None
        self._length = 0
        #: bytes received of the head or the body
        self._filled = 0
        self._keep = True
        #: True after the first answer
        self.used = False

    @classmethod
    async def open(
        cls,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        host: str,
        timeout: float,
        spool_folder: str | None = None,
    ) -> "RestConnection":
        """Connect.  Raise RestError if that fails.

        Large bodies go into files in ``spool_folder``, or where the system has such files.
        """
        loop = asyncio.get_running_loop()
        try:
            _transport, protocol = await asyncio.wait_for(
                loop.create_connection(lambda: cls(host, timeout, spool_folder), *address, ssl=tls),
                cls.CONNECT_SECS,
            )
        except (OSError, ValueError, asyncio.TimeoutError) as e:
            raise RestError(type(e).__name__) from e
        return protocol

    @property
    def is_open(self) -> bool:
        """Return whether it can send another request."""
        return self._transport is not None

    def close(self) -> None:
        """Close the connection at once; harmless if it is closed."""
        self._fail(RestError("closed"))

    async def get(
        self, path: str, admit: Callable[[int], None], head_secs: float | None = None
    ) -> bytes:
        """Return the body of the answer to ``GET path``.  Raise RestError, also if it is no 200.

        It must begin within ``head_secs``, if given.

        Calls ``admit`` with the length of the body before reading it; ``admit`` may raise
        RestTooLargeError, which ends the connection.  NoRoomError does so where a large body finds no
        room on the disk.
        """
        if self._transport is None:
            raise Disconnected("disconnected")
        assert self._answer is None
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._time_out_after(self._timeout if head_secs is None else head_secs)
        self._body, self._filled, self._admit = None, 0, admit
        request = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept: */*\r\n\r\n"
        self._transport.write(request.encode("latin-1"))
        try:
            return await self._answer
        finally:
            self._deadline = None
            if self._answer.cancelled():
                self.close()
            self._answer = None

    def _time_out_after(self, secs: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + secs
        if self._timer is None or self._deadline < self._timer_due:
            self._stop_timer()
            self._timer_due = self._deadline
            self._timer = loop.call_at(self._timer_due, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        left = self._deadline - asyncio.get_running_loop().time()
        # Timers may be early by the resolution of their clock.
        if left < self.CLOCK_SECS:
            self._fail(RestError("timeout"))
        else:
            self._time_out_after(left)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: RestError | RestTooLargeError | NoRoomError) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._stop_timer()
        self._room = bytearray()
        if self._spool is not None and not self._spooling:
            self._end_spool()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # -- the protocol's methods, called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way."""
        nothing_came = self._body is None and not self._filled
        kind = Disconnected if nothing_came else RestError
        self._fail(kind(type(exc).__name__ if exc else "disconnected"))

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        if self._body is None:
            return memoryview(self._head)[self._filled :]
        if self._spool is not None:
            return memoryview(self._body)[self._filled : self._piece_len]
        have = len(self._body)
        if self._filled == have:
            # Allocate no more than a peer has shown to have.
            self._body += bytes(min(have, self._length - have))
        return memoryview(self._body)[self._filled : self._length]

    def buffer_updated(self, nbytes: int) -> None:
        """Note that bytes have come."""
        if self._answer is None or self._answer.done():
            # No request is in progress.
            self._fail(RestError("an answer without a request"))
            return
        searched = max(0, self._filled - 3)
        self._filled += nbytes
        if self._body is None:
            end = self._head.find(b"\r\n\r\n", searched, self._filled)
            if end >= 0:
                self._end_of_head(bytes(self._head[:end]), end + 4)
            elif self._filled == self.MAX_HEAD:
                self._fail(RestError("the headers are too large"))
        if self._spool is not None:
            if self._filled == self._piece_len:
                self._end_of_piece()
        elif self._body is not None and self._filled == self._length:
            self._end_of_body()

    def _end_of_head(self, head: bytes, body_start: int) -> None:
        """Read status and headers; make the buffer for the body."""
        try:
            self._length = self._read_head(head.decode("latin-1"))
            assert self._admit is not None
            self._admit(self._length)
        except (RestError, RestTooLargeError) as e:
            self._fail(e)
            return
        begun = self._filled - body_start
        if begun > self._length:
            self._fail(RestError("more than the answer came"))
            return
        self._time_out_after(self._timeout * (1 + self._length // (1 << 30)))
        if self._length > self.SPOOL_BYTES:
            self._spool = Spool(self._spool_folder, self._length)
            self._body = bytearray(max(self.PIECE_BYTES, self.MAX_HEAD))
            self._body[:begun] = memoryview(self._head)[body_start : self._filled]
            self._filled = begun
            return
        wanted = max(begun, min(self._length, self.FIRST_ROOM))
        if len(self._room) < wanted:
            self._room = bytearray(wanted)
        self._body = self._room
        self._body[:begun] = memoryview(self._head)[body_start : self._filled]
        self._filled = begun

    def _read_head(self, head: str) -> int:
        """Return the length of the body."""
        status, *lines = head.split("\r\n")
        version, _, rest = status.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise RestError("no HTTP")
        if rest[:3] != "200":
            raise RestError(f"HTTP status {rest[:3]!a}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/octet-stream":
            # A proxy before the node may have a page for every path.
            raise RestError("no binary answer")
        length = headers.get("content-length", "")
        # int() takes signs, blanks, underscores and the digits of any script.
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            raise RestError("no Content-Length")
        if len(length) > 15:
            raise RestError("an impossible Content-Length")
        self._keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return int(length)

    def _end_of_body(self) -> None:
        assert self._body is not None
        body = bytes(memoryview(self._body)[: self._length])
        if len(self._room) > self.FIRST_ROOM:
            self._room = bytearray()
        self._answer_with(body)

    def _answer_with(self, body: bytes) -> None:
        assert self._answer is not None
        self._body, self._filled = None, 0
        self.used = True
        self._answer.set_result(body)
        if not self._keep:
            self._fail(RestError("closed"))

    # -- large bodies

    @property
    def _piece_len(self) -> int:
        """The bytes of the piece in progress."""
        assert self._spool is not None
        assert self._body is not None
        return min(len(self._body), self._spool.missing)

    def _end_of_piece(self) -> None:
        """Have the piece written, and the next one received after that."""
        assert self._spool is not None
        assert self._body is not None
        assert self._transport is not None
        self._transport.pause_reading()
        self._spooling = True
        piece = memoryview(self._body)[: self._filled]
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._spool.write, piece).add_done_callback(self._piece_written)

    def _piece_written(self, writing: "asyncio.Future[bytes | None]") -> None:
        """Go on after the write of a piece."""
        self._spooling = False
        failure = None if writing.cancelled() else writing.exception()
        if self._transport is None or self._answer is None or self._answer.done():
            # It failed during the write.
            self._end_spool()
        elif failure is not None:
            self._fail(NoRoomError(str(failure)))
        else:
            self._filled = 0
            body = writing.result()
            if body is not None:
                self._end_spool()
                self._answer_with(body)
            if self._transport is not None:
                self._transport.resume_reading()

    def _end_spool(self) -> None:
        assert self._spool is not None
        self._spool.close()
        self._spool = None
