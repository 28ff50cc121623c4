"""The key-value stores: engines, row formats, and the errors of reading and writing them."""

from electrumx.server.storage.base import Storage, db_class
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.rocksdb import RocksDB

__all__ = ["LevelDB", "RocksDB", "Storage", "db_class"]
