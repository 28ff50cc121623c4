"""The block processor and the database, against a model in dictionaries."""

import asyncio
import random
import threading

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import double_sha256
from electrumx.server.block_processor import compiled_indexer, processor, tip_reporter
from electrumx.server.block_processor.block_parser import BlockParser
from electrumx.server.block_processor.compaction_tasks import EngineCompactionTask
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB
from electrumx.server.db import wire_rows as packed
from electrumx.server.storage.base import Storage, db_class
from tests.conftest import require
from tests.fakes.chain import COIN, GENESIS, ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env


def hashXs(maker):
    return [hashX_of(script) for script in maker.draws.scripts]


async def test_a_chain_is_indexed_and_survives_a_restart(tmp_path, engine, indexer):
    maker = ChainMaker(seed=1)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    env = make_env(tmp_path, engine=engine, indexer=indexer)
    model = Model(chain)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, model, hashXs(maker))
        assert not world.db.first_sync
    db = DB(env)
    await db.open_for_serving()
    await assert_equals_model(db, model, hashXs(maker))
    assert not db.first_sync
    db.close_dbs()


async def test_the_processor_of_a_coin_may_spend_a_utxo(tmp_path):
    maker = ChainMaker(seed=1)
    chain = maker.chain(maker.grow(maker.genesis_hash, 10))
    async with World(make_env(tmp_path, indexer="python"), ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        [utxo, *_others] = await world.db.all_utxos(hashXs(maker)[0])
        found = world.bp.spend_utxo(utxo.tx_hash, utxo.tx_pos)
        assert found[:11] == hashXs(maker)[0]
        assert int.from_bytes(found[11:16], "little") == utxo.tx_num
        assert int.from_bytes(found[16:], "little") == utxo.value
        with pytest.raises(ChainError):
            world.bp.spend_utxo(utxo.tx_hash, utxo.tx_pos)
        # Nothing of it is to be written
        world.bp.state.utxo_cache.deletes.clear()


async def test_random_reorgs_leave_the_database_of_a_direct_sync(tmp_path, engine, order, indexer):
    processor_class, coin, ltor = order
    maker = ChainMaker(seed=2, ltor=ltor)
    choose = random.Random(3)
    tip = maker.grow(maker.genesis_hash, 30)
    daemon = ScriptedDaemon(maker.chain(tip))
    env = make_env(tmp_path, engine=engine, coin=coin, reorg_limit=25, indexer=indexer)
    async with World(env, daemon, processor_class) as world:
        await world.until_at(maker.chain(tip))
        for _ in range(15):
            fork = tip
            for _ in range(choose.randint(1, 9)):
                fork = maker.blocks[fork][1]
            undone = len(daemon.raw) - len(maker.chain(fork))
            # Longer, as long, and shorter branches.
            tip = maker.grow(fork, max(1, undone + choose.choice([-2, -1, 0, 1, 2])))
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
            model = Model(maker.chain(tip), coin)
            await assert_equals_model(world.db, model, hashXs(maker))


@pytest.mark.parametrize("fork_height", range(6))
async def test_forks_low_in_a_short_chain_never_replace_the_genesis_block(tmp_path, fork_height):
    maker = ChainMaker(seed=4)
    trunk = [maker.genesis_hash]
    for _ in range(7):
        trunk.append(maker.extend(trunk[-1]))
    daemon = ScriptedDaemon(maker.chain(trunk[-1]))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(trunk[-1]))
        tip = maker.grow(trunk[fork_height], 8)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))
        await assert_equals_model(world.db, Model(maker.chain(tip)), hashXs(maker))


