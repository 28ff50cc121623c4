"""Connections whose messages are lines.  Runs on the event loop."""

from electrumx.server.session.transport.framing import LineFramer
from electrumx.server.session.transport.padding import padded, padded_size
from electrumx.server.session.transport.ticket import Ticket
from electrumx.server.session.transport.transport import (
    JOINED_BYTES,
    NOTED_BYTES,
    ConnectionContext,
    StreamConnection,
)


class RawTransport(StreamConnection):
    """A connection whose messages are lines, over TCP or TLS."""

    __slots__ = ("_framer",)

    has_lines = True

    def __init__(self, context: ConnectionContext, ticket: Ticket | None = None) -> None:
        super().__init__(context, ticket)
        self._framer = LineFramer(context.max_recv)

    def _received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            return
        framer = self._framer
        lines = framer.split(data)
        if framer.dropped:
            session.dropped_messages(framer.dropped)
            framer.dropped = 0
        if lines:
            session.receiver.receive(lines)
            return
        if framer.is_dropping:
            self._end_if_over_limit()
        if framer.size > NOTED_BYTES or self._is_noted:
            self.note_unanswered()

    def _incomplete_bytes(self) -> int:
        return 0 if self._framer.is_dropping else self._framer.size

    def send(self, messages: list[bytes]) -> None:
        """Send messages; keep those that the client does not read at once."""
        transport = self._transport
        if transport.is_closing() or self._ending:
            return
        if len(messages) == 1 and len(messages[0]) > JOINED_BYTES:
            self._send_large(messages[0])
        else:
            messages.append(b"")
            data = b"\n".join(messages)
            if self._context.is_padded:
                data = padded(data)
            if self._tls is None:
                transport.write(data)
            elif len(data) <= JOINED_BYTES:
                transport.write(self._tls.encrypt_piece(data))
            else:
                self._write(data)

    def _send_large(self, message: bytes) -> None:
        """Send one message without a copy of all of it."""
        if self._context.is_padded:
            self._write(message[:-JOINED_BYTES])
            size = len(message) + 1
            tail = message[-JOINED_BYTES:] + b"\n"
            self._write(padded(tail, padded_size(size) - size))
        else:
            self._write(message)
            self._write(b"\n")
