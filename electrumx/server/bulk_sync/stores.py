"""How a new store is filled with rows in the order of their keys.

Owns what an engine is good at: RocksDB takes whole tables, which are made beside it; others take
batches.  A write is durable when it returns, and may be repeated: it then writes the same rows.

Runs in: a worker thread.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from electrumx.lib import util
from electrumx.server.storage.base import NO_BOUND, Storage
from electrumx.server.storage.rocksdb import RocksDB

Put = Callable[[bytes, bytes], None]


class Rows(Protocol):
    """Rows to be written, in the order of their keys."""

    @property
    def is_empty(self) -> bool:
        """Whether no rows are left."""

    def put_rows(self, put: Put, max_bytes: int) -> bool:
        """Call ``put(key, value)`` for the next rows, for about ``max_bytes``; False at the end."""


class StoreFiller:
    """Fills a store by batches."""

    #: bytes of rows in a batch; an engine needs a multiple of it
    BATCH_BYTES = 4_000_000

    def __init__(self, store: Storage):
        self.store = store

    def write(self, rows: Rows) -> None:
        """Write rows, and wait for the disk."""
        more = True
        while more:
            with self.store.write_batch() as batch:
                more = rows.put_rows(batch.put, self.BATCH_BYTES)

    def close(self) -> None:
        """Close the store."""
        self.store.close()


class RocksDBFiller(StoreFiller):
    """Makes a table of each write, and has RocksDB take it as it is: no log, no compaction."""

    store: RocksDB

    def __init__(self, store: RocksDB, table: Path):
        super().__init__(store)
        self._table = table

    def write(self, rows: Rows) -> None:
        """Write rows, and wait for the disk."""
        self._table.unlink(missing_ok=True)
        if rows.is_empty:
            return
        writer = self.store.new_table(str(self._table))
        while rows.put_rows(writer.__setitem__, NO_BOUND):
            pass
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
