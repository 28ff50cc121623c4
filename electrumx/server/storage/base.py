"""A key-value store in a folder: the interface of the engines, and what they have in common.

Owns how a store is opened, read and written, and nothing of its contents.  All methods may be
called from any thread; those that read or write block, so the event loop never calls them.

Batches are atomic and synced: when the ``with`` block of :meth:`Storage.write_batch` ends, the
rows are on disk or none of them is.  An iterator is a snapshot: it does not see later writes.

Both engines' iterators end silently where they cannot read a table, because it is damaged or
because no descriptor was left to open it.  Here that is an error: a shorter answer would be wrong.

The engine is not recorded on disk.  A folder's files show which engine wrote it, so opening with
the other one is refused before the engine touches anything.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Protocol

from electrumx.server.storage.cursors import Row, first_rows
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBError
from electrumx.server.storage.shortage import Patience

#: more bytes than there are
NO_BOUND = 1 << 62


class WriteBatch(Protocol):
    """Rows that are collected and written together; later calls win over earlier ones."""

    def put(self, key: bytes, value: bytes, /) -> None:
        """Set a row."""

    def delete(self, key: bytes, /) -> None:
        """Remove a row, if it exists."""


class MissingEngineError(DBError, ImportError):
    """An engine's Python binding is not installed; an ImportError for whoever expects one."""


class Storage:
    """A key-value store in a folder of its own, opened by the constructor.

    ``name`` is the folder, absolute or relative to the current directory; it is created if
    missing.  ``for_sync`` allows the engine more open files.  ``compressible`` is false for rows
    that compression makes little smaller, that are not deleted, and that indexing does not read.
    A store that is new is being filled, for which an engine may have other options, until
    :meth:`end_filling`; see :meth:`begin_filling` for one that is not.  Raise DBError if it cannot
    be opened.
    """

    #: what DB_ENGINE calls it, in lower case
    ENGINE = ""
    #: open files while synchronising, and while serving clients
    MAX_OPEN_FILES_SYNC = 512
    MAX_OPEN_FILES_SERVING = 128
    #: bytes of tables that :meth:`merge` merges, and of those that hardly become smaller: LevelDB
    #: writes 20 MB/s, RocksDB 50
    MERGE_BYTES = 256_000_000
    MERGE_PLAIN_BYTES = 64_000_000
    #: bytes of tables that are merged between two looks at whether to stop, about: a second's work
    MERGE_STEP_BYTES = 16_000_000

    #: what repeats a write that a shortage made fail, and the gate of who reads the store
    patience: Patience | None = None
    gate: StoreGate | None = None

    def __init__(self, name: str, for_sync: bool, *, compressible: bool = True):
        self.compressible = compressible
        self.is_new = not os.path.exists(os.path.join(name, "CURRENT"))
        self.for_sync = for_sync or self.is_new
        self.filling = self.is_new
        self._compress = compressible and not self.filling
        self._merge_stopped = False
        self._folder = os.path.abspath(name)
        self._refuse_other_engine(name)
        self.import_module()
        self.open(name)

    @classmethod
    def import_module(cls) -> None:
        """Import the engine's Python binding.  Raise MissingEngineError if it is not installed."""
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

    def _write_patiently(self, write: Callable[[], None]) -> None:
        """Write, again where there are no descriptors or no memory for it."""
        if self.patience is None:
            write()
        else:
            self.patience.run(write, f"writing to {self._folder}", self._reopen_after_error)

    def _reopen_after_error(self) -> None:
        """Reopen the store: an engine that met an error in the background refuses all writes.

        Nothing is done where who writes is reading, too, and could not be waited for.
        """
        if self.gate is not None and not self.gate.is_inside():
            with self.gate.exclusive():
                self._close_engine()
                self.open(self._folder)

    def _close_engine(self) -> None:
        self.close()

    def write_batch(self) -> AbstractContextManager[WriteBatch]:
        """Return a context manager that collects rows, and commits and syncs them at its end.

        Nothing is written if the block raises.
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

        As many calls of :meth:`iterator` do, but quicker.  Of the rows of each only as many of the
        first as it takes to have ``max_bytes`` of keys and values.
        """
        return [first_rows(self.iterator(prefix=prefix), max_bytes) for prefix in prefixes]

    def begin_filling(self) -> None:
        """Go back to the options for a store being filled, unless there is too much to be merged.

        The engine may be closed and opened for it, so nobody may use the store meanwhile.
        """
        self.filling = self.table_bytes <= self.MERGE_BYTES

    def end_filling(self, *, merge: bool = False) -> None:
        """Go on with the options for a store that is in use; ``merge`` says that it is next.

        The engine may be closed and opened for it, so nobody may use the store meanwhile.
        """
        self.filling = False

    def merge(self) -> bool:
        """Merge all tables, if that makes the store notably smaller and takes seconds at most.

        The store can be used meanwhile, but not closed.  Return False if :meth:`stop_merging` came
        before the end; what was merged until then stays so.
        """
        return True

    def stop_merging(self) -> None:
        """Make :meth:`merge` end within a second or three; from then on only close the store."""
        self._merge_stopped = True

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
        """How many files the engine may hold open."""
        return self.MAX_OPEN_FILES_SYNC if self.for_sync else self.MAX_OPEN_FILES_SERVING

    @property
    def is_small(self) -> bool:
        """Tell whether all of the store's tables can be open at once while serving clients.

        Then a store opened for synchronising is as good for serving as it is.
        """
        return len(self._tables()) <= self.MAX_OPEN_FILES_SERVING // 2

    def _refuse_other_engine(self, name: str) -> None:
        # RocksDB writes an IDENTITY file before anything else, and an OPTIONS file at the end of
        # every opening; LevelDB neither.
        if self.is_new:
            return
        is_rocksdb = any(entry.startswith(("OPTIONS-", "IDENTITY")) for entry in os.listdir(name))
        found = "rocksdb" if is_rocksdb else "leveldb"
        if found != self.ENGINE:
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

    Only numbers from ``first`` on; numbers that no key has are left out where that is cheap.
    """
    for high in range(first >> 8, 0x100):
        if next(store.iterator(prefix=kind + bytes([high])), None) is not None:
            yield from range(max(first, high << 8), (high + 1) << 8)


def db_class(name: str) -> type[Storage]:
    """Return the class of an engine by its name, in any case.  Raise RuntimeError if unknown."""
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
    """Return every descendant of a class, wherever it was defined."""
    found = []
    for klass in base.__subclasses__():
        found.append(klass)
        found.extend(_descendants(klass))
    return found
