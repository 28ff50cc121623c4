"""Parse a client's message: its requests, or the error to send.

Input is hostile: whatever the bytes, the result is a ``ParsedMessage`` or a
``MalformedMessageError`` with the reply to send.  Batches have bounds of members and malformed
members.  Pure; a thread parses large messages.
"""

import json
import re
from dataclasses import dataclass, field
from typing import NoReturn

import orjson
from aiorpcx import JSONRPC

from electrumx.server.session.engine.jsonrpc.requests import (
    BatchMember,
    BatchReply,
    Notification,
    Request,
    bounded,
)
from electrumx.server.session.engine.jsonrpc.versions import (
    AUTO,
    InvalidRequestError,
    Version,
    detect_version,
    read_call,
)

# Members of a batch; the parser refuses a longer one as a whole.
MAX_BATCH_MEMBERS = 10_000
# The parser refuses a batch with more malformed members, which cost a default hard limit, as a whole:
# the server executes none of the others.
MAX_MALFORMED_MEMBERS = 100
# A message with more brackets may nest too deep.
SHALLOW_BRACKETS = 1_000
# orjson's limit
MAX_DEPTH = 1_024
_TOKEN = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)


@dataclass(slots=True)
class ParsedMessage:
    """The requests and notifications of a message, in order."""

    #: that of the client from now on
    version: Version
    items: list[Request | Notification] = field(default_factory=list)
    #: number of malformed members of a batch: one message answers them with the others
    malformed: int = 0
    #: the reply to a batch of which no request is left to wait for
    reply: bytes | None = None


class MalformedMessageError(Exception):
    """A message of which the server executes nothing."""

    def __init__(
        self, code: int, text: str, version: Version, reply: bytes | None, malformed: int = 0
    ) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text
        #: that of the client from now on
        self.version = version
        #: the message to send; None if there is no answer to it
        self.reply = reply
        #: number of malformed members found in a batch
        self.malformed = malformed


def parse_message(message: bytes, version: Version, max_reply_bytes: int = 0) -> ParsedMessage:
    """Return the requests in a message; raise MalformedMessageError.

    ``version`` is that of the client's earlier messages, or ``AUTO`` to detect it; ``max_reply_bytes``
    is 0 for unbounded replies.
    """
    parser = _Parser(version, max_reply_bytes)
    try:
        return parser.parse(message)
    except UnicodeDecodeError:
        parser.refuse("messages must be encoded in UTF-8", JSONRPC.PARSE_ERROR)
    except (ValueError, RecursionError):
        # Also numbers of thousands of digits, and thousands of brackets
        parser.refuse("invalid JSON", JSONRPC.PARSE_ERROR)


def _check_depth(message: bytes) -> None:
    """Raise RecursionError if a message nests deeper than MAX_DEPTH.

    From Python 3.14 on ``json`` has no limit but the stack of the thread.  It decides all else: it
    accepts numbers and texts at which orjson stops, and behind those this module counts the brackets.
    """
    try:
        orjson.loads(message)
    except orjson.JSONDecodeError as e:
        if "limit" in e.msg or _is_deep(message):
            raise RecursionError(e.msg) from None


def _is_deep(message: bytes) -> bool:
    """Return whether a message nests deeper than MAX_DEPTH; brackets in texts do not count."""
    depth = 0
    in_text = False
    for match in _TOKEN.finditer(message):
        token = match[0]
        if token == b'"':
            in_text = not in_text
        elif in_text or len(token) > 1:
            continue
        elif token in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        else:
            depth -= 1
    return False


class _Parser:
    def __init__(self, version: Version, max_reply_bytes: int) -> None:
        self._version = version
        self._max_reply_bytes = max_reply_bytes
        self._malformed = 0

    def refuse(self, text: str, code: int = JSONRPC.INVALID_REQUEST) -> NoReturn:
        """Refuse the message as a whole, with an error that has no id."""
        self._refuse(InvalidRequestError(code, text))

    def _refuse(self, error: InvalidRequestError) -> NoReturn:
        reply = bounded(self._version, self._error(error), self._max_reply_bytes)
        raise MalformedMessageError(
            error.code, error.text, self._version, reply, self._malformed
        ) from None

    def _error(self, error: InvalidRequestError) -> bytes:
        return self._version.error(error.code, error.text, error.request_id)

    def _refuse_response(self) -> NoReturn:
        """Refuse a reply: we asked nothing.  It gets no answer, or two servers would never end."""
        raise MalformedMessageError(
            JSONRPC.INVALID_REQUEST, "response to unsent request", self._version, None
        )

    def parse(self, message: bytes) -> ParsedMessage:
        """Return the requests in a message; raise as ``parse_message``, or ValueError."""
        text = message.decode()
        if message.count(b"[") + message.count(b"{") > SHALLOW_BRACKETS:
            _check_depth(message)
        payload = json.loads(text)
        if self._version is AUTO:
            self._version = detect_version(payload)
        if isinstance(payload, dict):
            return self._parse_single(payload)
        if not isinstance(payload, list) or not self._version.allows_batches:
            self.refuse("request object must be a dictionary")
        return self._parse_batch(payload)

    def _parse_single(self, payload: dict[str, object]) -> ParsedMessage:
        if "method" not in payload:
            self._refuse_response()
        version = self._version
        try:
            method, args, request_id = read_call(version, payload)
        except InvalidRequestError as error:
            self._refuse(error)
        if request_id is None:
            return ParsedMessage(version, [Notification(method, args)])
        request = Request(method, args, request_id, version, self._max_reply_bytes)
        return ParsedMessage(version, [request])

    def _parse_batch(self, payloads: list[object]) -> ParsedMessage:
        if not payloads:
            self.refuse("batch is empty")
        if len(payloads) > MAX_BATCH_MEMBERS:
            self.refuse(f"batch has more than {MAX_BATCH_MEMBERS:,d} members")
        if all(map(_is_response, payloads)):
            self._refuse_response()
        parsed = ParsedMessage(self._version)
        batch = BatchReply(self._version, self._max_reply_bytes)
        for payload in payloads:
            try:
                method, args, request_id = read_call(self._version, payload)
            except InvalidRequestError as error:
                self._malformed += 1
                if self._malformed > MAX_MALFORMED_MEMBERS:
                    self.refuse(f"batch has more than {MAX_MALFORMED_MEMBERS:,d} malformed members")
                batch.add_error(self._error(error))
                continue
            if request_id is None:
                parsed.items.append(Notification(method, args))
            else:
                parsed.items.append(BatchMember(method, args, request_id, batch))
        parsed.malformed = self._malformed
        if batch.is_complete():
            parsed.reply = batch.message()
        return parsed


def _is_response(payload: object) -> bool:
    return isinstance(payload, dict) and ("result" in payload or "error" in payload)
