"""What is special about a new database: it is filled in bulk, and tidied up in the end.

Owns when the stores go from an engine's options for being filled to those for being in use, and
the merging of what the flushes of the first synchronisation left behind.

On disk the first synchronisation lasts until that is done: only then does the state row say so.
A server that is stopped before, or killed, has the next one begin where it was, with the options
for filling; if there are no blocks left to index, it merges right away.  Merging twice does no
harm, and no row changes by it.
"""

import time
from dataclasses import replace

from electrumx.server.db.stores import Committed
from electrumx.server.env import Env
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage
from electrumx.server.storage.schema import ChainState, DBClosedError


class Filling(Committed):
    """The database, filled for the first time."""

    def __init__(self, env: Env):
        super().__init__(env)
        #: the chain was caught up with, but not yet merged what several flushes left
        self._merge_due = False

    def _state_row(self, state: ChainState) -> bytes:
        return replace(state, first_sync=state.first_sync or self._merge_due).pack()

    def _read_state(self) -> None:
        super()._read_state()
        if self._merge_due:
            self.first_sync = False

    def close_dbs(self) -> None:
        """Close both stores; harmless if they are closed.  Merging is stopped."""
        self.gate.begin_closing()
        self.stop_merging()
        super().close_dbs()

    def end_filling(self) -> None:
        """Go on with the engine's options for a store in use, before the last flush of catching up.

        Call it when nobody writes; who reads is waited for, or waits.
        """
        assert self.utxo_db
        assert self.history.db
        self._merge_due = self.first_sync and self.db_height >= 0
        with self.gate.exclusive():
            self.utxo_db.end_filling(merge=self._merge_due)
            self.history.db.end_filling(merge=self._merge_due)

    def end_filling_if_large(self) -> None:
        """Do so with the coins if they are more than will be merged at the end."""
        assert self.utxo_db
        store = self.utxo_db
        if store.filling and store.table_bytes > store.MERGE_BYTES:
            with self.gate.exclusive():
                store.end_filling()

    def write_first_sync_done(self) -> None:
        """Record on disk that the chain was caught up with once, unless tables are to be merged."""
        self.first_sync = False
        self._write_state_only()
        fault_point("caught up: state written")

    def merge(self) -> bool:
        """Drop what many flushes of a first synchronisation left behind, if it is not too much.

        With a small cache, coins that were written and then spent are nearly half of the store.
        Runs in a thread, beside readers and flushes; closing the stores ends it.  A stop at any
        instant is harmless: an engine exchanges tables when the new ones are whole.

        Return True if that is to be recorded by :meth:`write_merged`.
        """
        if not self._merge_due:
            return False
        start = time.monotonic()
        try:
            for owner, name in ((self, "utxo_db"), (self.history, "db")):
                with self.gate.reading():
                    store: Storage | None = getattr(owner, name)
                    merged = store is not None and store.merge()
                if not merged:
                    self.logger.info("merging tables goes on after the next start")
                    return False
        except DBClosedError:
            return False
        except Exception:
            # Not tried again: the disk may be full.
            self._merge_due = False
            raise
        self._merge_due = False
        self.logger.info(f"merged tables in {time.monotonic() - start:.1f}s")
        return True

    def stop_merging(self) -> None:
        """Let merging end soon, to be done after the next start; closing must follow."""
        for store in (self.utxo_db, self.history.db):
            if store:
                store.stop_merging()

    def write_merged(self) -> None:
        """Record on disk that nothing is left to be merged; if it is closed, the next start does."""
        if self.utxo_db:
            self._write_state_only()
            fault_point("caught up: merging recorded")
