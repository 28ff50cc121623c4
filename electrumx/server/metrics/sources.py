"""The parts of the server that metrics are read from, and a summary of its sessions.

Runs in: the event loop.
"""

from collections import Counter
from dataclasses import dataclass, field

from electrumx.lib.tasks import for_each
from electrumx.lib.util import version_string
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.sync import MemPool
from electrumx.server.metrics.disk import DiskUse
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.server_state import ServerState, ServerStatus
from electrumx.server.session.manager import SessionManager
from electrumx.server.session.shared.session_table import TableSession

# Of a negotiated version so many numbers are a label: clients can name any number after them.
VERSION_NUMBERS = 2


@dataclass(slots=True)
class SessionSummary:
    """The sessions that are connected.

    With thousands of them, adding them up takes the most of a scrape on the event loop: a microsecond each.
    """

    #: sessions by service and negotiated protocol
    _by_version: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    #: subscriptions by kind
    headers: int = 0
    scripts: int = 0
    outpoints: int = 0
    throttled: int = 0
    recv_size: int = 0
    send_size: int = 0

    def add(self, session: TableSession) -> None:
        """Count a session."""
        version, versions = (session.kind, session.protocol_tuple), self._by_version
        versions[version] = versions.get(version, 0) + 1
        headers, scripts, outpoints = session.subscription_counts()
        self.headers += headers
        self.scripts += scripts
        self.outpoints += outpoints
        self.throttled += session.throttled
        self.recv_size += session.recv_size
        self.send_size += session.send_size

    def by_protocol(self) -> Counter[tuple[str, str]]:
        """Return the number of sessions by (service, label of the protocol)."""
        counts: Counter[tuple[str, str]] = Counter()
        for (kind, version), count in self._by_version.items():
            counts[kind, protocol_label(kind, version)] += count
        return counts

    def subscriptions(self) -> dict[str, int]:
        """Return the number of subscriptions by kind."""
        return {"headers": self.headers, "script": self.scripts, "outpoint": self.outpoints}


def protocol_label(kind: str, version: tuple[int, ...]) -> str:
    """Return the negotiated version of the protocol, of a bounded number of values."""
    if kind == "rpc":
        return "rpc"
    return version_string(version if version in KNOWN_LABELS else version[:VERSION_NUMBERS])


KNOWN_LABELS = {(1, 4, 1), (1, 4, 2), (1, 4, 3)}


@dataclass(slots=True)
class Sources:
    """The parts of the server."""

    #: of the start; settings that a reload can change are read from the session manager
    env: Env
    db: DB
    processor: BlockProcessor
    daemon: Daemon
    mempool: MemPool
    manager: SessionManager
    state: ServerState
    loop_lag: LoopLag
    disk: DiskUse
    #: seconds since the epoch
    certificate_expiry: float | None = None

    async def read(self) -> "Reading":
        """Return the state and the sessions as of now, read in time slices."""
        sessions = SessionSummary()
        await for_each(self.manager.sessions, sessions.add)
        return Reading(self, self.state.status(), sessions)


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment."""

    parts: Sources
    status: ServerStatus
    sessions: SessionSummary
