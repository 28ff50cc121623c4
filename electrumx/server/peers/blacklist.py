"""The task that fetches the blacklist again and again.

Runs on the event loop.
"""

import asyncio
import logging

import aiohttp

from electrumx.lib.util import without_logins
from electrumx.server.peers.peer_set import PeerSet, wake
from electrumx.server.peers.session import quoted
from electrumx.server.peers.sources import fetch_blacklist

BLACKLIST_REFRESH_SECS = 600


class BlacklistTask:
    """Keeps the blacklist of a `PeerSet` like the one at `url`; without a URL it stays empty."""

    def __init__(self, url: str | None, peer_set: PeerSet, logger: logging.Logger) -> None:
        self._url = url
        self._peer_set = peer_set
        self._logger = logger

    async def run(self) -> None:
        """Fetch the blacklist every `BLACKLIST_REFRESH_SECS` until cancelled.

        Try at once the peers that it has, which marks them as bad. After a failure the old
        list remains.
        """
        if not self._url:
            return
        shown = without_logins(self._url)
        peer_set = self._peer_set
        while True:
            try:
                peer_set.blacklist = await fetch_blacklist(self._url)
            except (OSError, ValueError, asyncio.TimeoutError, aiohttp.ClientError) as e:
                reason = quoted(without_logins(str(e)) or type(e).__name__)
                self._logger.error(f"could not retrieve blacklist from {shown}: {reason}")
            else:
                self._logger.info(
                    f"blacklist from {shown} has {len(peer_set.blacklist):,d} entries"
                )
                wake(peer for peer in peer_set.peers if peer_set.is_blacklisted(peer))
            await asyncio.sleep(BLACKLIST_REFRESH_SECS)
