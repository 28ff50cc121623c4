"""A bounded map that evicts the least recently used entry.

Not locked: one thread at a time, in this program the event loop's.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: bytes of an entry in addition to its owner's: two objects and a place in the map
ENTRY_BYTES = 300


class LRUCache(Generic[K, V]):
    """A map bounded in entries and bytes that counts its lookups and hits.

    A read that began before an invalidation may end after it.  So there is a generation number
    that changes with each, and the cache stores no values read in an older one.
    """

    def __init__(self, max_entries: int = 1_000, max_bytes: int = 1 << 62) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self.lookups = 0
        self.hits = 0
        # Changes with every invalidation.
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    @property
    def bytes(self) -> int:
        """Return the bytes held, as the owners of the entries count them."""
        return self._bytes

    def get(self, key: K) -> V | None:
        """Return the entry, now the most recently used, or None."""
        self.lookups += 1
        found = self._entries.get(key)
        if found is None:
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return found[0]

    def use(self, key: K) -> V | None:
        """Do as ``get``, but count no lookup that finds nothing."""
        found = self._entries.get(key)
        if found is None:
            return None
        self.lookups += 1
        self.hits += 1
        self._entries.move_to_end(key)
        return found[0]

    def peek(self, key: K) -> V | None:
        """Return the entry or None, without counting or using it."""
        found = self._entries.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, generation: int, size: int = 0) -> None:
        """Store an entry read in that generation, unless there was another since.

        ``size`` is in bytes.  The cache does not store one that would fill a quarter of it.
        """
        if generation != self.generation:
            return
        entries = self._entries
        if key in entries:
            self._remove(key)
        size += ENTRY_BYTES
        if size > self._max_bytes // 4:
            return
        entries[key] = (value, size)
        self._bytes += size
        while self._bytes > self._max_bytes or len(entries) > self._max_entries:
            _key, (_value, oldest) = entries.popitem(last=False)
            self._bytes -= oldest

    def _remove(self, key: K) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def invalidate(self) -> None:
        """Begin a new generation."""
        self.generation += 1

    def among(self, keys: Iterable[K]) -> list[V]:
        """Return the entries that there are of these keys, without counting or using them."""
        entries = self._entries
        return [entries[key][0] for key in entries.keys() & keys]

    def drop(self, keys: Iterable[K]) -> None:
        """Invalidate some entries."""
        self.generation += 1
        for key in self._entries.keys() & keys:
            self._remove(key)

    def clear(self) -> None:
        """Invalidate all entries."""
        self.generation += 1
        self._entries.clear()
        self._bytes = 0

    def summary(self) -> str:
        """Return the statistics as text."""
        return f"{self.lookups:,d} lookups {self.hits:,d} hits {len(self):,d} entries"
