"""LevelDB, the default engine where its binding is available."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import ModuleType
from typing import Any

from electrumx.lib import util
from electrumx.server.engine_choice import ENGINE_MODULES
from electrumx.server.storage.base import NO_BOUND, Storage, WriteBatch
from electrumx.server.storage.cursors import Row, checked_rows, rows_at, rows_backwards
from electrumx.server.storage.errors import open_error


class LevelDB(Storage):
    """LevelDB, through plyvel (Python below 3.12) or plyvel-next."""

    ENGINE = "leveldb"
    #: bytes of a table.  LevelDB's own 2 MiB make so many that most look-ups in a large store have
    #: to open one, which takes 213 to 272 µs instead of 89 to 123
    TABLE_BYTES = 32 << 20
    #: bits a key of the filters by which point reads pass over tables; one in a hundred errs
    FILTER_BITS = 10
    #: bytes of a block, uncompressed: a small read of a compressed one decompresses all of it;
    #: reads of others are in place, so that larger blocks only save room
    BLOCK_SIZE = 4 << 10
    PLAIN_BLOCK_SIZE = 16 << 10
    #: files of tables that only a compaction reads: LevelDB maps them, and they count as memory
    MAX_OPEN_FILES_COMPACTED = 64
    #: bytes of a key that separate the steps of a compaction
    STEP_KEY_LEN = 3
    module: ModuleType
    db: Any

    @classmethod
    def import_module(cls) -> None:  # noqa: D102
        cls.module = cls._import(
            ENGINE_MODULES["leveldb"], "pip install plyvel (plyvel-next from Python 3.12)"
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
                lru_cache_size=self.tuning.block_cache(self.for_sync),
                max_file_size=self.TABLE_BYTES,
                # Cursors read rows of the others, and pass over no table.
                bloom_filter_bits=self.FILTER_BITS if self.compressible else 0,
                block_size=self.BLOCK_SIZE if self.compressible else self.PLAIN_BLOCK_SIZE,
                # plyvel's wheels carry a slow build of snappy, 40 MB/s: tables due for compaction
                # soon go without.  Each block of a table has a flag for compression.
                compression="snappy" if self.compress else None,
            )
        except (OSError, self.module.Error) as e:
            raise open_error(name, e) from e

    def close(self) -> None:  # noqa: D102
        if not self.db.closed and self.is_small:
            # Closing abandons an unfinished table and keeps the log of its rows, which the next
            # opening has to read; compacting an empty range finishes the table first.
            # In a large store it would wait for other compactions, too, which take seconds.
            self.db.compact_range(start=b"\xff", stop=b"\xff")
        self.db.close()

    @property
    def max_open_files(self) -> int:
        """How many files the engine may hold open."""
        if self.for_sync and not self.compressible:
            return self.MAX_OPEN_FILES_COMPACTED
        return super().max_open_files

    def begin_bulk_load(self) -> None:  # noqa: D102
        super().begin_bulk_load()
        if self.bulk_loading and self.compress:
            self.compress = False
            # Opening has made a table of the rows in the log, so there is nothing to wait for.
            self._close_engine()
            self.open(self._folder)

    def end_bulk_load(self, *, compact: bool = False) -> None:  # noqa: D102
        self.bulk_loading = False
        compress = self.compressible or (compact and self.table_bytes <= self.COMPACT_PLAIN_BYTES)
        if compress and not self.compress:
            self.compress = True
            if self._may_be_compacting():
                # ``close`` would wait for a compaction, for half a second; this interrupts it, and
                # it runs again.  Opening reads the log, of a few MiB.
                self._close_engine()
            else:
                self.close()
            self.open(self._folder)

    def _may_be_compacting(self) -> bool:
        """Return whether levels 0 and 1, whose tables the engine compacts soon, have any."""
        counts = (self.db.get_property(b"leveldb.num-files-at-level%d" % level) for level in (0, 1))
        return any(int(count or 0) for count in counts)

    def compact(self) -> bool:  # noqa: D102
        if self.compress and self.table_bytes <= self.COMPACT_BYTES:
            for start, stop in self.compaction_steps(0, 1 << 8 * self.STEP_KEY_LEN):
                if self.compaction_stopped:
                    return False
                # Without bounds LevelDB does not rewrite tables of the lowest level.
                self.db.compact_range(start=start, stop=stop)
        return True

    def compaction_steps(self, first: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield bounds of keys that together hold all those whose first bytes are in a range.

        They come in order, and no step touches a table that the one before has rewritten.
        """
        start = first.to_bytes(self.STEP_KEY_LEN, "big")
        stop = (end - 1).to_bytes(self.STEP_KEY_LEN, "big") + b"\xff" * 64
        if end - first == 1 or self.db.approximate_size(start, stop) <= self.COMPACT_STEP_BYTES:
            yield start, stop
            return
        middle = (first + end) // 2
        yield from self.compaction_steps(first, middle)
        yield from self.compaction_steps(middle, end)

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
            # A reopening came between: a batch belongs to the store that made it.
            again = self.db.write_batch(sync=True)
            again.append(batch)
            again.write()

        self._write_patiently(write)

    def iterator(  # noqa: D102
        self, prefix: bytes = b"", reverse: bool = False, start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        cursor = self.db.raw_iterator()
        end = util.increment_byte_string(prefix.rstrip(b"\xff"))
        if reverse:
            return rows_backwards(cursor, end, prefix, start)
        first = max(prefix, start)
        rows = self.db.iterator(start=first, stop=end)
        return checked_rows(rows, cursor, self.get, first, prefix)

    def rows_of(  # noqa: D102
        self, prefixes: Sequence[bytes], max_bytes: int = NO_BOUND
    ) -> list[list[Row]]:
        # Making an iterator takes three times as long as a seek.  But while LevelDB compacts tables
        # all the time it saves none: a sync with a small cache took 8 % more CPU with one iterator.
        if self.for_sync:
            return [rows for prefix in prefixes for rows in self._rows_at([prefix], max_bytes)]
        return self._rows_at(prefixes, max_bytes)

    def _rows_at(self, prefixes: Sequence[bytes], max_bytes: int) -> list[list[Row]]:
        with closing(self.db.raw_iterator()) as cursor:
            return rows_at(cursor, prefixes, max_bytes)
