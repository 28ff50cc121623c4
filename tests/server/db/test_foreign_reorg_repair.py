"""History that another server removed in an unfinished reorganisation is restored."""

import ast

import pytest

from electrumx.server.db import DB, DBError
from tests.crash import leavings
from tests.fakes.chain import COIN, ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

HEIGHT = 20


@pytest.fixture
def maker():
    return ChainMaker(seed=31, scripts=6)


@pytest.fixture
def chain(maker):
    return maker.chain(maker.grow(maker.genesis_hash, HEIGHT))


@pytest.fixture
async def env(tmp_path, chain):
    """A database whose last three blocks have lost their history."""
    env = make_env(tmp_path, reorg_limit=10)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
    leavings.leave("cut_history", tmp_path, "leveldb")
    return env


async def assert_whole(db, maker, chain):
    await assert_equals_model(
        db, Model(chain), [hashX_of(script) for script in maker.draws.scripts]
    )


async def test_cut_history_is_put_back_from_the_raw_blocks_on_disk(env, maker, chain):
    db = DB(env)
    await db.open_for_sync()
    await assert_whole(db, maker, chain)
    assert db.history.flush_count == db.state.utxo_flush_count
    db.close_dbs()


async def test_it_is_put_back_in_one_batch_with_the_count(env, tmp_path):
    db = DB(env)
    await db.open_for_sync()
    db.close_dbs()
    stores = leavings.Stores(tmp_path, "leveldb")
    assert stores.hist_state["flush_count"] == stores.state["utxo_flush_count"]
    stores.close()


@pytest.mark.parametrize("damage", ["missing", "cut short", "of another height"])
async def test_a_raw_block_that_is_of_no_use_is_fetched_by_its_hash(
    env, maker, chain, tmp_path, damage
):
    path = tmp_path / "meta" / f"block{HEIGHT - 1}"
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(chain[HEIGHT - 2])
    asked = []
    node = ScriptedDaemon(chain)

    def fetch_blocks(hex_hashes):
        asked.extend(hex_hashes)
        return [node.by_hash[hex_hash] for hex_hash in hex_hashes]

    db = DB(env)
    await db.open_for_sync(fetch_blocks)
    assert asked == [node.hashes[HEIGHT - 1]]
    await assert_whole(db, maker, chain)
    db.close_dbs()


async def test_without_a_node_a_missing_block_is_an_error_with_a_remedy(env, tmp_path):
    (tmp_path / "meta" / f"block{HEIGHT}").unlink()
    with pytest.raises(DBError, match="start the server once, with its node"):
        await DB(env).open_for_sync()


async def test_another_block_from_the_node_is_refused(env, tmp_path, chain):
    (tmp_path / "meta" / f"block{HEIGHT}").unlink()
    db = DB(env)
    with pytest.raises(DBError, match="sent another block than that of height 20"):
        await db.open_for_sync(lambda hex_hashes: [chain[1] for _ in hex_hashes])


async def test_a_node_that_fails_is_one_clear_error(env, tmp_path, chain):
    (tmp_path / "meta" / f"block{HEIGHT}").unlink()
    daemon = ScriptedDaemon(chain)
    world = World(env, daemon)
    async with world:

        async def refuse(_hex_hashes):
            daemon.fail = "no such block"
            daemon.maybe_fail()

        daemon.raw_blocks = refuse
        with pytest.raises(DBError, match="needs blocks that the daemon does not give"):
            await world.until(lambda: False)


async def test_a_cut_below_the_undo_information_is_none(env, tmp_path):
    """Blocks without undo information cannot have been undone, so they are not looked at."""
    stores = leavings.Stores(tmp_path, "leveldb")
    stores.replace_rows(stores.utxo, {k: v for k, v in stores.utxo.iterator() if k[:1] != b"U"})
    before = dict(stores.hist.iterator())
    stores.write_states()
    stores.close()
    db = DB(env)
    await db.open_for_sync()
    after = dict(db.history.db.iterator())
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if k != b"state\0\0"} == {
        k: v for k, v in before.items() if k != b"state\0\0"
    }
    db.close_dbs()


async def test_an_undo_row_of_another_branch_is_no_evidence(tmp_path, env, maker, chain):
    """Such rows stay where a server was too far behind to write new ones."""
    stores = leavings.Stores(tmp_path, "leveldb")
    rows = {k: v for k, v in stores.utxo.iterator() if k[:1] == b"U" and v}
    last, first = max(rows), min(rows)
    with stores.utxo.write_batch() as batch:
        batch.put(last, rows[first])
    before = dict(stores.hist.iterator())
    stores.close()
    db = DB(env)
    await db.open_for_sync()
    after = dict(db.history.db.iterator())
    height = int.from_bytes(last[1:], "big")
    below = len([n for raw in chain[: height + 1] for n in COIN.block(raw, 1).transactions])
    for key, row in after.items():
        if key != b"state\0\0" and row != before.get(key):
            added = {row[n : n + 5] for n in range(0, len(row), 5)}
            added -= {before.get(key, b"")[n : n + 5] for n in range(0, len(row), 5)}
            assert min(int.from_bytes(entry, "little") for entry in added) >= below
    db.close_dbs()


async def test_a_flush_without_rows_that_was_cut_short_changes_nothing(tmp_path, maker, chain):
    env = make_env(tmp_path, reorg_limit=10)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
    stores = leavings.Stores(tmp_path, "leveldb")
    before = dict(stores.hist.iterator())
    stores.hist_state["flush_count"] += 1
    stores.write_states()
    stores.close()
    db = DB(env)
    await db.open_for_sync()
    after = dict(db.history.db.iterator())
    assert ast.literal_eval(after.pop(b"state\0\0").decode()) == ast.literal_eval(
        before.pop(b"state\0\0").decode()
    )
    assert after == before
    await assert_whole(db, maker, chain)
    db.close_dbs()
