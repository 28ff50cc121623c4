"""WebSocket connections, by the Sans-I/O part of the ``websockets`` library.

The library takes bytes and gives frames; this module decides when, and does the writing.  A
frame costs some ten microseconds however short it is, so this module processes input ``SLICE_BYTES`` at
a time (a frame from a client has at least six), and charges every frame that is not a message.

Most frames are whole text messages that arrive whole.  ``take_messages`` takes these before the
library sees them, while that is between two frames and no fragmented message is under way: for two
fifths of that if a message comes alone, for an eighth if twenty come together, as
``benchmarks/messages.py`` measures.  The library remains the reference implementation, which a test compares.

The server never agrees to compression: that would take tens of milliseconds for a large reply, on the event
loop, and a message of a few bytes could become one of the greatest size.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from electrumx.server.session.engine.prices import FRAME_COST, MESSAGE_COST
from electrumx.server.session.transport.frame_cutter import FrameCutter
from electrumx.server.session.transport.ticket import Ticket
from electrumx.server.session.transport.transport import (
    JOINED_BYTES,
    LINGER_SECS,
    NOTED_BYTES,
    ConnectionContext,
    StreamConnection,
)

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

# Given to the library at a time, and for how long a step goes on with that.
SLICE_BYTES = 1_024
STEP_SECS = 0.000_5
# The HTTP request: browsers send cookies too.
MAX_UPGRADE_BYTES = 65_536
# A client silent for a whole period gets a ping, which also keeps proxies from ending
# the connection; one that does not answer for another period is gone.
PING_SECS = 20.0
SILENT_PERIODS = 1

# Of a plain frame: its first byte, and the rest of its header (RFC 6455, section 5.2).
PLAIN_TEXT = 0x81
MASKED = 0x80
LENGTH_IN_TWO_BYTES = 126
MIN_FRAME_BYTES = 6

NORMAL_CLOSURE = 1_000
INVALID_DATA = 1_007

# The library logs protocol errors of clients.
_quiet_logger = logging.getLogger("electrumx.websockets")
_quiet_logger.setLevel(logging.CRITICAL)


def _first_offered(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return the subprotocol to use: some clients fail unless it is one of theirs."""
    return offered[0] if offered else None


def frame_header(size: int) -> bytes:
    """Return the header of a text message of so many bytes; servers do not mask."""
    if size < 126:
        return bytes((0x81, size))
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def take_messages(data: bytes, start: int, max_bytes: int, most: int) -> tuple[list[bytes], int]:
    """Return the messages of plain text frames that bytes have from ``start`` on, and the end of them.

    Plain frames are whole, final, masked, without extension, in the shortest form, and of at most
    65,535 bytes and ``max_bytes`` (0 is no bound).  Ends at the first other frame, and when it has taken
    ``most`` bytes.
    """
    messages = []
    position, size = start, len(data)
    stop = min(start + most, size - MIN_FRAME_BYTES + 1)
    while position < stop and data[position] == PLAIN_TEXT:
        length = data[position + 1] - MASKED
        mask_at = position + 2
        if length == LENGTH_IN_TWO_BYTES:
            length = data[mask_at] << 8 | data[mask_at + 1]
            mask_at += 2
            if length < LENGTH_IN_TWO_BYTES:
                break
        elif not 0 <= length < LENGTH_IN_TWO_BYTES:
            break
        content_at = mask_at + 4
        end = content_at + length
        if end > size or length > max_bytes > 0:
            break
        messages.append(apply_mask(data[content_at:end], data[mask_at:content_at]))
        position = end
    return messages, position


