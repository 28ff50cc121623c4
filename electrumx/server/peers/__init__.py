"""The peer set: which other servers exist, which of them are verified, and which clients get.

* `peer_set`: the set itself: statuses, the blacklist, the peers that clients get.
* `manager`: the requests of clients and of the operator, and the task that monitors each peer.
* `visits`: one visit to a peer, whether it makes the peer good or bad, and the pause after it.
* `routes`: the addresses to reach a peer at, and the proxy, TLS and our own address.
* `registration`: has peers add this server.
* `admission`: when a client may have a peer added.
* `verify`: the answers of a peer that make it good; knows no other peers.
* `session`: one outgoing connection, and the errors of a conversation.
* `blacklist`, `proxy`: the tasks that fetch the blacklist and look for the Tor proxy.
* `sources`: requests to third parties: name resolution, the blacklist, the Tor proxy.

Everything runs in the event loop. No behaviour of a peer ends a task here, or the
server: a peer's fault costs that peer its attempt.
"""

from electrumx.server.peers.admission import PEER_ADD_PAUSE
from electrumx.server.peers.manager import PeerManager
from electrumx.server.peers.peer_set import (
    PEER_BAD,
    PEER_GOOD,
    PEER_NEVER,
    PEER_STALE,
    STALE_SECS,
)
from electrumx.server.peers.session import BadPeerError, PeerSession, assert_good
from electrumx.server.peers.visits import WAKEUP_SECS

__all__ = [
    "PEER_ADD_PAUSE",
    "PEER_BAD",
    "PEER_GOOD",
    "PEER_NEVER",
    "PEER_STALE",
    "STALE_SECS",
    "WAKEUP_SECS",
    "BadPeerError",
    "PeerManager",
    "PeerSession",
    "assert_good",
]
