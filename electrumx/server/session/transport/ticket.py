"""The entry of one connection at the admission control, and the address to count it by."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from electrumx.server.session.engine.origin import RECENT_HOSTS, Host, Origin, network_of
from electrumx.server.session.engine.session_groups import TOR_GROUP
from electrumx.server.session.transport.parties import ConnectionSession

# An IPv6 host has a network of so many bits to itself.
HOST_IPV6_PREFIX = 64


class AdmittedConnection(Protocol):
    """A connection, as the admission control uses it."""

    session: ConnectionSession | None
    ticket: "Ticket | None"

    def early_cost(self) -> float:
        """Return the cost of a connection without a session to charge."""

    def late_cost(self) -> float:
        """Return the cost of a connection since its session ended."""

    def abort(self) -> None:
        """Close at once."""


class Ticket:
    """The entry of one connection."""

    __slots__ = ("accepted_at", "address", "connection", "deadline", "is_dropped", "is_forwarded",
                 "is_free", "is_rpc", "is_trusted", "stage", "subnet")  # fmt: skip

    def __init__(
        self,
        address: Host | None,
        subnet: str,
        now: float,
        *,
        is_rpc: bool = False,
        is_trusted: bool = False,
    ) -> None:
        #: an IP address object; None for a Unix socket, and if the client is unknown
        self.address = address
        self.subnet = subnet
        self.accepted_at = now
        self.is_rpc = is_rpc
        self.is_trusted = is_trusted
        #: whether a proxy named the address
        self.is_forwarded = False
        #: whether it costs nothing: the proxy has not named a client
        self.is_free = False
        self.connection: AdmittedConnection | None = None
        self.stage = "pending"
        self.deadline = 0.0
        self.is_dropped = False

    @property
    def place(self) -> str | Host | None:
        """The address, or the network of a host that can take any address in it."""
        address = self.address
        if not isinstance(address, IPv6Address) or self.subnet == TOR_GROUP:
            return address
        return network_of(address, HOST_IPV6_PREFIX)

    @property
    def is_counted(self) -> bool:
        """Whether it counts among the connections of its subnet, and may be evicted."""
        return not (self.is_rpc or self.is_trusted)

    def origin(self) -> Origin:
        """Return the client's address, and who vouches for it."""
        return Origin(self.address, self.is_forwarded, self.is_trusted)

    def drop(self) -> None:
        """End the connection, or see to it that it ends when it is made."""
        self.is_dropped = True
        if self.connection is not None:
            self.connection.abort()

    def idle_since(self) -> float | None:
        """Return when the client was last active; None if it is now."""
        session = None if self.connection is None else self.connection.session
        if session is None:
            return self.accepted_at
        if session.unanswered_request_count():
            return None
        return session.last_recv

    def has_spoken(self) -> bool:
        """Return whether the client has sent a message."""
        session = None if self.connection is None else self.connection.session
        return session is not None and bool(session.recv_count)


@lru_cache(maxsize=RECENT_HOSTS)
def parse_host(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a peer; IPv4 for an IPv4 address that came over IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
