"""The layout on disk, byte by byte, and how a database is opened."""

import ast
import asyncio
from array import array

import pytest

from electrumx.lib.coins import LitecoinRegtest
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB, DBError
from electrumx.server.db.stores import Stores
from electrumx.server.storage.schema import DBClosedError
from tests.fakes.chain import GENESIS, ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

BLOCK_1 = bytes.fromhex(
    "0100000006226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f69d9fc614f1827873da8"
    "36b07078cc67f2bdfad31aa16396632c3e408e11b526dbe5494dffff7f2000000000010100000001000000000000"
    "0000000000000000000000000000000000000000000000000000ffffffff020101ffffffff0200f2052a01000000"
    "1976a914aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa88ac0000000000000000036a010000000000"
)
BLOCK_2 = bytes.fromhex(
    "010000005aca91cfc3b1a5ec6813e9c9110f81448764902d510a35f03a110d9b0435a52d03b84129860e5acae17a"
    "c89a46e62be9d46d2a6a33855bd3c67dd18cc8883408dce5494dffff7f2000000000020100000001000000000000"
    "0000000000000000000000000000000000000000000000000000ffffffff020102ffffffff0100f2052a01000000"
    "1976a914bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb88ac00000000010000000169d9fc614f1827873da836"
    "b07078cc67f2bdfad31aa16396632c3e408e11b5260000000000ffffffff02005ed0b2000000001976a914bbbbbb"
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb88ac18903577000000001976a914cccccccccccccccccccccccccccccc"
    "cccccccccc88ac00000000"
)
UTXO_ROWS = {
    "5500000000": "",
    "5500000001": "",
    "5500000002": "0ea5aa996d9cffea9ddd42000000000000f2052a01000000",
    "684681602f000000000100000000": "eb2f5c94dedce91ecba6c7",
    "68490b3a22000000000200000000": "eb2f5c94dedce91ecba6c7",
    "68490b3a22010000000200000000": "f8a76f08f39c32692f3fca",
    "75eb2f5c94dedce91ecba6c7000000000100000000": "00f2052a01000000",
    "75eb2f5c94dedce91ecba6c7000000000200000000": "005ed0b200000000",
    "75f8a76f08f39c32692f3fca010000000200000000": "1890357700000000",
}
HIST_ROWS = {
    "0ea5aa996d9cffea9ddd420001": "0000000000",
    "0ea5aa996d9cffea9ddd420002": "0200000000",
    "eb2f5c94dedce91ecba6c70002": "01000000000200000000",
    "f8a76f08f39c32692f3fca0002": "0200000000",
}


@pytest.fixture(params=["leveldb", "rocksdb"])
def env(request, tmp_path):
    if request.param == "rocksdb":
        pytest.importorskip("rocksdict", reason="the rocksdb extra is not installed")
    return make_env(tmp_path, engine=request.param, reorg_limit=10)


async def two_flushes(env):
    """Index the two blocks as two flushes; return the processor."""
    daemon = ScriptedDaemon([GENESIS, BLOCK_1, BLOCK_2])
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    for raws in ([GENESIS, BLOCK_1], [BLOCK_2]):
        first = bp.height + 1
        bp.state.advance_blocks(bp.parser.parse_blocks(raws, first))
        await bp.flush_scheduler.flush(True)
    return bp


def rows(store):
    return {key.hex(): value.hex() for key, value in store.iterator()}


def split_state(found, key):
    return found, ast.literal_eval(bytes.fromhex(found.pop(key)).decode())


