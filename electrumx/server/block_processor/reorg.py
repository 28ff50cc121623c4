"""Finds where the daemon's chain and ours diverge, and the blocks to undo.

Owns the observations of a daemon that has fewer blocks than we.  Changes nothing of the index.

Runs in: the event loop; a worker thread reads and parses blocks.
"""

import asyncio
import logging
import time

from electrumx.lib.coins import Block, Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.block_processor.prefetcher import above_text
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import block_hash, in_parts
from electrumx.server.db import DB, DBError
from electrumx.server.db.raw_blocks import checked_block, stored_block


class ReorgFinder:
    """Compares a chain state, and the database, with the daemon's chain."""

    #: polls in a row that a daemon must lack blocks that it had, before they are undone
    SHORT_POLLS = 2
    #: seconds between log lines that the daemon is below our height
    ABOVE_LOG_SECS = 60.0

    def __init__(
        self,
        coin: type[Coin],
        state: ChainState,
        db: DB,
        daemon: Daemon,
        reorg_limit: int,
        margin: int,
        logger: logging.Logger,
    ):
        """``margin``: how many blocks are undone below the first one that differs."""
        self._coin = coin
        self._state = state
        self._db = db
        self._daemon = daemon
        self._reorg_limit = reorg_limit
        self._margin = margin
        self._logger = logger
        #: URL of the daemon last seen to have our tip
        self.followed_url = ""
        #: the lower height that polls showed of that daemon afterwards, and how many in a row did
        self.short_height = -1
        self.short_polls = 0
        self._loss_logged = False
        #: monotonic time of the next log line that the daemon is below our height, if it is
        self._next_above_log: float | None = None

    def note_followed(self) -> None:
        """Note that the daemon has our tip: if it lacks it from now on, it has undone blocks."""
        self.followed_url = self._daemon.current_url()

    async def daemon_left_our_chain(self) -> bool:
        """Return whether the daemon has other blocks than ours at our height or below, or fewer."""
        state = self._state
        height, tip = state.height, state.tip
        daemon_height = await self._daemon.height()
        self._log_if_above(daemon_height)
        if state.lock.locked() or not 0 <= daemon_height <= height:
            # Blocks above our height show by themselves whether they follow our tip.
            return False
        url = self._daemon.current_url()
        theirs = (await self._daemon.block_hex_hashes(daemon_height, 1))[0]
        if daemon_height == height:
            ours = tip
        elif daemon_height <= self._db.db_height:
            try:
                ours = (await self._db.fs_block_hashes(daemon_height, 1))[0]
            except DBError:
                if (state.height, state.tip) == (height, tip):
                    raise
                # Blocks are being undone.
                return False
        else:
            return False
        if (state.height, state.tip) != (height, tip):
            return False
        if ours != block_hash(theirs):
            return True
        if daemon_height == height:
            self.followed_url, self.short_polls, self._loss_logged = url, 0, False
            return False
        return self._has_undone_blocks(url, daemon_height)

    def _log_if_above(self, daemon_height: int) -> None:
        """Log once a minute that the daemon lacks blocks that the database has."""
        now = time.monotonic()
        if daemon_height >= self._state.height:
            self._next_above_log = None
        elif self._next_above_log is None:
            self._next_above_log = now + self.ABOVE_LOG_SECS
        elif now >= self._next_above_log:
            self._next_above_log = now + self.ABOVE_LOG_SECS
            self._logger.warning(above_text(self._state.height, daemon_height))

    def _has_undone_blocks(self, url: str, daemon_height: int) -> bool:
        """Return whether a daemon that has only a lower part of our chain has undone the rest.

        One that is behind us, say after a fail-over, has not.  One that had our tip and stays
        without it has; one whose height rises may get there.
        """
        if daemon_height != self.short_height:
            self.short_height, self.short_polls = daemon_height, 0
        self.short_polls += 1
        if url != self.followed_url or self.short_polls < self.SHORT_POLLS:
            return False
        missing = self._state.height - daemon_height
        if missing > self._reorg_limit:
            # It lost its chain, and indexes it again: those blocks can and need not be undone.
            if not self._loss_logged:
                self._loss_logged = True
                self._logger.warning(
                    f"the daemon has {missing:,d} blocks fewer than before; waiting for them"
                )
            return False
        return True

    async def reorg_range(self, count: int | None) -> tuple[int, int]:
        """Return (first height, number) of the blocks to replace; the number may be 0.

        ``count`` forces that many.  A reorg never replaces the genesis block.
        """
        start, number = await self._find_divergence(count)
        margin = min(self._margin, start - 1) if number else 0
        return start - margin, number + margin

    async def _find_divergence(self, count: int | None) -> tuple[int, int]:
        """Search downwards from the tip, in steps that double, for the first block that differs."""
        if count is not None:
            start = max(1, self._state.height - count + 1)
            return start, self._state.height - start + 1
        # A reorg replaces heights above the daemon's in any case.
        top = min(self._state.height, await self._daemon.height())
        upper, step = top, 1
        while upper > 0:
            lower = max(1, upper - step + 1)
            differs = await self._first_difference(lower, upper)
            if differs > lower:
                return differs, self._state.height - differs + 1
            upper, step = lower - 1, step * 2
        await self._refuse_other_chain()
        return 1, self._state.height

    async def _refuse_other_chain(self) -> None:
        """Raise OperatorError if even the first block of the daemon's chain is another."""
        theirs = (await self._daemon.block_hex_hashes(0, 1))[0]
        ours = (await self._db.fs_block_hashes(0, 1))[0]
        if block_hash(theirs) != ours and theirs != self._coin.GENESIS_HASH:
            raise OperatorError(
                f"the genesis block of the daemon's chain is {theirs}, that of "
                f"{self._coin.NAME} {self._coin.NET} {self._coin.GENESIS_HASH}: check DAEMON_URL, "
                "COIN and NET"
            )

    async def _first_difference(self, lower: int, upper: int) -> int:
        """Return the first height in a range at which the daemon's block is not ours.

        ``upper`` + 1 if they are equal.
        """
        count = upper - lower + 1
        ours = await self._db.fs_block_hashes(lower, count)
        theirs = await self._daemon.block_hex_hashes(lower, count)
        for height, our_hash, their_hash in zip(range(lower, upper + 1), ours, theirs, strict=True):
            if our_hash != block_hash(their_hash):
                return height
        return upper + 1

    async def blocks_to_undo(self, first: int, last: int) -> list[Block]:
        """Return blocks, the newest first, from disk or, for a damaged one, the daemon."""
        hashes = await self._db.fs_block_hashes(first, last - first + 1)

        def read() -> list[Block | None]:
            read_raw, coin = self._db.read_raw_block, self._coin
            return [
                stored_block(coin, read_raw, height, block_hash)
                for height, block_hash in enumerate(hashes, first)
            ]

        blocks = await asyncio.to_thread(read)
        missing = [index for index, block in enumerate(blocks) if block is None]
        if missing:
            hex_hashes = [hash_to_hex_str(hashes[index]) for index in missing]
            raws = await in_parts(self._daemon.raw_blocks, hex_hashes)

            def check() -> None:
                for index, raw in zip(missing, raws, strict=True):
                    blocks[index] = checked_block(self._coin, raw, first + index, hashes[index])

            await asyncio.to_thread(check)
        found = [block for block in reversed(blocks) if block is not None]
        if len(found) < len(blocks):
            raise DaemonError("the daemon sent other blocks than those asked for")
        return found
