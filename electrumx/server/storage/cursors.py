"""Reads rows through the engines' iterators and cursors, and checks them for errors.

Both engines' iterators end silently where a table is unreadable; :func:`checked_rows` and the other
functions distinguish that from the end of the rows.  Runs in: worker threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

#: key and value
Row = tuple[bytes, bytes]


class Cursor(Protocol):
    """A position in a store, as the engines' bindings have it; each row in key order."""

    def seek(self, key: bytes, /) -> None:
        """Go to the first row at or above a key."""

    def seek_to_last(self) -> None:
        """Go to the last row."""

    def valid(self) -> bool:
        """Return whether there is a row at the position."""

    def key(self) -> bytes:
        """Return the key of the row."""

    def value(self) -> bytes:
        """Return the value of the row."""

    def next(self) -> None:
        """Go to the next row."""

    def prev(self) -> None:
        """Go to the row before."""


def first_rows(rows: Iterable[Row], max_bytes: int) -> list[Row]:
    """Return the first rows, until they have ``max_bytes`` of keys and values."""
    result = []
    size = 0
    for row in rows:
        result.append(row)
        size += len(row[0]) + len(row[1])
        if size >= max_bytes:
            break
    return result


def rows_at(cursor: Cursor, prefixes: Sequence[bytes], max_bytes: int) -> list[list[Row]]:
    """Return the first rows under each prefix, by an engine's own cursor."""
    result = []
    seek, valid, key_of, value_of = cursor.seek, cursor.valid, cursor.key, cursor.value
    next_row = cursor.next
    for prefix in prefixes:
        rows: list[Row] = []
        size = 0
        seek(prefix)
        while valid():
            key = key_of()
            if not key.startswith(prefix):
                break
            value = value_of()
            rows.append((key, value))
            size += len(key) + len(value)
            if size >= max_bytes:
                break
            next_row()
        else:
            _check_status(cursor)
        result.append(rows)
    return result


def _check_status(cursor: Cursor) -> None:
    """Raise the error that made a cursor end, if any; LevelDB's cursor raises it by itself."""
    status = getattr(cursor, "status", None)
    if status is not None:
        status()


def checked_rows(
    rows: Iterable[Row],
    cursor: Cursor,
    get: Callable[[bytes], bytes | None],
    first: bytes,
    prefix: bytes,
) -> Iterator[Row]:
    """Yield rows, the first at or above ``first``, while their keys have a prefix.

    Where the engine ends them, look for more rows with ``cursor``, of the same snapshot.  If there
    are any, the engine met an error: raise OSError.
    """
    last: bytes | None = None
    for row in rows:
        last = row[0]
        if not last.startswith(prefix):
            return
        yield row
    cursor.seek(first if last is None else last + b"\0")
    if not cursor.valid():
        _check_status(cursor)
        return
    key = cursor.key()
    # A deletion of the row may have come between the creation of the cursor and of the iterator.
    if key.startswith(prefix) and get(key) is not None:
        raise OSError(f"the engine left out rows from {key.hex()} on: a table cannot be read")


def rows_backwards(cursor: Cursor, end: bytes | None, prefix: bytes, start: bytes) -> Iterator[Row]:
    """Yield the rows below ``end`` (None: all) while they have a prefix and are not below ``start``.

    The last comes first.
    """
    if end is None:
        cursor.seek_to_last()
    else:
        cursor.seek(end)
        if cursor.valid():
            cursor.prev()
        else:
            _check_status(cursor)
            cursor.seek_to_last()
    while cursor.valid():
        key = cursor.key()
        if not key.startswith(prefix) or key < start:
            return
        yield key, cursor.value()
        cursor.prev()
    _check_status(cursor)
