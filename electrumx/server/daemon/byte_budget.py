"""A bound on the bytes of answers read at the same time.

Each request has a limit of its own; this is the limit of all of them together.  Owns a count and
the queue of waiting requests.  Runs in: the event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Bytes that may be reserved, in the order of asking, by readers that wait for their turn.

    A reader reserves all that it may need at once, so that no two wait for each other.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        #: readers that wait: their futures and the bytes they need
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @asynccontextmanager
    async def reserve(self, nbytes: int) -> AsyncIterator[None]:
        """Hold ``nbytes`` (at most the total) for the duration of the context."""
        nbytes = min(nbytes, self.total)
        if self._waiting or self.used + nbytes > self.total:
            await self._turn(nbytes)
        else:
            self.used += nbytes
        try:
            yield
        finally:
            self.release(nbytes)

    def charge(self, nbytes: int) -> None:
        """Count bytes without waiting, even beyond the total; release() gives them back."""
        self.used += nbytes

    def release(self, nbytes: int) -> None:
        """Give back bytes, and wake the readers that now have room."""
        self.used -= nbytes
        self._wake()

    async def _turn(self, nbytes: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (future, nbytes)
        self._waiting.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                # The grant came in the moment of the cancellation.
                self.release(nbytes)
            else:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            future, nbytes = self._waiting[0]
            # A charge beyond the total must not keep the queue waiting once nothing is in use.
            if self.used > 0 and self.used + nbytes > self.total:
                return
            self._waiting.popleft()
            if not future.done():
                self.used += nbytes
                future.set_result(None)
