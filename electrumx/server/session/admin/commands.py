"""The administrator's commands to a running server, apart from the connection they come by.

Runs on the event loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from electrumx.lib.errors import OperatorError
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.maintenance.snapshot import back_up
from electrumx.server.maintenance.verify import Verdict, verify
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.server_state import ServerState
from electrumx.server.session.admin.tables import readiness, state_summary, summary
from electrumx.server.session.shared.state import SharedState

#: how long an audit pauses for each second of work: clients come first
VERIFY_REST = 1.0


class NotCaughtUpError(OperatorError):
    """A command needs a database that has caught up with the full node."""

    def __init__(self) -> None:
        super().__init__("still catching up with daemon")


class AdminCommands:
    """Commands that concern the server as a whole; errors are OperatorErrors."""

    def __init__(
        self,
        shared: SharedState,
        processor: BlockProcessor,
        shutdown_event: asyncio.Event,
        loop_lag: LoopLag,
        server_state: ServerState | None = None,
    ) -> None:
        """``stop`` sets the event; ``info`` shows the lag and the state."""
        self._shared = shared
        self._processor = processor
        self._shutdown_event = shutdown_event
        self._loop_lag = loop_lag
        self._server_state = server_state
        self._start_time = time.monotonic()
        self._reload: Callable[[], Awaitable[list[str]]] | None = None

    def set_reload(self, reload: Callable[[], Awaitable[list[str]]]) -> None:
        """Set the function that reads the settings again; it returns lines about that."""
        self._reload = reload

    async def reload(self) -> list[str]:
        """Read the settings file again; return lines about that.  Raise OperatorError."""
        if self._reload is None:
            raise OperatorError("the server is not ready to read its settings again")
        return await self._reload()

    def info(self) -> dict[str, Any]:
        """Return a summary of the server's state."""
        uptime = time.monotonic() - self._start_time
        found = summary(self._shared, loop_lag=self._loop_lag.summary(), uptime=uptime)
        progress = self._processor.bulk_sync.progress
        if progress is not None:
            found = {"bulk sync": progress.summary(), **found}
        if self._server_state is not None:
            found |= state_summary(self._server_state.status())
        return found

    def ready(self) -> dict[str, Any]:
        """Return whether the server is ready, and why not."""
        if self._server_state is None:
            raise OperatorError("the state of this server is not known")
        return readiness(self._server_state.status())

    def stop(self) -> None:
        """Have the server shut down cleanly."""
        self._shutdown_event.set()

    async def reorg(self, count: int) -> None:
        """Undo so many blocks and index them again; raise OperatorError if that cannot be."""
        try:
            scheduled = await self._processor.force_chain_reorg(count)
        except ValueError as e:
            raise OperatorError(str(e)) from None
        if not scheduled:
            raise NotCaughtUpError

    def require_caught_up(self) -> None:
        """Raise NotCaughtUpError unless the database has caught up with the full node."""
        if not self._processor.caught_up:
            raise NotCaughtUpError

    async def verify(self, *, deep: bool) -> Verdict:
        """Audit the database; ``deep`` reads all of it."""
        self.require_caught_up()
        db = self._shared.db
        return await verify(
            db,
            deep=deep,
            lock=self._processor.state_lock,
            daemon=self._shared.daemon,
            logger=db.logger,
            rest=VERIFY_REST,
        )

    async def back_up(self, path: str) -> str:
        """Write a snapshot of the database to a new absolute path; return a line about it."""
        done = await back_up(self._shared.db, self._processor.state_lock, path)
        return (
            f"height {done.height:,d} is in {done.path}: {done.files:,d} files, "
            f"{done.bytes:,d} bytes, in {done.secs:.1f}s, blocks held up for {done.pause_secs:.3f}s"
        )