async def test_the_steps_of_the_last_blocks_are_remembered(tmp_path, indexer):
    maker = ChainMaker(seed=15)
    start = maker.grow(maker.genesis_hash, 5)
    daemon = ScriptedDaemon(maker.chain(start))
    async with World(make_env(tmp_path, indexer=indexer), daemon) as world:
        await world.until_at(maker.chain(start))
        assert world.bp.confirmed_after(maker.blocks[start][1]) is None
        tips = [start]
        for _ in range(tip_reporter.KEPT_STEPS + 1):
            tips.append(maker.extend(tips[-1]))
            daemon.set_chain(maker.chain(tips[-1]))
            await world.until_at(maker.chain(tips[-1]))
            await world.until(lambda: world.bp.confirmed_after(tips[-2]) is not None)
        model = Model(maker.chain(tips[-1]))
        height = len(model.tx_hashes) - 1
        confirmed = world.bp.confirmed_after(tips[-2])
        assert (confirmed.height, confirmed.tip) == (height, tips[-1])
        assert confirmed.tx_hashes == b"".join(model.tx_hashes[-1])
        txs = [tx for tx, _hash in COIN.block(daemon.raw[-1], height).transactions]
        inputs = [txin for tx in txs for txin in tx.inputs if not txin.is_generation()]
        assert confirmed.spent_outpoints == b"".join(
            txin.prev_hash + txin.prev_idx.to_bytes(4, "little") for txin in inputs
        )
        assert world.bp.confirmed_after(tips[0]) is None
        assert world.bp.confirmed_after(tips[-1]) is None
        # The steps from undone blocks lead to the current tip as well.
        fork = maker.grow(tips[-2], 2)
        daemon.set_chain(maker.chain(fork))
        await world.until_at(maker.chain(fork))
        undone = world.bp.confirmed_after(tips[-1])
        assert (undone.tip, undone.undone, undone.tx_hashes) == (tips[-2], True, b"")
        tip, steps = tips[-3], 0
        while world.bp.confirmed_after(tip) is not None:
            tip, steps = world.bp.confirmed_after(tip).tip, steps + 1
        assert tip == fork
        assert steps <= 3


async def test_the_step_of_a_block_is_known_while_it_is_being_written(tmp_path, indexer):
    maker = ChainMaker(seed=17)
    start = maker.grow(maker.genesis_hash, 5)
    daemon = ScriptedDaemon(maker.chain(start))
    async with World(make_env(tmp_path, indexer=indexer), daemon) as world:
        await world.until_at(maker.chain(start))
        may_write = threading.Event()
        flush_dbs = world.db.flush_dbs

        def held_up(*args):
            assert may_write.wait(60)
            flush_dbs(*args)

        world.db.flush_dbs = held_up
        processed = asyncio.ensure_future(world.bp.processed_event.wait())
        tip = maker.extend(start)
        daemon.set_chain(maker.chain(tip))
        await asyncio.wait_for(processed, 120)
        height = len(maker.chain(start)) - 1
        confirmed = world.bp.confirmed_after(start)
        assert (height + 1, tip) == (confirmed.height, confirmed.tip)
        assert (height, start) == (world.db.db_height, world.db.db_tip)
        may_write.set()
        await world.until_at(maker.chain(tip))


async def test_the_additions_of_blocks_extend_earlier_histories(tmp_path, order, indexer):
    processor_class, coin, ltor = order
    maker = ChainMaker(seed=16, scripts=6, ltor=ltor)
    tip = maker.grow(maker.genesis_hash, 8)
    daemon = ScriptedDaemon(maker.chain(tip))
    env = make_env(tmp_path, coin=coin, indexer=indexer)
    async with World(env, daemon, processor_class) as world:
        await world.until_at(maker.chain(tip))
        for blocks in (1, 3, 1):
            scripts = hashXs(maker)
            before = [await world.db.history_entries(hashX) for hashX in scripts]
            previous, tip = tip, maker.grow(tip, blocks)
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
            await world.until(lambda tip=previous: world.bp.confirmed_after(tip) is not None)
            known = [(history.entries, history.last_tx_num) for history in before]
            # Blocks that the prefetcher received one by one make a step each.
            while previous != tip:
                confirmed = world.bp.confirmed_after(previous)
                extended = packed.extend_histories(
                    scripts,
                    [entries for entries, _last_tx_num in known],
                    [last_tx_num for _entries, last_tx_num in known],
                    confirmed.addition,
                )
                known = [(entries, last_tx_num) for entries, last_tx_num, *_ in extended]
                previous = confirmed.tip
            assert confirmed.header == daemon.raw[-1][:80]
            for hashX, expected in zip(scripts, known, strict=True):
                after = await world.db.history_entries(hashX)
                assert (after.entries, after.last_tx_num) == expected


