"""Messages in and out of bytes: newline framing with a bound, and JSON-RPC that cannot be crashed.

Extends aiorpcX where a hostile client could end more than its own request: over-long lines, deeply
nested or huge numbers in JSON, batches that would never be answered. Runs on the event loop, except
for ``encode`` of single large results, which is pure and may run in a thread.
"""

import asyncio
from functools import partial
from typing import Any

from aiorpcx import JSONRPC, FramerBase, JSONRPCConnection, ProtocolError, Request, RPCError

from electrumx.server.session.results import EncodedJSON

# What a message waiting to be read costs in memory, besides its bytes.
MESSAGE_OVERHEAD = 100


class BoundedNewlineFramer(FramerBase):
    """Splits at newlines; drops what is longer than ``max_size`` bytes (0 = unbounded).

    A dropped message is reported once, by a MemoryError from ``receive_message``, as soon as it
    grows too long; reception goes on after its newline.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        # Complete messages, or an exception for one that was dropped.
        self._queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        # What the queue holds, in bytes; short messages count for more than they are.
        self.backlog = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._failure: Exception | None = None

    def frame(self, message: bytes) -> bytes:
        """Return the message with its terminator."""
        return message + b"\n"

    def fail(self, exception: Exception) -> None:
        """Raise this from now on: the connection is lost."""
        self._failure = exception
        self._queue.put_nowait(exception)

    def received_bytes(self, data: bytes) -> None:
        """Take bytes off the network."""
        first, *rest = data.split(b"\n")
        self._append(first)
        for piece in rest:
            self._finish()
            self._append(piece)

    def _append(self, piece: bytes) -> None:
        was_within = self._within()
        self._size += len(piece)
        if self._within():
            self._parts.append(piece)
        elif was_within:
            self._parts.clear()
            text = f"dropping message over {self.max_size:,d} bytes and re-synchronizing"
            self._queue.put_nowait(MemoryError(text))

    @property
    def is_dropping(self) -> bool:
        """Say if the message that is being received has grown too long."""
        return not self._within()

    def _within(self) -> bool:
        return self._size <= self.max_size or self.max_size <= 0

    def _finish(self) -> None:
        if self._within():
            self.backlog += self._size + MESSAGE_OVERHEAD
            self._queue.put_nowait(b"".join(self._parts))
        self._parts.clear()
        self._size = 0

    async def receive_message(self) -> bytes:
        """Wait for the next message."""
        item = await self._queue.get()
        if self._failure is not None:
            # A new one each time: its traceback leads back to us, and would keep us in memory.
            raise type(self._failure)(*self._failure.args)
        if isinstance(item, Exception):
            raise item
        self.backlog -= len(item) + MESSAGE_OVERHEAD
        return item


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
    """A JSON-RPC connection whose failures on hostile input are all ProtocolErrors.

    Requests that it returns carry ``encode(result) -> bytes``, which is pure, and
    ``deliver(bytes) -> bytes | None``, which gives the message to send, if any yet.
    """

    # About the message last received: how many members of a batch were malformed, and the
    # reply to it if none of its members is left to wait for.
    malformed_count = 0
    immediate_reply: bytes | None = None

    def receive_message(self, message: bytes) -> list[Any]:
        """Return the requests and notifications in a message; raises ProtocolError."""
        self.malformed_count = 0
        self.immediate_reply = None
        try:
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
        if isinstance(result, EncodedJSON):
            # The first null of an empty reply is the result, in every dialect.
            empty: bytes = self._protocol.response_message(None, request_id)
            return empty.replace(b"null", result, 1)
        try:
            return self._protocol.response_message(result, request_id)  # type: ignore[no-any-return]
        except (ProtocolError, ValueError, RecursionError):
            error = RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")
            return self._protocol.response_message(error, request_id)  # type: ignore[no-any-return]

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
