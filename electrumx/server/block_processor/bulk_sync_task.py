"""Fills an empty database by a bulk sync, before the block processor takes block after block.

Owns when that happens, and the exchange of the stores at its end.

Runs in: the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from electrumx.lib.errors import DeserializeError
from electrumx.server.block_processor.block_parser import BlockParser
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.prefetcher import Prefetcher
from electrumx.server.block_processor.strategies import Strategy
from electrumx.server.bulk_sync.choice import use_bulk_sync
from electrumx.server.daemon.client import Daemon
from electrumx.server.db.database import DB
from electrumx.server.env import Env

if TYPE_CHECKING:
    from electrumx.server.bulk_sync.driver import BulkSync
    from electrumx.server.bulk_sync.progress import Progress


class BulkSyncTask:
    """The bulk sync of a block processor's database, if one is due."""

    def __init__(self, env: Env, db: DB, daemon: Daemon, state: ChainState, strategy: Strategy):
        self._env = env
        self._db = db
        self._daemon = daemon
        self._state = state
        self._strategy = strategy
        self._sync: BulkSync | None = None

    @property
    def progress(self) -> "Progress | None":
        """The progress of the bulk sync; None while it does not run."""
        return self._sync.progress if self._sync else None

    async def run(
        self,
        prefetcher: Prefetcher,
        parser: BlockParser,
        parse_failed: Callable[[DeserializeError], Awaitable[None]],
        retry_secs: float,
    ) -> None:
        """Fill the database up to the daemon's height, if it is empty and that is far.

        ``parse_failed`` receives each error of a block, and raises if it does not end;
        ``retry_secs`` is the pause after an error of the daemon.
        """
        height, block_bytes = self._daemon.cached_height() or 0, 0
        if self._db.db_height < 0:
            # For a node that is synchronising itself, its target counts.
            height = max(height, await self._daemon.sync_target() or 0)
            block_bytes = await self._daemon.size_on_disk() or 0
        if not await asyncio.to_thread(
            use_bulk_sync, self._env, self._db, height, block_bytes, self._state.logger
        ):
            return
        # Only now: few starts need them.
        from electrumx.server.bulk_sync.driver import BulkSync
        from electrumx.server.bulk_sync.source import CoinBlocks

        blocks = CoinBlocks(self._db, self._strategy, parser.parse_blocks, parse_failed)
        self._sync = BulkSync(
            self._env,
            self._db,
            self._daemon,
            prefetcher,
            blocks,
            compiled=self._env.indexer != "python",
            retry_secs=retry_secs,
        )
        try:
            await self._sync.run(self._exchange_stores)
        finally:
            self._sync = None
        await prefetcher.reset_height(self._state.height)

    async def _exchange_stores(self, move: Callable[[], None]) -> None:
        """Close the database, have its stores moved, and open it again."""

        async def exchange() -> None:
            async with self._state.lock:
                await self._db.exchange_stores(move)
                self._state.read_committed()

        await asyncio.shield(exchange())
