"""Reads of the database for many clients, gathered into few jobs for threads.

A hop to a thread and back costs 50 to 100 µs of processor time, several times the cost of a small
read.  So the reads asked for in one turn of the event loop, or while a job is under way, become
*one* job, whose results come back with one wake-up.  A second job begins beside the first only if
that is overdue: then it waits for the disk, and others should not wait for it.

Reads of one kind are *batched*: one call makes all in a job, so that the work that is the same for
each, as making an iterator over a store, happens once.

Work that grows with the length of an address's history must not delay the small reads.  The pool
first tries a read within a bound; if it returns ``TOO_MUCH`` the pool repeats it as a job of its
own, in other threads.  One that returns ``RACED`` met a reorganisation, and the pool repeats it a
moment later; the pauses grow, and after a minute it fails.

A job enters the database's gate once, so that no store closes during a read of it (``gate``); when
the database closes, the reads that wait fail with ``DBClosedError``.

The queue belongs to the event loop; the functions given run in the threads.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from enum import Enum
from time import perf_counter
from typing import Any, TypeVar

from electrumx.lib.tasks import EagerFuture
from electrumx.server.db.reader_threads import ReaderThreads
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBClosedError, DBReadError

T = TypeVar("T")


class ReadStatus(Enum):
    """The value that a read returns in place of a result."""

    #: there is more than a small read may take; see :meth:`ReadPool.read`
    TOO_MUCH = 1
    #: a reorganisation came during the read
    RACED = 2


TOO_MUCH = ReadStatus.TOO_MUCH
RACED = ReadStatus.RACED

#: reads in one job at most
JOB_READS = 64
#: jobs of small reads at once; they are many only where the disk is slow
SMALL_JOBS = 4
#: large reads at once
LARGE_JOBS = 2
#: after which a job counts as waiting for the disk, in seconds
OVERDUE_SECS = 0.003
#: how long callbacks get results before yielding to the event loop, in seconds
SLICE_SECS = 0.002
#: before repeating a read that met a reorganisation, in seconds: at first, and at most
RETRY_SECS = 0.05
MAX_RETRY_SECS = 2.0
#: repetitions after which it fails: about a minute
MAX_RETRIES = 35
#: before trying again to start a thread, in seconds
THREAD_RETRY_SECS = 1.0
#: between two log lines on such reads, in seconds
RETRY_LOG_SECS = 10.0


class PendingRead(EagerFuture[T]):
    """A requested read; it runs even if nothing waits for it any more."""

    __slots__ = ("argument", "batch", "bounded", "retries")

    def __init__(self, batch: "BatchRead", argument: Any) -> None:
        self._callbacks = []
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        #: what to call in a thread; see :meth:`ReadPool.join`
        self.batch = batch
        self.argument = argument
        self.bounded = True
        #: how often it met a reorganisation
        self.retries = 0


#: (arguments, bounded) -> a result, or a ReadStatus, of each
BatchRead = Callable[[list[Any], bool], list[Any]]
Result = tuple[Any, Exception | None]


def _each(functions: list[Callable[[bool], Any]], bounded: bool) -> list[Any]:
    """Make reads that have nothing in common: see :meth:`ReadPool.read`."""
    return [function(bounded) for function in functions]


def _results(
    job: list[PendingRead[Any]], explain: Callable[[Exception], Exception]
) -> list[Result]:
    """Make the reads of a job, batched by kind.  Runs in: a thread."""
    if len(job) == 1:
        return [_alone(job[0], explain)]
    kinds: dict[BatchRead, list[int]] = {}
    for number, read in enumerate(job):
        kinds.setdefault(read.batch, []).append(number)
    results: list[Result] = [(None, None)] * len(job)
    for batch, numbers in kinds.items():
        if len(numbers) > 1 and batch is not _each:
            try:
                found = batch([job[number].argument for number in numbers], job[0].bounded)
                for number, result in zip(numbers, found, strict=True):
                    results[number] = result, None
                continue
            except Exception:  # noqa: S110  the loop below finds the one to blame
                pass
        for number in numbers:
            results[number] = _alone(job[number], explain)
    return results


def _alone(read: PendingRead[Any], explain: Callable[[Exception], Exception]) -> Result:
    try:
        return read.batch([read.argument], read.bounded)[0], None
    except DBClosedError as e:
        # Its frames hold iterators, which must be gone when the store closes.
        return None, explain(e.with_traceback(None))
    except Exception as e:
        return None, explain(e)


class ReadPool:
    """Runs reads in threads; used from one event loop."""

    def __init__(
        self,
        logger: logging.Logger,
        gate: StoreGate | None = None,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        """``explain`` replaces an error of a read by the error to raise; it runs in a thread."""
        self._logger = logger
        self._gate = gate or StoreGate()
        self._explain = explain
        self._next_retry_log = self._next_thread_log = 0.0
        # Everything else belongs to one loop, whose first read makes it.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[PendingRead[Any]] = []

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting = []
        self._running = 0
        # Whether a job is scheduled, and whether a check for an overdue last one is
        self._due = self._watched = False
        self._last_begun = 0.0  # the loop's time
        self._small = ReaderThreads(SMALL_JOBS, "small-reads")
        self._large = ReaderThreads(LARGE_JOBS, "large-reads")

    @property
    def queued(self) -> int:
        """How many reads wait for a thread."""
        return len(self._waiting)

    def read(self, function: Callable[[bool], Any]) -> PendingRead[Any]:
        """Call ``function(bounded)`` in a thread, soon; return its future.

        With ``bounded`` true the function must not take much longer than a millisecond, but may
        return TOO_MUCH; then the pool calls it once more with false.
        """
        return self.join(_each, function)

    def join(self, batch: BatchRead, argument: Any) -> PendingRead[Any]:
        """Do as :meth:`read` with the one result of ``batch([argument], bounded)``.

        One call serves several reads with the same function.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        pending: PendingRead[Any] = PendingRead(batch, argument)
        self._waiting.append(pending)
        if not self._running:
            if not self._due:
                self._due = True
                loop.call_soon(self._dispatch)
        elif not self._watched:
            self._watched = True
            loop.call_at(self._last_begun + OVERDUE_SECS, self._if_overdue)
        return pending

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
            self._loop.call_at(self._last_begun + OVERDUE_SECS, self._if_overdue)

    def _if_overdue(self) -> None:
        """Begin another job if the last is overdue; else check again later."""
        self._watched = False
        if not self._waiting or not self._running:
            return
        assert self._loop
        late_at = self._last_begun + OVERDUE_SECS
        if self._loop.time() >= late_at:
            self._dispatch()
        elif not self._watched:
            self._watched = True
            self._loop.call_at(late_at, self._if_overdue)

    def _submit(self, pool: ReaderThreads, job: list[PendingRead[Any]]) -> None:
        assert self._loop
        try:
            pool.submit(self._run, self._loop, pool is self._small, job)
        except RuntimeError:
            # Starting a thread failed.  The job is queued; the threads that there are do it.
            if self._loop.time() >= self._next_thread_log:
                self._next_thread_log = self._loop.time() + RETRY_LOG_SECS
                self._logger.warning("too few threads: reads of the database may have to wait")
            self._loop.call_later(THREAD_RETRY_SECS, self._start_thread, pool)

    def _start_thread(self, pool: ReaderThreads) -> None:
        """Make a pool try again to start a thread for the queued jobs."""
        assert self._loop
        try:
            pool.start_thread()
        except RuntimeError:
            self._loop.call_later(THREAD_RETRY_SECS, self._start_thread, pool)

    def _run(
        self, loop: asyncio.AbstractEventLoop, small: bool, job: list[PendingRead[Any]]
    ) -> None:
        """Do a job.  Runs in: a thread."""
        try:
            self._gate.enter()
        except DBClosedError as e:
            results: list[Result] = [(None, e.with_traceback(None))] * len(job)
        else:
            try:
                results = _results(job, self._explain)
            except Exception as e:
                # None waits indefinitely, and the job does not count as running.
                results = [(None, e)] * len(job)
            finally:
                self._gate.leave()
        try:
            loop.call_soon_threadsafe(self._deliver, small, job, results)
        except RuntimeError:
            # The loop is closed: nothing waits for the results.
            return

    def _deliver(self, small: bool, job: list[PendingRead[Any]], results: list[Result]) -> None:
        """Take the results of a job, and begin the next one."""
        if small:
            self._running -= 1
        if self._waiting and not self._due:
            self._due = True
            assert self._loop
            self._loop.call_soon(self._dispatch)
        if len(job) == 1:
            self._give(job[0], *results[0])
        else:
            self._give_results(deque(zip(job, results, strict=True)))

    def _give_results(self, results: "deque[tuple[PendingRead[Any], Result]]") -> None:
        """Give results to callbacks for a time slice: some may have much to do."""
        assert self._loop
        deadline = perf_counter() + SLICE_SECS
        while results and perf_counter() < deadline:
            read, (result, error) = results.popleft()
            self._give(read, result, error)
        if results:
            self._loop.call_soon(self._give_results, results)

    def _give(self, read: PendingRead[Any], result: Any, error: Exception | None) -> None:
        """Give a read its result, or make it again."""
        if result is TOO_MUCH:
            read.bounded = False
            self._submit(self._large, [read])
            return
        if result is RACED:
            if read.retries < MAX_RETRIES:
                self._retry_later(read)
                return
            error = DBReadError("the database changed for too long while it was read")
        read.end(result, error)

    def _retry_later(self, read: PendingRead[Any]) -> None:
        """Repeat a read that met a reorganisation, after pauses that grow."""
        assert self._loop
        now = self._loop.time()
        if now >= self._next_retry_log:
            self._next_retry_log = now + RETRY_LOG_SECS
            self._logger.warning("a read met a reorganisation, retrying...")
        delay = min(RETRY_SECS * 2**read.retries, MAX_RETRY_SECS)
        read.retries += 1
        self._loop.call_later(delay, self._again, read)

    def _again(self, read: PendingRead[Any]) -> None:
        """Repeat a read that met a reorganisation."""
        self._submit(self._small if read.bounded else self._large, [read])
        if read.bounded:
            self._running += 1