async def test_a_node_that_undoes_blocks_without_new_ones_is_followed_down(tmp_path):
    maker = ChainMaker(seed=5)
    low = maker.grow(maker.genesis_hash, 10)
    high = maker.grow(low, 4)
    daemon = ScriptedDaemon(maker.chain(high))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(high))
        await world.until(lambda: world.bp.reorg_finder.followed_url)
        daemon.set_chain(maker.chain(low))
        await world.until_at(maker.chain(low))
        await assert_equals_model(world.db, Model(maker.chain(low)), hashXs(maker))


async def test_another_node_that_is_behind_undoes_nothing(tmp_path):
    maker = ChainMaker(seed=6)
    low = maker.grow(maker.genesis_hash, 10)
    high = maker.grow(low, 4)
    daemon = ScriptedDaemon(maker.chain(high))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(high))
        await world.until(lambda: world.bp.reorg_finder.followed_url)
        daemon.url = "http://node-2/"
        daemon.set_chain(maker.chain(low))
        await world.until(lambda: world.bp.reorg_finder.short_polls > 10)
        assert world.db.db_height == 14
        tip = maker.extend(high)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))


async def test_a_forced_reorg_of_any_permitted_depth_changes_nothing(tmp_path, order):
    processor_class, coin, ltor = order
    maker = ChainMaker(seed=7, ltor=ltor)
    chain = maker.chain(maker.grow(maker.genesis_hash, 80))
    env = make_env(tmp_path, coin=coin, reorg_limit=70)
    async with World(env, ScriptedDaemon(chain), processor_class) as world:
        await world.until_at(chain)
        for count in (1, 2, 49, 50, 51, 70):
            before = world.db.backup_count
            assert await world.bp.force_chain_reorg(count)
            await world.until(lambda before=before: world.db.backup_count > before)
            await world.until_at(chain)
            await assert_equals_model(world.db, Model(chain, coin), hashXs(maker))
        for bad in (-1, 71, 1000):
            with pytest.raises(ValueError, match="cannot reorganise"):
                await world.bp.force_chain_reorg(bad)


async def test_forks_are_recorded_with_their_height_and_end(tmp_path):
    maker = ChainMaker(seed=16)
    low = maker.grow(maker.genesis_hash, 10)
    high = maker.grow(low, 4)
    daemon = ScriptedDaemon(maker.chain(high))
    async with World(make_env(tmp_path), daemon) as world:
        bp = world.bp
        await world.until_at(maker.chain(high))
        assert ([], 0) == (bp.forks, bp.forks_ended)
        backup_and_flush, during = bp.state.undo_and_flush, []

        def watched(blocks):
            during.append((bp.forks[-1], len(bp.forks) - bp.forks_ended))
            return backup_and_flush(blocks)

        bp.state.undo_and_flush = watched
        # To a longer branch, to a shorter chain, and back to the same blocks
        tip = maker.grow(low, 6)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))
        await world.until(lambda: bp.forks_ended == 1)
        await world.until(lambda: bp.reorg_finder.followed_url)
        daemon.set_chain(maker.chain(low))
        await world.until(lambda: bp.forks_ended == 2)
        await world.until_at(maker.chain(low))
        assert await bp.force_chain_reorg(3)
        await world.until(lambda: bp.forks_ended == 3)
        await world.until_at(maker.chain(low))
        assert [10, 10, 7] == bp.forks
        assert [(10, 1), (10, 1), (7, 1)] == during


