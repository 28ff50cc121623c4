"""Notifies the sessions that a block or a mempool refresh concerns, each independently.

The header comes first, encoded once.  ``refresh`` brings the histories of all touched scripts with
subscribers up to date together.  Then most statuses are cached, and go out at once, without a task,
in one write with the header if that did not take long.  A session that has to wait gets a task with
a time-out; its later notifications follow, combined.  A failure ends only the session concerned.

Runs on the event loop, and yields to it after each time slice of a millisecond.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from time import perf_counter
from types import CoroutineType
from typing import TypeVar

from aiorpcx import RPCError, TaskTimeout, timeout_after

from electrumx.lib import util
from electrumx.lib.tasks import TimeSlice
from electrumx.server.session.notify.subscriber import ScriptSubscriber, Subscriber
from electrumx.server.session.notify.subscriptions import ScriptIndex

T = TypeVar("T")

NOTIFY_SECS = 30.0
# A header waits so long, at most, to share a write with statuses.
HEADER_SECS = 0.1
FORCE_AFTER_SECS = 1.0
SLICE_SECS = 0.001
# Sessions that get notifications whatever was touched get one, between two blocks, so often at most:
# each costs a request to the node, and single transactions may arrive at any rate.
ALWAYS_SECS = 4.0


@dataclass(slots=True)
class Backlog:
    """The notifications that a session has not got yet, combined."""

    touched: set[bytes] = field(default_factory=set)
    height_changed: bool = False

    def add(self, touched: Iterable[bytes], height_changed: bool) -> None:
        """Add a later notification."""
        self.touched.update(touched)
        self.height_changed |= height_changed


class FanOut:
    """Notifies sessions of their subscriptions."""

    def __init__(
        self,
        sessions: Collection[Subscriber],
        refresh: Callable[[Iterable[bytes]], Awaitable[None]],
    ) -> None:
        """``sessions`` is the live table of all sessions, which others change.

        ``refresh(hashXs)`` brings the cached histories of scripts up to date.
        """
        self.scripts = ScriptIndex()
        #: sessions to notify whatever was touched, at most every ALWAYS_SECS between blocks
        self.always: set[Subscriber] = set()
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        #: the tasks of notifications that have to wait
        self.tasks: set[asyncio.Task[None]] = set()
        #: sessions notified without a task, and of how many scripts, to log after the round
        self.notified: list[tuple[ScriptSubscriber, int]] = []
        self._sessions = sessions
        self._refresh = refresh
        #: sessions with such a task, and the notifications that follow it
        self.busy: dict[Subscriber, Backlog | None] = {}
        # When those of ``always`` were last notified, by perf_counter
        self._always_at = float("-inf")
        # Rounds follow one another, so that notifications keep the order of blocks.
        self._round = asyncio.Lock()

    async def notify(self, touched: set[bytes], height_changed: bool) -> Collection[Subscriber]:
        """Notify all sessions concerned; return when each has its notification or a task for it.

        The result is those with touched scripts.
        """
        async with self._round:
            own = await self.scripts.concerned(touched)
            refreshing = asyncio.ensure_future(self._refresh(set().union(*own.values())))
            concerned: list[Subscriber] = []
            if height_changed:
                async for session in _in_time_slices(self._sessions):
                    if session not in own:
                        self._guarded(session, session.notify_height)
                        if session.is_concerned():
                            concerned.append(session)
            header_due = height_changed
            if own:
                await asyncio.wait([refreshing], timeout=HEADER_SECS)
                if header_due and not refreshing.done():
                    async for session in _in_time_slices(own):
                        self._guarded(session, session.notify_height)
                    header_due = False
                await asyncio.wait([refreshing], timeout=NOTIFY_SECS)
            # Sessions whose histories are not up to date by now wait for them in their own tasks.
            refreshing.cancel()
            always = self.always if self._always_due(height_changed) else ()
            async for session in _in_time_slices(set(always).union(own, concerned)):
                scripts = own.get(session)
                if scripts and header_due:
                    self._guarded(session, session.post_height)
                self._notify_one(session, scripts or (), height_changed)
                self._guarded(session, session.flush)
            notified, self.notified = self.notified, []
            async for subscriber, count in _in_time_slices(notified):
                subscriber.log_notified(count)
        return own.keys()

    def _always_due(self, height_changed: bool) -> bool:
        """Return whether this round is to notify the sessions of ``always``."""
        now = perf_counter()
        if not height_changed and now < self._always_at + ALWAYS_SECS:
            return False
        self._always_at = now
        return True

    def notify_deferred(self, session: Subscriber, hashX: bytes) -> None:
        """Notify a session of a script touched before the reply to its subscription."""
        self._notify_one(session, (hashX,), height_changed=False)
        self._guarded(session, session.flush)

    def forget(self, session: Subscriber) -> None:
        """Stop notifying a session."""
        self.always.discard(session)

    def cancel(self) -> None:
        """Cancel all notifications in progress."""
        for task in self.tasks:
            task.cancel()

    def _guarded(self, session: Subscriber, notify: Callable[[], T]) -> T | None:
        """Return the result of notifying a session; end the session if that fails."""
        if session.is_closing():
            return None
        try:
            return notify()
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
            session.end(FORCE_AFTER_SECS)
            return None

    def _notify_one(
        self, session: Subscriber, touched: Iterable[bytes], height_changed: bool
    ) -> None:
        if session in self.busy:
            backlog = self.busy[session]
            if backlog is None:
                backlog = self.busy[session] = Backlog()
            backlog.add(touched, height_changed)
            return
        waiting = self._guarded(session, partial(session.notify, set(touched), height_changed))
        if waiting is not None and isawaitable(waiting):
            self.busy[session] = None
            task = asyncio.get_running_loop().create_task(self._wait_for(session, waiting))
            self.tasks.add(task)
            task.add_done_callback(partial(self._done, session, waiting))

    def _done(
        self, session: Subscriber, waiting: Awaitable[None], task: asyncio.Task[None]
    ) -> None:
        """End a session with a cancelled notification: it would never get the lost ones."""
        self.tasks.discard(task)
        if isinstance(waiting, CoroutineType):
            # It may never have begun.
            waiting.close()
        if task.cancelled():
            self.busy.pop(session, None)
            session.end(FORCE_AFTER_SECS)

    async def _wait_for(self, session: Subscriber, waiting: Awaitable[None]) -> None:
        """Notify one session, and again for as long as it has a backlog."""
        try:
            while True:
                async with timeout_after(NOTIFY_SECS):
                    await waiting
                backlog = self.busy.get(session)
                if backlog is None or session.is_closing():
                    break
                self.busy[session] = None
                following = session.notify(backlog.touched, backlog.height_changed)
                if following is None or not isawaitable(following):
                    break
                waiting = following
            return
        except (TaskTimeout, RPCError) as e:
            self.logger.warning(
                f"closing session {session.session_id} with {session.sub_count():,d} "
                f"subscriptions: could not notify it: {e}"
            )
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
        finally:
            self.busy.pop(session, None)
        await session.close(force_after=FORCE_AFTER_SECS)


async def _in_time_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate over a copy; yield to the event loop after each time slice."""
    time_slice = TimeSlice(SLICE_SECS)
    for item in list(items):
        yield item
        if time_slice.is_over():
            await time_slice.pause()
