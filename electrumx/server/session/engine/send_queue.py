"""Messages to one client: counted, charged, and queued while the client does not read.

One write sends the messages made in one iteration of the event loop.  Runs on the event loop;
nothing waits.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aiorpcx import NetAddress

from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.jsonrpc import AUTO, Version
from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.owner import ENDED, LimitedLog
from electrumx.server.session.engine.session_counts import SessionCounts

# How long a client may take to read the rest while its connection closes.
CLOSE_SECS = 30.0
# The queue disconnects a client that has not read its replies for so many seconds.
MAX_SEND_DELAY = 20.0


class MessageTransport(Protocol):
    """A connection that carries whole messages."""

    #: whether the client reads its messages; false for a slow reader
    is_writable: bool
    #: whether reading is paused
    is_held: bool
    #: whether messages are lines, so that several can be one string
    has_lines: bool

    def send(self, messages: list[bytes]) -> None:
        """Send messages; keep those that the client does not read at once."""

    def hold(self, *, held: bool) -> None:
        """Pause or resume reading."""

    def note_queued(self, size: int) -> None:
        """Note how many bytes the session keeps because the client does not read."""

    def note_unanswered(self) -> None:
        """Note that the session holds more or less of requests than before."""

    @property
    def had_tls(self) -> bool:
        """Whether a proxy reports that the client connected to it over TLS."""

    def origin(self) -> Origin:
        """Return the client's address, and who vouches for it."""

    def remote_address(self) -> NetAddress | None:
        """Return the client's address; None if unknown."""

    def proxy_address(self) -> NetAddress | None:
        """Return the address of the proxy that named the client, None without one."""

    def is_closing(self) -> bool:
        """Return whether the connection has ended or is closing."""

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once."""

    async def close(self, force_after: float) -> None:
        """Close; return when closed, at the latest after so many seconds."""

    def abort(self) -> None:
        """Close at once."""


class SendQueue:
    """The messages to one client, and the end of its connection.

    While the client does not read, messages stay here; after ``MAX_SEND_DELAY`` seconds of that the
    queue aborts the connection.
    """

    __slots__ = (
        "_account",
        "_log",
        "_messages",
        "_stuck_timer",
        "counts",
        "ended",
        "rpc_version",
        "send_count",
        "send_size",
        "size",
        "transport",
    )

    def __init__(
        self,
        transport: MessageTransport,
        account: CostAccount,
        log: LimitedLog,
        counts: SessionCounts,
    ) -> None:
        self.transport = transport
        self._account = account
        self._log = log
        #: of all sessions
        self.counts = counts
        #: messages sent, and their bytes
        self.send_count = self.send_size = 0
        #: how to read the client's messages, and to write ours
        self.rpc_version: Version = AUTO
        #: whether sending has ended
        self.ended = False
        # Messages that the transport does not have yet, None without any
        self._messages: list[bytes] | None = None
        #: bytes of those
        self.size = 0
        self._stuck_timer: asyncio.TimerHandle | None = None

    def post(self, message: bytes) -> None:
        """Charge for a message and queue it: see ``flush``."""
        size = len(message)
        if self._messages is None:
            self._messages = [message]
        else:
            self._messages.append(message)
        self.size += size
        self.send_count += 1
        self.send_size += size
        account = self._account
        account.bump_cost(size * account.bw_cost_per_byte)

    def post_lines(self, lines: bytes, count: int) -> None:
        """Queue ``count`` messages joined by newlines, unless the connection ends."""
        if self.ended:
            return
        size = len(lines) - count + 1
        messages = [lines] if self.transport.has_lines else lines.split(b"\n")
        if self._messages is None:
            self._messages = messages
        else:
            self._messages += messages
        self.size += size
        self.send_count += count
        self.send_size += size
        account = self._account
        account.bump_cost(size * account.bw_cost_per_byte)

    def post_notification(self, method: str, args: Sequence[object]) -> None:
        """Queue a notification, unless the connection ends."""
        if not self.ended:
            self.post(self.rpc_version.notification(method, args))

    def send_message(self, message: bytes) -> None:
        """Send an encoded message, unless the connection ends."""
        if not self.ended:
            self.post(message)
            self.flush()

    def has_messages(self) -> bool:
        """Return whether there are queued messages."""
        return bool(self._messages)

    def flush(self) -> None:
        """Give the transport the queued messages, if the client reads."""
        if not self._messages:
            return
        if self.transport.is_writable:
            # Counted for many messages together
            self.counts.sent += self.size
            messages, self._messages, self.size = self._messages, None, 0
            self.transport.send(messages)
        else:
            self.transport.note_queued(self.size)
            self.watch_reader()

    def watch_reader(self) -> None:
        """Abort the connection unless the client soon reads."""
        if self._stuck_timer is None and not self.ended:
            loop = asyncio.get_running_loop()
            self._stuck_timer = loop.call_later(MAX_SEND_DELAY, self._on_stuck)

    def unwatch_reader(self) -> None:
        """Note that the client reads again, or is gone."""
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    def _on_stuck(self) -> None:
        text = "connection aborted: the client does not read its replies"
        self._log.log_limited("connection aborted", text)
        self._log.note_end("slow")
        self.abort()

    # -- the end

    def is_closing(self) -> bool:
        """Return whether the connection has ended or is closing."""
        return self.ended or self.transport.is_closing()

    def _last_flush(self) -> None:
        """Give the transport all queued messages, whether the client reads or not."""
        self.ended = True
        messages, self._messages = self._messages, None
        if messages:
            self.counts.sent += self.size
            self.size = 0
            self.transport.send(messages)

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once."""
        self._last_flush()
        self.transport.end(force_after)

    async def close(self, *, force_after: float = CLOSE_SECS) -> None:
        """Close the connection; return when it is closed, at the latest after so many seconds."""
        self._last_flush()
        await self.transport.close(force_after)

    def abort(self) -> None:
        """Drop the connection and the queued messages."""
        self.ended = True
        self.transport.abort()

    def on_lost(self) -> None:
        """End: the connection has."""
        self.ended = True
        self._messages = None
        self.unwatch_reader()
        self._log = ENDED
