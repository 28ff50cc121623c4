"""The session table: who is connected, when to listen, whom to tell of what.

Owned by the task that runs ``serve``; everything here is on the event loop.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from electrumx.lib import util
from electrumx.lib.tasks import run_together
from electrumx.lib.text import sessions_lines
from electrumx.server.db.wire_rows import Addition
from electrumx.server.notifications import Confirmed, ReportedTip
from electrumx.server.peers import PeerManager
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.session.admin import tables
from electrumx.server.session.admin.local_rpc import LocalRPC
from electrumx.server.session.engine import limits
from electrumx.server.session.shared.state import SharedState
from electrumx.server.session.shared.tip_consistency import ChainTip
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.listeners import Listeners

# No reply bound below this, whatever MAX_SEND says: a chunk of headers must fit.
MIN_MAX_SEND = 350_000
FORCE_AFTER_SECS = 1.0
LISTENERS_CLOSE_SECS = 3.0
# How often a full server that does not listen looks whether a session can be evicted meanwhile.
EVICTION_CHECK_SECS = 5.0
STALE_CHECK_SECS = 60.0
# Processor time that DROP_CLIENT may take for a name, in seconds.
MATCH_CPU_SECS = 0.02


class SessionManager:
    """Holds the sessions, and what they share."""

    def __init__(
        self,
        env: Any,
        db: Any,
        bp: Any,
        daemon: Any,
        mempool: Any,
        shutdown_event: asyncio.Event,
    ) -> None:
        self.env = env
        self.db = db
        self.bp = bp
        self.daemon = daemon
        self.mempool = mempool
        #: of the event loop; replaced by one that measures
        self.loop_lag = LoopLag()
        self.shutdown_event = shutdown_event
        self.peer_mgr = PeerManager(env, db)
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self.chain = ChainTip(bp, db)
        #: what the sessions are given
        self.shared = shared = SharedState.build(
            env, db, daemon, mempool, self.peer_mgr, self.chain, self.logger
        )
        self.groups = shared.table.groups
        self.sessions = shared.table.sessions
        self.scripts = shared.scripts
        self.fan_out = shared.fan_out
        self.method_counts = shared.method_counts
        # The tip that clients were last notified of
        self._told: ReportedTip | None = None
        self.start_time = time.monotonic()
        # Set when a connection came or went
        self._session_event = asyncio.Event()
        self.admission = Admission(env, self.groups, self._session_event.set)
        self.listeners = Listeners(env, self._session_factory, self.admission)
        #: set when wallets are served
        self.serving_event = asyncio.Event()

    # -- life

    async def serve(self, notifications: Any, event: asyncio.Event) -> None:
        """Serve until cancelled: at once to the administrator, to wallets once ``event`` is set.

        ``event`` is the mempool's: set when it is first in step with the daemon.
        """
        rpc = [service for service in self.env.services if service.protocol == "rpc"]
        try:
            await self.listeners.start(rpc)
            await event.wait()
            self._log_limits()
            await notifications.start(self.db.db_height, self.notify_sessions, self.tip_is_told)
            await self.listeners.start(self._wallet_services())
            self.serving_event.set()
            await run_together(
                self._discover_peers(),
                self._clear_stale_sessions(),
                self._handle_chain_reorgs(),
                self._recalc_costs(),
                self._log_sessions(),
                self._manage_listening(),
                notifications.run(),
            )
        finally:
            await self._shut_down()

    def _wallet_services(self) -> list[Any]:
        return [service for service in self.env.services if service.protocol != "rpc"]

    def _log_limits(self) -> None:
        env, info = self.env, self.logger.info
        info(f"max session count: {env.max_sessions:,d}")
        info(f"session timeout: {env.session_timeout:,d} seconds")
        info(f"session cost hard limit {env.cost_hard_limit:,d}")
        info(f"session cost soft limit {env.cost_soft_limit:,d}")
        info(f"bandwidth unit cost {env.bw_unit_cost:,d}")
        info(f"request sleep {env.request_sleep:,d}ms")
        info(f"request timeout {env.request_timeout:,d}s")
        info(f"initial concurrent {env.initial_concurrent:,d}")
        info(f"max response size {self.shared.max_send:,d} bytes")
        info(f"max request size {env.max_recv:,d} bytes")
        if env.drop_client is not None:
            info(f"drop clients matching: {env.drop_client.pattern}")
        for service in env.report_services:
            info(f"advertising service {service}")

    async def _discover_peers(self) -> None:
        """Run peer discovery; the server outlives it."""
        try:
            await self.peer_mgr.discover_peers()
        except Exception:
            self.logger.exception("peer discovery ended")

    async def _shut_down(self) -> None:
        """Stop listening, then close sessions, then wait, within a bound, for the sockets."""
        self.listeners.close()
        self.fan_out.cancel()
        await self.shared.table.disconnect(self.sessions, "shutting down: closing")
        if not await self.admission.wait_empty(LISTENERS_CLOSE_SECS):
            self.logger.warning("timed out waiting for the listening servers to close")

    # -- listening

    def _session_factory(self, protocol: str) -> Callable[[Any], Any]:
        session_class = LocalRPC if protocol == "rpc" else self.env.coin.SESSIONCLS

        def make(transport: Any) -> Any:
            return session_class(self, self.db, self.mempool, self.peer_mgr, protocol, transport)

        return make

    async def _manage_listening(self) -> None:
        """Stop listening when there is no place for another connection, resume when there is."""
        maximum = self.env.max_sessions
        low_mark = maximum * 19 // 20
        admission = self.admission
        while True:
            await self._session_event.wait()
            self._session_event.clear()
            if not admission.is_full():
                continue
            self.logger.info(
                f"maximum sessions {maximum:,d} reached, stopping new connections until "
                f"count drops to {low_mark:,d}"
            )
            self.listeners.stop(self._wallet_services())
            while admission.count > low_mark and not admission.can_evict():
                try:
                    await asyncio.wait_for(self._session_event.wait(), EVICTION_CHECK_SECS)
                except asyncio.TimeoutError:
                    pass
                self._session_event.clear()
            self.logger.info("resuming listening for incoming connections")
            await self.listeners.resume(self._wallet_services())

    # -- the table

    def session_count(self) -> int:
        """Return the number of sessions."""
        return len(self.sessions)

    # -- periodic work

    async def _clear_stale_sessions(self) -> None:
        while True:
            await asyncio.sleep(STALE_CHECK_SECS)
            await self.close_stale_sessions()
            self.shared.log_limit.flush()

    async def close_stale_sessions(self) -> None:
        """Close the sessions that have been silent too long."""
        now = time.monotonic()
        cutoff = now - self.env.session_timeout
        for session in self.sessions:
            if not session.limited and session.unanswered_request_count():
                # The operator waits: an audit or a backup may take hours.
                session.last_recv = now
        stale = [session for session in self.sessions if session.last_recv < cutoff]
        await self.shared.table.disconnect(stale, "closing stale")

    async def _handle_chain_reorgs(self) -> None:
        """Forget what belonged to blocks that are gone, whenever the processor backs up."""
        event = self.bp.backed_up_event
        while True:
            await event.wait()
            self.logger.info("reorg signalled; clearing tx_hashes and merkle caches")
            self.chain.reorg_count += 1
            self.shared.blocks.clear()
            # Lets the pulse end
            await asyncio.sleep(0)

    async def _recalc_costs(self) -> None:
        while True:
            await asyncio.sleep(limits.RECALC_SECS)
            self.recalc_costs(limits.RECALC_SECS)

    def recalc_costs(self, elapsed_secs: float) -> None:
        """Forget group costs of so much time, and set anew how fast sessions' costs decay."""
        hard_limit = self.env.cost_hard_limit
        self.groups.forget(elapsed_secs, hard_limit)
        for session in list(self.sessions):
            if session.limited:
                session.cost_decay_per_sec = limits.decay_per_sec(hard_limit, session.sub_count())
                session.recalc_concurrency()

    async def _log_sessions(self) -> None:
        interval = self.env.log_sessions
        while interval:
            await asyncio.sleep(interval)
            self.log_sessions()

    def log_sessions(self) -> None:
        """Write the sessions table and the summary to the log."""
        for line in sessions_lines(tables.session_rows(self, for_log=True)):
            self.logger.info(line)
        self.logger.info(json.dumps(tables.get_info(self)))

    # -- notifications

    async def notify_sessions(self, height: int, touched: set[bytes]) -> None:
        """Tell sessions that a block or a mempool refresh touched these hashXs.

        Returns when the shared state is up to date, and the sessions were told that need not wait.
        """
        changed = self._take_tip(touched)
        forks = 0 if self._told is None else self._told.forks
        await self.fan_out.tell(touched, changed)
        self.chain.forks_told(forks)

    def tip_is_told(self) -> bool:
        """Return whether clients were notified of the tip that the processor reported last."""
        return bool(self._told is self.bp.reported)

    def _take_tip(self, touched: set[bytes]) -> bool:
        """Take over the reported tip for all clients; return whether it is another block.

        Nothing is awaited: the tip, what it touched, and the caches that lose it belong together.
        """
        reported: ReportedTip = self.bp.reported
        if reported is self._told:
            return False
        self._told = reported
        self.scripts.drop(touched, self._addition_to(reported))
        # Also if it is the same tip as before: answers wait while its blocks are being replaced.
        self.chain.notified(reported.height, reported.tip)
        # Not if the same blocks were undone and indexed again.
        return self.shared.header.set(reported.height, reported.header)

    def _addition_to(self, reported: ReportedTip) -> Addition | None:
        """Return what one step from the tip last notified added; None if it took several."""
        tip = self.chain.notified_tip
        step: Confirmed | None = None if tip is None else self.bp.confirmed_after(tip)
        return step.addition if step is not None and step.tip == reported.tip else None
