"""What sessions share so as not to read it twice: blocks' tx hashes and trees, raw txs, fees.

Each cache holds at most 1,000 entries, those of blocks also at most 32 MiB each, that of raw txs
16 MiB; the least recently used goes first. A read that began before an invalidation may end after it, hence the generations
of ``LRUCache``. What is kept of scripts is in ``scripts``. Runs on the event loop; the database
does its reading in threads.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiorpcx import RPCError

from electrumx.lib.lru import LRUCache
from electrumx.server.db import wire_rows
from electrumx.server.db.flusher import DBError
from electrumx.server.session.engine.json_result import EncodedJSON, encode_result
from electrumx.server.session.engine.limits import COST_CACHED, tx_hashes_cost
from electrumx.server.session.engine.params import BAD_REQUEST
from electrumx.server.storage.schema import DBReadError

__all__ = ["BlockCache", "BlockTxs", "FeeEstimates", "LRUCache", "RawTxs"]

CACHE_ENTRIES = 1_000
CACHE_BYTES = 32 << 20
RAW_TX_BYTES = 16 << 20
# Blocks of at least this many txs get their merkle levels cached apart.
MERKLE_CACHE_MIN_TXS = 200
# Trees over more leaves are built in a thread: it takes about a millisecond.
INLINE_LEAVES = 4_000 if wire_rows.COMPILED else 500
HASH_LEN = 32


class BlockTxs:
    """The tx hashes of one block, and the merkle tree over them if it is small."""

    __slots__ = ("hashes", "levels")

    def __init__(self, hashes: bytes) -> None:
        #: joined, in block order
        self.hashes = hashes
        #: the levels above, see ``wire_rows.merkle_levels``
        self.levels: bytes | None = None

    def __len__(self) -> int:
        return len(self.hashes) // HASH_LEN

    def __getitem__(self, tx_pos: int) -> bytes:
        return self.hashes[tx_pos * HASH_LEN : (tx_pos + 1) * HASH_LEN]

    def index(self, tx_hash: bytes) -> int:
        """Return the position of a transaction, -1 if it is not there."""
        found = self.hashes.find(tx_hash)
        # A match may straddle two hashes, if anyone makes such a pair.
        while found % HASH_LEN > 0 and found >= 0:
            found = self.hashes.find(tx_hash, found + 1)
        return found // HASH_LEN


def branch_of(txs: BlockTxs, levels: bytes, tx_pos: int) -> list[str]:
    """Return the merkle branch, leaf side first, of a position: hashes as displayed."""
    branch = []
    level, start, width = txs.hashes, 0, len(txs)
    while width > 1:
        sibling = min(tx_pos ^ 1, width - 1)
        at = start + sibling * HASH_LEN
        branch.append(level[at : at + HASH_LEN][::-1].hex())
        # The leaves are a string of their own.
        start = 0 if level is txs.hashes else start + width * HASH_LEN
        level = levels
        width = (width + 1) // 2
        tx_pos //= 2
    return branch


class BlockCache:
    """Tx hashes and merkle levels of blocks, by height and header, for proofs."""

    def __init__(self, db: Any) -> None:
        self._db = db
        # The header says which block of that height the entry belongs to.
        self.tx_hashes: LRUCache[tuple[int, bytes | None], BlockTxs] = LRUCache(
            CACHE_ENTRIES, CACHE_BYTES
        )
        self.levels: LRUCache[tuple[int, bytes | None], bytes] = LRUCache(
            CACHE_ENTRIES, CACHE_BYTES
        )

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

    def hashes_now(self, height: int) -> tuple[BlockTxs, bytes] | None:
        """Return (tx hashes, header) of a block if both are in memory."""
        header = self._db.cached_header(height)
        if header is None or (height, header) not in self.tx_hashes:
            return None
        txs = self.tx_hashes.get((height, header))
        assert txs is not None
        return txs, header

    async def hashes_at(self, height: int, header: bytes | None) -> tuple[BlockTxs, float]:
        """Return (tx hashes in block order, cost) of a height whose header was just read."""
        txs = self.tx_hashes.get((height, header))
        if txs is not None:
            return txs, COST_CACHED
        while True:
            generation = self.tx_hashes.generation
            try:
                txs = BlockTxs(await self._db.block_tx_hashes(height))
            except DBReadError:
                raise
            except DBError as e:
                raise RPCError(BAD_REQUEST, f"db error: {e!r}") from None
            if generation == self.tx_hashes.generation:
                break
        size = len(txs.hashes) * (2 if len(txs) < MERKLE_CACHE_MIN_TXS else 1)
        self.tx_hashes.put((height, header), txs, generation, size)
        return txs, tx_hashes_cost(len(txs))

    def branch_now(
        self, height: int, header: bytes | None, txs: BlockTxs, tx_pos: int
    ) -> tuple[list[str], float] | None:
        """Return what ``branch`` does if that takes no thread."""
        count = len(txs)
        if count < MERKLE_CACHE_MIN_TXS:
            if txs.levels is None:
                txs.levels = wire_rows.merkle_levels(txs.hashes)
            return branch_of(txs, txs.levels, tx_pos), count / 2500
        levels = self.levels.get((height, header))
        cost = 10 * math.sqrt(count)
        if levels is None:
            if count > INLINE_LEAVES:
                return None
            levels = wire_rows.merkle_levels(txs.hashes)
            self._keep(height, header, levels)
            cost = float(count)
        return branch_of(txs, levels, tx_pos), cost / 2500

    def _keep(self, height: int, header: bytes | None, levels: bytes) -> None:
        self.levels.put((height, header), levels, self.levels.generation, len(levels))

    async def branch(
        self, height: int, header: bytes | None, txs: BlockTxs, tx_pos: int
    ) -> tuple[list[str], float]:
        """Return (merkle branch of displayed hashes, cost) of the tx at a position."""
        found = self.branch_now(height, header, txs, tx_pos)
        if found is not None:
            return found
        levels = await asyncio.to_thread(wire_rows.merkle_levels, txs.hashes)
        self._keep(height, header, levels)
        return branch_of(txs, levels, tx_pos), len(txs) / 2500


class RawTxs:
    """Raw transactions in hex, as the node sent them, encoded as JSON.

    Several wallets ask for a transaction when it is new: the payer and the payee, each on several
    devices.  An entry is valid while nothing can have removed the transaction from the node:

    * a transaction in our mempool: while it is there;
    * a confirmed transaction: until clients are notified of another tip.

    A transaction that is not in our mempool may be confirmed, or so new that the mempool does not
    have it yet; the latter may be replaced at any moment.  The first answer is therefore only
    noted, not cached.  If it is asked for again at the same tip, the node's verbose form is
    requested, once, as that states the number of confirmations.
    """

    #: hex digits of those that are cached, at most
    MAX_DIGITS = 100_000
    #: and of those whose verbose form is requested: it may have forty times as many bytes
    MAX_VERBOSE_DIGITS = 20_000

    def __init__(
        self, tip: Callable[[], bytes | None], in_mempool: Callable[[bytes], bool]
    ) -> None:
        # hash -> (answer, tip, whether unconfirmed); without an answer if it was only noted
        self.cache: LRUCache[bytes, tuple[EncodedJSON | None, bytes | None, bool]] = LRUCache(
            CACHE_ENTRIES, RAW_TX_BYTES
        )
        self._tip = tip
        self._in_mempool = in_mempool

    def get(self, tx_hash: bytes) -> EncodedJSON | None:
        """Return the answer for a transaction, None if the node must be asked."""
        entry = self.cache.get(tx_hash)
        if entry is None:
            return None
        answer, tip, unconfirmed = entry
        valid = self._in_mempool(tx_hash) if unconfirmed else tip == self._tip()
        if not valid:
            # It may return later, with another witness.
            self.cache.drop((tx_hash,))
            return None
        return answer

    async def fetch(self, tx_hash: bytes, ask: Callable[[bool], Awaitable[Any]]) -> Any:
        """Return the hex of a transaction, and cache it if that is safe.

        ``ask(verbose)`` asks the node for it.
        """
        tip = self._tip()
        noted = self.cache.peek(tx_hash)
        if noted is not None and noted[1:] == (tip, False):
            result = await ask(True)
            if isinstance(result, dict) and isinstance(result.get("hex"), str):
                confirmed = _is_positive(result.get("confirmations"))
                return self._keep(tx_hash, result["hex"], tip, confirmed=confirmed)
        return self._keep(tx_hash, await ask(False), tip, confirmed=False)

    def _keep(self, tx_hash: bytes, result: Any, tip: bytes | None, *, confirmed: bool) -> Any:
        """Return a result; cache it if it is confirmed or in our mempool, else note it."""
        if not isinstance(result, str):
            return result
        unconfirmed = self._in_mempool(tx_hash)
        safe = unconfirmed or confirmed
        if len(result) <= (self.MAX_DIGITS if safe else self.MAX_VERBOSE_DIGITS):
            answer = encode_result(result) if safe else None
            entry = answer, tip, unconfirmed
            self.cache.put(tx_hash, entry, self.cache.generation, len(answer or b""))
        return result


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and value > 0


class FeeEstimates:
    """Fee estimates by (block target, mode): one daemon call for each, per chain tip."""

    def __init__(self, tip: Callable[[], bytes], bucket: Callable[[int], int]) -> None:
        self._tip = tip
        self._bucket = bucket
        self.cache: LRUCache[tuple[int, str | None], _Estimate] = LRUCache()

    def now(self, number: int, mode: str | None) -> Any:
        """Return an estimate that is in memory, else None."""
        entry = self.cache.get((self._bucket(number), mode))
        if entry is None or entry.lock.locked() or entry.tip != self._tip():
            return None
        return entry.value

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
