"""The options that the engines are really run with, read back from their own files."""

import re
import struct

import pytest

from electrumx.server.storage.base import db_class
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.rocksdb import RocksDB
from electrumx.server.storage.tuning import LEAST_CACHE, MEGABYTE, MOST_CACHE, Tuning

TUNING = Tuning(memory=1_600 * MEGABYTE, cores=6, spare_files=400)


@pytest.fixture
def rocksdb():
    pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")


def new_store(engine, folder, for_sync, **kwargs):
    return engine(str(folder), for_sync, prefix_len=9, tuning=TUNING, **kwargs)


def rocksdb_options(folder):
    """Return the options in RocksDB's newest OPTIONS file, by their names."""
    newest = max(folder.glob("OPTIONS-*"), key=lambda path: int(path.name.partition("-")[2]))
    return dict(re.findall(r"^  (\w+)=(.*)$", newest.read_text(), re.MULTILINE))


def written(n):
    return b"h" + n.to_bytes(4, "big") + bytes(9), n.to_bytes(11, "big")


def fill(store, count=3_000):
    with store.write_batch() as batch:
        for n in range(count):
            batch.put(*written(n))


@pytest.mark.parametrize(
    ("for_sync", "level0", "cache", "files"),
    [(True, ("12", "40", "60"), 100, "612"), (False, ("4", "20", "36"), 200, "228")],
)
def test_rocksdb_runs_with_our_options_at_every_opening(
    tmp_path, rocksdb, for_sync, level0, cache, files
):
    folder = tmp_path / "store"
    # As an older version made it: with rocksdict's defaults, and ours given for the whole only.
    import rocksdict

    plain = rocksdict.Options(raw_mode=True)
    rocksdict.Rdict(str(folder), plain).close()
    assert rocksdb_options(folder)["prefix_extractor"] == "nullptr"
    for _ in range(2):
        store = new_store(RocksDB, folder, for_sync)
        store.close()
        found = rocksdb_options(folder)
        assert found["prefix_extractor"] == "rocksdb.FixedPrefix.9"
        assert found["filter_policy"].startswith("bloomfilter")
        assert found["optimize_filters_for_hits"] == "true"
        assert found["cache_index_and_filter_blocks"] == "true"
        assert found["format_version"] == "5"
        assert found["compression"] == "kSnappyCompression"
        assert found["target_file_size_base"] == str(32 << 20)
        assert found["max_background_jobs"] == "6"
        assert found["max_open_files"] == files
        names = ("compaction_trigger", "slowdown_writes_trigger", "stop_writes_trigger")
        assert (
            tuple(
                found[f"level0_{'file_num_' if n == 0 else ''}{name}"]
                for n, name in enumerate(names)
            )
            == level0
        )
        log = "".join(path.read_text() for path in folder.glob("LOG*"))
        assert f"capacity : {cache * MEGABYTE}" in log


def test_rows_in_memory_are_filtered_only_while_clients_are_served(tmp_path, rocksdb):
    def ratio(folder):
        return float(rocksdb_options(folder)["memtable_prefix_bloom_size_ratio"])

    store = new_store(RocksDB, tmp_path / "synced", True)
    fill(store)
    assert ratio(tmp_path / "synced") == 0
    # A small store is not opened again when the initial sync ends.
    store.end_bulk_load()
    assert ratio(tmp_path / "synced") == 0.05
    store.db.flush()
    fill(store, 3_001)
    assert store.get(written(3_000)[0]) == written(3_000)[1]
    store.close()

    # A large one is.
    new_store(RocksDB, tmp_path / "large", True).close()
    assert ratio(tmp_path / "large") == 0
    new_store(RocksDB, tmp_path / "large", False).close()
    assert ratio(tmp_path / "large") == 0.05


