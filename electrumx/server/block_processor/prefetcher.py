"""Fetches raw blocks ahead of the block processor, bounded in bytes.

Owns the fetched blocks until the processor takes them.  Waiting for the daemon overlaps with the
processing of earlier blocks in a thread.

The size of the blocks received last decides how many blocks a request is for: over REST, where each
comes by itself, so many that all connections are busy with blocks of today's size.  If they are
larger than one reply may be, the prefetcher splits the request.  It logs a block that is too large
alone, and requests it again after TOO_LARGE_SECS, or when the daemon or its chain changes.

Runs in: one task on the event loop.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.errors import DeserializeError, OperatorError
from electrumx.lib.log_text import printable
from electrumx.lib.tasks import wait_for_event
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.responses import ReplyTooLargeError, block_hash
from electrumx.server.daemon.retry import RepeatFilter


class _Refused(NamedTuple):
    """A block too large to read: of which daemon, and until when not to request it."""

    hex_hash: str
    url: str
    until: float


def above_text(height: int, daemon_height: int) -> str:
    """Return the log text for a database that is above the daemon's height."""
    above = height - daemon_height
    plural = "" if above == 1 else "s"
    return (
        f"the database is {above:,d} block{plural} above daemon height {daemon_height:,d}: "
        f"waiting for the daemon to reach height {height:,d}"
    )


