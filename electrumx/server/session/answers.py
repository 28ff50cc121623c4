"""Answers that wait for the database, without a task for each.

``fetch`` asks a source of ``scripts`` and makes the answer when the value arrives, if the chain
stood still meanwhile; else it leaves the request to ``ChainTip.steady``.  On the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from electrumx.server.session.chaintip import ChainTip
from electrumx.server.session.scripts import Answers

#: (hashX, value, cost) -> a result, or an awaitable of it
Finish = Callable[[bytes, Any, float], Any]


def fetch(
    chain: ChainTip,
    source: Answers,
    finish: Finish,
    hashX: bytes,
    charge: Callable[[float], object],
) -> "asyncio.Future[Any]":
    """Return a future of ``finish(hashX, value, cost)`` with the source's value of a script.

    The chain must be steady now.  Failed tries are charged for.
    """
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    before, next_height = chain.state(), chain.next_height

    async def compute() -> Any:
        result = finish(hashX, *await source.read(hashX))
        return await result if isawaitable(result) else result

    def arrived(value: Any, cost: float, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
            return
        if chain.state() != before:
            follow(future, chain.steady(compute, charge, after=next_height))
            return
        try:
            result = finish(hashX, value, cost)
        except Exception as e:
            future.set_exception(e)
            return
        if isawaitable(result):
            follow(future, result)
        else:
            future.set_result(result)

    source.ask(hashX, arrived)
    return future


def follow(future: "asyncio.Future[Any]", awaitable: Awaitable[Any]) -> None:
    """Let a future end as an awaitable does, and cancel that with it."""
    task = asyncio.ensure_future(awaitable)

    def ended(task: "asyncio.Future[Any]") -> None:
        if future.done():
            # Its exception, if it has one, is of interest to nobody.
            if not task.cancelled():
                task.exception()
        elif task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    def given_up(future: "asyncio.Future[Any]") -> None:
        if future.cancelled():
            task.cancel()

    task.add_done_callback(ended)
    future.add_done_callback(given_up)