async def test_two_known_blocks_leave_the_documented_rows(env, tmp_path):
    bp = await two_flushes(env)
    utxo, utxo_state = split_state(rows(bp.db.utxo_db), b"state".hex())
    hist, hist_state = split_state(rows(bp.db.history.db), b"state\0\0".hex())
    assert utxo == UTXO_ROWS
    assert hist == HIST_ROWS
    assert list(utxo_state) == [
        "genesis",
        "height",
        "tx_count",
        "tip",
        "utxo_flush_count",
        "wall_time",
        "first_sync",
        "db_version",
    ]
    assert {k: utxo_state[k] for k in ("height", "tx_count", "utxo_flush_count", "db_version")} == {
        "height": 2,
        "tx_count": 3,
        "utxo_flush_count": 2,
        "db_version": 8,
    }
    assert hist_state == {
        "flush_count": 2,
        "comp_flush_count": -1,
        "comp_cursor": -1,
        "db_version": 1,
        "upgrade_cursor": -1,
    }
    meta = tmp_path / "meta"
    assert (meta / "txcounts00").read_bytes() == array("Q", [0, 1, 3]).tobytes()
    hashes = (meta / "hashes0000").read_bytes()
    assert [hashes[n : n + 32].hex()[:8] for n in (0, 32, 64)] == [
        "69d9fc61",
        "4681602f",
        "490b3a22",
    ]
    assert len(hashes) == 96
    assert (meta / "headers00").read_bytes() == GENESIS[:80] + BLOCK_1[:80] + BLOCK_2[:80]
    raw_blocks = [(meta / f"block{n}").read_bytes() for n in range(3)]
    assert raw_blocks == [GENESIS, BLOCK_1, BLOCK_2]
    marker = (tmp_path / "COIN").read_text()
    assert marker == "ElectrumX databases and metadata for BitcoinSegwit regtest"
    bp.db.close_dbs()


async def test_undoing_the_second_block_leaves_the_documented_rows(env):
    bp = await two_flushes(env)
    blocks = await bp.reorg_finder.blocks_to_undo(2, 2)
    await bp.flush_scheduler.run_locked(bp.state.undo_and_flush, blocks)
    utxo, utxo_state = split_state(rows(bp.db.utxo_db), b"state".hex())
    hist, hist_state = split_state(rows(bp.db.history.db), b"state\0\0".hex())
    assert hist == {"0ea5aa996d9cffea9ddd420001": "0000000000"}
    # The UTXO is back under its original tx number; the stale undo row remains.
    assert utxo["750ea5aa996d9cffea9ddd42000000000000000000"] == "00f2052a01000000"
    assert "5500000002" in utxo
    assert len(utxo) == 5
    assert (utxo_state["height"], utxo_state["tx_count"]) == (1, 1)
    # Undoing blocks uses no flush id.
    assert utxo_state["utxo_flush_count"] == hist_state["flush_count"] == 2
    bp.db.close_dbs()


class Stop(Exception):
    """Stands for a kill between two writes."""


@pytest.mark.parametrize("step", [1, 2, 3, 4])
async def test_a_stop_after_any_write_of_a_backup_is_harmless(tmp_path, step):
    maker = ChainMaker(seed=21)
    fork = maker.grow(maker.genesis_hash, 12)
    tip = maker.grow(fork, 6)
    env = make_env(tmp_path)
    daemon = ScriptedDaemon(maker.chain(tip))
    async with World(env, daemon) as world:
        await world.until_at(maker.chain(tip))
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    bp.state.read_committed()
    await daemon.height()
    done = 0

    def counted(write):
        def wrapper(*args):
            nonlocal done
            if done == step:
                raise Stop
            done += 1
            return write(*args)

        return wrapper

    db.stores.write_state = counted(db.stores.write_state)
    db.history.stage = counted(db.history.stage)
    db.flusher.put_utxos = counted(db.flusher.put_utxos)
    db.history.drop_staged = counted(db.history.drop_staged)
    blocks = await bp.reorg_finder.blocks_to_undo(13, 18)
    try:
        bp.state.undo_and_flush(blocks)
    except Stop:
        pass
    assert done == step
    db.close_dbs()

    expected = maker.chain(tip) if step < 3 else maker.chain(fork)
    db = DB(env)
    await db.open_for_serving()
    scripts = [hashX_of(script) for script in maker.draws.scripts]
    await assert_equals_model(db, Model(expected), scripts)
    db.close_dbs()
    # And onward on another branch.
    new = maker.grow(fork, 8)
    daemon.set_chain(maker.chain(new))
    async with World(env, daemon) as world:
        await world.until_at(maker.chain(new))
        await assert_equals_model(world.db, Model(maker.chain(new)), scripts)


def test_a_database_has_its_error():
    assert DB.DBError is DBError


async def test_a_database_of_another_coin_is_refused(env):
    bp = await two_flushes(env)
    bp.db.close_dbs()
    env.coin = LitecoinRegtest
    with pytest.raises(DBError, match="does not match coin"):
        await DB(env).open_for_sync()


