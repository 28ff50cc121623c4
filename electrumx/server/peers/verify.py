"""Verifies a peer in one session: its version, tip, features and peers.

Judges the conversation against our own chain only; how the peer relates to other peers
(blacklist, buckets, matches) is for the manager. Each function raises BadPeerError for a peer
that lies or does not speak the protocol, and lets errors of the connection pass.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from electrumx.lib.peer import MAX_FEATURES_SIZE, Peer, is_small_json
from electrumx.lib.tasks import run_together
from electrumx.server.peers.session import (
    BadPeerError,
    PeerConnectionLostError,
    PeerSession,
    assert_good,
    quoted,
)

# A peer's tip may be this much above or below ours.
MAX_HEIGHT_DIFFERENCE = 5
# The header that must be equal is this far below the lower tip: short splits are normal.
SPLIT_DEPTH = 10
# The largest networks have a few hundred servers.
MAX_REPORTED_PEERS = 1_000
MAX_REPORTED_WORDS = 20
MAX_REPORTED_LENGTH = 300


class ChainDB(Protocol):
    """The database, as verification uses it."""

    @property
    def db_height(self) -> int:
        """Height of the last block on disk."""

    async def raw_header(self, height: int) -> bytes:
        """Return the header at `height`; raises IndexError beyond the last."""


@dataclass(frozen=True)
class Ourselves:
    """Our own chain and version, to compare a peer's answers with."""

    db: ChainDB
    genesis_hash: str
    server_version_args: list[Any]
    default_ports: dict[str, str]


async def check_server_version(session: PeerSession, peer: Peer, ours: Ourselves) -> None:
    """Negotiate a version, which must come first; stores the peer's version text."""
    message = "server.version"
    try:
        result = await session.send_request(message, ours.server_version_args)
    except PeerConnectionLostError:
        raise BadPeerError("terminated before server.version response") from None
    assert_good(message, result, list)
    if len(result) != 2 or not all(isinstance(item, str) for item in result):
        raise BadPeerError(f"bad {message} result: {quoted(result)}")
    peer.server_version = result[0][:MAX_REPORTED_LENGTH]
    peer.features["server_version"] = peer.server_version


async def check_tip(session: PeerSession, ours: Ourselves) -> None:
    """Check that the peer is at our height, on our chain."""
    message = "blockchain.headers.subscribe"
    result = await session.send_request(message)
    assert_good(message, result, dict)
    our_height = ours.db.db_height
    their_height = result.get("height")
    if type(their_height) is not int:
        raise BadPeerError(f"bad height {quoted(their_height)}")
    if abs(our_height - their_height) > MAX_HEIGHT_DIFFERENCE:
        raise BadPeerError(f"bad height {quoted(f'{their_height:,d}')} (ours: {our_height:,d})")

    height = max(0, min(our_height, their_height) - SPLIT_DEPTH)
    our_header = (await ours.db.raw_header(height)).hex()
    message = "blockchain.block.header"
    their_header = await session.send_request(message, [height])
    assert_good(message, their_header, str)
    if their_header != our_header:
        raise BadPeerError(
            f"our header {our_header} and theirs {quoted(their_header)} at height {height:,d} differ"
        )


async def check_features(session: PeerSession, peer: Peer, ours: Ourselves) -> None:
    """Check that the peer serves our chain under the name by which we reached it.

    Replaces the peer's features.
    """
    message = "server.features"
    features = await session.send_request(message)
    assert_good(message, features, dict)
    if not is_small_json(features, MAX_FEATURES_SIZE):
        raise BadPeerError(f"{message} is too large")
    if features.get("genesis_hash") != ours.genesis_hash:
        raise BadPeerError("incorrect genesis hash")
    hosts = features.get("hosts")
    assert_good(f"{message} hosts", hosts, dict)
    if peer.host.lower() not in {host.lower() for host in hosts if isinstance(host, str)}:
        raise BadPeerError(f"not listed in own hosts list {quoted(list(hosts))}")
    peer.update_features(features)


async def ask_peers(session: PeerSession, peer: Peer, ours: Ourselves) -> list[Peer]:
    """Return the peers that `peer` reports, a bounded number of them."""
    message = "server.peers.subscribe"
    result = await session.send_request(message)
    assert_good(message, result, list)
    reported = []
    for raw_peer in result[:MAX_REPORTED_PEERS]:
        real_name = _real_name(raw_peer)
        if real_name is None:
            raise BadPeerError(f"bad {message} entry: {quoted(raw_peer)}")
        reported.append(Peer.from_real_name(real_name, str(peer), ours.default_ports))
    return reported


def _real_name(raw_peer: Any) -> str | None:
    """Return a reported [IP address, host, [words]] as a real name, None if malformed."""
    if not isinstance(raw_peer, list) or len(raw_peer) != 3:
        return None
    _, host, words = raw_peer
    if not isinstance(host, str) or not isinstance(words, list) or len(words) > MAX_REPORTED_WORDS:
        return None
    if not all(isinstance(word, str) for word in words):
        return None
    # Anything else than one word would make another host of the details.
    if host.split() != [host]:
        return None
    if len(host) + sum(map(len, words)) > MAX_REPORTED_LENGTH:
        return None
    return " ".join([host, *words])


async def check_peer(session: PeerSession, peer: Peer, ours: Ourselves) -> list[Peer]:
    """Check everything and return the peers that `peer` reports."""
    await check_server_version(session, peer, ours)
    _, _, reported = await run_together(
        check_tip(session, ours),
        check_features(session, peer, ours),
        ask_peers(session, peer, ours),
    )
    return list(reported)
