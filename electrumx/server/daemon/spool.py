"""Large answers of a node, received into files without names.

A :class:`Spool` owns the file while it is written; the map that it becomes owns it after that.  Whatever
can take long - making the file, writing it, giving a gigabyte back to the disk - runs in threads.
"""

import _thread
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import BinaryIO, cast


class NoRoomError(Exception):
    """Internal: a reply meant for a file finds no room; args[0] is the text."""


def _in_thread(function: Callable[[], None]) -> None:
    """Call a function in a thread of its own, or here while the interpreter ends."""
    try:
        _thread.start_new_thread(function, ())
    except RuntimeError:
        function()


class MappedBody(mmap.mmap):
    """A map that frees its pages, and a file that nothing else has open, in a thread.

    Its last user may be the event loop, which that would stop for a second.
    """

    def __del__(self) -> None:
        """Close the map; nothing refers to its memory any more."""
        _in_thread(self.close)


class Spool:
    """A body in a file without a name, written piece by piece."""

    #: bytes of the disk that are left to others
    LEFT_FREE = 1 << 30

    def __init__(self, folder: str | None, length: int) -> None:
        """Take the folder of the file; None is the system's for temporary files."""
        self._folder = folder or tempfile.gettempdir()
        self._length = length
        #: None before the first piece and after the last one
        self._file: BinaryIO | None = None
        #: bytes written
        self.filled = 0

    @property
    def missing(self) -> int:
        """Return the bytes that are to come."""
        return self._length - self.filled

    def write(self, piece: memoryview) -> bytes | None:
        """Append a piece; return the whole if it was the last.  Runs in: a thread.

        That is a read-only map, for use like bytes.  Raises NoRoomError or OSError.
        """
        if self._file is None:
            self._file = self._open()
        while piece:
            count = os.pwrite(self._file.fileno(), piece, self.filled)
            self.filled += count
            piece = piece[count:]
        if self.missing:
            return None
        mapped = MappedBody(self._file.fileno(), self._length, access=mmap.ACCESS_READ)
        # The map keeps the file.
        self._file.close()
        self._file = None
        return cast("bytes", mapped)

    def _open(self) -> BinaryIO:
        if shutil.disk_usage(self._folder).free < self._length + self.LEFT_FREE:
            raise NoRoomError(f"the disk of {self._folder} has no room for {self._length:,d} bytes")
        return cast("BinaryIO", tempfile.TemporaryFile(dir=self._folder, buffering=0))

    def close(self) -> None:
        """Give up a body that is not complete."""
        if self._file is not None:
            _in_thread(self._file.close)
            self._file = None