class WebSocketTransport(StreamConnection):
    """A connection whose messages are WebSocket messages, over TCP or TLS."""

    __slots__ = ("_cutter", "_fragments", "_is_stepping", "_is_text", "_ping_timer", "_plain", "_plain_at",
                 "_protocol", "_silent_periods", "_upgrade_bytes")  # fmt: skip

    has_lines = False

    def __init__(self, context: ConnectionContext, ticket: Ticket | None = None) -> None:
        super().__init__(context, ticket)
        self._protocol: ServerProtocol | None = None
        # Follows the bytes given to the library
        self._cutter = FrameCutter()
        # Bytes not yet given to the library, from a position on
        self._plain = b""
        self._plain_at = 0
        # Whether the caller processes the decrypted bytes
        self._is_stepping = False
        self._upgrade_bytes = 0
        # Whether the message last begun is text, which must be UTF-8
        self._is_text = True
        # The fragmented message under way
        self._fragments: bytearray | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        # How often the timer fired since the client sent anything
        self._silent_periods = 0

    # -- input

    def _open(self) -> None:
        """Wait for the HTTP request."""
        origins = self._context.origins
        self._protocol = ServerProtocol(
            # Programs that are no browsers send no origin.
            origins=None if origins is None else [None, *map(Origin, origins)],
            select_subprotocol=_first_offered,
            max_size=self._context.max_recv or None,
            logger=_quiet_logger,
        )

    def has_input(self) -> bool:
        """Return whether there is unprocessed input."""
        return self._plain_at < len(self._plain) or super().has_input()

    def input_size(self) -> int:
        """Return how many bytes of unprocessed input there are."""
        return len(self._plain) - self._plain_at + super().input_size()

    def _received(self, data: bytes) -> None:
        self._silent_periods = 0
        self._plain = self._plain[self._plain_at :] + data if self._plain else data
        self._plain_at = 0
        if self.is_queued:
            self._update_reading()
        elif not self._is_stepping:
            self._step()
            self._after_step()

    def _step(self) -> None:
        """Decrypt, if nothing decrypted is left, and give it to the library for a while."""
        if self._plain_at >= len(self._plain):
            self._is_stepping = True
            try:
                super()._step()
            finally:
                self._is_stepping = False
        protocol = self._protocol
        if protocol is None:
            return
        deadline = perf_counter() + STEP_SECS
        other_frames = 0
        while len(self._plain) > self._plain_at and not self._is_stopped():
            if not self.take_plain(protocol):
                other_frames += self._take_slice(protocol)
            if protocol.writes:
                self._write_replies(protocol)
            if perf_counter() > deadline:
                break
        if self._plain_at >= len(self._plain):
            self._plain, self._plain_at = b"", 0
        if other_frames and self.session is not None:
            self.session.bump_cost(other_frames * FRAME_COST)
            self._end_if_over_limit()
        if self._upgrade_bytes > MAX_UPGRADE_BYTES:
            self._transport.abort()
        if self._incomplete_bytes() > NOTED_BYTES or self._is_noted:
            self.note_unanswered()

    def _take_slice(self, protocol: ServerProtocol) -> int:
        """Give the library a slice; return how many frames were no whole message."""
        start, size = self._plain_at, len(self._plain)
        self._plain_at = end = min(start + SLICE_BYTES, size)
        whole = start == 0 and end == size
        data = self._plain if whole else self._plain[start:end]
        self._cutter.feed(data)
        protocol.receive_data(data)
        if self.session is None:
            self._upgrade_bytes += end - start
        return self._on_events(protocol)

    def take_plain(self, protocol: ServerProtocol) -> bool:
        """Take messages that are plain frames; return whether there were some."""
        session = self.session
        if session is None or self._fragments is not None:
            return False
        if not self._cutter.is_between_frames():
            return False
        if protocol.state is not State.OPEN:
            return False
        messages, self._plain_at = take_messages(
            self._plain, self._plain_at, self._context.max_recv, SLICE_BYTES
        )
        if not messages:
            return False
        if not all(map(bytes.isascii, messages)):
            messages = self._valid_messages(protocol, messages)
        if messages:
            session.receiver.receive(messages)
        return True

    def _valid_messages(self, protocol: ServerProtocol, messages: list[bytes]) -> list[bytes]:
        """Return the messages before the first that is not UTF-8, which ends the connection."""
        for number, message in enumerate(messages):
            if not message.isascii() and not self._is_utf8(protocol, message):
                return messages[:number]
        return messages

    def _incomplete_bytes(self) -> int:
        """Return the size of the fragments received, and of the frame that is not complete."""
        protocol = self._protocol
        begun = 0 if protocol is None else len(protocol.reader.buffer)
        return begun + (0 if self._fragments is None else len(self._fragments))

    def _on_events(self, protocol: ServerProtocol) -> int:
        """Handle the received events; return how many frames were no whole message."""
        messages: list[bytes] = []
        others = 0
        for event in protocol.events_received():
            if isinstance(event, Request):
                self._upgrade(protocol, event)
            elif isinstance(event, Frame):
                message = self._message(event)
                if message is None:
                    others += 1
                elif not self._is_text or message.isascii() or self._is_utf8(protocol, message):
                    messages.append(message)
        if messages and self.session is not None:
            self.session.bump_cost(len(messages) * MESSAGE_COST)
            self.session.receiver.receive(messages)
        return others

    def _upgrade(self, protocol: ServerProtocol, request: Request) -> None:
        if protocol.eof_sent:
            # Invalid frames came with the request, and the library has given the connection up.
            self._transport.abort()
            return
        protocol.send_response(protocol.accept(request))
        if protocol.state is not State.OPEN:
            return
        # A session may send from the start
        self._write_replies(protocol)
        self._start_session()
        self._start_ping_timer()

    def _message(self, frame: Frame) -> bytes | None:
        """Return the message that a frame ends, None if it ends no message."""
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._is_text = opcode is Opcode.TEXT
            if frame.fin:
                return bytes(frame.data)
            self._fragments = bytearray(frame.data)
        elif opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                message, self._fragments = bytes(self._fragments), None
                return message
        return None

    def _is_utf8(self, protocol: ServerProtocol, message: bytes) -> bool:
        try:
            message.decode()
        except UnicodeDecodeError:
            if protocol.state is State.OPEN:
                protocol.fail(INVALID_DATA, "not UTF-8")
            return False
        return True

    # -- output

    def _write_replies(self, protocol: ServerProtocol) -> None:
        """Send the data that the library has queued, which may close the connection."""
        data = protocol.data_to_send()
        # An empty piece stands for the end of the data.
        if replies := b"".join(data):
            self._write(replies)
        if b"" in data:
            self.end(LINGER_SECS)

    def send(self, messages: list[bytes]) -> None:
        """Send messages as text; keep those that the client does not read at once."""
        protocol = self._protocol
        if protocol is None or protocol.state is not State.OPEN or self.is_closing():
            return
        parts: list[bytes] = []
        for message in messages:
            parts.append(frame_header(len(message)))
            if len(message) > JOINED_BYTES:
                self._write(b"".join(parts))
                self._write(message)
                parts = []
            else:
                parts.append(message)
        if parts:
            self._write(b"".join(parts))

    def _announce_end(self) -> None:
        protocol = self._protocol
        if protocol is not None and protocol.state is State.OPEN:
            protocol.send_close(NORMAL_CLOSURE)
            self._write(b"".join(protocol.data_to_send()))
        super()._announce_end()

    def _on_ping_timer(self) -> None:
        """Ping a client that was silent for a period, and drop it after another."""
        protocol = self._protocol
        if protocol is None or protocol.state is not State.OPEN or self.is_closing():
            return
        if not self._paused:
            self._silent_periods += 1
            if self._silent_periods > SILENT_PERIODS + 1:
                self.abort()
                return
            if self._silent_periods > SILENT_PERIODS:
                protocol.send_ping(b"")
                self._write(b"".join(protocol.data_to_send()))
        self._start_ping_timer()

    def _start_ping_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._ping_timer = loop.call_later(PING_SECS, self._on_ping_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the session."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        super().connection_lost(exc)
        self._protocol = None

    def _discard_input(self) -> None:
        super()._discard_input()
        self._plain, self._plain_at, self._fragments = b"", 0, None
