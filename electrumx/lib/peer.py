"""One server of the network as a value: its features as it reports them, and our record of it.

Everything in a peer's *features* comes from strangers. `Peer` reads the few entries that we
use into canonical attributes and never trusts the rest; it does no I/O and knows no clock.
Used only from the event loop, by the peer manager.
"""

import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar, Union

from aiorpcx import is_valid_hostname

from electrumx.lib.util import protocol_tuple, version_string

IPAddress = Union[IPv4Address, IPv6Address]

# A features dictionary of a server with several hosts and services takes about 1 kB.
MAX_FEATURES_SIZE = 10_000
MAX_FEATURES_DEPTH = 16
# Each claim of other ports costs two more connections at the next attempt.
MAX_OTHER_PORT_PAIRS = 10
MAX_PORT_DIGITS = 5
MAX_VERSION_LENGTH = 20


def is_small_json(value: Any, max_size: int, max_depth: int = MAX_FEATURES_DEPTH) -> bool:
    """Return True if `value` as JSON has about `max_size` characters at most.

    Stops at the limit, so `max_size` bounds the cost, not the value. Also False if containers nest
    deeper than `max_depth`, since a dump would recurse.
    """
    remaining = max_size
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            remaining -= len(item) + 2
        elif isinstance(item, int):
            remaining -= 1 + item.bit_length() // 3
        elif isinstance(item, (dict, list, tuple)):
            remaining -= 2 + 2 * len(item)
            if depth >= max_depth or remaining < 0:
                return False
            stack.extend((child, depth + 1) for child in item)
            if isinstance(item, dict):
                stack.extend((child, depth + 1) for child in item.values())
        else:
            remaining -= 8
        if remaining < 0:
            return False
    return True


def _parse_port(value: Any) -> int | None:
    """Return a port 1 to 65535 given as integer or decimal text, else None."""
    if isinstance(value, str) and len(value) <= MAX_PORT_DIGITS:
        value = int(value) if value.isascii() and value.isdecimal() else None
    if type(value) is int and 0 < value <= 65535:
        return value
    return None


def _parse_pruning(value: Any) -> int | None:
    """Return a positive pruning limit given as integer or decimal text, else None."""
    if isinstance(value, str) and len(value) <= 10 and value.isascii() and value.isdecimal():
        value = int(value)
    # The upper bound keeps the decimal text short; no chain has 10^10 blocks.
    if type(value) is int and 0 < value < 10**10:
        return value
    return None


