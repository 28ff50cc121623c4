"""A cache of raw transactions, as the full node sent them.

Holds at most 1,000 transactions and 16 MiB, least recently used evicted first.  Runs on the event
loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from electrumx.lib.lru import LRUCache
from electrumx.lib.tasks import DerivedFuture
from electrumx.server.session.engine.json_result import EncodedJSON, encode_result

CACHE_ENTRIES = 1_000
CACHE_BYTES = 16 << 20
#: noted transactions, at most
NOTED_TXS = 1_000


class TxSource(Protocol):
    """Where transactions come from: the node, whose errors become those of one client."""

    def request_hex(self, tx_hash: bytes) -> "asyncio.Future[str]":
        """Request the hex of a transaction; return the future of the reply."""

    def read_hex(self, tx_hash: bytes, reply: "asyncio.Future[str]") -> str:
        """Return the hex that a reply has; raises RPCError if it has none."""

    async def request_verbose(self, tx_hash: bytes) -> object:
        """Return the node's JSON form of a transaction, or something else if it has none."""


class RawTxCache:
    """Raw transactions in hex, as the node sent them, encoded as JSON.

    Several wallets ask for a transaction when it is new: the payer and the payee, each on several
    devices.  An entry is valid while nothing can have removed the transaction from the node:

    * a transaction in our mempool: while it is there;
    * a confirmed transaction: until the notification of another tip.

    A transaction that is not in our mempool may be confirmed, or so new that the mempool does not
    have it yet; another may replace the latter at any moment.  So the first request only notes it,
    and does not cache it.  A second request at the same tip fetches the verbose form from the node,
    as that states the number of confirmations.  What many wallets request once displaces nothing.
    """

    #: hex digits of cached ones, at most
    MAX_DIGITS = 100_000
    #: and of those to fetch in verbose form: it may have forty times as many bytes
    MAX_VERBOSE_DIGITS = 20_000

    def __init__(
        self, tip: Callable[[], bytes | None], in_mempool: Callable[[bytes], bool]
    ) -> None:
        # hash -> (answer, tip, whether unconfirmed)
        self.cache: LRUCache[bytes, tuple[EncodedJSON, bytes | None, bool]] = LRUCache(
            CACHE_ENTRIES, CACHE_BYTES
        )
        # Transactions with one request so far, all at one tip
        self._noted: set[bytes] = set()
        self._noted_tip: bytes | None = None
        self._tip = tip
        self._in_mempool = in_mempool

    def get(self, tx_hash: bytes) -> EncodedJSON | None:
        """Return the answer for a transaction, None if it must come from the node."""
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

    def fetch(self, tx_hash: bytes, source: TxSource) -> Awaitable[str]:
        """Request a transaction from the node, and return its hex; cache it if that is safe."""
        tip = self._tip()
        if tx_hash in self._noted and self._noted_tip == tip:
            return self._fetch_verbose(tx_hash, tip, source)
        return self._fetch_hex(tx_hash, tip, source)

    def _fetch_hex(self, tx_hash: bytes, tip: bytes | None, source: TxSource) -> DerivedFuture[str]:
        reply = source.request_hex(tx_hash)
        return DerivedFuture(reply, partial(self._read_hex, tx_hash, tip, source))

    def _read_hex(
        self, tx_hash: bytes, tip: bytes | None, source: TxSource, reply: "asyncio.Future[str]"
    ) -> str:
        raw_tx = source.read_hex(tx_hash, reply)
        if self._in_mempool(tx_hash):
            self._keep(tx_hash, raw_tx, tip, unconfirmed=True)
        elif len(raw_tx) <= self.MAX_VERBOSE_DIGITS and tip == self._tip():
            if tip != self._noted_tip or len(self._noted) >= NOTED_TXS:
                self._noted.clear()
                self._noted_tip = tip
            self._noted.add(tx_hash)
        return raw_tx

    async def _fetch_verbose(self, tx_hash: bytes, tip: bytes | None, source: TxSource) -> str:
        self._noted.discard(tx_hash)
        details = await source.request_verbose(tx_hash)
        if not isinstance(details, dict) or not isinstance(raw_tx := details.get("hex"), str):
            return await self._fetch_hex(tx_hash, tip, source)
        unconfirmed = self._in_mempool(tx_hash)
        if unconfirmed or _is_positive(details.get("confirmations")):
            self._keep(tx_hash, raw_tx, tip, unconfirmed=unconfirmed)
        return raw_tx

    def _keep(self, tx_hash: bytes, raw_tx: str, tip: bytes | None, *, unconfirmed: bool) -> None:
        if len(raw_tx) <= self.MAX_DIGITS:
            answer = encode_result(raw_tx)
            entry = answer, tip, unconfirmed
            self.cache.put(tx_hash, entry, self.cache.generation, len(answer))


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0
