"""Requests that have no reply at once: slots, waiting, time-outs, replies.

Only requests that wait -- for the database, the node, a slot, a throttled session's sleep -- are
``PendingRequest`` objects, and only those that wait for more than a future have a task.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Coroutine
from functools import partial
from inspect import isawaitable
from time import monotonic
from types import CoroutineType
from typing import Any, Protocol

from aiorpcx import JSONRPC, ProtocolError, ReplyAndDisconnect, RPCError

from electrumx.lib.tasks import EagerFuture
from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.jsonrpc import Notification, Request
from electrumx.server.session.engine.method_registry import SessionMethods
from electrumx.server.session.engine.owner import ENDED, DispatchOwner
from electrumx.server.session.engine.params import ServerFault, printed
from electrumx.server.session.engine.prices import LONE_WAIT_COST
from electrumx.server.session.engine.request_stats import QUICK_SECS, MethodStats
from electrumx.server.session.engine.send_queue import CLOSE_SECS, SendQueue
from electrumx.server.storage.schema import DBReadError

# A session's pending requests; further ones wait unparsed.
MAX_ADMITTED = 200
# The memory that those take; one larger request may be pending alone.
ADMITTED_BYTES = 262_144
# A thread turns results of more items, or longer text, into JSON.
LARGE_RESULT_ITEMS = 2_000
LARGE_RESULT_CHARS = 200_000
# No log line repeats more of a request than this.
LOGGED_REQUEST_CHARS = 1_000
# Replies of so many bytes go out before the session makes more.
WRITE_BYTES = 65_536
# The time slice of a session, in seconds; then other sessions run.
SLICE_SECS = 0.001
# How long a session at the hard limit has to read why the server closes it.
LAST_WORD_SECS = 1.0


# Results already encoded, or as fast to encode as can be.
_SMALL = frozenset((EncodedJSON, bool, int, type(None)))


def is_large(result: object) -> bool:
    """Return whether encoding a result would block the event loop for milliseconds."""
    if isinstance(result, str):
        return len(result) > LARGE_RESULT_CHARS
    if isinstance(result, (list, tuple)):
        return len(result) > LARGE_RESULT_ITEMS
    if isinstance(result, dict):
        return len(result) > LARGE_RESULT_ITEMS or any(
            isinstance(value, (str, list, tuple, dict)) and is_large(value)
            for value in result.values()
        )
    return False


class Cancellable(Protocol):
    """A task, or a future that a handler returned."""

    def cancel(self) -> object:
        """End it soon, with a CancelledError."""


class PendingRequest:
    """A request that has no reply at once."""

    __slots__ = (
        "awaitable",
        "began",
        "deadline",
        "request",
        "stats",
        "task",
        "timed_out",
        "weight",
    )

    def __init__(
        self,
        request: Request | Notification,
        awaitable: Awaitable[object] | None,
        secs: float,
        stats: MethodStats,
    ) -> None:
        """``secs`` is the time until its deadline."""
        self.request = request
        # The figures that count its end, and when it began to wait
        self.stats = stats
        began = self.began = monotonic()
        # Of the result, if the handler was called already
        self.awaitable = awaitable
        # Infinite without a deadline, or once it was met
        self.deadline = began + secs
        self.task: Cancellable | None = None
        self.timed_out = False
        # Bytes of memory that the request takes
        self.weight = request.weight


class Dispatcher:
    """Holds the pending requests of one session, and answers each."""

    __slots__ = (
        "_account",
        "_methods",
        "_owner",
        "_queue",
        "_timer",
        "flush_due",
        "pending",
        "running",
        "waiting",
        "weight",
    )

    def __init__(
        self,
        owner: DispatchOwner,
        account: CostAccount,
        queue: SendQueue,
        methods: SessionMethods,
    ) -> None:
        self._owner = owner
        self._account = account
        self._queue = queue
        self._methods = methods
        #: requests taken on and not yet answered, in order
        self.pending: dict[PendingRequest, None] | None = None
        #: bytes of memory that pending requests take
        self.weight = 0
        #: how many run, each in a slot
        self.running = 0
        #: those that wait for a slot
        self.waiting: deque[PendingRequest] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: whether a flush is due
        self.flush_due = False

    def on_lost(self) -> None:
        """Cancel all that is pending: the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner = ENDED
        self.waiting = None
        pending, self.pending = self.pending, None
        for item in pending or ():
            if item.task is not None:
                item.task.cancel()
            if isinstance(item.awaitable, CoroutineType):
                item.awaitable.close()

    def unanswered_request_count(self) -> int:
        """Return how many requests taken on have no answer yet."""
        return 0 if self.pending is None else len(self.pending)

    def is_full(self) -> bool:
        """Return whether the session can take on no request for now."""
        if self.pending is not None and len(self.pending) >= MAX_ADMITTED:
            return True
        return self.weight > ADMITTED_BYTES

    # -- one request

    def handle(self, request: Request | Notification) -> None:
        """Answer one request or notification, or make it pending."""
        account = self._account
        stats = self._methods.stats_of(request)
        if account.limited and (
            account.cost_fraction or self.running >= account.concurrency_target or self.waiting
        ):
            self.enqueue(request, stats)
            return
        start = monotonic()
        try:
            result = self._methods.call(request)
        except Exception as e:
            self.conclude_exception(request, e)
        else:
            self.conclude_result(request, result, stats)
        secs = monotonic() - start
        stats.secs += secs
        if secs > QUICK_SECS and not self.pending:
            stats.slow(secs)

    # -- outcomes

    def conclude_result(
        self, request: Request | Notification, result: object, stats: MethodStats
    ) -> None:
        """Answer with a result, at once if it is there and small; ``stats`` counts it."""
        if isinstance(result, EagerFuture):
            # Most often: without ``_launch``
            self.running += 1
            self._await_future(self._admit(request, result, stats), result)
        elif isawaitable(result):
            self._launch(self._admit(request, result, stats))
        elif is_large(result):
            self._launch(self._admit(request, _at_once(result), stats))
        else:
            self._conclude(request, result)

    def conclude_exception(self, request: Request | Notification, error: Exception) -> None:
        """Answer with an exception that a handler raised; call it while handling that."""
        result, is_last = self._outcome(request, error)
        self._conclude(request, result, is_last=is_last)

    def _outcome(self, request: Request | Notification, error: Exception) -> tuple[Any, bool]:
        """Return (result, whether the session ends with it) for a handler's exception."""
        if isinstance(error, (ProtocolError, RPCError)):
            return error, False
        if isinstance(error, ReplyAndDisconnect):
            return error.args[0], True
        if not isinstance(error, DBReadError):
            # Those are logged where they arise, a bounded number of times.
            text = f"exception handling {printed(request)[:LOGGED_REQUEST_CHARS]}"
            self._owner.logger.exception(text)
        return RPCError(JSONRPC.INTERNAL_ERROR, "internal server error"), False

    def _conclude(
        self, request: Request | Notification, result: object, *, is_last: bool = False
    ) -> None:
        part = request.encode(result) if isinstance(request, Request) else None
        self.conclude_encoded(request, result, part, is_last=is_last)

    def conclude_encoded(
        self,
        request: Request | Notification,
        result: object,
        part: bytes | None,
        *,
        is_last: bool = False,
    ) -> None:
        """Answer with an encoded reply; a notification has none."""
        queue = self._queue
        if part is not None and isinstance(request, Request) and not queue.ended:
            message: bytes | None = part
            if request.in_batch or len(part) > request.max_reply_bytes > 0:
                message = self._bounded(request, part)
            if message:
                queue.post(message)
        if isinstance(result, Exception):
            self._account.bump_errors(result)
            self._methods.stats_of(request).fail(result)
            # Its traceback leads back to us
            result.__traceback__ = None
        if is_last:
            self._owner.note_end("protocol")
            queue.end(CLOSE_SECS)

    def _bounded(self, request: Request, part: bytes) -> bytes | None:
        """Return the message to send now that a request has its reply, or an error in its place."""
        if request.is_oversized(part):
            # It was made all the same.
            self._account.bump_cost(len(part) * self._account.bw_cost_per_byte)
            part = request.oversized()
        return request.deliver(part)

    # -- pending requests

    def _admit(
        self,
        request: Request | Notification,
        awaitable: Awaitable[object] | None,
        stats: MethodStats,
    ) -> PendingRequest:
        """Make a request pending."""
        secs = math.inf
        account = self._account
        if account.limited:
            secs = account.limits.processing_timeout
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(secs, self.end_overdue)
        if awaitable is not None:
            # Its handler was called
            stats.taken += 1
        pending = PendingRequest(request, awaitable, secs, stats)
        if self.pending is None:
            self.pending = {}
        self.pending[pending] = None
        self.weight += pending.weight
        return pending

    def enqueue(self, request: Request | Notification, stats: MethodStats) -> None:
        """Let a request, which ``stats`` counts, wait for a slot."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(self._admit(request, None, stats))
        if self.running < max(1, self._account.concurrency_target):
            self.start_waiting()

    def start_waiting(self) -> None:
        """Start requests that wait, as long as there are slots; one is always left.

        Without it no request would start at the hard limit, which is where the session ends.
        """
        deadline = monotonic() + SLICE_SECS
        queue, account = self._queue, self._account
        while self.waiting and not queue.ended and queue.transport.is_writable:
            if monotonic() > deadline:
                asyncio.get_running_loop().call_soon(self._start_waiting_again)
                break
            if self.running >= max(1, account.concurrency_target):
                break
            pending = self.waiting.popleft()
            if account.concurrency_target <= 0:
                self._end_excessive(pending)
            else:
                self._launch(pending)

    def _start_waiting_again(self) -> None:
        """Start requests that wait, and take on more: some may have ended in the meantime."""
        self.start_waiting()
        self._owner.on_slot_free()

    def _launch(self, pending: PendingRequest) -> None:
        """Start a request in a slot of its own."""
        self.running += 1
        awaitable = pending.awaitable
        account = self._account
        if awaitable is None and not (account.limited and account.cost_fraction):
            # It waited for a slot, and for nothing else
            pending.stats.taken += 1
            try:
                awaitable = self._methods.call(pending.request)
            except Exception as e:
                result, is_last = self._outcome(pending.request, e)
                self._end_at_once(pending, result, is_last=is_last)
                return
            if not isinstance(awaitable, EagerFuture) and not isawaitable(awaitable):
                if not is_large(awaitable):
                    self._end_at_once(pending, awaitable)
                    return
                awaitable = _at_once(awaitable)
            pending.awaitable = awaitable
        if isinstance(awaitable, (EagerFuture, asyncio.Future)):
            self._await_future(pending, awaitable)
            return
        if self.running == 1:
            account.bump_cost(LONE_WAIT_COST)
        self._start_task(pending, self._run(pending))

    def _await_future(self, pending: PendingRequest, future: Any) -> None:
        """Answer a request that has a slot when a future or ``EagerFuture`` ends, without a task."""
        if self.running == 1:
            self._account.bump_cost(LONE_WAIT_COST)
        pending.awaitable, pending.task = None, future
        future.add_done_callback(partial(self._on_answer, pending))

    def _start_task(
        self, pending: PendingRequest, coroutine: Coroutine[object, None, None]
    ) -> None:
        """Run a request in a task, whose end frees the slot.

        The coroutine cannot do that itself: it never runs in a task cancelled before the
        first step.
        """
        task = pending.task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(partial(self._on_task_done, pending))

    def _end_at_once(
        self, pending: PendingRequest, result: object, *, is_last: bool = False
    ) -> None:
        """Answer a request that waited for a slot only; call it where others start."""
        self._conclude(pending.request, result, is_last=is_last)
        self.running -= 1
        self._forget(pending)
        self._flush_soon()

    def _on_answer(
        self, pending: PendingRequest, answer: "asyncio.Future[object] | EagerFuture[object]"
    ) -> None:
        """Answer with the result of a future or an ``EagerFuture``."""
        request, is_last = pending.request, False
        try:
            result = answer.result()
        except asyncio.CancelledError:
            if self._queue.ended:
                self._finish(pending)
                return
            result = self._cancelled(pending)
        except Exception as e:
            result, is_last = self._outcome(request, e)
        kind = type(result)
        is_short = kind in _SMALL or (type(result) is str and len(result) <= LARGE_RESULT_CHARS)
        if not is_short and is_large(result):
            pending.awaitable = _at_once(result)
            self._start_task(pending, self._run(pending))
            return
        pending.deadline = math.inf
        try:
            part = request.encode(result) if isinstance(request, Request) else None
            self.conclude_encoded(request, result, part, is_last=is_last)
        finally:
            self._finish(pending)

    def _on_task_done(self, pending: PendingRequest, task: "asyncio.Future[None]") -> None:
        """Answer if the task was cancelled, and free its slot."""
        if isinstance(pending.awaitable, CoroutineType):
            # The task never began.
            pending.awaitable.close()
        try:
            if not task.cancelled():
                task.result()
            elif not self._queue.ended:
                self._conclude(pending.request, self._cancelled(pending))
        finally:
            self._finish(pending)

    def _cancelled(self, pending: PendingRequest) -> RPCError:
        """Return the error for a cancelled request."""
        if pending.timed_out:
            return self._timed_out(pending.request)
        # Not by us: the awaited future ended so, as a read does when the database closes.
        return RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")

    async def _run(self, pending: PendingRequest) -> None:
        """Process a request in a task, and answer it."""
        request, is_last = pending.request, False
        try:
            result = await self._result(pending)
        except Exception as e:
            result, is_last = self._outcome(request, e)
        pending.deadline = math.inf
        part = None
        if isinstance(request, Request):
            if is_large(result):
                part = await self._account.in_thread(0.0, request.encode, result)
            else:
                part = request.encode(result)
        self.conclude_encoded(request, result, part, is_last=is_last)
        if not self._queue.ended:
            # Not when the task has ended, an iteration later: that would join long replies of several.
            self._flush_soon()

    async def _result(self, pending: PendingRequest) -> Any:
        awaitable, pending.awaitable = pending.awaitable, None
        if awaitable is not None:
            return await awaitable
        account = self._account
        if account.limited and account.cost_fraction:
            await asyncio.sleep(account.cost_fraction * account.limits.cost_sleep)
        pending.stats.taken += 1
        result = self._methods.call(pending.request)
        return await result if isawaitable(result) else result

    def _finish(self, pending: PendingRequest) -> None:
        """Free the slot of an answered request, and start requests that wait."""
        self.running -= 1
        self._forget(pending)
        queue = self._queue
        if not queue.ended:
            if not self.flush_due or queue.size >= WRITE_BYTES:
                self._flush_soon()
            if self.waiting:
                self.start_waiting()

    def _forget(self, pending: PendingRequest) -> None:
        """Remove a request that is no longer pending."""
        taken_on = self.pending
        if taken_on is not None and pending in taken_on:
            del taken_on[pending]
            self.weight -= pending.weight
            pending.stats.observe(monotonic() - pending.began)

    def _flush_soon(self) -> None:
        """Send queued replies once this iteration of the event loop has answered what it can.

        Then the session takes on more requests: once an iteration, not once a reply.
        """
        queue = self._queue
        if queue.size >= WRITE_BYTES:
            queue.flush()
        if not self.flush_due:
            self.flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self.flush_due = False
        if not self._queue.ended:
            self._queue.flush()
            self._owner.on_flushed()

    # -- time-outs and limits

    def end_overdue(self) -> None:
        """End the requests whose time is over, and set the timer for the next."""
        now = monotonic()
        self._timer = None
        for pending in list(self.pending or ()):
            if pending.deadline <= now:
                self._expire(pending)
        deadline = min((pending.deadline for pending in self.pending or ()), default=math.inf)
        if deadline < math.inf and not self._queue.ended and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(deadline - now, self.end_overdue)

    def _expire(self, pending: PendingRequest) -> None:
        pending.timed_out = True
        pending.deadline = math.inf
        if pending.task is not None:
            pending.task.cancel()
        elif self.waiting is not None and self.pending is not None:
            self.waiting.remove(pending)
            self._forget(pending)
            self._conclude(pending.request, self._timed_out(pending.request))
            self._queue.flush()
            self._owner.on_slot_free()

    def _timed_out(self, request: Request | Notification) -> RPCError:
        account = self._account
        text = printed(request)[:LOGGED_REQUEST_CHARS]
        text = f"incoming request {text} timed out after {account.limits.processing_timeout} secs"
        self._owner.log_limited("incoming request timed out", text)
        error = ServerFault(JSONRPC.SERVER_BUSY, "server busy - request timed out")
        if account.limited and account.cost_fraction:
            error.data = self._excess()
        return error

    def _excess(self) -> dict[str, int]:
        """Return the data of a throttled client's error: its cost, the limit, and when to retry."""
        return {
            "cost": round(self._account.effective_cost()),
            "limit": round(self._account.limits.cost_hard_limit),
            "retry_after": self._owner.retry_secs(),
        }

    def _end_excessive(self, pending: PendingRequest) -> None:
        """Send a client the reason why its session ends, and close."""
        self._owner.log_excessive_cost()
        error = RPCError(JSONRPC.EXCESSIVE_RESOURCE_USAGE, "excessive resource usage")
        error.data = self._excess()
        request, queue = pending.request, self._queue
        if isinstance(request, Request):
            # A batch is not going to be complete.
            queue.post(request.deliver_last(request.encode(error)))
        self._account.bump_errors(error)
        pending.stats.fail(error)
        self._forget(pending)
        # A slow reader must not stay until the queue would disconnect it anyway.
        queue.end(LAST_WORD_SECS)


async def _at_once(result: object) -> Any:
    return result
