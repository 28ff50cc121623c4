"""Requests that cannot be answered at once: slots, waiting, time-outs, outcomes.

Only what waits -- for the database, the node, a slot, a throttled session's sleep -- is work, and
only what waits for more than a future has a task.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Coroutine
from functools import partial
from inspect import isawaitable
from time import perf_counter
from types import CoroutineType
from typing import Any, Protocol

from aiorpcx import JSONRPC, ProtocolError, ReplyAndDisconnect, RPCError

from electrumx.lib.tasks import EagerFuture
from electrumx.server.session.engine.method_registry import invoke
from electrumx.server.session.engine.params import ServerFault, printed
from electrumx.server.session.engine.send_queue import CLOSE_SECS, Outbox
from electrumx.server.storage.schema import DBReadError

INVALID_METHOD = "invalid method"
# Results of more items, or longer text, are turned into JSON in a thread.
LARGE_RESULT_ITEMS = 2_000
LARGE_RESULT_CHARS = 200_000
# No log line repeats more of a request than this.
LOGGED_REQUEST_CHARS = 1_000
# Replies of so many bytes are written before more are made.
WRITE_BYTES = 65_536
# So much of a session is worked off before other sessions get their turn.
SLICE_SECS = 0.001
# How long a session at the hard limit has to read why it is closed.
LAST_WORD_SECS = 1.0


def weight_of(request: Any) -> int:
    """Return about how many bytes of memory a request takes: its text, and what it was parsed to."""
    weight: int = request.weight
    if not weight:
        for arg in request.args:
            if type(arg) is str:
                weight += len(arg)
    return weight


def is_large(result: Any) -> bool:
    """Say if encoding a result would hold up the event loop for milliseconds."""
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


class Work:
    """A request that could not be answered at once."""

    __slots__ = ("awaitable", "deadline", "request", "task", "timed_out", "weight")

    def __init__(self, request: Any, awaitable: Any, deadline: float) -> None:
        self.request = request
        # Of the result, if the handler was called already
        self.awaitable = awaitable
        # By the event loop's clock; infinite if there is none, or it was met
        self.deadline = deadline
        self.task: Cancellable | None = None
        self.timed_out = False
        # Bytes of memory that the request takes
        self.weight = weight_of(request)


class WorkingSession(Outbox):
    """A session's requests that are under way, and how they end."""

    __slots__ = (
        "_at_eof",
        "_flush_due",
        "_running",
        "_timer",
        "_waiting",
        "_weight",
        "_works",
        "method_counts",
    )

    # Clients are throttled and timed out; the administrator is not.
    limited = True

    # Request name -> attribute, of the protocol version that is spoken
    request_handlers: dict[str, str]

    def __init__(self, transport: Any, method_counts: Counter[str]) -> None:
        super().__init__(transport)
        self.method_counts = method_counts
        # Requests under way; how many run; those that wait for a slot
        self._works: dict[Work, None] | None = None
        # Bytes of memory that they take
        self._weight = 0
        self._running = 0
        self._waiting: deque[Work] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Whether a flush is about to happen
        self._flush_due = False
        # Whether the client has ended its half of the connection
        self._at_eof = False

    def _go_on(self) -> None:
        """Note that more may be taken on than before."""
        raise NotImplementedError

    def is_over_limit(self) -> bool:
        """Say if the session, with its groups, has reached the hard limit."""
        return self.limited and self.concurrency_target <= 0

    def on_disconnect_due_to_excessive_session_cost(self) -> None:
        """Log who is being thrown out."""

    def on_lost(self) -> None:
        """End all that is under way: the connection has ended."""
        super().on_lost()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = None
        works, self._works = self._works, None
        for work in works or ():
            if work.task is not None:
                work.task.cancel()
            if isinstance(work.awaitable, CoroutineType):
                work.awaitable.close()

    # -- one request

    def _handle(self, request: Any) -> None:
        """Answer one request or notification, or make it work to be done."""
        if self.limited and (
            self._cost_fraction or self._running >= self.concurrency_target or self._waiting
        ):
            self._enqueue(request)
            return
        try:
            result = self._call(request)
        except Exception as e:
            self._conclude_exception(request, e)
        else:
            self._conclude_result(request, result)

    def _call(self, request: Any) -> Any:
        """Return the result of a request, or an awaitable of it; raises what is the client's."""
        attribute = None
        if request.expects_reply:
            attribute = self.request_handlers.get(request.method)
        handler = None if attribute is None else getattr(self, attribute)
        self.method_counts[INVALID_METHOD if handler is None else request.method] += 1
        return invoke(handler, request)

    # -- outcomes

    def _conclude_result(self, request: Any, result: Any) -> None:
        """Answer with a result, at once if it is there and small."""
        if isinstance(result, EagerFuture) or isawaitable(result):
            self._launch(self._new_work(request, result))
        elif is_large(result):
            self._launch(self._new_work(request, _at_once(result)))
        else:
            self._conclude(request, result)

    def _conclude_exception(self, request: Any, error: Exception) -> None:
        """Answer with what a handler raised; call it from where that is being handled."""
        result, is_last = self._outcome(request, error)
        self._conclude(request, result, is_last=is_last)

    def _outcome(self, request: Any, error: Exception) -> tuple[Any, bool]:
        """Return (result, whether the session ends with it) of what a handler raised."""
        if isinstance(error, (ProtocolError, RPCError)):
            return error, False
        if isinstance(error, ReplyAndDisconnect):
            return error.args[0], True
        if not isinstance(error, DBReadError):
            # Those are logged where they arise, a bounded number of times.
            self.logger.exception(f"exception handling {printed(request)[:LOGGED_REQUEST_CHARS]}")
        return RPCError(JSONRPC.INTERNAL_ERROR, "internal server error"), False

    def _conclude(self, request: Any, result: Any, *, is_last: bool = False) -> None:
        part = request.encode(result) if request.expects_reply else None
        self._conclude_encoded(request, result, part, is_last=is_last)

    def _conclude_encoded(
        self, request: Any, result: Any, part: bytes | None, *, is_last: bool
    ) -> None:
        if part is not None and not self._closing:
            if request.is_oversized(part):
                # It was made all the same.
                self.bump_cost(len(part) * self.bw_cost_per_byte)
                part = request.oversized()
            message = request.deliver(part)
            if message:
                self.post(message)
        if isinstance(result, Exception):
            self.bump_errors(result)
            # Its traceback leads back to us
            result.__traceback__ = None
        if is_last:
            self.end(CLOSE_SECS)

    # -- work

    def _new_work(self, request: Any, awaitable: Any) -> Work:
        """Take a request among those that are under way."""
        deadline = math.inf
        if self.limited:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self.processing_timeout
            if self._timer is None:
                self._timer = loop.call_at(deadline, self._on_timer)
        work = Work(request, awaitable, deadline)
        if self._works is None:
            self._works = {}
        self._works[work] = None
        self._weight += work.weight
        return work

    def _enqueue(self, request: Any) -> None:
        """Let a request wait for a slot."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(self._new_work(request, None))
        if self._running < max(1, self.concurrency_target):
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what waits, as long as there are slots; one is always left.

        Without it nobody would get the turn at which a session at the hard limit is ended.
        """
        deadline = perf_counter() + SLICE_SECS
        while self._waiting and not self._closing and self.transport.is_writable:
            if perf_counter() > deadline:
                asyncio.get_running_loop().call_soon(self._start_waiting_again)
                break
            if self._running >= max(1, self.concurrency_target):
                break
            work = self._waiting.popleft()
            if self.concurrency_target <= 0:
                self._end_excessive(work)
            else:
                self._launch(work)

    def _start_waiting_again(self) -> None:
        """Do as ``_start_waiting``, and take on more: requests may have ended meanwhile."""
        self._start_waiting()
        self._go_on()

    def _launch(self, work: Work) -> None:
        """Begin work in a slot of its own."""
        self._running += 1
        awaitable = work.awaitable
        if awaitable is None and not (self.limited and self._cost_fraction):
            # It waited for a slot, and for nothing else
            try:
                awaitable = self._call(work.request)
            except Exception as e:
                result, is_last = self._outcome(work.request, e)
                self._end_at_once(work, result, is_last=is_last)
                return
            if not isinstance(awaitable, EagerFuture) and not isawaitable(awaitable):
                if not is_large(awaitable):
                    self._end_at_once(work, awaitable)
                    return
                awaitable = _at_once(awaitable)
            work.awaitable = awaitable
        if isinstance(awaitable, (EagerFuture, asyncio.Future)):
            # Who waits for one only needs no task
            future: Any = awaitable
            work.awaitable, work.task = None, future
            future.add_done_callback(partial(self._on_answer, work))
            return
        self._start_task(work, self._run(work))

    def _start_task(self, work: Work, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run work in a task, whose end gives the slot back.

        The coroutine cannot do that itself: it never runs if its task is cancelled before the
        first step.
        """
        task = work.task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(partial(self._on_task_done, work))

    def _end_at_once(self, work: Work, result: Any, *, is_last: bool = False) -> None:
        """Answer what had to wait for a slot only; call it where others are started."""
        self._conclude(work.request, result, is_last=is_last)
        self._leave(work)
        self._flush_soon()

    def _on_answer(self, work: Work, answer: "asyncio.Future[Any] | EagerFuture[Any]") -> None:
        """Answer with what became of a future, or the like."""
        request, is_last = work.request, False
        try:
            result = answer.result()
        except asyncio.CancelledError:
            if self._closing:
                self._finish(work)
                return
            result = self._cancelled(work)
        except Exception as e:
            result, is_last = self._outcome(request, e)
        if is_large(result):
            work.awaitable = _at_once(result)
            self._start_task(work, self._run(work))
            return
        work.deadline = math.inf
        try:
            self._conclude(request, result, is_last=is_last)
        finally:
            self._finish(work)

    def _on_task_done(self, work: Work, task: "asyncio.Future[None]") -> None:
        """Answer if the task was cancelled, and give back its slot."""
        if isinstance(work.awaitable, CoroutineType):
            # The task never began.
            work.awaitable.close()
        try:
            if not task.cancelled():
                task.result()
            elif not self._closing:
                self._conclude(work.request, self._cancelled(work))
        finally:
            self._finish(work)

    def _cancelled(self, work: Work) -> RPCError:
        """Return the error for a request whose processing was cancelled."""
        if work.timed_out:
            return self._timed_out(work.request)
        # Not by us: what it waited for was cancelled, as a read is when the database closes.
        return RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")

    async def _run(self, work: Work) -> None:
        """Process a request in a task, and answer it."""
        request, is_last = work.request, False
        try:
            result = await self._result(work)
        except Exception as e:
            result, is_last = self._outcome(request, e)
        work.deadline = math.inf
        part = None
        if request.expects_reply:
            if is_large(result):
                part = await self.in_thread(0.0, request.encode, result)
            else:
                part = request.encode(result)
        self._conclude_encoded(request, result, part, is_last=is_last)
        if not self._closing:
            # Not when the task has ended, a turn later: long replies of several would be joined.
            self._flush_soon()

    async def _result(self, work: Work) -> Any:
        awaitable, work.awaitable = work.awaitable, None
        if awaitable is not None:
            return await awaitable
        if self.limited and self._cost_fraction:
            await asyncio.sleep(self._cost_fraction * self.cost_sleep)
        result = self._call(work.request)
        return await result if isawaitable(result) else result

    def _finish(self, work: Work) -> None:
        """Give back the slot of work that was done, and go on with what waits."""
        self._leave(work)
        if not self._closing:
            self._flush_soon()
            if self._waiting:
                self._start_waiting()
            self._go_on()

    def _leave(self, work: Work) -> None:
        self._running -= 1
        self._forget(work)

    def _forget(self, work: Work) -> None:
        """Take a request out of those that are under way."""
        if self._works is not None and work in self._works:
            del self._works[work]
            self._weight -= work.weight

    def _flush_soon(self) -> None:
        """Send what was posted once this turn of the loop has answered what it can."""
        if self._out_size >= WRITE_BYTES:
            self.flush()
        elif self._out and not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        if not self._closing:
            self.flush()
            if self._at_eof:
                self._go_on()

    def _on_timer(self) -> None:
        """End the work whose time is over, and look again when the next might be."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for work in list(self._works or ()):
            if work.deadline <= now:
                self._expire(work)
        deadline = min((work.deadline for work in self._works or ()), default=math.inf)
        if deadline < math.inf and not self._closing and self._timer is None:
            self._timer = loop.call_at(deadline, self._on_timer)

    def _expire(self, work: Work) -> None:
        work.timed_out = True
        work.deadline = math.inf
        if work.task is not None:
            work.task.cancel()
        elif self._waiting is not None and self._works is not None:
            self._waiting.remove(work)
            self._forget(work)
            self._conclude(work.request, self._timed_out(work.request))
            self.flush()
            self._go_on()

    def _timed_out(self, request: Any) -> RPCError:
        text = printed(request)[:LOGGED_REQUEST_CHARS]
        secs = self.processing_timeout
        text = f"incoming request {text} timed out after {secs} secs"
        self.log_limited("incoming request timed out", text)
        error = ServerFault(JSONRPC.SERVER_BUSY, "server busy - request timed out")
        if self.limited and self._cost_fraction:
            error.data = self.excess()
        return error

    def excess(self) -> dict[str, int]:
        """Return what a throttled client should know: its cost, the limit, and when to retry."""
        return {
            "cost": round(self.effective_cost()),
            "limit": round(self.cost_hard_limit),
            "retry_after": self.retry_secs(),
        }

    def _end_excessive(self, work: Work) -> None:
        """Send a client the reason why its session ends, and close."""
        self.on_disconnect_due_to_excessive_session_cost()
        error = RPCError(JSONRPC.EXCESSIVE_RESOURCE_USAGE, "excessive resource usage")
        error.data = self.excess()
        request = work.request
        if request.expects_reply:
            part = request.encode(error)
            # A batch is not going to be complete.
            self.post(request.deliver_last(part))
        self.bump_errors(error)
        self._forget(work)
        # Those who do not read must not stay until they would be cut off anyway.
        self.end(LAST_WORD_SECS)

    def unanswered_request_count(self) -> int:
        """Return how many requests were received and not yet answered."""
        return 0 if self._works is None else len(self._works)


async def _at_once(result: Any) -> Any:
    return result
