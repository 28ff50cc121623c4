"""Raw blocks over the node's REST interface, where it has that switched on (``rest=1``).

A block comes as it is, instead of as hex within JSON, which spares the node's core and ours about
half of what fetching costs.  REST knows no password and no batches: blocks are asked for one by one,
several at a time.

Owns what is known of each URL's REST interface.  It is found out by asking, and whatever goes wrong
later only means that JSON-RPC is used instead, for ten minutes.  Runs on the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import yarl


class RestTrouble(Exception):
    """Internal: no block came; JSON-RPC will tell what is the matter."""


class RestBlocks:
    """Fetches blocks from whichever URL has the interface.

    ``semaphore`` bounds the requests in flight, together with other ones.
    """

    #: seconds after which a URL that failed is tried again
    RECHECK_SECS = 600.0
    #: seconds that the first question may take
    PROBE_SECS = 5.0
    #: bytes of a block at most
    MAX_BYTES = 1 << 30

    def __init__(self, logger: logging.Logger, semaphore: asyncio.Semaphore) -> None:
        self.logger = logger
        self._semaphore = semaphore
        #: URL -> when to try again, 0 if the interface is there
        self._retry_at: dict[str, float] = {}

    async def raw_blocks(
        self, session: Any, url: str, hex_hashes: Sequence[str]
    ) -> list[bytes] | None:
        """Return the blocks in order, None if they cannot be had this way."""
        if not await self._usable(session, url):
            return None
        tasks = [
            asyncio.ensure_future(self._raw_block(session, url, hex_hash))
            for hex_hash in hex_hashes
        ]
        try:
            return list(await asyncio.gather(*tasks))
        except RestTrouble as e:
            self.logger.info(f"the daemon's REST interface failed ({e}); using JSON-RPC")
            self._retry_at[url] = time.monotonic() + self.RECHECK_SECS
            return None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _usable(self, session: Any, url: str) -> bool:
        retry_at = self._retry_at.get(url)
        if retry_at == 0:
            return True
        if retry_at is not None and time.monotonic() < retry_at:
            return False
        try:
            body = await asyncio.wait_for(
                self._get(session, url, "rest/chaininfo.json"), self.PROBE_SECS
            )
            found = body.lstrip()[:1] == b"{"
        except (RestTrouble, asyncio.TimeoutError):
            found = False
        self._retry_at[url] = 0 if found else time.monotonic() + self.RECHECK_SECS
        if found:
            self.logger.info("fetching blocks over the daemon's REST interface")
        return found

    async def _raw_block(self, session: Any, url: str, hex_hash: str) -> bytes:
        return await self._get(session, url, f"rest/block/{hex_hash}.bin")

    async def _get(self, session: Any, url: str, path: str) -> bytes:
        target = yarl.URL(url).with_user(None).joinpath(path)
        try:
            async with self._semaphore, session.get(target, allow_redirects=False) as response:
                if response.status != 200:
                    raise RestTrouble(f"HTTP status {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > self.MAX_BYTES:
                        raise RestTrouble("a block is too large")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as e:
            raise RestTrouble(type(e).__name__) from e
        return bytes(body)
