"""Messages out of bytes: newline framing with a bound, and JSON-RPC that cannot be crashed.

Extends aiorpcX where a hostile client could end more than its own request: over-long lines, deeply
nested or huge numbers in JSON, batches that would never be answered. Runs on the event loop, except
for ``encode`` of single large results, which is pure and may run in a thread.
"""

from functools import cache, partial
from typing import Any

from aiorpcx import (
    JSONRPC,
    JSONRPCAutoDetect,
    JSONRPCConnection,
    Notification,
    ProtocolError,
    Request,
    RPCError,
)

from electrumx.server.session.engine.json_result import EncodedJSON, encode
from electrumx.server.session.engine.jsonrpc_versions import detect

# Members of a batch; a longer one is refused as a whole.
MAX_BATCH_MEMBERS = 10_000
# A batch with more malformed members, which cost a default hard limit, is refused as a whole: none
# of the others is executed.
MAX_MALFORMED_MEMBERS = 100
# JSON values of a message, at most: a request has a few arguments, each member of a batch at least
# 30 bytes.  Three bytes of text, ``{},``, make 72 bytes of Python objects.
MAX_VALUES = 1_000
BATCH_BYTES_PER_VALUE = 6
# What a parsed value takes in memory, on average of the worst texts.
VALUE_BYTES = 100
# Values are counted in pieces of a message, so that counting ends soon after the bound.
_COUNTED_BYTES = 65_536
# Values of a message: each is the first behind one of these.
_SEPARATORS = (b",", b"[", b"{")


def max_values(message: bytes) -> int:
    """Return how many JSON values a message may have: a batch more than a single request."""
    is_batch = message[:64].lstrip()[:1] == b"["
    return MAX_VALUES + (len(message) // BATCH_BYTES_PER_VALUE if is_batch else 0)


def count_values(message: bytes, limit: int) -> int:
    """Return the number of JSON values in a message before it is parsed; exact up to ``limit``.

    Separators within texts are counted too.
    """
    count = 1
    for start in range(0, len(message), _COUNTED_BYTES):
        for separator in _SEPARATORS:
            count += message.count(separator, start, start + _COUNTED_BYTES)
        if count > limit:
            break
    return count


def is_unparsable(message: bytes) -> bool:
    """Return whether a message of too many values is cut short, or nested for the most part."""
    if message[-64:].rstrip()[-1:] not in (b"]", b"}"):
        return True
    brackets = message.count(b"[", 0, _COUNTED_BYTES) + message.count(b"{", 0, _COUNTED_BYTES)
    return message.count(b",", 0, _COUNTED_BYTES) * 4 < brackets


class LineFramer:
    """Splits bytes at newlines; drops lines of more than ``max_size`` bytes (0 = unbounded).

    A line that is too long is dropped as soon as it grows so, and once: ``dropped`` counts them.
    Reception goes on after its newline.
    """

    __slots__ = ("_part", "dropped", "max_size", "size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.dropped = 0
        # The line that has no end yet, unless it is being dropped; most often there is none.
        self._part: bytearray | None = None
        #: how many bytes of it were received
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
        """Say if the line that is being received has grown too long."""
        return self.size > self.max_size > 0


class _BatchReply:
    """Collects the replies of one batch; the last one in completes the message.

    Room is kept for an error for each member that has no reply yet: what does not fit is replaced
    one by one.  In the largest batches there is no such room; the message may then be one error.
    """

    def __init__(self, connection: "BoundedConnection") -> None:
        self._connection = connection
        self.parts: list[bytes] = []
        self.expected = 0
        self._size = 0
        # Bytes of the errors that may have to be sent instead of replies that are not there yet
        self._reserved = 0
        self._most_reserved = connection.max_response_size // 4
        self._error_bytes = 2 + len(connection.oversized(""))

    def add_error(self, message: bytes) -> None:
        self.expected += 1
        self._add(message)

    def expect(self, request_id: Any) -> int:
        """Expect a reply; return how much room is kept for an error."""
        self.expected += 1
        reserved = self._error_bytes + len(encode(request_id))
        self._reserved += reserved
        return reserved

    def _add(self, part: bytes) -> None:
        self._size += len(part) + 2
        self.parts.append(part)

    def is_oversized(self, part: bytes, reserved: int) -> bool:
        """Return whether there is no room for a reply, beside the errors that may follow."""
        others = min(self._reserved - reserved, self._most_reserved)
        return self._size + len(part) + 2 + others > self._connection.max_response_size > 0

    def deliver(self, part: bytes, reserved: int) -> bytes | None:
        """Add an encoded reply; return the whole message if it was the last."""
        self._reserved -= reserved
        self._add(part)
        return self.message() if len(self.parts) == self.expected else None

    def message(self) -> bytes:
        """Return the replies that are there as one message, or one error if that is too large."""
        message: bytes = self._connection.dialect.batch_message_from_parts(self.parts)
        return self._connection.bounded(message)


class _BatchMember(Request):
    """A request of a batch; small, as there may be ten thousand of them waiting."""

    __slots__ = ("_reply", "_request_id", "_reserved", "weight")

    def __init__(self, request: Any, request_id: Any, reply: _BatchReply) -> None:
        super().__init__(request.method, request.args)
        self._request_id = request_id
        self._reply = reply
        self._reserved = reply.expect(request_id)
        #: bytes of memory that it takes
        self.weight = 0

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.args!r})"

    def encode(self, result: Any) -> bytes:
        return self._reply._connection._encode(self._request_id, result)

    def is_oversized(self, part: bytes) -> bool:
        return self._reply.is_oversized(part, self._reserved)

    def oversized(self) -> bytes:
        return self._reply._connection.oversized(self._request_id)

    def deliver(self, part: bytes) -> bytes | None:
        return self._reply.deliver(part, self._reserved)

    def deliver_last(self, part: bytes) -> bytes:
        """Return the message with the replies that are there, of which this is the last."""
        return self.deliver(part) or self._reply.message()


