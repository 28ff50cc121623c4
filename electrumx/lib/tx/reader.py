"""Bounded reading of the parts that all transaction formats share.

Two layers.  The module's functions take a buffer and an offset and return a value and the offset
behind it; they are the hot core of the initial sync and let ``IndexError`` and ``struct.error``
escape.  ``Reader`` keeps the offset and turns these into ``DeserializeError``, as must every
caller of the functions.

Why nothing reads past the end, or loops for longer than the buffer is long:

- an index past the end raises IndexError, and ``unpack_from`` past the end struct.error;
- a slice past the end is silently short, so a read of fixed size, or an explicit test, follows each
  slice of a length that the buffer itself claims;
- readers refuse a count or a length that exceeds the bytes left, before they build anything for it.
  Every counted item has at least one byte.

Pure functions over bytes; any thread may run them.
"""

from mmap import mmap
from struct import Struct
from struct import error as struct_error
from typing import Any, Final

from electrumx.lib.errors import DeserializeError
from electrumx.lib.tx.types import TxInput, TxOutput
from electrumx.lib.util import (
    struct_be_H,
    struct_be_I,
    struct_le_H,
    struct_le_I,
    struct_le_i,
    struct_le_Q,
    struct_le_q,
)

# The exceptions of a read past the end, see above.
OUT_OF_BOUNDS: Final = (IndexError, struct_error)

# Calling the named tuples' own constructors takes three times as long.
_new: Any = tuple.__new__

# By length of script, for those lengths that are one byte on the wire: a whole input or output in
# one call, the byte of the length skipped.  Nearly every script on the chain is that short.
_INPUT_BY_SCRIPT_LEN: Final = tuple(Struct(f"<32sIx{n}sI").unpack_from for n in range(253))
_OUTPUT_BY_SCRIPT_LEN: Final = tuple(Struct(f"<qx{n}s").unpack_from for n in range(253))
_INPUT_FIXED_LEN: Final = 32 + 4 + 1 + 4
_OUTPUT_FIXED_LEN: Final = 8 + 1

_unpack_outpoint = Struct("<32sI").unpack_from
_unpack_uint16 = struct_le_H.unpack_from
_unpack_uint32 = struct_le_I.unpack_from
_unpack_int64 = struct_le_q.unpack_from
_unpack_uint64 = struct_le_Q.unpack_from


def trailing_bytes(count: int) -> DeserializeError:
    """Return the error for bytes behind the last transaction of a block, where none may be."""
    return DeserializeError(
        f"{count:,d} bytes behind the last transaction: of another coin than COIN?"
    )


def read_varint(buf: bytes, pos: int) -> tuple[int, int]:
    """Return the compact-size integer at pos, whether minimal or not, and the offset behind it."""
    n = buf[pos]
    if n < 253:
        return n, pos + 1
    if n == 253:
        return _unpack_uint16(buf, pos + 1)[0], pos + 3
    if n == 254:
        return _unpack_uint32(buf, pos + 1)[0], pos + 5
    return _unpack_uint64(buf, pos + 1)[0], pos + 9


def read_size(buf: bytes, pos: int) -> tuple[int, int]:
    """As read_varint, for the count or length of the data that follows.

    Raises DeserializeError if it exceeds the bytes that are left.
    """
    n, pos = read_varint(buf, pos)
    if n > len(buf) - pos:
        raise DeserializeError(f"{n:,d} items or bytes announced, {len(buf) - pos:,d} bytes left")
    return n, pos


def read_inputs(buf: bytes, pos: int, count: int) -> tuple[list[TxInput], int]:
    """Return count inputs that begin at pos, and the offset behind them."""
    inputs: list[TxInput] = []
    for _ in range(count):
        n = buf[pos + 36]
        if n < 253:
            inputs.append(_new(TxInput, _INPUT_BY_SCRIPT_LEN[n](buf, pos)))
            pos += n + _INPUT_FIXED_LEN
        else:
            prev_hash, prev_idx = _unpack_outpoint(buf, pos)
            n, start = read_size(buf, pos + 36)
            pos = start + n
            # The sequence number's read fails if the script ran past the end.
            (sequence,) = _unpack_uint32(buf, pos)
            inputs.append(_new(TxInput, (prev_hash, prev_idx, buf[start:pos], sequence)))
            pos += 4
    return inputs, pos


