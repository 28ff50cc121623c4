"""Services that aiorpcX has no words for: LocalRPC at a Unix socket, and who may reach LocalRPC.

Owns which protocols are for the operator, and the written form ``rpc:///PATH``.  Pure; the settings use
it once, at start-up.
"""

import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from aiorpcx import Service

# Of sockaddr_un on Linux, less the NUL; other systems have 103.
MAX_SOCKET_PATH_BYTES = 107

#: of services for the operator, with their default ports; the others are for wallets
OPERATOR_PORTS = {"rpc": 8000, "metrics": 4224}

Network = IPv4Network | IPv6Network


class SocketPath(NamedTuple):
    """The address of a Unix socket; it has the attributes of a NetAddress."""

    host: str
    port: None = None

    def __str__(self) -> str:
        return self.host


class UnixService(Service):  # type: ignore[misc] # untyped
    """LocalRPC at a Unix socket."""

    def __init__(self, path: str) -> None:
        # Not the base's, which takes host names and ports only.
        self._protocol = "rpc"
        self._address = SocketPath(path)

    @property
    def path(self) -> str:
        """The absolute path of the socket."""
        return self._address.host


def parse_unix_service(entry: str) -> UnixService | None:
    """Return the service of ``rpc:///PATH``; None if the entry names no path.

    Raise ValueError, with the reason, if the path is unusable.
    """
    protocol, _, path = entry.partition("://")
    is_rpc = protocol.lower() == "rpc"
    if not path.startswith("/") and not (is_rpc and "/" in path.rstrip("/")):
        return None
    if not is_rpc:
        raise ValueError("only rpc may be at a Unix socket")
    if not path.startswith("/"):
        raise ValueError("the path of a Unix socket must be absolute, as in rpc:///run/rpc.sock")
    if path.endswith("/") or not path.isprintable():
        raise ValueError("the path of a Unix socket must be that of a file")
    path = os.path.normpath(path)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
    return UnixService(path)


def parse_networks(text: str) -> list[Network]:
    """Return the networks of a list with commas.  Raise ValueError if one is no network."""
    return [ip_network(item.strip()) for item in text.split(",") if item.strip()]


def is_local(service: Any) -> bool:
    """Return whether only this machine can reach a service."""
    if isinstance(service, UnixService):
        return True
    host = service.host
    if isinstance(host, (IPv4Address, IPv6Address)):
        return host.is_loopback
    return str(host).lower().rstrip(".") == "localhost"


def contains(networks: Iterable[Network], address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is in one of the networks."""
    return any(address in network for network in networks)


def is_allowed(host: object, networks: Iterable[Network]) -> bool:
    """Return whether an address is a loopback address or in one of the networks."""
    try:
        address = ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.is_loopback or contains(networks, address)
