"""The scripts whose history rows change while a compaction runs.

Owns two sets of hashXs.  A compaction reads rows without a lock, and reads those noted here again.

Runs in: with the state lock held; looking up a hashX in any thread.
"""

from collections.abc import Iterable


class ChangeLog:
    """Notes changed scripts between :meth:`start` and :meth:`stop`."""

    def __init__(self) -> None:
        self._active = False
        #: scripts flushed or cut since :meth:`start`
        self.dirty: set[bytes] = set()
        #: those of them that lost entries, because blocks were undone
        self.cut: set[bytes] = set()

    @property
    def active(self) -> bool:
        """Whether the log notes changes."""
        return self._active

    def start(self) -> None:
        """Note changes from now on; forget earlier ones."""
        self._active = True
        self.dirty, self.cut = set(), set()

    def stop(self) -> None:
        """Note nothing any more."""
        self._active = False
        self.dirty, self.cut = set(), set()

    def note_flush(self, hashXs: Iterable[bytes]) -> None:
        """Note scripts that get new rows, before the write."""
        if self._active:
            self.dirty.update(hashXs)

    def note_cut(self, hashXs: Iterable[bytes]) -> None:
        """Note scripts that lose entries, before the write."""
        if self._active:
            hashXs = list(hashXs)
            self.dirty.update(hashXs)
            self.cut.update(hashXs)
