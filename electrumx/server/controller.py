"""Builds the server's parts, connects them and starts their tasks.

All tasks run in one event loop.  Three start: the sessions (first only LocalRPC, which
answers even before the node does), the block processor, and, once the chain is caught up with,
header proofs and the mempool.  Service of wallets begins when the mempool is first in sync, or has
failed to be for some time.  If any of the three ends, the server ends.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import aiorpcx

import electrumx
from electrumx.lib.errors import OperatorError
from electrumx.lib.server_base import ServerBase
from electrumx.lib.tasks import run_together
from electrumx.lib.util import class_logger, version_string
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.daemon.mempool_listing import Listing
from electrumx.server.daemon.responses import block_hash
from electrumx.server.daemon.tip_watcher import TipWatcher
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.feed import MempoolFeed
from electrumx.server.mempool.sync import MemPool, MemPoolAPI
from electrumx.server.notifications import Confirmed, Notifications
from electrumx.server.reload import LogLevel, NodeList, Part, Reloader
from electrumx.server.runtime.compiled_modules import missing_modules, missing_modules_warning
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.sd_notify import Readiness
from electrumx.server.runtime.server_state import ReadyLimits, ServerState
from electrumx.server.session import SessionManager
from electrumx.server.session.transport.preflight import check_services
from electrumx.server.settings import Settings
from electrumx.server.storage.schema import DBClosedError

# New objects between two collections of the youngest, such collections between two of the middle
# generation, and those between two full ones.
COLLECTOR_THRESHOLDS = (5_000, 5, 200)
# How long a thread that computes may keep the event loop from running on, in seconds.
SWITCH_SECS = 0.001

__all__ = ["Controller", "Notifications"]


class _MemPoolView(MemPoolAPI):
    """The node, the database and the notifications, as the mempool uses them."""

    def __init__(
        self, daemon: Daemon, db: DB, processor: BlockProcessor, notifications: Notifications
    ):
        self._daemon = daemon
        self._db = db
        self._processor = processor
        self._notifications = notifications

    async def height(self) -> int:
        return await self._daemon.height()

    def cached_height(self) -> int | None:
        return self._daemon.cached_height()

    def db_height(self) -> int:
        return self._db.db_height

    def db_tip(self) -> bytes:
        return self._db.db_tip

    async def daemon_tip_hash(self) -> bytes | None:
        height = self._daemon.cached_height()
        if height is None:
            return None
        return block_hash((await self._daemon.block_hex_hashes(height, 1))[0])

    async def mempool_hashes(self) -> list[str]:
        return await self._daemon.mempool_hashes()

    async def mempool_listing(self) -> Listing:
        return await self._daemon.mempool_listing()

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        confirmed = self._processor.confirmed_after(tip)
        # Clients know nothing of processed blocks that are not yet on disk.
        if confirmed is None or confirmed.height > self._db.db_height:
            return None
        return confirmed

    def processed_after(self, tip: bytes) -> Confirmed | None:
        return self._processor.confirmed_after(tip)

    async def wait_for_processed_block(self) -> None:
        await self._processor.processed_event.wait()

    async def raw_transactions(self, hex_hashes: Sequence[str]) -> list[bytes | None]:
        return await self._daemon.getrawtransactions(hex_hashes)

    async def lookup_utxos(
        self, prevouts: Sequence[tuple[bytes, int]]
    ) -> Sequence[tuple[bytes, int] | None]:
        return await self._db.lookup_utxos(prevouts)

    async def on_mempool(self, touched: set[bytes], height: int) -> None:
        await self._notifications.on_mempool(touched, height)

    async def on_mempool_partial(self, touched: set[bytes], height: int) -> None:
        await self._notifications.on_mempool(touched, height, complete=False)

    async def wait_for_daemon_height_change(self) -> None:
        await self._daemon.height_changed.wait()

    async def wait_for_db_height_change(self) -> None:
        await self._processor.advanced_event.wait()


class _Server:
    """The parts of a server, each constructed with all that it needs."""

    def __init__(self, env: Env, daemon: Daemon, shutdown_event: asyncio.Event) -> None:
        self._env = env
        self._daemon = daemon
        self._notifications = Notifications()
        self._db = DB(env)
        self._processor: BlockProcessor = env.coin.BLOCK_PROCESSOR(
            env, self._db, daemon, self._notifications
        )
        self._mempool = MemPool(
            env.coin,
            _MemPoolView(daemon, self._db, self._processor, self._notifications),
            refresh_secs=env.daemon_poll_interval_mempool_msec / 1000,
            compiled=env.indexer != "python",
        )
        self._watcher = TipWatcher(
            daemon, env.zmq_block_addresses, hold_calls=env.daemon_wait_for_blocks
        )
        self._feed = MempoolFeed(env.coin, self._mempool, env.zmq_mempool_addresses)
        self._loop_lag = LoopLag()
        #: the state that getinfo, the metrics and the service manager report
        self.state = ServerState(
            daemon.calls.contact,
            daemon.cached_height,
            self._processor.index_progress,
            shutdown_event.is_set,
            ReadyLimits(env.ready_max_lag, env.ready_node_secs),
        )
        self._manager = SessionManager(
            env,
            self._db,
            self._processor,
            daemon,
            self._mempool,
            shutdown_event,
            loop_lag=self._loop_lag,
            server_state=self.state,
        )
        self._caught_up_event = asyncio.Event()

    def metrics(self) -> AbstractAsyncContextManager[object]:
        """Return the metrics service, which listens in an ``async with`` block.

        It outlives the other services: the state while the server stops shows there, too.
        """
        if not any(service.protocol == "metrics" for service in self._env.services):
            return nullcontext()
        # Its libraries take a while to load.
        from electrumx.server.metrics.disk import DiskUse
        from electrumx.server.metrics.endpoints import MetricsService
        from electrumx.server.metrics.sources import Sources

        return MetricsService(
            Sources(
                self._env,
                self._db,
                self._processor,
                self._daemon,
                self._mempool,
                self._manager,
                self.state,
                self._loop_lag,
                DiskUse(self._env.db_dir),
            )
        )

    async def run(self, readiness: Readiness, when_caught_up: Callable[[], object]) -> None:
        """Run all parts; the first that fails ends them all with its error."""
        usable_event = asyncio.Event()
        if self._env.serve_always:
            # Clients do not wait for the threads that index.
            sys.setswitchinterval(SWITCH_SECS)
        await run_parts(
            [
                self._manager.serve(self._notifications, usable_event, self._caught_up_event),
                self._follow_node(),
                self._serve_mempool(usable_event, when_caught_up),
                readiness.announce(self._manager.serving_event),
                self._note_serving(),
                self._loop_lag.run(),
            ]
        )

    def make_reload(
        self, settings: Settings, env: Env, readiness: Readiness
    ) -> Callable[[], Awaitable[list[str]]]:
        """Return the function that reads the settings again, which the administrator gets too."""
        parts: list[Part] = [*self._manager.reloadable, NodeList(self._daemon, env), LogLevel()]
        reloader = Reloader(settings, parts, readiness.reloading)
        self._manager.commands.set_reload(reloader.reload)
        return reloader.reload

    async def _note_serving(self) -> None:
        await self._manager.serving_event.wait()
        self.state.set_serving()

    async def _follow_node(self) -> None:
        await self._daemon.check_at_start()
        await self._processor.fetch_and_process_blocks(self._caught_up_event)

    async def _serve_mempool(
        self, usable_event: asyncio.Event, when_caught_up: Callable[[], object]
    ) -> None:
        """Follow the mempool and new tips once the chain is caught up with."""
        await self._caught_up_event.wait()
        when_caught_up()
        # Clients would wait for a collection of all generations: 0.1 s with 400,000 transactions.
        collect = not self._env.serve_always
        _favour_latency(collect=collect)
        mempool_event = asyncio.Event()
        await run_parts(
            [
                self._db.populate_header_merkle_cache(),
                self._mempool.keep_synchronized(mempool_event),
                _favour_latency_again(mempool_event, collect=collect),
                _set_when(self._mempool.wait_until_usable(), usable_event),
                self._watcher.run(),
                self._feed.run(),
            ]
        )

    def status(self) -> str:
        """Return the current state of the server in one line."""
        text = self.state.status().text()
        count = self._manager.session_count()
        return f"{text}, {count:,d} sessions" if self._manager.serving_event.is_set() else text


class Controller(ServerBase):
    """The server process; ``run()`` serves until the shutdown event is set."""

    AIORPCX_MIN = (0, 25)
    AIORPCX_END = (0, 26)

    def __init__(
        self,
        env: Env,
        *,
        early_signal: Callable[[], str | None] = lambda: None,
        when_caught_up: Callable[[], object] = lambda: None,
        settings: Settings | None = None,
    ) -> None:
        """Build it; ``settings`` are those from which ``env`` comes, for a reload.

        Calls ``when_caught_up()`` once; for ``early_signal`` see ``ServerBase``.
        """
        super().__init__(env, early_signal=early_signal)
        self._settings = settings
        self._when_caught_up = when_caught_up
        self._reload: Callable[[], Awaitable[list[str]]] | None = None
        self._reload_tasks: set[asyncio.Task[None]] = set()
        # Whether SIGHUP came before the server was built
        self._is_reload_due = False

    def on_hangup(self) -> bool:
        """Read the settings file again, if there is one, when the server has been built."""
        if self._settings is None or self._settings.path is None:
            return False
        self.logger.info("received SIGHUP signal, reading the settings file again")
        if self._reload is None:
            self._is_reload_due = True
        # Of two, one waits for the other, and will read the file as it is then.
        elif len(self._reload_tasks) < 2:
            task = asyncio.get_running_loop().create_task(self._reload_logged(self._reload))
            self._reload_tasks.add(task)
            task.add_done_callback(self._reload_tasks.discard)
        return True

    def use_reload(self, reload: Callable[[], Awaitable[list[str]]]) -> None:
        """Set what reads the settings file again, and call it if SIGHUP came before."""
        self._reload = reload
        if self._is_reload_due:
            self.on_hangup()

    @staticmethod
    async def _reload_logged(reload: Callable[[], Awaitable[list[str]]]) -> None:
        with suppress(OperatorError):  # in the log
            await reload()

    async def serve(self, shutdown_event: asyncio.Event) -> None:
        """Start everything and wait; the first part that fails ends the server with its error."""
        env: Env = self.env
        self._check_library()
        self.log_start(env)
        await check_services(env)
        files = LoginFiles.of(env)
        async with env.coin.DAEMON(
            env.coin, env.daemon_url, login_files=files, spool_folder=str(env.db_dir)
        ) as daemon:
            server = _Server(env, daemon, shutdown_event)
            readiness = Readiness.from_environment(shutdown_event, server.status)
            if self._settings is not None:
                self.use_reload(server.make_reload(self._settings, env, readiness))
            async with readiness, server.metrics():
                await server.run(readiness, self._when_caught_up)

    async def drain(self) -> None:
        """Go on serving, no longer ready, for READY_DRAIN_SECS."""
        secs = self.env.ready_drain_secs
        if secs:
            self.logger.info(f"serving for another {secs:,d} seconds before stopping")
            await asyncio.sleep(secs)

    def _check_library(self) -> None:
        found = aiorpcx._version
        if not self.AIORPCX_MIN <= found < self.AIORPCX_END:
            raise OperatorError(
                f"aiorpcX version {version_string(found)} is installed, but at least "
                f"{version_string(self.AIORPCX_MIN)} and below {version_string(self.AIORPCX_END)} "
                "is needed"
            )

    def log_start(self, env: Env) -> None:
        """Log versions and main settings, and warn of missing modules and unusual settings."""
        self.logger.info(f"software version: {electrumx.version}")
        self.logger.info(f"aiorpcX version: {version_string(aiorpcx._version)}")
        self.logger.info(f"event loop policy: {env.loop_policy or 'asyncio'}")
        self.logger.info(f"reorg limit is {env.reorg_limit:,d} blocks")
        missing = missing_modules()
        if missing and env.indexer != "python":
            self.logger.warning(missing_modules_warning(missing))
        for hint in env.hints:
            self.logger.warning(hint)


def _favour_latency(*, collect: bool) -> None:
    """Tune the interpreter for low latency.

    Each system call of the loop may have to wait for a thread.  And a full garbage collection stops
    all threads while it visits every object: with a thousand clients, for a tenth of a second.
    Their reference counts free nearly all of ours.  Without ``collect`` garbage that is there
    now stays.
    """
    if collect:
        gc.collect()
    # The program's own objects are never garbage.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECS)


async def _favour_latency_again(mempool_event: asyncio.Event, *, collect: bool) -> None:
    """Exclude the mempool's initial objects from garbage collection, before wallets connect."""
    await mempool_event.wait()
    _favour_latency(collect=collect)


async def _set_when(waiting: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Set an event when a coroutine has ended."""
    await waiting
    event.set()


async def run_parts(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all until the first error; cancel the others, then raise it."""
    failures: list[Exception] = []
    try:
        await run_together(*coroutines, on_failure=failures.append)
    except BaseException as raised:
        # Closing the database ends reads that are in progress: no failures.
        failures = [e for e in failures if not isinstance(e, DBClosedError)]
        for failure in failures:
            # The raised error goes to the log where it ends the server.
            class_logger(__name__, "Controller").error(f"a task ended with {failure!r}")
        # A shutdown whose last flush found the disk full is not a clean one.
        for failure in failures:
            if isinstance(failure, OperatorError) and isinstance(raised, asyncio.CancelledError):
                raise failure from raised
        raise
