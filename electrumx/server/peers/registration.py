"""Has other servers report us: sends our features to peers that do not know us.

Runs on the event loop.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiorpcx import ProtocolError, RPCError

from electrumx.lib.peer import Peer
from electrumx.server.env import Env
from electrumx.server.peers.session import (
    BadPeerError,
    PeerConnectionLostError,
    PeerSession,
    quoted,
)


class Registration:
    """Registers this server with peers, by its first name that is not on Tor.

    myselves:  the peers that are this server
    is_public: whether a peer is worth connecting to; if we are not, bother no peer
    """

    def __init__(
        self,
        env: Env,
        myselves: Sequence[Peer],
        is_public: Callable[[Peer], bool],
        logger: logging.Logger,
    ) -> None:
        self._env = env
        self._myselves = myselves
        self._is_public = is_public
        self._logger = logger

    def clearnet_self(self) -> Peer | None:
        """Return ourself as we register, None if we report no name that is not on Tor."""
        return next((peer for peer in self._myselves if not peer.is_tor), None)

    def features_for(self, peer: Peer, reported: list[Peer]) -> dict[str, Any] | None:
        """Return the features to send to `peer`, None if it needs or deserves none.

        `reported` are the peers that it reports.
        """
        ourself = self.clearnet_self()
        if not self._env.peer_announce or peer in self._myselves:
            return None
        if ourself is None or not self._is_public(ourself):
            return None
        for match in ourself.matches(reported):
            if (match.tcp_port, match.ssl_port) == (ourself.tcp_port, ourself.ssl_port):
                return None
        return ourself.features

    async def register(self, session: PeerSession, peer: Peer, features: dict[str, Any]) -> None:
        """Ask `peer` to add us; raises BadPeerError if it hangs up instead of answering."""
        self._logger.info(f"[{peer}] registering ourself with it")
        try:
            await session.send_request("server.add_peer", [features])
        except PeerConnectionLostError:
            raise BadPeerError("terminated before server.add_peer response") from None
        except (RPCError, ProtocolError) as e:
            # Whatever it answers here, it may serve its clients well.
            self._logger.info(f"[{peer}] refused to add us: {quoted(e.message)}")
