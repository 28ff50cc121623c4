"""Which database engine wrote a store, and which one a server without DB_ENGINE uses.

A folder's files show the engine: RocksDB writes an IDENTITY file before anything else, and an
OPTIONS file at the end of every opening; LevelDB neither.  Standard library only.  Runs once, at
start-up.
"""

import os
from importlib import import_module

#: engine -> the modules that can open its stores, in order of preference
ENGINE_MODULES = {
    "leveldb": ("plyvel", "plyvel_next"),
    "rocksdb": ("rocksdict", "rocksdb"),
}
#: the stores of a database, by folder
STORES = ("utxo", "hist")


def engine_of_store(folder: str) -> str | None:
    """Return the engine that wrote the store in a folder, or None if there is no store.

    Raise OSError if the folder is unreadable.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if "CURRENT" not in names:
        return None
    is_rocksdb = any(name.startswith(("OPTIONS-", "IDENTITY")) for name in names)
    return "rocksdb" if is_rocksdb else "leveldb"


def default_engine(db_dir: str) -> str:
    """Return the engine of the database in ``db_dir``, otherwise LevelDB if it can be imported.

    Otherwise RocksDB, which is installed where LevelDB has no package, or can be.
    """
    for store in STORES:
        try:
            engine = engine_of_store(os.path.join(db_dir, store))
        except OSError:
            # Opening the database reports it.
            continue
        if engine is not None:
            return engine
    return "leveldb" if _is_importable("leveldb") else "rocksdb"


def _is_importable(engine: str) -> bool:
    for module in ENGINE_MODULES[engine]:
        try:
            import_module(module)
        except ImportError:
            continue
        return True
    return False
