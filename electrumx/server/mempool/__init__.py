"""The mempool of the full node, indexed by script."""

from electrumx.server.mempool.api import MemPoolAPI
from electrumx.server.mempool.index import MemPoolTx, MemPoolTxSummary
from electrumx.server.mempool.sync import DBSyncError, MemPool

__all__ = ["DBSyncError", "MemPool", "MemPoolAPI", "MemPoolTx", "MemPoolTxSummary"]
