"""Every engine keeps the promises of Storage; runs over all its subclasses."""

import itertools
import os
import random
import threading

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.server.storage.base import db_class
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.rocksdb import RocksDB
from electrumx.server.storage.schema import DBError


@pytest.fixture(name="engine")
def engine_class(engine):
    return db_class(engine)


@pytest.fixture
def store(engine, tmp_path):
    store = engine(str(tmp_path / "store"), False)
    yield store
    store.close()


def test_engines_are_found_in_any_case():
    assert db_class("LevelDB") is db_class("leveldb")


def test_an_unknown_engine_is_refused_with_the_documented_text():
    with pytest.raises(RuntimeError, match='unrecognised DB engine "lmdb"'):
        db_class("lmdb")


def test_a_batch_is_written_when_its_block_ends(store):
    with store.write_batch() as batch:
        batch.put(b"x", b"y")
        assert store.get(b"x") is None
    assert store.get(b"x") == b"y"


@pytest.mark.parametrize("for_sync", [False, True])
def test_rows_of_many_prefixes_are_those_of_each(store, for_sync):
    store.for_sync = for_sync
    assert store.rows_of([b"", b"a"]) == [[], []]
    keys = [b"a", b"aa", b"ab", b"b", b"ba", b"c\xff", b"c\xff\xff", b"\xff", b"\xff\xff"]
    for key in keys:
        store.put(key, b"value of " + key)
    prefixes = sorted([*keys, b"", b"abc", b"bb", b"c", b"d", b"\xff\xff\xff"])
    # One that comes again
    prefixes.append(prefixes[-1])
    for wanted in (prefixes, prefixes[3:4], []):
        assert store.rows_of(wanted) == [
            [(key, b"value of " + key) for key in keys if key.startswith(prefix)]
            for prefix in wanted
        ]
    # As many of the first as it takes to have so many bytes
    for count, most in ((1, 1), (1, 11), (2, 12), (2, 24), (3, 25), (3, 99)):
        found = [key for key, _value in store.rows_of([b"a", b"b"], most)[0]]
        assert found == [b"a", b"aa", b"ab"][:count]
    store.close()


