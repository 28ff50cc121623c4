"""Requests of clients that only the full node can answer, and transactions sent to it.

Runs on the event loop.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from aiorpcx import RPCError

from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.mempool.sync import MemPool
from electrumx.server.session.engine.params import DAEMON_ERROR, tx_hash_or_none
from electrumx.server.session.shared.packages import package_results


class Node:
    """The full node as clients reach it: its errors become theirs."""

    def __init__(self, daemon: Daemon, mempool: MemPool) -> None:
        self._daemon = daemon
        self._mempool = mempool
        #: transactions that the node has accepted from clients
        self.txs_sent = 0
        #: broadcasts by outcome: accepted, rejected by the node
        self.broadcasts: Counter[str] = Counter()

    async def request(self, method: str, *args: object, **options: object) -> Any:
        """Return the result of a method of ``Daemon``; raise RPCError for its errors."""
        try:
            return await getattr(self._daemon, method)(*args, **options)
        except DaemonError as e:
            raise RPCError(DAEMON_ERROR, f"daemon error: {e!r}") from None

    async def broadcast_transaction(self, raw_tx: str) -> str:
        """Send a transaction (hex); return its txid. Raises DaemonError."""
        try:
            txid: str = await self._daemon.broadcast_transaction(raw_tx)
        except DaemonError:
            self.broadcasts["rejected"] += 1
            raise
        self.broadcasts["accepted"] += 1
        self.txs_sent += 1
        self._report_accepted([txid])
        return txid

    async def broadcast_package(self, raw_txs: list[str]) -> dict[str, Any]:
        """Send a package of transactions (hex); return the node's answer. Raises DaemonError."""
        try:
            answer: dict[str, Any] = await self._daemon.submitpackage(raw_txs)
        except DaemonError:
            self.broadcasts["rejected"] += len(raw_txs)
            raise
        self.txs_sent += len(raw_txs)
        # Also where the package as a whole failed, the node may have accepted some.
        results = package_results(answer)
        for result in results:
            self.broadcasts["rejected" if result.get("error") else "accepted"] += 1
        self._report_accepted(result.get("txid") for result in results if not result.get("error"))
        return answer

    def _report_accepted(self, txids: Iterable[object]) -> None:
        """Let the mempool add transactions that the node has just accepted."""
        for tx_hash in map(tx_hash_or_none, txids):
            if tx_hash is not None:
                self._mempool.entered(tx_hash)
