"""A damaged row is named once in the log, and the read that met it fails; a race is repeated."""

import asyncio

import pytest

from electrumx.server.db import DB
from electrumx.server.db import read_pool as reader
from electrumx.server.history.row_compaction import are_whole
from electrumx.server.session.shared.block_cache import BlockCache
from electrumx.server.storage import damage
from electrumx.server.storage.base import Storage
from electrumx.server.storage.schema import (
    DBDamagedError,
    DBError,
    DBReadError,
    hist_key,
    pack_tx_num,
    undo_key,
)
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, make_env

MAKER = ChainMaker(seed=82)
CHAIN = MAKER.chain(MAKER.grow(MAKER.genesis_hash, 60))
MODEL = Model(CHAIN)
HASHX = max(
    (hashX_of(script) for script in MAKER.draws.scripts), key=lambda x: len(MODEL.history[x])
)
MISSING = b"\x77" * 11


@pytest.fixture
async def db(tmp_path, engine):
    env = make_env(tmp_path, engine=engine, reorg_limit=10)
    async with World(env, ScriptedDaemon(CHAIN)) as world:
        await world.until_at(CHAIN)
    db = DB(env)
    await db.open_for_serving()
    yield db
    db.close_dbs()


def utxo_key(hashX, tx_num, idx=0):
    return b"u" + hashX + idx.to_bytes(4, "little") + pack_tx_num(tx_num)


async def refused(caplog, ask, match):
    """Ask again and again: the same error each time, and one line of the log."""
    caplog.clear()
    for _ in range(5):
        with pytest.raises(DBDamagedError, match=match) as info:
            await asyncio.wait_for(ask(), 120)
    text = str(info.value)
    assert "run electrumx_rpc verify, then restore a backup" in text
    assert "\n" not in text
    assert [record.getMessage() for record in caplog.records] == [text]


@pytest.mark.parametrize("question", ["packed_utxos", "balance", "all_utxos"])
@pytest.mark.parametrize("harm", ["number", "value", "key"])
async def test_a_damaged_utxo_row_is_named(db, caplog, question, harm):
    count = db.db_tx_count
    key, value = {
        "number": (utxo_key(HASHX, count + 5), bytes(8)),
        "value": (utxo_key(HASHX, 1, idx=99), bytes(7)),
        "key": (utxo_key(HASHX, 1) + b"\0", bytes(8)),
    }[harm]
    db.utxo_db.put(key, value)
    match = f"row {key.hex()} of the utxo store "
    match += f"names transaction {count + 5:,d} of {count:,d}" if harm == "number" else "has "

    async def ask():
        return await getattr(db, question)(HASHX)

    await refused(caplog, ask, match)
    # Who asks at the same time, in the same job, is answered.
    other = db.balance(MISSING)
    with pytest.raises(DBDamagedError):
        await db.balance(HASHX)
    assert (await other).value == 0


@pytest.mark.parametrize("harm", ["number", "cut", "order"])
@pytest.mark.parametrize("limit", [None, 1000])
async def test_a_damaged_history_row_is_named(db, caplog, harm, limit):
    count = db.db_tx_count
    row, match = {
        "number": (pack_tx_num(1) + pack_tx_num(count), f"names transaction {count:,d}"),
        "cut": ((pack_tx_num(1) + pack_tx_num(2))[:-2], "is cut short: it has 8 bytes"),
        "order": (pack_tx_num(count) + pack_tx_num(1), "names transaction 1 after"),
    }[harm]
    key = hist_key(MISSING, 1)
    db.history.db.put(key, row)
    await refused(
        caplog,
        lambda: db.limited_history(MISSING, limit=limit),
        f"row {key.hex()} of the hist store {match}",
    )


async def test_a_history_row_that_is_cut_short_is_no_history_that_is_shorter(db, caplog):
    key, row = next(db.history.db.iterator(prefix=HASHX))
    db.history.db.put(key, row[:-3])
    await refused(caplog, lambda: db.limited_history(HASHX), f"row {key.hex()} .* is cut short")


async def test_history_that_waits_for_its_utxos_is_left_out(db):
    db.history.db.put(hist_key(MISSING, 1), pack_tx_num(1) + pack_tx_num(db.db_tx_count))
    # As a flush of the history alone leaves it, or one that is under way.
    db.files.hashes.write(32 * db.db_tx_count, bytes(32))
    db.stores.fs_tx_count += 1
    assert len(await db.limited_history(MISSING)) == 1


