"""Admits reads of the stores, and keeps them out during the closing or reopening of a store.

An engine frees its memory when it closes; a thread that is inside it then, reading, takes the
process down with it.  So every read without the protection of the state lock passes a
:class:`StoreGate`: :meth:`StoreGate.reading` admits it, :meth:`StoreGate.exclusive` waits until
all admitted reads have left and holds new ones back.  A database has one gate for both stores and
the flat files.

*Reopening* lets admitted reads end, and new ones wait.  *Closing* (:meth:`StoreGate.begin_closing`)
makes waiting and new reads fail with ``DBClosedError``, and long ones that are under way, too: they
check :attr:`StoreGate.closing` every :data:`CHECK_ROWS` rows.

Runs in: any thread but the event loop's, because admission may wait.  An admitted read must not
wait for the event loop: closing would then wait for the loop, which may be waiting for the closing.
Admission costs 0.5 µs, so the gate admits a job of many reads once.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from electrumx.server.storage.schema import DBClosedError

T = TypeVar("T")

#: rows that a long iteration reads between two checks of whether the store is closing
CHECK_ROWS = 1_000


class StoreGate:
    """The gate of one database.  Both kinds of admission may nest in one thread."""

    def __init__(self, *, is_open: bool = True) -> None:
        # Entered directly, not through the condition: that takes a third of the time.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        #: thread id -> depth of nested admissions
        self._readers: dict[int, int] = {}
        #: id of the thread that has exclusive access, and its depth
        self._owner: int | None = None
        self._owner_depth = 0
        #: threads that wait for exclusive access; new reads yield to them
        self.waiting = 0
        self._is_open = is_open
        #: the stores close next: reads under way end with DBClosedError
        self.closing = False
        #: number of exclusive sections so far: do not use iterators of an earlier one
        self.generation = 0

    # -- reads

    def enter(self) -> None:
        """Admit the current thread; :meth:`leave` must follow.  Raise DBClosedError if closed."""
        me = threading.get_ident()
        with self._lock:
            if me not in self._readers and me != self._owner:
                while self._is_open and not self.closing and (self._owner or self.waiting):
                    self._changed.wait()
                if self.closing or not self._is_open:
                    raise DBClosedError
            self._readers[me] = self._readers.get(me, 0) + 1

    def leave(self) -> None:
        """End an admission of the current thread."""
        me = threading.get_ident()
        with self._lock:
            depth = self._readers.pop(me) - 1
            if depth:
                self._readers[me] = depth
            elif self.waiting:
                self._changed.notify_all()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Admit a read for the length of a block.  Raise DBClosedError if the stores are closed."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def is_inside(self) -> bool:
        """Return whether the current thread is inside a read."""
        return threading.get_ident() in self._readers

    def check(self) -> None:
        """Raise DBClosedError if the stores close next."""
        if self.closing and self._owner != threading.get_ident():
            raise DBClosedError

    def rows(self, iterable: Iterable[T]) -> list[T]:
        """Return all rows.  Raise DBClosedError if the stores are to close before the end."""
        iterator = iter(iterable)
        found: list[T] = []
        while chunk := list(islice(iterator, CHECK_ROWS)):
            found += chunk
            self.check()
        return found

    # -- exclusive access

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other thread reads, and keep all others out for the length of a block.

        The thread itself must not be inside a read.
        """
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def _acquire(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._owner != me:
                assert me not in self._readers, "a read cannot close the store that it reads"
                self.waiting += 1
                try:
                    while self._owner is not None or self._readers:
                        self._changed.wait()
                finally:
                    self.waiting -= 1
                self._owner = me
                self.generation += 1
            self._owner_depth += 1

    def _release(self) -> None:
        with self._lock:
            self._owner_depth -= 1
            if not self._owner_depth:
                self._owner = None
                self._changed.notify_all()

    # -- open and closed

    def begin_closing(self) -> None:
        """Make all reads fail from now on; :meth:`set_closed` is to follow, with the gate held."""
        with self._lock:
            self.closing = True
            self._changed.notify_all()

    def set_closed(self) -> None:
        """Note that the stores are closed: reads fail at once."""
        with self._lock:
            self._is_open = self.closing = False
            self._changed.notify_all()

    def set_open(self) -> None:
        """Note that the stores are open: admit reads."""
        with self._lock:
            self._is_open = True
            self.closing = False
            self._changed.notify_all()
