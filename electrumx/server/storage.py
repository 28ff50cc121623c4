"""Key-value engines: LevelDB and RocksDB, one small class each.

Owns how an engine is opened, read and written, and nothing of what is stored.  All methods may
be called from any thread; those that read or write block, so the event loop never calls them.

Batches are atomic and synced: when the ``with`` block of :meth:`Storage.write_batch` ends, the
rows are on disk or none of them is.  An iterator is a snapshot: writes made after it was created
are not seen.

Both engines' iterators simply end where a table cannot be read, because it is damaged or because
no descriptor was left to open it.  Here that is an error: a shorter answer would be a wrong one.

The engine is not recorded on disk.  Which one wrote a folder is seen from its files, so opening
with the other one is refused before the engine touches anything.
"""

import gc
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from itertools import dropwhile, takewhile
from types import ModuleType
from typing import Any, Protocol

from electrumx.lib import util
from electrumx.server.cursors import Row, checked_rows, first_rows, rows_at, rows_backwards
from electrumx.server.disk_trouble import open_error
from electrumx.server.gate import StoreGate
from electrumx.server.repeatable_batch import RepeatableBatch
from electrumx.server.schema import DBError
from electrumx.server.shortage import Patience

#: more bytes than there are
NO_BOUND = 1 << 62