async def test_a_forced_reorg_is_refused_while_catching_up(tmp_path):
    daemon = ScriptedDaemon([GENESIS])
    world = World(make_env(tmp_path), daemon)
    bp = BlockProcessor(world.env, DB(world.env), daemon, None)
    assert await bp.force_chain_reorg(3) is False


async def test_missing_raw_blocks_are_fetched_from_the_node_to_undo_them(tmp_path):
    maker = ChainMaker(seed=8)
    fork = maker.grow(maker.genesis_hash, 10)
    old = maker.grow(fork, 3)
    daemon = ScriptedDaemon(maker.chain(old))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(old))
        (tmp_path / "meta" / "block12").unlink()
        (tmp_path / "meta" / "block11").write_bytes(b"damaged")
        new = maker.grow(fork, 5)
        daemon.set_chain(maker.chain(new))
        await world.until_at(maker.chain(new))
        await assert_equals_model(world.db, Model(maker.chain(new)), hashXs(maker))


async def test_a_reorg_deeper_than_the_undo_data_names_the_remedy(tmp_path):
    maker = ChainMaker(seed=9)
    fork = maker.grow(maker.genesis_hash, 10)
    old = maker.grow(fork, 12)
    daemon = ScriptedDaemon(maker.chain(old))
    world = World(make_env(tmp_path, reorg_limit=5), daemon)
    async with world:
        await world.until_at(maker.chain(old))
        daemon.set_chain(maker.chain(maker.grow(fork, 14)))
        with pytest.raises(ChainError, match="REORG_LIMIT") as info:
            await world.until(lambda: False)
    # The command shows such an error as one line, and ends with status 1.
    assert isinstance(info.value, OperatorError)
    assert "\n" not in str(info.value)
    # The disk is still whole.
    db = DB(world.env)
    await db.open_for_serving()
    await assert_equals_model(db, Model(maker.chain(old)), hashXs(maker))
    db.close_dbs()


async def test_undo_rows_and_raw_blocks_are_kept_only_for_the_window(tmp_path):
    maker = ChainMaker(seed=10)
    tip = maker.grow(maker.genesis_hash, 20)
    daemon = ScriptedDaemon(maker.chain(tip))
    async with World(make_env(tmp_path, reorg_limit=5), daemon) as world:
        await world.until_at(maker.chain(tip))
        for _ in range(10):
            tip = maker.extend(tip)
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
        kept = [h for h in range(40) if world.db.read_undo_info(h) is not None]
        assert [26, 27, 28, 29, 30] == kept
        assert [26, 27, 28, 29, 30] == sorted(world.db.files.raw_block_heights())


async def test_a_daemon_error_is_waited_out(tmp_path):
    maker = ChainMaker(seed=11)
    fork = maker.grow(maker.genesis_hash, 10)
    daemon = ScriptedDaemon(maker.chain(maker.grow(fork, 2)))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until(world.caught_up.is_set)
        world.bp.prefetcher.polling_delay = 0.01
        daemon.fail = "busy"
        tip = maker.grow(fork, 4)
        daemon.set_chain(maker.chain(tip))
        await world.until(lambda: daemon.failures > 2)
        daemon.fail = None
        await world.until_at(maker.chain(tip))


async def test_cancellation_during_the_initial_sync_flushes_processed_blocks(tmp_path):
    maker = ChainMaker(seed=12)
    tip = maker.grow(maker.genesis_hash, 40)
    chain = maker.chain(tip)
    env = make_env(tmp_path)
    daemon = ScriptedDaemon(chain)

    async def hold(_self=None):
        await asyncio.sleep(3600)

    world = World(env, daemon)
    async with world:
        world.bp.first_caught_up = hold
        await world.until(lambda: world.bp.height == 40)
        assert world.db.db_height == -1
    db = DB(env)
    await db.open_for_serving()
    assert db.first_sync
    await assert_equals_model(db, Model(chain), hashXs(maker))
    db.close_dbs()


