"""Holds the locks of stores to move, so that no other process opens them during the move.

Both engines lock the file ``LOCK`` in a store's folder, by ``fcntl``, while they have it open.  The
stores of a bulk sync are closed during the move to their places: without this another server, started
on the same database directory, could open one that is half there, or empty.

Runs in: a worker thread.
"""

import importlib
import os
from pathlib import Path
from types import ModuleType

from electrumx.lib import util
from electrumx.server.storage.schema import DBError


def _fcntl() -> ModuleType | None:
    """Return the standard library's module; None on Windows, which has none."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


fcntl = _fcntl()


class StoreLocks:
    """Locks of closed stores; a context manager that releases them.

    A process that opens and closes one of these files elsewhere loses its lock: that is how
    ``fcntl`` works.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __enter__(self) -> "StoreLocks":
        return self

    def take(self, folder: Path) -> None:
        """Lock the store in a folder, if there is one.  Raise DBError if another process has it open."""
        if fcntl is None or not folder.is_dir():
            return
        with util.open_file(folder / "LOCK", create=True) as file:
            fd = os.dup(file.fileno())
        self._fds.append(fd)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise DBError(
                f"cannot put the database in {folder} in its place: another process holds it, which "
                "must be stopped first"
            ) from e

    def __exit__(self, *_exc_info: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