async def test_a_database_of_another_engine_is_refused_by_name(env):
    bp = await two_flushes(env)
    bp.db.close_dbs()
    written, env.db_engine = (
        env.db_engine,
        {"leveldb": "rocksdb", "rocksdb": "leveldb"}[env.db_engine],
    )
    with pytest.raises(DBError, match=f"was written by {written}"):
        await DB(env).open_for_sync()


async def test_a_database_that_is_open_elsewhere_is_refused(env):
    bp = await two_flushes(env)
    with pytest.raises(DBError, match="another process holds it"):
        await DB(env).open_for_sync()
    bp.db.close_dbs()


@pytest.mark.parametrize(
    ("store", "row", "text"),
    [
        ("utxo", b"nonsense", "failed reading state from DB"),
        ("utxo", b"[1, 2]", "failed reading state from DB"),
        ("utxo", b"{'height': 'x'}", "failed reading state from DB"),
        ("hist", b"{'flush_count': None}", "failed reading state from DB"),
    ],
)
async def test_a_damaged_state_row_is_one_clear_error(env, store, row, text):
    bp = await two_flushes(env)
    if store == "utxo":
        bp.db.utxo_db.put(b"state", row)
    else:
        bp.db.history.db.put(b"state\0\0", row)
    bp.db.close_dbs()
    with pytest.raises(DBError, match=text) as info:
        await DB(env).open_for_sync()
    assert "\n" not in str(info.value)


async def test_an_unsupported_version_is_refused(env):
    bp = await two_flushes(env)
    state = ast.literal_eval(bp.db.utxo_db.get(b"state").decode())
    state["db_version"] = 11
    bp.db.utxo_db.put(b"state", repr(state).encode())
    bp.db.close_dbs()
    with pytest.raises(DBError, match="UTXO DB version is 11"):
        await DB(env).open_for_sync()


async def test_a_truncated_flat_file_is_refused(env, tmp_path):
    bp = await two_flushes(env)
    bp.db.close_dbs()
    path = tmp_path / "meta" / "txcounts00"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DBError, match="truncated"):
        await DB(env).open_for_sync()


async def test_a_missing_history_store_is_refused_and_not_created(env, tmp_path):
    bp = await two_flushes(env)
    bp.db.close_dbs()
    (tmp_path / "hist").rename(tmp_path / "moved")
    with pytest.raises(DBError, match="history store"):
        await DB(env).open_for_sync()
    assert not (tmp_path / "hist").exists()


async def test_extra_keys_of_the_state_row_are_tolerated(env):
    bp = await two_flushes(env)
    state = ast.literal_eval(bp.db.utxo_db.get(b"state").decode())
    state["of another program"] = 1
    bp.db.utxo_db.put(b"state", repr(state).encode())
    bp.db.close_dbs()
    db = DB(env)
    await db.open_for_sync()
    assert db.db_height == 2
    db.close_dbs()


async def test_a_store_whose_creation_was_cut_short_is_created_again(env, tmp_path):
    (tmp_path / "utxo").mkdir()
    (tmp_path / "utxo" / "LOCK").touch()
    (tmp_path / "utxo" / "MANIFEST-000001").touch()
    bp = await two_flushes(env)
    assert bp.db.db_height == 2
    bp.db.close_dbs()


async def test_headers_out_of_range_raise_the_documented_errors(env):
    bp = await two_flushes(env)
    db = bp.db
    assert await db.raw_header(2) == BLOCK_2[:80]
    with pytest.raises(IndexError, match="height 3 out of range"):
        await db.raw_header(3)
    with pytest.raises(DBError):
        await db.read_headers(-1, 1)
    with pytest.raises(DBError, match=r"block 3 not on disk \(>2\)"):
        await db.tx_hashes_at_blockheight(3)
    with pytest.raises(DBError, match="only got 2 headers"):
        await db.fs_block_hashes(1, 5)
    db.close_dbs()


