"""A reply that waits for a value of a script, without a task.

Runs on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable
from typing import Any, TypeVar

from electrumx.lib.tasks import EagerFuture
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.shared.script_cache import PendingValue, Query
from electrumx.server.session.shared.tip_consistency import TipConsistency, TipState

V = TypeVar("V")

#: (hashX, value, cost of reading it) -> a JSON result, or an awaitable of it
Finish = Callable[[bytes, V, float], Any]

_PLAIN = frozenset((str, EncodedJSON, type(None)))


class PendingReply(EagerFuture[Any]):
    """The result of ``finish(hashX, value, cost)``, when the query has read the value.

    If the tip changes in the meantime, ``TipConsistency.retry_at_stable_tip`` computes the reply
    again.
    """

    __slots__ = (
        "_before",
        "_charge",
        "_finish",
        "_hashX",
        "_is_cancelled",
        "_next_height",
        "_query",
        "_task",
        "_tip",
        "_waiter",
    )

    def __init__(
        self,
        tip: TipConsistency,
        before: TipState,
        query: Query[V],
        finish: Finish[V],
        hashX: bytes,
        charge: Callable[[float], object],
    ) -> None:
        """``before`` is ``tip.state()`` now; failed tries are charged for."""
        self._callbacks = []
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._tip, self._before, self._next_height = tip, before, tip.next_height
        self._query: Query[Any] = query
        self._finish: Finish[Any] = finish
        self._hashX = hashX
        self._charge = charge
        self._is_cancelled = False
        # Computes the reply where that takes more than a value
        self._task: asyncio.Future[Any] | None = None
        # Of the coroutine that awaits the reply
        self._waiter: asyncio.Future[None] | None = None
        query.fetch(hashX).add_done_callback(self._on_value)

    def _on_value(self, pending: PendingValue[Any]) -> None:
        if self._is_cancelled:
            return
        try:
            value = pending.result()
        except (Exception, asyncio.CancelledError) as e:
            self.end(None, e)
            return
        if self._tip.state() != self._before:
            retry = self._tip.retry_at_stable_tip
            self._follow(retry(self._compute, self._charge, after=self._next_height))
            return
        try:
            self._query.check(value)
            result = self._finish(self._hashX, value, pending.cost)
        except Exception as e:
            self.end(None, e)
            return
        if type(result) in _PLAIN or not isawaitable(result):
            if self._waiter is None:
                # Most often: a call less
                EagerFuture.end(self, result)
            else:
                self.end(result)
        else:
            self._follow(result)

    async def _compute(self) -> Any:
        result = self._finish(self._hashX, *await self._query.read(self._hashX))
        return await result if isawaitable(result) else result

    def _follow(self, awaitable: Awaitable[object]) -> None:
        """End as an awaitable does."""
        self._task = asyncio.ensure_future(awaitable)
        self._task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: "asyncio.Future[object]") -> None:
        if self._is_cancelled:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self.end(None if error else task.result(), error)

    def end(self, result: object, error: BaseException | None = None) -> None:
        """Set the result or the error, and call the callbacks.

        If a coroutine awaits the reply, callbacks run right before it resumes, in the
        next turn of the event loop.
        """
        waiter = self._waiter
        if waiter is None:
            EagerFuture.end(self, result, error)
            return
        asyncio.get_running_loop().call_soon(super().end, result, error)
        if not waiter.done():
            waiter.set_result(None)

    def cancel(self) -> None:
        """Stop waiting; the callbacks run soon."""
        if self._done or self._is_cancelled:
            return
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()
        asyncio.get_running_loop().call_soon(super().end, None, asyncio.CancelledError())

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result, in one coroutine; its cancellation cancels the reply."""
        if not self._done:
            assert self._waiter is None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                yield from self._waiter.__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()