@pytest.mark.parametrize("serve_always", [False, True])
async def test_freed_memory_goes_back_before_and_after_the_last_flush_unless_clients_are_served(
    tmp_path, monkeypatch, serve_always
):
    heights = []
    maker = ChainMaker(seed=3)
    chain = maker.chain(maker.grow(maker.genesis_hash, 20))
    async with World(make_env(tmp_path, serve_always=serve_always), ScriptedDaemon(chain)) as world:
        monkeypatch.setattr(
            processor, "give_back_freed_memory", lambda: heights.append(world.db.db_height)
        )
        await world.until_at(chain)
        await world.until(lambda: serve_always or len(heights) > 1)
    assert heights == ([] if serve_always else [-1, 20])


@pytest.mark.parametrize("flushes", [False, True], ids=["once", "often"])
async def test_the_initial_sync_compacts_tables_after_many_flushes(
    tmp_path, engine, indexer, flushes, caplog, monkeypatch
):
    caplog.set_level("INFO")
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: flushes or None)
    maker = ChainMaker(seed=15)
    fork = maker.grow(maker.genesis_hash, 40)
    chain = maker.chain(fork)
    env = make_env(tmp_path, engine=engine, indexer=indexer)
    daemon = ScriptedDaemon(chain)
    async with World(env, daemon) as world:
        await world.until_at(chain)
        await world.until(lambda: world.bp.engine_compaction.done)
        assert ("compacted tables" in caplog.text) is flushes
        assert not world.db.utxo_db.bulk_loading
        assert not world.db.history.db.bulk_loading
        caplog.clear()
        await assert_equals_model(world.db, Model(chain), hashXs(maker))
    # Later ones leave that to the engine.
    chain = maker.chain(maker.grow(fork, 40))
    daemon.set_chain(chain)
    async with World(env, daemon) as world:
        await world.until_at(chain)
        await world.until(lambda: world.bp.engine_compaction.done)
        await assert_equals_model(world.db, Model(chain), hashXs(maker))
    assert "compacted tables" not in caplog.text


async def test_shutting_down_stops_the_engine_compaction_and_the_next_start_repeats_it(
    tmp_path, engine, caplog, monkeypatch
):
    caplog.set_level("INFO")
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: True)
    monkeypatch.setattr(EngineCompactionTask, "GRACE_SECS", 0)
    begun, may_end, closed = threading.Event(), threading.Event(), []
    engine_class = db_class(engine)
    compact, close = engine_class.compact, engine_class.close

    def slow_merge(self):
        begun.set()
        assert may_end.wait(120)
        # Closing waits for the work with the store.
        assert not closed
        return compact(self)

    def noted_close(self):
        closed.append(self)
        close(self)

    maker = ChainMaker(seed=17)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    async with World(make_env(tmp_path, engine=engine), ScriptedDaemon(chain)) as world:
        monkeypatch.setattr(engine_class, "compact", slow_merge)
        await world.until(begun.is_set)
        # Blocks are processed, and clients answered, concurrently.
        await assert_equals_model(world.db, Model(chain), hashXs(maker))
        monkeypatch.setattr(engine_class, "close", noted_close)
        world.task.cancel()
        await world.until(lambda: world.db.utxo_db.compaction_stopped)
        may_end.set()
        await asyncio.wait([world.task])
    assert len(closed) == 2
    assert "compacted tables" not in caplog.text
    monkeypatch.undo()
    caplog.set_level("INFO")
    db = DB(make_env(tmp_path, engine=engine))
    for left in (True, False, False):
        await db.open_for_serving()
        await assert_equals_model(db, Model(chain), hashXs(maker))
        assert db.first_sync is left
        db.close_dbs()
        caplog.clear()
        # There are no more blocks to index.
        async with World(make_env(tmp_path, engine=engine), ScriptedDaemon(chain)) as world:
            await world.until(lambda world=world: world.bp.engine_compaction.done)
        assert ("compacted tables" in caplog.text) is left


