"""Periodic work on all sessions: close silent ones, decay costs, log the table.

Runs on the event loop.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Protocol

from electrumx.lib.tasks import run_together, wait_for_event
from electrumx.lib.text import sessions_lines
from electrumx.server.session.admin.tables import session_rows
from electrumx.server.session.engine import session_groups
from electrumx.server.session.engine.session_limits import decay_per_sec
from electrumx.server.session.shared.state import SharedState

STALE_CHECK_SECS = 60.0


class ReorgSource(Protocol):
    """The block processor, as housekeeping uses it."""

    #: pulsed when blocks were undone
    backed_up_event: asyncio.Event


class Housekeeping:
    """The periodic tasks over the session table, and the end of cached blocks in a reorg."""

    def __init__(
        self,
        shared: SharedState,
        processor: ReorgSource,
        info: Callable[[], dict[str, object]],
        logger: logging.Logger,
    ) -> None:
        """``info()`` returns the summary to log with the session table."""
        self._shared = shared
        self._processor = processor
        self._info = info
        self._logger = logger
        self._settings_changed = asyncio.Event()

    def settings_changed(self) -> None:
        """Take note of new settings of the shared state."""
        self._settings_changed.set()
        self._settings_changed.clear()

    async def run(self) -> None:
        """Run all tasks until cancelled, or until one fails."""
        await run_together(
            self._close_stale_sessions(),
            self._clear_caches_on_reorg(),
            self._recalc_costs(),
            self._log_sessions(),
        )

    async def _close_stale_sessions(self) -> None:
        while True:
            await asyncio.sleep(STALE_CHECK_SECS)
            await self.close_stale_sessions()
            self._shared.log_limit.flush()

    async def close_stale_sessions(self) -> None:
        """Close the sessions that have been silent too long."""
        table = self._shared.table
        now = time.monotonic()
        cutoff = now - self._shared.env.session_timeout
        for session in table.sessions:
            if not session.limited and session.unanswered_request_count():
                # The operator waits: an audit or a snapshot may take hours.
                session.last_recv = now
        stale = [session for session in table.sessions if session.last_recv < cutoff]
        await table.disconnect(stale, "closing stale", end_reason="timeout")

    async def _clear_caches_on_reorg(self) -> None:
        """Forget undone blocks, whenever the processor undoes some."""
        event = self._processor.backed_up_event
        while True:
            await event.wait()
            self._logger.info("reorg signalled; clearing tx_hashes and merkle caches")
            self._shared.tip.reorg_count += 1
            self._shared.blocks.clear()
            # Lets the pulse end
            await asyncio.sleep(0)

    async def _recalc_costs(self) -> None:
        while True:
            await asyncio.sleep(session_groups.RECALC_SECS)
            self.recalc_costs(session_groups.RECALC_SECS)

    def recalc_costs(self, elapsed_secs: float) -> None:
        """Decay the groups' costs by so much time, and update how fast sessions' costs decay."""
        hard_limit = self._shared.env.cost_hard_limit
        table = self._shared.table
        table.groups.forget(elapsed_secs, hard_limit)
        for session in list(table.sessions):
            if session.limited:
                session.set_cost_decay(decay_per_sec(hard_limit, session.sub_count()))
                session.recalc_concurrency()

    async def _log_sessions(self) -> None:
        while True:
            interval = self._shared.env.log_sessions
            if not interval:
                await self._settings_changed.wait()
            elif not await wait_for_event(self._settings_changed, interval):
                self.log_sessions()

    def log_sessions(self) -> None:
        """Write the sessions table and the summary to the log."""
        for line in sessions_lines(session_rows(self._shared.table, for_log=True)):
            self._logger.info(line)
        self._logger.info(json.dumps(self._info()))
