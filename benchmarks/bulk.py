"""Figures of a bulk sync: the time of its phases, its temporary files, its rows.

They come from the log and the database folder of a server, which any program may have started.
"""

import re
import threading
from collections import Counter
from pathlib import Path

from benchmarks.measuring import folder_mb
from electrumx.lib.hash import HASHX_LEN
from electrumx.server.runs import FOLDER
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import HIST_STATE_KEY

_PHASE = re.compile(r"bulk sync: (\w+) took ([\d.]+)s")


def phases(log_text):
    """Return the seconds of each phase of a bulk sync, in their order; nothing without one."""
    return {name: float(secs) for name, secs in _PHASE.findall(log_text)}


class DiskWatch:
    """Samples what a database folder takes on disk; a context manager.  MB of a million bytes."""

    PAUSE = 0.05

    def __init__(self, db_dir):
        self._db_dir = Path(db_dir)
        self._ended = threading.Event()
        #: at its most: run files and stores of a bulk sync, and all with the files that stay
        self.temporary_mb = self.peak_mb = 0.0

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._ended.set()
        self._thread.join()

    def _watch(self):
        while True:
            self.temporary_mb = max(self.temporary_mb, folder_mb(self._db_dir / FOLDER))
            self.peak_mb = max(self.peak_mb, folder_mb(self._db_dir))
            if self._ended.wait(self.PAUSE):
                return


def history_rows(db_dir, engine):
    """Return how many scripts and rows a closed database's history has, and the scripts with several."""
    store = db_class(engine)(str(Path(db_dir) / "hist"), False)
    try:
        rows = Counter(key[:HASHX_LEN] for key, _row in store.iterator() if key != HIST_STATE_KEY)
    finally:
        store.close()
    several = sum(count > 1 for count in rows.values())
    return {"scripts": len(rows), "rows": rows.total(), "scripts with several rows": several}
