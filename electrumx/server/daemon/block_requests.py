"""Blocks of the node: over its REST interface where that is on, else by JSON-RPC.

Owns that choice, the limits of blocks, and which nodes want a verbosity as a number.  ``rest`` has the
requests over REST.

Runs in: the event loop.  Worker threads convert long hex.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from aiorpcx import JSONRPC

from electrumx.server.daemon.jsonrpc import NodeRPC
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import (
    BATCH_ITEM,
    BLOCK_BATCH_BYTES,
    REPLY_LIMITS,
    DaemonError,
    Reading,
    ReplyTooLargeError,
    checked_hashes,
    parse_json,
    reply_limit,
)
from electrumx.server.daemon.rest import RestBlocks
from electrumx.server.daemon.rest_connection import RestTooLargeError
from electrumx.server.daemon.spool import NoRoomError

_R = TypeVar("_R")


class BlockRequests:
    """Requests blocks of the node in use.  Raises DaemonError with the node's error object."""

    #: the largest readable block, in bytes: over REST, and as hex over JSON-RPC
    MAX_REST_BLOCK = 1 << 33
    MAX_HEX_BLOCK = REPLY_LIMITS["getblock"] // 2

    def __init__(self, rpc: NodeRPC, calls: MethodCalls, rest: RestBlocks) -> None:
        self._rpc = rpc
        self._calls = calls
        self._rest = rest
        #: URLs of nodes that want the verbosity of getblock as a number
        self._numeric_verbosity: set[str] = set()

    def close(self) -> None:
        """Close the connections to the REST interface that are not in use."""
        self._rest.close()

    async def block_hex_hashes(self, first: int, count: int) -> list[str]:
        """Return the hex hashes of count blocks from height first."""
        heights = ((height,) for height in range(first, first + count))
        return checked_hashes("getblockhash", await self._rpc.send_vector("getblockhash", heights))

    async def deserialised_block(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block, with the hashes of its transactions."""

        async def ask(verbosity: type[int]) -> dict[str, Any]:
            return await self._calls.send_for_dict("getblock", (hex_hash, verbosity(1)))

        return await self._with_verbosity(ask)

    def has_rest(self) -> bool:
        """Return whether blocks come over REST, as far as known: each by itself."""
        return self._rest.is_known(self._rpc.current_url())

    async def try_rest(self, genesis: str) -> None:
        """Find out, and log, whether the node serves blocks over REST, by the block with that hash."""
        if self._rpc.http.has_rest:
            url = self._rpc.current_url()
            try:
                await self._rest.raw_blocks(url, [genesis], BLOCK_BATCH_BYTES)
            except RestTooLargeError:
                # No genesis block; a later read of it is checked.
                pass

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the raw blocks with the given hashes, in the same order.

        Over REST, return only the first ones if all are too large together.  Raises
        ReplyTooLargeError if not even the first can be had with the others, or if a single one is
        too large to read: the message has its limit and the remedy.
        """
        hex_hashes = list(hex_hashes)
        alone = len(hex_hashes) == 1
        if hex_hashes and self._rpc.http.has_rest:
            max_bytes = self.MAX_REST_BLOCK if alone else BLOCK_BATCH_BYTES
            url = self._rpc.current_url()
            try:
                blocks = await self._rest.raw_blocks(url, hex_hashes, max_bytes)
            except RestTooLargeError as e:
                raise _too_large_blocks(
                    f"the daemon's REST interface has more than {e.args[0]:,d} bytes"
                    + (", the most that a block may have here" if alone else "")
                ) from None
            except NoRoomError as e:
                raise _too_large_blocks(str(e)) from None
            if blocks is not None:
                return blocks
        try:
            return await self._hex_blocks(hex_hashes)
        except ReplyTooLargeError as e:
            if not alone:
                raise
            raise _too_large_blocks(
                f"{e.args[0][0]['message']}, hex of {self.MAX_HEX_BLOCK:,d}: set rest=1 at the "
                f"daemon to have blocks of up to {self.MAX_REST_BLOCK:,d} bytes"
            ) from None

    async def _hex_blocks(self, hex_hashes: Sequence[str]) -> list[bytes]:
        max_bytes = reply_limit("getblock")
        if len(hex_hashes) > 1:
            max_bytes = 2 * BLOCK_BATCH_BYTES + len(hex_hashes) * BATCH_ITEM
        reading = Reading(parse_json, max_bytes)

        async def ask(verbosity: type[int]) -> list[bytes]:
            return await self._calls.hex_batch(
                "getblock", ((h, verbosity(0)) for h in hex_hashes), reading
            )

        return await self._with_verbosity(ask)

    async def _with_verbosity(self, ask: Callable[[type[int]], Awaitable[_R]]) -> _R:
        """Return the result of ``ask``, given the type in which the node expects a verbosity.

        Old nodes want true or false, and zebrad a number; others take both.
        """
        url = self._rpc.current_url()
        if url in self._numeric_verbosity:
            return await ask(int)
        try:
            return await ask(bool)
        except DaemonError as e:
            if not _are_invalid_params(e):
                raise
        result = await ask(int)
        self._numeric_verbosity.add(url)
        return result


def _too_large_blocks(message: str) -> ReplyTooLargeError:
    return ReplyTooLargeError([{"code": JSONRPC.INTERNAL_ERROR, "message": message}])


def _are_invalid_params(error: DaemonError) -> bool:
    """Return whether the node refused the parameters, of all requests of a batch."""
    return error.has_code(JSONRPC.INVALID_ARGS)
