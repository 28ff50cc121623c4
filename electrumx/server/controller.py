"""Builds the server's parts, joins them and starts their tasks; has no logic of its own.

All tasks run in one event loop.  Three are started: the sessions (first only LocalRPC, which
answers even before the node does), the block processor, and, once the chain is caught up with,
header proofs and the mempool.  Wallets are served when the mempool was first synchronised, or has
failed to be for some time.  If any of the three ends, the server ends.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import aiorpcx

import electrumx
from electrumx.lib.errors import OperatorError
from electrumx.lib.server_base import ServerBase
from electrumx.lib.util import class_logger, version_string
from electrumx.server.block_processor.prefetcher import above_text
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.mempool_listing import Listing
from electrumx.server.daemon.responses import block_hash
from electrumx.server.daemon.tip_watcher import TipWatcher
from electrumx.server.db.flusher import DB
from electrumx.server.env import Env
from electrumx.server.mempool.feed import MempoolFeed
from electrumx.server.mempool.sync import MemPool, MemPoolAPI
from electrumx.server.notifications import Confirmed, Notifications
from electrumx.server.runtime.compiled_modules import missing_modules, missing_modules_warning
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.sd_notify import Readiness
from electrumx.server.session import SessionManager
from electrumx.server.session.transport.preflight import check_services
from electrumx.server.storage.schema import DBClosedError

# New objects between two collections of the youngest, such collections between two of the middle
# generation, and those between two full ones.
COLLECTOR_THRESHOLDS = (5_000, 5, 200)
# How long a thread that computes may keep the event loop from running on, in seconds.
SWITCH_SECS = 0.001

__all__ = ["Controller", "Notifications"]


class _MemPoolView(MemPoolAPI):
    """What the mempool may see of the node, the database and the notifications."""

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
        # What is processed and not yet on disk is nobody's business.
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


class Controller(ServerBase):
    """The server process; ``run()`` serves until it is told to stop."""

    AIORPCX_MIN = (0, 25)
    AIORPCX_END = (0, 26)

    #: called once, when the chain was caught up with
    when_caught_up: Callable[[], object] = staticmethod(lambda: None)

    async def serve(self, shutdown_event: asyncio.Event) -> None:
        """Start everything and wait; the first part that fails ends the server with its error."""
        self._check_library()
        self._log_start(self.env)
        await check_services(self.env)
        async with Readiness.from_environment(shutdown_event) as readiness:
            await self._serve(self.env, shutdown_event, readiness)

    async def _serve(self, env: Env, shutdown_event: asyncio.Event, readiness: Readiness) -> None:
        notifications = Notifications()
        async with env.coin.DAEMON(env.coin, env.daemon_url) as daemon:
            db = DB(env)
            processor = env.coin.BLOCK_PROCESSOR(env, db, daemon, notifications)
            mempool = MemPool(
                env.coin,
                _MemPoolView(daemon, db, processor, notifications),
                refresh_secs=env.daemon_poll_interval_mempool_msec / 1000,
                compiled=env.indexer != "python",
            )
            watcher = TipWatcher(
                daemon, env.zmq_block_addresses, hold_calls=env.daemon_wait_for_blocks
            )
            feed = MempoolFeed(env.coin, mempool, env.zmq_mempool_addresses)
            manager = SessionManager(env, db, processor, daemon, mempool, shutdown_event)
            manager.loop_lag = loop_lag = LoopLag()
            caught_up_event = asyncio.Event()
            mempool_event = asyncio.Event()
            usable_event = asyncio.Event()
            readiness.describe = lambda: _status(manager, processor, daemon)

            async def follow_node() -> None:
                await daemon.check_at_start()
                await processor.fetch_and_process_blocks(caught_up_event)

            async def wait_for_catchup() -> None:
                await caught_up_event.wait()
                self.when_caught_up()
                _favour_latency()
                await _run_together(
                    [
                        db.populate_header_merkle_cache(),
                        mempool.keep_synchronized(mempool_event),
                        _favour_latency_again(mempool_event),
                        _set_when(mempool.wait_until_usable(), usable_event),
                        watcher.run(),
                        feed.run(),
                        loop_lag.run(),
                    ]
                )

            await _run_together(
                [
                    manager.serve(notifications, usable_event),
                    follow_node(),
                    wait_for_catchup(),
                    readiness.announce(manager.serving_event),
                ]
            )

    def _check_library(self) -> None:
        found = aiorpcx._version
        if not self.AIORPCX_MIN <= found < self.AIORPCX_END:
            raise OperatorError(
                f"aiorpcX version {version_string(found)} is installed, but at least "
                f"{version_string(self.AIORPCX_MIN)} and below {version_string(self.AIORPCX_END)} "
                "is needed"
            )

    def _log_start(self, env: Env) -> None:
        low, high = env.coin.SESSIONCLS.protocol_min_max_strings()
        self.logger.info(f"software version: {electrumx.version}")
        self.logger.info(f"aiorpcX version: {version_string(aiorpcx._version)}")
        self.logger.info(f"supported protocol versions: {low}-{high}")
        self.logger.info(f"event loop policy: {env.loop_policy or 'asyncio'}")
        self.logger.info(f"reorg limit is {env.reorg_limit:,d} blocks")
        missing = missing_modules()
        if missing and env.indexer != "python":
            self.logger.warning(missing_modules_warning(missing))
        for hint in env.hints:
            self.logger.warning(hint)


def _status(manager: SessionManager, processor: BlockProcessor, daemon: Daemon) -> str:
    """Return what the server does now, in one line."""
    if manager.serving_event.is_set():
        return f"height {processor.height:,d}, {manager.session_count():,d} sessions"
    known = daemon.cached_height()
    if known is None:
        return "waiting for the node"
    if processor.height > known:
        return above_text(processor.height, known)
    if processor.height == known:
        return f"height {known:,d}, reading the mempool"
    return f"synchronising: height {processor.height:,d} of {known:,d}"


def _favour_latency() -> None:
    """Let clients wait less for the interpreter's own affairs.

    Each system call of the loop may have to wait for a thread.  And a full garbage collection stops
    all threads for as long as it takes to look at every object: with a thousand clients, a tenth
    of a second.  Nearly all of ours are freed without its help.
    """
    gc.collect()
    # What the program itself consists of is never garbage.
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECS)


async def _favour_latency_again(mempool_event: asyncio.Event) -> None:
    """Let the collector leave alone what the mempool had at the start, before wallets come."""
    await mempool_event.wait()
    _favour_latency()


async def _set_when(waiting: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Set an event when a coroutine has ended."""
    await waiting
    event.set()


async def _run_together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all until the first error, which is raised when the others have been cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    raised: BaseException | None = None
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except BaseException as e:
        raised = e
        raise
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        # Reads that were cut off by the closing of the database are no failures.
        failed = [
            result
            for result in results
            if isinstance(result, Exception)
            and result is not raised
            and not isinstance(result, DBClosedError)
        ]
        for result in failed:
            # What is raised is logged where it ends the server.
            class_logger(__name__, "Controller").error(f"a task ended with {result!r}")
        # A shutdown whose last flush found the disk full is no clean one.
        told = [result for result in failed if isinstance(result, OperatorError)]
        if told and isinstance(raised, asyncio.CancelledError):
            raise told[0]
