"""From a message to its reply, with as little between as the limits of a session allow.

Theory of operation.  A transport gives whole messages, several at a time if the client pipelines.
``receive`` takes them in order, on the event loop, without a task:

1. *The fast path*: one request on a short line, in JSON-RPC 2.0 (or without a version), of a known
   method with a list of plain arguments, from a session that may run one more.  orjson parses it,
   the handler is called, and its result is put, encoded, behind the replies that are there already.
   What the client sent together is answered in one write.
2. *The slow path*: all else -- batches, 1.0, notifications, errors in what is sent, numbers that
   orjson rounds or refuses.  ``jsonrpc`` parses it.
   A property test holds the two against each other.
3. *Work*: a request whose handler has to wait (it returned an awaitable), whose result is large, or
   whose session is throttled.  Only then is there a task; it holds one of the session's slots.

Bounds, all per session but for ``ReceiveMemory``, which counts what all of them hold.  A slice of ``SLICE_SECS`` or ``SLICE_REQUESTS`` is worked off before other
sessions get their turn.  ``MAX_ADMITTED`` requests of ``ADMITTED_BYTES`` are under way; what comes after waits unparsed,
and above ``READ_HIGH_MARK`` bytes of that we do not read on.  Neither do we read or answer while the
client does not take its replies, and after ``max_send_delay`` seconds of it with something to say
the connection is dropped.  A request that takes longer than ``processing_timeout`` seconds,
waiting for its slot included, is answered with an error; one timer a session serves all of them.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from time import perf_counter
from typing import Any

import orjson
from aiorpcx import JSONRPC, ProtocolError

from electrumx.server.session.engine.dispatch import (
    LARGE_RESULT_CHARS,
    LAST_WORD_SECS,
    SLICE_SECS,
    WRITE_BYTES,
    WorkingSession,
)
from electrumx.server.session.engine.first_message import INVALID_JSON, is_http
from electrumx.server.session.engine.json_result import EncodedJSON, encode
from electrumx.server.session.engine.jsonrpc import (
    AUTO,
    LOOSE,
    V2,
    MalformedMessageError,
    ParsedMessage,
    Request,
    check_values,
    parse_message,
)
from electrumx.server.session.engine.method_registry import HandlerTable
from electrumx.server.session.engine.send_queue import CLOSE_SECS

# A session's requests that are under way; further ones wait unparsed.
MAX_ADMITTED = 200
# The memory that those take; one larger request may be under way alone.
ADMITTED_BYTES = 262_144
# The transport is asked to count what more than so many bytes of requests take.
REPORTED_BYTES = 16_384
# So many requests of a session are worked off before other sessions get their turn.
SLICE_REQUESTS = 64
# Messages not worked off yet: above so many bytes reading stops, below the other it goes on.
READ_HIGH_MARK = 65_536
READ_LOW_MARK = 16_384
# What a message that waits costs in memory, besides its bytes.
MESSAGE_OVERHEAD = 100
# Longer messages are parsed in a thread.
LARGE_MESSAGE_BYTES = 50_000
# Longer ones take the slow path.  No number in a shorter one has the 4,300 digits at which Python
# calls it invalid.
FAST_MESSAGE_BYTES = 4_096

_SCALARS = frozenset((str, int, bool, type(None)))
_NO_PARAMS: list[Any] = []
# What stands before and behind a result.  They are joined: formatting took half as long again, and
# of megabytes 15 times as long.
_RESULT = b'{"jsonrpc":"2.0","result":'
_ID = b',"id":'
_join = b"".join
_NULL_HEAD = b'{"jsonrpc":"2.0","result":null,"id":'
_loads = orjson.loads


class FastRequest(Request):
    """A request of the fast path that could not be answered there."""

    __slots__ = ("_tail",)

    def __init__(
        self, method: str, args: list[Any], request_id: Any, tail: bytes, max_reply_bytes: int
    ) -> None:
        """``tail`` is the encoded id, and the end of the reply."""
        super().__init__(method, args, request_id, V2, max_reply_bytes)
        self._tail = tail

    def encode(self, result: Any) -> bytes:
        """Return the reply to this request; pure."""
        if type(result) is str:
            return _join((_RESULT, encode(result), _ID, self._tail))
        if type(result) is EncodedJSON:
            return _join((_RESULT, result, _ID, self._tail))
        return super().encode(result)


class RequestSession(WorkingSession):
    """One client's requests, under way and yet to come.  See the top of this module."""

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_handlers",
        "_is_reported",
        "_items",
        "_message_weight",
        "_parse_task",
        "_scheduled",
        "last_recv",
        "log_me",
        "max_response_size",
        "recv_count",
        "recv_size",
    )

    #: held while a large message is parsed
    parsing_lock: asyncio.Lock

    def __init__(self, transport: Any, method_counts: Counter[str]) -> None:
        super().__init__(transport, method_counts)
        self.log_me = False
        # Bytes; 0 is no bound
        self.max_response_size = 0
        self.last_recv = self.start_time
        self.recv_count = self.recv_size = 0
        self._handlers: HandlerTable = {}
        # Messages, and the rest of a batch, that were not worked off yet
        self._backlog: deque[bytes] | None = None
        self._backlog_size = 0
        self._items: deque[Any] | None = None
        self._parse_task: asyncio.Task[None] | None = None
        # Bytes of memory that the large message being parsed takes, or the batch being processed
        self._message_weight = 0
        # Whether the transport was last told of more than ``REPORTED_BYTES``
        self._is_reported = False
        self._scheduled = False

    # -- what the transport calls

    def received_bytes(self, count: int) -> None:
        """Charge for bytes received."""
        self.recv_size += count
        self.bump_cost(count * self.bw_cost_per_byte)

    def dropped_messages(self, count: int) -> None:
        """Note that so many messages were over-long."""
        for _ in range(count):
            self.log_limited(
                "dropping message",
                f"dropping message over {self.max_message_size():,d} bytes and re-synchronizing",
                logging.WARNING,
            )

    def max_message_size(self) -> int:
        """Return the bound on messages that the transport keeps, in bytes."""
        return 0

    def receive(self, messages: list[bytes]) -> None:
        """Take whole messages off the network, in order."""
        if self._closing:
            return  # what was sent before the client noticed
        self.last_recv = time.monotonic()
        if messages and not self.recv_count and not self.accepts_first(messages[0]):
            self._refuse_first()
            return
        done = 0
        if not self._backlog and not self._is_stalled():
            done = self._serve(messages)
        if done < len(messages) and not self._closing:
            self._keep(messages[done:] if done else messages)

    def accepts_first(self, message: bytes) -> bool:
        """Return whether the connection may begin with a message; else nothing is executed."""
        return not is_http(message)

    def _refuse_first(self) -> None:
        """Charge for a first message of another protocol, and disconnect."""
        self.recv_count += 1
        error = ProtocolError(JSONRPC.PARSE_ERROR, "invalid JSON")
        error.cost = self.ERROR_COST * 10
        self.bump_errors(error)
        self.post(INVALID_JSON)
        self.end(LAST_WORD_SECS)

    def on_unwritable(self) -> None:
        """Read no more from a client that does not take what it is sent."""
        self._update_reading()

    def on_writable(self) -> None:
        """Go on with a client that takes what it is sent again."""
        self._watch_no_more()
        self.flush()
        self._start_waiting()
        self._go_on()

    def on_eof(self) -> bool:
        """Return whether there is something left to answer, after which the session ends.

        The client will ask no more.
        """
        if not (self._backlog or self._items or self._parse_task or self._works or self._out):
            return False
        self._at_eof = True
        return True

    def on_lost(self) -> None:
        """End all that is under way: the connection has ended."""
        super().on_lost()
        self._backlog = self._items = None
        if self._parse_task is not None:
            self._parse_task.cancel()

    def recalc_concurrency(self) -> None:
        """Set how many requests may run; at the hard limit, end a session that does not read."""
        super().recalc_concurrency()
        if self.is_over_limit() and not self.transport.is_writable and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._work_off)

    # -- working off what was received

    def _is_stalled(self) -> bool:
        """Say if no message can be taken on for now; what ends that calls ``_go_on``."""
        return self._items is not None or self._parse_task is not None or self._is_blocked()

    def _is_blocked(self) -> bool:
        """Say if no request can be taken on for now."""
        if self._works is not None and len(self._works) >= MAX_ADMITTED:
            return True
        return self._weight > ADMITTED_BYTES or not self.transport.is_writable

    def unanswered_bytes(self) -> int:
        """Return the memory that requests take that were received and not answered."""
        return self._backlog_size + self._message_weight + self._weight

    def _serve(self, messages: list[bytes]) -> int:
        """Work off messages for at most a slice; return how many."""
        done = 0
        deadline = perf_counter() + SLICE_SECS
        for message in messages:
            done += 1
            if not self._answer_fast(message):
                self._answer(message)
                if self._is_stalled():
                    break
            elif self._works is not None and self._is_stalled():
                break
            if self._out_size >= WRITE_BYTES:
                self.flush()
                if not self.transport.is_writable:
                    break
            if self._closing or done >= SLICE_REQUESTS or perf_counter() > deadline:
                break
        self.recv_count += done
        if self._out:
            self.flush()
        return done

    def _keep(self, messages: list[bytes]) -> None:
        """Put off messages that came after those that are put off already."""
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.extend(messages)
        self._backlog_size += sum(map(len, messages)) + MESSAGE_OVERHEAD * len(messages)
        self._go_on()

    def _go_on(self) -> None:
        """See to it that what was put off has its turn, once that is possible."""
        if self._closing:
            return
        if self._backlog or self._items or self._waiting:
            if not self.transport.is_writable:
                if self.is_over_limit():
                    # Otherwise it would be left alone until it reads
                    self.on_disconnect_due_to_excessive_session_cost()
                    self.end(LAST_WORD_SECS)
                    return
                self._watch_writing()
            elif not self._scheduled and (self._items or self._backlog) and not self._is_blocked():
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._work_off)
        elif self._at_eof and self._parse_task is None and not self._works:
            self.end(CLOSE_SECS)
            return
        self._update_reading()

    def _work_off(self) -> None:
        """Work off a slice of what was put off."""
        self._scheduled = False
        if self._closing:
            return
        if self._items is not None:
            self._serve_items(self._items)
        backlog = self._backlog
        if backlog and not self._is_stalled():
            slice_ = [backlog.popleft() for _ in range(min(len(backlog), SLICE_REQUESTS))]
            done = self._serve(slice_)
            self._backlog_size -= sum(map(len, slice_[:done])) + MESSAGE_OVERHEAD * done
            backlog.extendleft(reversed(slice_[done:]))
        self._go_on()

    def _serve_items(self, items: deque[Any]) -> None:
        """Work off members of a batch, at most a slice."""
        deadline = perf_counter() + SLICE_SECS
        for _ in range(SLICE_REQUESTS):
            if not items or self._closing or self._is_blocked() or perf_counter() > deadline:
                break
            self._handle(items.popleft())
        if not items:
            self._items = None
            self._message_weight = 0
        self.flush()

    def _update_reading(self) -> None:
        transport = self.transport
        held = self._weight + self._backlog_size + self._message_weight
        if held > REPORTED_BYTES or self._is_reported:
            self._is_reported = held > REPORTED_BYTES
            transport.note_unanswered()
        if not transport.is_held:
            if self._backlog_size > READ_HIGH_MARK or not transport.is_writable:
                transport.hold(held=True)
        elif self._backlog_size < READ_LOW_MARK and transport.is_writable:
            transport.hold(held=False)

    # -- the fast path

    def _answer_fast(self, message: bytes) -> bool:  # noqa: C901, PLR0912  in one piece: each call costs
        """Answer a message if it is of the most frequent kind; else change nothing and say so."""
        if len(message) > FAST_MESSAGE_BYTES or self.log_me:
            return False
        try:
            request = _loads(message)
            method = request["method"]
            request_id = request["id"]
            params = request.get("params", _NO_PARAMS)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        kind = type(request_id)
        if kind is int:
            tail = b"%d}" % request_id
        elif kind is str:
            tail = encode(request_id) + b"}"
        else:
            return False
        if type(method) is not str or type(params) is not list:
            return False
        for param in params:
            if type(param) not in _SCALARS:
                return False
        version = self.rpc_version
        if version is not LOOSE:
            if request.get("jsonrpc") != "2.0":
                return False
            if version is not V2:
                if version is not AUTO:
                    return False
                self.rpc_version = V2
        handler = self._handlers.get(method)
        if handler is None or not handler[1] <= len(params) <= handler[2]:
            return False
        if self.limited and (
            self._cost_fraction or self._running >= self.concurrency_target or self._waiting
        ):
            self._enqueue(FastRequest(method, params, request_id, tail, self.max_response_size))
            return True
        self.method_counts[method] += 1
        try:
            result = handler[0](self, *params)
        except Exception as e:
            request = FastRequest(method, params, request_id, tail, self.max_response_size)
            self._conclude_exception(request, e)
            return True
        kind = type(result)
        if result is None:
            reply = _NULL_HEAD + tail
        elif kind is EncodedJSON:
            reply = _join((_RESULT, result, _ID, tail))
        elif kind is str and len(result) <= LARGE_RESULT_CHARS:
            reply = _join((_RESULT, encode(result), _ID, tail))
        else:
            request = FastRequest(method, params, request_id, tail, self.max_response_size)
            self._conclude_result(request, result)
            return True
        if len(reply) > self.max_response_size > 0:
            request = FastRequest(method, params, request_id, tail, self.max_response_size)
            self._conclude_encoded(request, result, reply, is_last=False)
            return True
        self.post(reply)
        return True

    def _call(self, request: Any) -> Any:
        """Return the result of a request that had to wait, or an awaitable of it."""
        if type(request) is FastRequest:
            # Whatever protocol version is spoken by now
            handler, args = self._handlers.get(request.method), request.args
            if handler is not None and handler[1] <= len(args) <= handler[2]:
                self.method_counts[request.method] += 1
                return handler[0](self, *args)
        return super()._call(request)

    # -- the slow path

    def logged_text(self, message: bytes) -> str:
        """Return what the log says of a message, if the operator wants to see them."""
        return repr(message)

    def _answer(self, message: bytes) -> None:
        """Answer a message of any kind, or see to it that it will be."""
        if self.log_me:
            self.logger.info(f"processing {self.logged_text(message)}")
        weight = 0
        try:
            if self.limited:
                weight = check_values(message, self.rpc_version, self.max_response_size)
            if len(message) > LARGE_MESSAGE_BYTES:
                self._message_weight = len(message)
                self.transport.note_unanswered()
                loop = asyncio.get_running_loop()
                self._parse_task = loop.create_task(self._answer_large(message, weight))
                return
            parsed = parse_message(message, self.rpc_version, self.max_response_size)
        except MalformedMessageError as e:
            self._answer_malformed(e)
        else:
            self._answer_parsed(parsed, weight)

    async def _answer_large(self, message: bytes, weight: int) -> None:
        """Parse in a thread, while the session's other messages wait."""
        try:
            # One at a time: every busy thread delays the event loop's return from system calls.
            async with self.parsing_lock:
                parsed = await self.in_thread(
                    len(message) * self.bw_cost_per_byte,
                    parse_message,
                    message,
                    self.rpc_version,
                    self.max_response_size,
                )
        except MalformedMessageError as e:
            self._parse_task, self._message_weight = None, 0
            self._answer_malformed(e)
        else:
            self._parse_task, self._message_weight = None, 0
            self._answer_parsed(parsed, weight)
        self.flush()
        self._go_on()

    def _answer_malformed(self, malformed: MalformedMessageError) -> None:
        self.rpc_version = malformed.version
        error = ProtocolError(malformed.code, malformed.text)
        if malformed.code == JSONRPC.PARSE_ERROR:
            error.cost = self.ERROR_COST * 10
        elif malformed.malformed:
            error.cost = self.ERROR_COST * (malformed.malformed - 1)
        self.bump_errors(error)
        if malformed.reply:
            self.post(malformed.reply)
        self._after_malformed()

    def _answer_parsed(self, parsed: ParsedMessage, weight: int) -> None:
        """Answer what was parsed; ``weight`` is what it takes in memory, in bytes."""
        self.rpc_version = parsed.version
        items = parsed.items
        if parsed.malformed:
            for _ in range(parsed.malformed):
                self.bump_errors()
            if parsed.reply:
                self.post(parsed.reply)
            self._after_malformed()
        for item in items:
            item.weight = weight // len(items)
        if len(items) == 1:
            self._handle(items[0])
        elif items and not self._closing:
            self._items = deque(items)
            self._message_weight = weight
            self._go_on()

    def _after_malformed(self) -> None:
        """End a session that has used up its limit: what is malformed never gets a turn."""
        if self.is_over_limit() and not self.is_closing():
            self.on_disconnect_due_to_excessive_session_cost()
            self.end(LAST_WORD_SECS)
