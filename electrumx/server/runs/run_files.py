"""Run files: one for each kind of records, each a sequence of sorted sections.

Owns their bytes and checksums.  A section is appended, and its file synced, before a manifest on the disk names
it, and never changes after that; the next append overwrites bytes behind the last named section.  The merge
frees merged parts: where the system can punch holes, at once; otherwise with the file.

Runs in: a worker thread; reading in any number of them.
"""

import ctypes
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import ceil, isqrt
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import NamedTuple
from zlib import crc32

from electrumx.lib import util
from electrumx.server.runs.manifest import Section
from electrumx.server.runs.records import Kind
from electrumx.server.storage.schema import DBError

#: a part of a range may be so much larger than the target before its division
OVERSIZE = 1.5
#: bytes written at once
PIECE_BYTES = 4 << 20
#: of fallocate(2): FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE
_PUNCH_HOLE = 1 | 2
#: holes smaller than a block of the file system free nothing
_BLOCK = 4096
_SUM = Struct("<I")


class DamagedRunError(DBError):
    """Records differ from the written ones: the disk is wrong."""

    def __init__(self, path: Path, kind: Kind, section: Section):
        super().__init__(f"the file {path} of the initial sync is damaged on disk")
        self.kind = kind
        self.section = section


class Part(NamedTuple):
    """Some of a section's records: number of the first, and how many."""

    first: int
    records: int
    section: Section

    @classmethod
    def whole(cls, section: Section) -> "Part":
        """Return all of a section."""
        return cls(section.first, section.records, section)

    @property
    def end(self) -> int:
        """The number of the record after the last."""
        return self.first + self.records


