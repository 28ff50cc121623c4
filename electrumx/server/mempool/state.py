"""Where the mempool is: its transactions, the tip at which they are valid, whether they are complete.

The tasks that change the mempool share this: ``refresher``, ``block_steps`` and ``arrival_task``.

Runs in: the event loop.  The maps change on the loop only, with the lock held, and in time slices,
each of which leaves them consistent; so queries, which also run on the loop and do not await, need no
lock.  Long computations that only read run in a thread, with the lock held where they read the maps.
There is one such thread: several would not be faster, but each delays the event loop further.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from electrumx.lib.tasks import for_each
from electrumx.server.mempool.api import MemPoolAPI
from electrumx.server.mempool.index import MemPoolIndex
from electrumx.server.notifications import Confirmed

T = TypeVar("T")


class MempoolState:
    """The transactions and where they are."""

    def __init__(self, api: MemPoolAPI) -> None:
        self.api = api
        #: the transactions, and all queries about them
        self.index = MemPoolIndex()
        # Held while the maps change, which takes several turns of the loop.
        self.lock = asyncio.Lock()
        #: height and tip at which all transactions in the maps are valid; some may be missing
        self.height = -1
        self.tip: bytes | None = None
        #: whether the maps held all transactions of the node when they were last refreshed, and no
        #: block was undone since
        self.is_complete = False
        #: number of losses of transactions: by undone blocks, and with dropped maps
        self.losses = 0
        #: steps made while a refresh reads new transactions, None at other times
        self.steps: list[Confirmed] | None = None
        #: hashXs of unreported changes, also of failed refreshes
        self.touched: set[bytes] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mempool")

    async def in_thread(self, func: Callable[..., T], *args: Any) -> T:
        """Return the result of a long computation."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, func, *args)

    def shut_down(self) -> None:
        """Start no further computation."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- the database

    def next_step(self) -> Confirmed | None:
        """Return the step from this tip to the next one, None if the database is not ahead."""
        return None if self.tip is None else self.api.confirmed_after(self.tip)

    def is_following(self) -> bool:
        """Return whether the maps are at the tip of the database, or a known way before it."""
        if (self.height, self.tip) == (self.api.db_height(), self.api.db_tip()):
            return True
        return self.next_step() is not None

    def move_to_database(self) -> None:
        """Note that the maps are valid at the tip of the database."""
        self.height, self.tip = self.api.db_height(), self.api.db_tip()

    # -- changes

    def remove(self, tx_hash: bytes) -> None:
        """Remove a transaction."""
        self.index.remove_tx(tx_hash, self.touched)

    async def drop_if_lost(self) -> None:
        """Empty the maps, if it is unknown which of their transactions blocks confirmed."""
        async with self.lock:
            if not self.is_following():
                self.note_loss()
                await for_each(list(self.index.txs), self.remove)

    def note_loss(self) -> None:
        """Note that transactions of the node are missing from now on, until a refresh."""
        self.is_complete = False
        self.losses += 1

    def take_touched(self) -> set[bytes]:
        """Return the hashXs of unreported changes; the caller reports them."""
        touched, self.touched = self.touched, set()
        return touched

    async def report(self, touched: set[bytes], height: int) -> None:
        """Report changes, for the notification of clients."""
        report = self.api.on_mempool if self.is_complete else self.api.on_mempool_partial
        await report(touched, height)
