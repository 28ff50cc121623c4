"""Fetches raw blocks ahead of the block processor, bounded in bytes.

Owns the blocks that are fetched but not yet taken.  Runs as one task on the event loop; the
waiting for the node overlaps with the processing of earlier blocks in a thread.

How many blocks a request is for follows from the size of those that came last.  If they turn out
to be larger than may be read at once, the request is split; a block that is too large alone is
logged, and asked for again after TOO_LARGE_SECS, or when the node or its chain is another one.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.log_text import printable
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import ReplyTooLargeError, block_hash
from electrumx.server.daemon.retry import RepeatFilter


@dataclass(slots=True, frozen=True)
class _Refused:
    """A block that is too large to be read: from which node, and until when it is not tried."""

    hex_hash: str
    url: str
    until: float


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
    #: by what a request is divided that is too large; until all that it was for is fetched, later
    #: ones are not larger: the node, too, makes answers of gigabytes in memory
    SPLIT = 8
    #: hashes to ask for at once while there are many blocks to fetch
    HASHES_AT_ONCE = 500
    #: blocks over which the average size is kept
    AVERAGE_OVER = 10
    #: seconds after which a block that was too large to be read is asked for again
    TOO_LARGE_SECS = 600.0

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
        #: bytes, of a block in the last request
        self._last_size = 0
        #: height up to which requests are for that many blocks at most, after one was too large
        self._cautious_to, self._cautious_count = -1, 0
        self._refused: _Refused | None = None
        #: keeps an error that lasts from being logged at each poll
        self._repeats = RepeatFilter()

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
                text = printable(e)
                if self._repeats.passes(text):
                    self.logger.info(f"ignoring daemon error: {text}")
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
                    if not await self._fetch(first, count, daemon_height):
                        return False
                except BaseException:
                    # The node may have changed branches: its hashes are asked for again.
                    self._hex_hashes = []
                    raise
        self.refill_event.clear()
        return True

    def _batch_count(self, first: int, daemon_height: int) -> int:
        size = max(self.ave_size, self._last_size, 1)
        room = max(self.MIN_CACHE_BYTES // size, 1)
        if self._last_count:
            expected = max(self.REQUEST_BYTES // size, 1)
            room = min(room, expected, self.MAX_GROWTH * self._last_count)
        if first <= self._cautious_to:
            room = min(room, self._cautious_count)
        count = max(0, min(daemon_height - self.fetched_height, room))
        return min(count, self.coin.max_fetch_blocks(first))

    async def _take_hex_hashes(self, first: int, count: int, daemon_height: int) -> list[str]:
        """Return the hashes of blocks to fetch.

        Once the chain is caught up with, none is asked for before its block is.
        """
        if len(self._hex_hashes) < count:
            ahead = min(daemon_height - self.fetched_height, self.HASHES_AT_ONCE)
            wanted = count if self.caught_up else max(count, ahead)
            hex_hashes = await self.daemon.block_hex_hashes(first, wanted)
            for hex_hash in hex_hashes:
                block_hash(hex_hash)
            self._hex_hashes = hex_hashes
        hex_hashes = self._hex_hashes[:count]
        del self._hex_hashes[:count]
        return hex_hashes

    async def _fetch(self, first: int, count: int, daemon_height: int) -> bool:
        """Fetch blocks; return whether there were any that can be read."""
        hex_hashes = await self._take_hex_hashes(first, count, daemon_height)
        if self._is_refused(hex_hashes[0]):
            self._hex_hashes = []
            return False
        if self.caught_up:
            self.logger.info(f"new block height {first + count - 1:,d} hash {hex_hashes[-1]}")
        try:
            blocks = await self._read(first, hex_hashes)
        except ReplyTooLargeError as e:
            self._refuse(first, hex_hashes[0], e)
            return False
        hex_hashes = hex_hashes[: len(blocks)]
        self._check(first, hex_hashes, blocks)
        if first == 0:
            blocks[0] = self.coin.genesis_block(blocks[0])
            self.logger.info(f"verified genesis block with hash {hex_hashes[0]}")
        self._take(blocks)
        return True

    async def _read(self, first: int, hex_hashes: list[str]) -> list[bytes]:
        """Return the first of the blocks, as many as can be read at once.

        Raises ReplyTooLargeError if not even one can.
        """
        count = len(hex_hashes)
        while True:
            try:
                blocks = list(await self.daemon.raw_blocks(hex_hashes[:count]))
            except ReplyTooLargeError:
                if count == 1:
                    raise
                self._cautious_to = max(self._cautious_to, first + count - 1)
                count = self._cautious_count = max(1, count // self.SPLIT)
                continue
            self._hex_hashes = hex_hashes[count:] + self._hex_hashes
            if len(blocks) != count:
                raise DaemonError(f"{count:,d} blocks asked for, {len(blocks):,d} received")
            return blocks

    def _is_refused(self, hex_hash: str) -> bool:
        refused = self._refused
        return (
            refused is not None
            and (refused.hex_hash, refused.url) == (hex_hash, self.daemon.current_url())
            and time.monotonic() < refused.until
        )

    def _refuse(self, height: int, hex_hash: str, error: ReplyTooLargeError) -> None:
        """Log that a block is too large, and remember it."""
        self._hex_hashes = []
        until = time.monotonic() + self.TOO_LARGE_SECS
        self._refused = _Refused(hex_hash, self.daemon.current_url(), until)
        details = error.args[0] if error.args else ""
        if isinstance(details, list) and details:
            details = details[0].get("message")
        self.logger.error(
            f"block {height:,d} ({hex_hash}) is too large to be read: {printable(details)}.  The "
            f"server cannot go beyond height {height - 1:,d}; the block is asked for again in "
            f"{self.TOO_LARGE_SECS / 60:.0f} minutes, or when the daemon or its chain is another"
        )

    def _take(self, blocks: list[bytes]) -> None:
        """Add blocks to those that the processor may take."""
        size, count = sum(map(len, blocks)), len(blocks)
        self._last_size = size // count
        if count >= self.AVERAGE_OVER:
            self.ave_size = self._last_size
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
        try:
            last = self.coin.block_header(blocks[-1], first + len(blocks) - 1)
            last_hash = self.coin.header_hash(last)
        except DeserializeError as e:
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is none: {e}") from e
        if last_hash != block_hash(hex_hashes[-1]):
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is another one")
