"""What is special about a new database: it is filled in bulk, and tidied up in the end.

Owns when the stores go from an engine's options for being filled to those for being in use, and
the merging of what the flushes of the first synchronisation left behind.
"""

import time

from electrumx.server.committed import Committed
from electrumx.server.env import Env
from electrumx.server.faults import fault_point
from electrumx.server.storage import Storage


class Filling(Committed):
    """The database, filled for the first time."""

    def __init__(self, env: Env):
        super().__init__(env)
        #: how often coins were flushed since the database was opened
        self._coin_flushes = 0
        #: a first synchronisation made more than one
        self._merge_due = False

    def end_filling(self) -> None:
        """Go on with the engine's options for a store in use, before the last flush of catching up.

        Call it when nobody reads or writes, neither clients nor a flush.
        """
        assert self.utxo_db
        assert self.history.db
        self._merge_due = self.first_sync and self._coin_flushes > 0
        with self.history.reading:
            self.utxo_db.end_filling(merge=self._merge_due)
            self.history.db.end_filling(merge=self._merge_due)

    def end_filling_if_large(self) -> None:
        """Do so with the coins if they are more than will be merged at the end."""
        assert self.utxo_db
        store = self.utxo_db
        if store.filling and store.table_bytes > store.MERGE_BYTES:
            with self.history.reading:
                store.end_filling()

    def merge(self) -> None:
        """Drop what many flushes of a first synchronisation left behind, if it is not too much.

        With a small cache, coins that were written and then spent are nearly half of the store.
        Runs in a thread, beside readers and flushes; closing the stores waits for it.  A stop at
        any instant is harmless: an engine exchanges tables when the new ones are whole.
        """
        start = time.monotonic()
        for owner, name in ((self, "utxo_db"), (self.history, "db")):
            with self.history.reading:
                store: Storage | None = getattr(owner, name)
                if not self._merge_due or store is None:
                    return
                store.merge()
        self._merge_due = False
        self.logger.info(f"merged tables in {time.monotonic() - start:.1f}s")

    def write_first_sync_done(self) -> None:
        """Record on disk that the chain was caught up with once."""
        self.first_sync = False
        self._write_state_only()
        fault_point("caught up: state written")