class Prefetcher:
    """Keeps a list of blocks that follow the processor's height.

    Sets ``blocks_event`` whenever there are blocks to process.
    """

    #: bytes of raw blocks at which fetching pauses, until the processor takes them
    MIN_CACHE_BYTES = 8 * 1024 * 1024
    #: bytes of raw blocks in one request: as text they take twice that, in several copies
    REQUEST_BYTES = 2 * 1024 * 1024
    #: of those requested together over REST, which has no copies: four of the largest blocks
    #: of Bitcoin, for as many connections
    REST_REQUEST_BYTES = 16 * 1024 * 1024
    #: so many smaller blocks, or REQUEST_BYTES of them, keep the connections as busy; more would take
    #: memory that the processor's caches do not have
    REST_BLOCKS = 16
    #: how much longer than the one before a request may be: blocks can become larger suddenly
    MAX_GROWTH = 2
    #: divisor of a request that is too large; until all its blocks have come, later requests are
    #: not larger: the daemon, too, assembles replies of gigabytes in memory
    SPLIT = 8
    #: hashes in one request while there are many blocks to fetch
    HASHES_AT_ONCE = 500
    #: blocks that the average size covers
    AVERAGE_OVER = 10
    #: seconds until another request for a block that was too large to read
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
        #: height of the block fetched last; the semaphore protects it
        self.fetched_height = -1
        self.semaphore = asyncio.Semaphore()
        self.refill_event = asyncio.Event()
        self.cache_bytes = 0
        #: hex hashes of the next blocks above the fetched height, as far as known
        self._hex_hashes: list[str] = []
        #: blocks in the last request, 0 before the first
        self._last_count = 0
        #: bytes, a running average
        self.ave_size = self.MIN_CACHE_BYTES // 10
        #: bytes, of a block in the last request
        self._last_size = 0
        #: height up to which requests are for at most that many blocks, after one was too large
        self._cautious_to, self._cautious_count = -1, 0
        self._refused: _Refused | None = None
        #: filters an error that lasts from the log
        self._repeats = RepeatFilter()

    async def main_loop(self, bp_height: int) -> None:
        """Fetch until cancelled, starting above the processor's height."""
        await self.reset_height(bp_height)
        is_current = False
        while True:
            try:
                await self.refill_event.wait()
                was_current, is_current = is_current, False
                if not await self._prefetch_blocks(was_current):
                    is_current = await self._wait_for_height()
            except DaemonError as e:
                text = printable(e)
                if self._repeats.passes(text):
                    self.logger.info(f"ignoring daemon error: {text}")
                await asyncio.sleep(self.polling_delay)
            except OperatorError:
                # A daemon of another chain, or a header hash whose package is missing.
                raise
            except asyncio.CancelledError as e:
                self.logger.info(f"cancelled; prefetcher stopping {e}")
                raise
            except Exception:
                self.logger.exception("ignoring unexpected exception")
                await asyncio.sleep(self.polling_delay)

    async def _wait_for_height(self) -> bool:
        """Wait for the polling delay, or less if another request returns a new height.

        Return whether one did: then the height needs no other request.
        """
        return await wait_for_event(self.daemon.height_changed, self.polling_delay)

    def get_prefetched_blocks(self) -> list[bytes]:
        """Return the blocks fetched so far, in height order, and forget them."""
        blocks = self.blocks
        self.blocks = []
        self.cache_bytes = 0
        self.refill_event.set()
        return blocks

    async def reset_height(self, height: int) -> None:
        """Drop fetched blocks and continue above ``height``."""
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

    async def _prefetch_blocks(self, height_is_current: bool = False) -> bool:
        """Fetch until the cache is full; return False if the daemon has no more blocks.

        ``height_is_current``: whether the cached height came just now.
        """
        daemon_height = self.daemon.cached_height() if height_is_current else None
        if daemon_height is None:
            daemon_height = await self.daemon.height()
        async with self.semaphore:
            while self.cache_bytes < self.MIN_CACHE_BYTES:
                first = self.fetched_height + 1
                count = self._batch_count(first, daemon_height)
                if not count:
                    self.caught_up = True
                    # The processor may be waiting only for the daemon to reach its height.
                    self.blocks_event.set()
                    return False
                try:
                    if not await self._fetch(first, count, daemon_height):
                        return False
                except BaseException:
                    # The daemon may have changed branches: request its hashes again.
                    self._hex_hashes = []
                    raise
        self.refill_event.clear()
        return True

    def _batch_count(self, first: int, daemon_height: int) -> int:
        size = max(self.ave_size, self._last_size, 1)
        if self.daemon.has_rest():
            enough = max(self.REQUEST_BYTES, self.REST_BLOCKS * size)
            most = min(self.REST_REQUEST_BYTES, enough)
        else:
            most = self.REQUEST_BYTES if self._last_count else self.MIN_CACHE_BYTES
        room = max(most // size, 1)
        if self._last_count:
            room = min(room, self.MAX_GROWTH * self._last_count)
        if first <= self._cautious_to:
            room = min(room, self._cautious_count)
        count = max(0, min(daemon_height - self.fetched_height, room))
        return min(count, self.coin.max_fetch_blocks(first))

    async def _take_hex_hashes(self, first: int, count: int, daemon_height: int) -> list[str]:
        """Return the hashes of blocks to fetch.

        Once caught up, request none before its block.
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
        """Fetch blocks; return False if even the first is too large."""
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
        """Return the first of the blocks, as many as one reply can have.

        Raise ReplyTooLargeError if not even one fits.
        """
        count = len(hex_hashes)
        while True:
            try:
                blocks = list(await self.daemon.raw_blocks(hex_hashes[:count]))
            except ReplyTooLargeError:
                if count == 1:
                    raise
                self._be_cautious(first + count - 1, max(1, count // self.SPLIT))
                count = self._cautious_count
                continue
            # Over REST they are the first ones only where all were too large together.
            if not 0 < len(blocks) <= count:
                raise DaemonError(f"{count:,d} blocks asked for, {len(blocks):,d} received")
            self._hex_hashes = hex_hashes[len(blocks) :] + self._hex_hashes
            if len(blocks) < count:
                self._be_cautious(first + count - 1, len(blocks))
            return blocks

    def _be_cautious(self, height: int, count: int) -> None:
        """Request at most so many blocks at once, up to a height."""
        self._cautious_to = max(self._cautious_to, height)
        self._cautious_count = count

    def _is_refused(self, hex_hash: str) -> bool:
        refused = self._refused
        return (
            refused is not None
            and (refused.hex_hash, refused.url) == (hex_hash, self.daemon.current_url())
            and time.monotonic() < refused.until
        )

    def _refuse(self, height: int, hex_hash: str, error: ReplyTooLargeError) -> None:
        """Log that a block is too large, and do not request it for a time."""
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
        """Add blocks to those that the processor may process."""
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
        """Raise DaemonError if a reply has other blocks than those requested."""
        try:
            last = self.coin.block_header(blocks[-1], first + len(blocks) - 1)
            last_hash = self.coin.header_hash(last)
        except DeserializeError as e:
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is none: {e}") from e
        if last_hash != block_hash(hex_hashes[-1]):
            raise DaemonError(f"the block received for hash {hex_hashes[-1]} is another one")
