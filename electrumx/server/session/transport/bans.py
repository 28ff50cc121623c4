"""Networks that may not connect: in memory, each until its time.

``Admission`` asks at accept, so a look-up costs a mask and a look-up in a dictionary for each length of
prefix in use, whatever the number of bans.  Times are Unix times in seconds.  Runs on the event loop;
``ban_file`` keeps the list on disk.
"""

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple, TypeAlias

from electrumx.server.services import Network

Address: TypeAlias = IPv4Address | IPv6Address

# More would make the file large; a subnet is one ban.
MAX_BANS = 10_000
# The longest time, about thirty years; a ban without an end has none.
MAX_SECS = 10**9
# IPv6 networks of addresses that stand for IPv4 addresses begin with so many bits.
MAPPED_BITS = 96


class Ban(NamedTuple):
    """One network."""

    network: Network
    #: when the ban began
    since: float
    #: when the ban ends; None: not by itself
    until: float | None


def parse_network(text: str) -> Network:
    """Return the network of an address or subnet; ValueError if it is none, or has host bits.

    IPv6 that stands for IPv4 becomes IPv4.
    """
    if "%" in text:
        raise ValueError("the name of an interface is no part of a network")
    network = ip_network(text.strip())
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ip_network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def ordered(bans: Iterable[Ban]) -> list[Ban]:
    """Return bans by network, IPv4 first.  With thousands it takes milliseconds."""
    return sorted(
        bans,
        key=lambda ban: (
            ban.network.version,
            int(ban.network.network_address),
            ban.network.prefixlen,
        ),
    )


class BanList:
    """The bans that are in force."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bans: dict[Network, Ban] = {}
        # IP version -> length of prefix -> first address of the network, as a number -> its ban
        self._by_length: dict[int, dict[int, dict[int, Ban]]] = {4: {}, 6: {}}

    def __len__(self) -> int:
        return len(self._bans)

    def covering(self, address: Address) -> Ban | None:
        """Return a ban that an address falls under; None if it may connect."""
        number, bits = int(address), address.max_prefixlen
        for length, bans in self._by_length[address.version].items():
            shift = bits - length
            ban = bans.get(number >> shift << shift)
            if ban is not None and not self._is_over(ban):
                return ban
        return None

    def is_banned(self, address: Address) -> bool:
        """Return whether an address may not connect."""
        return bool(self._bans) and self.covering(address) is not None

    def _is_over(self, ban: Ban) -> bool:
        return ban.until is not None and ban.until <= self._clock()

    def covering_network(self, network: Network) -> Ban | None:
        """Return a ban that all of a network falls under; None without one."""
        number, bits = int(network.network_address), network.max_prefixlen
        for length, bans in self._by_length[network.version].items():
            shift = bits - length
            ban = bans.get(number >> shift << shift) if length <= network.prefixlen else None
            if ban is not None and not self._is_over(ban):
                return ban
        return None

    def count_within(self, network: Network) -> int:
        """Return the number of bans of parts of a network."""
        number, bits = int(network.network_address), network.max_prefixlen
        shift = bits - network.prefixlen
        return sum(
            first >> shift == number >> shift and not self._is_over(ban)
            for length, bans in self._by_length[network.version].items()
            if length > network.prefixlen
            for first, ban in bans.items()
        )

    def in_force(self) -> list[Ban]:
        """Drop the bans whose time is over, and return the others, in no order."""
        for ban in [ban for ban in self._bans.values() if self._is_over(ban)]:
            self.remove(ban.network)
        return list(self._bans.values())

    def in_order(self) -> list[Ban]:
        """Drop the bans whose time is over, and return the others by network, IPv4 first."""
        return ordered(self.in_force())

    def add(self, network: Network, secs: int | None) -> Ban:
        """Ban a network for a time, None for no end; replace a former ban of the same network.

        Raises ValueError if there are too many.
        """
        if network not in self._bans and len(self) >= MAX_BANS and len(self.in_force()) >= MAX_BANS:
            raise ValueError(f"there are {MAX_BANS:,d} bans: lift some, or ban larger subnets")
        now = self._clock()
        ban = Ban(network, now, None if secs is None else now + min(secs, MAX_SECS))
        self._enter(ban)
        return ban

    def replace_all(self, bans: Iterable[Ban]) -> None:
        """Take over bans from disk."""
        self._bans.clear()
        self._by_length = {4: {}, 6: {}}
        for ban in bans:
            self._enter(ban)

    def _enter(self, ban: Ban) -> None:
        network = ban.network
        self._bans[network] = ban
        of_version = self._by_length[network.version]
        of_version.setdefault(network.prefixlen, {})[int(network.network_address)] = ban

    def remove(self, network: Network) -> bool:
        """Lift the ban of a network; return whether there was one."""
        if self._bans.pop(network, None) is None:
            return False
        of_version = self._by_length[network.version]
        of_length = of_version[network.prefixlen]
        del of_length[int(network.network_address)]
        if not of_length:
            del of_version[network.prefixlen]
        return True
