"""Fills a new store with rows in the order of their keys.

Owns what an engine is good at: RocksDB takes whole tables, made beside it; others take
batches.  Rows are durable once :meth:`StoreFiller.commit` has returned; a stop may repeat the
writes since then.  Where they may be other ones then, :meth:`StoreFiller.remove_from` comes first.

Runs in: a worker thread.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from electrumx.lib import util
from electrumx.server.storage.base import NO_BOUND, Storage
from electrumx.server.storage.rocksdb import RocksDB

Put = Callable[[bytes, bytes], None]


class Rows(Protocol):
    """Rows to write, in the order of their keys."""

    @property
    def is_empty(self) -> bool:
        """Whether no rows are left."""

    def put_rows(self, put: Put, max_bytes: int) -> bool:
        """Call ``put(key, value)`` for the next rows, for about ``max_bytes``; False at the end."""


class StoreFiller:
    """Fills a store by batches."""

    #: bytes of rows in a batch; an engine needs a multiple of it
    BATCH_BYTES = 4_000_000
    #: rows removed in a batch
    BATCH_ROWS = 10_000

    def __init__(self, store: Storage):
        self.store = store

    def write(self, rows: Rows) -> None:
        """Write rows."""
        more = True
        while more:
            with self.store.write_batch() as batch:
                more = rows.put_rows(batch.put, self.BATCH_BYTES)

    def commit(self) -> None:
        """Make the rows durable: an engine that takes batches has waited for the disk already."""

    def remove_from(self, start: bytes) -> None:
        """Remove the rows from a key on, durably; before the first write."""
        while keys := [
            key for key, _row in islice(self.store.iterator(start=start), self.BATCH_ROWS)
        ]:
            with self.store.write_batch() as batch:
                for key in keys:
                    batch.delete(key)
            start = keys[-1]

    def close(self) -> None:
        """Close the store."""
        self.store.close()


class RocksDBFiller(StoreFiller):
    """Makes a table of the rows between commits, and has RocksDB take it: no log, no compaction."""

    store: RocksDB

    def __init__(self, store: RocksDB, table: Path):
        super().__init__(store)
        self._table = table
        self._writer: Any = None

    def write(self, rows: Rows) -> None:
        """Write rows."""
        if rows.is_empty:
            return
        if self._writer is None:
            self._table.unlink(missing_ok=True)
            self._writer = self.store.new_table(str(self._table))
        while rows.put_rows(self._writer.__setitem__, NO_BOUND):
            pass

    def commit(self) -> None:
        """Have the store take the table."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.finish()
        util.sync_path(self._table)
        self.store.take_table(str(self._table))
        with suppress(FileNotFoundError):
            self._table.unlink()


def filler(store: Storage, folder: Path, name: str) -> StoreFiller:
    """Return the filler that suits a store's engine; ``folder`` may hold a file for it."""
    if isinstance(store, RocksDB):
        return RocksDBFiller(store, folder / f"{name}.table")
    return StoreFiller(store)