def read_outputs(buf: bytes, pos: int, count: int) -> tuple[list[TxOutput], int]:
    """Return count outputs that begin at pos, and the offset behind them."""
    outputs: list[TxOutput] = []
    for _ in range(count):
        n = buf[pos + 8]
        if n < 253:
            outputs.append(_new(TxOutput, _OUTPUT_BY_SCRIPT_LEN[n](buf, pos)))
            pos += n + _OUTPUT_FIXED_LEN
        else:
            (value,) = _unpack_int64(buf, pos)
            # read_size has made sure that the script is all there.
            n, start = read_size(buf, pos + 8)
            pos = start + n
            outputs.append(_new(TxOutput, (value, buf[start:pos])))
    return outputs, pos


def read_witness(buf: bytes, pos: int, count: int) -> tuple[list[list[bytes]], int]:
    """Return the stacks of count inputs that begin at pos, and the offset behind them."""
    witness: list[list[bytes]] = []
    for _ in range(count):
        n = buf[pos]
        pos += 1
        if n >= 253:
            n, pos = read_size(buf, pos - 1)
        stack: list[bytes] = []
        for _ in range(n):
            n = buf[pos]
            pos += 1
            if n >= 253:
                n, pos = read_size(buf, pos - 1)
            stack.append(buf[pos : pos + n])
            pos += n
        witness.append(stack)
    # Only the last item can be short: reading of the next one begins at its claimed end.
    if pos > len(buf):
        raise DeserializeError("a witness runs past the end")
    return witness, pos


class Reader:
    """Reads values one after the other from a buffer.

    binary must be bytes, or a map of a file, whose slices are bytes; the reader does not copy it.
    Reading begins at offset start, and cursor is the offset of the next byte.  Every reader raises
    DeserializeError, and nothing else, if the buffer ends too early.  After an error the cursor is
    of no use.
    """

    def __init__(self, binary: bytes, start: int = 0) -> None:
        assert isinstance(binary, (bytes, mmap)), "a deserializer reads bytes"
        assert start >= 0
        self.binary = binary
        self.binary_length = len(binary)
        self.cursor = start

    def _read_struct(self, layout: Struct) -> Any:
        """Return the only field of layout, and consume its size in bytes."""
        try:
            (value,) = layout.unpack_from(self.binary, self.cursor)
        except struct_error as e:
            raise self._truncated() from e
        self.cursor += layout.size
        return value

    def _truncated(self) -> DeserializeError:
        return DeserializeError(
            f"truncated at offset {self.cursor:,d} of {self.binary_length:,d} bytes"
        )

    def _read_byte(self) -> int:
        try:
            value = self.binary[self.cursor]
        except IndexError as e:
            raise self._truncated() from e
        self.cursor += 1
        return value

    def _read_nbytes(self, n: int) -> bytes:
        """Return exactly n bytes."""
        end = self.cursor + n
        # A slice past the end would quietly be short, one backwards would not advance.
        if not self.cursor <= end <= self.binary_length:
            raise self._truncated()
        value = self.binary[self.cursor : end]
        self.cursor = end
        return value

    def _skip(self, n: int) -> None:
        """Go over exactly n bytes, without a copy."""
        end = self.cursor + n
        if not self.cursor <= end <= self.binary_length:
            raise self._truncated()
        self.cursor = end

    def _skip_items(self, size: int) -> int:
        """Go over a varint count and as many items of size bytes each; return the count."""
        count = self._read_size()
        self._skip(count * size)
        return count

    def _read_varint(self) -> int:
        try:
            value, self.cursor = read_varint(self.binary, self.cursor)
        except OUT_OF_BOUNDS as e:
            raise self._truncated() from e
        return value

    def _read_size(self) -> int:
        """Return a varint that counts the items that follow; never more than the bytes left."""
        try:
            value, self.cursor = read_size(self.binary, self.cursor)
        except OUT_OF_BOUNDS as e:
            raise self._truncated() from e
        return value

    def _read_varbytes(self) -> bytes:
        return self._read_nbytes(self._read_size())

    def _read_le_int32(self) -> int:
        value: int = self._read_struct(struct_le_i)
        return value

    def _read_le_int64(self) -> int:
        value: int = self._read_struct(struct_le_q)
        return value

    def _read_le_uint16(self) -> int:
        value: int = self._read_struct(struct_le_H)
        return value

    def _read_le_uint32(self) -> int:
        value: int = self._read_struct(struct_le_I)
        return value

    def _read_le_uint64(self) -> int:
        value: int = self._read_struct(struct_le_Q)
        return value

    def _read_be_uint16(self) -> int:
        value: int = self._read_struct(struct_be_H)
        return value

    def _read_be_uint32(self) -> int:
        value: int = self._read_struct(struct_be_I)
        return value
