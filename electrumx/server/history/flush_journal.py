"""The scripts of history flushes that the UTXOs have not seen yet, in a file beside the store.

A stop between the two writes of a flush leaves orphaned rows.  Their keys end in the flush's id, so
finding them meant reading all of the history, an hour for Bitcoin's.  With this file only the rows of the
scripts that the flush touched are read.

The file has a section for each flush since the last one that was whole: magic, flush id LE2, number of
scripts LE8, stamp(8), CRC-32 LE4 of all that and of the scripts, then their hashXs (11 bytes each).
It is written and synced before the rows.

The *stamp* is of the store's file ``CURRENT``, which an engine replaces whenever it opens the store:
where another server, or a program, has opened it since, the file is not used.  Without it, or where a
flush is missing in it, all rows are read as before.

Runs in: the thread that writes.
"""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct
from zlib import crc32

from electrumx.lib import util
from electrumx.lib.hash import HASHX_LEN

_MAGIC = b"HFJ1"
#: magic, flush id, scripts, stamp
_HEAD = Struct("<4sHQ8s")
_CRC = Struct("<I")
STAMP_LEN = 8


def stamp_of(store: str) -> bytes:
    """Return the stamp of a store's folder; zeros if it has none."""
    try:
        return sha256((Path(store) / "CURRENT").read_bytes()).digest()[:STAMP_LEN]
    except OSError:
        return bytes(STAMP_LEN)


class FlushJournal:
    """The file beside a store's folder."""

    def __init__(self, store: str):
        self._store = store
        self._path = Path(f"{store}_flushes")
        self._end = 0
        #: of the store before this process opened it
        self._stamp = stamp_of(store)

    def write(self, flush_id: int, hashXs: bytes, *, is_first: bool) -> None:
        """Note the scripts of the next flush, durably.

        ``is_first``: the flush before it was whole, so its sections are no longer needed.
        """
        if is_first:
            self._end = 0
        count = len(hashXs) // HASHX_LEN
        head = _HEAD.pack(_MAGIC, flush_id, count, stamp_of(self._store))
        is_new = not self._path.exists()
        with util.open_file(self._path, create=True) as file:
            file.seek(self._end)
            file.write(head + _CRC.pack(crc32(hashXs, crc32(head))))
            file.write(hashXs)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            util.sync_directory(self._path.parent)
        self._end += _HEAD.size + _CRC.size + len(hashXs)

    def hashXs(self, first_id: int, last_id: int) -> list[bytes] | None:
        """Return the scripts of each of these flushes, joined; None if they are not all there."""
        found = [
            (flush_id, hashXs)
            for flush_id, stamp, hashXs in self._sections()
            if stamp == self._stamp and first_id <= flush_id <= last_id
        ]
        if [flush_id for flush_id, _hashXs in found] != list(range(first_id, last_id + 1)):
            return None
        return [hashXs for _flush_id, hashXs in found]

    def _sections(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (flush id, stamp, hashXs) of the sections, as far as they follow on each other."""
        try:
            raw = self._path.read_bytes()
        except OSError:
            return
        at = 0
        last: int | None = None
        while len(raw) - at >= _HEAD.size + _CRC.size:
            head = raw[at : at + _HEAD.size]
            magic, flush_id, count, stamp = _HEAD.unpack(head)
            at += _HEAD.size
            (expected,) = _CRC.unpack_from(raw, at)
            at += _CRC.size
            if magic != _MAGIC or (last is not None and flush_id != last + 1):
                return
            hashXs = raw[at : at + count * HASHX_LEN]
            at += count * HASHX_LEN
            if at > len(raw) or crc32(hashXs, crc32(head)) != expected:
                return
            last = flush_id
            yield flush_id, stamp, hashXs
