"""mempool.* and the fee requests of blockchain.*."""

from typing import Any

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import estimate_mode, non_negative_integer
from electrumx.server.session.engine.prices import COST_CACHED, ESTIMATE_COST, REQUEST_COST
from electrumx.server.session.methods.handler_group import HandlerGroup

# No node has an estimate for more blocks; not every node parses larger numbers, and ``Daemon``
# repeats a request that a node cannot parse, then sends it to another node.
MAX_TARGET = 2**31 - 1
RECENT_TXS = 10


class MempoolMethods(HandlerGroup):
    """Requests about fees."""

    __slots__ = ()

    @rpc_method("mempool.get_fee_histogram")
    async def mempool_get_fee_histogram(self) -> list[Any]:
        """Return [[fee rate, virtual size at or above it and below the last], ...]."""
        self.account.bump_cost(REQUEST_COST)
        result: list[Any] = await self.shared.mempool.compact_fee_histogram()
        return result

    @rpc_method("mempool.recent", since=(1, 7))
    def mempool_recent(self) -> list[dict[str, Any]]:
        """Return the transactions that entered the mempool last, the newest first."""
        self.account.bump_cost(REQUEST_COST)
        return [
            {"txid": hash_to_hex_str(tx_hash), "fee": fee, "vsize": size}
            for tx_hash, fee, size in self.shared.unconfirmed.recent(RECENT_TXS)
        ]

    @rpc_method("mempool.get_info", since=(1, 6))
    async def mempool_get_info(self) -> dict[str, float]:
        """Return the fee rates, in coins per 1000 virtual bytes, that the node's mempool demands."""
        self.account.bump_cost(REQUEST_COST)
        result: dict[str, float] = await self.shared.node.request("mempool_fees")
        return result

    @rpc_method("blockchain.relayfee", until=(1, 6))
    async def relayfee(self) -> float:
        """Return the least fee rate, in coins per kB, that the node relays."""
        self.account.bump_cost(REQUEST_COST)
        result: float = await self.shared.node.request("relayfee")
        return result

    @rpc_method("blockchain.estimatefee")
    def estimatefee(self, number: object, mode: object = None) -> Any:
        """Return the fee rate, in coins per kB, for a confirmation within so many blocks; or -1."""
        number = min(non_negative_integer(number), MAX_TARGET)
        mode = estimate_mode(mode)
        self.account.bump_cost(COST_CACHED)

        async def ask(target: int, mode: str | None) -> Any:
            self.account.bump_cost(ESTIMATE_COST)
            args = (target,) if mode is None else (target, mode)
            return await self.shared.node.request("estimatefee", *args)

        fees = self.shared.fees
        known = fees.now(number, mode)
        return fees.get(number, mode, ask) if known is None else known
