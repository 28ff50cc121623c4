"""The files in ``meta/``: headers, transaction counts, transaction hashes, recent raw blocks.

Owns their names, offsets and durability.  Positions index all of them, which a key-value store
would do at ten times the space.  Flushes only ever append, and later overwrite the bytes beyond the
committed height, so nothing here needs undoing.

Every method blocks and runs in a worker thread.  Only the block processor's thread writes; any
number of threads may read at once.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from electrumx.lib import util
from electrumx.lib.coins import Coin
from electrumx.lib.util import LogicalFile
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.schema import HASH_LEN, DBError
from electrumx.server.storage.shortage import is_shortage

#: bytes of a tx count or a header offset, little-endian
COUNT_LEN = 8
#: no coin's headers are longer, in bytes; Equihash solutions of 1,344 bytes make the longest
MAX_HEADER_LEN = 1 << 16
#: folder in the database directory in which ``backup`` assembles a snapshot
STAGING = "backup.staging"
#: file in a snapshot that lists its files with their SHA-256
MANIFEST = "manifest.json"


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _once(write: Callable[[], None], _what: str) -> None:
    write()


class HeldFile:
    """An open file, closed with the last reference to it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int):
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class HeldLogicalFile(LogicalFile):
    """A logical file whose physical files stay open.

    So neither reading nor writing it depends on whether a descriptor is left.  The last
    ``max_held`` files opened for reading stay open, and the one last written to.  Reading may happen
    in any thread, writing in one at a time.
    """

    def __init__(self, prefix: Path, digits: int, file_size: int, max_held: int):
        super().__init__(prefix, digits, file_size)
        self._max_held = max_held
        self._held: dict[int, HeldFile] = {}
        self._written: tuple[str, BinaryIO] | None = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; they open again as needed."""
        self._held = {}
        if self._written:
            _name, file = self._written
            self._written = None
            file.close()

    def held(self, number: int) -> HeldFile | None:
        """Return the physical file with a number, None if it is missing.

        It stays open while the caller holds it.  Any thread may call this.
        """
        file = self._held.get(number)
        if file is None:
            try:
                file = HeldFile(self._open_for_reading(number))
            except FileNotFoundError:
                return None
            held = self._held
            if len(held) >= self._max_held:
                # Another thread may have been quicker.
                with suppress(KeyError, StopIteration, RuntimeError):
                    del held[next(iter(held))]
            held[number] = file
        return file

    def _open_for_reading(self, number: int) -> int:
        name, _offset = self._location(number * self.file_size)
        try:
            return os.open(name, os.O_RDONLY)
        except OSError as e:
            if not is_shortage(e):
                raise
        # Close our other files for the one needed now.
        self._held = {}
        return os.open(name, os.O_RDONLY)

    def _read_part(self, start: int, size: int) -> bytes:
        number, offset = divmod(start, self.file_size)
        file = self.held(number)
        if file is None:
            return b""
        room = self.file_size - offset
        return _pread(file.fd, min(room, size) if size > 0 else room, offset)

    @contextmanager
    def _opened_for_writing(self, filename: str) -> Iterator[BinaryIO]:
        if self._written is None or self._written[0] != filename:
            if self._written:
                self._written[1].close()
                self._written = None
            self._written = filename, util.open_file(filename, create=True)
        file = self._written[1]
        try:
            yield file
            file.flush()
        except BaseException:
            # A later write must not write the bytes in its buffer.
            self._written = None
            with suppress(OSError):
                file.close()
            raise


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Return bytes of a file, as many as there are."""
    first = os.pread(fd, size, offset)
    if len(first) == size or not first:
        return first
    # The end of the file, or more than the system reads at once.
    return first + _pread(fd, size - len(first), offset + len(first))