async def test_a_limited_history_is_the_beginning_of_the_whole(tmp_path):
    maker = ChainMaker(seed=22, scripts=3)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    async with World(make_env(tmp_path), ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        hashX = hashX_of(maker.draws.scripts[0])
        whole = await world.db.limited_history(hashX, limit=None)
        assert len(whole) > 20
        for limit in (0, 1, 7, len(whole), len(whole) + 1):
            assert whole[:limit] == await world.db.limited_history(hashX, limit=limit)


async def test_many_utxos_are_looked_up_as_each_alone(env):
    bp = await two_flushes(env)
    db = bp.db
    keys = [key for key, _hashX in db.utxo_db.iterator(prefix=b"h")]
    outpoints = []
    for key in keys:
        tx_hash, _height = db.fs_tx_hash(int.from_bytes(key[-5:], "little"))
        outpoints.append(tx_hash + key[5:9])
    alone = [
        db.find_utxo_row(outpoint[:32], int.from_bytes(outpoint[32:], "little"))
        for outpoint in outpoints
    ]
    assert None not in alone
    assert db.find_utxo_rows(outpoints) == alone
    spent = set(keys[::2])
    assert db.find_utxo_rows(outpoints, spent) == [
        None if row.outpoint_key in spent else row for row in alone
    ]
    db.close_dbs()


async def test_colliding_outpoint_prefixes_are_distinguished_by_the_full_hash(env):
    bp = await two_flushes(env)
    db = bp.db
    # A second row for the first four bytes of a hash and the same index, as a collision leaves.
    real = bytes.fromhex("684681602f000000000100000000")
    other_num = (0).to_bytes(5, "little")
    fake = real[:-5] + other_num
    hashX = b"\xee" * 11
    with db.utxo_db.write_batch() as batch:
        batch.put(fake, hashX)
        batch.put(b"u" + hashX + bytes(4) + other_num, (7).to_bytes(8, "little"))
    tx_hash = (await db.tx_hashes_at_blockheight(2))[0]
    row = db.find_utxo_row(tx_hash, 0)
    assert row.outpoint_key == real
    # The same for many at once, among which are some that are spent, and some that never were.
    absent = bytes(36), tx_hash + b"\1\0\0\0", b"\xff" * 36
    outpoints = sorted([tx_hash + bytes(4), *absent], key=lambda o: o[:4] + o[32:])
    found = dict(zip(outpoints, db.find_utxo_rows(outpoints), strict=True))
    assert found == {tx_hash + bytes(4): row} | dict.fromkeys(absent)
    assert db.find_utxo_rows([tx_hash + bytes(4)], {real}) == [db.find_utxo_row(tx_hash, 0, {real})]
    assert db.find_utxo_rows([]) == []
    assert await db.lookup_utxos([(tx_hash, 0)]) == [
        (bytes.fromhex("eb2f5c94dedce91ecba6c7"), 5_000_000_000)
    ]
    # An unknown transaction that shares the prefix is not taken for it.
    assert await db.lookup_utxos([(tx_hash[:4] + b"\x77" * 28, 0)]) == [None]
    db.close_dbs()


async def test_reads_go_on_while_the_stores_are_reopened_and_end_when_they_are_closed(
    tmp_path, engine, monkeypatch
):
    maker = ChainMaker(seed=84)
    chain = maker.chain(maker.grow(maker.genesis_hash, 100))
    hashXs = [hashX_of(script) for script in maker.draws.scripts]
    env = make_env(tmp_path, engine=engine)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
    db = DB(env)
    monkeypatch.setattr(Stores, "_stores_are_small", lambda _stores: False)
    await db.open_for_sync()
    model = Model(chain)
    reads = 0

    async def read_on():
        nonlocal reads
        while True:
            for hashX in hashXs:
                utxos = await db.all_utxos(hashX)
                assert model.utxos(hashX) == {tuple(utxo) for utxo in utxos}
                assert model.history.get(hashX, []) == await db.limited_history(hashX)
                await db.lookup_utxos(list(model.unspent)[:10])
                reads += 1

    readers = [asyncio.ensure_future(read_on()) for _ in range(8)]
    for _ in range(5):
        await db.open_for_serving()
        db.utxo_db.bulk_loading, db.utxo_db.compress = True, False
        await asyncio.to_thread(db.end_bulk_load)
        before = reads
        while reads < before + 50:
            await asyncio.sleep(0.001)
            for reader in readers:
                assert not reader.done() or reader.result()
    await asyncio.to_thread(db.close_dbs)
    for reader in readers:
        with pytest.raises(DBClosedError):
            await asyncio.wait_for(reader, 60)
