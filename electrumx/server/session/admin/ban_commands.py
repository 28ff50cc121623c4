"""The administrator's bans: which networks they may cover, which connections close, the replies.

Runs on the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from electrumx.lib.env_base import shown
from electrumx.lib.util import formatted_time
from electrumx.server.services import Network
from electrumx.server.session.shared.session_table import SessionTable, TableSession
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.ban_file import BanFile
from electrumx.server.session.transport.bans import Ban, BanList, ordered, parse_network
from electrumx.server.session.transport.ticket import parse_host

# The beginning of lines about refused items; ``electrumx_rpc`` then exits with 1.
REFUSED = "refused: "
UNKNOWN = "unknown: "
NOT_SAVED = "not saved: "
LIFTED = "lifted "

# Sessions to compare with the bans before yielding to the event loop.
LOOKED_AT_ONCE = 100

# Banned with ``force`` only: the operator's own machine and network, proxies there, Tor.
OWN_NETWORKS: tuple[tuple[Network, str], ...] = tuple(
    (parse_network(text), name)
    for text, name in (
        ("127.0.0.0/8", "this machine"),
        ("::1", "this machine"),
        ("10.0.0.0/8", "private addresses"),
        ("172.16.0.0/12", "private addresses"),
        ("192.168.0.0/16", "private addresses"),
        ("169.254.0.0/16", "addresses of a link"),
        ("fc00::/7", "private addresses"),
        ("fe80::/10", "addresses of a link"),
    )
)


class BanCommands:
    """Bans and lifts bans, and keeps the list on disk."""

    def __init__(
        self,
        bans: BanList,
        folder: Path,
        admission: Admission,
        table: SessionTable,
        on_change: Callable[[], object],
        logger: logging.Logger,
        *,
        trusted: Iterable[Network] = (),
        names_in_log: bool = True,
    ) -> None:
        """``folder`` is that of the database; call ``on_change()`` after each new ban.

        ``trusted`` are networks of the operator's, such as those of proxies.  ``names_in_log``:
        whether the log has addresses.
        """
        #: whether the log has addresses
        self.names_in_log = names_in_log
        self._bans = bans
        self._file = BanFile(folder, logger)
        self._admission = admission
        self._table = table
        self._on_change = on_change
        self._logger = logger
        self.set_trusted(trusted)

    def set_trusted(self, trusted: Iterable[Network]) -> None:
        """Set the networks of the operator's, which need ``force`` for a ban."""
        self._protected = (
            *OWN_NETWORKS,
            *((network, "trusted addresses") for network in trusted),
        )

    async def load(self) -> None:
        """Take over the bans on disk; call it before clients connect."""
        self._bans.replace_all(await self._file.load())
        count = len(self._bans.in_force())
        if count:
            self._logger.info(f"bans: {count:,d} addresses and subnets may not connect")

    async def ban(self, items: list[str], secs: int | None, *, force: bool) -> list[str]:
        """Ban addresses and subnets for some seconds (None: no end); return a line about each.

        It completes even after a cancellation of the caller, as when the administrator hangs up.
        """
        return await asyncio.shield(self._ban(items, secs, force=force))

    async def _ban(self, items: list[str], secs: int | None, *, force: bool) -> list[str]:
        lines: list[str] = []
        is_changed = False
        for item in items:
            # There may be thousands.
            await asyncio.sleep(0)
            try:
                network = self._to_ban(item, force=force)
                ban = self._bans.add(network, secs)
            except ValueError as e:
                lines.append(f"{REFUSED}{shown(item)}: {e}")
                continue
            is_changed = True
            lines.append(f"banned {network} {_end_text(ban.until)}")
        if is_changed:
            lines += await self._close()
            self._on_change()
            lines += await self._save()
        return self._logged(lines)

    def _to_ban(self, item: str, *, force: bool) -> Network:
        """Return the network to ban; ValueError for none, or a protected one."""
        network = parse_network(item)
        if force:
            return network
        for other, name in self._protected:
            if network.version == other.version and network.overlaps(other):
                raise ValueError(f"it has {name} ({other}); --force bans it all the same")
        return network

    async def _close(self) -> list[str]:
        """Close the connections of banned networks; return a line if there were some."""
        # Admission control refuses later ones at accept.
        dropped = self._admission.drop_banned()
        sessions = []
        for number, session in enumerate(list(self._table.sessions), start=1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._is_banned(session):
                sessions.append(session)
        if sessions:
            await self._table.disconnect(sessions, "banned: closing")
        count = len(sessions) + dropped
        return [f"closed {count:,d} connections"] if count else []

    def _is_banned(self, session: TableSession) -> bool:
        """Return whether a session is of a client at a banned address."""
        address = session.remote_address()
        if address is None or not session.limited:
            return False
        host = parse_host(str(address.host))
        return host is not None and self._bans.is_banned(host)

    async def unban(self, items: list[str]) -> list[str]:
        """Lift bans, as ``ban`` sets them; return a line about each item."""
        return await asyncio.shield(self._unban(items))

    async def _unban(self, items: list[str]) -> list[str]:
        lines = []
        for item in items:
            await asyncio.sleep(0)
            lines.append(self._lift(item))
        if any(line.startswith(LIFTED) for line in lines):
            lines += await self._save()
        return self._logged(lines)

    def _lift(self, item: str) -> str:
        """Lift the ban of an item, or all; return a line about it."""
        if item.lower() == "all":
            self._bans.replace_all([])
            return f"{LIFTED}all bans"
        try:
            network = parse_network(item)
        except ValueError as e:
            return f"{UNKNOWN}{shown(item)}: {e}"
        was_banned = self._bans.remove(network)
        covering = self._bans.covering_network(network)
        still = "" if covering is None else f"it is banned as part of {covering.network}"
        if not still and (parts := self._bans.count_within(network)):
            still = f"parts of it are banned: {parts:,d}, which `bans` lists"
        if was_banned:
            return f"{LIFTED}the ban of {network}{still and '; '}{still}"
        return f"{UNKNOWN}{shown(item)}: {still or 'it is not banned'}"

    async def rows(self) -> list[list[Any]]:
        """Return a row for each ban: network, Unix times of its beginning and end (None: none)."""
        # The text of thousands of networks takes a tenth of a second.
        return await asyncio.to_thread(_rows, self._bans.in_force())

    async def _save(self) -> list[str]:
        """Write the bans to disk; return a line if that failed."""
        try:
            await self._file.save(self._bans.in_force())
        except OSError as e:
            reason = f"{self._file.path}: {e.strerror}"
            self._logger.error(f"cannot save the bans: {reason}")
            return [f"{NOT_SAVED}{reason}: the change holds until the server stops"]
        return []

    def _logged(self, lines: list[str]) -> list[str]:
        if self.names_in_log:
            for line in lines:
                self._logger.info(f"bans: {line}")
        else:
            self._logger.info(f"bans: changed, now {len(self._bans.in_force()):,d}")
        return lines


def _rows(bans: Iterable[Ban]) -> list[list[Any]]:
    return [[str(ban.network), ban.since, ban.until] for ban in ordered(bans)]


def _end_text(until: float | None) -> str:
    if until is None:
        return "until it is lifted"
    return f"for {formatted_time(until - time.time() + 0.5)}"
