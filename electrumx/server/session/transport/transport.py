"""Connections of clients: bytes in, whole messages out, and no more held than a bound.

Every connection is an asyncio Protocol over a plain TCP transport, with no task of its own: an
idle connection costs memory only.  TLS and WebSocket are layers of ours above it, so that every
byte is known and charged from the first on.  Input passes these stages, in this order:

1. ``data_received``: the bytes of the network.  On services behind a proxy the PROXY headers
   (``proxied_client``) come first; the rest goes to the next stage.
2. TLS (``tls``), on services that have it.
3. Messages: lines (``line_transport``) or WebSocket frames (``websocket``).

A session exists once a client could send messages: after the TLS handshake and the WebSocket
upgrade.  ``admission`` counts connections from accept, drops those that take too long, and
charges the group of the address for those that never become a session.

Fairness: TLS and WebSocket process input in steps of at most about half a millisecond.
A connection gets one step when its bytes arrive; the rest waits in ``turns``.  Reading of a connection
pauses while more than 16 KiB of its input wait, and while more than 64 KiB of its output do.

These calls feed sessions:

* ``receiver.received_bytes(count)``, ``receiver.receive(messages)`` and ``dropped_messages(count)``,
* ``on_unwritable()`` and ``on_writable()`` when the client reads no more, and when it does again,
* ``on_eof()`` when the client will send no more; returns whether an answer is still due,
* ``on_lost()`` once, at the end.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiorpcx import NetAddress

from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.prices import (
    EMPTY_RECORD_COST,
    HANDSHAKE_COST,
    RECORD_COST,
    TLS_READ_COST,
)
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.held_memory import ReceiveMemory, SendMemory
from electrumx.server.session.transport.parties import ConnectionSession
from electrumx.server.session.transport.proxied_client import ProxiedClient, RefusedError
from electrumx.server.session.transport.ticket import Ticket
from electrumx.server.session.transport.tls import TLSError, TLSLayer
from electrumx.server.session.transport.turns import TurnQueue

# A connection that holds more bytes of requests than this counts for ``ReceiveMemory``.
NOTED_BYTES = 65_536
# Two writes send a single message of more bytes: adding its newline would copy it.
JOINED_BYTES = 65_536
# How long a connection that we end waits for the client to end it too.
LINGER_SECS = 1.0
# Bytes that the client may send until then: above it, the transport aborts the connection.
LINGER_BYTES = 2_000_000
# Above so much unprocessed input, reading of a connection pauses.
READ_AHEAD_BYTES = 16_384


@dataclass(slots=True)
class ConnectionContext:
    """The settings and objects that the connections of one service share."""

    #: ``session_factory(transport)`` makes the session
    session_factory: "Callable[[StreamConnection], ConnectionSession]"
    #: bytes; 0 is no bound
    max_recv: int
    #: counts connections and charges the groups of addresses; see ``admission``
    admission: Admission
    send_memory: SendMemory
    receive_memory: ReceiveMemory
    turns: TurnQueue
    #: cost of a received byte
    byte_cost: float = 0.0
    #: an SSLContext on services with TLS
    tls_context: ssl.SSLContext | None = None
    #: PROXY headers that a connection begins with
    header_count: int = 0
    #: whether all clients of the service are trusted
    is_trusted: bool = False
    #: whether to fill up writes: see ``padding``
    is_padded: bool = False
    #: origins of web pages that may connect, on WebSocket services; None: all
    origins: list[str] | None = None


class StreamConnection(asyncio.Protocol):
    """A connection, of bytes; subclasses make messages of them."""

    __slots__ = (
        "_at_eof",
        "_context",
        "_ending",
        "_force_timer",
        "_input",
        "_is_noted",
        "_lost",
        "_paused",
        "_position",
        "_proxied",
        "_queued_bytes",
        "_tls",
        "_transport",
        "_uncharged_bytes",
        "is_held",
        "is_queued",
        "is_writable",
        "session",
        "ticket",
    )

    #: whether messages are lines, so that several can be one string
    has_lines: bool

    def __init__(self, context: ConnectionContext, ticket: Ticket | None = None) -> None:
        """``ticket`` is the entry of ``context.admission`` for this connection."""
        self._context = context
        self.ticket = ticket
        self._transport: Any = None
        self._tls: TLSLayer | None = None
        # On services behind a proxy: the client that it names
        self._proxied: ProxiedClient | None = None
        self.session: ConnectionSession | None = None
        # False for a slow reader, for which more than 64 KiB wait
        self.is_writable = True
        # Whether the session wants no more input
        self.is_held = False
        # Whether the transport's reading is paused
        self._paused = False
        # Encrypted input not processed yet, and how far it is
        self._input = b""
        self._position = 0
        #: whether a turn is due
        self.is_queued = False
        # Received when there was no session to charge: before it, or after
        self._uncharged_bytes = 0
        # Messages that the session keeps until the client reads
        self._queued_bytes = 0
        # Whether ``receive_memory`` knows of it
        self._is_noted = False
        # Resolved when the connection has ended; most often no task waits for it
        self._lost: asyncio.Future[None] | None = None
        self._force_timer: asyncio.TimerHandle | None = None
        # Whether to read the rest of the client's input only to discard it
        self._ending = False
        # Whether the client has ended its half
        self._at_eof = False

    # -- called by the event loop

    def connection_made(self, transport: Any) -> None:
        """Wait for PROXY headers, or go on with the next stage."""
        self._transport = transport
        if self.ticket is not None and self.ticket.is_dropped:
            transport.abort()
            return
        context = self._context
        if context.header_count:
            self._proxied = ProxiedClient(
                context.header_count,
                context.admission,
                self.ticket,
                is_trusted=context.is_trusted,
            )
        else:
            self._begin()

    def data_received(self, data: bytes) -> None:
        """Take bytes off the network."""
        session = self.session
        if self._ending:
            self._discard(data)
            return
        if session is None:
            proxied = self._proxied
            if proxied is not None and proxied.header is None:
                self._receive_headers(proxied, data)
                return
            self._uncharged_bytes += len(data)
        elif self._tls is None:
            session.receiver.received_bytes(len(data))
        else:
            session.receiver.received_bytes(len(data), TLS_READ_COST)
        tls = self._tls
        if tls is None:
            self._received(data)
        else:
            self._receive_tls(tls, data)

    def _receive_tls(self, tls: TLSLayer, data: bytes) -> None:
        """Take encrypted bytes off the network."""
        session = self.session
        # Not by ``_is_stopped``: each call costs.
        if (
            not self._input
            and self.is_writable
            and not self.is_held
            and tls.is_record(data)
            and not self._transport.is_closing()
        ):
            try:
                content = tls.receive_record(data)
            except TLSError:
                self._on_tls_error(tls)
                return
            if content:
                self._received(content)
                return
            if content is None:
                if session is not None:
                    session.bump_cost(EMPTY_RECORD_COST)
                    self._end_if_over_limit()
                return
            data, self._at_eof = b"", True
        self._input = self._input[self._position :] + data if self._input else data
        self._position = 0
        if not self.is_queued:
            # Handshakes cost most of a turn each.
            if tls.is_open:
                self._step()
            self._after_step()
        else:
            self._update_reading()

    def eof_received(self) -> bool:
        """Let the session answer the pending requests; return whether it is going to."""
        if self._ending or (self._tls is not None and not self._at_eof):
            return False  # an alert announces the end of TLS: without it this is a cut
        self._at_eof = True
        if self.has_input():
            return True
        return self._on_input_end()

    def pause_writing(self) -> None:
        """Note that the client is a slow reader."""
        self.is_writable = False
        self._context.send_memory.note(self, self.unsent_bytes())
        if self.session is not None:
            self.session.on_unwritable()
        self._update_reading()

    def resume_writing(self) -> None:
        """Note that it does again."""
        self.is_writable = True
        self._queued_bytes = 0
        self._context.send_memory.forget(self)
        if self.session is not None:
            self.session.on_writable()
        if self.has_input():
            self._after_step()
        else:
            self._update_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the session."""
        if self._force_timer is not None:
            self._force_timer.cancel()
            self._force_timer = None
        self.is_writable = True
        self._discard_input()
        self._context.send_memory.forget(self)
        self._context.receive_memory.forget(self)
        self._end_session()
        self._context.admission.lost(self)
        # It is gone already; but Python 3.10 takes transports for leaked otherwise
        self._transport.abort()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    # -- stages

    def _receive_headers(self, proxied: ProxiedClient, data: bytes) -> None:
        """Take PROXY headers off the input; go on with the rest once they are complete."""
        if self._transport.is_closing():
            return
        try:
            rest = proxied.receive(data)
        except RefusedError:
            self.abort()
            return
        if proxied.is_check:
            # Discard input until the proxy closes.
            self._ending = True
        elif rest is not None:
            self._begin()
            if rest:
                self.data_received(rest)

    def _discard(self, data: bytes) -> None:
        self._uncharged_bytes += len(data)
        if self._uncharged_bytes > LINGER_BYTES:
            self.abort()

    def _begin(self) -> None:
        """Start TLS, or the next stage."""
        if self._context.tls_context is None:
            self._open()
        else:
            self._tls = TLSLayer(self._context.tls_context)

    def _open(self) -> None:
        """Go on after TLS, if there is any."""
        self._start_session()

    def _start_session(self) -> None:
        session = self.session = self._context.session_factory(self)
        self._context.admission.opened(self)
        if self._uncharged_bytes:
            session.receiver.received_bytes(self._uncharged_bytes)
            self._uncharged_bytes = 0
        if self._tls is not None:
            session.bump_cost(HANDSHAKE_COST)

    def early_cost(self) -> float:
        """Return the cost of a connection without a session to charge."""
        handshake = HANDSHAKE_COST if self._tls is not None and self._uncharged_bytes else 0.0
        return handshake + self._uncharged_bytes * self._context.byte_cost

    def late_cost(self) -> float:
        """Return the cost of a connection since its session ended."""
        return self._uncharged_bytes * self._context.byte_cost if self._ending else 0.0

    def _received(self, data: bytes) -> None:
        """Take bytes of the client's, decrypted."""
        raise NotImplementedError

    def has_input(self) -> bool:
        """Return whether there is unprocessed input."""
        return self._position < len(self._input)

    def input_size(self) -> int:
        """Return how many bytes of unprocessed input there are."""
        return len(self._input) - self._position

    def on_turn(self) -> None:
        """Process a step of the waiting input."""
        self.is_queued = False
        self._step()
        self._after_step()

    def _is_stopped(self) -> bool:
        """Return whether processing of input has to stop for now."""
        return self._ending or self.is_held or not self.is_writable or self._transport.is_closing()

    def _step(self) -> None:
        """Process a step of the input, if there is any and it may be."""
        if self.has_input() and not self._is_stopped():
            self._decrypt()

    def _after_step(self) -> None:
        """Read on, or queue the rest of the input."""
        if self.has_input():
            if not self.is_queued and not self._is_stopped():
                self.is_queued = True
                self._context.turns.add(self)
        elif self._at_eof and not self.is_closing() and not self._on_input_end():
            self._announce_end()
            self._transport.close()
        self._update_reading()

    def _decrypt(self) -> None:
        tls = self._tls
        assert tls is not None
        records, empty = tls.records, tls.empty_records
        was_open = tls.is_open
        pieces: list[bytes] = []
        try:
            self._position = tls.receive(self._input, self._position, pieces)
        except TLSError:
            self._on_tls_error(tls)
            return
        if self._position >= len(self._input):
            self._input, self._position = b"", 0
        if not was_open:
            if tls.is_open:
                self._open()
                # One write holds the end of the handshake and the answers to requests that came with it.
                self._step()
            self._write_raw(tls.to_send())
            return
        if self.session is not None:
            # Of a record that comes alone, the read is most of the work.
            cost = (tls.records - records - 1) * RECORD_COST
            self.session.bump_cost(cost + (tls.empty_records - empty) * EMPTY_RECORD_COST)
        if pieces:
            if not pieces[-1]:
                self._at_eof = True
            self._received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        else:
            self._end_if_over_limit()
        # Encrypted replies take the layer's own bytes along.
        self._write_raw(tls.to_send())

    def _discard_input(self) -> None:
        self._input, self._position = b"", 0

    def _on_tls_error(self, tls: TLSLayer) -> None:
        """Close, with an alert that names the error."""
        self._discard_input()
        self._write_raw(tls.to_send())
        self._transport.close()
        self._force_after(LINGER_SECS)

    def _on_input_end(self) -> bool:
        """Notify the session that the client asks no more; return whether an answer is due."""
        return self.session is not None and not self.is_closing() and bool(self.session.on_eof())

    def _end_if_over_limit(self) -> None:
        """Drop a client at its limit that sends nothing which would be answered with an error.

        Limits take effect when a request is processed: here no request is to come.
        """
        session = self.session
        if session is not None and session.is_over_limit() and not self.is_closing():
            session.log_excessive_cost()
            self._transport.abort()

    # -- writing and flow control

    def _write(self, data: bytes) -> None:
        """Send bytes to the client, encrypted if it has TLS."""
        if self._tls is None:
            self._transport.write(data)
        else:
            for piece in self._tls.encrypt(data):
                self._transport.write(piece)

    def _write_raw(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def unsent_bytes(self) -> int:
        """Return the number of unsent bytes, here and in the session."""
        return int(self._transport.get_write_buffer_size()) + self._queued_bytes

    def note_queued(self, size: int) -> None:
        """Note how many bytes the session keeps because the client does not read."""
        self._queued_bytes = size
        if not self.is_writable:
            self._context.send_memory.note(self, self.unsent_bytes())

    def unanswered_bytes(self) -> int:
        """Return how many bytes of requests it holds: incomplete, waiting, or being answered."""
        session = self.session
        return self._incomplete_bytes() + (0 if session is None else session.unanswered_bytes())

    def _incomplete_bytes(self) -> int:
        """Return the size of the message that is not complete yet."""
        return 0

    def note_unanswered(self) -> None:
        """Report how many bytes of requests it holds, if that is much or was."""
        size = self.unanswered_bytes()
        if size > NOTED_BYTES:
            self._is_noted = True
            self._context.receive_memory.note(self, size)
        elif self._is_noted:
            self._is_noted = False
            self._context.receive_memory.forget(self)

    def _update_reading(self) -> None:
        """Read, or not, as this end and the session can take."""
        transport = self._transport
        if transport.is_closing():
            return
        paused = not self._ending and (
            self.is_held or not self.is_writable or self.input_size() > READ_AHEAD_BYTES
        )
        if paused != self._paused:
            self._paused = paused
            if paused:
                transport.pause_reading()
            else:
                transport.resume_reading()

    # -- called by the session

    def send(self, messages: list[bytes]) -> None:
        """Send messages; keep those that the client does not read at once."""
        raise NotImplementedError

    def hold(self, *, held: bool) -> None:
        """Stop or go on reading."""
        if held == self.is_held or self.session is None or self.is_closing():
            return
        self.is_held = held
        if not held and self.has_input():
            self._after_step()
        else:
            self._update_reading()

    def is_closing(self) -> bool:
        """Return whether the connection has ended or is closing."""
        return self._ending or self._transport.is_closing()

    @property
    def had_tls(self) -> bool:
        """Whether a proxy reports that the client connected to it over TLS."""
        return self._proxied is not None and self._proxied.had_tls

    def origin(self) -> Origin:
        """Return the client's address, and who vouches for it."""
        if self.ticket is not None:
            return self.ticket.origin()
        address = self.remote_address()
        return Origin(None if address is None else address.host)

    def remote_address(self) -> NetAddress | None:
        """Return the client's address, None if it is not known, or went before it was."""
        if self._proxied is None:
            return self.peer_address()
        return self._proxied.address()

    def proxy_address(self) -> NetAddress | None:
        """Return the address of the proxy that named the client, None without one."""
        return None if self._proxied is None else self.peer_address()

    def peer_address(self) -> NetAddress | None:
        """Return the address at the other end, which may be a proxy's."""
        peername = self._transport.get_extra_info("peername")
        # Of a Unix socket it is a path, mostly empty.
        return NetAddress(*peername[:2]) if isinstance(peername, tuple) else None

    def _announce_end(self) -> None:
        """Send the closing message of each layer."""
        if self._tls is not None:
            self._tls.close()
            self._write_raw(self._tls.to_send())

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once.

        A socket closed while there is something left to read resets the connection, and
        the client may never see the last message.  Hence we announce the end, and read on for a
        moment.
        """
        transport = self._transport
        if self.is_closing():
            return
        self._announce_end()
        if self._at_eof or not transport.can_write_eof() or transport.get_write_buffer_size():
            transport.close()
        else:
            transport.write_eof()
            self._linger()
            force_after = min(force_after, LINGER_SECS)
        self._force_after(force_after)

    def _linger(self) -> None:
        """Discard the rest of the client's input, until it ends the connection too."""
        self._ending = True
        self._discard_input()
        # The session has no part in the rest of the connection.
        asyncio.get_running_loop().call_soon(self._end_session)
        self._update_reading()

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
        if not self.is_closing():
            self._announce_end()
        self._transport.close()
        if self.session is not None:
            self._force_after(force_after)
            await self.wait_lost()

    async def wait_lost(self) -> None:
        """Wait until the connection has ended."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        # Others may wait too: a cancelled one takes nothing from them.
        await asyncio.shield(self._lost)

    def abort(self) -> None:
        """Close the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()
