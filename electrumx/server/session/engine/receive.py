"""From a message to its reply, with as little between as the limits of a session allow.

Theory of operation.  A transport gives whole messages, several at a time if the client pipelines.
``Receiver.receive`` processes them in order, on the event loop, without a task:

1. *The fast path*: one request on a short line, in JSON-RPC 2.0 (or without a version), of a known
   method with a list of plain arguments, from a session that may run one more.  orjson parses it,
   the receiver calls the handler, and puts its result, encoded, behind the replies already queued.
   One write answers the messages that the client sent together.
2. *The slow path*: all else -- batches, 1.0, notifications, malformed messages, numbers that orjson
   rounds or refuses.  ``jsonrpc`` parses it.  A property test compares the two paths.
3. *Pending requests*: a request whose handler has to wait (it returned an awaitable), whose result is
   large, or whose session is throttled.  The ``Dispatcher`` answers it, in one of the session's slots.

Bounds, all per session but for ``ReceiveMemory``, which counts the bytes of all of them.  A session runs
for a slice of ``SLICE_SECS`` or ``SLICE_REQUESTS``, then others do.  ``MAX_ADMITTED`` requests of
``ADMITTED_BYTES`` are pending; later ones wait unparsed, in the backlog, and above
``READ_HIGH_MARK`` bytes of that reading stops.  The server reads nothing from a slow reader and answers
nothing to it, and after ``MAX_SEND_DELAY`` seconds of it with replies in the queue it aborts the
connection.  A request that takes longer than ``processing_timeout`` seconds, waiting for its slot
included, gets an error; one timer a session serves all of them.
"""

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import Any

import orjson
from aiorpcx import JSONRPC, ProtocolError

from electrumx.server.session.engine.cost_account import ERROR_COST, CostAccount
from electrumx.server.session.engine.dispatch import (
    LARGE_RESULT_CHARS,
    LAST_WORD_SECS,
    SLICE_SECS,
    WRITE_BYTES,
    Dispatcher,
)
from electrumx.server.session.engine.first_message import INVALID_JSON
from electrumx.server.session.engine.json_result import EncodedJSON, encode
from electrumx.server.session.engine.jsonrpc import (
    AUTO,
    LOOSE,
    V2,
    MalformedMessageError,
    Notification,
    ParsedMessage,
    Request,
    check_values,
    parse_message,
)
from electrumx.server.session.engine.method_registry import SessionMethods
from electrumx.server.session.engine.owner import ENDED, ReceiveOwner
from electrumx.server.session.engine.prices import READ_COST
from electrumx.server.session.engine.request_stats import QUICK_SECS, MethodStats
from electrumx.server.session.engine.send_queue import CLOSE_SECS, SendQueue

# Above so many bytes of requests, the receiver asks the transport to count them.
REPORTED_BYTES = 16_384
# Requests that a session processes before other sessions run.
SLICE_REQUESTS = 64
# Messages in the backlog: above so many bytes reading stops, below the other it resumes.
READ_HIGH_MARK = 65_536
READ_LOW_MARK = 16_384
# Memory of a message that waits, in addition to its bytes.
MESSAGE_OVERHEAD = 100
# A thread parses longer messages.
LARGE_MESSAGE_BYTES = 50_000
# Longer ones take the slow path.  No number in a shorter one has the 4,300 digits at which Python
# calls it invalid.
FAST_MESSAGE_BYTES = 4_096

_SCALARS = frozenset((str, int, bool, type(None)))
_NO_PARAMS: list[Any] = []
# The texts before and behind a result.  We join them: formatting took half as long again, and
# of megabytes 15 times as long.
_RESULT = b'{"jsonrpc":"2.0","result":'
_ID = b',"id":'
_join = b"".join
_NULL_HEAD = b'{"jsonrpc":"2.0","result":null,"id":'
_loads = orjson.loads


