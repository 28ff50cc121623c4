"""How much memory the process may use: the machine's, or its cgroup's, and the cache that suits it.

Reads the system's files once, at start-up.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
#: the second limit does not end processes beyond it, but nearly stops them
V2_FILES: Final[tuple[str, ...]] = ("memory.max", "memory.high")
V1_FILES: Final[tuple[str, ...]] = ("memory.limit_in_bytes",)

#: the process takes at most a quarter more than the cache, and so many megabytes
PROGRAM_MB = 250
#: megabytes of CACHE_MB that are enough for nearly everyone, and the least that is sensible
DEFAULT_CACHE_MB = 1200
LEAST_DEFAULT_CACHE_MB = 20
#: the part of the memory that the server takes by default; the rest is for the node, the system and
#: the cache of files
SHARE = 0.6


def physical_memory_mb() -> int | None:
    """Return the machine's memory in megabytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
    except (AttributeError, ValueError, OSError):
        return None


def memory_mb() -> int | None:
    """Return the memory in megabytes that the process may use: the machine's, or its cgroup's."""
    found = [physical_memory_mb()]
    for path in _limit_files():
        try:
            found.append(int(path.read_text()) // 1_000_000)
        except (OSError, ValueError):
            continue  # not there, or "max"
    return min((size for size in found if size is not None and size > 0), default=None)


def needed_mb(cache_mb: int) -> int:
    """Return how many megabytes the process takes at most, with a cache of so many."""
    return cache_mb * 5 // 4 + PROGRAM_MB


def default_cache_mb(memory: int | None) -> int:
    """Return the default of CACHE_MB where the process may use ``memory`` megabytes."""
    if memory is None:
        return DEFAULT_CACHE_MB
    fitting = int((memory * SHARE - PROGRAM_MB) * 4 / 5)
    return max(LEAST_DEFAULT_CACHE_MB, min(fitting, DEFAULT_CACHE_MB))


def _limit_files() -> Iterator[Path]:
    """Yield the files that may hold a limit: of the process's cgroups, and of all above them.

    Version 2 has one hierarchy, version 1 one for memory.  In a container the process's own may be
    the top, and its path as seen from outside may not exist.
    """
    for name in V2_FILES:
        yield CGROUPS / name
    for name in V1_FILES:
        yield CGROUPS / "memory" / name
    try:
        lines = PROC_CGROUP.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        if number == "0" and not controllers:
            top, names = CGROUPS, V2_FILES
        elif "memory" in controllers.split(","):
            top, names = CGROUPS / "memory", V1_FILES
        else:
            continue
        folder = Path(path.lstrip("/"))
        for part in (folder, *folder.parents):
            for name in names:
                yield top / part / name
