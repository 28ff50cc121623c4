"""The sessions subscribed to each outpoint, and their notifications.

Blocks and mempool mark the outpoints that they touch.  After each round of notifications a task
of its own computes their statuses again, each once for all its subscribers, and notifies subscribers
that last got another status: an outpoint that needs a look-up delays no header.  An outpoint whose
status cannot be computed keeps its old one until the next round.  On the event loop.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from electrumx.lib import util
from electrumx.lib.tasks import TimeSlice, for_each
from electrumx.lib.util import chunks
from electrumx.server.mempool.outpoint_watch import Outpoint, OutpointWatch
from electrumx.server.session.notify.outpoint_look_ups import ConfirmedParts, OutpointLookUps
from electrumx.server.session.notify.outpoint_news import OutpointNews
from electrumx.server.storage.schema import DBReadError

SLICE_SECS = 0.001
#: outpoints in one database read: few, so that the cache holds them all
AT_ONCE = 1_000
FORCE_AFTER_SECS = 1.0
#: outpoints of a session between two looks at the clock: a fraction of a millisecond
PART = 32


class OutpointSubscriber(Protocol):
    """A session that can subscribe to outpoints."""

    session_id: int

    def notify_outpoints(self, news: Sequence[OutpointNews]) -> None:
        """Queue those statuses that are not the ones last sent."""

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

    def keep(self, outpoint: Outpoint) -> None:
        """Note that an outpoint has subscribers."""

    def let_go(self, outpoint: Outpoint) -> None:
        """Note that an outpoint has no subscribers any more."""


class Tip(Protocol):
    """The tip that must not change during the computation of statuses."""

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
        #: pairs of an outpoint and a session
        self.subscription_count = 0
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
        """Subscribe a session, whose client gets the status now."""
        found = self._sessions.get(outpoint)
        if found is None:
            self._sessions[outpoint] = session
            self.subscription_count += 1
        elif isinstance(found, set):
            self.subscription_count += session not in found
            found.add(session)
        elif found is not session:
            self._sessions[outpoint] = {found, session}
            self.subscription_count += 1
        self.watch.add(outpoint)
        self._statuses.keep(outpoint)
        # It may have changed after the computation of the status.
        self.watch.touched.add(outpoint)

    def discard(self, outpoint: Outpoint, session: OutpointSubscriber) -> None:
        """End a subscription, if there is one."""
        found = self._sessions.get(outpoint)
        if isinstance(found, set):
            self.subscription_count -= session in found
            found.discard(session)
            if len(found) == 1:
                self._sessions[outpoint] = found.pop()
        elif found is session:
            del self._sessions[outpoint]
            self.subscription_count -= 1
            self.watch.discard(outpoint)
            self._statuses.let_go(outpoint)
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

        Known ones come first; those that need a search delay no others.
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
                if left and self._tip.state() == before:
                    await self._load(left, before)
                if left and self._tip.state() == before:
                    await self._look_ups.run(list(left), self._due)
                    await self._tell_all(left, before)
        finally:
            # The next round computes the others.
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
            if self._tip.state() != before:
                return

    async def _tell_all(self, left: set[Outpoint], before: object) -> None:
        """Send the known statuses of outpoints at a tip, and remove these outpoints from ``left``.

        Each session gets its own in one write.
        """
        time_slice = TimeSlice(SLICE_SECS)
        untold: set[Outpoint] = set()
        known: dict[Outpoint, OutpointNews | None] = {}
        by_session = await self._by_session(left)
        if self._tip.state() != before:
            # The mempool may be at the new tip, and the cached confirmed parts at the old one.
            return
        for session, outpoints in by_session.items():
            for part in chunks(outpoints, PART):
                if time_slice.is_over():
                    await time_slice.pause()
                    if self._tip.state() != before:
                        # They get the rest in the next round.
                        session.flush()
                        return
                    # Statuses may have changed: no session gets an old one.
                    known.clear()
                found = [self._news(outpoint, known) for outpoint in part]
                if None in found:
                    untold.update(outpoint for outpoint in part if known[outpoint] is None)
                self._guarded(session, [news for news in found if news is not None])
            if not session.is_closing():
                session.flush()
        left &= untold

    async def _by_session(
        self, outpoints: Iterable[Outpoint]
    ) -> dict[OutpointSubscriber, list[Outpoint]]:
        """Return the subscribers of outpoints, each with those of its subscriptions."""
        by_session: dict[OutpointSubscriber, list[Outpoint]] = {}

        def add(outpoint: Outpoint) -> None:
            found = self._sessions.get(outpoint, ())
            for session in found if isinstance(found, (set, tuple)) else (found,):
                by_session.setdefault(session, []).append(outpoint)

        await for_each(outpoints, add)
        return by_session

    def _news(
        self, outpoint: Outpoint, known: dict[Outpoint, OutpointNews | None]
    ) -> OutpointNews | None:
        """Return the status to send of an outpoint, None if unknown; add it to ``known``."""
        if outpoint in known:
            return known[outpoint]
        status = self._statuses.now(outpoint)
        news = known[outpoint] = None if status is None else OutpointNews(outpoint, status)
        if status is not None:
            if status.is_settled() or outpoint not in self._sessions:
                self._unsettled.discard(outpoint)
            else:
                self._unsettled.add(outpoint)
        return news

    def _guarded(self, session: OutpointSubscriber, news: Sequence[OutpointNews]) -> None:
        if session.is_closing():
            return
        try:
            session.notify_outpoints(news)
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
            session.end(FORCE_AFTER_SECS)
