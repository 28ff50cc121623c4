"""Caches the result of a call without parameters for some seconds.  Runs on the event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


class InfoCache:
    """The last result of a call; one call at a time."""

    def __init__(self, secs: float) -> None:
        self._secs = secs
        self._lock = asyncio.Lock()
        self._expires = float("-inf")
        self._value: dict[str, Any] = {}

    async def get(self, fetch: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Return a copy of the cached dict, or first of a new one of ``fetch`` if it is too old.

        An error of ``fetch`` propagates, and the next call fetches again.
        """
        async with self._lock:
            if time.monotonic() >= self._expires:
                self._value = await fetch()
                self._expires = time.monotonic() + self._secs
            return self._value.copy()
