"""Who is told of a block or a mempool refresh: those whom it concerns, each apart from the others.

First of all comes the new header, which is encoded once.  Meanwhile the histories of all touched
scripts that anybody subscribed to are brought up to date together; after that most statuses need no
waiting, and are sent at once, without a task, and with the header in one write, unless that would
have had to wait for long.  A session that has to wait all the same gets a task with a time-out; what
arises for it meanwhile is put together and follows.  Whatever goes wrong ends that session only.  On
the event loop; a slice of a millisecond, then others have their turn.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from time import perf_counter
from types import CoroutineType
from typing import Any

from aiorpcx import RPCError, TaskTimeout, timeout_after

from electrumx.lib import util
from electrumx.server.session.notify.subscriptions import ScriptIndex

NOTIFY_SECS = 30.0
# So long a header waits, at most, to be sent together with statuses.
HEADER_SECS = 0.1
FORCE_AFTER_SECS = 1.0
SLICE_SECS = 0.001
# Sessions that want to be notified on every occasion are, between two blocks, so often at most: the
# node is asked for each of them, and single transactions may come every moment.
ALWAYS_SECS = 4.0


@dataclass(slots=True)
class News:
    """What has not been told to a session yet."""

    touched: set[bytes] = field(default_factory=set)
    height_changed: bool = False

    def add(self, touched: Iterable[bytes], height_changed: bool) -> None:
        """Put later news to it."""
        self.touched.update(touched)
        self.height_changed |= height_changed


class FanOut:
    """Tells sessions what they subscribed to."""

    def __init__(
        self, sessions: set[Any], refresh: Callable[[Iterable[bytes]], Awaitable[None]]
    ) -> None:
        """``sessions`` is the table of them all, which others change.

        ``refresh(hashXs)`` brings what is remembered of scripts up to date.
        """
        self.scripts = ScriptIndex()
        #: sessions to be notified whatever was touched, at most every ALWAYS_SECS between blocks
        self.always: set[Any] = set()
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        #: the tasks of notifications that have to wait
        self.tasks: set[asyncio.Task[None]] = set()
        #: sessions that were told without waiting, and of how many scripts: for the log, afterwards
        self.told: list[tuple[Any, int]] = []
        self._sessions = sessions
        self._refresh = refresh
        # Sessions with such a task, and what is to be told after it
        self._busy: dict[Any, News | None] = {}
        # When those of ``always`` were last notified, by perf_counter
        self._always_at = float("-inf")
        # Rounds come one after the other, so that no session hears of blocks out of order.
        self._round = asyncio.Lock()

    async def tell(self, touched: set[bytes], height_changed: bool) -> None:
        """Tell all whom it concerns; return when all were told or have a task that will."""
        async with self._round:
            own = await self.scripts.concerned(touched)
            refreshing = asyncio.ensure_future(self._refresh(set().union(*own.values())))
            concerned: list[Any] = []
            if height_changed:
                async for session in _in_slices(self._sessions):
                    if session not in own:
                        self._guarded(session, session.notify_height)
                        if session.is_concerned():
                            concerned.append(session)
            header_due = height_changed
            if own:
                await asyncio.wait([refreshing], timeout=HEADER_SECS)
                if header_due and not refreshing.done():
                    async for session in _in_slices(own):
                        self._guarded(session, session.notify_height)
                    header_due = False
                await asyncio.wait([refreshing], timeout=NOTIFY_SECS)
            # Who still waits for it will do so alone.
            refreshing.cancel()
            always = self.always if self._always_due(height_changed) else ()
            async for session in _in_slices(set(always).union(own, concerned)):
                scripts = own.get(session)
                if scripts and header_due:
                    self._guarded(session, session.post_height)
                self._tell_one(session, scripts or (), height_changed)
                self._guarded(session, session.flush)
            told, self.told = self.told, []
            async for session, count in _in_slices(told):
                session.log_notified(count)

    def _always_due(self, height_changed: bool) -> bool:
        """Return whether the sessions of ``always`` are to be notified in this round."""
        now = perf_counter()
        if not height_changed and now < self._always_at + ALWAYS_SECS:
            return False
        self._always_at = now
        return True

    def tell_late(self, session: Any, hashX: bytes) -> None:
        """Tell a session of a script that was touched when it could not be told yet."""
        self._tell_one(session, (hashX,), height_changed=False)
        self._guarded(session, session.flush)

    def forget(self, session: Any) -> None:
        """Tell a session nothing any more."""
        self.always.discard(session)

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in self.tasks:
            task.cancel()

    def _guarded(self, session: Any, notify: Callable[..., Any], *args: Any) -> Any:
        """Return what notifying a session returns; if it fails, end the session."""
        if session.is_closing():
            return None
        try:
            return notify(*args)
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
            session.end(FORCE_AFTER_SECS)
            return None

    def _tell_one(self, session: Any, touched: Iterable[bytes], height_changed: bool) -> None:
        if session in self._busy:
            news = self._busy[session]
            if news is None:
                news = self._busy[session] = News()
            news.add(touched, height_changed)
            return
        waiting = self._guarded(session, session.notify, set(touched), height_changed)
        if isawaitable(waiting):
            self._busy[session] = None
            task = asyncio.get_running_loop().create_task(self._wait_for(session, waiting))
            self.tasks.add(task)
            task.add_done_callback(partial(self._done, session, waiting))

    def _done(self, session: Any, waiting: Any, task: asyncio.Task[None]) -> None:
        """End a session whose notification was cancelled: it would never learn what it missed."""
        self.tasks.discard(task)
        if isinstance(waiting, CoroutineType):
            # It may never have begun.
            waiting.close()
        if task.cancelled():
            self._busy.pop(session, None)
            session.end(FORCE_AFTER_SECS)

    async def _wait_for(self, session: Any, waiting: Any) -> None:
        """Notify one session, and again as long as there is more to tell it."""
        try:
            while True:
                async with timeout_after(NOTIFY_SECS):
                    await waiting
                news = self._busy.get(session)
                if news is None or session.is_closing():
                    break
                self._busy[session] = None
                waiting = session.notify(news.touched, news.height_changed)
                if not isawaitable(waiting):
                    break
            return
        except (TaskTimeout, RPCError) as e:
            self.logger.warning(
                f"closing session {session.session_id} with {session.sub_count():,d} "
                f"subscriptions: could not notify it: {e}"
            )
        except Exception:
            self.logger.exception(f"closing session {session.session_id}: could not notify it")
        finally:
            self._busy.pop(session, None)
        await session.close(force_after=FORCE_AFTER_SECS)


async def _in_slices(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Iterate over a copy; others have their turn after every slice."""
    deadline = perf_counter() + SLICE_SECS
    for item in list(items):
        yield item
        if perf_counter() > deadline:
            await asyncio.sleep(0)
            deadline = perf_counter() + SLICE_SECS
