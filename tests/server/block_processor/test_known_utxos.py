"""UTXOs that are on disk stay known at the tip, so that blocks look few of them up."""

import asyncio
import random
import threading

import pytest

from electrumx.lib.coins import BitcoinCashRegtest
from electrumx.server.block_processor import compiled_indexer, warm_up
from electrumx.server.block_processor.cache_policy import MOST_KNOWN_BYTES, known_bytes_to_keep
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.block_processor.variants import LTORBlockProcessor
from electrumx.server.block_processor.warm_up import WarmUp
from electrumx.server.db import DBError
from tests.conftest import require
from tests.fakes.chain import COIN, ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env


@pytest.fixture(autouse=True)
def _built(monkeypatch):
    require(compiled_indexer.compiled, "the Cython modules were not built")
    monkeypatch.setattr(WarmUp, "PAUSE_SECS", 0)


@pytest.fixture
def chain():
    maker = ChainMaker(seed=11, scripts=9)
    return maker, maker.chain(maker.grow(maker.genesis_hash, 60))


def looked_up_by(world, monkeypatch):
    """Return a list that gets the number of outpoints spent of each look-up from now on."""
    counts = []
    find = world.bp.state.compiled.lookup

    def counted(outpoints, spent=(), *, exact=False):
        if not exact:
            counts.append(len(outpoints))
        return find(outpoints, spent, exact=exact)

    monkeypatch.setattr(world.bp.state.compiled, "lookup", counted)
    return counts


async def test_utxos_survive_the_flush_of_each_block(tmp_path, chain, monkeypatch):
    maker, raws = chain
    daemon = ScriptedDaemon(raws[:31])
    async with World(make_env(tmp_path, reorg_limit=5), daemon) as world:
        await world.until_at(raws[:31])
        counts = looked_up_by(world, monkeypatch)
        for height in range(31, 61):
            daemon.set_chain(raws[: height + 1])
            await world.until_at(raws[: height + 1])
        # The sync from nothing knew everything, and so do blocks after it.
        assert sum(counts) == 0
        await assert_equals_model(world.db, Model(raws), [hashX_of(s) for s in maker.draws.scripts])


async def test_the_memory_of_the_blocks_is_given_back(tmp_path, chain, monkeypatch):
    _maker, raws = chain
    given_back = []

    def give_back():
        given_back.append(threading.current_thread() is threading.main_thread())

    env = make_env(tmp_path, reorg_limit=30)
    async with World(env, ScriptedDaemon(raws)) as world:
        await world.until_at(raws)
    monkeypatch.setattr(warm_up, "give_back_freed_memory", give_back)
    async with World(env, ScriptedDaemon(raws)) as world:
        await world.until(lambda: world.bp.warm_up.done)
        # Not on the event loop
        assert given_back == [False]


async def test_memory_is_not_given_back_again_after_a_reorg_nor_if_all_was_kept(
    tmp_path, monkeypatch
):
    given_back = []
    monkeypatch.setattr(warm_up, "give_back_freed_memory", lambda: given_back.append(None))
    maker = ChainMaker(seed=13, scripts=9)
    tip = maker.grow(maker.genesis_hash, 40)
    fork = maker.blocks[tip][1]
    for number, serve_always in enumerate((False, True)):
        daemon = ScriptedDaemon(maker.chain(tip))
        env = make_env(tmp_path / str(number), reorg_limit=20, serve_always=serve_always)
        async with World(env, daemon) as world:
            await world.until(lambda: world.bp.warm_up.done)
            daemon.set_chain(maker.chain(maker.grow(fork, 9)))
            await world.until(lambda: world.bp.warm_up.done >= 2)
        # By the first server, once
        assert given_back == [None]


async def test_after_a_start_clients_come_first(tmp_path, chain, monkeypatch):
    _maker, raws = chain
    monkeypatch.setattr(WarmUp, "PAUSE_SECS", 3600)
    daemon = ScriptedDaemon(raws[:51])
    async with World(make_env(tmp_path, reorg_limit=30), daemon) as world:
        await world.until_at(raws[:51])
        daemon.set_chain(raws)
        await world.until_at(raws)
        assert world.bp.warm_up.done == 0


