"""What a request handler may answer with, besides plain JSON values.  Pure."""

from typing import Any

import orjson


class EncodedJSON(bytes):
    """A result that is JSON already: one complete value, in UTF-8.

    It stands in the reply as it is, in batches too, and counts towards the size of replies like
    any other.  Whoever makes one vouches that it parses and has no newline in it.
    """

    __slots__ = ()


def encode_result(value: Any) -> EncodedJSON:
    """Return plain JSON values encoded; raises TypeError for what is none.

    What was encoded once can be answered many times.  Runs on the loop or in a thread.
    """
    return EncodedJSON(orjson.dumps(value))