async def test_a_file_of_hashes_that_was_cut_short_is_named(db, caplog):
    path = db.db_dir / "meta" / "hashes0000"
    path.write_bytes(path.read_bytes()[: 32 * 5])
    await refused(caplog, lambda: db.limited_history(HASHX), "is missing from meta/hashes")
    await refused(caplog, lambda: db.all_utxos(HASHX), "is missing from meta/hashes")
    await refused(caplog, lambda: wait(db.block_tx_hashes(50)), "are missing from meta/hashes")
    # A session gets another text.
    with pytest.raises(DBReadError):
        await BlockCache(db).hashes_at(50, None)


async def wait(reading):
    return await reading


async def test_damaged_header_offsets_are_an_error_and_no_endless_read(db, monkeypatch):
    monkeypatch.setattr(db.files, "header_offset", lambda height: -height)
    with pytest.raises(DBError, match=r"header offsets of heights 5 to 6 .* are damaged"):
        db.files.read_headers(5, 1)


async def test_a_damaged_outpoint_row_is_named_and_the_mempool_goes_on(db, caplog):
    tx_hash = b"\x55" * 32
    key = b"h" + tx_hash[:4] + bytes(4) + pack_tx_num(1)
    db.utxo_db.put(key, b"short")
    with pytest.raises(DBDamagedError, match=f"row {key.hex()} of the utxo store"):
        await asyncio.to_thread(db.find_utxo_row, tx_hash, 0)
    assert await db.lookup_utxos([(tx_hash, 0)]) == [None]
    assert len(caplog.records) == 1


async def test_a_damaged_undo_row_is_named(db):
    db.utxo_db.put(undo_key(60), bytes(25))
    with pytest.raises(DBDamagedError, match=f"undo row {undo_key(60).hex()} .* of height 60"):
        db.read_undo_info(60)


async def test_a_read_that_races_a_flush_is_repeated_and_logged_once(db, caplog, monkeypatch):
    monkeypatch.setattr(reader, "RETRY_SECS", 0.001)
    key = utxo_key(MISSING, db.db_tx_count)
    db.utxo_db.put(key, (7).to_bytes(8, "little"))
    db.stores.commit_seq += 1
    reading = db.balance(MISSING)
    while reading.retries < 5:
        await asyncio.sleep(0.001)
    with db.utxo_db.write_batch() as batch:
        batch.delete(key)
    db.stores.commit_seq += 1
    assert (await reading).value == 0
    assert len(caplog.records) == 1


async def test_a_read_is_not_repeated_indefinitely(db, monkeypatch):
    monkeypatch.setattr(reader, "RETRY_SECS", 0.0001)
    monkeypatch.setattr(reader, "MAX_RETRY_SECS", 0.001)
    db.utxo_db.put(utxo_key(MISSING, db.db_tx_count), bytes(8))
    db.stores.commit_seq += 1
    with pytest.raises(DBReadError, match="changed for too long"):
        await asyncio.wait_for(wait(db.balance(MISSING)), 120)


def test_the_log_of_damage_is_bounded(caplog):
    log = damage.DamageLog(damage.logging.getLogger("damage"))
    for number in range(2 * damage.MAX_LOGGED):
        log.error(f"row {number}")
    assert len(caplog.records) == damage.MAX_LOGGED + 1
    assert "no more of them are logged" in caplog.text


def test_rows_that_are_cut_short_are_not_merged(caplog):
    logger = damage.logging.getLogger("damage")
    assert are_whole([(b"k", bytes(10))], logger)
    assert not are_whole([(b"k", bytes(10)), (b"\x01", bytes(9))], logger)
    assert "row 01 of the hist store is cut short" in caplog.text


async def test_a_compaction_leaves_a_damaged_script_as_it_is(db):
    store: Storage = db.history.db
    rows = {hist_key(MISSING, n): pack_tx_num(n)[: 5 - (n == 2)] for n in range(1, 4)}
    with store.write_batch() as batch:
        for key, row in rows.items():
            batch.put(key, row)
    db.history.flush_count = 3
    db.set_flush_count(3)
    db.begin_compaction().run_to_end()
    assert dict(store.iterator(prefix=MISSING)) == rows
