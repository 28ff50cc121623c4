"""The sessions subscribed to each outpoint, and their notifications.

Blocks and mempool mark the outpoints that they touch.  After each round of notifications their
statuses are computed again, each once for all its subscribers, and subscribers that were last sent
another status are notified.  A task of its own does that: an outpoint that has to be looked up delays
no header.  An outpoint whose status cannot be computed keeps its old one until the next round.  On the event loop.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Protocol

from electrumx.lib import util
from electrumx.lib.tasks import TimeSlice, for_each
from electrumx.server.mempool.outpoint_watch import Outpoint, OutpointWatch
from electrumx.server.session.notify.outpoint_look_ups import ConfirmedParts, OutpointLookUps
from electrumx.server.storage.schema import DBReadError

SLICE_SECS = 0.001
#: outpoints that are read from the database at once: few, so that the cache holds them all
AT_ONCE = 1_000
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


class StatusSource(ConfirmedParts, Protocol):
    """The source of statuses; see ``OutpointStatuses``."""

    def now(self, outpoint: Outpoint) -> Any:
        """Return the status if that needs no waiting, else None."""

    async def load(self, outpoints: list[Outpoint]) -> None:
        """Cache the heights of unspent outputs."""


class Tip(Protocol):
    """The tip that must not change while statuses are worked out."""

    def state(self) -> object:
        """Return a value that identifies it, None if clients do not know it."""


class OutpointSubscriptions:
    """The subscriptions of all sessions to outpoints."""

    def __init__(self, watch: OutpointWatch, statuses: StatusSource, tip: Tip) -> None:
        self.watch = watch
        self._statuses = statuses
        self._look_ups = OutpointLookUps(statuses)
        self._tip = tip
        # A session, or a set of them: most often there is one.
        self._sessions: dict[Outpoint, OutpointSubscriber | set[OutpointSubscriber]] = {}
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
        found = self._sessions.setdefault(outpoint, session)
        if isinstance(found, set):
            found.add(session)
        elif found is not session:
            self._sessions[outpoint] = {found, session}
        self.watch.add(outpoint)
        # It may have changed after the status was worked out.
        self.watch.touched.add(outpoint)

    def discard(self, outpoint: Outpoint, session: OutpointSubscriber) -> None:
        """End a subscription, if there is one."""
        found = self._sessions.get(outpoint)
        if isinstance(found, set):
            found.discard(session)
            if len(found) == 1:
                self._sessions[outpoint] = found.pop()
        elif found is session:
            del self._sessions[outpoint]
            self.watch.discard(outpoint)
            self._unsettled.discard(outpoint)

    def round_due(self, *, tip_changed: bool) -> None:
        """Have the touched outpoints computed, and their subscribers notified."""
        self._tip_changed |= tip_changed
        self._due.set()

    async def run(self) -> None:
        """Notify subscribers of changes, until cancelled."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                try:
                    await self.tell()
                except Exception:
                    self.logger.exception("could not notify of outpoints; trying again next time")
        finally:
            self._look_ups.cancel()

    async def tell(self) -> None:
        """Compute the statuses of touched outpoints; notify subscribers with another last one.

        Those that are known come first; those that have to be searched for delay no others.
        """
        left, are_all = self.watch.take()
        others: Collection[Outpoint] = ()
        if are_all:
            others = self._sessions
        elif self._tip_changed:
            others = self._unsettled
        self._tip_changed = False
        try:
            await for_each(others, left.add)
            if not left:
                return
            before = self._tip.state()
            if before is not None:
                await self._tell_all(left, before)
                await self._load(left, before)
                if left:
                    await self._look_ups.run(list(left), self._due)
                    await self._tell_all(left, before)
        finally:
            # The others are computed in the next round.
            left -= self._look_ups.take_too_large()
            left |= self.watch.touched
            self.watch.touched = left

    async def _load(self, left: set[Outpoint], before: object) -> None:
        """Read outpoints from the database, and send their statuses: see ``_tell_all``."""
        missing = list(left)
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            try:
                await self._statuses.load(part)
            except DBReadError as e:
                self._look_ups.log(f"trying again: {e}")
                return
            done = set(part)
            await self._tell_all(done, before)
            left.difference_update(outpoint for outpoint in part if outpoint not in done)

    async def _tell_all(self, left: set[Outpoint], before: object) -> None:
        """Send the known statuses of outpoints at a tip, and remove these outpoints from ``left``."""
        concerned: dict[OutpointSubscriber, None] = {}
        time_slice = TimeSlice(SLICE_SECS)
        for outpoint in list(left):
            if time_slice.is_over():
                await time_slice.pause()
            if self._tip.state() != before:
                break
            is_wanted = outpoint in self._sessions
            status = self._statuses.now(outpoint) if is_wanted else None
            if not is_wanted:
                left.discard(outpoint)
            elif status is not None:
                left.discard(outpoint)
                if status.is_settled():
                    self._unsettled.discard(outpoint)
                else:
                    self._unsettled.add(outpoint)
                if not await self._tell_sessions(outpoint, status, before, concerned, time_slice):
                    left.add(outpoint)
        for session in concerned:
            if time_slice.is_over():
                await time_slice.pause()
            if not session.is_closing():
                session.flush()

    async def _tell_sessions(
        self,
        outpoint: Outpoint,
        status: Any,
        before: object,
        concerned: dict[OutpointSubscriber, None],
        time_slice: TimeSlice,
    ) -> bool:
        """Send a status to all subscribers, who are added to ``concerned``.

        Return whether it has not changed in the meantime: the others are not to get an old one.
        """
        found = self._sessions[outpoint]
        for session in tuple(found) if isinstance(found, set) else (found,):
            if time_slice.is_over():
                await time_slice.pause()
                if self._tip.state() != before or self._statuses.now(outpoint) != status:
                    return False
            self._guarded(session, outpoint, status)
            concerned[session] = None
        return True

    def _guarded(self, session: OutpointSubscriber, outpoint: Outpoint, status: Any) -> None:
        if session.is_closing():
            return
        try:
            session.notify_outpoint(outpoint, status)
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
            session.end(FORCE_AFTER_SECS)
