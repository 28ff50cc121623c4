"""When to notify clients: pairs the hashXs touched by blocks with those touched by the mempool.

A wallet with a pending transaction is to get one notification, when its block is in the index *and*
the mempool agrees with that block: earlier it would find its transaction in neither, or in both.
So the touched hashXs of both sides wait here until the mempool reports the height of the last block.

Clients never wait for the mempool longer than PAIR_SECS, whatever the daemon does.  One rule decides
(``_is_due``), after each report and when the time is over: clients either know the last reported
tip, or get a notification as soon as the mempool agrees with it or PAIR_SECS have passed.  After a
mempool has missed that deadline, blocks do not wait for it again until a refresh is complete: its
partial reports suffice until then (it followed the blocks, but could not list the daemon's
transactions).

One notification is in progress at a time; hashXs reported during it are in the next one, so none is
lost.

Runs in: the event loop.  State changes happen between awaits, hence need no lock.
"""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from electrumx.lib.tasks import wait_for_event
from electrumx.server.db.wire_rows import Addition

NotifyFunc = Callable[[int, set[bytes]], Awaitable[None]]

# How long a block waits for the mempool to agree with it, in seconds.
PAIR_SECS = 1.0
#: a timer of asyncio may fire so much too early
TIMER_SECS = 1e-6
# Between two comparisons of the reported tip with the one that clients know, in seconds.  Each report
# causes one; these find tips that a defect elsewhere would lose.
CHECK_SECS = 1.0


@dataclass(slots=True, frozen=True)
class Confirmed:
    """One step from a tip to the next, as far as mempool and caches follow it.

    Undone blocks make a step too, from the old tip to one below it, which confirms nothing.
    """

    height: int
    tip: bytes  # hash of the last block
    tx_hashes: bytes  # of all transactions of the blocks, joined
    spent_outpoints: bytes  # of all their inputs but generation ones: hash and index LE4, joined
    # the additions of the blocks to histories, and the tip's header; None if unknown
    addition: Addition | None = None
    header: bytes | None = None
    undone: bool = False  # whether the step undoes blocks
    # how many of the spent outpoints are of each transaction; empty if not known
    spend_counts: "array[int]" = field(default_factory=lambda: array("I"))


class ReportedTip(NamedTuple):
    """The committed tip that the block processor reported last."""

    height: int
    tip: bytes  # its hash
    header: bytes
    forks: int  # how many reorgs led to it


async def _ignore(height: int, touched: set[bytes]) -> None:
    """Do nothing: there are no clients before start."""


class Notifications:
    """Decides when to notify clients, of which height and which touched hashXs."""

    def __init__(self) -> None:
        self._touched: set[bytes] = set()  # since the last notification
        self._block_height = -1  # of the last reported block
        #: height that the mempool reported since the last notification, and whether it was complete
        self._mempool_height: int | None = None
        self._mempool_complete = False
        #: loop time at which the reported tip stopped being the one that clients know
        self._waiting_since: float | None = None
        #: whether a block waits for the mempool at all: not before its first read
        self.waits_for_mempool = True
        #: whether the mempool was not complete in time, and has not been since
        self.mempool_late = False
        self._notifying = False
        self._changed = asyncio.Event()
        self._is_known: Callable[[], bool] = lambda: True
        #: notifies clients: the function given to start
        self.notify: NotifyFunc = _ignore

    async def start(
        self,
        height: int,
        notify_func: NotifyFunc,
        is_known: Callable[[], bool] | None = None,
    ) -> None:
        """Send notifications to notify_func, first of this height with nothing touched.

        is_known: returns whether clients know the tip last reported; ``run`` compares.
        """
        self._block_height = height
        self.notify = notify_func
        await self.notify(height, set())
        if is_known is not None:
            self._is_known = is_known

    async def run(self) -> None:
        """Notify when it is due without another report, until cancelled."""
        while True:
            await self._wait()
            if self._waiting_since is None and not self._is_known():
                self._waiting_since = self._now()
            await self._notify_due()

    async def _wait(self) -> None:
        """Return after a report, at the mempool's deadline, or when it is time to compare tips."""
        self._changed.clear()
        secs = CHECK_SECS
        if self._waiting_since is not None and not self._notifying:
            secs = min(secs, max(0.0, self._waiting_since + PAIR_SECS - self._now()) + TIMER_SECS)
        await wait_for_event(self._changed, secs)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def on_mempool(self, touched: Set[bytes], height: int, *, complete: bool = True) -> None:
        """Add the hashXs that the mempool touched since its last report.

        complete: whether the mempool has all transactions of the daemon's at this height, or only
        follows the blocks.
        """
        self._touched |= touched
        self._mempool_height, self._mempool_complete = height, complete
        await self._notify_due()

    async def on_block(self, touched: Set[bytes], height: int) -> None:
        """Add the hashXs touched by the blocks that led to another tip, of this height."""
        self._touched |= touched
        self._block_height = height
        if self._waiting_since is None:
            self._waiting_since = self._now()
        self._changed.set()
        await self._notify_due()

    def _is_due(self) -> bool:
        """Return whether to notify clients now."""
        paired = self._mempool_height == self._block_height
        if paired and (self._mempool_complete or self.mempool_late or self._waiting_since is None):
            return True
        if self._waiting_since is None:
            return False
        # Compared as _wait computes it: a sum may round differently.
        return not self.waits_for_mempool or self._now() >= self._waiting_since + PAIR_SECS

    async def _notify_due(self) -> None:
        """Notify until nothing is due; return at once if a notification is in progress."""
        if self._notifying:
            return
        self._notifying = True
        try:
            while self._is_due():
                await self._notify_all()
        finally:
            self._notifying = False
            self._changed.set()

    async def _notify_all(self) -> None:
        """Notify of the last reported block with all touched hashXs."""
        if self._mempool_height == self._block_height and self._mempool_complete:
            self.mempool_late = False
        elif self._waiting_since is not None:
            self.mempool_late = True
        touched, self._touched = self._touched, set()
        self._waiting_since = None
        if self._mempool_height == self._block_height:
            self._mempool_height = None
        await self.notify(self._block_height, touched)