class BoundedConnection(JSONRPCConnection):
    """A server's end of JSON-RPC, whose failures on hostile input are all ProtocolErrors.

    It is made for one message, in the dialect that the client has been found to speak, or
    JSONRPCAutoDetect before its first that parses; ``dialect`` is then what it was found to be.
    Requests that it returns carry ``encode(result) -> bytes``, which is pure; ``is_oversized(bytes)``
    and ``oversized()``, which gives what to deliver instead; and ``deliver(bytes) -> bytes | None``,
    which gives the message to send, if any yet.
    """

    def __init__(self, dialect: Any, max_response_size: int = 0) -> None:
        # Not the library's: that is for both ends, and several times as much.
        self._protocol = dialect
        self._requests: dict[Any, Any] = {}
        self.max_response_size = max_response_size
        # Bytes of memory that the message takes with what it is parsed to
        self.weight = 0
        # About the message last received: how many members of a batch were malformed, and the
        # reply to it if none of its members is left to wait for.
        self.malformed_count = 0
        self.immediate_reply: bytes | None = None

    @property
    def dialect(self) -> Any:
        """The class of aiorpcX that knows the client's dialect."""
        return self._protocol

    def receive_message(self, message: bytes) -> list[Any]:
        """Return the requests and notifications in a message; raises ProtocolError."""
        self.malformed_count = 0
        self.immediate_reply = None
        try:
            if self._protocol is JSONRPCAutoDetect:
                self._protocol = detect(message)
            items: list[Any] = super().receive_message(message)
        except ProtocolError:
            raise
        except (ValueError, RecursionError):
            # Numbers of thousands of digits, thousands of brackets
            raise self._invalid_json() from None
        except TypeError:
            # Replies to nothing we asked, with ids that do not hash or compare
            raise ProtocolError.invalid_request("ill-formed response") from None
        for item in items:
            if isinstance(item, Request) and not hasattr(item, "deliver"):
                # Keeps the library's send_result: the id is bound inside
                request_id = item.send_result.args[0]
                item.encode = partial(self._encode, request_id)
                item.is_oversized = self.is_oversized
                item.oversized = partial(self.oversized, request_id)
                item.deliver = _same
        return items

    def _encode(self, request_id: Any, result: Any) -> bytes:
        protocol = self._protocol
        if isinstance(result, EncodedJSON):
            # The first null of an empty reply is the result, in every dialect.
            empty: bytes = protocol.response_message(None, request_id)
            return empty.replace(b"null", result, 1)
        is_error = isinstance(result, (RPCError, ProtocolError))
        make_payload = protocol.error_payload if is_error else protocol.response_payload
        try:
            payload = make_payload(result, request_id)
            if is_error and (data := getattr(result, "data", None)) is not None:
                payload["error"]["data"] = data
            return encode(payload)
        except (TypeError, ValueError, RecursionError):
            error = RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")
            return encode(protocol.error_payload(error, request_id))

    def is_oversized(self, message: bytes) -> bool:
        """Return whether a message is larger than any that may be sent."""
        return len(message) > self.max_response_size > 0

    def oversized(self, request_id: Any) -> bytes:
        """Return the error that stands in for a reply that is too large."""
        return self._oversized_response_message(request_id)  # type: ignore[no-any-return]

    def bounded(self, message: bytes) -> bytes:
        """Return a message, or an error without an id if it is too large."""
        return self.oversized(None) if self.is_oversized(message) else message

    def check_values(self, message: bytes) -> None:
        """Raise ProtocolError if a message has too many JSON values to be parsed; set ``weight``.

        Parsing makes up to 25 times as much memory of a message that consists of empty objects.
        """
        limit = max_values(message)
        count = count_values(message, limit)
        if count > limit:
            if is_unparsable(message):
                raise self._invalid_json()
            raise self._refuse_batch("message has too many JSON values")
        self.weight = len(message) + VALUE_BYTES * count

    def _invalid_json(self) -> ProtocolError:
        error: ProtocolError = self._protocol._error(
            JSONRPC.PARSE_ERROR, "invalid JSON", True, None
        )
        return error

    def _refuse_batch(self, text: str) -> ProtocolError:
        error: ProtocolError = self._protocol._error(JSONRPC.INVALID_REQUEST, text, True, None)
        return error

    def _check_count(self, payloads: list[Any]) -> None:
        if len(payloads) > MAX_BATCH_MEMBERS:
            raise self._refuse_batch(f"batch has more than {MAX_BATCH_MEMBERS:,d} members")

    def _receive_response_batch(self, payloads: list[Any]) -> list[Any]:
        self._check_count(payloads)
        result: list[Any] = super()._receive_response_batch(payloads)
        return result

    def _receive_request_batch(self, payloads: list[Any]) -> list[Any]:
        """Return the items of a batch; malformed ones are answered first, in the one array.

        The library would never answer the malformed ones if all others were notifications.
        """
        self._check_count(payloads)
        reply = _BatchReply(self)
        items = []
        for payload in payloads:
            try:
                item, request_id = self._protocol._process_request(payload)
            except ProtocolError as error:
                self.malformed_count += 1
                if self.malformed_count > MAX_MALFORMED_MEMBERS:
                    raise self._refuse_batch(
                        f"batch has more than {MAX_MALFORMED_MEMBERS:,d} malformed members"
                    ) from None
                reply.add_error(error.error_message)
                continue
            if isinstance(item, Request):
                item = _BatchMember(item, request_id, reply)
            items.append(item)
        if reply.parts and len(reply.parts) == reply.expected:
            self.immediate_reply = reply.message()
        return items


def _same(part: bytes) -> bytes:
    return part


def encode_notification(dialect: Any, method: str, args: Any) -> bytes:
    """Return a notification as a client of that dialect wants it."""
    return encode(dialect.request_payload(Notification(method, args), None))


@cache
def notification_parts(dialect: Any, method: str) -> tuple[bytes, bytes, bytes]:
    """Return what stands before, between and after the arguments of a notification with two.

    The first argument is a text without anything that JSON escapes, and without its quotes; the
    other any JSON value.
    """
    message = encode_notification(dialect, method, ("@1", "@2"))
    first, rest = message.split(b"@1")
    middle, last = rest.split(b'"@2"')
    return first, middle, last
