"""What sessions share of scripts: histories and their statuses, balances, unspent outputs.

Each of the three is asked for in two ways.  ``now`` answers from memory, or says None; ``read``
waits for the database.  Reads of one script that are asked for together are one read, whose result
all get.  Runs on the event loop; reading is done by threads.

What is kept
------------
Histories and unspent outputs as the packed strings of ``wire_rows``, balances as numbers: at most
50,000 entries and 32 MiB of each (8 MiB of balances), the least recently used goes first.

When a block touches a script, its balance and unspent outputs are forgotten.  Its history only
became longer: it stays, is marked, and when it is asked for next, only what comes after its last
transaction is read.  The running hash of its status goes on likewise, from a copy; so a new
transaction costs an address with half a million of them no more than any other.  A
reorganisation, which ``db.backup_count`` tells of, empties everything.

A read that began before a script was touched may end after it: caches have generations, see
``LRUCache``, and its result is given to who asked, but not kept.
"""

import asyncio
import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.lru import LRUCache
from electrumx.lib.util import chunks
from electrumx.server.db import wire_rows
from electrumx.server.session.engine.limits import COST_CACHED, history_cost
from electrumx.server.session.engine.params import HISTORY_TOO_LARGE

V = TypeVar("V")

MAX_ENTRIES = 50_000
MAX_BYTES = 32 << 20
MAX_BALANCE_BYTES = 8 << 20
# A history entry takes about 99 bytes in a reply, the reply around it less than 100.
HISTORY_ENTRY_BYTES = 99
HISTORY_REPLY_BYTES = 100
# Of a longer history only the hash is kept once it is known.
KEPT_HISTORY_BYTES = 4 << 20
# Longer histories are hashed, and more items encoded, in a thread: a millisecond's worth.
INLINE_ITEMS = 5_000 if wire_rows.COMPILED else 500
# The running hash takes 400 bytes; that of a short history is as soon made anew.
KEPT_HASH_ENTRIES = 200
# So many scripts are looked at, and so many extended in a thread, before others have their turn:
# about a millisecond, and two.
EXAMINED_AT_ONCE = 2_000
EXTENDED_AT_ONCE = 2_500


