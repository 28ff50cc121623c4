"""Takes over each new tip for all clients, and has them notified of it.

Runs on the event loop.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from electrumx.server.db.wire_rows import Addition
from electrumx.server.notifications import Confirmed, ReportedTip
from electrumx.server.session.notify.announced_header import AnnouncedHeader
from electrumx.server.session.notify.fanout import FanOut
from electrumx.server.session.notify.noise import Noise
from electrumx.server.session.notify.outpoints import OutpointSubscriptions
from electrumx.server.session.shared.outpoint_cache import (
    AT_ONCE,
    BlockChanges,
    OutpointCache,
)
from electrumx.server.session.shared.script_cache import ScriptCache
from electrumx.server.session.shared.tip_consistency import TipConsistency

# Steps between two notifications to follow one by one, at most
MAX_STEPS = 100


class TipSource(Protocol):
    """The block processor, as the notifier uses it."""

    @property
    def reported(self) -> ReportedTip | None:
        """The committed tip last reported; None before the first."""

    @property
    def forks(self) -> Sequence[int]:
        """The height of the last common block of each reorganisation so far."""

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        """Return the step from a tip (its hash) to the next; None if unknown."""


class Notifier:
    """Keeps the tip that clients know: one for all, with its caches and its header."""

    def __init__(
        self,
        processor: TipSource,
        tip: TipConsistency,
        scripts: ScriptCache,
        header: AnnouncedHeader,
        fan_out: FanOut,
        outpoints: OutpointSubscriptions,
        cache: OutpointCache,
        noise: Noise,
    ) -> None:
        self._processor = processor
        self._tip = tip
        self._scripts = scripts
        self._header = header
        self._fan_out = fan_out
        self._outpoints = outpoints
        self._cache = cache
        self._noise = noise
        self._notified: ReportedTip | None = None
        # The tip at which the cached outpoints are
        self._applied: ReportedTip | None = None

    async def notify(self, _height: int, touched: set[bytes]) -> None:
        """Notify sessions that a block or a mempool refresh touched these hashXs.

        Returns when the shared state is up to date and each session has its notification, or
        a task that will notify it. The height is that of the processor's reported tip.
        """
        # Before taking over the tip
        steps = self._steps_to(self._processor.reported)
        needs_outpoints = self._needs_outpoints()
        if steps != []:
            self._cache.hold()
        changed = self._take_tip(touched)
        forks = 0 if self._notified is None else self._notified.forks
        try:
            told = await self._fan_out.notify(touched, changed)
            if needs_outpoints:
                await self._take_outpoints(steps)
            self._applied = self._notified
        except BaseException:
            self._lose_outpoints()
            raise
        finally:
            self._cache.release()
        self._outpoints.round_due(tip_changed=changed)
        self._noise.round_ended(told, is_block=changed)
        self._tip.set_known_reorgs(forks)

    def is_tip_known(self) -> bool:
        """Return whether clients know the tip that the processor reported last."""
        return self._notified is self._processor.reported

    def _needs_outpoints(self) -> bool:
        """Return whether there are watched or cached outpoints."""
        return bool(self._outpoints.watch or self._cache)

    def _steps_to(self, reported: ReportedTip | None) -> list[Confirmed] | None:
        """Return the steps from the tip that clients know to another; None if they are unknown."""
        tip = self._tip.notified_tip
        if tip is None or reported is None:
            return None
        known = self._notified
        if tip == reported.tip and known is not None and known.forks != reported.forks:
            # Blocks were undone and indexed again: reads of statuses may have missed them.
            return None
        steps: list[Confirmed] = []
        while tip != reported.tip:
            step = self._processor.confirmed_after(tip)
            if step is None or len(steps) > MAX_STEPS:
                return None
            steps.append(step)
            tip = step.tip
        return steps

    async def _take_outpoints(self, steps: list[Confirmed] | None) -> None:
        """Apply the steps to the tip to the cached outpoints, and mark the watched ones."""
        watch, cache = self._outpoints.watch, self._cache
        if steps is None:
            self._lose_outpoints()
        for step in steps or ():
            if step.undone:
                await cache.undo_blocks(step.height)
                watch.touch_all()
                continue
            # Scripts watched from now on get their mark then, and nothing enters the cache until ``release``.
            changes = await asyncio.to_thread(
                BlockChanges.of_step, step, watch.by_tx, cache.other_txs
            )
            await cache.add_blocks(changes)
            for tx_hash in changes.heights.keys() & watch.by_tx.keys():
                watch.touch_tx(tx_hash, ())
            for number, outpoint in enumerate(changes.spenders, start=1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
                if outpoint in watch:
                    watch.touched.add(outpoint)

    def _lose_outpoints(self) -> None:
        """Have all outpoints read again: the blocks since the last tip are unknown."""
        applied = self._applied
        forks = [] if applied is None else self._processor.forks[applied.forks :]
        self._cache.lose(-1 if applied is None else min([applied.height, *forks]))
        self._outpoints.watch.touch_all()

    def _take_tip(self, touched: set[bytes]) -> bool:
        """Take over the reported tip for all clients; return whether it is another block.

        Without an await: the tip, the touched scripts and the dropped cache entries change at once.
        """
        reported = self._processor.reported
        if reported is None or reported is self._notified:
            return False
        self._notified = reported
        self._scripts.drop(touched, self._addition_to(reported))
        # Also if it is the same tip as before: requests wait during the replacement of its blocks.
        self._tip.notified(reported.height, reported.tip)
        # Not if the same blocks were undone and indexed again.
        return self._header.set(reported.height, reported.header)

    def _addition_to(self, reported: ReportedTip) -> Addition | None:
        """Return the additions of one step from the tip last notified; None of several steps."""
        tip = self._tip.notified_tip
        step = None if tip is None else self._processor.confirmed_after(tip)
        return step.addition if step is not None and step.tip == reported.tip else None
