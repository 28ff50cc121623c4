"""The dialects of JSON-RPC that a client may speak: aiorpcX's, which take no id that cannot be told.

Python reads NaN, Infinity and 1e999 as numbers, for which JSON has no words; a reply with such an
id would be no JSON, or would name another id.
"""

import math
from typing import Any

import aiorpcx
from aiorpcx import ProtocolError

# Characters of an id, as Python prints it: replies repeat it.
MAX_ID_CHARS = 4_096


class _RepeatableIds:
    """Refuses requests whose id a reply could not repeat."""

    @classmethod
    def _message_id(cls, message: Any, require_id: bool) -> Any:
        request_id = super()._message_id(message, require_id)  # type: ignore[misc]
        if isinstance(request_id, (str, list, dict)) and len(str(request_id)) > MAX_ID_CHARS:
            raise ProtocolError.invalid_request(f'"id" has more than {MAX_ID_CHARS:,d} characters')
        if not _is_repeatable(request_id):
            raise ProtocolError.invalid_request(f'invalid "id": {request_id}')
        return request_id


def _is_repeatable(request_id: Any) -> bool:
    """Say if JSON has words for an id; 1.0 allows ids of any kind."""
    if isinstance(request_id, float):
        return math.isfinite(request_id)
    if isinstance(request_id, list):
        return all(map(_is_repeatable, request_id))
    if isinstance(request_id, dict):
        return all(map(_is_repeatable, request_id.values()))
    return True


class JSONRPCv1(_RepeatableIds, aiorpcx.JSONRPCv1):
    """Version 1.0."""


class JSONRPCv2(_RepeatableIds, aiorpcx.JSONRPCv2):
    """Version 2.0."""


class JSONRPCLoose(_RepeatableIds, aiorpcx.JSONRPCLoose):
    """What names no version, and is answered in 2.0."""


_OURS = {
    aiorpcx.JSONRPCv1: JSONRPCv1,
    aiorpcx.JSONRPCv2: JSONRPCv2,
    aiorpcx.JSONRPCLoose: JSONRPCLoose,
}


def detect(message: bytes) -> Any:
    """Return the dialect of a client's first message; raises as parsing it does."""
    return _OURS[aiorpcx.JSONRPCAutoDetect.detect_protocol(message)]
