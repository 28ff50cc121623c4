"""Run files: one for each kind of records, each a sequence of sorted sections.

Owns their bytes.  A section is appended and synced before the manifest names it, and never changes
after that; bytes behind the last named section are overwritten.  Parts that were merged are
freed: where the system can punch holes, at once; otherwise with the file.

Runs in: a worker thread; reading in any number of them.
"""

import ctypes
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import ceil, isqrt
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from electrumx.lib import util
from electrumx.server.runs.manifest import Section
from electrumx.server.runs.records import Kind

#: a part of a range may be so much larger than the target before it is divided
OVERSIZE = 1.5
#: bytes written at once
PIECE_BYTES = 4 << 20
#: of fallocate(2): FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE
_PUNCH_HOLE = 1 | 2
#: holes smaller than a block of the file system free nothing
_BLOCK = 4096


class RunFile:
    """The records of a kind."""

    def __init__(self, folder: Path, kind: Kind):
        self.kind = kind
        self.path = folder / kind.name
        self._fd: int | None = None
        self._opening = Lock()
        self.can_punch = True

    def append(self, first: int, records: bytes) -> Section:
        """Write records behind the first ``first`` ones; they are valid once synced and named."""
        view = memoryview(records)
        with util.open_file(self.path, create=True) as file:
            file.seek(first * self.kind.length)
            for start in range(0, len(view), PIECE_BYTES):
                file.write(view[start : start + PIECE_BYTES])
            file.flush()
            os.fsync(file.fileno())
        return Section(first, len(view) // self.kind.length)

    def read(self, section: Section) -> bytes:
        """Return records."""
        length = self.kind.length
        size = section.records * length
        raw = os.pread(self._opened(), size, section.first * length)
        while len(raw) < size:
            # The system returns at most 2 GiB at once.
            more = os.pread(self._opened(), size - len(raw), section.first * length + len(raw))
            if not more:
                raise OSError(f"{self.path} is shorter than its manifest says")
            raw += more
        return raw

    def prefix(self, number: int) -> int:
        """Return the first bytes of a record, as many as divide the key space, as a number."""
        raw = os.pread(self._opened(), self.kind.bound_len, number * self.kind.length)
        return int.from_bytes(raw, "big")

    def first_at(self, section: Section, bound: int) -> int:
        """Return how many of a few sorted records are below a bound."""
        length, bound_len = self.kind.length, self.kind.bound_len
        raw = self.read(section)

        def prefix(number: int) -> int:
            return int.from_bytes(raw[number * length : number * length + bound_len], "big")

        return bisect_left(range(section.records), bound, key=prefix)

    def holds(self, sections: Sequence[Section]) -> bool:
        """Return whether the file is long enough for sections."""
        end = max((section.end for section in sections), default=0)
        try:
            return not end or os.stat(self.path).st_size >= end * self.kind.length
        except FileNotFoundError:
            return False

    def free(self, section: Section) -> None:
        """Give the room of records back to the disk, which are not read again; if it can be."""
        length = self.kind.length
        start = -(-section.first * length // _BLOCK) * _BLOCK
        end = section.end * length // _BLOCK * _BLOCK
        if self.can_punch and end > start:
            self.can_punch = punch_hole(self.path, start, end - start)

    def delete(self) -> None:
        """Remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it is opened again as needed."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _opened(self) -> int:
        # A second descriptor would never be closed, and hold the room of a file that was removed.
        with self._opening:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY)
            return self._fd


def punch_hole(path: Path, start: int, length: int) -> bool:
    """Free a part of a file, which reads as zeros then; False if the system cannot."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        # The plain name takes offsets of 32 bits on 32-bit glibc, and would clear other parts.
        fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        fd = os.open(path, os.O_RDWR)
        try:
            return bool(fallocate(fd, _PUNCH_HOLE, start, length) == 0)
        finally:
            os.close(fd)
    return False


class Range(NamedTuple):
    """A part of the key space, and the records in it: for each file its sections' parts."""

    first: int
    #: the first key beyond it
    end: int
    parts: list[list[Section]]


class Sorted(NamedTuple):
    """The sorted sections of a file."""

    file: RunFile
    sections: list[Section]

    def positions(self, bound: int, after: Sequence[int]) -> list[int]:
        """Return for each section the first record at or above a bound; none is before ``after``."""
        return [
            _position(self.file, section, bound, first)
            for section, first in zip(self.sections, after, strict=True)
        ]


def _position(file: RunFile, section: Section, bound: int, low: int) -> int:
    """Return the first record of a section, from ``low`` on, that is at or above a bound.

    Keys are hashes mostly, so where it is can be guessed: one read holds it then.
    """
    high = section.end
    guess = section.first + section.records * bound // (1 << 8 * file.kind.bound_len)
    slack = isqrt(section.records) + 8
    start, end = max(low, guess - slack), min(high, guess + slack)
    if start < end:
        found = start + file.first_at(Section(start, end - start), bound)
        if start < found < end:
            return found
        if found == start:
            high = start
        else:
            low = end
    while low < high:
        middle = (low + high) // 2
        if file.prefix(middle) < bound:
            low = middle + 1
        else:
            high = middle
    return low


def ranges(sources: Sequence[Sorted], start: int, max_bytes: int) -> Iterator[Range]:
    """Divide the key space from ``start`` on into ranges that have about ``max_bytes`` at most.

    Keys are hashes, so equal parts of the space have equal shares of the records, about; a range
    that has more is divided again, unless all of its records agree.
    """
    kind = sources[0].file.kind
    top = 1 << 8 * kind.bound_len
    firsts = [[section.first for section in source.sections] for source in sources]
    lows = [s.positions(start, first) for s, first in zip(sources, firsts, strict=True)]
    left = sum(
        (section.end - low) * source.file.kind.length
        for source, positions in zip(sources, lows, strict=True)
        for section, low in zip(source.sections, positions, strict=True)
    )
    count = max(1, ceil(left / max(max_bytes, 1)))
    bounds = [start + (top - start) * n // count for n in range(count, 0, -1)]
    first = start
    while bounds:
        end = bounds[-1]
        highs = [
            s.positions(end, low) if end < top else [section.end for section in s.sections]
            for s, low in zip(sources, lows, strict=True)
        ]
        parts = [
            [Section(a, b - a) for a, b in zip(low, high, strict=True)]
            for low, high in zip(lows, highs, strict=True)
        ]
        size = sum(
            part.records * source.file.kind.length
            for source, cut in zip(sources, parts, strict=True)
            for part in cut
        )
        if size > max_bytes * OVERSIZE and end - first > 1:
            bounds.append((first + end) // 2)
            continue
        bounds.pop()
        yield Range(first, end, parts)
        first, lows = end, highs
