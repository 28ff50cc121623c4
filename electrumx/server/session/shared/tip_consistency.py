"""Answers that belong to one chain tip.

A balance or history is put together from database and mempool across several awaits, during which
a block may come or go. ``ChainTip`` knows the tip that clients were last told of, and repeats a
computation until the tip is the same before and after. One that does not await needs no repetition:
``is_steady`` says if it may begin. What is in memory already needs less: ``is_known``, as a block
that is in the processor, but not on disk, has changed nothing that clients see.

What belongs to one block alone, its header or a proof that a transaction is in it, is steady as it
is, except while a reorganisation replaces that block. It then waits until clients were told of the
new chain (``settled``), because what they may be answered before they know the new headers is fatal
to Electrum: after an error for a proof, or a proof that does not fit the header it knows, it holds
the transaction for unconfirmed until it is started again. Runs on the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from electrumx.server.session.engine.limits import COST_FAILED_TRY
from electrumx.server.session.engine.params import BAD_REQUEST, ServerFault

T = TypeVar("T")

# Before each try: how long to wait, at most, for clients to be notified of another height. The
# last wait ends with the time-out of the request.
WAITS: tuple[float | None, ...] = (0, 0.5, 2.5, 5, 10, None)

MOVED_TEXT = (
    "chaintip moved too many times, or DB not in sync with daemon, while processing request"
)


class ChainMovedError(Exception):
    """Raised by a computation that itself noticed a change of chain; it is repeated."""


class ChainTip:
    """Watches the tip of processor, database and what was last notified, and counts reorgs."""

    def __init__(self, bp: Any, db: Any) -> None:
        self._bp = bp
        self._db = db
        self.notified_height: int | None = None
        # Hash, in natural order, of the header at that height
        self.notified_tip: bytes | None = None
        self.reorg_count = 0
        # How many of the processor's reorganisations clients were told of
        self._told_forks = 0
        # Set once, when clients were told of another one, and then replaced by a new one.
        self._forks_told = asyncio.Event()
        # Set once, at the next notified height, and then replaced by a new one.
        self.next_height = asyncio.Event()

    def notified(self, height: int, tip: bytes) -> None:
        """Note the height and tip that clients are about to be told of."""
        self.notified_height = height
        self.notified_tip = tip
        self.next_height.set()
        self.next_height = asyncio.Event()

    def state(self) -> tuple[int, bytes, int] | None:
        """Return what must not change during a computation; None while still catching up."""
        bp, db = self._bp, self._db
        height, tip = db.db_height, db.db_tip
        if bp.height == height == self.notified_height and bp.tip == tip == self.notified_tip:
            return height, tip, self.reorg_count
        return None

    def is_known(self) -> bool:
        """Say if the committed tip is the one that clients know."""
        db = self._db
        return bool(db.db_height == self.notified_height and db.db_tip == self.notified_tip)

    def is_steady(self) -> bool:
        """Say if an answer computed now, at once, belongs to the tip that clients know."""
        bp, db = self._bp, self._db
        height = db.db_height
        return bool(
            height == self.notified_height == bp.height and db.db_tip == self.notified_tip == bp.tip
        )

    def forks_told(self, count: int) -> None:
        """Note that clients were told of the chain after the processor's first so many forks."""
        if count != self._told_forks:
            self._told_forks = count
            self._forks_told.set()
            self._forks_told = asyncio.Event()

    def is_settled(self, height: int) -> bool:
        """Say if the block at a height is, or the lack of it, what clients were told of."""
        forks = self._bp.forks
        return self._told_forks == len(forks) or height <= min(forks[self._told_forks :])

    def is_told(self, height: int) -> bool:
        """Say if the chain that clients were told of has a block at a height."""
        return self.notified_height is not None and height <= self.notified_height

    async def settled(
        self, height: int, compute: Callable[[], Awaitable[T]], charge: Callable[[float], object]
    ) -> T:
        """Return ``await compute()``, about blocks up to a height, of a chain that clients know.

        It is repeated if it raises ChainMovedError or a reorganisation begins meanwhile, as
        :meth:`steady` does it.
        """

        async def compute_settled() -> T:
            while not self.is_settled(height):
                await self._forks_told.wait()
            result = await compute()
            if not self.is_settled(height):
                raise ChainMovedError
            return result

        return await self.steady(compute_settled, charge, check_tip=False)

    async def steady(
        self,
        compute: Callable[[], Awaitable[T]],
        charge: Callable[[float], object],
        *,
        check_tip: bool = True,
        after: asyncio.Event | None = None,
    ) -> T:
        """Return ``await compute()``, repeated until the chain stood still during it.

        Each failed try is charged for. After the sixth an RPCError is raised. Without
        ``check_tip`` only a ChainMovedError from the computation makes it repeat.  ``after`` is the
        ``next_height`` of a first try, elsewhere, that has failed.
        """
        next_height = after
        if after is not None:
            charge(COST_FAILED_TRY)
        for wait in WAITS if after is None else WAITS[1:]:
            if next_height is not None and wait != 0:
                await _wait_at_most(next_height, wait)
            next_height = self.next_height
            before = self.state() if check_tip else None
            if before is not None or not check_tip:
                try:
                    result = await compute()
                except ChainMovedError:
                    pass
                else:
                    if not check_tip or self.state() == before:
                        return result
            charge(COST_FAILED_TRY)
        raise ServerFault(BAD_REQUEST, MOVED_TEXT)


async def _wait_at_most(event: asyncio.Event, secs: float | None) -> None:
    """Wait for an event, at most so many seconds (None: for ever)."""
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiter], timeout=secs)
    finally:
        waiter.cancel()
