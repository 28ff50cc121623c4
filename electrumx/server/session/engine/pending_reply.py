"""Answers that wait for the database, without a task or a future for each.

``Answer`` asks a source of ``scripts`` and makes the answer when the value arrives, if the chain
stood still meanwhile; else it leaves the request to ``ChainTip.steady``.  On the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable
from typing import Any

from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.shared.script_cache import Answers
from electrumx.server.session.shared.tip_consistency import ChainTip

#: (hashX, value, cost) -> a result, or an awaitable of it
Finish = Callable[[bytes, Any, float], Any]

_PLAIN = frozenset((str, EncodedJSON, type(None)))


class Answer:
    """``finish(hashX, value, cost)`` of the source's value of a script, when that arrives.

    It is waited for like a future, but is leaner: who waits is called when the value arrives, not
    a turn of the loop later, which took 5 µs a request.  ``before`` is the chain's state now, which
    must be steady.  Failed tries are charged for.
    """

    __slots__ = (
        "_before",
        "_callbacks",
        "_chain",
        "_charge",
        "_ended",
        "_error",
        "_finish",
        "_hashX",
        "_next_height",
        "_result",
        "_source",
        "_task",
        "_waiter",
    )

    def __init__(
        self,
        chain: ChainTip,
        before: Any,
        source: Answers,
        finish: Finish,
        hashX: bytes,
        charge: Callable[[float], object],
    ) -> None:
        self._chain, self._before, self._next_height = chain, before, chain.next_height
        self._source, self._finish, self._hashX = source, finish, hashX
        self._charge = charge
        self._callbacks: list[Callable[[Answer], object]] = []
        self._ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        # What it takes to answer, where that is more than a value
        self._task: asyncio.Future[Any] | None = None
        # For who awaits it, not by callback
        self._waiter: asyncio.Future[None] | None = None
        source.ask(hashX, self.arrived)

    def arrived(self, value: Any, cost: float, error: BaseException | None) -> None:
        """Take the value, or what went wrong; see ``scripts.Arrived``."""
        if self._ended:
            return
        if error is not None:
            self._end(None, error)
            return
        if self._chain.state() != self._before:
            again = self._chain.steady(self._compute, self._charge, after=self._next_height)
            self._follow(again)
            return
        try:
            result = self._finish(self._hashX, value, cost)
        except Exception as e:
            self._end(None, e)
            return
        if type(result) not in _PLAIN and isawaitable(result):
            self._follow(result)
        else:
            self._end(result, None)

    async def _compute(self) -> Any:
        result = self._finish(self._hashX, *await self._source.read(self._hashX))
        return await result if isawaitable(result) else result

    def _follow(self, awaitable: Awaitable[Any]) -> None:
        """End as an awaitable does."""
        self._task = asyncio.ensure_future(awaitable)
        self._task.add_done_callback(self._followed)

    def _followed(self, task: "asyncio.Future[Any]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if not self._ended:
            self._end(None if error else task.result(), error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._result, self._error, self._ended = result, error, True
        waiter = self._waiter
        if waiter is None:
            self._tell()
            return
        # Who awaits goes on a turn later: so that nothing comes between, the others hear of it then.
        asyncio.get_running_loop().call_soon(self._tell)
        if not waiter.done():
            waiter.set_result(None)

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception as e:
                # It harms nobody else who waits for the same value.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "exception in a callback of an answer", "exception": e}
                )

    # -- as of a future

    def add_done_callback(self, callback: "Callable[[Answer], object]") -> None:
        """Call ``callback`` with this object when there is a result, or soon if there is one."""
        if self._ended:
            asyncio.get_running_loop().call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def cancel(self) -> None:
        """Wait no more; who waits is called soon."""
        if self._ended:
            return
        self._ended, self._error = True, asyncio.CancelledError()
        if self._task is not None:
            self._task.cancel()
        asyncio.get_running_loop().call_soon(self._end, None, self._error)

    def failed(self) -> bool:
        """Say if it ended without a result."""
        return self._error is not None

    def result(self) -> Any:
        """Return the result, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        return self._result

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result, alone; who stops waiting cancels it."""
        if not self._ended:
            assert self._waiter is None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                yield from self._waiter.__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()
