"""When to listen: for the administrator at once, for wallets while there is room for them.

Runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable

from aiorpcx import Service

from electrumx.lib.tasks import wait_for_event
from electrumx.server.env import Env
from electrumx.server.services import OPERATOR_PORTS
from electrumx.server.session.engine.session_groups import SessionGroups
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.bans import BanList
from electrumx.server.session.transport.listeners import Listener, Listeners, SessionFactory
from electrumx.server.session.transport.preflight import (
    ListenError,
    check_certificates,
    check_service,
)

# Closed sockets have so many seconds to end.
LISTENERS_CLOSE_SECS = 3.0
# How often a full server that does not listen checks whether it can evict a session.
EVICTION_CHECK_SECS = 5.0


def _rpc_services(env: Env) -> list[Service]:
    return [service for service in env.services if service.protocol == "rpc"]


def _wallet_services(env: Env) -> list[Service]:
    return [service for service in env.services if service.protocol not in OPERATOR_PORTS]


class Listening:
    """The listeners, and the admission control that opens and closes them."""

    def __init__(
        self,
        env: Env,
        groups: SessionGroups,
        factory_for: Callable[[str], SessionFactory],
        logger: logging.Logger,
        *,
        bans: BanList | None = None,
    ) -> None:
        """``factory_for(protocol)`` returns the factory of sessions over a transport."""
        self._max_sessions = env.max_sessions
        self._rpc: list[Service] = []
        self._wallets: list[Service] = []
        self._set_services(env)
        # On which of them the server listens
        self._is_rpc_started = self._is_wallets_started = self._is_full = False
        self._is_stopped = False
        # Held while services start, and from the preparation of a reload to its end: otherwise a
        # service that begins in between would be one that is gone, and a new one would not begin.
        self._changing = asyncio.Lock()
        self._logger = logger
        # Set when a connection came or went, and the server was or is full
        self._changed = asyncio.Event()
        self.admission = Admission(env, groups, self._on_change, bans=bans)
        self.listeners = Listeners(env, factory_for, self.admission)

    def _on_change(self) -> None:
        """Look whether to listen: only at the maximum a connection more or less matters."""
        if self._is_full or self.admission.count >= self._max_sessions:
            self._changed.set()

    async def start_rpc(self) -> None:
        """Listen for the administrator."""
        async with self._changing:
            await self.listeners.start(self._rpc)
            self._is_rpc_started = True

    async def start_wallets(self) -> None:
        """Listen for wallets."""
        async with self._changing:
            await self.listeners.start(self._wallets)
            self._is_wallets_started = True

    async def prepare(self, env: Env) -> "_NewServices":
        """Check SERVICES and the certificate, and bind the sockets of services that are new.

        Raise OperatorError if one is unusable.
        """
        await self._changing.acquire()
        try:
            return await self._prepare(env)
        except BaseException:
            self._changing.release()
            raise

    async def _prepare(self, env: Env) -> "_NewServices":
        if self._is_stopped:
            raise ListenError("the server is stopping")
        check_certificates(env)
        current = {*self._rpc, *self._wallets}
        wanted = _rpc_services(env) + _wallet_services(env)
        new = _NewServices(self, env, [service for service in current if service not in wanted])
        try:
            self.listeners.load_certificates(env)
            for service in wanted:
                if service not in current:
                    await check_service(service)
                    if self._is_listening(service):
                        new.listeners.append(await self.listeners.bound(env, service))
        except OSError as e:
            new.close()
            raise ListenError(f"a service cannot be listened on: {e}") from e
        except BaseException:
            new.close()
            raise
        return new

    def end_change(self) -> None:
        """Let services start again, after the commit or the abandonment of a change."""
        self._changing.release()

    def _is_listening(self, service: Service) -> bool:
        """Return whether the server listens on services such as this one at present."""
        kind = self._rpc if service.protocol == "rpc" else self._wallets
        is_started = self._is_rpc_started if kind is self._rpc else self._is_wallets_started
        return is_started and not (self._is_full and service in self._closing())

    def switch(self, env: Env, gone: list[Service], listeners: list[Listener]) -> None:
        """Listen on the services of new settings; connections to those gone stay."""
        if self._is_stopped:
            for listener in listeners:
                listener.close()
            return
        self._set_services(env)
        self._max_sessions = env.max_sessions
        self.admission.set_limits(env)
        self.listeners.stop(gone)
        for listener in listeners:
            self.listeners.add(listener)
        self.listeners.set_env(env)
        # There may be room now.
        self._changed.set()

    def _set_services(self, env: Env) -> None:
        self._rpc, self._wallets = _rpc_services(env), _wallet_services(env)

    async def run(self) -> None:
        """Stop listening at MAX_SESSIONS, resume when there is room; until cancelled.

        Where a trusted client may come, listening goes on.
        """
        admission = self.admission
        while True:
            await self._changed.wait()
            self._changed.clear()
            closing = self._closing()
            if not closing or not admission.is_full():
                continue
            self._logger.info(
                f"maximum sessions {self._max_sessions:,d} reached, stopping new connections until "
                f"count drops to {self._low_mark():,d}"
            )
            self._is_full = True
            self.listeners.stop(closing)
            while admission.count > self._low_mark() and not admission.can_evict():
                await wait_for_event(self._changed, EVICTION_CHECK_SECS)
                self._changed.clear()
            self._logger.info("resuming listening for incoming connections")
            async with self._changing:
                self._is_full = False
                still = self.listeners.open
                await self.listeners.resume([item for item in self._wallets if item not in still])

    def _closing(self) -> list[Service]:
        """Return the services on which a full server does not listen."""
        return [item for item in self._wallets if not self.admission.trust.stays_open(item)]

    def _low_mark(self) -> int:
        """Return the number of connections at which a full server listens again."""
        return self._max_sessions * 19 // 20

    def stop(self) -> None:
        """Stop listening, for good; connections go on."""
        self._is_stopped = True
        self.listeners.close()

    async def wait_closed(self) -> None:
        """Wait, within a bound, for all connections to end."""
        if not await self.admission.wait_empty(LISTENERS_CLOSE_SECS):
            self._logger.warning("timed out waiting for the listening servers to close")


class _NewServices:
    """Services bound for a reload, and those that are gone."""

    def __init__(self, listening: Listening, env: Env, gone: list[Service]) -> None:
        self._listening = listening
        self._env = env
        self._gone = gone
        self.listeners: list[Listener] = []

    def commit(self) -> None:
        """Listen on the new services only."""
        self._listening.switch(self._env, self._gone, self.listeners)
        self._listening.end_change()

    def abandon(self) -> None:
        """Make no change."""
        self.close()
        self._listening.end_change()

    def close(self) -> None:
        """Close the bound sockets."""
        for listener in self.listeners:
            listener.close()
