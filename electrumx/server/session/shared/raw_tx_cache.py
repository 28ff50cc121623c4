"""A cache of raw transactions, as the full node sent them.

Holds at most 1,000 transactions and 16 MiB, least recently used evicted first.  Runs on the event
loop.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from electrumx.lib.lru import LRUCache
from electrumx.server.session.engine.json_result import EncodedJSON, encode_result

CACHE_ENTRIES = 1_000
CACHE_BYTES = 16 << 20


class RawTxCache:
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
            CACHE_ENTRIES, CACHE_BYTES
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

    async def fetch(self, tx_hash: bytes, request: Callable[[bool], Awaitable[object]]) -> Any:
        """Return the hex of a transaction, and cache it if that is safe.

        ``request(verbose)`` requests it from the node, whose JSON it returns.
        """
        tip = self._tip()
        noted = self.cache.peek(tx_hash)
        if noted is not None and noted[1:] == (tip, False):
            result = await request(True)
            if isinstance(result, dict) and isinstance(result.get("hex"), str):
                confirmed = _is_positive(result.get("confirmations"))
                return self._keep(tx_hash, result["hex"], tip, confirmed=confirmed)
        return self._keep(tx_hash, await request(False), tip, confirmed=False)

    def _keep(self, tx_hash: bytes, result: object, tip: bytes | None, *, confirmed: bool) -> Any:
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


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0
