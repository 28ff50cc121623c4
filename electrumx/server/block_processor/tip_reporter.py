"""Reports each committed tip, once, to the notifications.

Owns the last report, and the steps from tip to tip that mempool and caches follow.
``check`` compares the committed tip with the reported one; the block processor calls it after each
commit, and ``run`` several times a second.  So a failure between a commit and its report delays the
report by a moment and cannot lose it.

During a reorg a report only comes when there are new indexed blocks, when the daemon has none, or
after REORG_SECS: wallets take an answer about a block that is missing for a moment as final.

Runs in: the event loop.  Making a report holds the state lock, so that height, tip, header
and touched hashXs belong together.
"""

import asyncio
from collections.abc import Callable

from electrumx.server.block_processor.chain_state import ChainState
from electrumx.server.db import DB
from electrumx.server.notifications import Confirmed, Notifications, ReportedTip

# Seconds for which the lower tip that undoing blocks leaves stays unreported.
REORG_SECS = 3.0
# Between two comparisons of the committed tip with the reported one, in seconds.
CHECK_SECS = 0.25
# Steps to keep: a mempool that is further behind asks the daemon.
KEPT_STEPS = 8


class TipReporter:
    """Compares the committed tip with the one reported last."""

    def __init__(
        self,
        state: ChainState,
        db: DB,
        daemon_height: Callable[[], int | None],
        notifications: Notifications,
    ) -> None:
        """``daemon_height`` returns the daemon's height, if known."""
        self._state = state
        self._db = db
        self._daemon_height = daemon_height
        self._notifications = notifications
        #: None before the first report
        self.reported: ReportedTip | None = None
        #: of each reorg: the height up to which it left the chain as it was
        self.forks: list[int] = []
        #: loop time at which a reorg began, if neither indexed blocks nor a report of the tip came since
        self._undone_since: float | None = None
        #: tip -> the step from there, as far as known; following them leads to the present tip
        self._steps: dict[bytes, Confirmed] = {}
        #: hash and header of the block last indexed
        self._last_block = (b"", b"")

    # -- steps

    def add_step(self, from_tip: bytes, step: Confirmed) -> None:
        """Remember how one tip became another, the current one."""
        while len(self._steps) >= KEPT_STEPS:
            del self._steps[next(iter(self._steps))]
        # No step leads from the current tip, so there is no cycle.
        self._steps.pop(step.tip, None)
        self._steps[from_tip] = step

    def step_from(self, tip: bytes) -> Confirmed | None:
        """Return the step from a tip; None for the current one, or if it is unknown."""
        return self._steps.get(tip)

    def reorg_begins(self, fork_height: int) -> None:
        """Note that the blocks above a height will be undone."""
        self.forks.append(fork_height)
        if self._undone_since is None:
            self._undone_since = self._now()

    def blocks_undone(self, from_tip: bytes) -> None:
        """Note that blocks down from a tip were undone, and the rest committed."""
        state = self._state
        self.add_step(from_tip, Confirmed(state.height, state.tip, b"", b"", undone=True))

    def blocks_advanced(self, header: bytes) -> None:
        """Note the commit of indexed blocks, the last of them with this header."""
        self._undone_since = None
        self._last_block = self._state.tip, header

    # -- reports

    @property
    def forks_reported(self) -> int:
        """How many of the reorgs led to the reported tip."""
        return self.reported.forks if self.reported else 0

    async def run(self) -> None:
        """Report tips that had no report at their commit, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECS)
            if self.reported is not None:
                await self.check()

    async def check(self) -> None:
        """Report the committed tip with the touched hashXs, if it is not the reported one."""
        if not self._is_due():
            return
        state = self._state
        async with state.lock:
            if not self._is_due():
                return
            tip, header = self._last_block
            if tip != state.tip:
                header = await self._db.raw_header(state.height)
            touched = state.take_touched()
            self._undone_since = None
            self.reported = ReportedTip(state.height, state.tip, header, len(self.forks))
        await self._notifications.on_block(touched, self.reported.height)

    def _is_due(self) -> bool:
        state, reported = self._state, self.reported
        tip = state.height, state.tip
        if tip != (self._db.db_height, self._db.db_tip):
            # Indexed blocks wait for their commit.
            return False
        if reported is not None and (*tip, len(self.forks)) == (
            *(reported.height, reported.tip),
            reported.forks,
        ):
            # Touched hashXs without another tip: blocks were undone and indexed again.
            return bool(state.touched)
        return not self._is_in_reorg()

    def _is_in_reorg(self) -> bool:
        """Return whether new blocks should come soon in place of the undone ones."""
        if self._undone_since is None:
            return False
        daemon_height = self._daemon_height()
        has_more = daemon_height is None or daemon_height > self._state.height
        return has_more and self._now() < self._undone_since + REORG_SECS

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
