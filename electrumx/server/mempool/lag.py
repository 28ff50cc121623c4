"""How far the mempool is behind the node's: whether the server may serve clients, and the log lines.

Owns the times of complete refreshes.  Runs in: the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from electrumx.lib.tasks import wait_for_event

# How long clients wait, after the start, for a first complete refresh.
FIRST_SECS = 15.0
# After so long without a complete refresh, and two pauses between refreshes, the mempool counts as
# behind, in seconds.
BEHIND_SECS = 15.0


class MempoolLag:
    """Knows when the mempool last held all of the node's transactions."""

    def __init__(self, logger: logging.Logger, refresh_secs: float) -> None:
        self._logger = logger
        self._behind_secs = BEHIND_SECS + 2 * refresh_secs
        self._first_complete = asyncio.Event()
        #: monotonic time of the last complete refresh, at first of the start
        self._last_complete = time.monotonic()
        self._is_served = False
        self._was_behind = False

    def note_complete(self) -> None:
        """Note a complete refresh."""
        self._last_complete = time.monotonic()
        self._first_complete.set()

    def is_behind(self) -> bool:
        """Return whether transactions of the node may be missing for longer than usual."""
        if not self._first_complete.is_set():
            return True
        return time.monotonic() - self._last_complete > self._behind_secs

    async def wait_until_usable(self, reading: Callable[[], str] = str) -> None:
        """Return when the server may serve clients: normally after the first complete refresh.

        Where that takes long, because the mempool is large or the disk slow, blocks come too fast or
        the node fails, the server does so after FIRST_SECS without it.  ``reading`` returns how far
        it is, for the log.
        """
        if not await wait_for_event(self._first_complete, FIRST_SECS):
            self._logger.warning(
                f"serving before the mempool is complete{reading()}: until then unconfirmed "
                "transactions are missing in answers"
            )
        self._is_served = True

    def log_change(self) -> None:
        """Log if the mempool has fallen behind, or has caught up, since this was last called."""
        behind = self._is_served and self.is_behind()
        if behind is self._was_behind:
            return
        self._was_behind = behind
        if behind:
            secs = time.monotonic() - self._last_complete
            self._logger.warning(
                f"the mempool is behind the daemon's: no complete refresh for {secs:,.0f}s; "
                "unconfirmed transactions may be missing in answers"
            )
        else:
            self._logger.info("the mempool is up to date with the daemon's again")
