"""Raw blocks over the node's REST interface, where it has that switched on (``rest=1``).

A block comes as it is, instead of as hex within JSON, which spares the node's core and ours about
three quarters of the cost of fetching.  REST knows no password and no batches: each request is
for one block, over a few connections at a time.

Owns those connections, and the state of each URL's REST interface.  A first request finds it,
and any later failure only means JSON-RPC instead, for ten minutes.  Runs on the event loop.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

import yarl

from electrumx.lib.tasks import run_together
from electrumx.lib.trusted_certificates import trusted_context
from electrumx.server.daemon.byte_budget import ByteBudget
from electrumx.server.daemon.rest_connection import (
    Disconnected,
    RestConnection,
    RestError,
    RestTooLargeError,
)

_BLOCK_HASH = re.compile("[0-9A-Fa-f]{64}").fullmatch


class _Allowance:
    """The bytes that the blocks of one call may have together.

    They count in the budget, unless they go into files.
    """

    def __init__(self, max_bytes: int, budget: ByteBudget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget
        self._used = self._charged = 0

    def admit(self, nbytes: int) -> None:
        """Count a block.  Raise RestTooLargeError if it is too much."""
        if self._used + nbytes > self._max_bytes:
            raise RestTooLargeError(self._max_bytes)
        self._used += nbytes
        if nbytes <= RestConnection.SPOOL_BYTES:
            # Few callers fetch blocks, and their allowances are small: they do not wait.
            self._budget.charge(nbytes)
            self._charged += nbytes

    def end(self) -> None:
        """Stop counting the bytes read."""
        self._budget.release(self._charged)


class RestBlocks:
    """Fetches blocks from whichever URL has the interface.

    ``semaphore`` bounds the requests in flight, together with other ones, and ``budget`` counts
    the bytes being read; ``connections`` is their maximum.  Large blocks go into files in
    ``spool_folder``.
    """

    #: seconds before another try of a failed URL
    RECHECK_SECS = 600.0
    #: seconds within which the first answer must begin
    PROBE_SECS = 5.0
    #: seconds that a block may take, for each GiB that it has begun
    TIMEOUT_SECS = 300.0

    def __init__(
        self,
        logger: logging.Logger,
        semaphore: asyncio.Semaphore,
        budget: ByteBudget,
        connections: int = 4,
        spool_folder: str | None = None,
    ) -> None:
        self.logger = logger
        self._spool_folder = spool_folder
        self._semaphore = semaphore
        self._budget = budget
        self._connections = max(1, connections)
        #: URL -> when to try again, 0 if the interface is there
        self._retry_at: dict[str, float] = {}
        #: open connections that wait for a request, and the URL that they lead to
        self._idle: list[RestConnection] = []
        self._idle_url = ""

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def is_known(self, url: str) -> bool:
        """Return whether a URL has shown that it has the interface."""
        return self._retry_at.get(url) == 0

    async def raw_blocks(
        self, url: str, hex_hashes: Sequence[str], max_bytes: int
    ) -> list[bytes] | None:
        """Return the blocks in order, None if they cannot be had this way.

        Where they have more than ``max_bytes`` together, return those that come before.  Raises
        RestTooLargeError if the first one alone has more, NoRoomError if the disk has no room for one.
        """
        # They become part of a request's first line.
        if not hex_hashes or not all(map(_BLOCK_HASH, hex_hashes)):
            return None
        known = self._retry_at.get(url)
        if known and time.monotonic() < known:
            return None
        allowance = _Allowance(max_bytes, self._budget)
        try:
            if known == 0:
                return await self._fetch(url, hex_hashes, allowance)
            # The question is for a block that is needed anyway.
            first = await self._block(url, hex_hashes[0], allowance, self.PROBE_SECS)
            self._retry_at[url] = 0
            self.logger.info("fetching blocks over the daemon's REST interface")
            with suppress(RestTooLargeError):
                return [first, *await self._fetch(url, hex_hashes[1:], allowance)]
            return [first]
        except RestError as e:
            why = str(e)
            if self._retry_at.get(url) == 0:
                self.logger.info(f"the daemon's REST interface failed ({why}); using JSON-RPC")
            elif url not in self._retry_at:
                self.logger.info(
                    f"the daemon's REST interface is off ({why}); fetching blocks by JSON-RPC, "
                    "which is slower: rest=1 in the configuration of the node switches it on"
                )
            self._retry_at[url] = time.monotonic() + self.RECHECK_SECS
            return None
        finally:
            allowance.end()

    async def _fetch(
        self, url: str, hex_hashes: Sequence[str], allowance: _Allowance
    ) -> list[bytes]:
        """Return the blocks in order, up to the allowance.

        Raise RestError if one of them does not come, RestTooLargeError if not even the first fits.
        """
        blocks = [b""] * len(hex_hashes)
        waiting = iter(enumerate(hex_hashes))

        async def fetch_some() -> None:
            # One connection does not wait for the block that another one still receives.
            for number, hex_hash in waiting:
                blocks[number] = await self._block(url, hex_hash, allowance)

        count = min(self._connections, len(hex_hashes))
        try:
            await run_together(*(fetch_some() for _ in range(count)))
        except RestTooLargeError:
            # No block is empty.
            received = list(takewhile(bool, blocks))
            if not received:
                raise
            return received
        return blocks

    async def _block(
        self, url: str, hex_hash: str, allowance: _Allowance, head_secs: float | None = None
    ) -> bytes:
        return await self._get(url, f"rest/block/{hex_hash}.bin", allowance, head_secs)

    async def _get(
        self, url: str, path: str, allowance: _Allowance, head_secs: float | None
    ) -> bytes:
        """Return the resource at a path of the interface."""
        target = yarl.URL(url)
        full_path = f"{target.raw_path.rstrip('/')}/{path}"
        async with self._semaphore:
            while True:
                connection = await self._connection(url, target)
                try:
                    body = await connection.get(full_path, allowance.admit, head_secs)
                except Disconnected:
                    # The node closes long idle connections; a new connection is another matter.
                    if connection.used:
                        continue
                    raise
                if connection.is_open:
                    self._idle.append(connection)
                return body

    async def _connection(self, url: str, target: yarl.URL) -> RestConnection:
        """Return an open connection that no other request uses."""
        if url != self._idle_url:
            self.close()
            self._idle_url = url
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        address = (target.host or "", target.port or 80)
        tls = await trusted_context() if target.scheme == "https" else None
        host = target.raw_authority.rpartition("@")[2]
        return await RestConnection.open(address, tls, host, self.TIMEOUT_SECS, self._spool_folder)
