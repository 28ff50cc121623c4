"""How to reach a peer: at which addresses, from which of ours, and by which proxy.

Strangers choose the names and the addresses behind them. Before a connection each must be public and
under no ban, and once more on the connection. Runs on the event loop.
"""

import socket
import ssl
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from electrumx.lib.peer import Peer
from electrumx.server.env import Env
from electrumx.server.peers.proxy import ProxyFinder
from electrumx.server.peers.session import BadPeerError
from electrumx.server.peers.sources import Resolver


class PeerRoutes:
    """Knows where to connect to a peer, and how.

    myselves:  the peers that are this server
    names:     resolves the names of peers
    is_public: whether a peer is worth connecting to
    is_banned: whether the operator banned an address
    """

    def __init__(
        self,
        env: Env,
        proxies: ProxyFinder,
        myselves: Collection[Peer],
        *,
        names: Resolver,
        is_public: Callable[[Peer], bool],
        is_banned: Callable[[IPv4Address | IPv6Address], bool],
    ) -> None:
        #: has the services from whose addresses we connect
        self.env = env
        self._proxies = proxies
        self._myselves = myselves
        self._names = names
        self._is_public = is_public
        self._is_banned = is_banned
        # Certificates of peers are self-signed as a rule; check a peer's answers instead.
        self._ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ssl_context.check_hostname = False
        self._ssl_context.verify_mode = ssl.CERT_NONE

    def is_banned(self, address: str) -> bool:
        """Return whether a text is a banned IP address."""
        try:
            return self._is_banned(ip_address(address))
        except ValueError:
            return False

    def is_open(self, peer: Peer) -> bool:
        """Return whether we can connect to `peer` now: some must wait for a proxy."""
        return self._proxies.proxy is not None or not self._proxies.is_needed_for(peer)

    async def addresses(self, peer: Peer) -> list[str]:
        """Return the hosts to connect to: the peer's own, or those that its name resolves to.

        Raises OSError for a name that leads nowhere, and BadPeerError for a banned address, or a
        stranger's name that leads to no public one.
        """
        if peer.is_tor:
            return [peer.host]
        found = [peer.host] if peer.ip_address is not None else await self._names(peer.host)
        allowed = [address for address in found if not self.is_banned(address)]
        if found and not allowed:
            raise BadPeerError(f"address {found[0]} is banned")
        if peer.ip_address is not None:
            return allowed
        found = allowed
        public = [address for address in found if self._may_be_at(peer, address)]
        if found and not public:
            raise BadPeerError(f"address {found[0]} is not public")
        return public

    def check_address(self, peer: Peer) -> None:
        """Raise BadPeerError if a stranger's name led us to an address that is not public.

        No other server could reach it, and a program that listens there may trust us. Our own
        name may lead to such an address, inside our network. Also for a banned address.
        """
        if peer.ip_addr is not None and self.is_banned(peer.ip_addr):
            raise BadPeerError(f"address {peer.ip_addr} is banned")
        if peer.ip_addr is not None and not self._may_be_at(peer, peer.ip_addr):
            raise BadPeerError(f"address {peer.ip_addr} is not public")

    def _may_be_at(self, peer: Peer, address: str) -> bool:
        """Return whether a peer may have this IP address."""
        if peer in self._myselves:
            return True
        return self._is_public(Peer(address, {"hosts": {address: {}}}, peer.source))

    def connection_args(self, peer: Peer, kind: str, family: int) -> dict[str, object]:
        """Return the arguments of a connection to `peer`: TLS, the proxy, our own address.

        `kind` is "SSL" or "TCP".
        """
        args: dict[str, object] = {}
        if kind == "SSL":
            args["ssl"] = self._ssl_context
            args["server_hostname"] = peer.host
        if self._proxies.is_needed_for(peer):
            args["proxy"] = self._proxies.proxy
        else:
            local_host = self.local_host_for(peer, family)
            if local_host:
                args["local_addr"] = (local_host, 0)
        return args

    def local_host_for(self, peer: Peer, family: int) -> str | None:
        """Return the address of ours to connect from, so that the peer sees the one we serve on.

        It must be of the connection's family. A loopback address reaches only loopback.
        """
        address_type = IPv4Address if family == socket.AF_INET else IPv6Address
        for service in self.env.services:
            host = service.host
            if service.protocol == "rpc" or not isinstance(host, address_type):
                continue
            to_loopback = peer.ip_address is not None and peer.ip_address.is_loopback
            if not host.is_unspecified and (to_loopback or not host.is_loopback):
                return str(host)
        return None
