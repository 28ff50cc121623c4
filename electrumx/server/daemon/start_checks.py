"""Checks at the start, and before the use of another node: whether the node fits the coin.

Owns nothing: ``checks`` judges the replies, and ``NodeRPC`` has the list of nodes.

Runs in: the event loop.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.log_text import printable
from electrumx.server.daemon.checks import incomplete_indexes, judge_chain, judge_version
from electrumx.server.daemon.jsonrpc import NodeRPC
from electrumx.server.daemon.responses import DaemonError, ForbiddenCallError, is_unknown_method


class StartCalls(Protocol):
    """The calls to the node in use, which coins have in forms of their own."""

    async def height(self) -> int:
        """Return the node's height."""

    async def block_hex_hashes(self, first: int, count: int) -> list[str]:
        """Return the hex hashes of blocks."""

    async def getnetworkinfo(self) -> dict[str, Any]:
        """Return the node's getnetworkinfo."""

    async def getindexinfo(self) -> dict[str, Any]:
        """Return the indexes that the node keeps."""


class StartChecks:
    """Checks the node in use by ``calls``, and any other by its URL."""

    def __init__(
        self, coin: type[Coin], rpc: NodeRPC, calls: StartCalls, logger: logging.Logger
    ) -> None:
        self._coin = coin
        self._rpc = rpc
        self._calls = calls
        self._logger = logger

    async def find_node(self) -> None:
        """Wait for the node, and raise OperatorError if it is none for this coin.

        If there are several, leave out the unusable ones.  A wrong password shows here,
        in the log.
        """
        while True:
            try:
                await self._calls.height()
                await self.check_chain()
                await self.check_version()
                await self.check_indexes()
                break
            except DaemonError as e:
                reason = self._no_node(e)
            except OperatorError as e:
                reason = str(e)
            if not self._rpc.leave_out(self._rpc.current_url(), reason):
                raise OperatorError(reason)
        self._rpc.note_started()

    def _no_node(self, error: DaemonError, url: str | None = None) -> str:
        return (
            f"the daemon at {self._rpc.logged_url(url)} does not answer as a node should "
            f"({printable(error)}): check DAEMON_URL"
        )

    async def check_node(self, url: str) -> None:
        """Raise OperatorError if the node at url is none for this coin."""
        rpc, coin = self._rpc, self._coin
        try:
            genesis = await rpc.call_once(url, "getblockhash", (0,))
            judge_chain(coin, genesis, rpc.logged_url(url))
            if coin.MIN_REQUIRED_DAEMON_VERSION:
                judge_version(coin, await rpc.call_once(url, "getnetworkinfo"))
            await self._check_indexes(url, lambda: rpc.call_once(url, "getindexinfo"))
        except DaemonError as e:
            raise OperatorError(self._no_node(e, url)) from e

    async def check_chain(self) -> None:
        """Raise OperatorError if the node's first block is not the coin's."""
        hashes = await self._calls.block_hex_hashes(0, 1)
        judge_chain(self._coin, hashes[0], self._rpc.logged_url())

    async def check_version(self) -> None:
        """Raise OperatorError if the node is older than the coin's minimum, if it has one."""
        if self._coin.MIN_REQUIRED_DAEMON_VERSION:
            judge_version(self._coin, await self._calls.getnetworkinfo())

    async def check_indexes(self) -> None:
        """Raise OperatorError if the node does not keep an index that we depend on.

        A node without the information counts as keeping it; an unfinished index only warns.
        """
        await self._check_indexes(self._rpc.current_url(), self._calls.getindexinfo)

    async def _check_indexes(self, url: str, ask: Callable[[], Awaitable[Any]]) -> None:
        try:
            indexes = await ask()
        except DaemonError as e:
            # Servers before this one did not make this call, so a list of the allowed ones
            # may lack it.
            if not isinstance(e, ForbiddenCallError) and not is_unknown_method(e):
                raise
            why = "does not let us" if isinstance(e, ForbiddenCallError) else "cannot"
            self._logger.info(f"the daemon {why} list its indexes; not checked")
            return
        for name in incomplete_indexes(self._coin, indexes, self._rpc.logged_url(url)):
            self._logger.warning(f"the daemon's {name} is not complete yet; queries may fail")