def test_an_existing_rocksdb_store_gets_filters_when_it_is_compacted(tmp_path, rocksdb):
    import rocksdict

    folder = tmp_path / "store"
    old = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
    for n in range(3_000):
        old[written(n)[0]] = written(n)[1]
    old.close()

    store = new_store(RocksDB, folder, True)
    before = store.db.property_value("rocksdb.aggregated-table-properties")
    assert store.rows_of([written(5)[0][:9]]) == [[written(5)]]
    fill(store)
    # Every table is rewritten, the lowest level's without filters of their own.
    assert store.compact()
    after = store.db.property_value("rocksdb.aggregated-table-properties")
    store.db.put(*written(7))
    store.db.flush()
    names = store.db.property_value("rocksdb.aggregated-table-properties")
    assert [store.get(written(n)[0]) for n in (0, 7, 2_999)] == [
        written(n)[1] for n in (0, 7, 2_999)
    ]
    assert dict(store.iterator()) == dict(map(written, range(3_000)))
    store.close()
    sizes = [int(re.search(r"filter block size=(\d+)", text)[1]) for text in (before, after, names)]
    assert sizes[0] == 0
    assert sizes[2] > sizes[1]


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_cursors_of_a_prefix_see_all_rows_of_it_and_no_others(tmp_path, engine):
    store = new_store(db_class(engine), tmp_path / "store", True)
    keys = sorted(
        prefix + rest
        for prefix in (b"h1234567x", b"h1234567y", b"h1234", b"u" * 12, b"state")
        for rest in (b"", b"\0", b"a", b"\xff\xff")
    )
    for number, key in enumerate(keys):
        store.put(key, key)
        if engine == "rocksdb" and number % 5 == 0:
            store.db.flush()
    prefixes = sorted({key[:n] for key in keys for n in range(len(key) + 1)})
    for prefix in prefixes:
        expected = [(key, key) for key in keys if key.startswith(prefix)]
        assert store.rows_of([prefix]) == [expected]
        assert list(store.iterator(prefix)) == expected
        assert list(store.iterator(prefix, reverse=True)) == expected[::-1]
        for start in (b"h1234567x\0", b"h12", b"u" * 12 + b"a", b"z" * 10):
            rows = [row for row in expected if row[0] >= start]
            assert list(store.iterator(prefix, start=start)) == rows
    assert store.rows_of(prefixes) == [
        [(key, key) for key in keys if key.startswith(prefix)] for prefix in prefixes
    ]
    store.close()


def leveldb_footer(path):
    """Return the names in the meta index of a LevelDB table: (offset, size) by name."""
    raw = path.read_bytes()
    footer = raw[-48:]
    assert footer[-8:] == struct.pack("<Q", 0xDB4775248B80FB57)

    def varint(at):
        value = shift = 0
        while True:
            byte = footer[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, at

    offset, at = varint(0)
    size, _at = varint(at)
    return raw[offset : offset + size]


@pytest.mark.parametrize("compressible", [True, False])
def test_leveldb_writes_large_tables_with_filters_for_point_reads(tmp_path, compressible):
    folder = tmp_path / "store"
    LevelDB.import_module()
    old = LevelDB.module.DB(str(folder), create_if_missing=True)
    for n in range(150_000):
        key, value = written(n)
        old.put(key, value * 3)
    old.compact_range()
    old.close()
    tables = sorted(folder.glob("*.ldb"))
    assert len(tables) >= 3
    assert all(b"filter" not in leveldb_footer(path) for path in tables)

    store = new_store(LevelDB, folder, True, compressible=compressible)
    # Tables of the lowest level are rewritten when rows above them are merged into it.
    for n in range(0, 150_000, 1_000):
        store.put(*written(n))
    store.db.compact_range(start=b"h", stop=b"i")
    tables = sorted(folder.glob("*.ldb"))
    assert len(tables) == 1
    has_filter = b"filter.leveldb.BuiltinBloomFilter2" in leveldb_footer(tables[0])
    assert has_filter is compressible
    assert store.get(written(149_999)[0]) == written(149_999)[1] * 3
    assert store.get(b"h" + b"\xff" * 13) is None
    store.close()


def test_memory_and_files_have_bounds():
    small, large = Tuning(memory=20 * MEGABYTE), Tuning(memory=64_000 * MEGABYTE, cores=64)
    for for_sync in (True, False):
        assert small.block_cache(for_sync) == LEAST_CACHE
        assert large.block_cache(for_sync) == MOST_CACHE
    assert (small.background_jobs, large.background_jobs) == (2, 8)
    assert (small.lookup_threads, large.lookup_threads) == (4, 8)
    assert small.open_files(128) == 128
    assert Tuning(spare_files=1 << 20).open_files(128) == 2_048
    assert Tuning.of_machine(300, -5) == Tuning(300 * MEGABYTE, Tuning.of_machine(1).cores, 0)
