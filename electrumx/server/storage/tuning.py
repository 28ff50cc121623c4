"""How much memory, how many threads and how many files the engines may use.

Pure: figures from the settings and the machine.  Options of the engines themselves are in
``leveldb`` and ``rocksdb``.
"""

import os
from typing import Final, NamedTuple

MEGABYTE: Final = 1_000_000

#: background threads of an engine, and threads that look rows up, at most
MOST_THREADS: Final = 8
#: bytes of the caches of blocks, at least and at most; a small read of a cached block takes 5 µs
#: with LevelDB, otherwise 20
LEAST_CACHE: Final = 32 * MEGABYTE
MOST_CACHE: Final = 512 * MEGABYTE
#: parts of CACHE_MB: during the initial sync, when the rest holds unflushed data, and afterwards
CACHE_SHARE_SYNC: Final = 16
CACHE_SHARE_SERVING: Final = 8
#: open tables of a store, at most.  Opening one takes two or three reads of the disk.
MOST_FILES: Final = 2_048


class Tuning(NamedTuple):
    """The limits of a store."""

    #: CACHE_MB, in bytes
    memory: int = 1_200 * MEGABYTE
    #: processors
    cores: int = 2
    #: file descriptors that nothing else needs, while serving clients
    spare_files: int = 0

    @classmethod
    def of_machine(cls, cache_mb: int, spare_files: int = 0) -> "Tuning":
        """Return the figures for CACHE_MB on this machine."""
        return cls(cache_mb * MEGABYTE, os.cpu_count() or 1, max(0, spare_files))

    @property
    def background_jobs(self) -> int:
        """Threads that flush and compact: one a processor, two at least."""
        return max(2, min(self.cores, MOST_THREADS))

    @property
    def lookup_threads(self) -> int:
        """Threads that look rows up concurrently.

        More than processors: on a cold disk they wait, and a disk serves many requests at once.
        """
        return max(4, min(2 * self.cores, MOST_THREADS))

    def block_cache(self, for_sync: bool) -> int:
        """Return the bytes of a store's cache of blocks, with those of its index and its filters."""
        share = CACHE_SHARE_SYNC if for_sync else CACHE_SHARE_SERVING
        return min(max(self.memory // share, LEAST_CACHE), MOST_CACHE)

    def open_files(self, least: int) -> int:
        """Return how many tables a store may hold open, ``least`` or more.

        Of the spare descriptors each of the two stores gets a quarter; the rest is for others.
        """
        return max(least, min(least + self.spare_files // 4, MOST_FILES))
