"""The scripts of history flushes that the UTXOs have not seen yet, in a file beside the store.

A stop between the two writes of a flush leaves orphaned rows.  Their keys end in the flush's id, so
finding them meant reading all of the history, an hour for Bitcoin's.  With this file opening reads only
the rows of the scripts that the flush touched.

The file has a section for each flush since the last one that was whole: magic, flush id LE2, number of
scripts LE8, stamp(8), CRC-32 LE4 of the scripts and then of all that, then their hashXs (11 bytes each).
A flush of an empty database has none: until it commits the UTXOs, all rows are orphaned.
A section's write and sync come before the rows.

The *stamp* is of the store's file ``CURRENT``, which an engine replaces whenever it opens the store:
where another server, or a program, has opened it since, the file is invalid.  Its contents alone, a
number that begins at the same one in each new store, could be those of another store, put in the
place; the time of the replacement is not.  Without the file, or where a flush is missing in it,
opening reads all rows as before.

Flushes of an initial sync can have tens of millions of scripts, so the journal reads sections in pieces.

Runs in: the thread that writes.
"""

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple
from zlib import crc32

from electrumx.lib import util
from electrumx.lib.hash import HASHX_LEN

_MAGIC = b"HFJ2"
#: magic, flush id, scripts, stamp
_HEAD = Struct("<4sHQ8s")
_CRC = Struct("<I")
STAMP_LEN = 8
#: of a store with an unreadable file; no section with it is valid
NO_STAMP = bytes(STAMP_LEN)
#: scripts in one read
PIECE_SCRIPTS = 100_000


def stamp_of(store: str) -> bytes:
    """Return the stamp of a store's folder; NO_STAMP if it has none."""
    try:
        path = Path(store) / "CURRENT"
        replaced_at = path.stat().st_mtime_ns
        return sha256(b"%d %b" % (replaced_at, path.read_bytes())).digest()[:STAMP_LEN]
    except OSError:
        return NO_STAMP


class Section(NamedTuple):
    """A section of the file."""

    flush_id: int
    stamp: bytes
    #: offset of the first script
    start: int
    #: how many there are
    scripts: int


class FlushJournal:
    """The file beside a store's folder."""

    def __init__(self, store: str):
        self._store = store
        self._path = Path(f"{store}_flushes")
        self._end = 0
        #: whether the file's entry in its folder is on disk; a write that failed may have made the file
        self._is_durable = False
        #: of the store before this process opened it
        self._stamp = stamp_of(store)

    def write(self, flush_id: int, hashXs: Iterable[bytes], *, is_first: bool) -> None:
        """Note the scripts of the next flush, durably.

        ``hashXs`` has them in pieces, of one or more, as all together may take too much memory.
        ``is_first``: the flush before it was whole, so its sections are no longer needed.
        """
        if is_first:
            self._end = 0
        start = self._end + _HEAD.size + _CRC.size
        size = crc = 0
        with util.open_file(self._path, create=True) as file:
            file.seek(start)
            for piece in hashXs:
                file.write(piece)
                size += len(piece)
                crc = crc32(piece, crc)
            head = _HEAD.pack(_MAGIC, flush_id, size // HASHX_LEN, stamp_of(self._store))
            file.seek(self._end)
            file.write(head + _CRC.pack(crc32(head, crc)))
            file.flush()
            os.fsync(file.fileno())
        if not self._is_durable:
            util.sync_directory(self._path.parent)
            self._is_durable = True
        self._end = start + size

    def sections(self, first_id: int, last_id: int) -> list[Section] | None:
        """Return the sections of these flushes, ascending; None if they are not all there."""
        if self._stamp == NO_STAMP:
            return None
        try:
            with self._path.open("rb") as file:
                found = [
                    section
                    for section in self._valid_sections(file)
                    if section.stamp == self._stamp and first_id <= section.flush_id <= last_id
                ]
        except OSError:
            return None
        if [section.flush_id for section in found] != list(range(first_id, last_id + 1)):
            return None
        return found

    def hashXs(self, section: Section) -> Iterator[bytes]:
        """Yield the scripts of a section that :meth:`sections` has returned.  Raise OSError."""
        with self._path.open("rb") as file:
            for piece in _pieces(file, section):
                for n in range(0, len(piece), HASHX_LEN):
                    yield piece[n : n + HASHX_LEN]

    @staticmethod
    def _valid_sections(file: BinaryIO) -> Iterator[Section]:
        """Yield the sections as far as they follow on each other."""
        at = 0
        last: int | None = None
        while True:
            file.seek(at)
            head = file.read(_HEAD.size)
            raw_crc = file.read(_CRC.size)
            if len(raw_crc) < _CRC.size:
                return
            magic, flush_id, count, stamp = _HEAD.unpack(head)
            if magic != _MAGIC or (last is not None and flush_id != last + 1):
                return
            at += _HEAD.size + _CRC.size
            section = Section(flush_id, stamp, at, count)
            found = crc = 0
            for piece in _pieces(file, section):
                found += len(piece)
                crc = crc32(piece, crc)
            if found != count * HASHX_LEN or crc32(head, crc) != _CRC.unpack(raw_crc)[0]:
                return
            at += found
            last = flush_id
            yield section


def _pieces(file: BinaryIO, section: Section) -> Iterator[bytes]:
    """Yield the scripts of a section, joined, many at a time; fewer where the file is too short."""
    file.seek(section.start)
    left = section.scripts
    while left:
        piece = file.read(min(left, PIECE_SCRIPTS) * HASHX_LEN)
        if not piece:
            return
        left -= min(left, PIECE_SCRIPTS)
        yield piece
