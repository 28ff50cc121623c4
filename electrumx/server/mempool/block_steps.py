"""Follows the database: blocks remove transactions at once, without a request to the node.

When the database has committed blocks on top of the tip that the maps are at, their transactions and
those that they made impossible disappear, so that clients need not wait until a node with a large
mempool has listed it.  A task computes these transactions while the database writes the block; then
they are ``leaving``, in one step, and leave the maps after the notification of clients.  Undone
blocks are a step too: their transactions are missing until the next refresh.

Runs in: the event loop, in tasks of ``MemPool``.
"""

import asyncio
from collections.abc import Callable

from electrumx.lib.tasks import for_each
from electrumx.server.mempool.arrivals import Arrivals
from electrumx.server.mempool.index import Departure, MemPoolTx
from electrumx.server.mempool.state import MempoolState
from electrumx.server.notifications import Confirmed


class BlockSteps:
    """Makes each step that the database makes.

    refresh_soon: have the node's mempool listed
    pause_secs:   after the last of some blocks before that, if the maps are complete
    settle_secs:  how long the removal waits for the report of the step
    """

    def __init__(
        self,
        state: MempoolState,
        arrivals: Arrivals,
        refresh_soon: Callable[[], None],
        *,
        pause_secs: float,
        settle_secs: float,
    ) -> None:
        self._state = state
        self._arrivals = arrivals
        self._refresh_soon = refresh_soon
        self._pause_secs = pause_secs
        self._settle_secs = settle_secs
        # The transactions that a block on its way to the disk will remove
        self._departure: Departure | None = None

    async def prepare(self) -> None:
        """Compute the transactions that each block will remove, while the database writes it."""
        state = self._state
        while True:
            await state.api.wait_for_processed_block()
            async with state.lock:
                confirmed = None if state.tip is None else state.api.processed_after(state.tip)
                if confirmed is not None:
                    self._departure = await state.in_thread(state.index.departure, confirmed)

    async def follow(self) -> None:
        """Make each step that the database makes, and have the mempool refreshed."""
        timer: asyncio.TimerHandle | None = None
        while True:
            await self._state.api.wait_for_db_height_change()
            delay = 0.0
            while await self._make_step():
                # Clients wait for a refresh if the maps are not complete.
                delay = self._pause_secs if self._state.is_complete else 0.0
            self._arrivals.database_moved()
            if timer is not None:
                timer.cancel()
            timer = asyncio.get_running_loop().call_later(delay, self._refresh_soon)

    async def _make_step(self) -> bool:
        """Follow the database to its next tip and report that; False if no step is known."""
        state, index = self._state, self._state.index
        async with state.lock:
            step = state.next_step()
            if step is None:
                return False
            if step.undone:
                state.note_loss()
                self._departure = None
            departure = await self._departure_for(step)
            # From here on all answers are of the new tip.
            index.leaving = departure.tx_hashes
            state.height, state.tip = step.height, step.tip
            if state.steps is not None:
                state.steps.append(step)
            await self._touch_leaving()
            touched = state.take_touched() | departure.touched
            telling = asyncio.ensure_future(state.report(touched, step.height))
            try:
                # A slow receiver of the report does not delay the cleaning of the maps.
                await asyncio.wait([telling], timeout=self._settle_secs)
                known: set[bytes] = set()
                await for_each(list(index.leaving), lambda h: index.remove_tx(h, known))
                index.leaving = {}
            except BaseException:
                telling.cancel()
                raise
        await telling
        return True

    async def _touch_leaving(self) -> None:
        """Mark the watched outpoints that a block's removals concern, in time slices."""
        index = self._state.index
        if not index.watch:
            return
        txs, touch_tx = index.txs, index.watch.touch_tx
        concerned: dict[bytes, MemPoolTx] = {}
        leaving = [tx_hash for tx_hash in index.leaving if tx_hash in txs]
        await for_each(leaving, lambda h: index.add_with_children(h, txs[h], concerned))
        await for_each(concerned.items(), lambda item: touch_tx(item[0], item[1].prevouts))

    async def _departure_for(self, step: Confirmed) -> Departure:
        """Return the transactions that a step removes, if possible as computed beforehand."""
        index = self._state.index
        departure, self._departure = self._departure, None
        if (
            departure is None
            or departure.confirmed is not step
            or departure.changes != index.changes
        ):
            departure = await self._state.in_thread(index.departure, step)
        return departure
