"""Small tools that several modules share.

Owns: fixed-width integer packing, logger classes, logical files (one byte range spread over
physical files), text forms of times, addresses and protocol versions. Knows nothing about coins,
the network or the event loop. Runs in whatever thread calls it: no function here keeps state.
"""

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

# Names of 1.15; nothing here uses them.
from electrumx.lib.compat import (  # noqa: F401
    address_string,
    cachedproperty,
    deep_getsizeof,
    hex_to_bytes,
    int_to_bytes,
    open_truncate,
    pack_be_uint32,
    subclasses,
    unpack_be_uint16_from,
    unpack_be_uint32,
    unpack_be_uint32_from,
    unpack_le_int32_from,
    unpack_le_int64_from,
    unpack_le_uint32,
    unpack_le_uint64,
    unpack_le_uint64_from,
)

T = TypeVar("T")


# Logging


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    # Python 3.10 cannot subscript it.
    _Adapter = logging.LoggerAdapter


class ConnectionLogger(_Adapter):
    """A logger adapter that starts each message with the id of its connection."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the message prefixed with ``[conn_id]``, ``[unknown]`` if there is no id."""
        conn_id = (self.extra or {}).get("conn_id", "unknown")
        return f"[{conn_id}] {msg}", kwargs


class CompactFormatter(logging.Formatter):
    """A formatter that shows only the last dotted component of a logger's name."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a copy of the record: other handlers get the full name."""
        short = logging.makeLogRecord(record.__dict__)
        short.name = record.name.rpartition(".")[-1]
        return super().format(short)


