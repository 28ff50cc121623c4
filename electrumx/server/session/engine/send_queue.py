"""What a session has to say: counted, charged, and kept until the client takes it.

Replies made together are written together.  On the event loop; nobody waits.
"""

import asyncio
from typing import Any

from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.jsonrpc import AUTO, Version

# How long a client has to take what was sent before its connection was closed.
CLOSE_SECS = 30.0


class Outbox(CostAccount):
    """The sending half of a session, and its end.

    While the client does not take what was sent before, messages stay here; after
    ``max_send_delay`` seconds of that the connection is dropped.
    """

    __slots__ = (
        "_closing",
        "_out",
        "_out_size",
        "_stuck_timer",
        "rpc_version",
        "send_count",
        "send_size",
        "transport",
    )

    # A client that has not taken its replies for so many seconds is cut off.
    max_send_delay = 20.0

    def __init__(self, transport: Any) -> None:
        super().__init__()
        self.transport = transport
        self.send_count = self.send_size = 0
        #: how the client's messages are read, and ours written
        self.rpc_version: Version = AUTO
        self._closing = False
        # Messages that were not given to the transport yet
        self._out: list[bytes] = []
        self._out_size = 0
        self._stuck_timer: asyncio.TimerHandle | None = None

    def post(self, message: bytes) -> None:
        """Charge for a message and put it behind those that are to be sent: see ``flush``."""
        size = len(message)
        self._out.append(message)
        self._out_size += size
        self.send_count += 1
        self.send_size += size
        self.bump_cost(size * self.bw_cost_per_byte)

    def post_lines(self, lines: bytes, count: int) -> None:
        """Do as ``post`` with several messages, joined by newlines; not if the connection ends."""
        if self._closing:
            return
        size = len(lines) - count + 1
        if self.transport.has_lines:
            self._out.append(lines)
        else:
            self._out += lines.split(b"\n")
        self._out_size += size
        self.send_count += count
        self.send_size += size
        self.bump_cost(size * self.bw_cost_per_byte)

    def flush(self) -> None:
        """Give the transport what was posted, if the client takes it."""
        if not self._out:
            return
        if self.transport.is_writable:
            out, self._out, self._out_size = self._out, [], 0
            self.transport.send(out)
        else:
            self.transport.note_queued(self._out_size)
            self._watch_writing()

    def _watch_writing(self) -> None:
        """Cut the client off unless it soon takes what there is to say."""
        if self._stuck_timer is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._stuck_timer = loop.call_later(self.max_send_delay, self._on_stuck)

    def _on_stuck(self) -> None:
        text = "connection aborted: the client does not read its replies"
        self.log_limited("connection aborted", text)
        self.abort()

    def post_notification(self, method: str, args: Any) -> None:
        """Put a notification behind what is to be sent: see ``flush``."""
        if not self._closing:
            self.post(self.rpc_version.notification(method, args))

    def send_message(self, message: bytes) -> None:
        """Send an encoded message, without waiting for anybody."""
        if not self._closing:
            self.post(message)
            self.flush()

    async def send_notification(self, method: str, args: Any = ()) -> None:
        """Send a notification; for those who await it."""
        self.post_notification(method, args)
        self.flush()

    # -- the end

    def is_closing(self) -> bool:
        """Say if the connection has ended or is about to."""
        return self._closing or self.transport.is_closing()

    def _last_flush(self) -> None:
        """Give the transport all that is to be said, whether the client reads or not."""
        self._closing = True
        out, self._out = self._out, []
        if out:
            self.transport.send(out)

    def end(self, force_after: float) -> None:
        """Close once all is sent, or after so many seconds; return at once."""
        self._last_flush()
        self.transport.end(force_after)

    async def close(self, *, force_after: float = CLOSE_SECS) -> None:
        """Close the connection and return when closed, at the latest after so many seconds."""
        self._last_flush()
        await self.transport.close(force_after)

    def abort(self) -> None:
        """Drop the connection without ceremony."""
        self._closing = True
        self.transport.abort()

    def on_lost(self) -> None:
        """End: the connection has."""
        self._closing = True
        self._out = []
        self._watch_no_more()

    def _watch_no_more(self) -> None:
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None
