"""Tries the second RocksDB binding; by the Python of the peer's environment, which has it.

    PYTHON rocksdb_ng_check.py FOLDER

FOLDER/theirs is a store that rocksdict wrote; FOLDER/ours is left for rocksdict to read.
"""

import gc
import glob
import re
import sys

from electrumx.server.storage.base import db_class
from electrumx.server.storage.rocksdb import RocksDBNG
from electrumx.server.storage.schema import DBError


def check_options(folder):
    """Read back the options that the engine runs with."""
    newest = max(glob.glob(f"{folder}/OPTIONS-*"), key=lambda path: int(path.rpartition("-")[2]))
    with open(newest) as file:
        found = dict(re.findall(r"^  (\w+)=(.*)$", file.read(), re.MULTILINE))
    assert found["filter_policy"].startswith("bloomfilter")
    assert found["cache_index_and_filter_blocks"] == "true"
    assert found["format_version"] == "5"
    assert found["compression"] == "kSnappyCompression"
    assert found["level0_file_num_compaction_trigger"] == "12"
    assert found["max_open_files"] == "512"


def main(folder):
    engine = db_class("rocksdb")
    assert engine is RocksDBNG
    store = engine(f"{folder}/theirs", False)
    assert dict(store.iterator()) == {b"k%d" % n: b"v" * n for n in range(10)}
    store.close()

    store = engine(f"{folder}/ours", True)
    assert store.is_new
    check_options(f"{folder}/ours")
    with store.write_batch() as batch:
        for key in (b"a", b"b1", b"b2", b"b3", b"c", b"\xff\xff", b"\xff\xff1"):
            batch.put(key, key)
        batch.delete(b"b2")
    try:
        with store.write_batch() as batch:
            batch.put(b"never", b"")
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert store.get(b"never") is None
    assert store.get(b"b1") == b"b1"
    assert [key for key, _ in store.iterator(b"b")] == [b"b1", b"b3"]
    assert [key for key, _ in store.iterator(b"b", reverse=True)] == [b"b3", b"b1"]
    assert [key for key, _ in store.iterator(b"b", start=b"b2")] == [b"b3"]
    assert [key for key, _ in store.iterator(b"b", True, b"b2")] == [b"b3"]
    assert next(store.iterator(start=b"b2")) == (b"b3", b"b3")
    assert [key for key, _ in store.iterator(b"\xff\xff", reverse=True)] == [
        b"\xff\xff1",
        b"\xff\xff",
    ]
    # The successor of the prefix does not exist, nor anything above it.
    with store.write_batch() as batch:
        batch.delete(b"\xff\xff")
        batch.delete(b"\xff\xff1")
    assert [key for key, _ in store.iterator(b"c", reverse=True)] == [b"c"]
    assert [key for key, _ in store.iterator(reverse=True)] == [b"c", b"b3", b"b1", b"a"]
    snapshot = store.iterator()
    store.put(b"d", b"d")
    assert b"d" not in dict(snapshot)
    assert store.get(b"d") == b"d"
    try:
        other = engine(f"{folder}/ours", False)
    except DBError as e:
        assert "another process holds it" in str(e), e  # noqa: PT017
    else:
        other.close()
        raise AssertionError("opened twice")
    del snapshot
    gc.collect()
    store.close()
    store = engine(f"{folder}/ours", False)
    assert store.get(b"d") == b"d"
    store.close()
    print("fine")


if __name__ == "__main__":
    main(sys.argv[1])
