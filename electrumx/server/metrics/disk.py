"""The disk that the database takes, measured once in a while.

Runs in: the event loop; a thread counts the files.
"""

import asyncio
import os
import shutil
from pathlib import Path

STORES = ("utxo", "hist", "meta")
MEASURE_SECS = 60.0


def directory_bytes(path: Path) -> int:
    """Return the bytes of all files below a directory; 0 if it is missing."""
    total, todo = 0, [str(path)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        # The engine deletes files at any time.
                        total += _size(entry)
        except OSError:
            continue
    return total


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


class DiskUse:
    """The sizes of the stores below a directory, as of the last measurement."""

    def __init__(self, db_dir: str) -> None:
        self._db_dir = Path(db_dir)
        #: bytes by store
        self.stores: dict[str, int] = {}
        #: bytes of the file system that the server may use; None if unknown
        self.free: int | None = None

    def measure(self) -> None:
        """Measure now.  Runs in: a thread."""
        self.stores = {store: directory_bytes(self._db_dir / store) for store in STORES}
        try:
            self.free = shutil.disk_usage(self._db_dir).free
        except OSError:
            self.free = None

    async def run(self) -> None:
        """Measure once in ``MEASURE_SECS``, until cancelled."""
        while True:
            await asyncio.to_thread(self.measure)
            await asyncio.sleep(MEASURE_SECS)
