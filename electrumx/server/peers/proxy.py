"""The proxy: which peers need one, and the search for it.

Runs on the event loop.
"""

import asyncio
import logging

from electrumx.lib.peer import Peer
from electrumx.server.env import Env
from electrumx.server.peers.session import quoted
from electrumx.server.peers.sources import PeerProxy, detect_proxy, proxy_ip_address

PROXY_RETRY_SECS = 900


class ProxyFinder:
    """Looks for the proxy where `env` expects it, and has it once found."""

    def __init__(self, env: Env, logger: logging.Logger) -> None:
        self._env = env
        self._logger = logger
        #: None while none is known
        self.proxy: PeerProxy | None = None
        #: the IP address that connections through the proxy come from, as text; None while no proxy
        #: is known, or if it did not answer when asked for that
        self.ip_address: str | None = None

    def is_needed_for(self, peer: Peer) -> bool:
        """Return whether connections to `peer` must go through the proxy."""
        return bool(self._env.force_proxy) or peer.is_tor

    async def find(self) -> None:
        """Look for the proxy until there is one, every `PROXY_RETRY_SECS`."""
        host, port = self._env.tor_proxy_host, self._env.tor_proxy_port
        while True:
            self._logger.info(f"trying to detect proxy on {host}")
            try:
                proxy = await detect_proxy(host, port)
            except (OSError, ValueError, asyncio.TimeoutError) as e:
                self._logger.info(f"proxy detection failed: {quoted(str(e) or type(e).__name__)}")
                proxy = None
            if proxy:
                break
            self._logger.info("no proxy detected, will try later")
            await asyncio.sleep(PROXY_RETRY_SECS)
        self._logger.info(f"detected {proxy}")
        self.ip_address = await proxy_ip_address(proxy)
        self.proxy = proxy
