"""The toolbox for tasks: run together, wait with a time-out, time slices, batching, one future.

And calls that may hang, in threads of their own.  Owns nothing, and does not know the work that the
tasks do.  Runs on the event loop.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice
from time import perf_counter
from typing import Any, Generic, Optional, TypeVar, cast

T = TypeVar("T")
Key = TypeVar("Key")
Value = TypeVar("Value")

#: how long a loop over many items may block the event loop, in seconds
SLICE_SECS = 0.001
#: items between two looks at the clock
SLICE_ITEMS = 64
_Future = TypeVar("_Future", bound="EagerFuture[Any]")
# Of ended futures, which add none to it.
_NO_CALLBACKS: list[Callable[[Any], object]] = []


class EagerFuture(Generic[T]):
    """A result to await, or to give to callbacks the moment that it arrives.

    ``asyncio.Future`` schedules its callbacks for the next turn of the event loop.  One future with
    one callback costs 1.05 µs of processor time that way, and 0.42 µs here (Python 3.11), and the
    callback runs a turn earlier.  Subclasses add ``__slots__``; those of which each request makes one
    set the fields themselves, as a call of this ``__init__`` takes a tenth of their life.
    """

    __slots__ = ("_callbacks", "_done", "_error", "_result")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], object]] = []
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether there is a result or an error."""
        return self._done

    def cancelled(self) -> bool:
        """Return whether it ended by cancellation."""
        return isinstance(self._error, asyncio.CancelledError)

    def failed(self) -> bool:
        """Return whether it ended with an error, or by cancellation."""
        return self._error is not None

    def exception(self) -> BaseException | None:
        """Return the error, None without one or before the end."""
        return self._error

    def result(self) -> T:
        """Return the result, or raise the error."""
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def add_done_callback(self: _Future, callback: Callable[[_Future], object]) -> None:
        """Call ``callback`` with this object when there is a result, or soon if there is one."""
        if self._done:
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def end(self, result: Any, error: BaseException | None = None) -> None:
        """Set the result or the error, and call the callbacks; does nothing if it has ended.

        The error of a callback goes to the loop's exception handler, and stops no other callback.
        """
        if self._done:
            return
        self._result, self._error, self._done = result, error, True
        callbacks, self._callbacks = self._callbacks, _NO_CALLBACKS
        for callback in callbacks:
            try:
                callback(self)
            except Exception as e:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "exception in a callback of a future", "exception": e}
                )

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result; cancelling a waiting task does not cancel it."""
        if not self._done:
            waiter = asyncio.get_running_loop().create_future()

            def wake(_ended: object) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self._callbacks.append(wake)
            yield from waiter.__await__()
        return self.result()


class DerivedFuture(EagerFuture[T]):
    """The result of ``finish(source)`` for a future ``source`` that has ended.

    ``finish`` raises what is to be this one's error, most often by ``source.result()``.  Cancelling
    this future, or a coroutine that awaits it, cancels the source.
    """

    __slots__ = ("_finish", "_source")

    def __init__(
        self, source: "asyncio.Future[Value]", finish: "Callable[[asyncio.Future[Value]], T]"
    ) -> None:
        self._callbacks = []
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._source: asyncio.Future[Any] | None = source
        self._finish: Callable[[asyncio.Future[Any]], T] | None = finish
        source.add_done_callback(self._on_source)

    def _on_source(self, source: "asyncio.Future[Any]") -> None:
        finish, self._finish, self._source = self._finish, None, None
        assert finish is not None
        try:
            result = finish(source)
        except (Exception, asyncio.CancelledError) as e:
            self.end(None, e)
        else:
            self.end(result)

    def cancel(self) -> None:
        """Cancel the source; the callbacks run soon."""
        if self._source is not None:
            self._source.cancel()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""
        try:
            return (yield from super().__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise


async def run_together(
    *coros: Coroutine[Any, Any, Any], on_failure: Optional[Callable[[Exception], None]] = None
) -> list[Any]:
    """Return the results of ``coros``, run concurrently, in order.

    If one raises, or on cancellation, cancels all, waits for their end and calls ``on_failure``
    with each exception of another one, before the first exception propagates.
    """
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    raised: Optional[BaseException] = None
    try:
        # Not gather: on cancellation it raises the error of a task that fails at its end instead.
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


def run_in_own_thread(func: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """Call ``func`` in a thread that may hang indefinitely; return the future of its result.

    Nothing waits for the thread, neither the end of the loop nor that of the process.  A
    cancellation of the future, or the end of the loop, drops its outcome.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)
            # A cancelled caller does not ask for it.
            future.exception()

    def run() -> None:
        result, error = None, None
        try:
            result = func()
        except BaseException as e:
            error = e
        # Not asyncio.wrap_future, of which a loop that has ended makes an error in this thread.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


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

    Requests made in one iteration of the event loop, or while enough batches are in flight, go out
    as one batch, which merges equal requests.  ``batches`` may be in flight; after ``late_secs``
    without a reply, one more each time, up to ``max_batches``.
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
        # Key -> the futures of unsent requests. A request that comes while its key is in
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
        queue = self._queue
        batch: dict[Key, list[asyncio.Future[Value]]] = {}
        while queue and len(batch) < self._batch_size:
            for key in list(islice(queue, self._batch_size - len(batch))):
                # Futures of cancelled or timed out requests are done.
                futures = [future for future in queue.pop(key) if not future.done()]
                if futures:
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
