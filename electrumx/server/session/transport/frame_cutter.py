"""Finds where WebSocket frames end in the bytes of a client, however these are cut.

The ``websockets`` library takes a frame field by field, so its buffer is also empty between two fields
of one frame, as when a client writes header and content separately.  Pure.  Source: RFC 6455, section 5.2.
"""

_REQUEST_END = b"\r\n\r\n"
_MASKED = 0x80
# By the length in the second byte: bytes of the field that has the real one.
_LENGTH_BYTES = {126: 2, 127: 8}
_MASK_BYTES = 4
MAX_HEADER_BYTES = 14


def frame_size(header: bytes) -> int | None:
    """Return the bytes of a frame, its header included; None if the length is not complete."""
    if len(header) < 2:
        return None
    length = header[1] & ~_MASKED
    content_at = 2 + _LENGTH_BYTES.get(length, 0)
    if len(header) < content_at:
        return None
    if content_at > 2:
        length = int.from_bytes(header[2:content_at], "big")
    return content_at + (_MASK_BYTES if header[1] & _MASKED else 0) + length


class FrameCutter:
    """Follows a stream that begins with an HTTP request, and goes on with frames."""

    __slots__ = ("_in_request", "_rest", "_start")

    def __init__(self) -> None:
        self._in_request = True
        # Bytes of the current frame still to come, and the part of a length that came; or the
        # last bytes of the request
        self._rest = 0
        self._start = b""

    def is_between_frames(self) -> bool:
        """Return whether the next byte begins a frame."""
        return not (self._in_request or self._rest or self._start)

    def feed(self, data: bytes) -> None:
        """Go on by some bytes."""
        if self._in_request:
            data = self._after_request(data)
        position, size = 0, len(data)
        while position < size:
            if not self._rest:
                start = self._start
                header = start + data[position : position + MAX_HEADER_BYTES - len(start)]
                frame_bytes = frame_size(header)
                if frame_bytes is None:
                    self._start = header
                    return
                self._rest, self._start = frame_bytes - len(start), b""
            taken = min(self._rest, size - position)
            position += taken
            self._rest -= taken

    def _after_request(self, data: bytes) -> bytes:
        """Return the bytes behind the request, which ends with the first empty line."""
        data = self._start + data
        end = data.find(_REQUEST_END)
        if end < 0:
            self._start = data[1 - len(_REQUEST_END) :]
            return b""
        self._in_request, self._start = False, b""
        return data[end + len(_REQUEST_END) :]