async def test_after_a_start_the_utxos_of_the_blocks_on_disk_are_known(
    tmp_path, chain, monkeypatch, engine
):
    maker, raws = chain
    env = make_env(tmp_path, engine=engine, reorg_limit=30)
    async with World(env, ScriptedDaemon(raws[:51])) as world:
        await world.until_at(raws[:51])
    daemon = ScriptedDaemon(raws[:51])
    sums = []
    for warm in (False, True):
        async with World(env, daemon) as world:
            if not warm:
                monkeypatch.setattr(world.bp.warm_up, "_warm", lambda backups: asyncio.sleep(0))
            counts = looked_up_by(world, monkeypatch)
            await world.until_at(daemon.raw)
            if warm:
                await world.until(lambda: world.bp.warm_up.done)
            for _ in range(5):
                daemon.set_chain(raws[: len(daemon.raw) + 1])
                await world.until_at(daemon.raw)
            sums.append(sum(counts))
            model = Model(daemon.raw)
            await assert_equals_model(world.db, model, [hashX_of(s) for s in maker.draws.scripts])
    assert sums[1] < 0.4 * sums[0]


@pytest.mark.parametrize("ltor", [False, True])
async def test_a_reorg_forgets_them_and_learns_those_of_the_new_branch(tmp_path, ltor):
    maker = ChainMaker(seed=12, scripts=9, ltor=ltor)
    coin, processor = (BitcoinCashRegtest, LTORBlockProcessor) if ltor else (COIN, BlockProcessor)
    choose = random.Random(5)
    tip = maker.grow(maker.genesis_hash, 40)
    daemon = ScriptedDaemon(maker.chain(tip))
    env = make_env(tmp_path, coin=coin, reorg_limit=20)
    async with World(env, daemon, processor) as world:
        await world.until_at(daemon.raw)
        for turn in range(8):
            if turn % 2:
                await world.until(lambda: not world.bp.state.lock.locked())
            fork = tip
            for _ in range(choose.randint(1, 9)):
                fork = maker.blocks[fork][1]
            tip = maker.grow(fork, choose.randint(9, 12))
            daemon.set_chain(maker.chain(tip))
            await world.until_at(daemon.raw)
            await assert_equals_model(
                world.db, Model(daemon.raw, coin), [hashX_of(s) for s in maker.draws.scripts]
            )
        await world.until(lambda: world.bp.warm_up.done >= 2)


async def test_what_is_known_has_a_bound(tmp_path, chain):
    _maker, raws = chain
    daemon = ScriptedDaemon(raws[:31])
    async with World(make_env(tmp_path), daemon) as world:
        world.bp.state.known_bytes = bound = 72 * 20
        await world.until_at(raws[:31])
        for height in range(31, 61):
            daemon.set_chain(raws[: height + 1])
            await world.until_at(raws[: height + 1])
            index = world.bp.state.compiled.index
            # The flush is visible just before the oldest are dropped.
            await world.until(lambda index=index: index.written_bytes <= bound)
            assert index.new_utxos == index.delete_count == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ltor", [False, True])
def test_the_utxos_of_recent_blocks_are_those_of_the_chain(seed, ltor):
    coin = BitcoinCashRegtest if ltor else COIN
    maker = ChainMaker(seed=seed, scripts=9, ltor=ltor, duplicates=0.1)
    raws = maker.chain(maker.grow(maker.genesis_hash, 40))
    index = CompiledIndex.for_coin(coin, ltor, lambda outpoints, *_, exact: [None] * len(outpoints))
    first = random.Random(seed).randrange(30)
    ends = [0]
    for hashes in Model(raws, coin).tx_hashes:
        ends.append(ends[-1] + len(hashes))
    recent = index.recent()
    for height in range(first, len(raws)):
        recent.note(index.parse(raws[height], height), ends[height], height, 1 << 30)
    index.adopt(recent)
    whole = {}

    # The same by the ordinary steps, of which the UTXOs made from ``first`` on are compared.
    other = CompiledIndex.for_coin(coin, ltor, lambda outpoints, *_, exact: [None] * len(outpoints))
    for height, raw in enumerate(raws):
        block = other.parse(raw, height)
        other.prepare([block])
        other.advance(block, ends[height], height)
    other.adds.put_rows(whole.__setitem__)
    expected = {
        key: value
        for key, value in whole.items()
        if int.from_bytes(key[-5:], "little") >= ends[first]
    }
    assert index.index.utxo_count * 2 == len(expected)
    # All are found, and none is looked up.
    outpoints = {tx_hash + idx.to_bytes(4, "little") for tx_hash, idx in Model(raws, coin).unspent}
    assert len(outpoints) * 2 == len(whole)


