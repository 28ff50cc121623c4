"""Fees: the node's estimates, and the rates that its mempool demands.

Owns nothing.  Runs in: the event loop.  A reply without the documented form is a DaemonError.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import (
    DaemonError,
    ForbiddenCallError,
    is_unknown_method,
    unexpected,
)

Info = Callable[[], Awaitable[dict[str, Any]]]


class FeeQueries:
    """Asks for fees.

    network_info, mempool_info: return the node's getnetworkinfo and getmempoolinfo
    """

    def __init__(self, calls: MethodCalls, *, network_info: Info, mempool_info: Info) -> None:
        self._calls = calls
        self._network_info = network_info
        self._mempool_info = mempool_info

    async def estimate(self, block_count: int, mode: str | None = None) -> float:
        """Return the fee, in coins per kilobyte, to confirm within block_count blocks.

        -1 if the node has no estimate. The node gets the mode unless it is None.
        """
        params = (block_count,) if mode is None else (block_count, mode)
        if await self._calls.is_available("estimatesmartfee"):
            estimate = await self._calls.send_for_dict("estimatesmartfee", params)
            return _checked_number("estimatesmartfee", estimate.get("feerate", -1))
        try:
            fee = await self._calls.send_single("estimatefee", params)
        except DaemonError as e:
            # The Bitcoin SV node has neither; wallets drop a server that answers with an error.
            if not isinstance(e, ForbiddenCallError) and not is_unknown_method(e):
                raise
            return -1
        return _checked_number("estimatefee", fee)

    async def relay(self) -> float:
        """Return the least fee, in coins per kilobyte, for the node to relay a transaction."""
        network_info = await self._network_info()
        return _checked_number("getnetworkinfo", network_info.get("relayfee"))

    async def of_mempool(self, relayfee: Callable[[], Awaitable[float]]) -> dict[str, float]:
        """Return the fee rates that the node's mempool demands: see ``Daemon.mempool_fees``.

        Calls ``relayfee`` where getmempoolinfo lacks that fee: coins may have a constant.
        """
        try:
            info = await self._mempool_info()
        except DaemonError as e:
            if not is_unknown_method(e):
                raise
            info = {}
        minrelay = _fee_rate(info.get("minrelaytxfee"))
        if minrelay is None:
            minrelay = await relayfee()
        increment = _fee_rate(info.get("incrementalrelayfee"))
        if increment is None:
            network_info = await self._network_info()
            increment = _fee_rate(network_info.get("incrementalfee"))
        minimum = _fee_rate(info.get("mempoolminfee"))
        return {
            "mempoolminfee": minrelay if minimum is None else minimum,
            "minrelaytxfee": minrelay,
            "incrementalrelayfee": minrelay if increment is None else increment,
        }


def _checked_number(method: str, value: object) -> float:
    # A fee, or -1 for none. No currency has as many units as this.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > 1e15:
        raise unexpected(method)
    return value


def _fee_rate(value: object) -> float | None:
    """Return the value if it can be a fee rate, else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return value
    return None
