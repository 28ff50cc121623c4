"""Cached queries of scripts that sessions share: histories with their statuses, balances, UTXOs.

``now`` returns a cached value, or None; ``read`` and ``fetch`` read the database on a miss.  Reads
of one script are single-flight: requests for it share one read.

The caches hold histories and UTXOs as the packed strings of ``wire_rows``, balances as numbers: at
most 50,000 entries and 32 MiB of each (8 MiB of balances), least recently used evicted first.

When a block touches a script, the caches drop its balance and UTXOs.  Its history only grew: it
becomes stale, and the next request reads the entries after its last transaction (``script_history``).
A reorganisation, which changes ``db.backup_count``, empties all caches.  A read that began before a
block touched its script may end after it: requests get its result, but the cache does not, see the
generations of ``LRUCache``.

Runs on the event loop; the database reads in threads.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from aiorpcx import RPCError

from electrumx.lib.lru import LRUCache
from electrumx.lib.tasks import EagerFuture
from electrumx.lib.util import chunks
from electrumx.server.db import wire_rows
from electrumx.server.db.queries import Balance, PackedHistory, PackedUTXOs
from electrumx.server.session.engine.params import HISTORY_TOO_LARGE
from electrumx.server.session.engine.prices import COST_CACHED, history_cost
from electrumx.server.session.shared.script_history import ScriptHistory

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")
R = TypeVar("R")

MAX_ENTRIES = 50_000
MAX_BYTES = 32 << 20
MAX_BALANCE_BYTES = 8 << 20
# A history entry takes about 99 bytes in a reply, the reply around it less than 100.
HISTORY_ENTRY_BYTES = 99
HISTORY_REPLY_BYTES = 100
# Of a longer history only the hash stays cached once it is known.
KEPT_HISTORY_BYTES = 4 << 20
# Scripts examined, and histories extended in a thread, before yielding to the event loop: about a
# millisecond, and two.
EXAMINED_AT_ONCE = 2_000
EXTENDED_AT_ONCE = 2_500


class Read(Protocol[T_co]):
    """A read of the database."""

    def add_done_callback(self, callback: "Callable[[Read[T_co]], object]", /) -> object:
        """Call ``callback`` with this object when the read has ended."""

    def result(self) -> T_co:
        """Return the result, or raise the error."""


class Database(Protocol):
    """The database, as the caches use it."""

    @property
    def backup_count(self) -> int:
        """The number of times that blocks were undone."""

    def history_entries(
        self, hashX: bytes, *, limit: int, after: int, only_below: bool
    ) -> Read[PackedHistory]:
        """Read at most ``limit`` entries after a transaction number (-1: from the first).

        With ``only_below``, only count them where there are so many.
        """

    def packed_utxos(self, hashX: bytes) -> Read[PackedUTXOs]:
        """Read the UTXOs of a script."""

    def balance(self, hashX: bytes) -> Read[Balance]:
        """Read the number and sum of the UTXOs of a script."""


class PendingValue(EagerFuture[V]):
    """A value of a script during its read, for all requests for it."""

    __slots__ = ("cost", "generation", "hashX", "known")

    def __init__(self, hashX: bytes, generation: int) -> None:
        self._callbacks = []
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.hashX = hashX
        #: of the cache when the read began
        self.generation = generation
        #: of reading the value, charged to each request
        self.cost = 0.0
        #: of a history, the cached part, which the read continues
        self.known: Any = None


class Query(Protocol[V]):
    """A query of a script with cached results."""

    def now(self, hashX: bytes) -> V | None:
        """Return a cached value; raise RPCError if it is too large to send."""

    async def read(self, hashX: bytes) -> tuple[V, float]:
        """Return (value, cost of reading it); raise RPCError if it is too large to send."""

    def fetch(self, hashX: bytes) -> PendingValue[V]:
        """Start to read a value for which ``now`` returned None, or join a read in progress."""

    def check(self, value: V) -> None:
        """Raise RPCError if a value is too large to send."""


class ReadThrough(Generic[V]):
    """Reads the uncached values of a query; subclasses are a ``Query``."""

    async def read(self: Query[V], hashX: bytes) -> tuple[V, float]:
        """Return (value, cost of reading it); RPCError if it is too large to send."""
        value = self.now(hashX)
        if value is not None:
            return value, COST_CACHED
        pending = self.fetch(hashX)
        value = await pending
        self.check(value)
        return value, pending.cost


class CachedQuery(ReadThrough[V], Generic[V, R]):
    """The values of one query by hashX, over results ``R`` of database reads."""

    def __init__(self, db: Database, max_bytes: int) -> None:
        self._db = db
        self._backup_count = db.backup_count
        self.cache: LRUCache[bytes, V] = LRUCache(MAX_ENTRIES, max_bytes)
        # Reads in progress by script and generation of the cache
        self._pending: dict[tuple[bytes, int], PendingValue[V]] = {}

    def clear(self) -> None:
        """Drop everything, after a reorganisation."""
        self._backup_count = self._db.backup_count
        self.cache.clear()

    def drop(self, touched: Iterable[bytes]) -> None:
        """Drop values that a new block has changed."""
        self.cache.drop(touched)

    def peek(self, hashX: bytes) -> V | None:
        """Return a cached value, stale or not."""
        if self._backup_count != self._db.backup_count:
            self.clear()
        return self.cache.peek(hashX)

    def now(self, hashX: bytes) -> V | None:
        """Return a cached value."""
        if self._backup_count != self._db.backup_count:
            self.clear()
        return self.cache.use(hashX)

    def fetch(self, hashX: bytes) -> PendingValue[V]:
        """Start to read a value for which ``now`` returned None, or join a read in progress."""
        self.cache.lookups += 1
        key = hashX, self.cache.generation
        return self._pending.get(key) or self._start(key)

    def check(self, value: V) -> None:
        """Raise RPCError if a value is too large to send; the limit of UTXOs is elsewhere."""

    def prefetch(self, hashX: bytes) -> PendingValue[V]:
        """Do as ``fetch`` for another reason than a request: it does not count as a look-up."""
        key = hashX, self.cache.generation
        return self._pending.get(key) or self._start(key)

    def _start(self, key: tuple[bytes, int]) -> PendingValue[V]:
        """Start the read of a value, whose end calls ``_on_read``."""
        pending: PendingValue[V] = PendingValue(*key)
        self._pending[key] = pending
        self._read(key[0]).add_done_callback(partial(self._on_read, pending))
        return pending

    def _read(self, hashX: bytes) -> Read[R]:
        raise NotImplementedError

    def _on_read(self, pending: PendingValue[V], read: Read[R]) -> None:
        """Cache the value of a read, and end all waiting for it.

        Do not cache it if a reorganisation came, or a block touched the script, since the read began.
        """
        hashX, generation = pending.hashX, pending.generation
        del self._pending[hashX, generation]
        try:
            value, size, backup_count = self._value(pending, read.result())
        except (Exception, asyncio.CancelledError) as error:
            pending.end(None, error)
            return
        if backup_count == self._db.backup_count == self._backup_count:
            self.cache.put(hashX, value, generation, size)
        pending.end(value)

    def _value(self, pending: PendingValue[V], result: R) -> tuple[V, int, int]:
        """Return (value, its bytes, ``backup_count`` of the read); set the cost of ``pending``."""
        raise NotImplementedError


class Balances(CachedQuery[tuple[int, int], Balance]):
    """(number of UTXOs, their sum in satoshis) of scripts."""

    def _read(self, hashX: bytes) -> Read[Balance]:
        return self._db.balance(hashX)

    def _value(
        self, pending: PendingValue[tuple[int, int]], result: Balance
    ) -> tuple[tuple[int, int], int, int]:
        return result[:2], 0, result.backup_count


class UTXOLists(CachedQuery[bytes, PackedUTXOs]):
    """The UTXOs of scripts, packed: see ``wire_rows``."""

    def _read(self, hashX: bytes) -> Read[PackedUTXOs]:
        return self._db.packed_utxos(hashX)

    def _value(self, pending: PendingValue[bytes], result: PackedUTXOs) -> tuple[bytes, int, int]:
        return result.utxos, len(result.utxos), result.backup_count


class HistoryHashes(CachedQuery[ScriptHistory, PackedHistory]):
    """The confirmed histories of scripts, of which some have a hash but no entries."""

    def __init__(self, db: Database, max_send: int) -> None:
        super().__init__(db, MAX_BYTES)
        #: histories of so many entries and more are too large to send
        self.limit = (max_send - HISTORY_REPLY_BYTES) // HISTORY_ENTRY_BYTES

    def drop(self, touched: Iterable[bytes]) -> None:
        """Mark histories that a new block made longer; those too large stay so."""
        self.cache.invalidate()
        generation = self.cache.generation
        for history in self.cache.among(touched):
            if not history.stale:
                history.stale, history.stale_since = True, generation

    def check(self, value: ScriptHistory) -> None:
        """Raise RPCError if a history is too large to send."""
        if value.count >= self.limit:
            cost = history_cost(value.count)
            raise RPCError(HISTORY_TOO_LARGE, "history too large", cost=cost)

    def now(self, hashX: bytes) -> ScriptHistory | None:
        """Return a cached history, with entries or not; RPCError if it is too large to send."""
        history = self.peek(hashX)
        if history is None:
            return None
        if history.count < self.limit and history.stale:
            return None
        self.cache.use(hashX)
        if history.count >= self.limit:
            self.check(history)
        return history

    def known_statuses(self, hashXs: Sequence[bytes]) -> tuple[list[str | None], int] | None:
        """Return the status of each confirmed history, and the length of all status texts.

        None if the cache lacks one.
        """
        if self._backup_count != self._db.backup_count:
            return None
        statuses: list[str | None] = []
        text_len = 0
        for history in map(self.cache.peek, hashXs):
            if history is None or history.stale or history.count >= self.limit:
                return None
            if not history.has_status:
                return None
            statuses.append(history.status([])[0])
            text_len += history.text_len
        # These count as look-ups; none was unused for long, as a block touched it.
        self.cache.lookups += len(statuses)
        self.cache.hits += len(statuses)
        return statuses, text_len

    def extend(self, extended: list[tuple[bytes, ScriptHistory]], generation: int) -> None:
        """Cache histories brought up to date in a generation, if it is still current."""
        if self._backup_count == self._db.backup_count:
            for hashX, history in extended:
                self.cache.put(hashX, history, generation, history.memsize)

    async def hash_history(self, hashX: bytes, history: ScriptHistory) -> None:
        """Return when ``history.is_hashed``; hash a long history once, in a thread."""
        if history.is_hashed:
            return
        if history.hashing is None:
            history.hashing = asyncio.ensure_future(asyncio.to_thread(history.hash_all))
        await asyncio.shield(history.hashing)
        assert history.entries is not None
        if len(history.entries) > KEPT_HISTORY_BYTES and self.peek(hashX) in (None, history):
            short = history.without_entries()
            short.stale = history.stale
            self.cache.put(hashX, short, self.cache.generation, short.memsize)

    def _start(self, key: tuple[bytes, int]) -> PendingValue[ScriptHistory]:
        hashX = key[0]
        pending: PendingValue[ScriptHistory] = PendingValue(*key)
        self._pending[key] = pending
        known = self.cache.peek(hashX)
        if known is None or not known.stale or not known.count:
            read = self._read(hashX)
            read.add_done_callback(partial(self._on_read, pending))
        else:
            pending.known = known
            limit, after = self.limit - known.count, known.last_tx_num
            read = self._db.history_entries(hashX, limit=limit, after=after, only_below=True)
            read.add_done_callback(partial(self._on_extension, pending, self._backup_count))
        return pending

    def _read(self, hashX: bytes) -> Read[PackedHistory]:
        return self._db.history_entries(hashX, limit=self.limit, after=-1, only_below=True)

    def _on_extension(
        self,
        pending: PendingValue[ScriptHistory],
        backup_count: int,
        read: Read[PackedHistory],
    ) -> None:
        """Combine the new entries with the known ones."""
        try:
            was_reorganised = read.result().backup_count != backup_count
        except (Exception, asyncio.CancelledError):
            was_reorganised = False
        if was_reorganised:
            # The known part is not the beginning of the history any more.
            pending.known = None
            self._read(pending.hashX).add_done_callback(partial(self._on_read, pending))
        else:
            self._on_read(pending, read)

    def _value(
        self, pending: PendingValue[ScriptHistory], result: PackedHistory
    ) -> tuple[ScriptHistory, int, int]:
        known: ScriptHistory | None = pending.known
        if known is None or result.only_counted:
            history = self.unpacked(result)
        else:
            history = known.followed_by(result.entries, result.last_tx_num)
        pending.cost = history_cost(history.count)
        return history, history.memsize, result.backup_count

    def unpacked(self, found: PackedHistory) -> ScriptHistory:
        """Return a history read from its first entry; without entries if too large."""
        if found.only_counted:
            return ScriptHistory(None, self.limit, found.last_tx_num)
        count = len(found.entries) // wire_rows.HISTORY_ENTRY_LEN
        entries = None if count >= self.limit else found.entries
        return ScriptHistory(entries, count, found.last_tx_num)

    def is_hash_only(self, history: ScriptHistory | None) -> bool:
        """Return whether a history has no entries, though it is not too large to send."""
        return history is not None and history.entries is None and history.count < self.limit


class Histories(ReadThrough[ScriptHistory]):
    """The confirmed histories of scripts with their entries."""

    def __init__(self, db: Database, max_send: int) -> None:
        self._db = db
        #: the same of which the hashes suffice
        self.hashes = HistoryHashes(db, max_send)
        self.cache = self.hashes.cache
        self.limit = self.hashes.limit
        self.check = self.hashes.check

    def now(self, hashX: bytes) -> ScriptHistory | None:
        """Return a cached history; RPCError if it is too large to send."""
        known = self.hashes.peek(hashX)
        if known is None or self.hashes.is_hash_only(known):
            return None
        return self.hashes.now(hashX)

    def fetch(self, hashX: bytes) -> PendingValue[ScriptHistory]:
        """Start to read an uncached history, or join a read in progress."""
        pending = self.hashes.fetch(hashX)
        if pending.known is None or pending.known.entries is not None:
            return pending
        whole: PendingValue[ScriptHistory] = PendingValue(hashX, pending.generation)
        pending.add_done_callback(partial(self._on_value, whole))
        return whole

    def _on_value(
        self, whole: PendingValue[ScriptHistory], pending: PendingValue[ScriptHistory]
    ) -> None:
        error = pending.exception()
        history = None if error is not None else pending.result()
        if self.hashes.is_hash_only(history):
            self._read_whole(whole)
            return
        whole.cost = pending.cost
        whole.end(history, error)

    def _read_whole(self, whole: PendingValue[ScriptHistory]) -> None:
        """Read a history that is longer than those that stay cached, for one request."""

        def on_read(read: Read[PackedHistory]) -> None:
            try:
                history = self.hashes.unpacked(read.result())
            except (Exception, asyncio.CancelledError) as error:
                whole.end(None, error)
                return
            whole.cost = history_cost(history.count)
            whole.end(history)

        self.hashes._read(whole.hashX).add_done_callback(on_read)


class ScriptCache:
    """The cached queries of scripts."""

    def __init__(self, db: Database, max_send: int) -> None:
        self.histories = Histories(db, max_send)
        self.utxos = UTXOLists(db, MAX_BYTES)
        self.balances = Balances(db, MAX_BALANCE_BYTES)
        # The entries that the last block added to histories, and the generation of their cache
        self._addition: wire_rows.Addition | None = None
        self._added_in = 0

    def clear(self) -> None:
        """Drop everything."""
        for query in (self.histories.hashes, self.utxos, self.balances):
            query.clear()

    def drop(self, touched: Iterable[bytes], addition: wire_rows.Addition | None = None) -> None:
        """Drop, or mark as stale, the values that new blocks touched.

        ``addition`` has all entries that blocks added since the last call, if given.
        """
        for query in (self.histories.hashes, self.utxos, self.balances):
            query.drop(touched)
        self._addition, self._added_in = addition, self.histories.cache.generation

    async def refresh(self, hashXs: Iterable[bytes]) -> None:
        """Bring the stale and missing histories of scripts up to date, in batches.

        Await it before computing the statuses of many sessions.  After a read that fails here, the
        session that needs it reads again.
        """
        hashes = self.histories.hashes
        addition, added_in = self._addition, self._added_in
        stale: list[tuple[bytes, ScriptHistory]] = []
        pending: list[PendingValue[ScriptHistory]] = []
        for number, hashX in enumerate(hashXs, start=1):
            history = hashes.peek(hashX)
            if history is None:
                pending.append(hashes.prefetch(hashX))
            elif history.stale and history.count < hashes.limit:
                if addition is not None and history.stale_since == added_in:
                    stale.append((hashX, history))
                else:
                    pending.append(hashes.prefetch(hashX))
            if number % EXAMINED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if addition is not None:
            for part in chunks(stale, EXTENDED_AT_ONCE):
                hashes.extend(await asyncio.to_thread(_extended, part, addition), added_in)
        for value in pending:
            await _wait_ended(value)


async def _wait_ended(future: EagerFuture[V]) -> None:
    """Wait until a future has ended, with a result or an error."""
    if future.done():
        return
    waiter = asyncio.get_running_loop().create_future()

    def wake(_future: EagerFuture[V]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(wake)
    await waiter


def _extended(
    stale: Sequence[tuple[bytes, ScriptHistory]], addition: wire_rows.Addition
) -> list[tuple[bytes, ScriptHistory]]:
    """Return histories with the entries that blocks added to them.  Runs in: a thread."""
    found = wire_rows.extend_histories(
        [hashX for hashX, _history in stale],
        [history.entries_for_status for _hashX, history in stale],
        [history.last_tx_num for _hashX, history in stale],
        addition,
    )
    return [
        (hashX, history.extended(item)) for (hashX, history), item in zip(stale, found, strict=True)
    ]
