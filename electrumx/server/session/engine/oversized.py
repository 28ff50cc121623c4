"""Results that are too large to send: the error for them, and the requests that had one.

Such a result costs as much to compute as a sent one, the node's work included; a second request does
not compute it again.  Runs on the event loop.
"""

from collections.abc import Callable, Hashable
from typing import Any

from aiorpcx import JSONRPC, RPCError

from electrumx.lib.lru import LRUCache

# Remembered requests.
MAX_REMEMBERED = 1_000


class OversizedResults:
    """Requests whose result was too large, each for as long as clients know the same tip."""

    def __init__(self, max_send: int, tip: Callable[[], object]) -> None:
        """``max_send`` is the bound of replies in bytes; ``tip()`` changes with each new block."""
        self.max_send = max_send
        #: the most bytes to read from the node: encoding numbers again makes them shorter
        self.max_read = 2 * max_send
        self._tip = tip
        self._remembered: LRUCache[Hashable, Any] = LRUCache(MAX_REMEMBERED)

    def error(self, cost: float = 0.0) -> RPCError:
        """Return the error for a request whose result is too large."""
        text = f"response too large (over {self.max_send:,d} bytes"
        return RPCError(JSONRPC.INVALID_REQUEST, text, cost=cost)

    def check(self, key: Hashable) -> None:
        """Raise the error if the result of a request was too large at this tip."""
        entry = self._remembered.get(key)
        if entry is not None and entry[0] == self._tip():
            raise self.error()

    def check_size(self, key: Hashable, size: int, byte_cost: float) -> None:
        """Raise the error, which includes the price, if a result of ``size`` bytes is too large."""
        if size > self.max_send:
            raise self.note(key, size, byte_cost)

    def note(self, key: Hashable, size: int, byte_cost: float) -> RPCError:
        """Remember that a result is too large; return the error, with the price of making it."""
        self._remembered.put(key, (self._tip(),), self._remembered.generation)
        return self.error(size * byte_cost)
