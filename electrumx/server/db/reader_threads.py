"""Threads that run short jobs, of which each job wakes one.

``concurrent.futures`` does the same at a higher cost: its threads share a queue, whose lock each thread
that takes a job hands on to the next thread, which wakes and finds the queue empty; and each job has a
future, which nothing uses here.  A request that waits alone for the database takes 0.88 to 0.91 of the
processor time this way (``benchmarks/pairs.py``, "cold, lone").

Each thread waits for a lock of its own.  The one that became idle last wakes first, as its stack is
still in the processor's cache.  Threads start when first needed, and end with the object, or when
the process does: then it waits for running jobs, and drops queued ones.

The event loop, or any other thread, submits jobs.
"""

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from electrumx.lib import util

Job = tuple[Any, ...]

_logger = util.class_logger(__name__, "ReaderThreads")
# Of all objects, for the end of the process
_workers: "weakref.WeakSet[_Worker]" = weakref.WeakSet()


class _Jobs:
    """The state that an object and its threads share: they do not keep the object alive."""

    def __init__(self) -> None:
        # Reentrant, as the collection of the object, which stops the threads, may come anywhere
        self.lock = threading.RLock()
        #: those that no thread has taken, as all are busy
        self.queue: deque[Job] = deque()
        #: threads that wait, the one that became idle last at the end
        self.idle: list[_Worker] = []
        self.is_stopped = False

    def stop(self) -> None:
        """Let all threads end, those that are busy after their job."""
        with self.lock:
            self.is_stopped = True
            self.queue.clear()
            idle, self.idle = self.idle, []
        for worker in idle:
            worker.wake(None)


class _Worker(threading.Thread):
    """A thread."""

    def __init__(self, jobs: _Jobs, name: str, job: Job) -> None:
        # A daemon, as those that wait stop only after Python has joined all others
        super().__init__(name=name, daemon=True)
        self.jobs = jobs
        self._job: Job | None = job
        self._woken = threading.Lock()
        self._woken.acquire()

    def wake(self, job: Job | None) -> None:
        """Give an idle thread a job, or let it end."""
        self._job = job
        self._woken.release()

    def run(self) -> None:
        """Run jobs until there are to be no more."""
        while (job := self._job) is not None:
            try:
                job[0](*job[1:])
            except BaseException:
                # Whatever it is: nothing would replace a thread that ended here.
                _logger.exception("a job failed")
            # Not kept while waiting: Python would never collect the object that it has.
            job = None
            if self._take_next():
                self._woken.acquire()

    def _take_next(self) -> bool:
        """Take the next job, None at the end; return whether to wait for it."""
        jobs = self.jobs
        with jobs.lock:
            if jobs.queue:
                self._job = jobs.queue.popleft()
                return False
            self._job = None
            if jobs.is_stopped:
                return False
            jobs.idle.append(self)
            return True


class ReaderThreads:
    """At most so many threads, and the jobs that wait for them."""

    def __init__(self, max_threads: int, name: str) -> None:
        """``name`` is the first part of the names of the threads."""
        self._max_threads, self._name = max_threads, name
        self._started = 0
        self._jobs = _Jobs()
        weakref.finalize(self, self._jobs.stop).atexit = False

    def submit(self, function: Callable[..., object], /, *args: object) -> None:
        """Call ``function(*args)`` in a thread.

        RuntimeError if no thread can start: the job is queued, see ``start_thread``.
        """
        jobs, job = self._jobs, (function, *args)
        with jobs.lock:
            if not jobs.idle:
                jobs.queue.append(job)
                self.start_thread()
                return
            worker = jobs.idle.pop()
        worker.wake(job)

    def idle(self) -> list[threading.Thread]:
        """Return the threads that wait for a job, the next to wake at the end."""
        with self._jobs.lock:
            return list(self._jobs.idle)

    def start_thread(self) -> None:
        """Start another thread if there may be one, and a job for it.  RuntimeError if none can be."""
        jobs = self._jobs
        with jobs.lock:
            if not jobs.queue or self._started >= self._max_threads:
                return
            worker = _Worker(jobs, f"{self._name}_{self._started}", jobs.queue[0])
            worker.start()
            # Under the lock: no other thread has taken the job in the meantime.
            jobs.queue.popleft()
            self._started += 1
            _workers.add(worker)


def _end_all() -> None:
    """End all threads: none may be inside an engine when the interpreter shuts down."""
    workers = list(_workers)
    for worker in workers:
        worker.jobs.stop()
    for worker in workers:
        worker.join()


atexit.register(_end_all)
