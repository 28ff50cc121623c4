"""How a service manager's sandbox mounts a directory: read-only, or private and temporary.

Reads Linux's table of mounts; elsewhere it finds nothing.  Blocks on the file system for moments.
"""

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# Where systemd keeps the /tmp and /var/tmp of a unit with PrivateTmp; it removes them at stop.
_PRIVATE = "/systemd-private-"


def is_read_only(directory: Path) -> bool:
    """Return whether the file system of an existing directory is mounted read-only."""
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def is_removed_at_stop(directory: Path) -> bool:
    """Return whether a directory is in a temporary directory that is its unit's own."""
    try:
        table = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return False
    return _PRIVATE in mount_root(directory, table)


def mount_root(directory: Path, table: str) -> str:
    """Return which directory of its file system is mounted where a directory is; "" if unknown.

    ``table`` is the text of a mountinfo file.
    """
    found: tuple[int, str] = (0, "")
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        root, point = _unescaped(fields[3]), Path(_unescaped(fields[4]))
        depth = len(point.parts)
        # The later of two mounts at one place hides the other.
        if depth >= found[0] and (directory == point or point in directory.parents):
            found = (depth, root)
    return found[1]


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
