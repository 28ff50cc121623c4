"""Results of request handlers, and their encoding as JSON.  Pure."""

import json

import orjson

# They refuse the values that the standard library refuses to encode.
_OPTIONS = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class EncodedJSON(bytes):
    """A result that is JSON already: one complete value, in UTF-8.

    It stands in the reply as it is, in batches too, and counts towards the size of replies like
    any other.  Its maker guarantees that it parses and has no newline in it.
    """

    __slots__ = ()


def encode(value: object) -> bytes:
    """Return a value as JSON in UTF-8, compact; raise TypeError for a value without such a form.

    Runs on the loop or in a thread.
    """
    try:
        return orjson.dumps(value, None, _OPTIONS)
    except TypeError:
        # Integers of more than 64 bits, half characters, named tuples
        return json.dumps(value, separators=(",", ":")).encode()


def encode_result(value: object) -> EncodedJSON:
    """Return plain JSON values encoded, for many answers; raises TypeError.

    Runs on the loop or in a thread.
    """
    return EncodedJSON(encode(value))
