"""Requests for single transactions, gathered into batches for the node.

A request to the node costs some 300 µs of processor time here, and as much there, whatever it asks
for; wallets ask for one transaction at a time, many wallets at once.  So what is asked for in one
turn of the event loop, or while other batches are under way, goes out as one batch, and a
transaction that several ask for is in it once.  Two batches are under way at most, unless they are
late: then the node is slow with something, and others should not wait for it.

Runs on the event loop.  Knows nothing of the node: what sends a batch is given to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any

#: transactions in a batch at most: each may have megabytes
BATCH_TXS = 25
#: batches under way while the node is quick, and at most
BATCHES = 2
MAX_BATCHES = 6
#: after which a batch is late, in seconds
LATE_SECS = 0.05

#: a transaction's hex hash, and how many bytes of answer are read if it is asked for alone
WantedTx = tuple[str, int]
#: Ask for transactions; return, in order, each one's result, or the exception that is its answer.
Send = Callable[[Sequence[WantedTx]], Awaitable[list[Any]]]


class TxRequests:
    """The queue of transactions that are wanted of the node."""

    def __init__(self, send: Send) -> None:
        self._send = send
        # transaction -> who waits for it, of those not sent yet. Who asks while it is under way may
        # know of it since then, having sent it, and is not to get the older answer.
        self._wanted: dict[WantedTx, list[asyncio.Future[Any]]] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._due = False
        self._last_sent = 0.0  # the loop's time

    def get(self, wanted: WantedTx) -> "asyncio.Future[Any]":
        """Return a future of what the node says of a transaction."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._wanted.setdefault(wanted, []).append(future)
        if not self._due:
            self._due = True
            if len(self._batches) < BATCHES:
                loop.call_soon(self._flush, BATCHES)
            else:
                loop.call_at(self._last_sent + LATE_SECS, self._flush, MAX_BATCHES)
        return future

    def _flush(self, allowed: int) -> None:
        """Send what is wanted, as one batch, if so many may be under way."""
        self._due = False
        loop = asyncio.get_running_loop()
        if len(self._batches) >= allowed:
            # The next one to end sees to the rest, or else the time.
            if len(self._batches) < MAX_BATCHES:
                self._due = True
                loop.call_later(LATE_SECS, self._flush, MAX_BATCHES)
            return
        batch: dict[WantedTx, list[asyncio.Future[Any]]] = {}
        while self._wanted and len(batch) < BATCH_TXS:
            wanted = next(iter(self._wanted))
            waiters = self._wanted.pop(wanted)
            # Nobody is left where all ran into their time-out.
            if not all(future.done() for future in waiters):
                batch[wanted] = waiters
        if not batch:
            return
        task = loop.create_task(self._batch(batch))
        self._batches.add(task)
        task.add_done_callback(self._ended)
        self._last_sent = loop.time()
        if self._wanted:
            self._due = True
            if len(self._batches) < BATCHES:
                loop.call_soon(self._flush, BATCHES)
            else:
                loop.call_later(LATE_SECS, self._flush, MAX_BATCHES)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._batches.discard(task)
        if self._wanted and not task.cancelled():
            self._flush(BATCHES)

    async def _batch(self, batch: "dict[WantedTx, list[asyncio.Future[Any]]]") -> None:
        """Send a batch, and tell all who wait for one of its transactions."""
        try:
            results = await self._send(list(batch))
        except Exception as e:
            results = [e] * len(batch)
        except asyncio.CancelledError:
            for future in chain.from_iterable(batch.values()):
                future.cancel()
            raise
        for waiters, result in zip(batch.values(), results, strict=True):
            for future in waiters:
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
