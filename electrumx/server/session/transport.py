"""Connections of clients: bytes in, whole messages out, and no more held than a bound.

Raw sockets, plain and TLS, are an asyncio Protocol with no task of its own: an idle connection
costs memory only.  Websockets have the library's task.  Both feed a session, which is what is
called ``session`` here and has

* ``received_bytes(count)``, ``receive(messages)`` and ``dropped_messages(count)``,
* ``on_unwritable()`` and ``on_writable()`` when the client reads no more, and when it does again,
* ``on_lost()`` once, at the end.

They know nothing of what is said.  All of it runs on the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from aiorpcx import NetAddress
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from electrumx.server.session.framing import LineFramer

# A websocket's messages that wait to be written: above this the client is one that does not read.
WRITE_HIGH_MARK = 65_536
# So many of them are written before others get their turn, among whom is who notices that the
# connection was cut: the library does not, and asyncio logs every write from the sixth on.
SENT_AT_ONCE = 4
# A single message of more bytes is not copied to have its newline, but written in two.
JOINED_BYTES = 65_536
# How long a connection that we end waits for the client to end it too.
LINGER_SECS = 1.0


class RawTransport(asyncio.Protocol):
    """The connection of a raw socket; messages are lines."""

    __slots__ = (
        "_ending",
        "_factory",
        "_force_timer",
        "_framer",
        "_lost",
        "_transport",
        "is_held",
        "is_writable",
        "session",
    )

    #: whether messages are lines, so that several can be one string
    has_lines = True

    def __init__(self, session_factory: Callable[[Any], Any], max_recv: int) -> None:
        """``session_factory(transport)`` makes the session; lines have at most so many bytes."""
        self._factory = session_factory
        self._framer = LineFramer(max_recv)
        self._transport: Any = None
        self.session: Any = None
        # Whether the client takes what is sent: less than 64 KiB wait for it
        self.is_writable = True
        # Whether reading has been stopped
        self.is_held = False
        # Resolved when the connection has ended; most often nobody asks
        self._lost: asyncio.Future[None] | None = None
        self._force_timer: asyncio.TimerHandle | None = None
        # Whether what the client still sends is read only to be thrown away
        self._ending = False

    # -- called by the event loop

    def connection_made(self, transport: Any) -> None:
        """Start a session."""
        self._transport = transport
        self.session = self._factory(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes off the network."""
        session = self.session
        if session is None or self._ending:
            return
        session.received_bytes(len(data))
        framer = self._framer
        lines = framer.split(data)
        if framer.dropped:
            session.dropped_messages(framer.dropped)
            framer.dropped = 0
        if lines:
            session.receive(lines)
        # Limits take effect when a request gets its turn: here there is none to come.
        if framer.is_dropping and session.is_over_limit() and not self.is_closing():
            session.on_disconnect_due_to_excessive_session_cost()
            self._transport.abort()

    def pause_writing(self) -> None:
        """Note that the client does not read what it is sent."""
        self.is_writable = False
        if self.session is not None:
            self.session.on_unwritable()

    def resume_writing(self) -> None:
        """Note that it does again."""
        self.is_writable = True
        if self.session is not None:
            self.session.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the session."""
        if self._force_timer is not None:
            self._force_timer.cancel()
            self._force_timer = None
        self.is_writable = True
        self._end_session()
        # It is gone already; but Python 3.10 takes TLS transports for leaked unless told
        self._transport.abort()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    # -- called by the session

    def send(self, messages: list[bytes]) -> None:
        """Send messages; what the client does not take at once is kept for it."""
        transport = self._transport
        if transport.is_closing():
            return
        if len(messages) == 1 and len(messages[0]) > JOINED_BYTES:
            transport.write(messages[0])
            transport.write(b"\n")
        else:
            messages.append(b"")
            transport.write(b"\n".join(messages))

    def hold(self, *, held: bool) -> None:
        """Stop or go on reading."""
        if held == self.is_held or self.session is None or self.is_closing():
            return
        self.is_held = held
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        """Say if the connection has ended or is about to."""
        return self._ending or self._transport.is_closing()

    def remote_address(self) -> NetAddress | None:
        """Return the peer's address, None if it went before it was known."""
        peername = self._transport.get_extra_info("peername")
        return NetAddress(peername[0], peername[1]) if peername else None

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once.

        A socket that is closed while there is something left to read resets the connection, and
        the client may never see what it was sent last.  Hence we say that we are done, and read on
        for a moment.
        """
        transport = self._transport
        if self.is_closing():
            return
        if transport.can_write_eof() and not transport.get_write_buffer_size():
            self._ending = True
            transport.write_eof()
            # What is left of the connection is no session's business.
            asyncio.get_running_loop().call_soon(self._end_session)
            if self.is_held:
                transport.resume_reading()
            force_after = min(force_after, LINGER_SECS)
        else:
            transport.close()
        self._force_after(force_after)

    def _end_session(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.on_lost()

    def _force_after(self, secs: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._force_timer
        if timer is None or loop.time() + secs < timer.when():
            if timer is not None:
                timer.cancel()
            self._force_timer = loop.call_later(secs, self._transport.abort)

    async def close(self, force_after: float) -> None:
        """Close the connection; return when closed, at the latest after so many seconds."""
        self._transport.close()
        if self.session is not None:
            self._force_after(force_after)
            if self._lost is None:
                self._lost = asyncio.get_running_loop().create_future()
            # Others may wait too: one that is cancelled takes nothing from them.
            await asyncio.shield(self._lost)

    def abort(self) -> None:
        """Drop the connection without ceremony."""
        self._transport.abort()


class WebSocketTransport:
    """The connection of a websocket; each message is one of its own."""

    has_lines = False

    def __init__(self, websocket: ServerConnection, session_factory: Callable[[Any], Any]) -> None:
        self._websocket = websocket
        self._factory = session_factory
        self.session: Any = None
        self._closing = False
        # What waits to be sent, how much that is, and what sends it
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def run(self) -> None:
        """Run a session until the connection ends."""
        session = self.session = self._factory(self)
        try:
            while True:
                message = await self._websocket.recv()
                data = message.encode() if isinstance(message, str) else message
                session.received_bytes(len(data))
                session.receive([data])
                await self._may_read.wait()
        except ConnectionClosed:
            pass
        finally:
            self._closing = True
            self.session = None
            self._queue.clear()
            session.on_lost()
            for task in (self._sender, self._closer):
                if task is not None:
                    task.cancel()

    @property
    def is_writable(self) -> bool:
        """Whether the client takes what is sent: less than 64 KiB wait for it."""
        return self._queue_bytes < WRITE_HIGH_MARK

    @property
    def is_held(self) -> bool:
        """Whether reading has been stopped."""
        return not self._may_read.is_set()

    def send(self, messages: list[bytes]) -> None:
        """Send messages as text; what the client does not take at once is kept for it."""
        if self._closing:
            return
        self._queue.extend(messages)
        self._queue_bytes += sum(map(len, messages))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_queue())

    async def _send_queue(self) -> None:
        sent = 0
        try:
            while self._queue:
                message = self._queue.popleft()
                await self._websocket.send(message.decode())
                was_writable = self.is_writable
                self._queue_bytes -= len(message)
                if not was_writable and self.is_writable and self.session is not None:
                    self.session.on_writable()
                sent += 1
                if sent % SENT_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except ConnectionClosed:
            self._closing = True
        finally:
            self._sender = None

    def hold(self, *, held: bool) -> None:
        """Stop or go on reading."""
        if held:
            self._may_read.clear()
        else:
            self._may_read.set()

    def is_closing(self) -> bool:
        """Say if the connection has ended or is about to."""
        return self._closing

    def remote_address(self) -> NetAddress | None:
        """Return the peer's address, None if it went before it was known."""
        address = self._websocket.remote_address
        return NetAddress(*address[:2]) if address else None

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once."""
        if self._closer is None:
            self._closer = asyncio.get_running_loop().create_task(self.close(force_after))

    async def close(self, force_after: float) -> None:
        """Close the connection; return when closed, at the latest after so many seconds."""
        closing = asyncio.ensure_future(self._close_after_queue())
        self._closing = True
        self._may_read.set()
        await asyncio.wait([closing], timeout=force_after)
        if not closing.done():
            closing.cancel()
            self.abort()

    async def _close_after_queue(self) -> None:
        if self._sender is not None:
            await asyncio.wait([self._sender])
        await self._websocket.close()

    def abort(self) -> None:
        """Drop the connection without ceremony."""
        self._closing = True
        self._may_read.set()
        transport = getattr(self._websocket, "transport", None)
        if transport is not None:
            transport.abort()
