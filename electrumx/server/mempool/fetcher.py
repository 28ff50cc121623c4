"""Fetches unconfirmed transactions: raw bytes from the node, spent outputs from the database.

Owns the average size of a transaction, which bounds batches; not the mempool's state.  Runs in: the
event loop; long parsing in a thread of its owner.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Any

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tasks import run_together
from electrumx.server.mempool.acceptance import CandidateParser, Candidates
from electrumx.server.mempool.api import MemPoolAPI

# Transactions in one batch, at most, and their bytes, by the average of the last batches.
FETCH_CHUNK = 200
FETCH_BYTES = 1_000_000
# Batches in flight: as many as Daemon has slots.
FETCH_WORKERS = 10
# Raw transactions to parse on the event loop: well under a millisecond.
INLINE_BYTES = 10_000

#: Call a function with arguments in a thread; return its result.
InThread = Callable[..., Awaitable[Any]]


class CandidateFetcher:
    """Turns hashes of unconfirmed transactions into candidates."""

    def __init__(self, api: MemPoolAPI, parser: CandidateParser, in_thread: InThread) -> None:
        self._api = api
        self._parser = parser
        self._in_thread = in_thread
        self._looking_up = asyncio.Semaphore(1)
        #: bytes of a transaction, an average of the last batches
        self._average_bytes = 500.0

    async def fetch(
        self, new: Sequence[bytes], listed: Container[bytes], candidates: Candidates
    ) -> None:
        """Fetch transactions into ``candidates``, a bounded number of batches at a time.

        listed: the hashes of all unconfirmed transactions, whose outputs are not in the database.
        """
        start = 0

        async def worker() -> None:
            nonlocal start
            while start < len(new):
                hashes = new[start : start + self._batch_count()]
                start += len(hashes)
                candidates.merge(await self._fetch_batch(hashes, listed))

        await run_together(*(worker() for _ in range(FETCH_WORKERS)))

    def _batch_count(self) -> int:
        return max(1, min(FETCH_CHUNK, int(FETCH_BYTES / self._average_bytes)))

    async def _fetch_batch(self, hashes: Sequence[bytes], listed: Container[bytes]) -> Candidates:
        raw_txs = list(await self._api.raw_transactions([hash_to_hex_str(h) for h in hashes]))
        average = sum(len(raw) for raw in raw_txs if raw) / len(hashes)
        # Grows at once, and shrinks slowly.
        self._average_bytes = max(average, 0.9 * self._average_bytes + 0.1 * average, 100.0)
        return await self.parse(hashes, raw_txs, listed)

    async def parse(
        self,
        hashes: Sequence[bytes],
        raw_txs: Sequence[bytes | None],
        unconfirmed: Container[bytes],
    ) -> Candidates:
        """Parse transactions, and look up the confirmed outputs that they spend.

        A transaction that is None, or invalid, is left out.
        """
        parse = self._parser.parse
        if sum(len(raw) for raw in raw_txs if raw) <= INLINE_BYTES:
            result, prevouts = parse(hashes, raw_txs, unconfirmed)
        else:
            result, prevouts = await self._in_thread(parse, hashes, raw_txs, unconfirmed)
        if prevouts:
            # One look-up at a time, so as not to delay clients' reads.
            async with self._looking_up:
                utxos = await self._api.lookup_utxos(prevouts)
            for prevout, utxo in zip(prevouts, utxos, strict=True):
                if utxo is not None:
                    result.utxos[prevout] = utxo
        return result