class RunFile:
    """The records of a kind, and in a second file the checksums of their pieces.

    A *piece* is so many records, counted from the beginning of a section, as one checksum (CRC-32,
    little-endian) is of; the last one of a section is shorter.
    """

    def __init__(self, folder: Path, kind: Kind):
        self.kind = kind
        self.path = folder / kind.name
        self.sums_path = folder / f"{kind.name}.sums"
        self._fds: dict[Path, int] = {}
        self._opening = Lock()
        self.can_punch = True
        #: whether written bytes may not be on the disk
        self.is_unsynced = False
        #: whether the folder names the files, on the disk too
        self._is_listed = False

    def append(self, after: Section, records: bytes) -> Section:
        """Write records behind a section; they are valid after :meth:`sync`, once named."""
        with self.writer(after) as writer:
            writer.write(records)
        return writer.section

    def writer(self, after: Section) -> "SectionWriter":
        """Return a writer of the section behind another one."""
        return SectionWriter(self, after)

    def read(self, part: Part) -> bytes:
        """Return records.  Raise DamagedRunError if they differ from the written ones."""
        kind, section = self.kind, part.section
        length, step = kind.length, kind.piece_records
        # Read whole pieces: a range of the key space may begin and end within one.
        first_piece = (part.first - section.first) // step
        end_piece = kind.pieces(part.end - section.first)
        start = section.first + first_piece * step
        end = min(section.first + end_piece * step, section.end)
        raw = self._read_at(self.path, start * length, (end - start) * length, section)
        count = end_piece - first_piece
        sums = self._read_at(self.sums_path, (section.sums + first_piece) * 4, count * 4, section)
        view = memoryview(raw)
        for n, (expected,) in enumerate(_SUM.iter_unpack(sums)):
            if crc32(view[n * step * length : (n + 1) * step * length]) != expected:
                raise DamagedRunError(self.path, kind, section)
        if (start, end) == (part.first, part.end):
            return raw
        return raw[(part.first - start) * length : (part.end - start) * length]

    def _read_at(self, path: Path, offset: int, size: int, section: Section) -> bytes:
        raw = os.pread(self._opened(path), size, offset) if size else b""
        while len(raw) < size:
            # The system returns at most 2 GiB at once.
            more = os.pread(self._opened(path), size - len(raw), offset + len(raw))
            if not more:
                raise DamagedRunError(path, self.kind, section)
            raw += more
        return raw

    def prefix(self, number: int) -> int:
        """Return the first bytes of a record, as many as divide the key space, as a number.

        Not checked: where a bit is wrong, so are the bounds of a range, which reading the range
        detects.
        """
        kind = self.kind
        raw = os.pread(self._opened(self.path), kind.bound_len, number * kind.length)
        return int.from_bytes(raw, "big")

    def first_at(self, first: int, records: int, bound: int) -> int:
        """Return how many of a few sorted records are below a bound; not checked either."""
        length, bound_len = self.kind.length, self.kind.bound_len
        raw = os.pread(self._opened(self.path), records * length, first * length)

        def prefix(number: int) -> int:
            return int.from_bytes(raw[number * length : number * length + bound_len], "big")

        return bisect_left(range(records), bound, key=prefix)

    def holds(self, sections: Sequence[Section]) -> bool:
        """Return whether the files are long enough for sections."""
        kind = self.kind
        end = max((section.end for section in sections), default=0)
        sums = max((section.sums + kind.pieces(section.records) for section in sections), default=0)
        try:
            return not end or (
                os.stat(self.path).st_size >= end * kind.length
                and os.stat(self.sums_path).st_size >= sums * 4
            )
        except FileNotFoundError:
            return False

    def free(self, part: Part) -> None:
        """Give the room of records that nothing reads again back to the disk, if possible.

        The piece in which they end stays for the records that follow, which free it.
        """
        length, step = self.kind.length, self.kind.piece_records
        section = part.section

        def piece_start(number: int) -> int:
            return section.first + (number - section.first) // step * step

        first = piece_start(part.first)
        last = section.end if part.end == section.end else piece_start(part.end)
        start = -(-first * length // _BLOCK) * _BLOCK
        end = last * length // _BLOCK * _BLOCK
        if self.can_punch and end > start:
            self.can_punch = punch_hole(self.path, start, end - start)

    def sync(self) -> None:
        """Make all writes durable."""
        if self.is_unsynced:
            for path in (self.path, self.sums_path):
                util.sync_path(path)
            if not self._is_listed:
                util.sync_directory(self.path.parent)
            self._is_listed = True
            self.is_unsynced = False

    def delete(self) -> None:
        """Remove the files."""
        self.close()
        self.is_unsynced = self._is_listed = False
        for path in (self.path, self.sums_path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; they open again as needed."""
        with self._opening:
            fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)

    def _opened(self, path: Path) -> int:
        # A second descriptor would never be closed, and hold the room of a removed file.
        with self._opening:
            if path not in self._fds:
                self._fds[path] = os.open(path, os.O_RDONLY)
            return self._fds[path]


class SectionWriter:
    """Writes a section; a context manager, at whose end ``section`` is readable, but may not be durable."""

    def __init__(self, file: RunFile, after: Section):
        self._file = file
        kind = file.kind
        self.section = Section(after.end, 0, after.sums + kind.pieces(after.records))
        self._rest = b""
        self._sums: list[int] = []

    def __enter__(self) -> "SectionWriter":
        self._file.is_unsynced = True
        self._out = util.open_file(self._file.path, create=True)
        self._out.seek(self.section.first * self._file.kind.length)
        return self

    def write(self, records: bytes) -> None:
        """Write records that follow on those before."""
        kind = self._file.kind
        view = memoryview(records)
        for start in range(0, len(view), PIECE_BYTES):
            self._out.write(view[start : start + PIECE_BYTES])
        first, found, _sums = self.section
        self.section = Section(first, found + len(view) // kind.length, self.section.sums)
        size = kind.piece_records * kind.length
        if self._rest:
            missing = size - len(self._rest)
            self._rest += bytes(view[:missing])
            view = view[missing:]
            if len(self._rest) < size:
                return
            self._sums.append(crc32(self._rest))
        whole = len(view) // size * size
        self._sums += [crc32(view[n : n + size]) for n in range(0, whole, size)]
        self._rest = bytes(view[whole:])

    def __exit__(self, kind: type[BaseException] | None, *_exc_info: object) -> None:
        self._out.close()
        if kind is not None:
            return
        if self._rest:
            self._sums.append(crc32(self._rest))
        with util.open_file(self._file.sums_path, create=True) as out:
            out.seek(self.section.sums * 4)
            out.write(b"".join(map(_SUM.pack, self._sums)))


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
    parts: list[list[Part]]


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

    Keys are hashes mostly, so a guess of its place is good: one read holds it then.
    """
    high = section.end
    guess = section.first + section.records * bound // (1 << 8 * file.kind.bound_len)
    slack = isqrt(section.records) + 8
    start, end = max(low, guess - slack), min(high, guess + slack)
    if start < end:
        found = start + file.first_at(start, end - start, bound)
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

    Keys are hashes, so equal parts of the space have equal shares of the records, about; divide a
    range that has more again, unless all of its records agree.
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
            # Ascending even where a wrong bit made the search err.
            [
                Part(a, max(a, b) - a, section)
                for a, b, section in zip(low, high, source.sections, strict=True)
            ]
            for source, low, high in zip(sources, lows, highs, strict=True)
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
        first, lows = end, [[part.end for part in cut] for cut in parts]
