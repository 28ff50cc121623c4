"""The versions of JSON-RPC: which requests each accepts, and how it writes messages.

A message without a version is read loosely and answered in 2.0.  The rules and error texts are those
of aiorpcX, except that they refuse a request whose id no reply could repeat: Python reads ``NaN`` and
``1e999`` as numbers, for which JSON has no text.  Pure functions.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from aiorpcx import JSONRPC

from electrumx.server.session.engine.json_result import encode

# Characters of an id, as Python prints it: replies repeat it.
MAX_ID_CHARS = 4_096

_join = b"".join


class InvalidRequestError(Exception):
    """A JSON value that is not a request; replies carry ``code``, ``text`` and ``request_id``."""

    def __init__(self, code: int, text: str, request_id: object = None) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.request_id = request_id


def _invalid(text: str) -> InvalidRequestError:
    return InvalidRequestError(JSONRPC.INVALID_REQUEST, text)


class Version:
    """One version of JSON-RPC."""

    #: as the member ``jsonrpc`` of a message has it
    name: str
    allows_batches = True

    def read_id(self, payload: dict[str, object]) -> Any:
        """Return the id of a request, None of a notification; raise InvalidRequestError."""
        raise NotImplementedError

    def check(self, payload: dict[str, object]) -> None:
        """Raise InvalidRequestError if a message does not claim this version."""

    def read_params(self, payload: dict[str, object]) -> list[Any] | dict[str, Any]:
        """Return the arguments of a request; raise InvalidRequestError."""
        raise NotImplementedError

    def result(self, encoded: bytes, request_id: object) -> bytes:
        """Return the reply with a result that is JSON already."""
        raise NotImplementedError

    def error(self, code: int, text: str, request_id: object, data: object = None) -> bytes:
        """Return the reply with an error; ``data`` is left out if it is None."""
        error = {"code": code, "message": text}
        if data is not None:
            error["data"] = data
        return self._error(encode(error), request_id)

    def _error(self, encoded: bytes, request_id: object) -> bytes:
        raise NotImplementedError

    def notification(self, method: str, params: Sequence[object]) -> bytes:
        """Return a notification of ours."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"JSON-RPC {self.name}"


class _Version1(Version):
    """JSON-RPC 1.0: ids of any kind, arguments in a list only, no batches."""

    name = "1.0"
    allows_batches = False

    def read_id(self, payload: dict[str, object]) -> Any:
        if "id" not in payload:
            raise _invalid('request has no "id"')
        return payload["id"]

    def read_params(self, payload: dict[str, object]) -> list[Any] | dict[str, Any]:
        params = payload.get("params")
        if not isinstance(params, list):
            raise InvalidRequestError(JSONRPC.INVALID_ARGS, f"invalid request arguments: {params}")
        return params

    def result(self, encoded: bytes, request_id: object) -> bytes:
        return _join((b'{"result":', encoded, b',"error":null,"id":', encode(request_id), b"}"))

    def _error(self, encoded: bytes, request_id: object) -> bytes:
        return _join((b'{"result":null,"error":', encoded, b',"id":', encode(request_id), b"}"))

    def notification(self, method: str, params: Sequence[object]) -> bytes:
        return encode({"method": method, "params": params, "id": None})


class _Version2(Version):
    """JSON-RPC 2.0."""

    name = "2.0"

    def read_id(self, payload: dict[str, object]) -> Any:
        request_id = payload.get("id")
        if isinstance(request_id, (list, dict)):
            raise _invalid(f'invalid "id": {request_id}')
        return request_id

    def check(self, payload: dict[str, object]) -> None:
        if payload.get("jsonrpc") != "2.0":
            raise _invalid('"jsonrpc" is not "2.0"')

    def read_params(self, payload: dict[str, object]) -> list[Any] | dict[str, Any]:
        params = payload.get("params", [])
        if not isinstance(params, (dict, list)):
            raise InvalidRequestError(JSONRPC.INVALID_ARGS, f"invalid request arguments: {params}")
        return params

    def result(self, encoded: bytes, request_id: object) -> bytes:
        id_text = encode(request_id)
        return _join((b'{"jsonrpc":"2.0","result":', encoded, b',"id":', id_text, b"}"))

    def _error(self, encoded: bytes, request_id: object) -> bytes:
        return _join((b'{"jsonrpc":"2.0","error":', encoded, b',"id":', encode(request_id), b"}"))

    def notification(self, method: str, params: Sequence[object]) -> bytes:
        payload = {"jsonrpc": "2.0", "method": method}
        return encode({**payload, "params": params} if params else payload)


class _Loose(_Version2):
    """A message that names no version: read without checking it, and answered in 2.0."""

    name = "loose"

    def check(self, payload: dict[str, object]) -> None:
        """Accept any version."""


class _Auto(_Version2):
    """The version of a client that has sent no message that parses; messages to it are in 2.0."""

    name = "auto"


V1: Version = _Version1()
V2: Version = _Version2()
LOOSE: Version = _Loose()
AUTO: Version = _Auto()


def _version_of(payload: object) -> Version:
    if not isinstance(payload, dict):
        return LOOSE
    version = payload.get("jsonrpc")
    if version == "2.0":
        return V2
    # Replies of 1.0 have both.
    if version == "1.0" or ("result" in payload and "error" in payload):
        return V1
    return LOOSE


def detect_version(payload: object) -> Version:
    """Return the version of a client's first message; of a batch, the strictest of its members."""
    if not isinstance(payload, list):
        return _version_of(payload)
    versions = set(map(_version_of, payload))
    return next((version for version in (V2, V1) if version in versions), LOOSE)


def read_call(version: Version, payload: object) -> tuple[str, list[Any] | dict[str, Any], Any]:
    """Return (method, arguments, id) of a request, whose id is None if it is a notification.

    Raises InvalidRequestError.
    """
    if not isinstance(payload, dict):
        raise _invalid("request object must be a dictionary")
    request_id = _repeatable(version.read_id(payload))
    try:
        version.check(payload)
        params = version.read_params(payload)
        method = payload.get("method")
        if not isinstance(method, str):
            raise InvalidRequestError(JSONRPC.METHOD_NOT_FOUND, "method must be a string")
    except InvalidRequestError as error:
        error.request_id = request_id
        raise
    return method, params, request_id


def _repeatable(request_id: object) -> Any:
    """Return an id; raise InvalidRequestError if a reply could not repeat it."""
    if isinstance(request_id, (str, list, dict)) and len(str(request_id)) > MAX_ID_CHARS:
        raise _invalid(f'"id" has more than {MAX_ID_CHARS:,d} characters')
    if not _is_repeatable(request_id):
        raise _invalid(f'invalid "id": {request_id}')
    return request_id


def _is_repeatable(request_id: object) -> bool:
    """Return whether JSON can express an id; 1.0 allows ids of any kind."""
    if isinstance(request_id, float):
        return math.isfinite(request_id)
    if isinstance(request_id, list):
        return all(map(_is_repeatable, request_id))
    if isinstance(request_id, dict):
        return all(map(_is_repeatable, request_id.values()))
    return True


@cache
def notification_parts(version: Version, method: str) -> tuple[bytes, bytes, bytes]:
    """Return the bytes before, between and after the arguments of a notification with two.

    The first argument is a text that needs no escaping in JSON, without its quotes; the other any
    JSON value.
    """
    message = version.notification(method, ("@1", "@2"))
    first, rest = message.split(b"@1")
    middle, last = rest.split(b'"@2"')
    return first, middle, last
