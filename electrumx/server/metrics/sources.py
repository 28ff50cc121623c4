"""The parts of the server from which metrics come.

Runs in: the event loop.
"""

from dataclasses import dataclass

from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.sync import MemPool
from electrumx.server.metrics.disk import DiskUse
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.server_state import ServerState, ServerStatus
from electrumx.server.session.engine.session_counts import SessionCounts
from electrumx.server.session.manager import SessionManager


@dataclass(slots=True)
class Sources:
    """The parts of the server."""

    #: of the start; settings that a reload can change come from the session manager
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

    def read(self) -> "Reading":
        """Return the state as of now."""
        return Reading(self, self.state.status())


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment."""

    parts: Sources
    status: ServerStatus

    @property
    def sessions(self) -> SessionCounts:
        """The connected sessions, and their traffic."""
        return self.parts.manager.shared.table.counts

    def subscriptions(self) -> dict[str, int]:
        """Return the number of subscriptions by kind, those to masternodes among those to scripts."""
        shared, counts = self.parts.manager.shared, self.sessions
        return {
            "headers": counts.headers,
            "script": shared.fan_out.scripts.subscription_count + counts.masternodes,
            "outpoint": shared.outpoints.subscription_count,
        }
