"""Databases of versions 6 and 7, written here from their layout, are converted in place."""

import random
import shutil
from array import array

import pytest

from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB, DBError
from electrumx.server.runtime import fault_points as faults
from electrumx.server.storage import conversion
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import HIST_KEY_LEN, CommittedState, HistState
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

MAKER = ChainMaker(seed=51)
FORK = MAKER.grow(MAKER.genesis_hash, 30)
TIP = MAKER.grow(FORK, 8)
CHAIN = MAKER.chain(TIP)
SCRIPTS = [hashX_of(script) for script in MAKER.draws.scripts]


class Stop(BaseException):
    """Stands for a kill between two writes."""


@pytest.fixture(params=[6, 7])
def version(request):
    return request.param


@pytest.fixture(autouse=True)
def no_hook():
    yield
    faults.hook = None


async def make_current(env):
    """Index the chain in a few flushes."""
    daemon = ScriptedDaemon(CHAIN)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    choose = random.Random(52)
    for height, raw in enumerate(CHAIN):
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        if choose.random() < 0.3:
            await bp.flush_scheduler.flush(True)
    await bp.flush_scheduler.flush(True)
    db.write_caught_up()
    db.close_dbs()


def narrow(key, version):
    """Return a UTXO's key as of an old version: tx_num LE4, and in version 6 an index LE2."""
    start, idx, tx_num = key[:-9], key[-9:-5], key[-5:]
    assert tx_num[4:] == b"\0"
    assert idx[2:] == b"\0\0"
    return start + (idx[:2] if version == 6 else idx) + tx_num[:4]


def replace_rows(store, convert):
    with store.write_batch() as batch:
        for key, value in list(store.iterator()):
            batch.delete(key)
            batch.put(*convert(key, value))


def write_old(folder, engine, version, garbage=b""):
    """Convert a database to the layout of an old version."""
    store = db_class(engine)(str(folder / "utxo"), True)

    def old_utxo(key, value):
        if key == b"state":
            return key, value.replace(b"'db_version': 8", b"'db_version': %d" % version)
        if key[:1] == b"U":
            items = [value[n : n + 24] for n in range(0, len(value), 24)]
            return key, b"".join(item[:15] + item[16:] for item in items)
        return narrow(key, version), value

    replace_rows(store, old_utxo)
    state = CommittedState.parse(store.get(b"state"))
    assert state.db_version == version
    lengths = {len(key) for key, _ in store.iterator() if key[:1] in (b"u", b"h")}
    assert lengths == ({18, 11} if version == 6 else {20, 13})
    store.close()

    store = db_class(engine)(str(folder / "hist"), True)

    def old_hist(key, value):
        if len(key) != HIST_KEY_LEN:
            # As it was before it knew of upgrades.
            count = HistState.parse(value).flush_count
            return key, repr(
                {"flush_count": count, "comp_flush_count": -1, "comp_cursor": -1, "db_version": 0}
            ).encode()
        return key, b"".join(value[n : n + 4] for n in range(0, len(value), 5))

    replace_rows(store, old_hist)
    store.close()

    path = folder / "meta" / "txcounts00"
    counts = array("Q", path.read_bytes())
    path.write_bytes(array("I", counts).tobytes() + garbage)


def rows(folder, engine, name):
    store = db_class(engine)(str(folder / name), True)
    found = dict(store.iterator())
    store.close()
    return found


def without_state(found):
    return {key: value for key, value in found.items() if not key.startswith(b"state")}


@pytest.fixture
async def databases(tmp_path, engine, version):
    """(folder of an old database, rows by store and tx counts of the same in version 8)"""
    current = tmp_path / "current"
    current.mkdir()
    await make_current(make_env(current, engine=engine))
    old = tmp_path / "old"
    shutil.copytree(current, old)
    write_old(old, engine, version)
    expected = {name: without_state(rows(current, engine, name)) for name in ("utxo", "hist")}
    return old, expected, (current / "meta" / "txcounts00").read_bytes()


def assert_converted(folder, engine, expected, counts):
    for name in ("utxo", "hist"):
        assert expected[name] == without_state(rows(folder, engine, name))
    assert (folder / "meta" / "txcounts00").read_bytes()[: len(counts)] == counts
    assert [] == [p.name for p in (folder / "meta").glob("txcounts.*")]
    assert b"'db_version': 8" in rows(folder, engine, "utxo")[b"state"]
    assert HistState.parse(rows(folder, engine, "hist")[b"state\0\0"]).db_version == 1


async def test_an_old_database_becomes_what_the_current_version_writes(databases, engine, caplog):
    folder, expected, counts = databases
    env = make_env(folder, engine=engine)
    db = DB(env)
    with caplog.at_level("INFO"):
        await db.open_for_serving()
    for n in (1, 2, 3):
        assert f"upgrading DB {n} of 3" in caplog.text
    await assert_equals_model(db, Model(CHAIN), SCRIPTS)
    db.close_dbs()
    assert_converted(folder, engine, expected, counts)


