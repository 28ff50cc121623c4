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
    """The sessions that are connected."""

    #: (service, protocol) -> sessions
    by_protocol: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: subscriptions by kind
    subscriptions: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    recv_size: int = 0
    send_size: int = 0

    def add(self, session: TableSession) -> None:
        """Count a session."""
        self.by_protocol[session.kind, protocol_label(session)] += 1
        outpoints = session.outpoint_count()
        counts = self.subscriptions
        counts["headers"] += session.header_count()
        counts["script"] += session.sub_count() - outpoints
        counts["outpoint"] += outpoints
        self.throttled += session.throttled
        self.recv_size += session.recv_size
        self.send_size += session.send_size


def protocol_label(session: TableSession) -> str:
    """Return the negotiated version of the protocol, of a bounded number of values."""
    version = session.protocol_tuple
    if session.kind == "rpc":
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
