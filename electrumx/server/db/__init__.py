"""The database: what a flush writes, and what queries read."""

from electrumx.server.db.flusher import DB, FlushData
from electrumx.server.storage.schema import UTXO, DBError

__all__ = ["DB", "UTXO", "DBError", "FlushData"]
