"""One visit to a peer: connect, verify, register; and the pause until the next one.

Judges answers of other servers: a lie makes its peer bad, another failure costs an attempt, and
after some of them the monitoring of the peer ends. Runs on the event loop.
"""

import asyncio
import dataclasses
import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

from aiorpcx import ProtocolError, RPCError, SOCKSError, TaskTimeout

from electrumx.lib.peer import Peer
from electrumx.server.peers.peer_set import STALE_SECS, PeerSet, wake
from electrumx.server.peers.registration import Registration
from electrumx.server.peers.routes import PeerRoutes
from electrumx.server.peers.session import (
    BadPeerError,
    connect_to_first,
    few_of_family,
    quoted,
    run_bounded,
)
from electrumx.server.peers.verify import Ourselves, check_peer

# The unit of pauses between attempts; also the pause while a peer must wait for a proxy.
WAKEUP_SECS = 300

# Failures in a row that end the monitoring of a peer: one that was good once, and others.
MAX_TRIES_ONCE_GOOD = 10
MAX_TRIES = 3
# An honest session takes at most four requests in a row, and connecting.
REQUESTS_PER_SESSION = 5


class PeerVisits:
    """Visits peers, and decides when to visit each again. The times are in seconds.

    ours:                our chain and version, to compare answers with
    note_peers:          takes the peers that a peer on our chain reports
    on_verified:         runs after a visit marked a peer as good
    request_timeout:     how long a reply may take
    tor_request_timeout: the same for peers on Tor
    clock:               gives unix times
    """

    def __init__(
        self,
        peer_set: PeerSet,
        ours: Ourselves,
        routes: PeerRoutes,
        registration: Registration,
        *,
        note_peers: Callable[[list[Peer]], None],
        on_verified: Callable[[], None],
        request_timeout: float,
        tor_request_timeout: float,
        clock: Callable[[], float],
        logger: logging.Logger,
    ) -> None:
        self._peer_set = peer_set
        self._ours = ours
        self._routes = routes
        self._registration = registration
        self._note_peers = note_peers
        self._on_verified = on_verified
        #: seconds that a peer's reply may take, unless it is on Tor
        self.request_timeout = request_timeout
        self._tor_request_timeout = tor_request_timeout
        self._clock = clock
        self._logger = logger

    def announce(self, server_version_args: list[Any]) -> None:
        """Announce other protocol versions from now on: see ``SessionBase.server_version_args``."""
        self._ours = dataclasses.replace(self._ours, server_version_args=server_version_args)

    async def visit(self, peer: Peer) -> float | None:
        """Try to verify `peer` once; return the seconds to the next visit, None to forget it.

        Raises nothing but its own cancellation: our own fault counts as a failed attempt.
        """
        try:
            return await self._attempt(peer)
        except Exception:
            self._logger.exception(f"[{peer}] unexpected error")
            return self._pause_after_failure(peer)

    async def _attempt(self, peer: Peer) -> float | None:
        if not self._routes.is_open(peer):
            # Not the peer's fault, so it does not count as a try.
            return WAKEUP_SECS
        peer.try_count += 1
        start = time.monotonic()
        if await self._is_verified(peer):
            self._logger.info(f"[{peer}] verified in {time.monotonic() - start:.1f}s")
            # End the monitoring of those that it makes superfluous.
            wake(self._peer_set.mark_verified(peer))
            self._on_verified()
            return STALE_SECS - 2 * WAKEUP_SECS
        return self._pause_after_failure(peer)

    def _pause_after_failure(self, peer: Peer) -> float | None:
        once_good = peer.last_good and not peer.bad
        if peer.try_count >= (MAX_TRIES_ONCE_GOOD if once_good else MAX_TRIES):
            kind = "bad" if peer.bad else "unreachable"
            self._logger.info(f"forgetting {kind} peer: {peer}")
            return None
        return float(WAKEUP_SECS * 2**peer.try_count)

    async def _is_verified(self, peer: Peer) -> bool:
        """Try the ways to connect in turn; return True as soon as one convinces us."""
        timeout = self._tor_request_timeout if peer.is_tor else self.request_timeout
        addresses: list[str] | None = None
        for kind, port, family in peer.connection_tuples():
            if peer.is_tor and family != socket.AF_INET:
                # The proxy resolves the name: there is only one way.
                continue
            peer.last_try = self._clock()
            text = f"[{peer.host}:{port} {kind}]"
            try:
                if addresses is None:
                    addresses = await run_bounded(self._routes.addresses(peer), timeout)
                candidates = few_of_family(addresses, family)
                await run_bounded(
                    self._converse(peer, candidates, kind, port, family, timeout),
                    timeout * REQUESTS_PER_SESSION,
                )
                # Other visits may have verified their peers in the meantime; nothing runs between
                # this check and marking this peer as good.
                self._peer_set.check_bucket(peer)
            except BadPeerError as e:
                self._logger.error(f"{text} marking bad: ({e})")
                peer.mark_bad()
                return False
            except (RPCError, ProtocolError) as e:
                self._logger.error(f"{text} RPC error: {quoted(e.message)} ({quoted(e.code)})")
            except (OSError, SOCKSError, TaskTimeout, asyncio.TimeoutError) as e:
                self._logger.info(f"{text} {quoted(str(e) or type(e).__name__)}")
                if addresses is None:
                    # The name has no others by another port.
                    return False
            else:
                return True
        return False

    async def _converse(
        self,
        peer: Peer,
        addresses: Iterable[str],
        kind: str,
        port: int,
        family: int,
        timeout: float,
    ) -> None:
        """Connect, check `peer` against ourselves and other peers, and note the peers it reports."""
        args = self._routes.connection_args(peer, kind, family)
        async with AsyncExitStack() as stack:
            session = await connect_to_first(stack, addresses, port, args)
            session.sent_request_timeout = timeout
            address = session.remote_address()
            if not peer.is_tor and address is not None:
                peer.ip_addr = str(address.host)
                self._routes.check_address(peer)
            if self._peer_set.is_blacklisted(peer):
                raise BadPeerError("blacklisted")
            self._peer_set.check_bucket(peer)
            reported = await check_peer(session, peer, self._ours)
            self._note_peers(reported)
            features = self._registration.features_for(peer, reported)
            if features is not None:
                await self._registration.register(session, peer, features)
