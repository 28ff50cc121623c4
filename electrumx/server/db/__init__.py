"""The database: flushes write it, queries read it."""

from electrumx.server.db.database import DB
from electrumx.server.db.flush_data import FlushData
from electrumx.server.storage.schema import UTXO, DBError

__all__ = ["DB", "UTXO", "DBError", "FlushData"]