async def test_shutting_down_gives_the_engine_compaction_time_to_end(
    tmp_path, engine, caplog, monkeypatch
):
    caplog.set_level("INFO")
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: True)
    monkeypatch.setattr(EngineCompactionTask, "GRACE_SECS", 60)
    begun, may_end = threading.Event(), threading.Event()
    engine_class = db_class(engine)
    compact = engine_class.compact

    def slow_merge(self):
        begun.set()
        assert may_end.wait(120)
        return compact(self)

    monkeypatch.setattr(engine_class, "compact", slow_merge)
    maker = ChainMaker(seed=19)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    env = make_env(tmp_path, engine=engine)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until(begun.is_set)
        world.task.cancel()
        await world.until(lambda: "waiting for the engine to compact tables" in caplog.text)
        may_end.set()
        await asyncio.wait([world.task])
    assert "compacted tables" in caplog.text
    db = DB(env)
    await db.open_for_serving()
    assert not db.first_sync
    await assert_equals_model(db, Model(chain), hashXs(maker))
    db.close_dbs()


async def test_an_interrupted_initial_sync_continues_with_the_same_options(
    tmp_path, engine, indexer, caplog, monkeypatch
):
    caplog.set_level("INFO")
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: True)
    filling = []
    flush_dbs = DB.flush_dbs

    def noted(self, flush_data, *args):
        filling.append((self.utxo_db.bulk_loading, self.history.db.bulk_loading))
        flush_dbs(self, flush_data, *args)

    monkeypatch.setattr(DB, "flush_dbs", noted)

    async def hold(_self=None):
        await asyncio.sleep(3600)

    maker = ChainMaker(seed=18)
    fork = maker.grow(maker.genesis_hash, 20)
    daemon = ScriptedDaemon(maker.chain(fork))
    env = make_env(tmp_path, engine=engine, indexer=indexer)
    async with World(env, daemon) as world:
        world.bp.first_caught_up = hold
        await world.until(lambda: world.bp.height == 20)
    chain = maker.chain(maker.grow(fork, 20))
    daemon.set_chain(chain)
    filling.clear()
    async with World(env, daemon) as world:
        await world.until_at(chain)
        *before_last, last = filling
        assert len(before_last) > 3
        assert set(before_last) == {(True, True)}
        assert last == (False, False)
        await world.until(lambda: "compacted tables" in caplog.text)
        await world.until(lambda: world.bp.engine_compaction.done)
        await assert_equals_model(world.db, Model(chain), hashXs(maker))
    # From now on the store is in use, whatever there is to catch up with.
    chain = maker.chain(maker.grow(double_sha256(chain[-1][:80]), 20))
    daemon.set_chain(chain)
    filling.clear()
    async with World(env, daemon) as world:
        await world.until_at(chain)
    assert set(filling) == {(False, False)}
    assert caplog.text.count("compacted tables") == 1


async def test_an_engine_compaction_that_fails_is_logged_and_not_repeated(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: True)

    def fail(_self):
        raise OSError("no space left")

    monkeypatch.setattr(db_class("leveldb"), "compact", fail)
    maker = ChainMaker(seed=19)
    fork = maker.grow(maker.genesis_hash, 20)
    daemon = ScriptedDaemon(maker.chain(fork))
    env = make_env(tmp_path)
    async with World(env, daemon) as world:
        await world.until(lambda: world.bp.engine_compaction.done)
        assert "could not compact tables" in caplog.text
        chain = maker.chain(maker.extend(fork))
        daemon.set_chain(chain)
        await world.until_at(chain)
    db = DB(env)
    await db.open_for_serving()
    assert not db.first_sync
    db.close_dbs()