def test_a_row_that_is_deleted_and_written_again_is_not_taken_for_spent():
    maker = ChainMaker(seed=3, scripts=4)
    raws = maker.chain(maker.grow(maker.genesis_hash, 30))
    index = CompiledIndex.for_coin(
        COIN, False, lambda outpoints, *_, exact: [None] * len(outpoints)
    )
    rows = {}
    tx_num = 0
    deleted = []
    for height, raw in enumerate(raws):
        block = index.parse(raw, height)
        index.prepare([block])
        index.advance(block, tx_num, height)
        tx_num += block.tx_count
        index.freeze(True)
        fresh = []
        index.deletes.delete_rows(fresh.append)
        # While they wait to be deleted they are spent, afterwards they are gone.
        assert all((key in index.index) is (key[:1] == b"h") for key in fresh)
        index.adds.put_rows(rows.__setitem__)
        index.adds.clear()
        index.clear_history()
        assert not any(key in index.index for key in [*deleted, *fresh])
        deleted += fresh
    assert len(deleted) > 40


def test_the_share_of_the_cache_is_bounded():
    assert known_bytes_to_keep(80_000_000) == 16_000_000
    assert known_bytes_to_keep(1 << 40) == MOST_KNOWN_BYTES


async def test_a_block_that_is_not_flushed_yet_only_delays_it(tmp_path, chain, monkeypatch):
    maker, raws = chain
    env = make_env(tmp_path, reorg_limit=30)
    async with World(env, ScriptedDaemon(raws[:51])) as world:
        await world.until_at(raws[:51])
    daemon = ScriptedDaemon(raws[:51])
    async with World(env, daemon) as world:
        # The last step comes between the indexing of a block and its flush.
        due, indexed, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
        warm_up, scheduler = world.bp.warm_up, world.bp.flush_scheduler
        adopt, flush_if_due = warm_up.adopt, scheduler.flush_if_due
        loop = asyncio.get_running_loop()
        outcomes = []

        async def run_locked(func, *args, run=scheduler.run_locked):
            if func is noted and not due.is_set():
                due.set()
                daemon.set_chain(raws[:52])
                await indexed.wait()
            return await run(func, *args)

        def noted(*args):
            outcomes.append(adopt(*args))
            loop.call_soon_threadsafe(tried.set)
            return outcomes[-1]

        async def flush_late():
            if due.is_set():
                indexed.set()
                await tried.wait()
            await flush_if_due()

        monkeypatch.setattr(warm_up, "adopt", noted)
        monkeypatch.setattr(scheduler, "run_locked", run_locked)
        monkeypatch.setattr(scheduler, "flush_if_due", flush_late)
        await world.until(lambda: warm_up.done)
        assert outcomes[0] is False
        assert outcomes[-1] is True
        await world.until_at(daemon.raw)
        await assert_equals_model(
            world.db, Model(raws[:52]), [hashX_of(s) for s in maker.draws.scripts]
        )


@pytest.mark.parametrize("error", [OSError("no descriptor"), DBError("too short")])
async def test_headers_that_cannot_be_read_cost_no_more_than_the_utxos(
    tmp_path, chain, monkeypatch, error
):
    _maker, raws = chain
    env = make_env(tmp_path, reorg_limit=30)
    async with World(env, ScriptedDaemon(raws[:51])) as world:
        await world.until_at(raws[:51])
    async with World(env, ScriptedDaemon(raws[:51])) as world:
        note = world.bp.state.note_recent

        def failing(*args):
            def read_headers(_height, _count):
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(world.db.files, "read_headers", read_headers)
                note(*args)

        monkeypatch.setattr(world.bp.state, "note_recent", failing)
        await world.until(lambda: world.bp.warm_up.done)
        assert world.bp.state.compiled.index.utxo_count == 0


async def test_blocks_that_are_undone_while_they_are_read_are_not_known(tmp_path, chain):
    """A reorg in the midst of it: their raw bytes and headers are still there to be read."""
    _maker, raws = chain
    async with World(make_env(tmp_path, reorg_limit=30), ScriptedDaemon(raws[:51])) as world:
        await world.until_at(raws[:51])
        db = world.db
        recent = world.bp.state.compiled.recent()
        counts = db.tx_counts[:]
        del db.tx_counts[45:]
        try:
            world.bp.state.note_recent(recent, 40, 50)
        finally:
            db.tx_counts[:] = counts
        world.bp.state.note_recent(recent, 50, 50)
        assert recent.index.utxo_count > 0
