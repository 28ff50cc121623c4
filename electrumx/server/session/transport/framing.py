"""Lines out of a stream of bytes, bounded in length.  Runs on the event loop."""


class LineFramer:
    """Splits bytes at newlines; drops lines of more than ``max_size`` bytes (0 = unbounded).

    It drops a line, and counts it in ``dropped``, as soon as the line grows too long; it receives
    bytes again behind the newline.
    """

    __slots__ = ("_part", "dropped", "max_size", "size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.dropped = 0
        # The line that has no end yet, unless it is being dropped; most often None.
        self._part: bytearray | None = None
        #: how many bytes of it arrived
        self.size = 0

    def split(self, data: bytes) -> list[bytes]:
        """Take bytes off the network; return the lines that they complete, without newlines."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if self.size:
            if not lines:
                self._extend(rest)
                return lines
            self._extend(lines[0])
            if self.is_dropping:
                del lines[0]
            else:
                lines[0] = bytes(self._part or b"")
            self._part, self.size = None, 0
        if 0 < self.max_size < len(data):
            lines = self._short_enough(lines)
        if rest:
            self._extend(rest)
        return lines

    def _short_enough(self, lines: list[bytes]) -> list[bytes]:
        kept = [line for line in lines if len(line) <= self.max_size]
        self.dropped += len(lines) - len(kept)
        return kept

    def _extend(self, piece: bytes) -> None:
        was_dropping = self.is_dropping
        self.size += len(piece)
        if self.is_dropping:
            self.dropped += not was_dropping
            self._part = None
        elif self._part is None:
            self._part = bytearray(piece)
        else:
            self._part += piece

    @property
    def is_dropping(self) -> bool:
        """Return whether the incoming line has grown too long."""
        return self.size > self.max_size > 0
