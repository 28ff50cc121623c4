"""Calls of the node whose replies need a form, and which of its methods a node has.

Owns what it has found out about methods.  Runs in: the event loop.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from electrumx.server.daemon.jsonrpc import NodeRPC
from electrumx.server.daemon.responses import (
    DaemonError,
    ForbiddenCallError,
    Reading,
    is_unknown_method,
    unexpected,
    unhex_list,
)


class MethodCalls:
    """Calls methods of the node in use.  Raises DaemonError with the node's error object."""

    def __init__(self, rpc: NodeRPC) -> None:
        self._rpc = rpc
        self._available: dict[str, bool] = {}

    async def send_single(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Call method; return its result."""
        return await self._rpc.send_single(method, params)

    async def send_for_dict(self, method: str, params: Sequence[Any] = ()) -> dict[str, Any]:
        """Call method; return its result, which must be an object."""
        result = await self._rpc.send_single(method, params)
        if not isinstance(result, dict):
            raise unexpected(method)
        return result

    async def hex_batch(
        self, method: str, params: Iterable[Sequence[Any]], reading: Reading | None = None
    ) -> list[bytes]:
        """Call method in a batch; every result must be hex."""
        items = await unhex_list(await self._rpc.send_vector(method, params, False, reading))
        good = [item for item in items if item is not None]
        if len(good) != len(items):
            raise unexpected(method)
        return good

    async def is_available(self, method: str) -> bool:
        """Return whether the node has a method and allows it.  Its methods stay cached indefinitely."""
        available = self._available.get(method)
        if available is None:
            try:
                available = self._available[method] = await self._is_known(method)
            except ForbiddenCallError:
                # The node may allow it later.
                return False
        return available

    async def knows(self, method: str) -> bool:
        """Return whether the node has a method and allows it, asked again each time."""
        try:
            return await self._is_known(method)
        except ForbiddenCallError:
            return False

    async def _is_known(self, method: str) -> bool:
        try:
            await self._rpc.send_single(method)
        except ForbiddenCallError:
            raise
        except DaemonError as e:
            # Other errors are the help text for the missing parameters.
            return not is_unknown_method(e)
        return True