class WriteBatch(Protocol):
    """What the ``with`` block of a batch may do; later calls win over earlier ones."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""

    def delete(self, key: bytes) -> None:
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


class LevelDB(Storage):
    """LevelDB, through plyvel (Python below 3.12) or plyvel-next."""

    ENGINE = "leveldb"
    #: bytes of uncompressed blocks held, filled by reading alone; LevelDB's own default is 8 MB.
    #: A small read of a block that is held takes 5 µs, otherwise 20.
    BLOCK_CACHE = 32 << 20
    #: bytes of a block, uncompressed: what a small read of a compressed one has to decompress;
    #: those of other tables are read in place, so that larger ones only spare room
    BLOCK_SIZE = 4 << 10
    PLAIN_BLOCK_SIZE = 16 << 10
    #: files of tables that only merging reads: they are mapped, and count as memory
    MAX_OPEN_FILES_MERGED = 64
    #: bytes of a key by which the steps of merging are told apart
    STEP_KEY_LEN = 3
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(
            ("plyvel", "plyvel_next"), "pip install plyvel (plyvel-next from Python 3.12)"
        )

    def open(self, name: str) -> None:  # noqa: D102
        # A kill while LevelDB creates a store can leave a folder without a CURRENT file; it
        # counts as new, and create_if_missing makes LevelDB start it again.
        try:
            os.makedirs(name, exist_ok=True)
            self.db = self.module.DB(
                name,
                create_if_missing=True,
                max_open_files=self.max_open_files,
                lru_cache_size=self.BLOCK_CACHE,
                block_size=self.BLOCK_SIZE if self.compressible else self.PLAIN_BLOCK_SIZE,
                # plyvel's wheels carry a slow build of snappy, 40 MB/s: what is to be merged soon
                # goes without.  Tables say of each block if it is compressed.
                compression="snappy" if self._compress else None,
            )
        except (OSError, self.module.Error) as e:
            raise open_error(name, e) from e

    def close(self) -> None:  # noqa: D102
        if not self.db.closed and self.is_small:
            # Closing gives up a table that is being written and keeps the log of its rows, which
            # the next opening has to read; compacting a range that is empty lets it be finished.
            # In a large store it would wait for merging, too, which takes seconds.
            self.db.compact_range(start=b"\xff", stop=b"\xff")
        self.db.close()

    @property
    def max_open_files(self) -> int:
        """How many files the engine may hold open."""
        if self.for_sync and not self.compressible:
            return self.MAX_OPEN_FILES_MERGED
        return super().max_open_files

    def begin_filling(self) -> None:  # noqa: D102
        super().begin_filling()
        if self.filling and self._compress:
            self._compress = False
            # Opening has made a table of what the log held, so there is nothing to wait for.
            self.db.close()
            self.open(self._folder)

    def end_filling(self, *, merge: bool = False) -> None:  # noqa: D102
        self.filling = False
        compress = self.compressible or (merge and self.table_bytes <= self.MERGE_PLAIN_BYTES)
        if compress and not self._compress:
            self._compress = True
            self.close()
            self.open(self._folder)

    def merge(self) -> bool:  # noqa: D102
        if self._compress and self.table_bytes <= self.MERGE_BYTES:
            for start, stop in self._merge_steps(0, 1 << 8 * self.STEP_KEY_LEN):
                if self._merge_stopped:
                    return False
                # Without bounds LevelDB merges what lies above the lowest level with none below it.
                self.db.compact_range(start=start, stop=stop)
        return True

    def _merge_steps(self, first: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield bounds of keys that together hold all those whose first bytes are in a range.

        They come in order, and a table that was merged with one step's is not touched by the next.
        """
        start = first.to_bytes(self.STEP_KEY_LEN, "big")
        stop = (end - 1).to_bytes(self.STEP_KEY_LEN, "big") + b"\xff" * 64
        if end - first == 1 or self.db.approximate_size(start, stop) <= self.MERGE_STEP_BYTES:
            yield start, stop
            return
        middle = (first + end) // 2
        yield from self._merge_steps(first, middle)
        yield from self._merge_steps(middle, end)

    def _close_engine(self) -> None:
        self.db.close()

    def get(self, key: bytes) -> bytes | None:  # noqa: D102
        value: bytes | None = self.db.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:  # noqa: D102
        self._write_patiently(lambda: self.db.put(key, value))

    @contextmanager
    def write_batch(self) -> Iterator[WriteBatch]:  # noqa: D102
        opened = self.db
        batch = opened.write_batch(sync=True)
        yield batch

        def write() -> None:
            if self.db is opened:
                batch.write()
                return
            # The store was reopened: a batch belongs to the one that it was made for.
            again = self.db.write_batch(sync=True)
            again.append(batch)
            again.write()

        self._write_patiently(write)

    def iterator(  # noqa: D102
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        cursor = self.db.raw_iterator()
        end = util.increment_byte_string(prefix)
        if reverse:
            return rows_backwards(cursor, end, prefix, start)
        first = max(prefix, start)
        rows = self.db.iterator(start=first, stop=end)
        return checked_rows(rows, cursor, self.get, first, prefix)

    def rows_of(  # noqa: D102
        self, prefixes: Sequence[bytes], max_bytes: int = NO_BOUND
    ) -> list[list[Row]]:
        # Making an iterator takes three times as long as letting one seek.  Not so while tables are
        # being merged all the time: synchronising with a small cache took 8 % more CPU with it.
        if self.for_sync:
            return [rows for prefix in prefixes for rows in self._rows_at([prefix], max_bytes)]
        return self._rows_at(prefixes, max_bytes)

    def _rows_at(self, prefixes: Sequence[bytes], max_bytes: int) -> list[list[Row]]:
        with closing(self.db.raw_iterator()) as cursor:
            return rows_at(cursor, prefixes, max_bytes)


class RocksDB(Storage):
    """RocksDB, through rocksdict in raw mode.

    Table format 5 and snappy are what RocksDB 6 and later read, so that servers linked with an
    older library can open the store.
    """

    ENGINE = "rocksdb"
    TABLE_FORMAT = 5
    TARGET_FILE_SIZE = 33_554_432
    #: bytes of rows in memory after which a table is written; there may be two such
    WRITE_BUFFER = 16 << 20
    #: tables at level 0 after which they are merged, and writes slowed down and stopped: what one
    #: reads has to look into each, but the more there are, the fewer times rows are merged
    LEVEL0_SYNC = (12, 40, 60)
    LEVEL0_SERVING = (4, 20, 36)
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(("rocksdict",), "pip install electrumx[rocksdb]")

    def _options(self) -> Any:
        options = self.module.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_use_fsync(True)
        options.set_target_file_size_base(self.TARGET_FILE_SIZE)
        options.set_max_open_files(self.max_open_files)
        options.set_write_buffer_size(self.WRITE_BUFFER)
        few, slow, stop = self.LEVEL0_SYNC if self.for_sync else self.LEVEL0_SERVING
        options.set_level_zero_file_num_compaction_trigger(few)
        options.set_level_zero_slowdown_writes_trigger(slow)
        options.set_level_zero_stop_writes_trigger(stop)
        options.set_compression_type(self.module.DBCompressionType.snappy())
        # RocksDB's info log is of no use to an operator and grows without bound by default.
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1_000_000)
        table = self.module.BlockBasedOptions()
        table.set_format_version(self.TABLE_FORMAT)
        options.set_block_based_table_factory(table)
        return options

    def open(self, name: str) -> None:  # noqa: D102
        self.db = _open_patiently(name, lambda: self.module.Rdict(name, self._options()))
        self._closed = False
        self._is_merging = False
        self._synced = self.module.WriteOptions()
        self._synced.sync = True

    def close(self) -> None:  # noqa: D102
        if self._closed:
            return
        self._closed = True
        try:
            self.db.close()
        except Exception:  # rocksdict raises bare Exceptions
            # It writes out its memory first, which a full disk refuses.  The log has it all.
            self.db = None
            gc.collect()

    def end_filling(self, *, merge: bool = False) -> None:  # noqa: D102
        self.filling = False
        few, slow, stop = self.LEVEL0_SERVING
        self.db.set_options(
            {
                "level0_file_num_compaction_trigger": str(few),
                "level0_slowdown_writes_trigger": str(slow),
                "level0_stop_writes_trigger": str(stop),
            }
        )

    def merge(self) -> bool:  # noqa: D102
        if not self.compressible or self.table_bytes > self.MERGE_BYTES:
            return True
        options = self.module.CompactOptions()
        # Otherwise a table that is alone is moved to the lowest level as it is, tombstones and all.
        options.set_bottommost_level_compaction(self.module.BottommostLevelCompaction.force())
        # Set before the other is looked at, as stop_merging does the other way round.
        self._is_merging = True
        try:
            if not self._merge_stopped:
                self.db.compact_range(None, None, options)
        finally:
            self._is_merging = False
        return not self._merge_stopped

    def stop_merging(self) -> None:  # noqa: D102
        super().stop_merging()
        if self._is_merging:
            # Tables are not written any more, not even those of rows in memory, which the log has.
            self.db.cancel_all_background(False)

    def checkpoint(self, path: str) -> None:
        """Make a copy of hard links in a folder that must not exist, on the same disk."""
        self.module.Checkpoint(self.db).create_checkpoint(path)

    def new_table(self, path: str) -> Any:
        """Return a writer of a table outside of the store: ``writer[key] = value``, in key order.

        ``finish()`` ends it; one without rows cannot be finished.
        """
        writer = self.module.SstFileWriter(options=self._options())
        writer.open(path)
        return writer

    def take_table(self, path: str) -> None:
        """Make a finished table a part of the store, durably; its rows are newer than others."""
        options = self.module.IngestExternalFileOptions()
        options.set_move_files(True)
        self.db.ingest_external_file([path], options)

    def get(self, key: bytes) -> bytes | None:  # noqa: D102
        value: bytes | None = self.db.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:  # noqa: D102
        self._write_patiently(lambda: self.db.put(key, value))

    @contextmanager
    def write_batch(self) -> Iterator[WriteBatch]:  # noqa: D102
        if self.filling or self.patience is None:
            batch = self.module.WriteBatch(raw_mode=True)
            yield batch
            self._write_patiently(lambda: self.db.write(batch, self._synced))
        else:
            kept = RepeatableBatch(lambda: self.module.WriteBatch(raw_mode=True))
            yield kept
            self._write_patiently(lambda: kept.write(self.db, self._synced))

    def iterator(  # noqa: D102
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        # The iterator must be a snapshot of now, so it is made here and not at the first next().
        # rocksdict's iterate bounds do not outlive its ReadOptions object (0.3.29 read freed
        # memory), so the prefix is checked here.
        cursor = self.db.iter()
        if reverse:
            end = util.increment_byte_string(prefix)
            return rows_backwards(cursor, end, prefix, start)
        first = max(prefix, start)
        rows = self.db.items(from_key=first) if first else self.db.items()
        return checked_rows(rows, cursor, self.get, first, prefix)

    def rows_of(  # noqa: D102
        self, prefixes: Sequence[bytes], max_bytes: int = NO_BOUND
    ) -> list[list[Row]]:
        return rows_at(self.db.iter(), prefixes, max_bytes)


class RocksDBNG(Storage):
    """RocksDB where rocksdict is not installed but the module ``rocksdb`` (rocksdb-ng) is.

    An operator who comes from e-x has it.
    """

    ENGINE = "rocksdb"
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(("rocksdb",), "pip install electrumx[rocksdb]")

    def open(self, name: str) -> None:  # noqa: D102
        options = {
            "create_if_missing": True,
            "use_fsync": True,
            "target_file_size_base": RocksDB.TARGET_FILE_SIZE,
            "max_open_files": self.max_open_files,
        }
        self.db = _open_patiently(
            name, lambda: self.module.DB(name, self.module.Options(**options))
        )

    def close(self) -> None:  # noqa: D102
        # Its own close() ends the process if an iterator lives in some thread; the last reference
        # to go closes the store as well.
        self.db = None
        gc.collect()

    def get(self, key: bytes) -> bytes | None:  # noqa: D102
        value: bytes | None = self.db.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:  # noqa: D102
        self.db.put(key, value)

    @contextmanager
    def write_batch(self) -> Iterator[WriteBatch]:  # noqa: D102
        batch = self.module.WriteBatch()
        yield batch
        self.db.write(batch, sync=True)

    def iterator(  # noqa: D102
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self.db.iteritems()
        if reverse:
            rows = reversed(rows)
            end = util.increment_byte_string(prefix)
            if end:
                # The last key at or below the end; there may be none above it.
                rows.seek_for_prev(end)
                rows = dropwhile(lambda row: row[0] == end, rows)
            else:
                rows.seek_to_last()
            return takewhile(lambda row: row[0].startswith(prefix) and row[0] >= start, rows)
        rows.seek(max(prefix, start))
        return takewhile(lambda row: row[0].startswith(prefix), rows)


#: seconds to wait for a store that this process has just closed
REOPEN_SECS = 5.0


def _open_patiently(name: str, open_store: Callable[[], Any]) -> Any:
    """Open a RocksDB store.  Raise DBError if that fails.

    A store that this process has just closed stays locked until the last iterator over it, perhaps
    one of a query still running in a thread, is dropped.
    """
    deadline = time.monotonic() + REOPEN_SECS
    while True:
        try:
            os.makedirs(name, exist_ok=True)
            return open_store()
        except Exception as e:  # rocksdict raises bare Exceptions
            if "lock hold by current process" not in str(e) or time.monotonic() > deadline:
                raise open_error(name, e) from e
        time.sleep(0.05)
