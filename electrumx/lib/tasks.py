"""The toolbox for tasks: run together, wait with a time-out, time slices, batching.

Owns nothing, and does not know the work that the tasks do.  Runs on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import chain, islice
from time import perf_counter
from typing import Any, Generic, Optional, TypeVar

T = TypeVar("T")
Key = TypeVar("Key")
Value = TypeVar("Value")

#: how long a loop over many items may block the event loop, in seconds
SLICE_SECS = 0.002
#: items between two looks at the clock
SLICE_ITEMS = 64


async def run_together(
    *coros: Coroutine[Any, Any, Any], on_failure: Optional[Callable[[Exception], None]] = None
) -> list[Any]:
    """Return the results of ``coros``, run concurrently, in order.

    If one raises, or this is cancelled, all are cancelled and have ended before it propagates;
    ``on_failure`` is then called with each exception of another one.
    """
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    raised: Optional[BaseException] = None
    try:
        # Not gather: if it is cancelled, it raises the error of a task that fails at its end instead.
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return [task.result() for task in tasks]
    except BaseException as e:
        raised = e
        raise
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if on_failure and isinstance(result, Exception) and result is not raised:
                on_failure(result)


async def wait_for_event(event: asyncio.Event, timeout_secs: Optional[float]) -> bool:
    """Return whether an event was set, also for an instant, before ``timeout_secs`` passed (None: never).

    Unlike ``asyncio.wait_for``, which before Python 3.12 can lose a cancellation that comes with
    the event, this always raises it.
    """
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiter], timeout=timeout_secs)
        return waiter.done()
    finally:
        waiter.cancel()


class TimeSlice:
    """Divides a long loop into time slices, between which other tasks run.

    Between two items: ``if time_slice.is_over(): await time_slice.pause()``.
    """

    __slots__ = ("_deadline", "_secs")

    def __init__(self, secs: float = SLICE_SECS) -> None:
        self._secs = secs
        self._deadline = perf_counter() + secs

    def is_over(self) -> bool:
        """Return whether the loop should yield to the event loop."""
        return perf_counter() > self._deadline

    async def pause(self) -> None:
        """Yield to the event loop, and start the next slice."""
        await asyncio.sleep(0)
        self._deadline = perf_counter() + self._secs


async def for_each(items: Iterable[T], func: Callable[[T], object]) -> None:
    """Call ``func`` with each item of a copy of ``items``, in time slices."""
    time_slice = TimeSlice(SLICE_SECS)
    remaining = iter(list(items))
    while part := list(islice(remaining, SLICE_ITEMS)):
        for item in part:
            func(item)
        if time_slice.is_over():
            await time_slice.pause()


class Batcher(Generic[Key, Value]):
    """A queue of requests that go out as batches.

    Requests that are made in one iteration of the event loop, or while enough batches are in
    flight, go out as one batch, in which equal requests are merged.  ``batches`` may be in flight;
    after ``late_secs`` without a reply, one more each time, up to ``max_batches``.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Key]], Awaitable[Sequence[Value | BaseException]]],
        *,
        batch_size: int,
        batches: int,
        max_batches: int,
        late_secs: float,
    ) -> None:
        """Take ``send``, which returns for each key, in order, its value or its exception."""
        self._send = send
        self._batch_size = batch_size
        self._batches = batches
        self._max_batches = max_batches
        self._late_secs = late_secs
        # Key -> the futures of requests that are not sent. A request that comes while its key is in
        # flight may depend on a change since then, and must not get the older reply.
        self._queue: dict[Key, list[asyncio.Future[Value]]] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_flush_due = False
        self._last_sent = 0.0  # the loop's time

    def get(self, key: Key) -> "asyncio.Future[Value]":
        """Request a value; return its future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()
        self._queue.setdefault(key, []).append(future)
        if not self._is_flush_due:
            self._is_flush_due = True
            if len(self._in_flight) < self._batches:
                loop.call_soon(self._flush, self._batches)
            else:
                loop.call_at(self._last_sent + self._late_secs, self._flush, self._max_batches)
        return future

    def _flush(self, allowed: int) -> None:
        """Send the queue, or the batch at its head, if fewer than ``allowed`` are in flight."""
        self._is_flush_due = False
        loop = asyncio.get_running_loop()
        if len(self._in_flight) >= allowed:
            # The next batch that ends sends the queue, or else the timer does.
            if len(self._in_flight) < self._max_batches:
                self._is_flush_due = True
                loop.call_later(self._late_secs, self._flush, self._max_batches)
            return
        batch = self._take_batch()
        if not batch:
            return
        task = loop.create_task(self._run(batch))
        self._in_flight.add(task)
        task.add_done_callback(self._ended)
        self._last_sent = loop.time()
        if self._queue:
            self._is_flush_due = True
            if len(self._in_flight) < self._batches:
                loop.call_soon(self._flush, self._batches)
            else:
                loop.call_later(self._late_secs, self._flush, self._max_batches)

    def _take_batch(self) -> "dict[Key, list[asyncio.Future[Value]]]":
        batch: dict[Key, list[asyncio.Future[Value]]] = {}
        while self._queue and len(batch) < self._batch_size:
            key = next(iter(self._queue))
            futures = self._queue.pop(key)
            # All are done where the requests were cancelled or timed out.
            if not all(future.done() for future in futures):
                batch[key] = futures
        return batch

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._in_flight.discard(task)
        if self._queue and not task.cancelled():
            self._flush(self._batches)

    async def _run(self, batch: "dict[Key, list[asyncio.Future[Value]]]") -> None:
        """Send a batch and set its futures."""
        try:
            results = await self._send(list(batch))
        except Exception as e:
            results = [e] * len(batch)
        except asyncio.CancelledError:
            for future in chain.from_iterable(batch.values()):
                future.cancel()
            raise
        for futures, result in zip(batch.values(), results, strict=True):
            for future in futures:
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
