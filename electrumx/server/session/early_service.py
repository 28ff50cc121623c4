"""Serves clients before the chain is caught up with (``SERVE=always``).

Theory of operation.  Clients connect once the database is open.  There are two cases.

*The index was complete once* and is behind, as after a restart.  All answers are as of the
committed tip.  The block processor commits every few seconds and reports each committed tip, as it
does later; so the notifications work as ever.  Only one comparison differs: the processor is
ahead of the committed tip most of the time, and only the committed tip has to equal the one that
clients know (``CommittedTip``).  The mempool is still unread, and empty.

*The first build of the index goes on.*  The server serves headers only, up to the committed tip,
beside requests that the node answers (``ServingStage``).  The committed tip may move while the
processor is ahead, so ``HeaderService`` follows it.  Until the first commit, which in a bulk sync
comes at its end, the tip is the first block: it is the same in every chain of the network, and a
wallet gets a header that it can check.

Both end when the chain is caught up with.  Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from electrumx.lib.log_text import printable
from electrumx.lib.tasks import wait_for_event
from electrumx.server.daemon.client import DaemonError
from electrumx.server.db import DB, DBError
from electrumx.server.session.notify.announced_header import AnnouncedHeader
from electrumx.server.session.shared.state import SharedState
from electrumx.server.storage.schema import CommittedState

# Between two looks at the committed tip, in seconds.
CHECK_SECS = 0.5
# Before asking the node again for the first block.
RETRY_SECS = 5.0


class CommittedTip:
    """The committed tip, in place of the processor's, which is ahead of it."""

    def __init__(self, db: DB, forks: Sequence[int]) -> None:
        """``forks`` is the processor's list of reorganisations, which it extends."""
        self._db = db
        self.forks = forks

    @property
    def state(self) -> CommittedState:
        """The committed height and tip."""
        return self._db.state


class HeaderService:
    """Announces the committed tip during the first build of the index."""

    def __init__(self, shared: SharedState, logger: logging.Logger) -> None:
        self._shared = shared
        self._logger = logger
        self._announced: CommittedState | None = None

    async def begin(self) -> None:
        """Announce the committed tip, or the first block of the chain without one."""
        await self._read_genesis()
        await self.announce()

    async def run(self, caught_up: asyncio.Event) -> None:
        """Announce each committed tip until the chain is caught up with."""
        while not caught_up.is_set():
            await wait_for_event(caught_up, CHECK_SECS)
            await self.announce()

    async def _read_genesis(self) -> None:
        """Get the header of the first block from the node, as long as it takes."""
        daemon, coin = self._shared.daemon, self._shared.env.coin
        while self._shared.db.db_height < 0:
            try:
                (hex_hash,) = await daemon.block_hex_hashes(0, 1)
                (raw_block,) = await daemon.raw_blocks([hex_hash])
            except DaemonError as e:
                self._logger.info(f"ignoring daemon error: {printable(e)}")
                await asyncio.sleep(RETRY_SECS)
                continue
            # Raises CoinError, which ends the server, if the node is of another network.
            coin.genesis_block(raw_block)
            self._shared.stage.genesis_header = coin.block_header(raw_block, 0)
            return

    async def announce(self) -> None:
        """Announce the committed tip, if it is another one."""
        shared = self._shared
        state = shared.db.state
        if state is self._announced:
            return
        forks = shared.tip.reorgs()
        height, header = max(0, state.height), shared.stage.genesis_header
        if state.height >= 0:
            header = None
            with suppress(DBError, IndexError):
                # The stores may be closed for a moment, or blocks undone: the next check reads again.
                header = await shared.db.raw_header(height)
        if header is None or shared.db.state is not state:
            return
        self._announced = state
        if state.height >= 0:
            shared.stage.genesis_header = None
        shared.tip.notified(state.height, state.tip)
        shared.tip.set_known_reorgs(forks)
        await self._notify(shared.header, height, header)

    async def _notify(self, announced: AnnouncedHeader, height: int, header: bytes) -> None:
        if announced.set(height, header):
            await self._shared.fan_out.notify(set(), height_changed=True)