def _parse_ip(text: Any) -> IPAddress | None:
    """Return the IP address that `text` is, else None.

    None for an IPv6 address with a zone: it has no meaning on another machine, and the
    zone's text is free.
    """
    if not isinstance(text, str) or "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class Peer:
    """A server, by the one name or address under which we know it.

    Construction raises AssertionError unless `host` is a text, `features` a dictionary, and
    `host` a key of ``features["hosts"]``. It copies `features` (shallowly) and writes the canonical
    values into the copy. `last_good` and `last_try` are unix times in seconds, 0 meaning never.
    """

    # The attributes that `serialize` returns: enough to construct an equal peer.
    ATTRS = ("host", "features", "source", "ip_addr", "last_good", "last_try", "try_count")
    # Canonical attributes, computed from the features.
    FEATURES = (
        "pruning",
        "server_version",
        "protocol_min",
        "protocol_max",
        "ssl_port",
        "tcp_port",
    )
    # Ports meant by a bare `s` or `t` in a real name; the application may set them.
    DEFAULT_PORTS: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        host: str,
        features: dict[str, Any],
        source: str = "unknown",
        ip_addr: str | None = None,
        last_good: float = 0,
        last_try: float = 0,
        try_count: int = 0,
    ) -> None:
        # Raised rather than asserted: these hold for a stranger's data also under -O.
        if not isinstance(host, str):
            raise AssertionError("host must be a text")
        if not isinstance(features, dict):
            raise AssertionError("features must be a dictionary")
        hosts = features.get("hosts")
        if not isinstance(hosts, dict) or host not in hosts:
            raise AssertionError("host must be among the hosts of the features")
        self.host = host
        self.features = features.copy()
        self.source = source
        self.ip_addr = ip_addr
        self.last_good = last_good
        self.last_try = last_try
        self.try_count = try_count
        # Not serialised.
        self.bad = False
        self.other_port_pairs: set[tuple[str, int | None]] = set()
        self.status = 0
        # Set by the task that monitors this peer: an event that ends its pause.
        self.retry_event: Any = None
        # Canonical features.
        self.pruning: int | None = _parse_pruning(features.get("pruning"))
        self.server_version: str | None = self._text("server_version")
        self.protocol_min: str = self._version_text("protocol_min")
        self.protocol_max: str = self._version_text("protocol_max")
        self.ssl_port: int | None = self._port("ssl_port")
        self.tcp_port: int | None = self._port("tcp_port")
        for name in self.FEATURES:
            self.features[name] = getattr(self, name)

    def __str__(self) -> str:
        return self.host

    # --- Reading the features

    def _text(self, key: str) -> str | None:
        value = self.features.get(key)
        return value if isinstance(value, str) else None

    def _version_text(self, key: str) -> str:
        text = self._text(key)
        if text is None or len(text) > MAX_VERSION_LENGTH:
            return "0.0"
        return version_string(protocol_tuple(text))

    def _port(self, key: str) -> int | None:
        entry = self.features["hosts"][self.host]
        # An empty entry falls back to the features themselves, as it always has.
        if not entry:
            entry = self.features
        return _parse_port(entry.get(key)) if isinstance(entry, dict) else None

    @property
    def genesis_hash(self) -> str | None:
        """The genesis block hash in display hex that the features claim, or None."""
        return self._text("genesis_hash")

    # --- Making peers

    @classmethod
    def peers_from_features(cls, features: Any, source: str) -> list["Peer"]:
        """Return one peer for each host of `features`, any JSON value from a stranger.

        Empty if the value is malformed or too large. Never raises.
        """
        if not isinstance(features, dict) or not is_small_json(features, MAX_FEATURES_SIZE):
            return []
        hosts = features.get("hosts")
        if not isinstance(hosts, dict):
            return []
        return [cls(host, features, source) for host in hosts if isinstance(host, str)]

    @classmethod
    def deserialize(cls, item: dict[str, Any]) -> "Peer":
        """Return the peer that `serialize` wrote; raises TypeError for unknown keys."""
        return cls(**item)

    @classmethod
    def from_real_name(
        cls, real_name: str, source: str, default_ports: dict[str, str] | None = None
    ) -> "Peer":
        """Return the peer of the text `host v<protocol> p<pruning> s[port] t[port]`.

        Words after the host come in any order; unknown ones have no effect. A bare `s` or `t`
        means the coin's port: `default_ports`, or else `DEFAULT_PORTS`. An empty text gives a
        peer that is not valid.
        """
        defaults = cls.DEFAULT_PORTS if default_ports is None else default_ports
        host, *words = real_name.split() or [""]
        ports: dict[str, str | None] = {}
        features: dict[str, Any] = {}
        for word in words:
            letter, rest = word[0], word[1:]
            if letter == "v":
                features["protocol_min"] = features["protocol_max"] = rest
            elif letter == "p":
                features["pruning"] = rest
            elif letter in "st" and (not rest or rest.isdecimal()):
                ports["ssl_port" if letter == "s" else "tcp_port"] = rest or defaults.get(letter)
        features.update(ports)
        features["hosts"] = {host: ports}
        return cls(host, features, source)

    # --- Kinds of host

    @property
    def is_tor(self) -> bool:
        """True for an onion service."""
        # A final dot is of the same host, and must not have it looked up.
        return self.host.lower().rstrip(".").endswith(".onion")

    @property
    def ip_address(self) -> IPAddress | None:
        """The host as an IP address, or None if it is a name."""
        return _parse_ip(self.host)

    @property
    def is_valid(self) -> bool:
        """True if the host is a usable IP address or a well-formed name."""
        address = self.ip_address
        if address is None:
            # The library's check lets some non-ASCII letters and a final newline pass.
            return self.host.isascii() and self.host.isprintable() and is_valid_hostname(self.host)
        return (
            (address.is_global or address.is_private)
            and not address.is_multicast
            and not address.is_unspecified
        )

    @property
    def is_public(self) -> bool:
        """True if others could reach this host."""
        address = self.ip_address
        if address is None:
            return self.is_valid and self.host.lower().rstrip(".") != "localhost"
        return self.is_valid and not address.is_private

    # --- Comparing and changing

    def matches(self, peers: Iterable["Peer"]) -> list["Peer"]:
        """Return those of `peers` that are the same server as this, by name or address."""
        hosts = {self.host.lower()}
        if self.ip_addr:
            hosts.add(self.ip_addr)
        return [peer for peer in peers if peer.host.lower() in hosts or peer.ip_addr == self.host]

    def update_features(self, features: dict[str, Any]) -> None:
        """Replace features and canonical attributes; no change if they are not of this host."""
        try:
            update = Peer(self.host, features)
        except AssertionError:
            return
        self.features = update.features
        for name in self.FEATURES:
            setattr(self, name, getattr(update, name))

    def update_features_from_peer(self, peer: "Peer") -> None:
        """Take over the features of `peer`, if they speak of this host too."""
        if peer is not self:
            self.update_features(peer.features)

    def connection_tuples(self) -> list[tuple[str, int, socket.AddressFamily]]:
        """Return (kind, port, family) in the order to try; consumes `other_port_pairs`.

        Kind is "SSL" or "TCP". The ports that the peer registered come first.
        """
        pairs: list[tuple[str, int | None]] = [("SSL", self.ssl_port), ("TCP", self.tcp_port)]
        while self.other_port_pairs:
            pairs.append(self.other_port_pairs.pop())
        address = self.ip_address
        families = [socket.AF_INET, socket.AF_INET6]
        if address is not None:
            families = families[:1] if address.version == 4 else families[1:]
        return [(kind, port, family) for kind, port in pairs if port for family in families]

    def mark_bad(self) -> None:
        """Mark as bad for as long as this object lives."""
        self.bad = True

    def check_ports(self, other: "Peer") -> bool:
        """Remember ports of `other` that differ from ours; return whether there are any."""
        for kind, ours, theirs in (
            ("SSL", self.ssl_port, other.ssl_port),
            ("TCP", self.tcp_port, other.tcp_port),
        ):
            if ours != theirs and len(self.other_port_pairs) < MAX_OTHER_PORT_PAIRS:
                self.other_port_pairs.add((kind, theirs))
        return bool(self.other_port_pairs)

    # --- Neighbourhood, against one operator posing as many

    def _network_text(self, ipv4_bits: int, ipv6_bits: int) -> str:
        if self.is_tor:
            return "onion"
        address = _parse_ip((self.ip_addr or "").partition("%")[0])
        if address is None:
            return ""
        bits = ipv4_bits if address.version == 4 else ipv6_bits
        return str(ipaddress.ip_network((address, bits), strict=False))

    def bucket_for_internal_purposes(self) -> str:
        """Return the network of which we keep one good peer: IPv4 /32, IPv6 /64.

        "onion" for Tor, "" while the IP address is not known.
        """
        return self._network_text(32, 64)

    def bucket_for_external_interface(self) -> str:
        """Return the network of which clients get few peers: IPv4 /16, IPv6 /56.

        "onion" for Tor, "" while the IP address is not known.
        """
        return self._network_text(16, 56)

    # --- Text forms

    def serialize(self) -> dict[str, Any]:
        """Return the attributes that `deserialize` reads; shares the features."""
        return {attr: getattr(self, attr) for attr in self.ATTRS}

    def real_name(self) -> str:
        """Return the text that `from_real_name` reads."""
        words = [self.host, f"v{self.protocol_max}"]
        if self.pruning:
            words.append(f"p{self.pruning}")
        # Write default ports out too: both spellings are valid, and every client knows
        # this one.
        for letter, port in (("s", self.ssl_port), ("t", self.tcp_port)):
            if port:
                words.append(f"{letter}{port}")
        return " ".join(words)

    def to_tuple(self) -> tuple[str, str, list[str]]:
        """Return (IP address or host, host, details) as `server.peers.subscribe` lists it."""
        return self.ip_addr or self.host, self.host, self.real_name().split()[1:]
