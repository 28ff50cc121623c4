"""The key-value stores: engines, row formats, and the errors of reading and writing them."""

from electrumx.server.storage.engines import LevelDB, RocksDB, Storage, db_class

__all__ = ["LevelDB", "RocksDB", "Storage", "db_class"]
