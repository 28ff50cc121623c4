"""Requests of a message, and their replies, alone or assembled into that of a batch.

``encode`` is pure and may run in a thread; all else runs on the event loop.
"""

from aiorpcx import JSONRPC, ProtocolError, RPCError

from electrumx.server.session.engine.json_result import EncodedJSON, encode
from electrumx.server.session.engine.jsonrpc.versions import Version


def oversized_text(max_bytes: int) -> str:
    """Return the text of the error for a reply of more than ``max_bytes``."""
    return f"response too large (over {max_bytes:,d} bytes"


def encode_reply(version: Version, request_id: object, result: object) -> bytes:
    """Return the reply with a result, or with an error if the result is one.

    A result that has no form in JSON gives an internal error.
    """
    try:
        if isinstance(result, (RPCError, ProtocolError)):
            data = getattr(result, "data", None)
            return version.error(result.code, result.message, request_id, data)
        encoded = result if isinstance(result, EncodedJSON) else encode(result)
    except (TypeError, ValueError, RecursionError):
        return version.error(JSONRPC.INTERNAL_ERROR, "internal server error", request_id)
    return version.result(encoded, request_id)


class Notification:
    """A message of the client that gets no answer."""

    __slots__ = ("args", "method", "weight")

    expects_reply = False

    def __init__(self, method: str, args: list[object] | dict[str, object]) -> None:
        self.method = method
        self.args = args
        #: see ``Request.weight``
        self.weight = 0

    def __repr__(self) -> str:
        return f"Notification({self.method!r}, {self.args!r})"


class Request:
    """A request, and the form of its reply.

    ``encode(result)`` makes the reply; if ``is_oversized`` returns true, ``oversized()``
    replaces it; ``deliver`` returns the message to send, if there is one yet.
    """

    __slots__ = ("_version", "args", "max_reply_bytes", "method", "request_id", "weight")

    expects_reply = True
    #: whether its reply is a part of a message
    in_batch = False

    def __init__(
        self,
        method: str,
        args: list[object] | dict[str, object],
        request_id: object,
        version: Version,
        max_reply_bytes: int,
    ) -> None:
        """``max_reply_bytes`` is 0 for unbounded replies."""
        self.method = method
        self.args = args
        self.request_id = request_id
        #: the bound of its reply
        self.max_reply_bytes = max_reply_bytes
        #: bytes of memory that it takes; 0 if uncounted
        self.weight = 0
        self._version = version

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.args!r})"

    def encode(self, result: object) -> bytes:
        """Return the reply to this request; an RPCError becomes an error."""
        return encode_reply(self._version, self.request_id, result)

    def is_oversized(self, reply: bytes) -> bool:
        """Return whether a reply is too large to send."""
        return len(reply) > self.max_reply_bytes > 0

    def oversized(self) -> bytes:
        """Return the error that replaces an oversized reply."""
        text = oversized_text(self.max_reply_bytes)
        return self._version.error(JSONRPC.INVALID_REQUEST, text, self.request_id)

    def deliver(self, reply: bytes) -> bytes | None:
        """Return the message to send with this request's reply; None if that is incomplete."""
        return reply

    def deliver_last(self, reply: bytes) -> bytes:
        """Return the message to send if no other request will have a reply."""
        return reply


class BatchReply:
    """The replies to one batch; the last one completes the message.

    It reserves space for an error for each member that has no reply yet: an error replaces a reply that
    does not fit.  In the largest batches that is too little; then one error replaces the whole message.
    """

    def __init__(self, version: Version, max_bytes: int) -> None:
        """``max_bytes`` is 0 for unbounded replies."""
        self.version = version
        self.max_bytes = max_bytes
        self._replies: list[bytes] = []
        self._expected = 0
        self._size = 0
        # Bytes of the errors that may have to replace replies that are missing yet
        self._reserved = 0
        self._max_reserved = max_bytes // 4
        text = oversized_text(max_bytes)
        self._error_bytes = 2 + len(version.error(JSONRPC.INVALID_REQUEST, text, ""))

    def add_error(self, reply: bytes) -> None:
        """Add the error for a malformed member."""
        self._expected += 1
        self._add(reply)

    def expect(self, request_id: object) -> int:
        """Expect a reply; return the number of bytes reserved for an error."""
        self._expected += 1
        reserved = self._error_bytes + len(encode(request_id))
        self._reserved += reserved
        return reserved

    def _add(self, reply: bytes) -> None:
        self._size += len(reply) + 2
        self._replies.append(reply)

    def is_oversized(self, reply: bytes, reserved: int) -> bool:
        """Return whether a reply does not fit beside the errors that may follow."""
        others = min(self._reserved - reserved, self._max_reserved)
        return self._size + len(reply) + 2 + others > self.max_bytes > 0

    def deliver(self, reply: bytes, reserved: int) -> bytes | None:
        """Add a reply; return the message if it is complete."""
        self._reserved -= reserved
        self._add(reply)
        return self.message() if self.is_complete() else None

    def is_complete(self) -> bool:
        """Return whether there are replies, and none is missing."""
        return 0 < len(self._replies) == self._expected

    def message(self) -> bytes:
        """Return the replies so far as one message, or one error if that is oversized."""
        message = b"[" + b", ".join(self._replies) + b"]"
        return bounded(self.version, message, self.max_bytes)


def bounded(version: Version, message: bytes, max_bytes: int) -> bytes:
    """Return a message, or an error without an id if it has more than ``max_bytes``; 0: no bound."""
    if len(message) > max_bytes > 0:
        return version.error(JSONRPC.INVALID_REQUEST, oversized_text(max_bytes), None)
    return message


class BatchMember(Request):
    """A request of a batch; small, as there may be ten thousand of them waiting."""

    __slots__ = ("_batch", "_reserved")

    in_batch = True

    def __init__(
        self,
        method: str,
        args: list[object] | dict[str, object],
        request_id: object,
        batch: BatchReply,
    ) -> None:
        super().__init__(method, args, request_id, batch.version, batch.max_bytes)
        self._batch = batch
        self._reserved = batch.expect(request_id)

    def is_oversized(self, reply: bytes) -> bool:
        """Return whether a reply does not fit into that of the batch."""
        return self._batch.is_oversized(reply, self._reserved)

    def deliver(self, reply: bytes) -> bytes | None:
        """Add a reply to that of the batch; return the message if it is complete."""
        return self._batch.deliver(reply, self._reserved)

    def deliver_last(self, reply: bytes) -> bytes:
        """Return the message with the replies so far, of which this is the last."""
        return self.deliver(reply) or self._batch.message()
