"""Makes each answer belong to one chain tip, the one that clients know.

A balance or history combines database and mempool across several awaits, during which the chain may
gain or lose a block.  ``TipConsistency`` knows the tip of the last notification, and retries a
computation until the tip is the same before and after it.  A computation without an await needs no
retry if ``is_tip_stable``.  One over cached values needs less, ``is_tip_known``: a block that the
processor has indexed but not committed has changed nothing that clients see.

What belongs to one block alone, its header or the proof of a transaction in it, is consistent in
itself unless a reorganisation replaces the block.  Then it waits for the notification of the new
chain (``retry_at_known_blocks``).  An answer from headers that clients do not know is fatal to
Electrum: after an error for a proof, or a proof that does not fit the header it knows, it treats the
transaction as unconfirmed until a restart.

Runs on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from electrumx.lib.tasks import wait_for_event
from electrumx.server.session.engine.params import BAD_REQUEST, ServerFault
from electrumx.server.session.engine.prices import COST_FAILED_TRY

T = TypeVar("T")

# Before each try, wait so many seconds, at most, for a notification of another height. The last
# wait ends with the time-out of the request.
WAITS: tuple[float | None, ...] = (0, 0.5, 2.5, 5, 10, None)

RETRIES_EXHAUSTED_TEXT = (
    "chaintip moved too many times, or DB not in sync with daemon, while processing request"
)

#: (height, tip hash, number of reorganisations) during a computation
TipState = tuple[int, bytes, int]


class HeightAndTip(Protocol):
    """A block: the last indexed, or committed, one."""

    @property
    def height(self) -> int:
        """The height."""

    @property
    def tip(self) -> bytes:
        """The hash of the block, in natural byte order."""


class Processor(Protocol):
    """The block processor."""

    @property
    def state(self) -> HeightAndTip:
        """The tip that it has indexed, committed or not."""

    @property
    def forks(self) -> Sequence[int]:
        """The height of the last common block of each reorganisation so far."""


class Database(Protocol):
    """The database."""

    @property
    def state(self) -> HeightAndTip:
        """The committed tip: another object after each commit."""


class TipChangedError(Exception):
    """Raised by a computation that itself noticed a change of chain; causes a retry."""


class TipConsistency:
    """Compares the tips of processor, database and last notification, and counts reorgs."""

    def __init__(self, processor: Processor, db: Database) -> None:
        self._processor = processor
        self._db = db
        self.notified_height: int | None = None
        # Hash, in natural order, of the header at that height
        self.notified_tip: bytes | None = None
        self.reorg_count = 0
        # The number of the processor's reorganisations that clients know
        self._known_reorgs = 0
        # Set when that number changes, and then replaced by a new one
        self._reorg_known = asyncio.Event()
        # Set at the next notification, and then replaced by a new one
        self.next_height = asyncio.Event()

    def compare_with(self, processor: Processor) -> None:
        """Compare with another tip, in place of the block processor's, from now on."""
        self._processor = processor

    def reorgs(self) -> int:
        """Return the number of the processor's reorganisations."""
        return len(self._processor.forks)

    def notified(self, height: int, tip: bytes) -> None:
        """Set the height and tip of a notification in progress."""
        self.notified_height = height
        self.notified_tip = tip
        self.next_height.set()
        self.next_height = asyncio.Event()

    def state(self) -> TipState | None:
        """Return the state that a computation depends on; None if the tips differ."""
        # Attributes, as each uncached value needs this twice.
        processed, committed = self._processor.state, self._db.state
        height, tip = committed.height, committed.tip
        if (
            processed.height == height == self.notified_height
            and processed.tip == tip == self.notified_tip
        ):
            return height, tip, self.reorg_count
        return None

    def is_tip_known(self) -> bool:
        """Return whether the committed tip is the one that clients know."""
        committed = self._db.state
        return committed.height == self.notified_height and committed.tip == self.notified_tip

    def is_tip_stable(self) -> bool:
        """Return whether an answer computed now, at once, belongs to the tip that clients know."""
        return self.state() is not None

    def set_known_reorgs(self, count: int) -> None:
        """Set how many of the processor's reorganisations clients know."""
        if count != self._known_reorgs:
            self._known_reorgs = count
            self._reorg_known.set()
            self._reorg_known = asyncio.Event()

    def is_block_known(self, height: int) -> bool:
        """Return whether no reorganisation unknown to clients affects the block at a height."""
        forks = self._processor.forks
        return self._known_reorgs == len(forks) or height <= min(forks[self._known_reorgs :])

    def is_height_known(self, height: int) -> bool:
        """Return whether the chain of the last notification has a block at a height."""
        return self.notified_height is not None and height <= self.notified_height

    async def retry_at_known_blocks(
        self, height: int, compute: Callable[[], Awaitable[T]], charge: Callable[[float], object]
    ) -> T:
        """Return ``await compute()``, about blocks up to a height, of a chain that clients know.

        Retry it, as :meth:`retry_at_stable_tip` does, if it raises TipChangedError or a
        reorganisation begins during it.
        """

        async def compute_at_known_blocks() -> T:
            while not self.is_block_known(height):
                await self._reorg_known.wait()
            result = await compute()
            if not self.is_block_known(height):
                raise TipChangedError
            return result

        return await self.retry_at_stable_tip(compute_at_known_blocks, charge, check_tip=False)

    async def retry_at_stable_tip(
        self,
        compute: Callable[[], Awaitable[T]],
        charge: Callable[[float], object],
        *,
        check_tip: bool = True,
        after: asyncio.Event | None = None,
    ) -> T:
        """Return ``await compute()``, retried until the tip is the same before and after.

        Charge for each failed try.  Raise RPCError after the sixth.  Without ``check_tip`` only
        a TipChangedError from the computation causes a retry.  ``after`` is the ``next_height`` of
        a first try, elsewhere, that has failed.
        """
        next_height = after
        if after is not None:
            charge(COST_FAILED_TRY)
        for wait in WAITS if after is None else WAITS[1:]:
            if next_height is not None and wait != 0:
                await wait_for_event(next_height, wait)
            next_height = self.next_height
            before = self.state() if check_tip else None
            if before is not None or not check_tip:
                try:
                    result = await compute()
                except TipChangedError:
                    pass
                else:
                    if not check_tip or self.state() == before:
                        return result
            charge(COST_FAILED_TRY)
        raise ServerFault(BAD_REQUEST, RETRIES_EXHAUSTED_TEXT)
