"""RocksDB, through either of its Python bindings."""

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile, takewhile
from types import ModuleType
from typing import Any

from electrumx.lib import util
from electrumx.server.storage.base import NO_BOUND, Storage, WriteBatch
from electrumx.server.storage.cursors import Row, checked_rows, rows_at, rows_backwards
from electrumx.server.storage.errors import open_error
from electrumx.server.storage.repeatable_batch import KEPT_BYTES, RepeatableBatch

#: seconds to wait for a store that this process has just closed
REOPEN_SECS = 5.0


def _open_patiently(name: str, open_store: Callable[[], Any]) -> Any:
    """Open a RocksDB store.  Raise DBError if that fails.

    A store that this process has just closed stays locked until the end of the last iterator over
    it, perhaps one of a query still running in a thread.
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


class RocksDB(Storage):
    """RocksDB, through rocksdict in raw mode.

    RocksDB 6 and later read table format 5 and snappy, so that servers linked with an older library
    can open the store.

    rocksdict takes the options of a store that exists from its OPTIONS file, and ours only for the
    whole, unless we give them for the column family: then they are in force at every opening.
    What concerns the format of tables applies to those written from then on.

    With ``prefix_len`` tables have filters of keys and of their first bytes.  A cursor for a prefix
    at least that long passes over tables without one; it is undefined beyond the prefix, so
    others get the order of all keys.
    """

    ENGINE = "rocksdb"
    TABLE_FORMAT = 5
    TARGET_FILE_SIZE = 33_554_432
    #: bytes of rows in memory after which RocksDB writes a table; there may be two such
    WRITE_BUFFER = 16 << 20
    #: tables at level 0 after which RocksDB compacts them, and slows down and stops writes: a read
    #: has to look into each, but the more there are, the fewer times it rewrites rows
    LEVEL0_SYNC = (12, 40, 60)
    LEVEL0_SERVING = (4, 20, 36)
    #: part of WRITE_BUFFER for a filter of the rows in memory, while serving clients
    MEMTABLE_FILTER = 0.05
    #: bits a key in filters; one in a hundred errs
    FILTER_BITS = 10
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(("rocksdict",), "pip install rocksdict")

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
        options.set_max_background_jobs(self.tuning.background_jobs)
        table = self.module.BlockBasedOptions()
        table.set_format_version(self.TABLE_FORMAT)
        # Index and filters are in the cache, so that CACHE_MB bounds them, too.
        table.set_block_cache(self._cache)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        if self.prefix_len:
            table.set_bloom_filter(self.FILTER_BITS, False)
            options.set_prefix_extractor(
                self.module.SliceTransform.create_fixed_prefix(self.prefix_len)
            )
            if not self.for_sync:
                # A twentieth of the time that adding rows takes, where there are most of them
                options.set_memtable_prefix_bloom_ratio(self.MEMTABLE_FILTER)
            # None in the lowest level, nine tenths of the keys: nearly all looked-up keys exist, and
            # filters of all of Bitcoin's keys would take a gigabyte.
            options.set_optimize_filters_for_hits(True)
        options.set_block_based_table_factory(table)
        return options

    def open(self, name: str) -> None:  # noqa: D102
        self._cache = self.module.Cache(self.tuning.block_cache(self.for_sync))

        def open_store() -> Any:
            options = self._options()
            return self.module.Rdict(name, options, column_families={"default": options})

        self.db = _open_patiently(name, open_store)
        self._all_keys = self.module.ReadOptions()
        self._all_keys.set_total_order_seek(True)
        self._of_prefix = self.module.ReadOptions()
        self._of_prefix.set_prefix_same_as_start(True)
        self._closed = False
        self._is_compacting = False
        self._synced = self.module.WriteOptions()
        self._synced.sync = True

    def close(self) -> None:  # noqa: D102
        if self._closed:
            return
        self._closed = True
        try:
            self.db.close()
        except Exception:  # rocksdict raises bare Exceptions
            # It writes its memtables first, which a full disk refuses.  The log has all of them.
            self.db = None
            gc.collect()

    def end_bulk_load(self, *, compact: bool = False) -> None:  # noqa: D102
        self.bulk_loading = False
        few, slow, stop = self.LEVEL0_SERVING
        changed = {
            "level0_file_num_compaction_trigger": str(few),
            "level0_slowdown_writes_trigger": str(slow),
            "level0_stop_writes_trigger": str(stop),
        }
        if self.prefix_len:
            changed["memtable_prefix_bloom_size_ratio"] = str(self.MEMTABLE_FILTER)
        self.db.set_options(changed)

    def compact(self) -> bool:  # noqa: D102
        if not self.compressible or self.table_bytes > self.COMPACT_BYTES:
            return True
        options = self.module.CompactOptions()
        # Otherwise RocksDB moves a single table to the lowest level unchanged, tombstones included.
        options.set_bottommost_level_compaction(self.module.BottommostLevelCompaction.force())
        # Set before reading the other flag; stop_compaction sets and reads in the other order.
        self._is_compacting = True
        try:
            if not self.compaction_stopped:
                self.db.compact_range(None, None, options)
        finally:
            self._is_compacting = False
        return not self.compaction_stopped

    def stop_compaction(self) -> None:  # noqa: D102
        super().stop_compaction()
        if self._is_compacting:
            # RocksDB writes no table any more, not even those of the memtables, which the log has.
            self.db.cancel_all_background(False)

    def checkpoint(self, path: str) -> None:
        """Make a copy of hard links in a folder that must not exist, on the same disk."""
        self.module.Checkpoint(self.db).create_checkpoint(path)

    def new_table(self, path: str) -> Any:
        """Return a writer of a table outside of the store: ``writer[key] = value``, in key order.

        ``finish()`` ends it, but fails without rows.
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
        # Up to its end a first sync writes millions of rows, and keeping them costs as much again.
        filling = self.bulk_loading or (self.is_new and self.for_sync)
        kept_bytes = 0 if filling or self._patience is None else KEPT_BYTES
        batch = RepeatableBatch(lambda: self.module.WriteBatch(raw_mode=True), kept_bytes)
        yield batch
        self._write_patiently(lambda: batch.write(self.db, self._synced))

    def iterator(  # noqa: D102
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        # The iterator must be a snapshot of now, so make it here and not at the first next().
        # rocksdict's iterate bounds do not outlive its ReadOptions object (0.3.29 read freed
        # memory), so check the prefix here.
        options = self._all_keys if reverse else self._read_options(prefix)
        cursor = self.db.iter(options)
        if reverse:
            end = util.increment_byte_string(prefix.rstrip(b"\xff"))
            return rows_backwards(cursor, end, prefix, start)
        first = max(prefix, start)
        rows = self.db.items(from_key=first or None, read_opt=options)
        return checked_rows(rows, cursor, self.get, first, prefix)

    def _read_options(self, prefix: bytes) -> Any:
        """Return the options of a cursor over the rows whose key begins with a prefix."""
        return self._of_prefix if 0 < self.prefix_len <= len(prefix) else self._all_keys

    def rows_of(  # noqa: D102
        self, prefixes: Sequence[bytes], max_bytes: int = NO_BOUND
    ) -> list[list[Row]]:
        shortest = min(prefixes, key=len, default=b"")
        return rows_at(self.db.iter(self._read_options(shortest)), prefixes, max_bytes)


class RocksDBNG(Storage):
    """RocksDB where rocksdict is not installed but the module ``rocksdb`` (rocksdb-ng) is.

    An operator who comes from e-x has it.  Its prefix extractors are Python functions, which it calls
    for each key: filters are of whole keys only.
    """

    ENGINE = "rocksdb"
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(("rocksdb",), "pip install rocksdict")

    def open(self, name: str) -> None:  # noqa: D102
        few, slow, stop = RocksDB.LEVEL0_SYNC if self.for_sync else RocksDB.LEVEL0_SERVING
        module = self.module
        options = {
            "create_if_missing": True,
            "use_fsync": True,
            "target_file_size_base": RocksDB.TARGET_FILE_SIZE,
            "write_buffer_size": RocksDB.WRITE_BUFFER,
            "max_open_files": self.max_open_files,
            "max_background_jobs": self.tuning.background_jobs,
            "level0_file_num_compaction_trigger": few,
            "level0_slowdown_writes_trigger": slow,
            "level0_stop_writes_trigger": stop,
            "compression": module.CompressionType.snappy_compression,
            "table_factory": module.BlockBasedTableFactory(
                block_cache=module.LRUCache(self.tuning.block_cache(self.for_sync)),
                filter_policy=module.BloomFilterPolicy(RocksDB.FILTER_BITS),
                cache_index_and_filter_blocks=True,
                format_version=RocksDB.TABLE_FORMAT,
            ),
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
            end = util.increment_byte_string(prefix.rstrip(b"\xff"))
            if end:
                # The last key at or below the end; there may be none above it.
                rows.seek_for_prev(end)
                rows = dropwhile(lambda row: row[0] == end, rows)
            else:
                rows.seek_to_last()
            return takewhile(lambda row: row[0].startswith(prefix) and row[0] >= start, rows)
        rows.seek(max(prefix, start))
        return takewhile(lambda row: row[0].startswith(prefix), rows)
