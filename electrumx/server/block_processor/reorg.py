"""Finds where the node's chain and ours part, and the blocks that are to be undone.

Owns what is known of a node that has fewer blocks than we.  Changes nothing of the index.

Runs in: the event loop; blocks are read and parsed in a worker thread.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from electrumx.lib.coins import Block
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.block_processor.flush_scheduler import Flushing
from electrumx.server.block_processor.prefetcher import above_text
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import block_hash, in_parts
from electrumx.server.db.flusher import DB, DBError
from electrumx.server.env import Env


class ForkFinder(Flushing):
    """The state of the index, compared with the node's chain."""

    #: polls that a node must be seen without blocks it had, before they are undone
    SHORT_POLLS = 2
    #: seconds between log lines that the daemon is below our height
    ABOVE_LOG_SECS = 60.0

    def __init__(self, logger: logging.Logger, env: Env, db: DB, daemon: Daemon):
        super().__init__(logger, env, db, daemon)
        #: the node's chain was seen to differ from ours, at our height or below
        self._reorg_seen = False
        #: URL of the node last seen to have our tip; the lower height it was seen at since, and for
        #: how many polls in a row
        self._followed_url = ""
        self._short_height = -1
        self._short_polls = 0
        self._loss_logged = False
        #: monotonic time of the next log line that the daemon is below our height, if it is
        self._next_above_log: float | None = None

    async def _node_left_our_chain(self) -> bool:
        height, tip = self.height, self.tip
        daemon_height = await self.daemon.height()
        self._log_if_above(daemon_height)
        if self.state_lock.locked() or self._reorg_seen or not 0 <= daemon_height <= height:
            # Blocks above our height tell by themselves whether they follow on our tip.
            return False
        url = self.daemon.current_url()
        theirs = (await self.daemon.block_hex_hashes(daemon_height, 1))[0]
        if daemon_height == height:
            ours = tip
        elif daemon_height <= self.db.db_height:
            try:
                ours = (await self.db.fs_block_hashes(daemon_height, 1))[0]
            except DBError:
                if (self.height, self.tip) == (height, tip):
                    raise
                # Blocks are being undone.
                return False
        else:
            return False
        if (self.height, self.tip) != (height, tip):
            return False
        if ours != block_hash(theirs):
            return True
        if daemon_height == height:
            self._followed_url, self._short_polls, self._loss_logged = url, 0, False
            return False
        return self._has_undone_blocks(url, daemon_height)

    def _log_if_above(self, daemon_height: int) -> None:
        """Log once a minute that the daemon lacks blocks that the database has."""
        now = time.monotonic()
        if daemon_height >= self.height:
            self._next_above_log = None
        elif self._next_above_log is None:
            self._next_above_log = now + self.ABOVE_LOG_SECS
        elif now >= self._next_above_log:
            self._next_above_log = now + self.ABOVE_LOG_SECS
            self.logger.warning(above_text(self.height, daemon_height))

    def _has_undone_blocks(self, url: str, daemon_height: int) -> bool:
        """Judge a node that has fewer blocks than we, all of which are ours.

        One that lags behind us, say after a fail-over, is left in peace; one that had our tip and
        stays without it has undone blocks.  One that grows may yet get there.
        """
        if daemon_height != self._short_height:
            self._short_height, self._short_polls = daemon_height, 0
        self._short_polls += 1
        if url != self._followed_url or self._short_polls < self.SHORT_POLLS:
            return False
        missing = self.height - daemon_height
        if missing > self.env.reorg_limit:
            # It lost its chain, and indexes it anew: those blocks cannot be undone, nor need be.
            if not self._loss_logged:
                self._loss_logged = True
                self.logger.warning(
                    f"the daemon has {missing:,d} blocks fewer than before; waiting for them"
                )
            return False
        return True

    async def calc_reorg_range(self, count: int | None) -> tuple[int, int]:
        """Return (first height, number) of the blocks to replace; the number may be 0.

        ``count`` forces that many.  The genesis block is never replaced.
        """
        if count is not None:
            start = max(1, self.height - count + 1)
            return start, self.height - start + 1
        # Heights above the node's are replaced in any case.
        top = min(self.height, await self.daemon.height())
        upper, step = top, 1
        while upper > 0:
            lower = max(1, upper - step + 1)
            same = await self._first_difference(lower, upper)
            if same > lower:
                return same, self.height - same + 1
            upper, step = lower - 1, step * 2
        await self._refuse_other_chain()
        return 1, self.height

    async def _refuse_other_chain(self) -> None:
        """Raise OperatorError if the node's chain and ours have not even the first block in common."""
        theirs = (await self.daemon.block_hex_hashes(0, 1))[0]
        ours = (await self.db.fs_block_hashes(0, 1))[0]
        if block_hash(theirs) != ours and theirs != self.coin.GENESIS_HASH:
            raise OperatorError(
                f"the genesis block of the daemon's chain is {theirs}, that of "
                f"{self.coin.NAME} {self.coin.NET} {self.coin.GENESIS_HASH}: check DAEMON_URL, "
                "COIN and NET"
            )

    async def _first_difference(self, lower: int, upper: int) -> int:
        """Return the first height in a range at which the node's block is not ours.

        ``upper`` + 1 if there is none.
        """
        count = upper - lower + 1
        ours = await self.db.fs_block_hashes(lower, count)
        theirs = await self.daemon.block_hex_hashes(lower, count)
        for height, our_hash, their_hash in zip(range(lower, upper + 1), ours, theirs, strict=True):
            if our_hash != block_hash(their_hash):
                return height
        return upper + 1

    async def _blocks_to_undo(self, first: int, last: int) -> list[Block]:
        """Return blocks, the newest first, from disk or, where one is damaged, the node."""
        hashes = await self.db.fs_block_hashes(first, last - first + 1)

        def parse(raw_blocks: Sequence[bytes]) -> list[Block] | None:
            try:
                block = self.coin.block
                blocks = [block(raw, height) for height, raw in enumerate(raw_blocks, first)]
            except DeserializeError:
                return None
            header_hash = self.coin.header_hash
            if [header_hash(block.header) for block in blocks] != hashes:
                return None
            return blocks[::-1]

        def read() -> list[Block] | None:
            try:
                return parse([self.db.read_raw_block(h) for h in range(first, last + 1)])
            except OSError:
                return None

        blocks = await asyncio.to_thread(read)
        if blocks is None:
            hex_hashes = [hash_to_hex_str(block_hash) for block_hash in hashes]
            raw_blocks = await in_parts(self.daemon.raw_blocks, hex_hashes)
            blocks = await asyncio.to_thread(parse, raw_blocks)
            if blocks is None:
                raise DaemonError("the daemon sent other blocks than those asked for")
        return blocks