async def test_the_initial_sync_compresses_when_tables_are_too_large_to_compact(
    tmp_path, caplog, monkeypatch
):
    require(compiled_indexer.compiled, "the Cython modules were not built")
    caplog.set_level("INFO")
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 1_000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _self: True)
    monkeypatch.setattr(Storage, "COMPACT_BYTES", -1)
    filling = []
    flush_dbs = DB.flush_dbs

    def noted(self, *args):
        filling.append(self.utxo_db.bulk_loading)
        flush_dbs(self, *args)

    monkeypatch.setattr(DB, "flush_dbs", noted)
    maker = ChainMaker(seed=16)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    async with World(make_env(tmp_path), ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
        await world.until(lambda: "compacted tables" in caplog.text)
        await assert_equals_model(world.db, Model(chain), hashXs(maker))
    assert len(filling) > 3
    assert not any(filling)
    assert "compacted tables" in caplog.text


async def test_any_flush_schedule_leaves_the_same_answers(tmp_path):
    maker = ChainMaker(seed=13)
    chain = maker.chain(maker.grow(maker.genesis_hash, 50))
    choose = random.Random(14)
    for n in range(6):
        folder = tmp_path / str(n)
        folder.mkdir()
        env = make_env(folder, indexer=["auto", "python"][n % 2])
        daemon = ScriptedDaemon(chain)
        await daemon.height()
        db = DB(env)
        await db.open_for_sync()
        bp = BlockProcessor(env, db, daemon, None)
        height = -1
        while height < 50:
            count = min(choose.randint(1, 12), 50 - height)
            raws = chain[height + 1 : height + 1 + count]
            bp.state.advance_blocks(bp.parser.parse_blocks(raws, height + 1))
            height += count
            if choose.random() < 0.5:
                await bp.flush_scheduler.flush(choose.random() < 0.5)
        await bp.flush_scheduler.flush(True)
        await assert_equals_model(db, Model(chain), hashXs(maker))
        db.close_dbs()


async def test_the_implementation_may_change_at_any_start(tmp_path):
    maker = ChainMaker(seed=17)
    tip = maker.grow(maker.genesis_hash, 10)
    daemon = ScriptedDaemon(maker.chain(tip))
    for n in range(6):
        env = make_env(tmp_path, indexer=["auto", "python"][n % 2])
        async with World(env, daemon) as world:
            await world.until_at(maker.chain(tip))
            tip = maker.grow(maker.blocks[tip][1] if n % 3 else tip, 3)
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
            await assert_equals_model(world.db, Model(maker.chain(tip)), hashXs(maker))


def test_the_cython_implementation_can_be_demanded_of_the_coins_that_it_serves(tmp_path):
    class OwnScript(COIN):
        NET = "own script rule"

        @classmethod
        def hashX_from_script(cls, script):
            return super().hashX_from_script(script)

    env = make_env(tmp_path, coin=OwnScript, indexer="compiled")
    with pytest.raises(OperatorError, match="INDEXER is compiled"):
        BlockProcessor(env, DB(env), ScriptedDaemon([GENESIS]), None)


async def test_history_flushed_without_utxos_is_deleted_at_the_next_opening(tmp_path):
    maker = ChainMaker(seed=15)
    chain = maker.chain(maker.grow(maker.genesis_hash, 30))
    env = make_env(tmp_path)
    daemon = ScriptedDaemon(chain)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    bp.state.advance_blocks(bp.parser.parse_blocks(chain[:20], 0))
    await bp.flush_scheduler.flush(True)
    bp.state.advance_blocks(bp.parser.parse_blocks(chain[20:], 20))
    await bp.flush_scheduler.flush(False)
    assert db.history.flush_count == 2
    db.close_dbs()  # as a kill would leave it
    async with World(env, daemon) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain), hashXs(maker))


async def test_touched_scripts_are_notified_with_the_block_that_touched_them(tmp_path):
    maker = ChainMaker(seed=16)
    tip = maker.grow(maker.genesis_hash, 5)
    daemon = ScriptedDaemon(maker.chain(tip))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(tip))
        notified = []

        async def notify(height, touched):
            notified.append((height, touched))

        await world.notifications.start(5, notify)
        tip = maker.extend(tip)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))
        await world.notifications.on_mempool(set(), 6)
        txs = COIN.block(maker.blocks[tip][0], 6).transactions
        made = {hashX_of(o.pk_script) for tx, _ in txs for o in tx.outputs if o.value}
        await world.until(lambda: notified[-1][0] == 6)
        assert made <= notified[-1][1]


