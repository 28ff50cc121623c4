"""The hand-over between blocks and mempool: whom to notify, and when.

A wallet with a pending transaction shall be told once, when its block has been indexed *and* the
mempool has been refreshed at that height: told earlier it would find its transaction in neither,
or in both. So the hashXs touched on each side wait here, by height, until the sides meet.

No hashX is ever lost: a set that is replaced, passed over or left above a chain that became
shorter is joined to the next one that is notified.

Runs in the event loop. State changes happen between awaits, hence need no lock.
"""

from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass

from electrumx.server.packed import Addition

NotifyFunc = Callable[[int, set[bytes]], Awaitable[None]]


@dataclass(slots=True, frozen=True)
class Confirmed:
    """What blocks indexed on top of one tip did, for mempool and caches to follow."""

    height: int
    tip: bytes  # hash of the last of them
    tx_hashes: bytes  # of all their transactions, joined
    spent_outpoints: bytes  # of all their inputs but generation ones: hash and index LE4, joined
    # for who keeps histories, and the tip's header; None if that is not told
    addition: Addition | None = None
    header: bytes | None = None


async def _ignore(height: int, touched: set[bytes]) -> None:
    """Notify nobody: there are no clients before start."""


def _joined(sets: Iterable[set[bytes]]) -> set[bytes]:
    """Return the union of sets, which are used up.

    A mempool's first refresh touches a million hashXs: not a set to copy more often than needed.
    """
    largest, *others = sorted(sets, key=len, reverse=True) or [set()]
    largest.update(*others)
    return largest


def _take(pending: dict[int, set[bytes]], heights: list[int]) -> list[set[bytes]]:
    """Remove these heights from pending; return their sets."""
    return [pending.pop(height) for height in heights]


class Notifications:
    """Pairs the touched hashXs of blocks and of the mempool by height."""

    def __init__(self) -> None:
        self._touched_mp: dict[int, set[bytes]] = {}
        self._touched_bp: dict[int, set[bytes]] = {}
        self._highest_block = -1
        #: Where notifications go: the function given to start, and nowhere before.
        self.notify: NotifyFunc = _ignore

    async def start(self, height: int, notify_func: NotifyFunc) -> None:
        """Send notifications to notify_func, first of this height with nothing touched."""
        self._highest_block = height
        self.notify = notify_func
        await self.notify(height, set())

    async def on_mempool(self, touched: Set[bytes], height: int) -> None:
        """Take the hashXs that a mempool refresh at this daemon height touched."""
        # The mempool's heights only fall if the node's chain did.
        stale = [other for other in self._touched_mp if other >= height]
        self._touched_mp[height] = _joined([set(touched), *_take(self._touched_mp, stale)])
        await self._maybe_notify()

    async def on_block(self, touched: Set[bytes], height: int) -> None:
        """Take the hashXs that indexing blocks up to this height touched.

        A height below an earlier one means a reorganisation.
        """
        known = [height] if height in self._touched_bp else []
        gathered = [set(touched), *_take(self._touched_bp, known)]
        if height < self._highest_block:
            # What the mempool said at a height that is gone joins this block's set: the mempool
            # has yet to be refreshed at this height.
            for side in (self._touched_bp, self._touched_mp):
                stale = [other for other in side if other > height]
                gathered += _take(side, stale)
        self._touched_bp[height] = _joined(gathered)
        self._highest_block = height
        await self._maybe_notify()

    def _meeting_height(self) -> int | None:
        """Return the height at which both sides have met, None if they have not."""
        tmp = self._touched_mp
        common = tmp.keys() & self._touched_bp.keys()
        if common:
            return max(common)
        if tmp and max(tmp) == self._highest_block:
            return self._highest_block
        # Either a block is still being indexed, or the mempool not yet refreshed.
        return None

    async def _maybe_notify(self) -> None:
        height = self._meeting_height()
        if height is None:
            return
        gathered = []
        for side in (self._touched_mp, self._touched_bp):
            gathered += _take(side, [other for other in side if other <= height])
        await self.notify(height, _joined(gathered))
