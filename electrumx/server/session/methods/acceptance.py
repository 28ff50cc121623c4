"""blockchain.transaction.testmempoolaccept: whether the node would take transactions."""

from typing import Any

from aiorpcx import RPCError

from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import DAEMON_ERROR, assert_hex, assert_list
from electrumx.server.session.engine.prices import broadcast_cost
from electrumx.server.session.methods.transaction import TransactionMethods
from electrumx.server.session.shared.packages import COUNT_TEXT, MAX_PACKAGE_TXS, acceptance

# The node's error code for too many of them
INVALID_PARAMETER = -8


class AcceptanceMethods(TransactionMethods):
    """Requests about single transactions, and about their acceptance by the node."""

    __slots__ = ()

    @rpc_method("blockchain.transaction.testmempoolaccept", since=(1, 7))
    async def transaction_testmempoolaccept(self, raw_txs: object) -> list[dict[str, Any]]:
        """Return of each transaction (hex) whether the node's mempool would take it, and why not."""
        raw_txs = assert_list(raw_txs)
        if len(raw_txs) > MAX_PACKAGE_TXS:
            # The node's error, without a request to the node.
            self.account.bump_cost(broadcast_cost(0))
            error = DaemonError({"code": INVALID_PARAMETER, "message": COUNT_TEXT})
            raise RPCError(DAEMON_ERROR, f"daemon error: {error!r}")
        raw_txs = [assert_hex(raw_tx) for raw_tx in raw_txs]
        self.account.bump_cost(broadcast_cost(sum(map(len, raw_txs))))
        results = await self.shared.node.request("testmempoolaccept", raw_txs)
        return [acceptance(result) for result in results]
