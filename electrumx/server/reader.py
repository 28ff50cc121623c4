"""Reads of the database for many clients, gathered into few jobs for threads.

A hop to a thread and back costs 50 to 100 µs of processor time, several times what a small read
costs.  So what is asked for in one turn of the event loop, and while a job is under way, becomes
*one* job, whose results come back with one wake-up.  A second job begins beside the first only if
that is late: then it waits for the disk, and others should not wait for it.

Work that grows with the length of an address's history must not hold up the small reads.  A read
is first tried within a bound; if it says ``TOO_MUCH`` it is done again as a job of its own, in
other threads.  One that says ``RACED`` met a reorganisation, and is repeated a moment later.

The queue belongs to the event loop; the functions given run in the threads.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any


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
#: before a read that met a reorganisation is repeated, in seconds
RETRY_SECS = 0.05


class _Read:
    """A function to call in a thread, and who waits for the result."""

    __slots__ = ("bounded", "function", "future")

    def __init__(self, function: Callable[[bool], Any], future: "asyncio.Future[Any]") -> None:
        self.function = function
        self.future = future
        self.bounded = True


class Reader:
    """Runs reads in threads; used from one event loop."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Read] = []
        self._running = 0
        self._due = False
        self._small: ThreadPoolExecutor | None = None
        self._large: ThreadPoolExecutor | None = None

    def read(self, function: Callable[[bool], Any]) -> "asyncio.Future[Any]":
        """Call ``function(bounded)`` in a thread, soon; return a future of the result.

        With ``bounded`` true the function must not take much longer than a millisecond, but may
        return TOO_MUCH, and is then called once more with false.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        future = loop.create_future()
        self._waiting.append(_Read(function, future))
        if not self._due and not self._running:
            self._due = True
            loop.call_soon(self._dispatch)
        return future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting = []
        self._running = 0
        self._due = False
        self._small = ThreadPoolExecutor(SMALL_JOBS, "small-reads")
        self._large = ThreadPoolExecutor(LARGE_JOBS, "large-reads")

    def _dispatch(self) -> None:
        """Begin one job: threads that compute take turns anyway."""
        self._due = False
        if not self._waiting or self._running >= SMALL_JOBS:
            return
        job, self._waiting = self._waiting[:JOB_READS], self._waiting[JOB_READS:]
        self._running += 1
        self._submit(self._small, job)
        assert self._loop
        self._loop.call_later(LATE_SECS, self._if_late, self._running)

    def _if_late(self, running: int) -> None:
        if self._waiting and self._running >= running:
            self._dispatch()

    def _submit(self, pool: ThreadPoolExecutor | None, job: list[_Read]) -> None:
        assert pool
        assert self._loop
        pool.submit(self._run, self._loop, pool is self._small, job)

    def _run(self, loop: asyncio.AbstractEventLoop, small: bool, job: list[_Read]) -> None:
        """Do a job.  Runs in: a thread."""
        results: list[Any] = []
        for read in job:
            try:
                results.append((read.function(read.bounded), None))
            except Exception as e:
                results.append((None, e))
        try:
            loop.call_soon_threadsafe(self._deliver, small, job, results)
        except RuntimeError:
            # The loop was closed: nobody waits any more.
            return

    def _deliver(self, small: bool, job: list[_Read], results: list[Any]) -> None:
        if small:
            self._running -= 1
        for read, (result, error) in zip(job, results, strict=True):
            future = read.future
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            elif result is TOO_MUCH:
                read.bounded = False
                self._submit(self._large, [read])
            elif result is RACED:
                self._logger.warning("a read met a reorganisation, retrying...")
                assert self._loop
                self._loop.call_later(RETRY_SECS, self._again, read)
            else:
                future.set_result(result)
        if self._waiting and not self._due:
            self._due = True
            assert self._loop
            self._loop.call_soon(self._dispatch)

    def _again(self, read: _Read) -> None:
        """Repeat a read that met a reorganisation."""
        if read.future.done():
            return
        self._submit(self._small if read.bounded else self._large, [read])
        if read.bounded:
            self._running += 1
