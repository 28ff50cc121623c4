"""A cache of fee estimates, one request to the full node for each target, mode and chain tip.

Holds at most 1,000 estimates.  Runs on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable

from electrumx.lib.lru import LRUCache


class FeeEstimates:
    """Fee estimates by (block target, mode), valid at the tip of their fetch."""

    def __init__(self, tip: Callable[[], bytes], bucket: Callable[[int], int]) -> None:
        """``tip()`` is the database's; ``bucket(target)`` is the target to request."""
        self._tip = tip
        self._bucket = bucket
        self.cache: LRUCache[tuple[int, str | None], _Estimate] = LRUCache()

    def now(self, number: int, mode: str | None) -> float | None:
        """Return a cached estimate, in coins per kB; None if it is missing."""
        entry = self.cache.get((self._bucket(number), mode))
        if entry is None or entry.lock.locked() or entry.tip != self._tip():
            return None
        return entry.value

    async def get(
        self,
        number: int,
        mode: str | None,
        fetch: Callable[[int, str | None], Awaitable[float]],
    ) -> float:
        """Return an estimate, in coins per kB; ``fetch(number, mode)`` fetches a missing one."""
        key = (self._bucket(number), mode)
        entry = self.cache.get(key)
        if entry is None:
            entry = _Estimate()
            self.cache.put(key, entry, self.cache.generation)
        async with entry.lock:
            tip = self._tip()
            value = entry.value
            if value is None or entry.tip != tip:
                value = entry.value = await fetch(*key)
                entry.tip = tip
            return value


class _Estimate:
    """One cached estimate, and the lock of its fetch."""

    __slots__ = ("lock", "tip", "value")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.tip: bytes | None = None
        self.value: float | None = None
