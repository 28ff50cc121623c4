"""The set of peers: their statuses, the blacklist, and the peers that clients get.

A peer is *recent good* if a visit verified it within `STALE_SECS`; clients get only such peers.  No
network here. Runs on the event loop.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from electrumx.lib.peer import Peer
from electrumx.server.peers.session import BadPeerError

PEER_GOOD, PEER_STALE, PEER_NEVER, PEER_BAD = range(4)
STATUS_TEXTS = {PEER_GOOD: "good", PEER_STALE: "stale", PEER_NEVER: "never", PEER_BAD: "bad"}

# A peer verified longer ago than this is stale.
STALE_SECS = 3 * 60 * 60

# The peers reported to a client: for each bucket, and onion peers.
MAX_PER_BUCKET = 2
MAX_ONION_FOR_TOR = 50
MIN_ONION_FOR_CLEARNET = 10
# The limit of onion peers applies from this number of them.
MIN_ONION_LIMIT = 100


def is_public_peer(peer: Peer) -> bool:
    """Return True if others could reach `peer`; tests let loopback count as public."""
    return peer.is_public


def wake(peers: Iterable[Peer]) -> None:
    """Have some peers tried at once: end the pauses of the tasks that monitor them."""
    for peer in peers:
        if peer.retry_event is not None:
            peer.retry_event.set()


class PeerSet:
    """Peers and their statuses; `clock` gives unix times in seconds."""

    def __init__(self, clock: Callable[[], float], is_public: Callable[[Peer], bool]) -> None:
        self.peers: set[Peer] = set()
        #: lower-case host names, `*.domain.tld` and IP addresses
        self.blacklist: set[str] = set()
        self.is_public = is_public
        self._clock = clock

    # --- Statuses

    def status(self, peer: Peer) -> int:
        """Return the current status of a peer."""
        if peer.bad:
            return PEER_BAD
        if self.is_recent(peer.last_good):
            return PEER_GOOD
        return PEER_STALE if peer.last_good else PEER_NEVER

    def is_recent(self, last_good: float) -> bool:
        """Return whether a time is less than `STALE_SECS` from now."""
        # In both directions: the clock may have gone back.
        return abs(self._clock() - last_good) < STALE_SECS

    def _set_statuses(self) -> None:
        for peer in self.peers:
            peer.status = self.status(peer)

    def counts(self) -> dict[str, int]:
        """Return the number of peers of each status, and in total."""
        self._set_statuses()
        counts = dict.fromkeys(("bad", "good", "never", "stale"), 0)
        for peer in self.peers:
            counts[STATUS_TEXTS[peer.status]] += 1
        return {**counts, "total": len(self.peers)}

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each peer: the bad last, then the latest good first."""
        self._set_statuses()
        return [
            {**peer.serialize(), "status": STATUS_TEXTS[peer.status]}
            for peer in sorted(self.peers, key=lambda peer: (peer.bad, -peer.last_good))
        ]

    def recent_good(self) -> list[Peer]:
        """Return the peers that are recent good, public and not blacklisted."""
        return [
            peer
            for peer in self.peers
            if self.status(peer) == PEER_GOOD
            and self.is_public(peer)
            and not self.is_blacklisted(peer)
        ]

    def is_blacklisted(self, peer: Peer) -> bool:
        """Return whether the blacklist has the peer's host, domain or address."""
        host = peer.host.lower().rstrip(".")
        wildcard = "*." + ".".join(host.split(".")[-2:])
        return not self.blacklist.isdisjoint((host, wildcard, peer.ip_addr or host))

    # --- Peers for clients

    def choose(self, myselves: Iterable[Peer], is_tor: bool) -> list[Peer]:
        """Return the peers to report to a client, which is itself on Tor or not."""
        # A dictionary for its order; we come first.
        chosen = dict.fromkeys(peer for peer in myselves if self.is_recent(peer.last_good))
        buckets: dict[str, list[Peer]] = defaultdict(list)
        onion_peers = []
        for peer in self.recent_good():
            if peer.is_tor:
                onion_peers.append(peer)
            else:
                buckets[peer.bucket_for_external_interface()].append(peer)
        for bucket_peers in buckets.values():
            random.shuffle(bucket_peers)
            chosen.update(dict.fromkeys(bucket_peers[:MAX_PER_BUCKET]))
        if is_tor:
            onion_count = MAX_ONION_FOR_TOR
        else:
            onion_count = max(MIN_ONION_FOR_CLEARNET, len(chosen) // 4)
        random.shuffle(onion_peers)
        chosen.update(dict.fromkeys(onion_peers[:onion_count]))
        return list(chosen)

    # --- Verified peers

    def check_bucket(self, peer: Peer) -> None:
        """Raise BadPeerError if we have enough good peers of the same neighbourhood."""
        others = [other for other in self.recent_good() if other is not peer]
        if peer.is_tor:
            onion_count = sum(other.is_tor for other in others)
            limit = len(others) // 2
            if onion_count > limit >= MIN_ONION_LIMIT:
                raise BadPeerError("too many onion peers already")
            return
        bucket = peer.bucket_for_internal_purposes()
        # Peers of unknown address have nothing in common.
        if bucket and any(other.bucket_for_internal_purposes() == bucket for other in others):
            raise BadPeerError(f"too many peers already in bucket {bucket}")

    def mark_verified(self, peer: Peer) -> list[Peer]:
        """Mark `peer` as good, and remove, and return, those that it makes superfluous."""
        peer.try_count = 0
        peer.last_good = self._clock()
        peer.source = "peer"
        superfluous = []
        # The peer itself is among its matches: one known by address alone gives way to a name.
        matches = peer.matches(self.peers)
        for match in matches:
            if match.ip_address is not None:
                if len(matches) > 1:
                    self.peers.discard(match)
                    superfluous.append(match)
            elif peer.host in match.features["hosts"]:
                match.update_features_from_peer(peer)
        return superfluous
