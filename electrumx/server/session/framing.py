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

from electrumx.server.session.dialects import detect
from electrumx.server.session.results import EncodedJSON, encode


class LineFramer:
    """Splits bytes at newlines; drops lines of more than ``max_size`` bytes (0 = unbounded).

    A line that is too long is dropped as soon as it grows so, and once: ``dropped`` counts them.
    Reception goes on after its newline.
    """

    __slots__ = ("_part", "_size", "dropped", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.dropped = 0
        # The line that has no end yet, unless it is being dropped; most often there is none.
        self._part: bytearray | None = None
        self._size = 0

    def split(self, data: bytes) -> list[bytes]:
        """Take bytes off the network; return the lines that they complete, without newlines."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if self._size:
            if not lines:
                self._extend(rest)
                return lines
            self._extend(lines[0])
            if self.is_dropping:
                del lines[0]
            else:
                lines[0] = bytes(self._part or b"")
            self._part, self._size = None, 0
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
        self._size += len(piece)
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
        return self._size > self.max_size > 0


class _BatchReply:
    """Collects the replies of one batch; the last one in completes the message."""

    def __init__(self, connection: "BoundedConnection") -> None:
        self._connection = connection
        self._protocol = connection._protocol
        self.parts: list[bytes] = []
        self.expected = 0
        self._size = 0

    def add_error(self, message: bytes) -> None:
        self.expected += 1
        self.parts.append(message)

    def deliver(self, request_id: Any, part: bytes) -> bytes | None:
        """Add an encoded reply; return the whole message if it was the last."""
        self._size += len(part) + 2
        if self._size > self._connection.max_response_size > 0:
            part = self._connection._oversized_response_message(request_id)
        self.parts.append(part)
        return self.message() if len(self.parts) == self.expected else None

    def message(self) -> bytes:
        return self._protocol.batch_message_from_parts(self.parts)  # type: ignore[no-any-return]


class _BatchMember(Request):
    """A request of a batch; small, as there may be ten thousands of them waiting."""

    __slots__ = ("_reply", "_request_id")

    def __init__(self, request: Any, request_id: Any, reply: _BatchReply) -> None:
        super().__init__(request.method, request.args)
        self._request_id = request_id
        self._reply = reply

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.args!r})"

    def encode(self, result: Any) -> bytes:
        return self._reply._connection._encode(self._request_id, result)

    def deliver(self, part: bytes) -> bytes | None:
        return self._reply.deliver(self._request_id, part)


class BoundedConnection(JSONRPCConnection):
    """A server's end of JSON-RPC, whose failures on hostile input are all ProtocolErrors.

    It is made for one message, in the dialect that the client has been found to speak, or
    JSONRPCAutoDetect before its first that parses; ``dialect`` is then what it was found to be.
    Requests that it returns carry ``encode(result) -> bytes``, which is pure, and
    ``deliver(bytes) -> bytes | None``, which gives the message to send, if any yet.
    """

    def __init__(self, dialect: Any, max_response_size: int = 0) -> None:
        # Not the library's: that is for both ends, and several times as much.
        self._protocol = dialect
        self._requests: dict[Any, Any] = {}
        self.max_response_size = max_response_size
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
            raise self._protocol._error(JSONRPC.PARSE_ERROR, "invalid JSON", True, None) from None
        except TypeError:
            # Replies to nothing we asked, with ids that do not hash or compare
            raise ProtocolError.invalid_request("ill-formed response") from None
        for item in items:
            if isinstance(item, Request) and not hasattr(item, "deliver"):
                # Keeps the library's send_result: the id is bound inside
                request_id = item.send_result.args[0]
                item.encode = partial(self._encode, request_id)
                item.deliver = partial(self._deliver, request_id)
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
            return encode(make_payload(result, request_id))
        except (TypeError, ValueError, RecursionError):
            error = RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")
            return encode(protocol.error_payload(error, request_id))

    def _deliver(self, request_id: Any, message: bytes) -> bytes:
        if len(message) > self.max_response_size > 0:
            return self._oversized_response_message(request_id)  # type: ignore[no-any-return]
        return message

    def _receive_request_batch(self, payloads: list[Any]) -> list[Any]:
        """Return the items of a batch; malformed ones are answered first, in the one array.

        The library would never answer the malformed ones if all others were notifications.
        """
        reply = _BatchReply(self)
        items = []
        for payload in payloads:
            try:
                item, request_id = self._protocol._process_request(payload)
            except ProtocolError as error:
                reply.add_error(error.error_message)
                continue
            if isinstance(item, Request):
                reply.expected += 1
                item = _BatchMember(item, request_id, reply)
            items.append(item)
        self.malformed_count = len(reply.parts)
        if reply.parts and len(reply.parts) == reply.expected:
            self.immediate_reply = reply.message()
        return items


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
