"""Coroutines that run together and end together.

Owns nothing, and knows nothing of what they do.  Runs on the event loop.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_together(*coros: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the results of ``coros``, run concurrently, in order.

    If one raises, or this is cancelled, all are cancelled and have ended before it propagates.
    """
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
