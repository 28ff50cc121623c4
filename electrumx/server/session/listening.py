"""When to listen: for the administrator at once, for wallets while there is room for them.

Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from electrumx.lib.tasks import wait_for_event
from electrumx.server.env import Env
from electrumx.server.services import OPERATOR_PORTS
from electrumx.server.session.engine.session_groups import SessionGroups
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.bans import BanList
from electrumx.server.session.transport.listeners import Listeners

# Sockets that were closed have so many seconds to end.
LISTENERS_CLOSE_SECS = 3.0
# How often a full server that does not listen checks whether a session can be evicted.
EVICTION_CHECK_SECS = 5.0


class Listening:
    """The listeners, and the admission control that opens and closes them."""

    def __init__(
        self,
        env: Env,
        groups: SessionGroups,
        factory_for: Callable[[str], Callable[[Any], Any]],
        logger: logging.Logger,
        *,
        bans: BanList | None = None,
    ) -> None:
        """``factory_for(protocol)`` returns the factory of sessions over a transport."""
        self._max_sessions = env.max_sessions
        self._rpc = [service for service in env.services if service.protocol == "rpc"]
        self._wallets = [
            service for service in env.services if service.protocol not in OPERATOR_PORTS
        ]
        self._logger = logger
        # Set when a connection came or went
        self._changed = asyncio.Event()
        self.admission = Admission(env, groups, self._changed.set, bans=bans)
        self.listeners = Listeners(env, factory_for, self.admission)

    async def start_rpc(self) -> None:
        """Listen for the administrator."""
        await self.listeners.start(self._rpc)

    async def start_wallets(self) -> None:
        """Listen for wallets."""
        await self.listeners.start(self._wallets)

    async def run(self) -> None:
        """Stop listening at MAX_SESSIONS, resume when there is room; until cancelled."""
        maximum, admission = self._max_sessions, self.admission
        low_mark = maximum * 19 // 20
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not admission.is_full():
                continue
            self._logger.info(
                f"maximum sessions {maximum:,d} reached, stopping new connections until "
                f"count drops to {low_mark:,d}"
            )
            self.listeners.stop(self._wallets)
            while admission.count > low_mark and not admission.can_evict():
                await wait_for_event(self._changed, EVICTION_CHECK_SECS)
                self._changed.clear()
            self._logger.info("resuming listening for incoming connections")
            await self.listeners.resume(self._wallets)

    def stop(self) -> None:
        """Stop listening; connections go on."""
        self.listeners.close()

    async def wait_closed(self) -> None:
        """Wait, within a bound, for all connections to end."""
        if not await self.admission.wait_empty(LISTENERS_CLOSE_SECS):
            self._logger.warning("timed out waiting for the listening servers to close")