class FlatFiles:
    """The folder ``meta`` in a database directory."""

    #: physical files held open for reading at once: of tx hashes, and of each other kind.  Mainnet
    #: has a few hundred of the former, and a handful of the others.
    MAX_HELD_HASHES = 64
    MAX_HELD_FILES = 8
    #: bytes of tx hashes in each write, about
    PIECE_BYTES = 4_000_000

    def __init__(
        self,
        db_dir: str,
        coin: type[Coin],
        retry: Callable[[Callable[[], None], str], None] = _once,
    ):
        self.coin = coin
        self.folder = Path(db_dir) / "meta"
        most = self.MAX_HELD_FILES
        self.headers = HeldLogicalFile(self.folder / "headers", 2, 16_000_000, most)
        self.tx_counts = HeldLogicalFile(self.folder / "txcounts", 2, 2_000_000, most)
        self.hashes = HeldLogicalFile(self.folder / "hashes", 4, 16_000_000, self.MAX_HELD_HASHES)
        self.headers_offsets = HeldLogicalFile(self.folder / "headers_offsets", 2, 16_000_000, most)
        #: transactions whose hashes are in one physical file
        self.hashes_per_file = self.hashes.file_size // HASH_LEN
        self._retry = retry

    def close(self) -> None:
        """Let go of the files held open; they open again as needed."""
        for logical in (self.headers, self.tx_counts, self.hashes, self.headers_offsets):
            logical.close()

    def prepare(self) -> None:
        """Create what a database without any block needs.  Harmless if it is there."""
        self.folder.mkdir(exist_ok=True)
        # Left by a kill during the making of a snapshot.
        shutil.rmtree(self.folder.parent / STAGING, ignore_errors=True)
        # From here on the directory is no longer the snapshot that it may have been.
        (self.folder.parent / MANIFEST).unlink(missing_ok=True)
        if not self.coin.STATIC_BLOCK_HEADERS and not self.headers_offsets.read(0, COUNT_LEN):
            self.headers_offsets.write(0, bytes(COUNT_LEN), sync=True)

    def lengths(self, height: int, tx_count: int) -> list[tuple[LogicalFile, int]]:
        """Return each logical file with the bytes that it holds of a committed height.

        ``tx_count`` is that of the height.  Raise DBError if a header offset is missing.
        """
        blocks = height + 1
        lengths = [
            (self.tx_counts, blocks * COUNT_LEN),
            (self.hashes, tx_count * HASH_LEN),
        ]
        if not self.coin.STATIC_BLOCK_HEADERS:
            lengths.append((self.headers_offsets, (blocks + 1) * COUNT_LEN))
        return [*lengths, (self.headers, self.header_offset(blocks))]

    def check_lengths(self, height: int, tx_count: int) -> None:
        """Raise DBError if a physical file is missing or too short for a committed height."""
        for logical, length in self.lengths(height, tx_count):
            for name, wanted in logical.physical_sizes(length):
                try:
                    size = os.stat(name).st_size
                except FileNotFoundError:
                    size = -1
                if size < wanted:
                    found = "is missing" if size < 0 else f"is truncated: {size:,d} bytes"
                    raise DBError(
                        f"{name} {found} where {wanted:,d} bytes are needed; restore a backup of "
                        "the whole database directory, or empty it to synchronise again"
                    )

    # -- headers

    def header_offset(self, height: int) -> int:
        """Return where the header of a height begins, in bytes."""
        if self.coin.STATIC_BLOCK_HEADERS:
            return self.coin.static_header_offset(height)
        raw = self.headers_offsets.read(height * COUNT_LEN, COUNT_LEN)
        if len(raw) != COUNT_LEN:
            raise DBError(
                f"the header offset of height {height:,d} is missing from {self.folder}; restore "
                "a backup of the database directory"
            )
        return int.from_bytes(raw, "little")

    def read_headers(self, start_height: int, count: int) -> bytes:
        """Return the headers of ``count`` heights, all of them written, as one string."""
        start = self.header_offset(start_height)
        end = self.header_offset(start_height + count)
        if not 0 <= end - start <= count * MAX_HEADER_LEN:
            raise DBError(
                f"the header offsets of heights {start_height:,d} to {start_height + count:,d} in "
                f"{self.folder} are damaged; restore a backup of the database directory"
            )
        headers = self.headers.read(start, end - start)
        if len(headers) != end - start:
            raise DBError(
                f"headers from height {start_height:,d} on are missing from {self.folder}; "
                "restore a backup of the database directory"
            )
        return headers

    def split_headers(self, start_height: int, headers: bytes) -> list[bytes]:
        """Cut headers that begin with the one of ``start_height`` apart."""
        size = self._common_size(start_height, len(headers))
        if size:
            return [headers[n : n + size] for n in range(0, len(headers), size)]
        result = []
        base = self.header_offset(start_height)
        position, height = 0, start_height
        while position < len(headers):
            end = self.header_offset(height + 1) - base
            result.append(headers[position:end])
            position, height = end, height + 1
        return result

    def _common_size(self, start_height: int, length: int) -> int:
        """Return the size of each of the headers with this total length, 0 if it varies."""
        coin = self.coin
        if not coin.STATIC_BLOCK_HEADERS:
            return 0
        size = coin.static_header_len(start_height)
        count = length // size
        end = coin.static_header_offset(start_height + count)
        last = coin.static_header_len(max(start_height, start_height + count - 1))
        same = last == size and end - coin.static_header_offset(start_height) == size * count
        return size if same and length == size * count else 0

    # -- transaction counts

    def read_tx_counts(self, count: int) -> bytes:
        """Return the first ``count`` records, LE8 each; DBError if there are fewer."""
        raw = self.tx_counts.read(0, count * COUNT_LEN)
        if len(raw) != count * COUNT_LEN:
            raise DBError(
                f"{self.folder / 'txcounts'} is truncated: {len(raw):,d} of "
                f"{count * COUNT_LEN:,d} bytes; restore a backup of the database directory"
            )
        return raw

    def tx_count(self, height: int) -> int:
        """Return the record of a height with a written block."""
        return int.from_bytes(self.tx_counts.read(height * COUNT_LEN, COUNT_LEN), "little")

    # -- transaction hashes

    def read_tx_hashes(self, first: int, count: int) -> bytes:
        """Return the hashes of consecutive transactions, 32 bytes each, as one string."""
        return self.hashes.read(first * HASH_LEN, count * HASH_LEN)

    def tx_hashes(self, tx_nums: Sequence[int]) -> list[bytes]:
        """Return the hash of each transaction number.

        A hash is empty where the file is too short.  Ascending numbers are fastest to read.
        """
        result = []
        for tx_num in tx_nums:
            number, index = divmod(tx_num, self.hashes_per_file)
            file = self.hash_file(number)
            result.append(b"" if file is None else os.pread(file.fd, HASH_LEN, index * HASH_LEN))
        return result

    def hash_file(self, number: int) -> HeldFile | None:
        """Return a physical file of tx hashes, None if it is missing.

        It stays open while the caller holds it.  Any thread may call this.
        """
        return self.hashes.held(number)

    # -- writing

    def append(
        self,
        height: int,
        headers: Sequence[bytes],
        first_tx_num: int,
        tx_counts: bytes,
        tx_hashes: Sequence[bytes],
    ) -> None:
        """Write consecutive blocks, ``height`` being the first, and wait for the disk.

        ``tx_counts`` has one LE8 cumulative count a block; ``tx_hashes`` for each block 32 bytes
        a transaction, the first of which has the number ``first_tx_num``.
        """
        if headers:
            # Repeating it writes the same bytes to the same places.
            self._retry(
                lambda: self._append(height, headers, first_tx_num, tx_counts, tx_hashes),
                f"writing blocks from height {height:,d} on to {self.folder}",
            )

    def _append(
        self,
        height: int,
        headers: Sequence[bytes],
        first_tx_num: int,
        tx_counts: bytes,
        tx_hashes: Sequence[bytes],
    ) -> None:
        offset = self.header_offset(height)
        self.headers.write(offset, b"".join(headers), sync=True)
        fault_point("flush: headers written")
        if not self.coin.STATIC_BLOCK_HEADERS:
            offsets = []
            for header in headers:
                offset += len(header)
                offsets.append(offset.to_bytes(COUNT_LEN, "little"))
            self.headers_offsets.write((height + 1) * COUNT_LEN, b"".join(offsets), sync=True)
            fault_point("flush: header offsets written")
        self.tx_counts.write(height * COUNT_LEN, tx_counts, sync=True)
        fault_point("flush: tx counts written")
        self._write_tx_hashes(first_tx_num * HASH_LEN, tx_hashes)
        fault_point("flush: tx hashes written")

    def _write_tx_hashes(self, offset: int, tx_hashes: Sequence[bytes]) -> None:
        # Not all at once: joined, they would be in memory twice.
        piece: list[bytes] = []
        size = 0
        for n, hashes in enumerate(tx_hashes, start=1):
            piece.append(hashes)
            size += len(hashes)
            if size >= self.PIECE_BYTES or n == len(tx_hashes):
                self.hashes.write(offset, b"".join(piece), sync=True)
                offset += size
                piece, size = [], 0

    # -- raw blocks

    def raw_block_path(self, height: int) -> Path:
        """Return the file of a recent raw block."""
        return self.folder / f"block{height}"

    def read_raw_block(self, height: int) -> bytes:
        """Return a recent raw block.  Raise FileNotFoundError if it is missing."""
        return self.raw_block_path(height).read_bytes()

    def write_raw_block(self, block: bytes, height: int) -> None:
        """Keep a raw block for undoing it later.

        Not synced: readers check the hash, and ask the daemon in place of a damaged file.
        """
        path = self.raw_block_path(height)
        self._retry(lambda: _write_bytes(path, block), f"writing {path.name}")

    def delete_raw_blocks(self, heights: Iterable[int]) -> None:
        """Delete raw blocks, those of them that exist."""
        for height in heights:
            self.raw_block_path(height).unlink(missing_ok=True)

    def raw_block_heights(self) -> list[int]:
        """Return the heights with raw blocks, in no order."""
        return [
            int(path.name[5:]) for path in self.folder.glob("block*") if path.name[5:].isdigit()
        ]