def test_the_hash_of_the_generated_genesis_header_is_the_coins():
    assert COIN.GENESIS_HASH == double_sha256(GENESIS[:80])[::-1].hex()


async def test_a_node_of_another_chain_ends_the_server_with_one_line(tmp_path):
    other = GENESIS[:76] + b"\1\0\0\0\0"
    world = World(make_env(tmp_path), ScriptedDaemon([other]))
    async with world:
        with pytest.raises(OperatorError, match="genesis") as info:
            await world.until(lambda: False)
    assert "\n" not in str(info.value)


@pytest.fixture
def gated_flush(monkeypatch):
    """Flush each part of the initial sync; the first flush waits for the gate."""
    require(compiled_indexer.compiled, "the Cython modules were not built")
    gate = threading.Event()
    flush_dbs = DB.flush_dbs
    gate.heights = []

    def gated(db, flush_data, flush_utxos, estimate):
        gate.heights.append(flush_data.height)
        if len(gate.heights) == 1:
            assert gate.wait(120)
            if gate.error:
                raise gate.error
        flush_dbs(db, flush_data, flush_utxos, estimate)

    gate.error = None
    due = iter([None, True])
    monkeypatch.setattr(BlockParser, "PARSE_BYTES", 2000)
    monkeypatch.setattr(FlushScheduler, "due", lambda _bp: next(due, None))
    monkeypatch.setattr(DB, "flush_dbs", gated)
    yield gate
    gate.set()


async def test_blocks_are_indexed_while_a_flush_is_written(tmp_path, gated_flush):
    maker = ChainMaker(seed=21)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    async with World(make_env(tmp_path), ScriptedDaemon(chain)) as world:
        # The flush is in a thread of its own, which may begin later than the next part.
        await world.until(lambda: world.bp.height == len(chain) - 1 and gated_flush.heights)
        assert len(gated_flush.heights) == 1
        assert gated_flush.heights[0] < world.bp.height
        assert world.db.db_height == -1
        assert not world.caught_up.is_set()
        gated_flush.set()
        await world.until_at(chain)
        assert len(gated_flush.heights) == 2
        await assert_equals_model(world.db, Model(chain), hashXs(maker))


async def test_after_a_flush_that_failed_beside_indexing_nothing_is_flushed(tmp_path, gated_flush):
    maker = ChainMaker(seed=22)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    gated_flush.error = OSError(28, "No space left on device")
    world = World(make_env(tmp_path), ScriptedDaemon(chain))
    async with world:
        await world.until(lambda: world.bp.height == len(chain) - 1)
        gated_flush.set()
        with pytest.raises(OperatorError, match="No space left"):
            await world.until(lambda: False)
    assert len(gated_flush.heights) == 1
    db = DB(world.env)
    await db.open_for_serving()
    assert db.db_height == -1
    db.close_dbs()


async def test_a_shutdown_waits_for_the_flush_beside_indexing(tmp_path, gated_flush):
    maker = ChainMaker(seed=23)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    world = World(make_env(tmp_path), ScriptedDaemon(chain))
    async with world:
        # The flush is in a thread of its own, which may begin later than the next part.
        await world.until(lambda: world.bp.height == len(chain) - 1 and gated_flush.heights)
        assert len(gated_flush.heights) == 1
        world.task.cancel()
        await asyncio.sleep(0)
        assert not world.task.done()
        gated_flush.set()
        await asyncio.wait([world.task])
    assert gated_flush.heights[0] < gated_flush.heights[-1] == len(chain) - 1
    db = DB(world.env)
    await db.open_for_serving()
    await assert_equals_model(db, Model(chain), hashXs(maker))
    db.close_dbs()
