"""Headers for clients and peers: a cache of chunks, and the proofs.

The ``async`` methods run on the event loop; threads of the :class:`ReadPool` read.  After a
reorganisation, which ``backup_count`` shows, they use nothing cached.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from logging import Logger

from electrumx.lib.lru import LRUCache
from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server.db.read_pool import PendingRead
from electrumx.server.db.stores import Stores
from electrumx.server.storage.schema import DBError

#: numbers of chunks, and their headers
Chunks = list[tuple[int, list[bytes]]]
#: run a read in a thread, again if a reorganisation came between
SteadyRead = Callable[[Callable[[bool], Chunks]], PendingRead[Chunks]]

#: headers read and cached together, and the bytes of them in the cache
HEADER_CHUNK = 256
HEADER_CACHE_BYTES = 4_000_000
#: chunks to assemble at most: more are read apart, and not cached
MAX_CHUNKS = 16


class Headers:
    """Headers of the committed chain; ``steady_read`` runs a read at a stable tip."""

    #: block hashes computed on the event loop at most: a hash takes about 2 µs
    MAX_LOOP_HASHES = 100

    def __init__(
        self,
        stores: Stores,
        steady_read: SteadyRead,
        logger: Logger,
    ) -> None:
        self._stores = stores
        self._steady_read = steady_read
        self._logger = logger
        # Of the generation that is the backup count; see cached_header.
        self._chunks: LRUCache[int, list[bytes]] = LRUCache(10_000, HEADER_CACHE_BYTES)
        self.merkle_cache = MerkleCache(Merkle(), self.block_hashes)

    def cached_header(self, height: int) -> bytes | None:
        """Return the header of a height from the cache, or None; does not block."""
        if self._chunks.generation != self._stores.backup_count:
            self.forget()
        if not 0 <= height <= self._stores.state.height:
            return None
        chunk = self._chunks.get(height // HEADER_CHUNK)
        position = height % HEADER_CHUNK
        return None if chunk is None or position >= len(chunk) else chunk[position]

    def cached_headers(self, start_height: int, count: int) -> bytes | None:
        """Return headers joined, all committed, if they are all cached; does not block."""
        if self._chunks.generation != self._stores.backup_count:
            self.forget()
        end = start_height + count
        parts: list[bytes] = []
        first = start_height // HEADER_CHUNK
        for number in range(first, (end - 1) // HEADER_CHUNK + 1):
            base = number * HEADER_CHUNK
            chunk = self._chunks.get(number)
            if chunk is None or len(chunk) < min(end - base, HEADER_CHUNK):
                return None
            parts += chunk[max(0, start_height - base) : end - base]
        return b"".join(parts)

    def forget(self) -> None:
        """Empty the cache of headers; headers cached later belong to the chain after the last undo."""
        self._chunks.clear()
        self._chunks.generation = self._stores.backup_count

    def _read_chunks(self, numbers: Sequence[int]) -> Chunks:
        """Read chunks of headers.  Runs in: a thread."""
        found = []
        for number in numbers:
            start = number * HEADER_CHUNK
            count = min(HEADER_CHUNK, self._stores.state.height + 1 - start)
            if count > 0:
                headers = self._stores.files.read_headers(start, count)
                found.append((number, self._stores.files.split_headers(start, headers)))
        return found

    async def load(self, start_height: int, count: int) -> None:
        """Read uncached headers of committed heights."""
        first, last = start_height // HEADER_CHUNK, (start_height + count - 1) // HEADER_CHUNK
        backups = self._stores.backup_count
        end = start_height + count
        wanted = []
        for number in range(first, last + 1):
            chunk = self._chunks.peek(number)
            if chunk is None or len(chunk) < min(end - number * HEADER_CHUNK, HEADER_CHUNK):
                wanted.append(number)
        chunks = await self._steady_read(lambda _bounded: self._read_chunks(wanted))
        for number, chunk in chunks:
            size = sum(map(len, chunk)) + len(chunk) * 40
            self._chunks.put(number, chunk, backups, size)

    async def raw_header(self, height: int) -> bytes:
        """Return the header of a height.  Raise IndexError if it is out of range."""
        header, count = await self.read_headers(height, 1)
        if count != 1:
            raise IndexError(f"height {height:,d} out of range")
        return header

    async def read_headers(self, start_height: int, count: int) -> tuple[bytes, int]:
        """Return (headers joined, how many), as many of ``count`` as the chain has.

        Raise DBError for a negative height or count.
        """
        if start_height < 0 or count < 0:
            raise DBError(f"{count:,d} headers starting at {start_height:,d} not on disk")
        available = max(0, min(count, self._stores.state.height + 1 - start_height))
        if not available:
            return b"", 0
        if available <= (MAX_CHUNKS - 1) * HEADER_CHUNK:
            cached = self.cached_headers(start_height, available)
            if cached is None:
                await self.load(start_height, available)
                cached = self.cached_headers(start_height, available)
            if cached is not None:
                return cached, available

        stores = self._stores

        def read() -> tuple[bytes, int]:
            available = max(0, min(count, stores.state.height + 1 - start_height))
            if not available:
                return b"", 0
            with stores.gate.reading():
                return stores.files.read_headers(start_height, available), available

        return await asyncio.to_thread(read)

    def split(self, start_height: int, headers: bytes) -> list[bytes]:
        """Cut headers apart that ``read_headers`` has returned from ``start_height`` on."""
        return self._stores.files.split_headers(start_height, headers)

    async def block_hashes(self, height: int, count: int) -> list[bytes]:
        """Return the hashes of ``count`` blocks, from ``height`` on.

        Raise DBError if the chain does not have all of them.
        """
        headers, available = await self.read_headers(height, count)
        if available != count:
            raise DBError(f"only got {available:,d} headers starting at {height:,d}")

        stores = self._stores

        def hash_all() -> list[bytes]:
            header_hash = stores.coin.header_hash
            return [header_hash(header) for header in stores.files.split_headers(height, headers)]

        if count <= self.MAX_LOOP_HASHES and stores.coin.STATIC_BLOCK_HEADERS:
            return hash_all()
        return await asyncio.to_thread(hash_all)

    async def branch_and_root(self, length: int, height: int) -> tuple[list[bytes], bytes]:
        """Return (branch, root) that prove the header of ``height`` among ``length`` headers."""
        return await self.merkle_cache.branch_and_root(length, height)

    async def branch_and_root_uncached(self, length: int, height: int) -> tuple[list[bytes], bytes]:
        """Return the same before the cache is populated: a thread hashes every header."""
        hashes = await self.block_hashes(0, length)
        return await asyncio.to_thread(Merkle().branch_and_root, hashes, height)

    def proof_hashes(self, length: int, height: int) -> int:
        """Return how many hashes ``branch_and_root`` would make now, of leaves included."""
        return self.merkle_cache.hashes_needed(length, height)

    async def populate_merkle_cache(self) -> None:
        """Prepare header proofs; await it when caught up, or before that once."""
        stores = self._stores
        if self.merkle_cache.initialized.is_set():
            return
        self._logger.info("populating header merkle cache...")
        start = time.monotonic()
        length = stores.recent_blocks.lowest_height(stores.state.height)
        await self.merkle_cache.initialize(max(1, length))
        self._logger.info(f"header merkle cache populated in {time.monotonic() - start:.1f}s")
