"""The end of the initial sync: the engines leave bulk load, and compact their tables.

Owns when the stores go from an engine's options for bulk load to those for being in use, and the
compaction of the tables that the flushes of the initial sync left behind.

On disk the initial sync lasts until the end of that: only then does the state row record it.  After
a stop before that, or a kill, the next server begins where the last was, in bulk load; if there are
no blocks left to index, it compacts right away.  Compacting twice does no harm, and changes no row.
"""

import time
from logging import Logger

from electrumx.server.db.stores import Stores
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import DBClosedError


class InitialSync:
    """Ends the initial sync of open stores."""

    def __init__(self, stores: Stores, logger: Logger) -> None:
        self._stores = stores
        self._logger = logger

    def end_bulk_load(self) -> None:
        """Go on with the engine's options for a store in use, after catching up with the chain.

        The flush that follows records it.  Call it while no write runs; it waits for reads, or
        they wait.
        """
        stores = self._stores
        assert stores.utxo_db
        assert stores.history.db
        state = stores.state
        due = state.first_sync and state.height >= 0
        with stores.gate.exclusive():
            stores.utxo_db.end_bulk_load(compact=due)
            stores.history.db.end_bulk_load(compact=due)
        stores.leave_initial_sync(tables_due=due)

    def end_bulk_load_if_large(self) -> None:
        """End bulk load of the ``utxo`` store if it is too large to compact at the end."""
        store = self._stores.utxo_db
        assert store
        if store.bulk_loading and store.table_bytes > store.COMPACT_BYTES:
            with self._stores.gate.exclusive():
                store.end_bulk_load()

    def write_caught_up(self) -> None:
        """Record on disk that the server caught up, unless a compaction of tables is due."""
        self._stores.leave_initial_sync(tables_due=self._stores.tables_due)
        self._stores.write_state()
        fault_point("caught up: state written")

    def compact_tables(self) -> bool:
        """Compact the tables that many flushes of an initial sync left, if they are not too large.

        With a small cache, UTXOs written and then spent are nearly half of the store.
        Runs in a thread, beside readers and flushes; closing the stores ends it.  A kill at any
        instant is harmless: an engine exchanges tables when the new ones are whole.

        Return True if :meth:`write_compacted` is to record it.
        """
        stores = self._stores
        if not stores.tables_due:
            return False
        start = time.monotonic()
        try:
            if not (self._compact_utxo_store() and self._compact_history_store()):
                self._logger.info("the compaction of tables goes on after the next start")
                return False
        except DBClosedError:
            return False
        except Exception:
            # Not tried again: the disk may be full.
            stores.tables_done()
            raise
        stores.tables_done()
        self._logger.info(f"compacted tables in {time.monotonic() - start:.1f}s")
        return True

    def _compact_utxo_store(self) -> bool:
        with self._stores.gate.reading():
            store = self._stores.utxo_db
            return store is not None and store.compact()

    def _compact_history_store(self) -> bool:
        with self._stores.gate.reading():
            store = self._stores.history.db
            return store is not None and store.compact()

    def write_compacted(self) -> None:
        """Record on disk that the tables are compacted; if closed, the next start does."""
        if self._stores.utxo_db:
            self._stores.write_state()
            fault_point("caught up: merging recorded")
