"""Where a client is, as the groups that share costs and the limits of connections see it."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple, TypeAlias

Host: TypeAlias = IPv4Address | IPv6Address

# Tor names clients of an onion service by addresses in this network, if it writes PROXY headers
# (``HiddenServiceExportCircuitID haproxy``).  The last 32 bits are the number of the circuit.
_CIRCUITS = IPv6Network("fc00:dead:beef:4dad::/64")
_CIRCUIT_MASK = 0xFFFF_FFFF
# Addresses and networks kept as parsed: to parse one takes microseconds.
RECENT_HOSTS = 256


class Origin(NamedTuple):
    """The address of a client, and who vouches for it."""

    #: None if unknown
    host: Host | str | None = None
    #: whether a proxy named the address, in a PROXY header
    is_forwarded: bool = False
    #: whether the operator trusts the client: it has no cost and no group
    is_trusted: bool = False

    def circuit(self) -> int | None:
        """Return the number of the Tor circuit that the client comes through, None without one.

        It is the number that Tor's control port has for the circuit.
        """
        host = self.host
        if self.is_forwarded and isinstance(host, IPv6Address) and host in _CIRCUITS:
            return int(host) & _CIRCUIT_MASK
        return None


def as_origin(client: "Origin | Host | str | None") -> Origin:
    """Return the origin of a client described by its address only."""
    return client if isinstance(client, Origin) else Origin(client)


def network_of(address: Host, prefix: int) -> str:
    """Return the network of an address, as text, whatever interface a link-local address names."""
    host_bits = address.max_prefixlen - prefix
    return _network_text(address.version, int(address) >> host_bits << host_bits, prefix)


@lru_cache(maxsize=RECENT_HOSTS)
def _network_text(version: int, first: int, prefix: int) -> str:
    address: Host = IPv4Address(first) if version == 4 else IPv6Address(first)
    return f"{address}/{prefix}"
