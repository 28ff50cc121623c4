"""A key-value store in a folder: the interface of the engines, and their common parts.

Owns the opening, reading and writing of a store, and nothing of its contents.  Any thread may call
all methods; those that read or write block, so the event loop never calls them.

Batches are atomic and synced: when the ``with`` block of :meth:`Storage.write_batch` ends, the
rows are on disk or none of them is.  An iterator is a snapshot: it does not see later writes.

Both engines' iterators end silently where they cannot read a table, because of damage or because no
descriptor was left to open it.  Here that is an error: a shorter answer would be wrong.

The disk has no record of the engine.  A folder's files show which engine wrote it, so opening with
the other one fails before the engine touches anything.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Protocol

from electrumx.server.engine_choice import engine_of_store
from electrumx.server.storage.cursors import Row, first_rows
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBError
from electrumx.server.storage.shortage import Patience
from electrumx.server.storage.tuning import Tuning

#: more bytes than there are
NO_BOUND = 1 << 62


class WriteBatch(Protocol):
    """Rows to write together; later calls win over earlier ones."""

    def put(self, key: bytes, value: bytes, /) -> None:
        """Set a row."""

    def delete(self, key: bytes, /) -> None:
        """Remove a row, if it exists."""


class MissingEngineError(DBError, ImportError):
    """An engine's Python binding is missing; also an ImportError, which callers may expect."""


