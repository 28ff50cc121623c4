"""The peer set: which other servers exist, which of them we verified, and what we report.

* `manager`: the set itself and the task that monitors each peer.
* `admission`: when a client may have a peer added.
* `verify`: what a peer must answer before we vouch for it; knows no other peers.
* `session`: one outgoing connection, and the errors of a conversation.
* `sources`: what we ask of third parties: name resolution, the blacklist, the Tor proxy.

Everything runs in the event loop. Nothing that a peer does may end a task here, let alone the
server: a peer's fault costs that peer its attempt.
"""

from electrumx.server.peers.admission import PEER_ADD_PAUSE
from electrumx.server.peers.manager import (
    PEER_BAD,
    PEER_GOOD,
    PEER_NEVER,
    PEER_STALE,
    STALE_SECS,
    WAKEUP_SECS,
    PeerManager,
)
from electrumx.server.peers.session import BadPeerError, PeerSession, assert_good

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
