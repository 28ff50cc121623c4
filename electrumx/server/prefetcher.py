"""Fetches raw blocks ahead of the block processor, bounded in bytes.

Owns the blocks that are fetched but not yet taken.  Runs as one task on the event loop; the
waiting for the node overlaps with the processing of earlier blocks in a thread.
"""

import asyncio
from collections.abc import Sequence

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.server.daemon import Daemon, DaemonError
from electrumx.server.node_reply import block_hash
from electrumx.server.outage import printable


def above_text(height: int, daemon_height: int) -> str:
    """Return what is wrong if the database is above the daemon's height, and what happens."""
    above = height - daemon_height
    plural = "" if above == 1 else "s"
    return (
        f"the database is {above:,d} block{plural} above daemon height {daemon_height:,d}: "
        f"waiting for the daemon to reach height {height:,d}"
    )


class Prefetcher:
    """Keeps a list of blocks that follow on the processor's height.

    ``blocks_event`` is set whenever there are blocks to take.
    """

    #: bytes of raw blocks after which fetching pauses, until they are taken
    MIN_CACHE_BYTES = 10 * 1024 * 1024
    #: bytes of raw blocks to ask for at once: as text they take twice that, and more than once
    REQUEST_BYTES = 2 * 1024 * 1024
    #: how much longer than the one before a request may be: blocks can become larger suddenly
    MAX_GROWTH = 2
    #: hashes to ask for at once while there are many blocks to fetch
    HASHES_AT_ONCE = 500
    #: blocks over which the average size is kept
    AVERAGE_OVER = 10

    def __init__(
        self,
        daemon: Daemon,
        coin: type[Coin],
        blocks_event: asyncio.Event,
        *,
        polling_delay: float = 5.0,
    ):
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self.daemon = daemon
        self.coin = coin
        self.blocks_event = blocks_event
        self.polling_delay = polling_delay
        self.blocks: list[bytes] = []
        self.caught_up = False
        #: height up to which blocks were fetched; the semaphore protects it
        self.fetched_height = -1
        self.semaphore = asyncio.Semaphore()
        self.refill_event = asyncio.Event()
        self.cache_bytes = 0
        #: hex hashes of the blocks above the fetched height, those of them that are known
        self._hex_hashes: list[str] = []
        #: blocks in the last request, 0 before the first
        self._last_count = 0
        #: bytes, a running average
        self.ave_size = self.MIN_CACHE_BYTES // 10

    async def main_loop(self, bp_height: int) -> None:
        """Fetch for ever, beginning above the processor's height."""
        await self.reset_height(bp_height)
        news = False
        while True:
            try:
                await self.refill_event.wait()
                heard, news = news, False
                if not await self._prefetch_blocks(heard):
                    news = await self._wait_for_news()
            except DaemonError as e:
                self.logger.info(f"ignoring daemon error: {printable(e)}")
                await asyncio.sleep(self.polling_delay)
            except OperatorError:
                # A node of another chain, or a header hash whose package is missing.
                raise
            except asyncio.CancelledError as e:
                self.logger.info(f"cancelled; prefetcher stopping {e}")
                raise
            except Exception:
                self.logger.exception("ignoring unexpected exception")
                await asyncio.sleep(self.polling_delay)

    async def _wait_for_news(self) -> bool:
        """Wait for the polling delay, or less if somebody else hears of a new height.

        True if so: the height need not be asked for again.
        """
        # Not wait_for: before Python 3.12 it can lose a cancellation that comes with the wake-up.
        news = asyncio.ensure_future(self.daemon.height_changed.wait())
        try:
            await asyncio.wait([news], timeout=self.polling_delay)
            return news.done()
        finally:
            news.cancel()

    def get_prefetched_blocks(self) -> list[bytes]:
        """Take the blocks fetched so far, in height order."""
        blocks = self.blocks
        self.blocks = []
        self.cache_bytes = 0
        self.refill_event.set()
        return blocks

    async def reset_height(self, height: int) -> None:
        """Drop what was fetched and go on above ``height``."""
        async with self.semaphore:
            self.blocks.clear()
            self.cache_bytes = 0
            self.fetched_height = height
            self._hex_hashes = []
            self.refill_event.set()
        try:
            daemon_height = await self.daemon.height()
        except DaemonError as e:
            self.logger.info(f"ignoring daemon error: {printable(e)}")
            return
        behind = daemon_height - height
        if behind > 0:
            self.logger.info(
                f"catching up to daemon height {daemon_height:,d} ({behind:,d} blocks behind)"
            )
        elif behind < 0:
            self.logger.warning(above_text(height, daemon_height))
        else:
            self.logger.info(f"caught up to daemon height {daemon_height:,d}")

    async def _prefetch_blocks(self, news: bool = False) -> bool:
        """Fetch until the cache is full; False if the node has nothing more.

        ``news`` says that the height last heard is of this moment.
        """
        daemon_height = self.daemon.cached_height() if news else None
        if daemon_height is None:
            daemon_height = await self.daemon.height()
        async with self.semaphore:
            while self.cache_bytes < self.MIN_CACHE_BYTES:
                first = self.fetched_height + 1
                count = self._batch_count(first, daemon_height)
                if not count:
                    self.caught_up = True
                    # The processor may only be waiting for the node to reach its height.
                    self.blocks_event.set()
                    return False
                try:
                    await self._fetch(first, count, daemon_height)
                except BaseException:
                    # The node may have changed branches: its hashes are asked for again.
                    self._hex_hashes = []
                    raise
        self.refill_event.clear()
        return True

    def _batch_count(self, first: int, daemon_height: int) -> int:
        room = max(self.MIN_CACHE_BYTES // max(self.ave_size, 1), 1)
        if self._last_count:
            expected = max(self.REQUEST_BYTES // max(self.ave_size, 1), 1)
            room = min(room, expected, self.MAX_GROWTH * self._last_count)
        count = max(0, min(daemon_height - self.fetched_height, room))
        return min(count, self.coin.max_fetch_blocks(first))

    async def _take_hex_hashes(self, first: int, count: int, daemon_height: int) -> list[str]:
        """Return the hashes of blocks to fetch.

        Once the chain is caught up with, none is asked for before its block is.
        """
        if len(self._hex_hashes) < count:
            ahead = min(daemon_height - self.fetched_height, self.HASHES_AT_ONCE)
            wanted = count if self.caught_up else max(count, ahead)
            self._hex_hashes = await self.daemon.block_hex_hashes(first, wanted)
        hex_hashes = self._hex_hashes[:count]
        del self._hex_hashes[:count]
        return hex_hashes

    async def _fetch(self, first: int, count: int, daemon_height: int) -> None:
        hex_hashes = await self._take_hex_hashes(first, count, daemon_height)
        if self.caught_up:
            self.logger.info(f"new block height {first + count - 1:,d} hash {hex_hashes[-1]}")
        blocks = list(await self.daemon.raw_blocks(hex_hashes))
        self._check(first, hex_hashes, blocks)
        if first == 0:
            blocks[0] = self.coin.genesis_block(blocks[0])
            self.logger.info(f"verified genesis block with hash {hex_hashes[0]}")
        size = sum(map(len, blocks))
        if count >= self.AVERAGE_OVER:
            self.ave_size = size // count
        else:
            unseen = self.AVERAGE_OVER - count
            self.ave_size = (size + unseen * self.ave_size) // self.AVERAGE_OVER
        self._last_count = count
        self.blocks.extend(blocks)
        self.cache_bytes += size
        self.fetched_height += count
        self.blocks_event.set()

    def _check(self, first: int, hex_hashes: Sequence[str], blocks: Sequence[bytes]) -> None:
        """Refuse an answer that is not the blocks asked for."""
        if len(blocks) != len(hex_hashes):
            raise DaemonError(f"{len(hex_hashes):,d} blocks asked for, {len(blocks):,d} received")
        try:
            last = self.coin.block_header(blocks[-1], first + len(blocks) - 1)
            last_hash = self.coin.header_hash(last)
        except DeserializeError as e:
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is none: {e}") from e
        if last_hash != block_hash(hex_hashes[-1]):
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is another one")