class Storage:
    """A key-value store in a folder of its own; the constructor opens it.

    ``name`` is the folder, absolute or relative to the current directory; a missing one is created.
    ``for_sync`` allows the engine more open files.  ``compressible`` is false for rows that
    compression makes little smaller, that nothing deletes, and that indexing does not read.
    ``prefix_len`` is the number of bytes by which look-ups find rows (0: no particular one), for
    which an engine may have filters.  ``tuning`` limits memory, threads and files.
    A new store is in bulk load, for which an engine may have other options, until
    :meth:`end_bulk_load`; see :meth:`begin_bulk_load` for others.  Raise DBError if opening fails.
    """

    #: its value of DB_ENGINE, in lower case
    ENGINE = ""
    #: open files while syncing, and while serving clients
    MAX_OPEN_FILES_SYNC = 512
    MAX_OPEN_FILES_SERVING = 128
    #: bytes of tables that :meth:`compact` rewrites, and of those that hardly become smaller:
    #: LevelDB writes 20 MB/s, RocksDB 50
    COMPACT_BYTES = 256_000_000
    COMPACT_PLAIN_BYTES = 64_000_000
    #: bytes of tables compacted between two looks at whether to stop, about: a second's work
    COMPACT_STEP_BYTES = 16_000_000

    def __init__(
        self,
        name: str,
        for_sync: bool,
        *,
        compressible: bool = True,
        prefix_len: int = 0,
        tuning: Tuning | None = None,
    ):
        self.compressible = compressible
        self.prefix_len = prefix_len
        self.tuning = tuning or Tuning()
        self.is_new = not os.path.exists(os.path.join(name, "CURRENT"))
        self.for_sync = for_sync or self.is_new
        self.bulk_loading = self.is_new
        #: whether the engine compresses tables
        self.compress = compressible and not self.bulk_loading
        #: whether :meth:`compact` is to end soon
        self.compaction_stopped = False
        self._folder = os.path.abspath(name)
        self._patience: Patience | None = None
        self._gate: StoreGate | None = None
        self._refuse_other_engine(name)
        self.import_module()
        self.open(name)

    @classmethod
    def import_module(cls) -> None:
        """Import the engine's Python binding.  Raise MissingEngineError if it is missing."""
        raise NotImplementedError

    def open(self, name: str) -> None:
        """Open the store, creating it if it is missing."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the store.  Closing twice is harmless."""
        raise NotImplementedError

    def get(self, key: bytes) -> bytes | None:
        """Return a row's value, or None."""
        raise NotImplementedError

    def put(self, key: bytes, value: bytes) -> None:
        """Set one row, without waiting for the disk."""
        raise NotImplementedError

    def retry_writes(self, patience: Patience, gate: StoreGate) -> None:
        """Repeat writes that a shortage makes fail, from now on; ``gate`` is that of the readers.

        Do not call it before the store is repaired: it may be reopened between two attempts.
        """
        self._patience, self._gate = patience, gate

    def write_beside(
        self,
        write: Callable[[], None],
        what: str,
        before_retry: Callable[[], None] | None = None,
    ) -> None:
        """Write a file beside the store, again where there are no descriptors or no memory for it.

        ``what`` and ``before_retry`` are those of ``Patience.run``.
        """
        if self._patience is None:
            write()
        else:
            self._patience.run(write, what, before_retry)

    def _write_patiently(self, write: Callable[[], None]) -> None:
        """Write, again where there are no descriptors or no memory for it."""
        self.write_beside(write, f"writing to {self._folder}", self._reopen_after_error)

    def _reopen_after_error(self) -> None:
        """Reopen the store: an engine that met an error in the background refuses all writes.

        Does nothing in a thread that is reading, too, which exclusive access would wait for.
        """
        if self._gate is not None and not self._gate.is_inside():
            with self._gate.exclusive():
                self._close_engine()
                self.open(self._folder)

    def _close_engine(self) -> None:
        self.close()

    def write_batch(self) -> AbstractContextManager[WriteBatch]:
        """Return a context manager that collects rows, and commits and syncs them at its end.

        It writes nothing if the block raises.
        """
        raise NotImplementedError

    def iterator(
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Return an iterator over the rows whose key begins with ``prefix``, in key order.

        Rows with keys below ``start`` are left out, and not read.
        """
        raise NotImplementedError

    def rows_of(self, prefixes: Sequence[bytes], max_bytes: int = NO_BOUND) -> list[list[Row]]:
        """Return the rows whose key begins with each of the prefixes, best in ascending order.

        The same rows as from :meth:`iterator`, in less time.  Of each prefix only the first rows,
        as many as it takes to have ``max_bytes`` of keys and values.
        """
        return [first_rows(self.iterator(prefix=prefix), max_bytes) for prefix in prefixes]

    def begin_bulk_load(self) -> None:
        """Go back to the options for bulk load, unless there is too much to compact afterwards.

        This may close and open the engine, so nothing else may use the store.
        """
        self.bulk_loading = self.table_bytes <= self.COMPACT_BYTES

    def end_bulk_load(self, *, compact: bool = False) -> None:
        """Go on with the options for a store in use; ``compact``: :meth:`compact` is next.

        This may close and open the engine, so nothing else may use the store.
        """
        self.bulk_loading = False

    def compact(self) -> bool:
        """Rewrite all tables, if that makes the store notably smaller and takes seconds at most.

        Others can use the store concurrently, but not close it.  Return False if :meth:`stop_compaction`
        came before the end; tables rewritten until then stay so.
        """
        return True

    def stop_compaction(self) -> None:
        """Make :meth:`compact` end within a second or three; from then on only close the store."""
        self.compaction_stopped = True

    @property
    def table_bytes(self) -> int:
        """The bytes of all tables."""
        sizes = []
        for name in self._tables():
            # The engine may have replaced one since.
            with suppress(FileNotFoundError):
                sizes.append(os.path.getsize(os.path.join(self._folder, name)))
        return sum(sizes)

    def _tables(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if name.endswith((".ldb", ".sst"))]

    @property
    def max_open_files(self) -> int:
        """Number of files that the engine may hold open."""
        least = self.MAX_OPEN_FILES_SYNC if self.for_sync else self.MAX_OPEN_FILES_SERVING
        return self.tuning.open_files(least)

    @property
    def is_small(self) -> bool:
        """Return whether all of the store's tables can be open at once while serving clients.

        Then a store opened for syncing needs no reopening to serve.
        """
        return len(self._tables()) <= self.MAX_OPEN_FILES_SERVING // 2

    def _refuse_other_engine(self, name: str) -> None:
        found = None if self.is_new else engine_of_store(name)
        if found is not None and found != self.ENGINE:
            raise DBError(
                f"the database in {name} was written by {found}, not {self.ENGINE}: "
                f"set DB_ENGINE={found}, or use another DB_DIRECTORY"
            )

    @classmethod
    def _import(cls, names: tuple[str, ...], remedy: str) -> ModuleType:
        for name in names:
            try:
                return importlib.import_module(name)
            except ImportError:
                continue
        raise MissingEngineError(
            f"no Python binding for DB engine {cls.ENGINE} is installed: {remedy}"
        )


def used_prefixes(store: Storage, kind: bytes = b"", first: int = 0) -> Iterator[int]:
    """Yield, ascending, the big-endian numbers of two bytes that may follow ``kind`` in a key.

    Only numbers from ``first`` on; numbers without a key are left out where that is cheap.
    """
    for high in range(first >> 8, 0x100):
        if next(store.iterator(prefix=kind + bytes([high])), None) is not None:
            yield from range(max(first, high << 8), (high + 1) << 8)


def db_class(name: str) -> type[Storage]:
    """Return the class of an engine by its name, in any case.  Raise RuntimeError if unknown.

    The engines are the imported descendants of Storage: this package imports its own.
    """
    engines = _descendants(Storage)
    candidates = [engine for engine in engines if engine.ENGINE == name.lower()]
    if not candidates:
        known = ", ".join(sorted({engine.ENGINE for engine in engines}))
        raise RuntimeError(f'unrecognised DB engine "{name}": use one of {known}')
    failures: list[Exception] = []
    for engine in candidates:
        try:
            engine.import_module()
            return engine
        except (DBError, ImportError) as e:
            failures.append(e)
    raise failures[0]


def _descendants(base: type[Storage]) -> list[type[Storage]]:
    """Return every descendant of a class, of whichever module."""
    found = []
    for klass in base.__subclasses__():
        found.append(klass)
        found.extend(_descendants(klass))
    return found