class FastRequest(Request):
    """A request that the fast path could not answer."""

    __slots__ = ("_tail",)

    def __init__(
        self,
        method: str,
        args: list[object],
        request_id: object,
        tail: bytes,
        max_reply_bytes: int,
        weight: int,
    ) -> None:
        """``tail`` is the encoded id, and the end of the reply."""
        self.method = method
        self.args = args
        self.request_id = request_id
        self.max_reply_bytes = max_reply_bytes
        self.weight = weight
        self._version = V2
        self._tail = tail

    def encode(self, result: object) -> bytes:
        """Return the reply to this request; pure."""
        if type(result) is str:
            return _join((_RESULT, encode(result), _ID, self._tail))
        if type(result) is EncodedJSON:
            return _join((_RESULT, result, _ID, self._tail))
        return super().encode(result)


class Receiver:
    """The messages of one client, from the transport to their handlers.  See the top of this module."""

    __slots__ = (
        "_account",
        "_at_eof",
        "_backlog",
        "_backlog_size",
        "_dispatcher",
        "_is_reported",
        "_items",
        "_message_weight",
        "_methods",
        "_owner",
        "_parse_task",
        "_parsing_lock",
        "_queue",
        "_scheduled",
        "_transport",
        "last_recv",
        "log_me",
        "max_reply_bytes",
        "recv_count",
        "recv_size",
    )

    def __init__(
        self,
        owner: ReceiveOwner,
        account: CostAccount,
        queue: SendQueue,
        dispatcher: Dispatcher,
        methods: SessionMethods,
        *,
        parsing_lock: asyncio.Lock,
        max_reply_bytes: int = 0,
        log_me: bool = False,
    ) -> None:
        """``parsing_lock``, which all sessions share, is held while one of them parses a large message.

        ``max_reply_bytes`` is 0 for unbounded replies.
        """
        self._owner = owner
        self._account = account
        self._queue = queue
        self._transport = queue.transport
        self._dispatcher = dispatcher
        self._methods = methods
        self._parsing_lock = parsing_lock
        self.max_reply_bytes = max_reply_bytes
        #: whether to log messages
        self.log_me = log_me
        #: by the monotonic clock
        self.last_recv = account.start_time
        self.recv_count = self.recv_size = 0
        # Unparsed messages, and their size in memory
        self._backlog: deque[bytes] | None = None
        self._backlog_size = 0
        # Unprocessed members of a batch
        self._items: deque[Request | Notification] | None = None
        self._parse_task: asyncio.Task[None] | None = None
        # Bytes of memory that the large message being parsed takes, or the batch being processed
        self._message_weight = 0
        # Whether the transport was last asked to count more than ``REPORTED_BYTES``
        self._is_reported = False
        # Whether processing the backlog is scheduled
        self._scheduled = False
        # Whether the client has ended its half of the connection
        self._at_eof = False

    # -- called by the transport

    def received_bytes(self, count: int, extra_cost: float = 0.0) -> None:
        """Charge for bytes received in one read, which costs ``extra_cost`` more than others."""
        self.recv_size += count
        self._queue.counts.received += count
        account = self._account
        account.bump_cost(READ_COST + extra_cost + count * account.bw_cost_per_byte)

    def dropped_messages(self, count: int) -> None:
        """Note that so many messages were too long."""
        size = self._owner.max_message_size()
        text = f"dropping message over {size:,d} bytes and re-synchronizing"
        for _ in range(count):
            self._owner.log_limited("dropping message", text, logging.WARNING)

    def receive(self, messages: list[bytes]) -> None:
        """Process whole messages, in order, or put them in the backlog."""
        if self._queue.ended:
            return  # sent before the client noticed
        now = self.last_recv = monotonic()
        if messages and not self.recv_count and not self._owner.accepts_first(messages[0]):
            self._refuse_first()
            return
        done = 0
        if not self._backlog and not self._is_stalled():
            done = self._serve(messages, now)
        if done < len(messages) and not self._queue.ended:
            self._keep(messages[done:] if done else messages)

    def _refuse_first(self) -> None:
        """Charge for a first message of another protocol, and disconnect."""
        self._owner.note_end("protocol")
        self.recv_count += 1
        error = ProtocolError(JSONRPC.PARSE_ERROR, "invalid JSON")
        error.cost = ERROR_COST * 10
        self._account.bump_errors(error)
        self._queue.post(INVALID_JSON)
        self._queue.end(LAST_WORD_SECS)

    def on_unwritable(self) -> None:
        """Stop reading from a slow reader."""
        self._update_reading()

    def on_writable(self) -> None:
        """Go on with a client that reads again."""
        self._queue.unwatch_reader()
        self._queue.flush()
        self._dispatcher.start_waiting()
        self.resume()

    def on_eof(self) -> bool:
        """Return whether there is something left to answer, after which the session ends.

        The client will ask no more.
        """
        if not (self.is_busy() or self._queue.has_messages()):
            return False
        self._at_eof = True
        return True

    def on_lost(self) -> None:
        """Discard the received messages: the connection has ended."""
        self._owner = ENDED
        self._backlog = self._items = None
        if self._parse_task is not None:
            self._parse_task.cancel()

    def on_hard_limit(self) -> None:
        """End a session at the hard limit that does not read."""
        if not self._transport.is_writable and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_slice)

    def on_flushed(self) -> None:
        """Take on more requests; end the connection if the client has and all is answered."""
        self.resume()

    # -- processing received messages

    def is_busy(self) -> bool:
        """Return whether there are unprocessed messages, or unanswered requests."""
        return bool(
            self._backlog
            or self._items
            or self._parse_task
            or self._dispatcher.unanswered_request_count()
        )

    def unanswered_bytes(self) -> int:
        """Return the memory that received and unanswered requests take."""
        return self._backlog_size + self._message_weight + self._dispatcher.weight

    def _is_stalled(self) -> bool:
        """Return whether the receiver can process no message for now; ``resume`` ends that."""
        if self._items is not None or self._parse_task is not None:
            return True
        if not self._transport.is_writable:
            return True
        # Without a call where nothing is pending
        return bool(self._dispatcher.pending) and self._dispatcher.is_full()

    def _is_blocked(self) -> bool:
        """Return whether the receiver can take on no request for now."""
        return self._dispatcher.is_full() or not self._transport.is_writable

    def _serve(self, messages: list[bytes], began: float) -> int:  # noqa: C901  in one piece: each call costs
        """Process messages for at most a slice, which ``began`` now; return how many.

        Successive requests of one method add their time to its figures at once.
        """
        done = 0
        queue, dispatcher, answer_fast = self._queue, self._dispatcher, self.answer_fast
        last = began
        deadline = began + SLICE_SECS
        # No message was slow before that.
        slow_from = began + QUICK_SECS
        current: MethodStats | None = None
        for message in messages if len(messages) <= SLICE_REQUESTS else messages[:SLICE_REQUESTS]:
            done += 1
            stats = answer_fast(message)
            if stats is not current:
                if current is not None:
                    current.secs += last - began
                current, began = stats, last
            if stats is None:
                self._answer(message)
            now = monotonic()
            if now > slow_from:
                secs = now - last
                if secs > QUICK_SECS and stats is not None and not dispatcher.pending:
                    stats.slow(secs)
                if now > deadline:
                    last = now
                    break
            last = now
            if stats is None:
                if self._is_stalled():
                    break
            elif dispatcher.pending and dispatcher.is_full():
                break
            if queue.size >= WRITE_BYTES:
                queue.flush()
                if not self._transport.is_writable:
                    break
            if queue.ended:
                break
        if current is not None:
            current.secs += last - began
        self.recv_count += done
        queue.flush()
        return done

    def _keep(self, messages: list[bytes]) -> None:
        """Add messages to the backlog."""
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.extend(messages)
        self._backlog_size += sum(map(len, messages)) + MESSAGE_OVERHEAD * len(messages)
        self.resume()

    def resume(self) -> None:
        """Schedule a slice of the backlog once that is possible; read on, or stop reading."""
        queue = self._queue
        if queue.ended:
            return
        if self._backlog or self._items or self._dispatcher.waiting:
            if not self._transport.is_writable:
                if self._account.is_over_limit():
                    # Otherwise it would stay until it reads.
                    self._owner.log_excessive_cost()
                    queue.end(LAST_WORD_SECS)
                    return
                queue.watch_reader()
            elif not self._scheduled and (self._items or self._backlog) and not self._is_blocked():
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._run_slice)
        elif self._at_eof and self._parse_task is None and not self._dispatcher.pending:
            queue.end(CLOSE_SECS)
            return
        self._update_reading()

    def _run_slice(self) -> None:
        """Process a slice of the batch and the backlog."""
        self._scheduled = False
        if self._queue.ended:
            return
        if self._items is not None:
            self._serve_items(self._items)
        backlog = self._backlog
        if backlog and not self._is_stalled():
            slice_ = [backlog.popleft() for _ in range(min(len(backlog), SLICE_REQUESTS))]
            done = self._serve(slice_, monotonic())
            self._backlog_size -= sum(map(len, slice_[:done])) + MESSAGE_OVERHEAD * done
            backlog.extendleft(reversed(slice_[done:]))
        self.resume()

    def _serve_items(self, items: deque[Request | Notification]) -> None:
        """Process members of a batch, at most a slice."""
        queue = self._queue
        deadline = monotonic() + SLICE_SECS
        for _ in range(SLICE_REQUESTS):
            if not items or queue.ended or self._is_blocked() or monotonic() > deadline:
                break
            self._dispatcher.handle(items.popleft())
        if not items:
            self._items = None
            self._message_weight = 0
        queue.flush()

    def _update_reading(self) -> None:
        transport = self._transport
        held = self.unanswered_bytes()
        if held > REPORTED_BYTES or self._is_reported:
            self._is_reported = held > REPORTED_BYTES
            transport.note_unanswered()
        if not transport.is_held:
            if self._backlog_size > READ_HIGH_MARK or not transport.is_writable:
                transport.hold(held=True)
        elif self._backlog_size < READ_LOW_MARK and transport.is_writable:
            transport.hold(held=False)

    # -- the fast path

    def answer_fast(self, message: bytes) -> MethodStats | None:  # noqa: C901, PLR0912, PLR0915  in one piece: each call costs
        """Answer a message of the most frequent kind, and return the figures that count it.

        Otherwise return None, and change nothing.
        """
        if len(message) > FAST_MESSAGE_BYTES or self.log_me:
            return None
        try:
            request = _loads(message)
            method = request["method"]
            request_id = request["id"]
            params = request.get("params", _NO_PARAMS)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        kind = type(request_id)
        if kind is int:
            tail = b"%d}" % request_id
        elif kind is str:
            tail = encode(request_id) + b"}"
        else:
            return None
        if type(method) is not str or type(params) is not list:
            return None
        for param in params:
            if type(param) not in _SCALARS:
                return None
        queue = self._queue
        version = queue.rpc_version
        if version is V2:
            if request.get("jsonrpc") != "2.0":
                return None
        elif version is not LOOSE:
            if version is not AUTO or request.get("jsonrpc") != "2.0":
                return None
            queue.rpc_version = V2
        methods = self._methods
        handler = methods.table.get(method)
        if handler is None or not handler[1] <= len(params) <= handler[2]:
            return None
        dispatcher, account = self._dispatcher, self._account
        stats = methods.stats[method]
        if account.limited and (
            account.cost_fraction
            or dispatcher.running >= account.concurrency_target
            or dispatcher.waiting
        ):
            dispatcher.enqueue(
                FastRequest(method, params, request_id, tail, self.max_reply_bytes, len(message)),
                stats,
            )
            return stats
        stats.started += 1
        methods.counts[stats.method] += 1
        try:
            result = handler[0](methods.objects[handler[3]], *params)
        except Exception as e:
            request = FastRequest(
                method, params, request_id, tail, self.max_reply_bytes, len(message)
            )
            dispatcher.conclude_exception(request, e)
            return stats
        kind = type(result)
        if result is None:
            reply = _NULL_HEAD + tail
        elif kind is EncodedJSON:
            reply = _join((_RESULT, result, _ID, tail))
        elif kind is str and len(result) <= LARGE_RESULT_CHARS:
            reply = _join((_RESULT, encode(result), _ID, tail))
        else:
            request = FastRequest(
                method, params, request_id, tail, self.max_reply_bytes, len(message)
            )
            dispatcher.conclude_result(request, result, stats)
            return stats
        if len(reply) > self.max_reply_bytes > 0:
            request = FastRequest(
                method, params, request_id, tail, self.max_reply_bytes, len(message)
            )
            dispatcher.conclude_encoded(request, result, reply)
            return stats
        queue.post(reply)
        return stats

    # -- the slow path

    def _answer(self, message: bytes) -> None:
        """Answer a message of any kind, now or later."""
        if self.log_me:
            self._owner.logger.info(f"processing {self._owner.logged_text(message)}")
        version, weight = self._queue.rpc_version, len(message)
        try:
            if self._account.limited:
                weight = check_values(message, version, self.max_reply_bytes)
            if len(message) > LARGE_MESSAGE_BYTES:
                self._message_weight = len(message)
                self._transport.note_unanswered()
                loop = asyncio.get_running_loop()
                self._parse_task = loop.create_task(self._answer_large(message, weight))
                return
            parsed = parse_message(message, version, self.max_reply_bytes)
        except MalformedMessageError as e:
            self._answer_malformed(e)
        else:
            self._answer_parsed(parsed, weight)

    async def _answer_large(self, message: bytes, weight: int) -> None:
        """Parse in a thread, while the session's other messages wait."""
        account, queue = self._account, self._queue
        try:
            # One at a time: every busy thread delays the event loop's return from system calls.
            async with self._parsing_lock:
                parsed = await account.in_thread(
                    len(message) * account.bw_cost_per_byte,
                    parse_message,
                    message,
                    queue.rpc_version,
                    self.max_reply_bytes,
                )
        except MalformedMessageError as e:
            self._parse_task, self._message_weight = None, 0
            self._answer_malformed(e)
        else:
            self._parse_task, self._message_weight = None, 0
            self._answer_parsed(parsed, weight)
        queue.flush()
        self.resume()

    def _answer_malformed(self, malformed: MalformedMessageError) -> None:
        self._queue.rpc_version = malformed.version
        error = ProtocolError(malformed.code, malformed.text)
        if malformed.code == JSONRPC.PARSE_ERROR:
            error.cost = ERROR_COST * 10
        elif malformed.malformed:
            error.cost = ERROR_COST * (malformed.malformed - 1)
        self._account.bump_errors(error)
        if malformed.reply:
            self._queue.post(malformed.reply)
        self._end_if_over_limit()
        self._owner.on_malformed()

    def _answer_parsed(self, parsed: ParsedMessage, weight: int) -> None:
        """Answer a parsed message; ``weight`` is its memory in bytes."""
        self._queue.rpc_version = parsed.version
        items = parsed.items
        if parsed.malformed:
            for _ in range(parsed.malformed):
                self._account.bump_errors()
            if parsed.reply:
                self._queue.post(parsed.reply)
            self._end_if_over_limit()
        for item in items:
            item.weight = weight // len(items)
        if len(items) == 1:
            self._dispatcher.handle(items[0])
        elif items and not self._queue.ended:
            self._items = deque(items)
            self._message_weight = weight
            self.resume()

    def _end_if_over_limit(self) -> None:
        """End a session at the hard limit: a malformed message never waits for a slot."""
        if self._account.is_over_limit() and not self._queue.is_closing():
            self._owner.log_excessive_cost()
            self._queue.end(LAST_WORD_SECS)
