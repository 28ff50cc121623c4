"""How many JSON values a message may have, checked before parsing.

Parsing makes up to 25 times as much memory of a message that consists of empty objects.  Pure.
"""

from aiorpcx import JSONRPC

from electrumx.server.session.engine.jsonrpc.parser import MalformedMessageError
from electrumx.server.session.engine.jsonrpc.requests import bounded
from electrumx.server.session.engine.jsonrpc.versions import Version

# JSON values of a message, at most: a request has a few arguments, each member of a batch at least
# 30 bytes.  Three bytes of text, ``{},``, make 72 bytes of Python objects.
MAX_VALUES = 1_000
BATCH_BYTES_PER_VALUE = 6
# Memory of a parsed value in bytes, on average of the worst texts.
VALUE_BYTES = 100
# Counting takes a message in pieces, so that it ends soon after the bound.
_COUNTED_BYTES = 65_536
# Values of a message: each is the first behind one of these.
_SEPARATORS = (b",", b"[", b"{")


def _max_values(message: bytes) -> int:
    """Return how many JSON values a message may have: a batch more than a single request."""
    is_batch = message[:64].lstrip()[:1] == b"["
    return MAX_VALUES + (len(message) // BATCH_BYTES_PER_VALUE if is_batch else 0)


def count_values(message: bytes, limit: int) -> int:
    """Return the number of JSON values in an unparsed message; exact up to ``limit``.

    Separators within texts count too.
    """
    count = 1
    for start in range(0, len(message), _COUNTED_BYTES):
        for separator in _SEPARATORS:
            count += message.count(separator, start, start + _COUNTED_BYTES)
        if count > limit:
            break
    return count


def _is_unparsable(message: bytes) -> bool:
    """Return whether a message of too many values is cut short, or nested for the most part."""
    if message[-64:].rstrip()[-1:] not in (b"]", b"}"):
        return True
    brackets = message.count(b"[", 0, _COUNTED_BYTES) + message.count(b"{", 0, _COUNTED_BYTES)
    return message.count(b",", 0, _COUNTED_BYTES) * 4 < brackets


def check_values(message: bytes, version: Version, max_reply_bytes: int) -> int:
    """Return about how many bytes of memory a message takes, with the values parsed from it.

    Raises MalformedMessageError if it has too many values to parse.
    """
    limit = _max_values(message)
    count = count_values(message, limit)
    if count <= limit:
        return len(message) + VALUE_BYTES * count
    code, text = JSONRPC.INVALID_REQUEST, "message has too many JSON values"
    if _is_unparsable(message):
        code, text = JSONRPC.PARSE_ERROR, "invalid JSON"
    reply = bounded(version, version.error(code, text, None), max_reply_bytes)
    raise MalformedMessageError(code, text, version, reply)
