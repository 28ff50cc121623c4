"""What sessions share so as not to read it twice: histories, block tx hashes, merkle levels, fees.

Each cache holds at most 1,000 entries, the least recently used goes first. A read that began
before an invalidation may end after it; every cache therefore has a generation number, and a
result is kept only if the number is still the one at the beginning of the read. Runs on the event
loop; the database does its reading in threads.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server.db import DBError
from electrumx.server.session.limits import COST_CACHED, history_cost, tx_hashes_cost
from electrumx.server.session.params import BAD_REQUEST, HISTORY_TOO_LARGE

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

CACHE_ENTRIES = 1_000
# Blocks of at least this many txs get their merkle levels cached.
MERKLE_CACHE_MIN_TXS = 200
# A history entry takes about 99 bytes in a reply, the reply around it less than 100.
HISTORY_ENTRY_BYTES = 99
HISTORY_REPLY_BYTES = 100


class LRUCache(Generic[K, V]):
    """A bounded map that forgets the least recently used entry and counts its hits."""

    def __init__(self, max_entries: int = CACHE_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.lookups = 0
        self.hits = 0
        # Changes with every invalidation; see the module's docstring.
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return the entry, now the most recently used, or None."""
        self.lookups += 1
        value = self._entries.get(key)
        if value is not None:
            self.hits += 1
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, generation: int) -> None:
        """Store an entry that was read in that generation, unless there was another since."""
        if generation != self.generation:
            return
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def drop(self, keys: Iterable[K]) -> None:
        """Invalidate some entries."""
        self.generation += 1
        for key in keys:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Invalidate all entries."""
        self.generation += 1
        self._entries.clear()

    def summary(self) -> str:
        """Return the statistics as text."""
        return f"{self.lookups:,d} lookups {self.hits:,d} hits {len(self):,d} entries"


class HistoryCache:
    """Confirmed histories by hashX, as the database returns them."""

    def __init__(self, db: Any, max_send: int) -> None:
        self._db = db
        self.limit = (max_send - HISTORY_REPLY_BYTES) // HISTORY_ENTRY_BYTES
        # An entry is a history, or the number of entries read of one that is too large.
        self.cache: LRUCache[bytes, list[tuple[bytes, int]] | int] = LRUCache()

    async def limited_history(self, hashX: bytes) -> tuple[list[tuple[bytes, int]], float]:
        """Return (list of (tx hash, height) in chain order, cost); RPCError if it is too large.

        The list is shared: callers must not change it.
        """
        cost = COST_CACHED
        entry = self.cache.get(hashX)
        if entry is None:
            generation = self.cache.generation
            history = await self._db.limited_history(hashX, limit=self.limit)
            cost = history_cost(len(history))
            entry = len(history) if len(history) >= self.limit else history
            self.cache.put(hashX, entry, generation)
        if isinstance(entry, int):
            raise RPCError(HISTORY_TOO_LARGE, "history too large", cost=history_cost(entry))
        return entry, cost


class BlockCache:
    """Tx hashes and merkle levels of blocks, by height and header, for proofs."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._merkle = Merkle()
        # The header says which block of that height the entry belongs to.
        self.tx_hashes: LRUCache[tuple[int, bytes | None], list[bytes]] = LRUCache()
        self.levels: LRUCache[tuple[int, bytes | None], MerkleCache] = LRUCache()

    def clear(self) -> None:
        """Forget all: the chain was reorganised."""
        self.tx_hashes.clear()
        self.levels.clear()

    async def header(self, height: int) -> bytes | None:
        """Return the raw header of a block, None if there is none."""
        try:
            return await self._db.raw_header(height)  # type: ignore[no-any-return]
        except IndexError:
            return None

    async def hashes_at(self, height: int, header: bytes | None) -> tuple[list[bytes], float]:
        """Return (tx hashes in block order, cost) of a height whose header was just read."""
        tx_hashes = self.tx_hashes.get((height, header))
        if tx_hashes is not None:
            return tx_hashes, COST_CACHED
        while True:
            generation = self.tx_hashes.generation
            try:
                tx_hashes = await self._db.tx_hashes_at_blockheight(height)
            except DBError as e:
                raise RPCError(BAD_REQUEST, f"db error: {e!r}") from None
            assert tx_hashes is not None
            if generation == self.tx_hashes.generation:
                break
        self.tx_hashes.put((height, header), tx_hashes, generation)
        return tx_hashes, tx_hashes_cost(len(tx_hashes))

    async def branch(
        self, height: int, header: bytes | None, tx_hashes: list[bytes], tx_pos: int
    ) -> tuple[list[str], float]:
        """Return (merkle branch of displayed hashes, cost) of the tx at a position."""
        count = len(tx_hashes)
        if count < MERKLE_CACHE_MIN_TXS:
            branch, _root = self._merkle.branch_and_root(tx_hashes, tx_pos)
            return [hash_to_hex_str(item) for item in branch], count / 2500
        key = (height, header)
        levels = self.levels.get(key)
        cost = 10 * math.sqrt(count)
        if levels is None:
            cost = float(count)
            generation = self.levels.generation

            async def source(start: int, length: int) -> list[bytes]:
                return tx_hashes[start : start + length]

            levels = MerkleCache(self._merkle, source)
            await levels.initialize(count)
            self.levels.put(key, levels, generation)
        branch, _root = await levels.branch_and_root(count, tx_pos)
        return [hash_to_hex_str(item) for item in branch], cost / 2500


class FeeEstimates:
    """Fee estimates by (block target, mode): one daemon call for each, per chain tip."""

    def __init__(self, tip: Callable[[], bytes], bucket: Callable[[int], int]) -> None:
        self._tip = tip
        self._bucket = bucket
        self.cache: LRUCache[tuple[int, str | None], _Estimate] = LRUCache()

    async def get(
        self, number: int, mode: str | None, ask: Callable[[int, str | None], Any]
    ) -> Any:
        """Return an estimate; ``await ask(number, mode)`` fetches a missing one."""
        key = (self._bucket(number), mode)
        entry = self.cache.get(key)
        if entry is None:
            entry = _Estimate()
            self.cache.put(key, entry, self.cache.generation)
        async with entry.lock:
            tip = self._tip()
            if entry.tip == tip:
                return entry.value
            entry.value = await ask(*key)
            entry.tip = tip
            return entry.value


class _Estimate:
    """One remembered estimate, and the lock under which it is renewed."""

    __slots__ = ("lock", "tip", "value")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.tip: bytes | None = None
        self.value: Any = None