def test_a_batch_whose_block_raises_writes_nothing(store):
    store.put(b"a", b"1")

    def fail():
        with store.write_batch() as batch:
            batch.put(b"a", b"2")
            batch.delete(b"a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get(b"a") == b"1"


def test_in_a_batch_a_put_after_a_delete_of_its_key_remains(store):
    store.put(b"k", b"old")
    with store.write_batch() as batch:
        batch.delete(b"k")
        batch.put(b"k", b"new")
    assert store.get(b"k") == b"new"


PREFIXED = [(b"abc" + bytes([n]), bytes([n])) for n in range(5)]
OTHERS = [(b"ab", b""), (b"abb\xff", b""), (b"abd", b""), (b"abd\0", b"")]


def test_an_iterator_is_bound_to_its_prefix_and_ordered(store):
    for key, value in PREFIXED + OTHERS:
        store.put(key, value)
    assert list(store.iterator(prefix=b"abc")) == PREFIXED
    assert list(store.iterator(prefix=b"abc", reverse=True)) == PREFIXED[::-1]
    assert list(store.iterator()) == sorted(PREFIXED + OTHERS)
    assert list(store.iterator(reverse=True)) == sorted(PREFIXED + OTHERS)[::-1]
    assert list(store.iterator(prefix=b"zzz")) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_an_iterator_leaves_out_the_keys_below_its_start(store, reverse):
    everything = [*PREFIXED, *OTHERS, (b"\xff\xff", b""), (b"\xff\xff\1", b"")]
    for key, value in everything:
        store.put(key, value)
    for prefix in (b"", b"abc", b"zzz", b"\xff\xff"):
        for start in (b"", b"a", b"abc", b"abc\2", b"abc\2\0", b"abd", b"\xff\xff\1", b"\xff" * 3):
            expected = sorted(
                row for row in everything if row[0].startswith(prefix) and row[0] >= start
            )
            found = list(store.iterator(prefix, reverse, start))
            assert found == (expected[::-1] if reverse else expected), (prefix, start)


def test_a_reverse_iterator_works_where_no_key_lies_above_the_prefix(store):
    rows = [(b"\xff\xff" + bytes([n]), b"") for n in (1, 2, 0xFF)]
    for key, value in rows:
        store.put(key, value)
    assert list(store.iterator(prefix=b"\xff\xff", reverse=True)) == rows[::-1]
    last = [(b"zz1", b""), (b"zz2", b"")]
    assert list(store.iterator(prefix=b"zz", reverse=True)) == []
    for key, value in last:
        store.put(key, value)
    for key, _value in rows:
        with store.write_batch() as batch:
            batch.delete(key)
    assert list(store.iterator(prefix=b"zz", reverse=True)) == last[::-1]


@pytest.mark.parametrize("reverse", [False, True])
def test_an_iterator_is_a_snapshot_of_the_moment_it_was_made(store, reverse):
    for n in range(50):
        store.put(b"k%02d" % n, b"old")
    iterator = store.iterator(prefix=b"k", reverse=reverse)
    with store.write_batch() as batch:
        for n in range(60):
            batch.put(b"k%02d" % n, b"new")
    assert [value for _key, value in iterator] == [b"old"] * 50


def fill(store):
    """Write coins, most of which are spent, as many flushes do; return the rows that are left."""
    choose = random.Random(1)
    rows = {}
    for _ in range(8):
        with store.write_batch() as batch:
            for key in list(rows)[: len(rows) * 4 // 5]:
                del rows[key]
                batch.delete(key)
            for _ in range(20_000):
                key, value = b"h" + choose.randbytes(13), choose.randbytes(11)
                rows[key] = value
                batch.put(key, value)
    return rows


@pytest.mark.parametrize("compressible", [True, False])
def test_a_store_that_was_filled_keeps_its_rows_when_it_is_merged(engine, tmp_path, compressible):
    name = str(tmp_path / "store")
    store = engine(name, True, compressible=compressible)
    assert store.bulk_loading
    rows = fill(store)
    store.end_bulk_load(compact=True)
    assert not store.bulk_loading
    assert dict(store.iterator()) == rows
    store.put(b"last", b"one")
    store.compact()
    assert dict(store.iterator()) == {**rows, b"last": b"one"}
    store.put(b"last", b"two")
    store.close()
    store = engine(name, True, compressible=compressible)
    assert not store.bulk_loading
    assert dict(store.iterator()) == {**rows, b"last": b"two"}
    store.close()


@pytest.mark.parametrize(("batches", "waits"), [(0, True), (30, False)], ids=["few", "many"])
def test_leveldb_is_reopened_without_waiting_for_a_compaction_that_may_be_running(
    tmp_path, monkeypatch, batches, waits
):
    leveldb = db_class("leveldb")
    closed = []
    close = leveldb.close
    monkeypatch.setattr(leveldb, "close", lambda store: (closed.append(store), close(store)))
    choose = random.Random(5)
    store = leveldb(str(tmp_path / "store"), True)
    rows = {b"a": b"row"}
    store.put(b"a", b"row")
    for _ in range(batches):
        # A table of the upper level each, of keys from everywhere
        part = {choose.randbytes(13): choose.randbytes(200) for _ in range(5_000)}
        rows.update(part)
        with store.write_batch() as batch:
            for key, value in part.items():
                batch.put(key, value)
    store.end_bulk_load(compact=True)
    assert (closed == [store]) is waits
    assert dict(store.iterator()) == rows
    store.close()


def test_compaction_drops_deleted_rows_unless_that_would_take_long(engine, tmp_path, monkeypatch):
    live = 0
    sizes = {}
    for limit in (0, engine.COMPACT_BYTES):
        monkeypatch.setattr(engine, "COMPACT_BYTES", limit)
        store = engine(str(tmp_path / str(limit)), True)
        live = sum(len(key) + len(value) for key, value in fill(store).items())
        store.close()
        store = engine(str(tmp_path / str(limit)), True)
        store.compact()
        sizes[limit] = store.table_bytes
        store.close()
    # A row has some bytes more in a table: its number, and lengths.
    assert live < sizes[engine.COMPACT_BYTES] < 1.6 * live < sizes[0]


def test_a_store_can_be_filled_again_where_it_was_interrupted(engine, tmp_path, monkeypatch):
    name = str(tmp_path / "store")
    store = engine(name, True)
    rows = fill(store)
    store.close()
    store = engine(name, True)
    assert not store.bulk_loading
    store.begin_bulk_load()
    assert store.bulk_loading
    store.put(b"more", b"rows")
    store.end_bulk_load(compact=True)
    assert store.compact()
    assert dict(store.iterator()) == {**rows, b"more": b"rows"}
    # One that will not be merged stays as it is.
    monkeypatch.setattr(engine, "COMPACT_BYTES", 0)
    store.begin_bulk_load()
    assert not store.bulk_loading
    store.close()


def test_merging_can_be_stopped_at_any_instant_and_done_again(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "COMPACT_STEP_BYTES", 200_000)
    name = str(tmp_path / "store")
    store = engine(name, True)
    rows = fill(store)
    store.close()
    store = engine(name, True)
    filled = store.table_bytes
    for work in (0, 0, 20_000, 100_000):
        store.put(b"in memory", str(work).encode())
        rows[b"in memory"] = str(work).encode()
        merging = threading.Thread(target=store.compact)
        merging.start()
        # Some time passes, or none.
        sum(range(work))
        store.stop_compaction()
        merging.join()
        assert not store.compact()
        store.close()
        store = engine(name, True)
        assert dict(store.iterator()) == rows
    assert store.compact()
    assert dict(store.iterator()) == rows
    assert store.table_bytes < filled / 2
    store.close()


def test_leveldb_compacts_in_steps_that_leave_out_no_key(tmp_path, monkeypatch):
    monkeypatch.setattr(LevelDB, "COMPACT_STEP_BYTES", 200_000)
    store = LevelDB(str(tmp_path / "store"), True)
    # Nothing is there yet.
    assert len(list(store.compaction_steps(0, 1 << 24))) == 1
    rows = fill(store)
    store.end_bulk_load(compact=True)
    steps = list(store.compaction_steps(0, 1 << 24))
    assert len(steps) > 10
    assert (steps[0][0], steps[-1][1]) == (b"\0\0\0", b"\xff" * 67)
    for (_start, stop), (start, _stop) in itertools.pairwise(steps):
        assert stop[3:] == b"\xff" * 64
        assert int.from_bytes(stop[:3], "big") + 1 == int.from_bytes(start, "big")
    assert all(start <= stop for start, stop in steps)
    whole = store.table_bytes
    done = []

    def stop_before_the_sixth(_self, _first, _end):
        for step in steps:
            if len(done) == 5:
                store.stop_compaction()
            done.append(step)
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(LevelDB, "compaction_steps", stop_before_the_sixth)
        assert not store.compact()
    assert len(done) == 6
    assert store.table_bytes < whole
    store.close()
    store = LevelDB(str(tmp_path / "store"), True)
    assert store.compact()
    assert dict(store.iterator()) == rows
    live = sum(len(key) + len(value) for key, value in rows.items())
    assert live < store.table_bytes < 1.6 * live
    store.close()


def test_rows_survive_closing(engine, tmp_path):
    name = str(tmp_path / "store")
    store = engine(name, True)
    assert store.is_new
    with store.write_batch() as batch:
        batch.put(b"x", b"y")
    store.close()
    store.close()
    store = engine(name, False)
    assert not store.is_new
    assert store.get(b"x") == b"y"
    store.close()


def test_a_relative_name_is_taken_from_the_current_directory(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = engine("here", False)
    store.close()
    assert (tmp_path / "here" / "CURRENT").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_error(engine, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DBError, match="cannot open the database"):
        engine(str(tmp_path / "store"), False)


def test_a_name_that_is_a_file_is_one_clear_error(engine, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(DBError, match="cannot open the database") as info:
        engine(str(tmp_path / "store"), False)
    assert "\n" not in str(info.value)


def test_a_rocksdb_store_whose_creation_was_cut_short_is_known_as_one(tmp_path):
    pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    folder = tmp_path / "store"
    db_class("rocksdb")(str(folder), False).close()
    # As a kill leaves it between the writing of CURRENT and that of OPTIONS.
    for path in folder.glob("OPTIONS-*"):
        path.unlink()
    with pytest.raises(DBError, match="was written by rocksdb"):
        db_class("leveldb")(str(folder), False)
    db_class("rocksdb")(str(folder), False).close()


@pytest.mark.parametrize("where", [0.5, 0.95])
def test_a_table_that_cannot_be_read_is_an_error_and_no_shorter_answer(engine, tmp_path, where):
    name = str(tmp_path / "store")
    store = engine(name, False)
    with store.write_batch() as batch:
        for n in range(20_000):
            batch.put(b"u%08d" % n, os.urandom(20))
    if engine.ENGINE == "leveldb":
        store.db.compact_range()
    else:
        store.db.flush()
    store.close()
    tables = [path for path in (tmp_path / "store").iterdir() if path.suffix in (".ldb", ".sst")]
    for path in tables:
        with path.open("r+b") as f:
            f.seek(int(path.stat().st_size * where))
            f.write(b"\xff" * 200)
    store = engine(name, False)
    for read in (
        lambda: list(store.iterator(prefix=b"u")),
        lambda: list(store.iterator()),
        lambda: list(store.iterator(prefix=b"u", start=b"u00000001")),
        lambda: list(store.iterator(prefix=b"u", reverse=True)),
        lambda: store.rows_of([b"u"]),
    ):
        with pytest.raises(Exception, match=r"(?i)corruption|left out rows"):
            read()
    store.close()


@pytest.mark.parametrize("engine", [LevelDB, RocksDB])
def test_a_missing_binding_is_an_import_error_and_the_operators(engine, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("electrumx.server.storage.base.importlib.import_module", missing)
    for load in (engine.import_module, lambda: db_class(engine.__name__)):
        with pytest.raises(ImportError, match=f"DB engine {engine.ENGINE} is installed: pip") as e:
            load()
        assert isinstance(e.value, OperatorError)
        assert isinstance(e.value, DBError)
