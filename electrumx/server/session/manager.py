"""The session manager: builds what serves clients, starts it in order, and shuts it down.

Owned by the task that runs ``serve``; everything here runs on the event loop.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from electrumx.lib import util
from electrumx.lib.tasks import run_together
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.sync import MemPool
from electrumx.server.notifications import Notifications
from electrumx.server.peers import PeerManager
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.server_state import ServerState
from electrumx.server.session.admin.ban_commands import BanCommands
from electrumx.server.session.admin.commands import AdminCommands
from electrumx.server.session.admin.local_rpc import LocalRPC
from electrumx.server.session.base import SessionBase
from electrumx.server.session.early_service import CommittedTip, HeaderService
from electrumx.server.session.housekeeping import Housekeeping
from electrumx.server.session.listening import Listening
from electrumx.server.session.notifier import Notifier
from electrumx.server.session.reconfigure import SessionSettings
from electrumx.server.session.shared.serving_stage import ServingStage
from electrumx.server.session.shared.state import SharedState
from electrumx.server.session.shared.tip_consistency import TipConsistency
from electrumx.server.session.transport.bans import BanList
from electrumx.server.session.transport.transport import StreamConnection


class SessionManager:
    """Serves the administrator and wallets.

    It has the state that sessions share, the listeners with their admission control, the notifier,
    the administrator's commands and the housekeeping.
    """

    def __init__(
        self,
        env: Env,
        db: DB,
        bp: BlockProcessor,
        daemon: Daemon,
        mempool: MemPool,
        shutdown_event: asyncio.Event,
        *,
        loop_lag: LoopLag | None = None,
        server_state: ServerState | None = None,
        peers: PeerManager | None = None,
    ) -> None:
        """``getinfo`` shows ``loop_lag`` and ``server_state``.

        Make ``peers`` of ``env`` and ``db`` if not given.

        The administrator's stop sets ``shutdown_event``.
        """
        self.env = env
        self.db = db
        self._processor = bp
        self.logger = logger = util.class_logger(__name__, self.__class__.__name__)
        bans = BanList()
        peers = PeerManager(env, db, is_banned=bans.is_banned) if peers is None else peers
        # Not the database itself, where each look would be a call more.
        tip = TipConsistency(bp, db.stores)
        stage = ServingStage(None if server_state is None else server_state.status)
        #: the part that sessions use
        self.shared = shared = SharedState.build(
            env, db, daemon, mempool, peers, tip, logger, stage=stage
        )
        peers.set_protocol_max(shared.protocol.maximum)
        self.commands = AdminCommands(
            shared, bp, shutdown_event, loop_lag or LoopLag(), server_state
        )
        self.notifier = Notifier(
            bp,
            tip,
            shared.scripts,
            shared.header,
            shared.fan_out,
            shared.outpoints,
            shared.outpoint_cache,
            shared.noise,
        )
        self.housekeeping = Housekeeping(shared, bp, self.commands.info, logger)
        self.listening = Listening(
            env, shared.table.groups, self._session_factory, logger, bans=bans
        )
        self.bans = BanCommands(
            bans,
            Path(env.db_dir),
            self.listening.admission,
            shared.table,
            peers.retry_banned,
            logger,
            # A banned proxy takes all of its clients with it.
            trusted=(*env.trusted_clients, *env.proxy_trusted),
            names_in_log=not env.anon_logs,
        )
        # Parts of parts, for use from outside
        self.sessions, self.groups = shared.table.sessions, shared.table.groups
        self.admission, self.listeners = self.listening.admission, self.listening.listeners
        #: of sessions, and the services: a reload can change both
        self.reloadable = (
            self.listening,
            SessionSettings(shared, self.bans, self.housekeeping),
        )
        #: set when the server serves wallets
        self.serving_event = asyncio.Event()

    async def serve(
        self,
        notifications: Notifications,
        event: asyncio.Event,
        caught_up: asyncio.Event | None = None,
    ) -> None:
        """Serve until cancelled: at once to the administrator, to wallets once ``event`` is set.

        ``event`` is the mempool's: set when it first agrees with the daemon's, or after some seconds
        without progress (``mempool.lag``).  ``caught_up`` is set before, when the block processor has
        caught up; with it, and SERVE ``always``, serve wallets once the database is open.
        """
        try:
            await self.bans.load()
            await self.listening.start_rpc()
            if caught_up is not None and self.env.serve_always:
                await self._serve_always(notifications, event, caught_up)
                return
            await event.wait()
            await self.shared.protocol.start()
            self._log_limits()
            await self._start_notifications(notifications)
            await self.listening.start_wallets()
            self.serving_event.set()
            await run_together(
                self._discover_peers(), notifications.run(), *self._permanent_tasks()
            )
        finally:
            await self._shut_down()

    async def _serve_always(
        self, notifications: Notifications, usable: asyncio.Event, caught_up: asyncio.Event
    ) -> None:
        """Serve wallets from now on; see ``early_service`` for the time before ``caught_up``."""
        stage, tip = self.shared.stage, self.shared.tip
        await self._processor.opened_event.wait()
        stage.is_complete = False
        await self.shared.protocol.start()
        self._log_limits()
        headers = HeaderService(self.shared, self.logger)
        if self.db.first_sync:
            stage.is_indexing = True
            await headers.begin()
        else:
            tip.compare_with(CommittedTip(self.db, self._processor.forks))
            notifications.waits_for_mempool = False
            await self._start_notifications(notifications)
        await self.listening.start_wallets()

        async def notify() -> None:
            if stage.is_indexing:
                await headers.run(caught_up)
                await self._start_notifications(notifications)
                stage.is_indexing = False
                self.shared.table.renew_handlers()
                await notifications.run()
            else:
                await run_together(self.db.populate_header_merkle_cache(), notifications.run())

        async def complete() -> None:
            await caught_up.wait()
            tip.compare_with(self._processor)
            await usable.wait()
            notifications.waits_for_mempool = True
            stage.is_complete = True
            self.serving_event.set()
            await self._discover_peers()

        await run_together(notify(), complete(), *self._permanent_tasks())

    async def _start_notifications(self, notifications: Notifications) -> None:
        notifier = self.notifier
        await notifications.start(self.db.db_height, notifier.notify, notifier.is_tip_known)

    def _permanent_tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return the tasks that run for as long as the server serves wallets."""
        return [
            self.housekeeping.run(),
            self.listening.run(),
            self.shared.protocol.run(),
            self.shared.outpoints.run(),
            self.shared.noise.run(),
        ]

    @property
    def method_counts(self) -> Counter[str]:
        """The number of calls of each method."""
        return self.shared.requests.started()

    def session_count(self) -> int:
        """Return the number of sessions."""
        return len(self.shared.table)

    def _session_factory(self, protocol: str) -> Callable[[StreamConnection], SessionBase]:
        session_class = LocalRPC if protocol == "rpc" else self.env.coin.SESSIONCLS
        shared = self.shared

        def make(transport: StreamConnection) -> SessionBase:
            session: SessionBase = session_class(
                self, shared.db, shared.mempool, shared.peers, protocol, transport
            )
            return session

        return make

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
            await self.shared.peers.discover_peers()
        except Exception:
            self.logger.exception("peer discovery ended")

    async def _shut_down(self) -> None:
        """Stop listening, then close sessions, then wait, within a bound, for the sockets."""
        table = self.shared.table
        self.listening.stop()
        self.shared.fan_out.cancel()
        await table.disconnect(table.sessions, "shutting down: closing", end_reason="shutdown")
        await self.listening.wait_closed()
