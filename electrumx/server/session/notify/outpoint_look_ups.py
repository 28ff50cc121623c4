"""Looks up what blocks say of outpoints whose status is due, for all their subscribers together.

A look-up may search a long history.  So it goes on beside later rounds of notifications: they need not
wait for it, and do not begin it again.  On the event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from aiorpcx import RPCError

from electrumx.lib import util
from electrumx.lib.log_limit import RateLimitedLog
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.outpoint_watch import Outpoint
from electrumx.server.storage.schema import DBReadError

#: concurrent look-ups at most, and seconds for each
LOOK_UPS = 8
LOOK_UP_SECS = 60.0
#: seconds that a round waits for them while another one is due
PATIENCE_SECS = 1.0
#: warnings of a minute
LOG_LINES = 5


class ConfirmedParts(Protocol):
    """The confirmed parts of statuses; see ``OutpointStatuses``."""

    def cached(self, outpoint: Outpoint) -> Any:
        """Return the cached confirmed part of a status, or None."""

    async def read(self, outpoint: Outpoint, charge: Callable[[float], object]) -> Any:
        """Cache and return the confirmed part of a status."""


class OutpointLookUps:
    """The look-ups that are going on."""

    def __init__(self, statuses: ConfirmedParts) -> None:
        self._statuses = statuses
        self._reading: dict[Outpoint, asyncio.Task[None]] = {}
        self._too_large: set[Outpoint] = set()
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self._log_limit = RateLimitedLog(self.logger, lines=LOG_LINES)

    async def run(self, outpoints: Iterable[Outpoint], due: asyncio.Event) -> None:
        """Look outpoints up; return when that is done or, soon, when another round is due."""
        waiting = iter(outpoints)
        over = asyncio.ensure_future(_wait_until_over(due))
        try:
            while not over.done():
                self._start(waiting)
                if not self._reading:
                    return
                await asyncio.wait(
                    [over, *self._reading.values()], return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            over.cancel()

    def take_too_large(self) -> set[Outpoint]:
        """Return those with too much to search, and forget them."""
        too_large, self._too_large = self._too_large, set()
        return too_large

    def cancel(self) -> None:
        """Cancel all look-ups."""
        for task in self._reading.values():
            task.cancel()

    def log(self, text: str) -> None:
        """Write a warning about failed look-ups, unless there were many."""
        kind = "outpoints not looked up"
        self._log_limit.log(self.logger, kind, f"{kind}: {text[:200]}", logging.WARNING)

    def _start(self, waiting: Iterator[Outpoint]) -> None:
        while len(self._reading) < LOOK_UPS:
            outpoint = next(waiting, None)
            if outpoint is None:
                return
            if outpoint not in self._reading and self._statuses.cached(outpoint) is None:
                task = self._reading[outpoint] = asyncio.ensure_future(self._read(outpoint))
                task.add_done_callback(partial(self._ended, outpoint))

    def _ended(self, outpoint: Outpoint, _task: asyncio.Task[None]) -> None:
        del self._reading[outpoint]

    async def _read(self, outpoint: Outpoint) -> None:
        try:
            await asyncio.wait_for(self._statuses.read(outpoint, _free), LOOK_UP_SECS)
        except RPCError as e:
            self._too_large.add(outpoint)
            self.log(f"given up until it is touched again: {e}")
        except (DaemonError, DBReadError) as e:
            self.log(f"trying again: {e}")
        except Exception as e:
            # The tip has changed, it took too long, or a transaction does not parse.
            self.log(f"trying again: {e!r}")


async def _wait_until_over(due: asyncio.Event) -> None:
    await asyncio.sleep(PATIENCE_SECS)
    await due.wait()


def _free(_cost: float) -> None:
    """Charge no session: the subscription had its charge."""