class Awaited(Protocol):
    """What the database gives for a read: a Reading, or a future."""

    def add_done_callback(self, callback: Any, /) -> object:
        """Call back with this object when there is a result."""

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result."""


class Database(Protocol):
    """What is needed of the database."""

    backup_count: int

    def history_entries(self, hashX: bytes, *, limit: int | None, after: int) -> Awaited:
        """Return what becomes PackedHistory."""

    def coins(self, hashX: bytes) -> Awaited:
        """Return what becomes Coins."""

    def balance(self, hashX: bytes) -> Awaited:
        """Return what becomes Balance."""


#: told (value, what getting it costs, None) or (None, 0, why there is none)
Arrived = Callable[[Any, float, BaseException | None], object]


class ScriptHistory:
    """The confirmed history of a script, and the hash of its status text so far."""

    __slots__ = (
        "_hash",
        "_status",
        "count",
        "entries",
        "hashing",
        "last_tx_num",
        "stale",
        "stale_since",
        "text_len",
    )

    def __init__(self, entries: bytes | None, count: int, last_tx_num: int) -> None:
        #: packed; None if only the hash was kept
        self.entries = entries
        self.count = count
        self.last_tx_num = last_tx_num
        #: characters of the status text; known with the hash
        self.text_len = 0
        self._hash: Any = None
        self._status: str | None = None
        #: whether there may be more by now, and from which generation of the cache on
        self.stale = False
        self.stale_since = 0
        #: the hashing of a long one, while it is under way in a thread
        self.hashing: asyncio.Future[Any] | None = None

    def followed_by(self, entries: bytes, last_tx_num: int) -> "ScriptHistory":
        """Return the history that continues this one."""
        whole = None if self.entries is None else self.entries + entries
        result = ScriptHistory(
            whole, self.count + len(entries) // wire_rows.HISTORY_ENTRY_LEN, last_tx_num
        )
        if not entries:
            result._status = self._status
            result._hash = self._hash
            result.text_len = self.text_len
        elif self._hash is not None:
            text = wire_rows.status_text(entries)
            result._hash = self._hash.copy()
            result._hash.update(text)
            result.text_len = self.text_len + len(text)
        return result

    @property
    def known(self) -> bytes | None:
        """What ``wire_rows.extend_histories`` has to know so that it can tell the status."""
        return self.entries if self.count <= KEPT_HASH_ENTRIES else None

    def extended(self, found: wire_rows.Extended) -> "ScriptHistory":
        """Return the history that ``wire_rows.extend_histories`` has found to follow this one.

        Runs in: a thread.
        """
        entries, last_tx_num, status, text_len = found
        if status is None:
            result = self.followed_by(entries, last_tx_num)
            if self.is_known and not result.is_known:
                # It has just become one of those whose hash is kept.
                result.hash_all()
            return result
        result = ScriptHistory(entries, len(entries) // wire_rows.HISTORY_ENTRY_LEN, last_tx_num)
        result._status, result.text_len = status, text_len
        return result

    def without_entries(self) -> "ScriptHistory":
        """Return a copy that knows the hash only."""
        result = ScriptHistory(None, self.count, self.last_tx_num)
        result._hash, result.text_len = self._hash, self.text_len
        return result

    @property
    def is_hashed(self) -> bool:
        """True if the hash is known, or made in no time."""
        return self._hash is not None or self._status is not None or self.count <= INLINE_ITEMS

    @property
    def is_known(self) -> bool:
        """True if the status without the mempool is a matter of course."""
        return self._status is not None or self._hash is not None or not self.count

    def hash_all(self) -> Any:
        """Return the hash of the status text, not to be changed.  Runs in any thread."""
        if self._hash is not None:
            return self._hash
        assert self.entries is not None
        text = wire_rows.status_text(self.entries)
        text_hash = hashlib.sha256(text)
        self.text_len = len(text)
        if self.count > KEPT_HASH_ENTRIES:
            self._hash = text_hash
        return text_hash

    def status(self, summaries: list[Any]) -> tuple[str | None, int]:
        """Return (status in hex, or None without history; length of the text hashed).

        ``summaries`` are the mempool's transactions.  Quick if ``is_hashed``.
        """
        if not summaries:
            if self._status is None and self.count:
                if self._hash is None and self.count <= KEPT_HASH_ENTRIES and self.entries:
                    self._status, self.text_len = wire_rows.status_of(self.entries)
                else:
                    self._status = self.hash_all().hexdigest()
            return self._status, self.text_len
        text = "".join(
            [f"{hash_to_hex_str(tx.hash)}:{-tx.has_unconfirmed_inputs:d}:" for tx in summaries]
        )
        whole = self.hash_all().copy()
        whole.update(text.encode())
        return whole.hexdigest(), self.text_len + len(text)

    @property
    def memsize(self) -> int:
        """Return about how many bytes it takes."""
        return 700 + (0 if self.entries is None else len(self.entries))


class Answers(Protocol):
    """Where a method takes its answer from."""

    def now(self, hashX: bytes) -> Any:
        """Return the value if it is in memory, else None."""

    async def read(self, hashX: bytes) -> tuple[Any, float]:
        """Return (value, what getting it costs)."""

    def ask(self, hashX: bytes, arrived: Arrived) -> None:
        """Do as ``read``, and call ``arrived`` in the end."""


class Source(Generic[V]):
    """Values of one kind by hashX: from memory at once, or from the database."""

    def __init__(self, db: Database, max_bytes: int) -> None:
        self._db = db
        self._backup_count = db.backup_count
        self.cache: LRUCache[bytes, V] = LRUCache(MAX_ENTRIES, max_bytes)
        # Who waits for which script, by the generation in which its read began.
        self._waiting: dict[tuple[bytes, int], list[Arrived]] = {}

    def clear(self) -> None:
        """Forget everything: the chain was reorganised."""
        self._backup_count = self._db.backup_count
        self.cache.clear()

    def drop(self, touched: Iterable[bytes]) -> None:
        """Forget what a new block has changed."""
        self.cache.drop(touched)

    def peek(self, hashX: bytes) -> V | None:
        """Return what is in memory, good or not."""
        if self._backup_count != self._db.backup_count:
            self.clear()
        return self.cache.peek(hashX)

    def now(self, hashX: bytes) -> V | None:
        """Return the value if it is in memory."""
        if self._backup_count != self._db.backup_count:
            self.clear()
        return self.cache.use(hashX)

    async def read(self, hashX: bytes) -> tuple[V, float]:
        """Return (value, what getting it costs)."""
        value = self.now(hashX)
        if value is not None:
            return value, COST_CACHED
        self.cache.lookups += 1
        value = await self.begin(hashX)
        return value, self._cost(value)

    def ask(self, hashX: bytes, arrived: Arrived) -> None:
        """Read a value that is not in memory; call ``arrived`` in the end."""
        self.cache.lookups += 1
        self._join(hashX, arrived)

    def begin(self, hashX: bytes) -> "asyncio.Future[V]":
        """Ask the database, or join those who did."""
        waiter: asyncio.Future[V] = asyncio.get_running_loop().create_future()

        def arrived(value: V, _cost: float, error: BaseException | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(value)
            else:
                waiter.set_exception(error)

        self._join(hashX, arrived)
        return waiter

    def _join(self, hashX: bytes, arrived: Arrived) -> None:
        key = (hashX, self.cache.generation)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(arrived)
            return
        self._waiting[key] = [arrived]
        self._ask_database(key)

    def _ask_database(self, key: tuple[bytes, int]) -> None:
        raise NotImplementedError

    def _cost(self, value: V) -> float:
        return 0.0

    def _found(self, key: tuple[bytes, int], reading: Any) -> Any:
        """Return what the database found; None if it failed, which all who wait are told."""
        try:
            return reading.result()
        except (Exception, asyncio.CancelledError) as error:
            for arrived in self._waiting.pop(key):
                arrived(None, 0.0, error)
            return None

    def _arrived(self, key: tuple[bytes, int], value: V, size: int, backup_count: int) -> None:
        """Keep a value, if it still holds, and give it to all who wait for it."""
        hashX, generation = key
        if backup_count == self._db.backup_count == self._backup_count:
            self.cache.put(hashX, value, generation, size)
        self._give(self._waiting.pop(key), value)

    def _give(self, waiting: list[Arrived], value: V) -> None:
        cost = self._cost(value)
        for arrived in waiting:
            arrived(value, cost, None)


class Balances(Source[tuple[int, int]]):
    """(number of unspent outputs, their sum in satoshis) of scripts."""

    def _ask_database(self, key: tuple[bytes, int]) -> None:
        def done(reading: Any) -> None:
            found = self._found(key, reading)
            if found is not None:
                self._arrived(key, (found.coin_count, found.value), 0, found.backup_count)

        self._db.balance(key[0]).add_done_callback(done)


class CoinLists(Source[bytes]):
    """The unspent outputs of scripts, wire_rows."""

    def _ask_database(self, key: tuple[bytes, int]) -> None:
        def done(reading: Any) -> None:
            found = self._found(key, reading)
            if found is not None:
                self._arrived(key, found.coins, len(found.coins), found.backup_count)

        self._db.coins(key[0]).add_done_callback(done)


class Histories(Source[ScriptHistory]):
    """The confirmed histories of scripts; ``limit`` entries and more are too many."""

    def __init__(self, db: Database, max_send: int) -> None:
        super().__init__(db, MAX_BYTES)
        self.limit = (max_send - HISTORY_REPLY_BYTES) // HISTORY_ENTRY_BYTES
        #: the same for whom the hashes are enough
        self.hashes = _Hashes(self)

    def drop(self, touched: Iterable[bytes]) -> None:
        """Mark what a new block made longer; what is too large remains so."""
        self.cache.invalidate()
        generation = self.cache.generation
        for history in self.cache.among(touched):
            if not history.stale:
                history.stale, history.stale_since = True, generation

    def check(self, history: ScriptHistory) -> None:
        """Raise RPCError if a history is too large to be sent."""
        if history.count >= self.limit:
            cost = history_cost(history.count)
            raise RPCError(HISTORY_TOO_LARGE, "history too large", cost=cost)

    def now(self, hashX: bytes, *, hash_only: bool = False) -> ScriptHistory | None:
        """Return the history if it is in memory; RPCError if it is too large.

        With ``hash_only`` it may lack the entries.
        """
        history = self.peek(hashX)
        if history is None:
            return None
        if history.count < self.limit and (
            history.stale or (history.entries is None and not hash_only)
        ):
            return None
        self.cache.use(hashX)
        if history.count >= self.limit:
            self.check(history)
        return history

    def known_statuses(self, hashXs: Sequence[bytes]) -> tuple[list[str | None], int] | None:
        """Return the status of the confirmed history of each script, and the length of all texts.

        None if any of them is not in memory, or not a matter of course.
        """
        if self._backup_count != self._db.backup_count:
            return None
        statuses: list[str | None] = []
        text_len = 0
        for history in map(self.cache.peek, hashXs):
            if history is None or history.stale or history.count >= self.limit:
                return None
            if not history.is_known:
                return None
            statuses.append(history.status([])[0])
            text_len += history.text_len
        # As if each had been looked up; none was left unused for long, as a block touched it.
        self.cache.lookups += len(statuses)
        self.cache.hits += len(statuses)
        return statuses, text_len

    async def read(self, hashX: bytes, *, hash_only: bool = False) -> tuple[ScriptHistory, float]:
        """Return (history, what getting it costs); RPCError if it is too large."""
        history = self.now(hashX, hash_only=hash_only)
        if history is not None:
            return history, COST_CACHED
        self.cache.lookups += 1
        history = await self.begin(hashX)
        if history.entries is None and not hash_only and history.count < self.limit:
            history = await self._read_whole(hashX)
        self.check(history)
        return history, history_cost(history.count)

    async def _read_whole(self, hashX: bytes) -> ScriptHistory:
        """Read a history that is longer than what is kept, for this once."""
        return self._made_of(await self._db.history_entries(hashX, limit=self.limit, after=-1))

    def ask(self, hashX: bytes, arrived: Arrived) -> None:
        """Read a history that is not in memory; call ``arrived`` in the end."""

        def checked(history: Any, cost: float, error: BaseException | None) -> None:
            if error is None and history.entries is None:
                self._ask_for_whole(hashX, arrived)
            else:
                arrived(history, cost, error)

        self.ask_hash(hashX, checked)

    #: the same of one that may lack the entries
    ask_hash = Source.ask

    def _give(self, waiting: list[Arrived], value: ScriptHistory) -> None:
        if value.count < self.limit:
            cost = history_cost(value.count)
            for arrived in waiting:
                arrived(value, cost, None)
            return
        for arrived in waiting:
            try:
                self.check(value)
            except RPCError as e:
                arrived(None, 0.0, e)

    def _ask_for_whole(self, hashX: bytes, arrived: Arrived) -> None:
        def done(reading: Any) -> None:
            error = asyncio.CancelledError() if reading.cancelled() else reading.exception()
            history = None if error else self._made_of(reading.result())
            arrived(history, self._cost(history) if history else 0.0, error)

        reading = self._db.history_entries(hashX, limit=self.limit, after=-1)
        reading.add_done_callback(done)

    def _cost(self, value: ScriptHistory) -> float:
        return history_cost(value.count)

    def extend(self, extended: list[tuple[bytes, ScriptHistory]], generation: int) -> None:
        """Keep histories that were brought up to date in a generation, if it lasts."""
        if self._backup_count == self._db.backup_count:
            for hashX, history in extended:
                self.cache.put(hashX, history, generation, history.memsize)

    async def hashed(self, hashX: bytes, history: ScriptHistory) -> None:
        """See to it that ``history.status`` is quick."""
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

    def _made_of(self, found: Any) -> ScriptHistory:
        count = len(found.entries) // wire_rows.HISTORY_ENTRY_LEN
        entries = None if count >= self.limit else found.entries
        return ScriptHistory(entries, count, found.last_tx_num)

    def _ask_database(self, key: tuple[bytes, int]) -> None:
        known = self.peek(key[0])
        if known is not None and (not known.stale or not known.count):
            known = None
        self._ask_after(key, known)

    def _ask_after(self, key: tuple[bytes, int], known: ScriptHistory | None) -> None:
        """Ask for the whole, or for what follows the part that is known."""
        backup_count = self._db.backup_count
        count, after = (known.count, known.last_tx_num) if known else (0, -1)
        reading = self._db.history_entries(key[0], limit=self.limit - count, after=after)
        reading.add_done_callback(partial(self._take, key, known, backup_count))

    def _take(
        self, key: tuple[bytes, int], known: ScriptHistory | None, backup_count: int, reading: Any
    ) -> None:
        """Take what the database found that follows on what was known."""
        found = self._found(key, reading)
        if found is None:
            return
        if known is None:
            history = self._made_of(found)
        elif found.backup_count != backup_count:
            # The part that was known is not the beginning any more.
            self._ask_after(key, None)
            return
        else:
            history = known.followed_by(found.entries, found.last_tx_num)
        self._arrived(key, history, history.memsize, found.backup_count)


class _Hashes:
    """Histories that may lack their entries."""

    def __init__(self, histories: Histories) -> None:
        self._histories = histories

    def now(self, hashX: bytes) -> ScriptHistory | None:
        """Return the history if it is in memory; RPCError if it is too large."""
        return self._histories.now(hashX, hash_only=True)

    async def read(self, hashX: bytes) -> tuple[ScriptHistory, float]:
        """Return (history, what getting it costs); RPCError if it is too large."""
        return await self._histories.read(hashX, hash_only=True)

    def ask(self, hashX: bytes, arrived: Arrived) -> None:
        """Read a history that is not in memory; call ``arrived`` in the end."""
        self._histories.ask_hash(hashX, arrived)


class ScriptCache:
    """All that is kept of scripts."""

    def __init__(self, db: Database, max_send: int) -> None:
        self.histories = Histories(db, max_send)
        self.coins = CoinLists(db, MAX_BYTES)
        self.balances = Balances(db, MAX_BALANCE_BYTES)
        # What the block did that made histories stale, and in which generation of their cache
        self._addition: wire_rows.Addition | None = None
        self._added_in = 0

    def drop(self, touched: Iterable[bytes], addition: wire_rows.Addition | None = None) -> None:
        """Forget, or mark, what new blocks touched.

        ``addition`` tells what they added, all of them since this was last called.
        """
        for source in (self.histories, self.coins, self.balances):
            source.drop(touched)
        self._addition, self._added_in = addition, self.histories.cache.generation

    async def refresh(self, hashXs: Iterable[bytes]) -> None:
        """Bring the histories of scripts up to date, those that are not, all at once.

        To be awaited before their statuses are worked out for many sessions.  What goes wrong
        with one is met again by who asks for it.
        """
        histories = self.histories
        addition, added_in = self._addition, self._added_in
        stale: list[tuple[bytes, ScriptHistory]] = []
        waiters = []
        for number, hashX in enumerate(hashXs, start=1):
            history = histories.peek(hashX)
            if history is None:
                waiters.append(histories.begin(hashX))
            elif history.stale and history.count < histories.limit:
                if addition is not None and history.stale_since == added_in:
                    stale.append((hashX, history))
                else:
                    waiters.append(histories.begin(hashX))
            if number % EXAMINED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if addition is not None:
            for part in chunks(stale, EXTENDED_AT_ONCE):
                histories.extend(await asyncio.to_thread(_extended, part, addition), added_in)
        if waiters:
            await asyncio.gather(*waiters, return_exceptions=True)


def _extended(
    stale: Sequence[tuple[bytes, ScriptHistory]], addition: wire_rows.Addition
) -> list[tuple[bytes, ScriptHistory]]:
    """Return histories with what blocks added to them.  Runs in: a thread."""
    found = wire_rows.extend_histories(
        [hashX for hashX, _history in stale],
        [history.known for _hashX, history in stale],
        [history.last_tx_num for _hashX, history in stale],
        addition,
    )
    return [
        (hashX, history.extended(item)) for (hashX, history), item in zip(stale, found, strict=True)
    ]
