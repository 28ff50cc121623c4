"""The connected sessions, by group, and how they end.

Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol, TypeVar

from aiorpcx import NetAddress

from electrumx.server.session.engine import session_groups
from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.session_counts import SessionCounts
from electrumx.server.session.engine.session_limits import SessionLimits
from electrumx.server.session.notify.noise import NoiseReceiver

# After so many seconds, abort a connection that does not close by itself.
FORCE_AFTER_SECS = 1.0


class TableSession(NoiseReceiver, Protocol):
    """A session as the session table, the admin tables and housekeeping use it."""

    log_me: bool
    txs_sent: int
    last_recv: float  # monotonic clock, seconds

    @property
    def limited(self) -> bool:
        """Whether the session is throttled."""

    @property
    def start_time(self) -> float:
        """When the session began, in seconds of the monotonic clock."""

    @property
    def cost(self) -> float:
        """The session's own cost, without that of its groups."""

    @property
    def errors(self) -> int:
        """How many errors it got."""

    @property
    def recv_count(self) -> int:
        """Messages received."""

    @property
    def recv_size(self) -> int:
        """Bytes received."""

    @property
    def send_count(self) -> int:
        """Messages sent."""

    @property
    def send_size(self) -> int:
        """Bytes sent."""

    def remote_address(self) -> NetAddress | None:
        """Return the address of the client; None if unknown."""

    def origin(self) -> Origin:
        """Return the address of the client, and who vouches for it."""

    def proxy_string(self) -> str | None:
        """Return the address of the proxy that named the client, None without one."""

    def remote_address_string(self, *, for_log: bool = True) -> str:
        """Return that address as text, masked in logs if the operator wants that."""

    @property
    def kind(self) -> str:
        """The protocol of the service that it came through."""

    @property
    def protocol_tuple(self) -> tuple[int, ...]:
        """The negotiated protocol."""

    @property
    def end_reason(self) -> str:
        """Why it ends: a label of ``SessionCounts.closed``."""

    @property
    def throttled(self) -> bool:
        """Whether its requests sleep because of its cost."""

    def note_end(self, reason: str) -> None:
        """Note why the server ends the session; the first reason counts."""

    def flags(self) -> str:
        """Return the status column of the sessions table."""

    def client_text(self) -> str:
        """Return the client's name, short enough for a table."""

    def protocol_version_string(self) -> str:
        """Return the negotiated protocol."""

    def extra_cost(self) -> float:
        """Return the cost that other sessions of the same groups add."""

    def outpoint_count(self) -> int:
        """Return the number of subscriptions to outpoints, which are among them."""

    def request_counts(self) -> dict[str, int]:
        """Return the number of processed requests, by method."""

    def unanswered_request_count(self) -> int:
        """Return the number of requests in progress."""

    def set_limits(self, limits: SessionLimits) -> None:
        """Change the limits of the session."""

    def set_request_handlers(self, ptuple: tuple[int, ...]) -> None:
        """Serve the requests of a protocol version from now on."""

    def set_cost_decay(self, per_sec: float) -> None:
        """Set how fast the cost decays."""

    def recalc_concurrency(self) -> None:
        """Decay the cost, and set how many requests may run at once."""


S = TypeVar("S", bound=TableSession)


def by_id(sessions: Iterable[S]) -> list[S]:
    """Return sessions in the order of their ids."""
    return sorted(sessions, key=lambda session: session.session_id)


class SessionTable:
    """The sessions, and the groups that share their costs."""

    def __init__(
        self,
        groups: session_groups.SessionGroups,
        logger: logging.Logger,
        *,
        is_advertised: bool,
    ) -> None:
        """``is_advertised``: whether the server reports services, so that a proxy may be local."""
        self.groups = groups
        self.sessions: set[TableSession] = set()
        self.counts = SessionCounts()
        #: whether new sessions log their requests
        self.log_new = False
        self._logger = logger
        self._is_advertised = is_advertised

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self.sessions)

    def add(self, session: TableSession) -> None:
        """Add a new session to the table and to its groups."""
        self.sessions.add(session)
        self.counts.began(session.kind, session.protocol_tuple)
        origin = session.origin()
        # An administrator at a Unix socket has no address, and shares no group with the unknown.
        if origin.host is not None or session.limited:
            self.groups.join(session, origin)

    def remove(self, session: TableSession) -> None:
        """Remove a session; its groups retain its cost."""
        if session in self.sessions:
            self.sessions.discard(session)
            self.counts.ended(session.kind, session.protocol_tuple, session.end_reason)
            if session.throttled:
                self.counts.throttled -= 1
        self.groups.leave(session)

    def negotiated(self, session: TableSession, version: tuple[int, ...]) -> None:
        """Note that a session will speak another version of the protocol."""
        if session in self.sessions:
            self.counts.negotiated(session.kind, session.protocol_tuple, version)

    def renew_handlers(self) -> None:
        """Have each session serve all requests of its protocol version from now on."""
        for session in self.sessions:
            if session.limited:
                session.set_request_handlers(session.protocol_tuple)

    def leniency(self, client: session_groups.Client) -> float:
        """Return the divisor of the costs of a client."""
        return session_groups.leniency(client, is_advertised=self._is_advertised)

    async def disconnect(
        self,
        sessions: Iterable[TableSession],
        reason: str,
        *,
        also_named: Iterable[TableSession] = (),
        end_reason: str = "operator",
    ) -> None:
        """Close sessions, by force after a second; the log also names some closed elsewhere."""
        sessions = list(sessions)
        for session in sessions:
            session.note_end(end_reason)
        named = by_id([*sessions, *also_named])
        if named:
            ids = ", ".join(str(session.session_id) for session in named)
            self._logger.info(f"{reason} session ids {ids}")
        if sessions:
            closing = (session.close(force_after=FORCE_AFTER_SECS) for session in sessions)
            for result in await asyncio.gather(*closing, return_exceptions=True):
                if isinstance(result, Exception):
                    self._logger.warning(f"closing a session: {result!r}")