def make_logger(name: str, *, handler: logging.Handler, level: int | str) -> logging.Logger:
    """Return the logger of this name, with this handler and level, set not to propagate."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return logger


def class_logger(path: str, classname: str) -> logging.Logger:
    """Return the child logger ``classname`` of the logger ``path``."""
    return logging.getLogger(path).getChild(classname)


# Classes and objects


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield slices of items, each of this size; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def resolve_limit(limit: int | None) -> int:
    """Return limit as an int, with None and negative values as -1, meaning no limit."""
    if limit is None:
        return -1
    return max(int(limit), -1)


# Bytes


def bytes_to_int(be_bytes: bytes) -> int:
    """Return the non-negative integer that big-endian bytes of any length stand for."""
    return int.from_bytes(be_bytes, "big")


def increment_byte_string(bs: bytes) -> bytes | None:
    """Return the next byte string of equal length in lexical order; None if all are 0xff."""
    value = bytes_to_int(bs) + 1
    if value.bit_length() > 8 * len(bs):
        return None
    return value.to_bytes(len(bs), "big")


# The names are public: the last letter is the struct format.
struct_le_i = Struct("<i")
struct_le_q = Struct("<q")
struct_le_H = Struct("<H")  # noqa: N816
struct_le_I = Struct("<I")  # noqa: N816
struct_le_Q = Struct("<Q")  # noqa: N816
struct_be_H = Struct(">H")  # noqa: N816
struct_be_I = Struct(">I")  # noqa: N816
structB = Struct("B")  # noqa: N816

unpack_le_uint16_from = struct_le_H.unpack_from
unpack_le_uint32_from = struct_le_I.unpack_from


pack_le_int32 = struct_le_i.pack
pack_le_int64 = struct_le_q.pack
pack_le_uint16 = struct_le_H.pack
pack_le_uint32 = struct_le_I.pack
pack_le_uint64 = struct_le_Q.pack
pack_be_uint16 = struct_be_H.pack
pack_byte = structB.pack


def pack_varint(n: int) -> bytes:
    """Return n, from 0 to 2**64 - 1, as Bitcoin's compact size of 1, 3, 5 or 9 bytes.

    Raises struct.error if n is out of range.
    """
    if n < 0xFD:
        return pack_byte(n)
    if n <= 0xFFFF:
        return b"\xfd" + pack_le_uint16(n)
    if n <= 0xFFFFFFFF:
        return b"\xfe" + pack_le_uint32(n)
    return b"\xff" + pack_le_uint64(n)


def pack_varbytes(data: bytes) -> bytes:
    """Return data with its length before it as a compact size."""
    return pack_varint(len(data)) + data


# Files


def open_file(filename: str | os.PathLike[str], create: bool = False) -> BinaryIO:
    """Open a file for reading and writing without truncating it.

    Raises FileNotFoundError if it is missing, unless create is true.
    """
    try:
        return open(filename, "rb+")
    except FileNotFoundError:
        if create:
            # Not "wb+": another thread may have made and filled the file just now.
            return os.fdopen(os.open(filename, os.O_RDWR | os.O_CREAT | _O_BINARY, 0o666), "rb+")
        raise


# Windows would otherwise translate line ends below Python's own file object.
_O_BINARY: int = getattr(os, "O_BINARY", 0)


def without_logins(text: str) -> str:
    """Return text without the user names and passwords of the URLs in it."""
    return re.sub(r"//\S*@", "//", text)


def sync_path(path: str | os.PathLike[str]) -> None:
    """Make all writes to a file or folder durable, also those of other processes."""
    # Windows refuses to sync a file that is open for reading only; others, a folder open for writing.
    fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the directory entries of new files durable; Windows has no way to, nor needs it."""
    if os.name != "nt":
        sync_path(path)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.  Raise OSError, also if it is anything else.

    A pipe without a writer would block the caller indefinitely.
    """
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "this is no regular file", os.fspath(path))
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


class LogicalFile:
    """One growing range of bytes, spread over physical files of a fixed maximum size.

    Byte ``p`` is in the file numbered ``p // file_size``, at offset ``p % file_size``. A physical
    name is the prefix and the number, padded with zeros to ``digits``. Nothing truncates files: the
    caller knows how much of them is valid.
    """

    def __init__(self, prefix: str | os.PathLike[str], digits: int, file_size: int) -> None:
        self.file_size = file_size
        self._prefix = os.fspath(prefix)
        self._digits = digits

    def _location(self, start: int) -> tuple[str, int]:
        """Return the name of the physical file that holds byte start, and the offset in it."""
        number, offset = divmod(start, self.file_size)
        return f"{self._prefix}{number:0{self._digits}d}", offset

    def physical_sizes(self, length: int) -> list[tuple[str, int]]:
        """Return (name, bytes in use) of the physical files that hold the first length bytes."""
        return [
            (self._location(start)[0], min(self.file_size, length - start))
            for start in range(0, length, self.file_size)
        ]

    def read(self, start: int, size: int = -1) -> bytes:
        """Return size bytes from start, all to the end if size is -1; fewer if there are fewer.

        Missing files end the data and are no error.
        """
        parts = []
        while size != 0:
            part = self._read_part(start, size)
            if not part:
                break
            parts.append(part)
            start += len(part)
            if size > 0:
                size -= len(part)
        return b"".join(parts)

    def _read_part(self, start: int, size: int) -> bytes:
        """Return bytes from start that are in one physical file, none if it is missing."""
        filename, offset = self._location(start)
        room = self.file_size - offset
        try:
            with open(filename, "rb") as f:
                f.seek(offset)
                return f.read(room if size < 0 else min(room, size))
        except FileNotFoundError:
            return b""

    def write(self, start: int, b: bytes | bytearray | memoryview, *, sync: bool = False) -> None:
        """Write bytes at start, creating missing files (the directory must exist).

        With sync true everything is on the disk when this returns: each touched file, and the
        directory if a file was new.
        """
        view = memoryview(b).cast("B")
        created = False
        while len(view):
            filename, offset = self._location(start)
            part = view[: self.file_size - offset]
            created |= sync and not os.path.exists(filename)
            with self._opened_for_writing(filename) as f:
                f.seek(offset)
                f.write(part)
                if sync:
                    f.flush()
                    os.fsync(f.fileno())
            start += len(part)
            view = view[len(part) :]
        if created:
            sync_directory(Path(self._prefix).parent)

    def _opened_for_writing(self, filename: str) -> AbstractContextManager[BinaryIO]:
        """Return a context of an open physical file, at whose end all is written to it."""
        return open_file(filename, create=True)

    def open_file(self, start: int, create: bool) -> BinaryIO:
        """Open the physical file that holds byte start, and seek there.

        Raises FileNotFoundError if it is missing, unless create is true.
        """
        filename, offset = self._location(start)
        f = open_file(filename, create)
        f.seek(offset)
        return f


# Text


def formatted_time(t: float, sep: str = " ") -> str:
    """Return seconds as days, hours, minutes and seconds, the greatest non-zero unit first.

    Seconds appear only if fewer than three greater units do: ``01h 00m 00s``, ``1d 01h 01m``.
    """
    total = max(int(t), 0)
    parts: list[str] = []
    for letter, width, unit_secs in (("d", 1, 86400), ("h", 2, 3600), ("m", 2, 60)):
        value, total = divmod(total, unit_secs)
        if parts or value:
            parts.append(f"{value:0{width}d}{letter}")
    if len(parts) < 3:
        parts.append(f"{total:02d}s")
    return sep.join(parts)


# No version that anyone means has longer numbers; int() of a long text is slow.


def protocol_tuple(s: Any) -> tuple[int, ...]:
    """Return a protocol version such as "1.4" as numbers, (1, 4); (0,) if it is not one.

    The argument is untrusted and may be of any type.
    """
    if not isinstance(s, str) or len(s) > 64:
        return (0,)
    try:
        # Takes spaces around a number, as some clients send them.
        return tuple(int(part) for part in s.split("."))
    except ValueError:
        return (0,)


def version_string(ptuple: tuple[int, ...]) -> str:
    """Return a version tuple as text with at least one dot: (1,) gives "1.0"."""
    padded = ptuple + (0,) * (2 - len(ptuple))
    return ".".join(str(part) for part in padded)


def protocol_version(
    client_req: Any, min_tuple: tuple[int, ...], max_tuple: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Negotiate with a client that asks for one version or a [minimum, maximum] list.

    Returns the greatest version both sides support, None if they share none, and the client's
    minimum. A client that asks for nothing (None) gets our minimum.
    """
    if client_req is None:
        client_min = client_max = min_tuple
    elif isinstance(client_req, list) and len(client_req) == 2:
        client_min, client_max = (protocol_tuple(part) for part in client_req)
    else:
        client_min = client_max = protocol_tuple(client_req)
    chosen = min(client_max, max_tuple)
    if chosen < max(client_min, min_tuple) or chosen == (0,):
        return None, client_min
    return chosen, client_min
