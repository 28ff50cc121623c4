"""Reports each committed tip, once, to the notifications.

Owns what was reported last, and the steps from tip to tip of which mempool and caches are told.
``check`` compares the committed tip with the reported one; it is called after each commit and, by
``run``, several times a second.  So whatever fails between a commit and its report delays the
report by a moment and cannot lose it.

While blocks are being replaced the tip is only reported when new blocks were indexed, when the node
has none, or after FORK_SECS: wallets take an answer about a block that is only missing for a moment
as final.

Runs in: the event loop.  The state lock is held while a report is made, so that height, tip, header
and touched hashXs belong together.
"""

import asyncio
from typing import TYPE_CHECKING

from electrumx.server.notifications import Confirmed, Notifications, ReportedTip

if TYPE_CHECKING:
    from electrumx.server.block_processor.flush_scheduler import Flushing

# How long the lower tip that undoing blocks leaves is not reported, in seconds.
FORK_SECS = 3.0
# Between two comparisons of the committed tip with the reported one, in seconds.
CHECK_SECS = 0.25
# Steps that are kept: a mempool that is further behind asks the node.
KEPT_STEPS = 8


class TipReporter:
    """Compares the committed tip of a block processor with the one reported last."""

    def __init__(self, index: "Flushing", notifications: Notifications) -> None:
        """``index``: the processor, whose height, tip, touched hashXs and lock are used."""
        self._index = index
        self._notifications = notifications
        #: None before the first report
        self.reported: ReportedTip | None = None
        #: of each reorganisation: the height up to which it left the chain as it was
        self.forks: list[int] = []
        #: loop time at which a reorganisation began, if neither blocks were indexed nor the tip was
        #: reported since
        self._undone_since: float | None = None
        #: tip -> the step from there, as far as known; following them leads to the present tip
        self._steps: dict[bytes, Confirmed] = {}
        #: hash and header of the block last indexed
        self._last_block = (b"", b"")

    # -- steps

    def add_step(self, from_tip: bytes, step: Confirmed) -> None:
        """Remember how one tip became another, the present one."""
        while len(self._steps) >= KEPT_STEPS:
            del self._steps[next(iter(self._steps))]
        # No way leads from the present tip, thus none in a circle.
        self._steps.pop(step.tip, None)
        self._steps[from_tip] = step

    def step_from(self, tip: bytes) -> Confirmed | None:
        """Return the step from a tip; None for the present one, or if that is not known."""
        return self._steps.get(tip)

    def reorg_begins(self, fork_height: int) -> None:
        """Note that the blocks above a height are going to be undone."""
        self.forks.append(fork_height)
        if self._undone_since is None:
            self._undone_since = self._now()

    def blocks_undone(self, from_tip: bytes) -> None:
        """Note that blocks down from a tip were undone, and the rest committed."""
        index = self._index
        self.add_step(from_tip, Confirmed(index.height, index.tip, b"", b"", undone=True))

    def blocks_advanced(self, header: bytes) -> None:
        """Note that blocks were indexed, the last of them with this header, and committed."""
        self._undone_since = None
        self._last_block = self._index.tip, header

    # -- reports

    @property
    def forks_reported(self) -> int:
        """How many of the reorganisations led to the reported tip."""
        return self.reported.forks if self.reported else 0

    async def run(self) -> None:
        """Report whatever was not reported where it happened, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECS)
            if self.reported is not None:
                await self.check()

    async def check(self) -> None:
        """Report the committed tip with what was touched, if it is not the reported one."""
        if not self._is_due():
            return
        index = self._index
        async with index.state_lock:
            if not self._is_due():
                return
            tip, header = self._last_block
            if tip != index.tip:
                header = await index.db.raw_header(index.height)
            touched, index.touched = index.touched, set()
            self._undone_since = None
            self.reported = ReportedTip(index.height, index.tip, header, len(self.forks))
        await self._notifications.on_block(touched, self.reported.height)

    def _is_due(self) -> bool:
        index, reported = self._index, self.reported
        tip = index.height, index.tip
        if tip != (index.db.db_height, index.db.db_tip):
            # Blocks are indexed, but not committed.
            return False
        if reported is not None and (*tip, len(self.forks)) == (
            *(reported.height, reported.tip),
            reported.forks,
        ):
            # Touched hashXs without another tip: blocks were undone and indexed again.
            return bool(index.touched)
        return not self._is_replacing_blocks()

    def _is_replacing_blocks(self) -> bool:
        """Return whether new blocks are expected any moment for those that were undone."""
        if self._undone_since is None:
            return False
        daemon_height = self._index.daemon.cached_height()
        has_more = daemon_height is None or daemon_height > self._index.height
        return has_more and self._now() < self._undone_since + FORK_SECS

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
