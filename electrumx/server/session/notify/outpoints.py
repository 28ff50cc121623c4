"""The sessions subscribed to each outpoint, and their notifications.

Blocks and mempool mark the outpoints that they touch.  After each round of notifications their
statuses are computed again, each once for all its subscribers, and subscribers that were last sent
another status are notified.  A task of its own does that: an outpoint that has to be looked up delays
no header.  An outpoint whose status cannot be computed keeps its old one until the next round.  On the event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiorpcx import RPCError

from electrumx.lib import util
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.outpoint_watch import Outpoint, OutpointWatch
from electrumx.server.storage.schema import DBReadError

#: outpoints handled before yielding to the event loop: about a millisecond
SLICE = 100
#: outpoints that are looked up at a time, and seconds for all of them
LOOK_UPS = 8
LOOK_UP_SECS = 60.0
FORCE_AFTER_SECS = 1.0


class OutpointSubscriber(Protocol):
    """A session that can be subscribed to outpoints."""

    session_id: int

    def notify_outpoint(self, outpoint: Outpoint, status: Any) -> None:
        """Queue a status if it is not the one last sent."""

    def flush(self) -> None:
        """Send the queued messages."""

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""

    def end(self, force_after: float) -> None:
        """Close the connection, by force after so many seconds; return at once."""


class StatusSource(Protocol):
    """The source of statuses; see ``OutpointStatuses``."""

    def cached(self, outpoint: Outpoint) -> Any:
        """Return the confirmed part of a status if it is cached, else None."""

    def now(self, outpoint: Outpoint) -> Any:
        """Return the status if that needs no waiting, else None."""

    async def load(self, outpoints: list[Outpoint]) -> None:
        """Cache the heights of unspent outputs."""

    async def read(self, outpoint: Outpoint, charge: Callable[[float], object]) -> Any:
        """Cache and return the confirmed part of a status."""


class Tip(Protocol):
    """The tip that must not change while statuses are worked out."""

    def state(self) -> Any:
        """Return a value that identifies it, None if clients do not know it."""


class OutpointSubscriptions:
    """The subscriptions of all sessions to outpoints."""

    def __init__(self, watch: OutpointWatch, statuses: StatusSource, tip: Tip) -> None:
        self.watch = watch
        self._statuses = statuses
        self._tip = tip
        self._sessions: dict[Outpoint, set[OutpointSubscriber]] = {}
        # Those whose status was not final when it was last computed
        self._unsettled: set[Outpoint] = set()
        # Set when a round of notifications has ended
        self._due = asyncio.Event()
        self._tip_changed = False
        self.logger = util.class_logger(__name__, self.__class__.__name__)

    def __len__(self) -> int:
        """Return the number of different outpoints."""
        return len(self._sessions)

    def add(self, outpoint: Outpoint, session: OutpointSubscriber) -> None:
        """Subscribe a session, to whose client the status is being sent."""
        self._sessions.setdefault(outpoint, set()).add(session)
        self.watch.add(outpoint)
        # It may have changed after the status was worked out.
        self.watch.touched.add(outpoint)

    def discard(self, outpoint: Outpoint, session: OutpointSubscriber) -> None:
        """End a subscription, if there is one."""
        sessions = self._sessions.get(outpoint)
        if sessions is None:
            return
        sessions.discard(session)
        if not sessions:
            del self._sessions[outpoint]
            self.watch.discard(outpoint)
            self._unsettled.discard(outpoint)

    def round_due(self, *, tip_changed: bool) -> None:
        """Have the touched outpoints computed, and their subscribers notified."""
        self._tip_changed |= tip_changed
        self._due.set()

    async def run(self) -> None:
        """Notify subscribers of changes, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.tell()
            except Exception:
                self.logger.exception("could not notify of outpoints; trying again next time")

    async def tell(self) -> None:
        """Compute the statuses of touched outpoints; notify subscribers with another last one."""
        touched = self.watch.take()
        if self._tip_changed:
            self._tip_changed = False
            touched |= self._unsettled
        if not touched:
            return
        before = self._tip.state()
        left = touched
        try:
            if before is not None:
                missing = await self._look_up(touched)
                left = touched - await self._tell_all(touched - missing, before)
        finally:
            # The others are computed in the next round.
            self.watch.touched |= {outpoint for outpoint in left if outpoint in self._sessions}

    async def _look_up(self, outpoints: set[Outpoint]) -> set[Outpoint]:
        """Cache what blocks say of outpoints; return those of which that is not known."""
        missing = [outpoint for outpoint in outpoints if self._statuses.cached(outpoint) is None]
        if not missing:
            return set()
        try:
            await self._statuses.load(missing)
        except DBReadError as e:
            self._log(len(missing), e)
            return set(missing)
        missing = [outpoint for outpoint in missing if self._statuses.cached(outpoint) is None]
        waiting = iter(missing)

        async def worker() -> None:
            for outpoint in waiting:
                try:
                    await self._statuses.read(outpoint, _free)
                except (DaemonError, RPCError, DBReadError) as e:
                    self._log(1, e)
                except Exception as e:
                    # The tip has changed, or a transaction does not parse.
                    self.logger.info(f"an outpoint is looked up again: {e!r}")

        workers = [asyncio.ensure_future(worker()) for _ in range(min(LOOK_UPS, len(missing)))]
        try:
            if workers:
                await asyncio.wait(workers, timeout=LOOK_UP_SECS)
        finally:
            for task in workers:
                task.cancel()
        return {outpoint for outpoint in missing if self._statuses.cached(outpoint) is None}

    def _log(self, count: int, error: Exception) -> None:
        self.logger.warning(
            f"{count:,d} outpoint{'' if count == 1 else 's'} not looked up, trying again: "
            f"{str(error)[:200]}"
        )

    async def _tell_all(self, outpoints: set[Outpoint], before: Any) -> set[Outpoint]:
        """Send the statuses of outpoints at a tip; return the outpoints whose status was sent."""
        told: set[Outpoint] = set()
        concerned: dict[OutpointSubscriber, None] = {}
        for number, outpoint in enumerate(outpoints, start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if self._tip.state() != before:
                break
            status = self._statuses.now(outpoint)
            if status is None:
                continue
            told.add(outpoint)
            if status.is_settled():
                self._unsettled.discard(outpoint)
            elif outpoint in self._sessions:
                self._unsettled.add(outpoint)
            for session in tuple(self._sessions.get(outpoint, ())):
                self._guarded(session, outpoint, status)
                concerned[session] = None
        for number, session in enumerate(concerned, start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if not session.is_closing():
                session.flush()
        return told

    def _guarded(self, session: OutpointSubscriber, outpoint: Outpoint, status: Any) -> None:
        if session.is_closing():
            return
        try:
            session.notify_outpoint(outpoint, status)
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
            session.end(FORCE_AFTER_SECS)


def _free(_cost: float) -> None:
    """Charge no session: the subscription was charged for."""