async def test_a_reorganisation_right_after_the_upgrade_finds_its_undo_data(databases, engine):
    folder, _expected, _counts = databases
    chain = MAKER.chain(MAKER.grow(FORK, 10))
    async with World(make_env(folder, engine=engine), ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain), SCRIPTS)


async def test_a_stop_at_any_write_of_the_upgrade_is_harmless(databases, engine, monkeypatch):
    folder, expected, counts = databases
    # One prefix to a batch, as many stops as there can be; only one in a few is tried.
    monkeypatch.setattr(conversion, "BATCH_BYTES", 150)
    env = make_env(folder, engine=engine)
    met = set()
    last = 0
    for _ in range(200):
        seen = []
        last += 1

        def hook(name, seen=seen, last=last):
            if name.startswith("upgrade"):
                seen.append(name)
                if len(seen) == last or name not in met:
                    met.add(name)
                    raise Stop

        faults.hook = hook
        db = DB(env)
        try:
            await db.open_for_serving()
        except Stop:
            continue
        finally:
            faults.hook = None
        break
    await assert_equals_model(db, Model(CHAIN), SCRIPTS)
    db.close_dbs()
    assert_converted(folder, engine, expected, counts)
    assert met == {name for name in faults.NAMES if name.startswith("upgrade")}


async def test_garbage_beyond_the_tip_does_not_hide_the_format_of_the_tx_counts(
    tmp_path, engine, version
):
    env = make_env(tmp_path, engine=engine)
    await make_current(env)
    write_old(tmp_path, engine, version, garbage=bytes(range(1, 200)))
    db = DB(env)
    await db.open_for_serving()
    await assert_equals_model(db, Model(CHAIN), SCRIPTS)
    db.close_dbs()


async def test_tx_counts_that_are_converted_already_are_unchanged(databases, engine):
    folder, expected, counts = databases
    # As ElectrumX leaves them if it is stopped after this step of its own upgrade.
    (folder / "meta" / "txcounts00").write_bytes(counts)
    db = DB(make_env(folder, engine=engine))
    await db.open_for_serving()
    db.close_dbs()
    assert_converted(folder, engine, expected, counts)


async def test_prefixes_that_electrumx_has_converted_already_are_unchanged(databases, engine):
    folder, expected, counts = databases
    store = db_class(engine)(str(folder / "utxo"), True)
    done = [key for key in expected["utxo"] if key[:1] == b"u" and key[1] < 0x80]
    by_old = {narrow(key, version): key for version in (6, 7) for key in done}
    with store.write_batch() as batch:
        for key, value in list(store.iterator(prefix=b"u")):
            if key in by_old:
                batch.delete(key)
                batch.put(by_old[key], value)
    store.close()
    store = db_class(engine)(str(folder / "hist"), True)
    cursor = 0x7FFF
    with store.write_batch() as batch:
        for key, row in expected["hist"].items():
            if int.from_bytes(key[:2], "big") <= cursor:
                batch.put(key, row)
        count = HistState.parse(store.get(b"state\0\0")).flush_count
        state = HistState(count, db_version=0, upgrade_cursor=cursor)
        batch.put(b"state\0\0", state.pack())
    store.close()
    db = DB(make_env(folder, engine=engine))
    await db.open_for_serving()
    db.close_dbs()
    assert_converted(folder, engine, expected, counts)


async def test_progress_is_shown_while_it_lasts(databases, engine, caplog, monkeypatch):
    folder, _expected, _counts = databases
    monkeypatch.setattr(conversion, "PROGRESS_LOG_SECS", 0)
    db = DB(make_env(folder, engine=engine))
    with caplog.at_level("INFO"):
        await db.open_for_serving()
    db.close_dbs()
    for n in (1, 2, 3):
        assert f"upgrading DB {n} of 3: " in caplog.text
        assert "% done" in caplog.text


async def test_tx_counts_that_fit_no_format_are_one_clear_error(databases, engine):
    folder, _expected, _counts = databases
    (folder / "meta" / "txcounts00").write_bytes(b"\xff" * 4000)
    with pytest.raises(DBError, match="txcounts") as info:
        await DB(make_env(folder, engine=engine)).open_for_serving()
    assert "\n" not in str(info.value)


async def test_damaged_history_is_one_clear_error(databases, engine):
    folder, expected, _counts = databases
    store = db_class(engine)(str(folder / "hist"), True)
    store.put(next(iter(expected["hist"])), b"123")
    store.close()
    with pytest.raises(DBError, match="history row") as info:
        await DB(make_env(folder, engine=engine)).open_for_serving()
    assert "\n" not in str(info.value)


async def test_old_undo_rows_below_the_window_are_dropped(databases, engine):
    folder, _expected, _counts = databases
    db = DB(make_env(folder, engine=engine, reorg_limit=5))
    await db.open_for_serving()
    kept = [height for height in range(60) if db.read_undo_info(height) is not None]
    assert kept == [34, 35, 36, 37, 38]
    db.close_dbs()
