"""Reads of the database for many clients, gathered into few jobs for threads.

A hop to a thread and back costs 50 to 100 µs of processor time, several times what a small read
costs.  So what is asked for in one turn of the event loop, and while a job is under way, becomes
*one* job, whose results come back with one wake-up.  A second job begins beside the first only if
that is late: then it waits for the disk, and others should not wait for it.

Reads of one kind may be made *together*, by one call for all that are in a job: what each of them
would have to do again, as making an iterator over a store, is then done once.

Work that grows with the length of an address's history must not hold up the small reads.  A read
is first tried within a bound; if it says ``TOO_MUCH`` it is done again as a job of its own, in
other threads.  One that says ``RACED`` met a reorganisation, and is repeated a moment later; the
pauses grow, and after a minute it fails.

A job passes the database's gate once, so that no store is closed while it is read (``gate``); when
the database is closed, what waits fails with ``DBClosedError``.

The queue belongs to the event loop; the functions given run in the threads.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from time import perf_counter
from typing import Any, Generic, TypeVar

from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBClosedError, DBReadError

T = TypeVar("T")


class Verdict(Enum):
    """What a read returns in place of a result."""

    #: there is more than a small read may take; see :meth:`Reader.read`
    TOO_MUCH = 1
    #: the chain was reorganised meanwhile
    RACED = 2


TOO_MUCH = Verdict.TOO_MUCH
RACED = Verdict.RACED

#: reads in one job at most
JOB_READS = 64
#: jobs of small reads at once; they are many only where the disk is slow
SMALL_JOBS = 4
#: large reads at once
LARGE_JOBS = 2
#: after which a job is taken to wait for the disk, in seconds
LATE_SECS = 0.003
#: how long results are told of before the loop has its turn
SLICE_SECS = 0.002
#: before a read that met a reorganisation is repeated, in seconds: at first, and at most
RETRY_SECS = 0.05
MAX_RETRY_SECS = 2.0
#: repetitions after which it fails: about a minute
MAX_RETRIES = 35
#: before it is tried again to start a thread, in seconds
THREAD_RETRY_SECS = 1.0
#: between two log lines on such reads, in seconds
RETRY_LOG_SECS = 10.0


class Reading(Generic[T]):
    """A read that was asked for: to be awaited, or told of by callbacks.

    Leaner than a future: callbacks are called when the result arrives, not a turn of the loop
    later.
    """

    __slots__ = (
        "_callbacks",
        "_ended",
        "_error",
        "_result",
        "argument",
        "bounded",
        "retries",
        "together",
    )

    def __init__(self, together: "Together", argument: Any) -> None:
        #: what to call in a thread; see :meth:`Reader.join`
        self.together = together
        self.argument = argument
        self.bounded = True
        #: how often it met a reorganisation
        self.retries = 0
        self._callbacks: list[Callable[[Reading[T]], object]] = []
        self._ended = False
        self._result: Any = None
        self._error: Exception | None = None

    def add_done_callback(self, callback: "Callable[[Reading[T]], object]") -> None:
        """Call ``callback`` with this object when there is a result; it must not raise."""
        assert not self._ended
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Say no: a read once asked for is made."""
        return False

    def exception(self) -> Exception | None:
        """Return what the read raised."""
        return self._error

    def result(self) -> T:
        """Return what the read returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def end(self, result: Any, error: Exception | None) -> None:
        """Note the result, and tell of it."""
        self._result, self._error, self._ended = result, error, True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""
        if not self._ended:
            future = asyncio.get_running_loop().create_future()

            def wake(_reading: "Reading[T]") -> None:
                if not future.done():
                    future.set_result(None)

            self._callbacks.append(wake)
            yield from future.__await__()
        return self.result()


#: (arguments, bounded) -> a result, or a Verdict, of each
Together = Callable[[list[Any], bool], list[Any]]
Result = tuple[Any, Exception | None]


def _each(functions: list[Callable[[bool], Any]], bounded: bool) -> list[Any]:
    """Make reads that have nothing in common: see :meth:`Reader.read`."""
    return [function(bounded) for function in functions]


def _results(job: list[Reading[Any]]) -> list[Result]:
    """Make the reads of a job, those of a kind together.  Runs in: a thread."""
    kinds: dict[Together, list[int]] = {}
    for number, read in enumerate(job):
        kinds.setdefault(read.together, []).append(number)
    results: list[Result] = [(None, None)] * len(job)
    for together, numbers in kinds.items():
        if len(numbers) > 1 and together is not _each:
            try:
                found = together([job[number].argument for number in numbers], job[0].bounded)
                for number, result in zip(numbers, found, strict=True):
                    results[number] = result, None
                continue
            except Exception:  # noqa: S110  who of them is to blame is found out below
                pass
        for number in numbers:
            results[number] = _alone(job[number])
    return results


def _alone(read: Reading[Any]) -> Result:
    try:
        return read.together([read.argument], read.bounded)[0], None
    except DBClosedError as e:
        # Its frames hold iterators, which must be gone when the store is closed.
        return None, e.with_traceback(None)
    except Exception as e:
        return None, e


class Reader:
    """Runs reads in threads; used from one event loop."""

    def __init__(
        self,
        logger: logging.Logger,
        gate: StoreGate | None = None,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        """``explain`` is given what a read raised and returns what to raise; it runs in a thread."""
        self._logger = logger
        self._gate = gate or StoreGate()
        self._explain = explain
        self._next_retry_log = self._next_thread_log = 0.0
        # All else that is kept is made anew for each loop, by the first read.
        self._loop: asyncio.AbstractEventLoop | None = None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Reading[Any]] = []
        self._running = 0
        # Whether a job is about to begin, and whether it is seen to that one begins if need be
        self._due = self._watched = False
        self._last_begun = 0.0  # the loop's time
        self._small = ThreadPoolExecutor(SMALL_JOBS, "small-reads")
        self._large = ThreadPoolExecutor(LARGE_JOBS, "large-reads")

    def read(self, function: Callable[[bool], Any]) -> Reading[Any]:
        """Call ``function(bounded)`` in a thread, soon; return what to await.

        With ``bounded`` true the function must not take much longer than a millisecond, but may
        return TOO_MUCH, and is then called once more with false.
        """
        return self.join(_each, function)

    def join(self, together: Together, argument: Any) -> Reading[Any]:
        """Do as ``read`` of what ``together([argument], bounded)`` returns one of.

        Those who give the same function may be served by one call of it.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        reading: Reading[Any] = Reading(together, argument)
        self._waiting.append(reading)
        if not self._running:
            if not self._due:
                self._due = True
                loop.call_soon(self._dispatch)
        elif not self._watched:
            self._watched = True
            loop.call_at(self._last_begun + LATE_SECS, self._if_late)
        return reading

    def _dispatch(self) -> None:
        """Begin one job: threads that compute take turns anyway."""
        self._due = False
        if not self._waiting or self._running >= SMALL_JOBS:
            return
        job, self._waiting = self._waiting[:JOB_READS], self._waiting[JOB_READS:]
        assert self._loop
        self._running += 1
        self._last_begun = self._loop.time()
        self._submit(self._small, job)
        if self._waiting and not self._watched:
            self._watched = True
            self._loop.call_at(self._last_begun + LATE_SECS, self._if_late)

    def _if_late(self) -> None:
        """Begin another job if the last is late; look again later if it is not."""
        self._watched = False
        if not self._waiting or not self._running:
            return
        assert self._loop
        late_at = self._last_begun + LATE_SECS
        if self._loop.time() >= late_at:
            self._dispatch()
        elif not self._watched:
            self._watched = True
            self._loop.call_at(late_at, self._if_late)

    def _submit(self, pool: ThreadPoolExecutor, job: list[Reading[Any]]) -> None:
        assert self._loop
        try:
            pool.submit(self._run, self._loop, pool is self._small, job)
        except RuntimeError:
            # No thread could be started.  The job is queued; the threads that there are do it.
            if self._loop.time() >= self._next_thread_log:
                self._next_thread_log = self._loop.time() + RETRY_LOG_SECS
                self._logger.warning("too few threads: reads of the database may have to wait")
            self._loop.call_later(THREAD_RETRY_SECS, self._start_thread, pool)

    def _start_thread(self, pool: ThreadPoolExecutor) -> None:
        """Have a pool try again to start a thread for what is queued."""
        assert self._loop
        try:
            pool.submit(int)
        except RuntimeError:
            self._loop.call_later(THREAD_RETRY_SECS, self._start_thread, pool)

    def _run(self, loop: asyncio.AbstractEventLoop, small: bool, job: list[Reading[Any]]) -> None:
        """Do a job.  Runs in: a thread."""
        try:
            self._gate.enter()
        except DBClosedError as e:
            results: list[Result] = [(None, e.with_traceback(None))] * len(job)
        else:
            try:
                results = [
                    (result, error and self._explain(error)) for result, error in _results(job)
                ]
            finally:
                self._gate.leave()
        try:
            loop.call_soon_threadsafe(self._deliver, small, job, results)
        except RuntimeError:
            # The loop was closed: nobody waits any more.
            return

    def _deliver(self, small: bool, job: list[Reading[Any]], results: list[Result]) -> None:
        """Take the results of a job, and see to it that the next begins."""
        if small:
            self._running -= 1
        if self._waiting and not self._due:
            self._due = True
            assert self._loop
            self._loop.call_soon(self._dispatch)
        self._tell(deque(zip(job, results, strict=True)))

    def _tell(self, results: "deque[tuple[Reading[Any], Result]]") -> None:
        """Tell of results for a slice of time: who hears of one may have much to do with it."""
        assert self._loop
        deadline = perf_counter() + SLICE_SECS
        while results and perf_counter() < deadline:
            read, (result, error) = results.popleft()
            if result is TOO_MUCH:
                read.bounded = False
                self._submit(self._large, [read])
            elif result is RACED and read.retries < MAX_RETRIES:
                self._retry_later(read)
            else:
                if result is RACED:
                    error = DBReadError("the database changed for too long while it was read")
                try:
                    read.end(result, error)
                except Exception:
                    self._logger.exception("telling of a read")
        if results:
            self._loop.call_soon(self._tell, results)

    def _retry_later(self, read: Reading[Any]) -> None:
        """Repeat a read that met a reorganisation, after pauses that grow."""
        assert self._loop
        now = self._loop.time()
        if now >= self._next_retry_log:
            self._next_retry_log = now + RETRY_LOG_SECS
            self._logger.warning("a read met a reorganisation, retrying...")
        delay = min(RETRY_SECS * 2**read.retries, MAX_RETRY_SECS)
        read.retries += 1
        self._loop.call_later(delay, self._again, read)

    def _again(self, read: Reading[Any]) -> None:
        """Repeat a read that met a reorganisation."""
        self._submit(self._small if read.bounded else self._large, [read])
        if read.bounded:
            self._running += 1
