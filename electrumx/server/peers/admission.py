"""When to accept a client's request to add a peer.

A request makes us connect to a host of a stranger's choice, so a clearnet host must resolve to
the address that asks, and requests are rate-limited by domain or network, and for Tor as a whole.
Only accepted requests count: a rejected one must not shut out the rightful owner.
"""

import random
from collections.abc import Callable
from ipaddress import ip_network

from electrumx.lib.peer import Peer
from electrumx.server.peers.sources import Resolver

# One add_peer request for a domain in this time, in seconds.
PEER_ADD_PAUSE = 600
# Addresses that agree in so many leading bits share a rate limit, by IP version: about the network
# of one provider or organisation.
PEER_ADD_BITS = {4: 16, 6: 32}


class AddPeerRules:
    """Remembers accepted requests; `clock` gives unix times in seconds."""

    def __init__(self, resolver: Resolver, clock: Callable[[], float]) -> None:
        self._resolver = resolver
        self._clock = clock
        # Accept onion peers from this time on.
        self.permit_onion_peer_time: float = clock()
        # Domain -> time of the last accepted request.
        self.recent_peer_adds: dict[str, float] = {}

    @staticmethod
    def _domain(peer: Peer) -> str:
        """Return the unit of rate limiting: the last two labels, or the network of an IP address."""
        address = peer.ip_address
        if address is not None:
            bits = PEER_ADD_BITS[address.version]
            return str(ip_network((int(address), bits), strict=False))
        return ".".join(peer.host.lower().rstrip(".").split(".")[-2:])

    def is_rate_limited(self, peer: Peer) -> bool:
        """Return whether we accepted a request for the peer's domain in the last `PEER_ADD_PAUSE`."""
        last_add = self.recent_peer_adds.get(self._domain(peer))
        return last_add is not None and self._is_recent(last_add)

    def _is_recent(self, last_add: float) -> bool:
        # Either way: the clock may have gone back since.
        return abs(self._clock() - last_add) <= PEER_ADD_PAUSE

    async def refusal(self, peer: Peer, source_addr: str) -> str | None:
        """Return why `source_addr` may not have `peer` added now, or None if it may."""
        if peer.is_tor:
            return self._onion_refusal()
        try:
            addresses = await self._resolver(peer.host)
        except OSError:
            return "address resolution failure"
        if source_addr not in addresses:
            return "source-destination mismatch"
        # Another request for the domain may have been quicker to resolve.
        return "rate limiting" if self.is_rate_limited(peer) else None

    def _onion_refusal(self) -> str | None:
        now = self._clock()
        if now < self.permit_onion_peer_time < now + 2 * PEER_ADD_PAUSE:
            return "rate limiting"
        # Nothing proves that an onion peer asks for itself: 600 s on average between them.
        self.permit_onion_peer_time = now + random.randrange(2 * PEER_ADD_PAUSE)
        return None

    def note_accepted(self, peer: Peer) -> None:
        """Begin the pause of the peer's domain, and drop pauses that are over."""
        self.trim()
        self.recent_peer_adds[self._domain(peer)] = self._clock()

    def trim(self) -> None:
        """Drop accepted requests that limit nothing any more."""
        self.recent_peer_adds = {
            domain: last_add
            for domain, last_add in self.recent_peer_adds.items()
            if self._is_recent(last_add)
        }
