"""Generated chains in other coins' formats go through the block processor: sync, reorg, queries."""

import asyncio

import pytest

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.server import block_processor
from electrumx.server.block_processor import compiled_indexer, variants
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.block_processor.strategies import (
    AnyOrderStrategy,
    ConvertingStrategy,
    InOrderStrategy,
    NameIndexStrategy,
)
from electrumx.server.block_processor.variants import (
    ConvertingBlockProcessor,
    DecredBlockProcessor,
    LTORBlockProcessor,
    NameIndexBlockProcessor,
)
from electrumx.server.db import DB
from tests.conftest import require
from tests.fakes.chain import GENESIS, ChainMaker, Model, hashX_of
from tests.fakes.format_chain import FORMATS, FormatDaemon, FormatModel
from tests.fakes.formats import NAMES, Decred, Names
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env


def world_of(chain, raw_blocks, tmp_path, **settings):
    env = make_env(tmp_path, coin=chain.coin, **settings)
    return World(env, FormatDaemon(chain, raw_blocks), chain.coin.BLOCK_PROCESSOR)


async def until_at(world, chain, tip):
    await world.until(lambda: world.caught_up.is_set() and world.db.db_tip == tip)


def all_hashXs(*models):
    return sorted({hashX for model in models for hashX in model.history})


@pytest.mark.parametrize("format_class", FORMATS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_chain_is_indexed_reorganised_and_queried(format_class, seed, tmp_path):
    chain = ChainMaker(format=format_class(seed))
    fork = chain.grow(chain.genesis_hash, 7)
    first, second = chain.grow(fork, 4), chain.grow(fork, 6)
    first_model = FormatModel(chain.chain(first), chain.coin)
    second_model = FormatModel(chain.chain(second), chain.coin)
    hashXs = all_hashXs(first_model, second_model)
    async with world_of(chain, chain.chain(first), tmp_path) as world:
        await until_at(world, chain, first)
        await assert_equals_model(world.db, first_model, hashXs)
        world.daemon.set_chain(chain.chain(second))
        await until_at(world, chain, second)
        await assert_equals_model(world.db, second_model, hashXs)
        assert world.bp.height == 13
    # Opened again, it goes on from there.
    third = chain.grow(second, 2)
    third_model = FormatModel(chain.chain(third), chain.coin)
    async with world_of(chain, chain.chain(third), tmp_path) as world:
        await until_at(world, chain, third)
        await assert_equals_model(world.db, third_model, hashXs)


async def test_histories_of_names_are_shortened_when_their_blocks_are_undone(tmp_path):
    chain = ChainMaker(format=Names(5))
    fork = chain.grow(chain.genesis_hash, 3)
    chain.draws.scripts = chain.draws.scripts[-2:]
    with_name = chain.grow(fork, 3)
    chain.draws.scripts = [b"\x51"]
    without = chain.grow(fork, 4)
    index_script = chain.coin.build_name_index_script(NAMES[2])
    name_hashX = Coin.hashX_from_script(index_script)
    async with world_of(chain, chain.chain(with_name), tmp_path) as world:
        await until_at(world, chain, with_name)
        history = await world.db.limited_history(name_hashX)
        assert {4, 5, 6} == {height for _tx_hash, height in history} & {4, 5, 6}
        assert [] == await world.db.all_utxos(name_hashX)
        world.bp.state.touched.clear()
        notified = []
        world.bp.notifications.on_block = lambda touched, height: record(notified, touched)
        world.daemon.set_chain(chain.chain(without))
        await until_at(world, chain, without)
        history = await world.db.limited_history(name_hashX)
        assert [] == [height for _tx_hash, height in history if height > 3]
        await world.until(lambda: notified)
        assert name_hashX in set().union(*notified)


async def record(notified, touched):
    notified.append(touched)


async def test_decred_undoes_one_block_more_than_differs(tmp_path):
    chain = ChainMaker(format=Decred(3))
    tip = chain.grow(chain.genesis_hash, 6)
    async with world_of(chain, chain.chain(tip), tmp_path) as world:
        await until_at(world, chain, tip)
        assert (3, 4) == await world.bp.calc_reorg_range(3)
        assert (1, 6) == await world.bp.calc_reorg_range(6)
        assert (0) == (await world.bp.calc_reorg_range(0))[1]
        assert await world.bp.force_chain_reorg(2)
        await asyncio.wait_for(world.bp.backed_up_event.wait(), 120)
        await until_at(world, chain, tip)
        model = FormatModel(chain.chain(tip), chain.coin)
        await assert_equals_model(world.db, model, all_hashXs(model))


async def test_decred_refuses_to_undo_as_many_blocks_as_it_just_could_not(tmp_path):
    chain = ChainMaker(format=Decred(4))
    tip = chain.grow(chain.genesis_hash, 8)
    async with world_of(chain, chain.chain(tip), tmp_path, reorg_limit=4) as world:
        await until_at(world, chain, tip)
        with pytest.raises(ValueError, match="no undo information"):
            await world.bp.force_chain_reorg(4)
        assert await world.bp.force_chain_reorg(3)
        await asyncio.wait_for(world.bp.backed_up_event.wait(), 120)
        await until_at(world, chain, tip)


async def test_a_processor_of_a_third_party_may_replace_the_steps_by_their_documented_arguments(
    tmp_path,
):
    calls = []

    class OwnProcessor(BlockProcessor):
        def advance_txs(self, txs, is_unspendable):
            calls.append(("advance", len(txs)))
            return super().advance_txs(txs, is_unspendable)

        def backup_txs(self, txs, undo_info, is_unspendable):
            calls.append(("undo", len(txs)))
            return super().backup_txs(txs, undo_info, is_unspendable)

        async def calc_reorg_range(self, count):
            calls.append(("range", count))
            return await super().calc_reorg_range(count)

    maker = ChainMaker(seed=3)
    fork = maker.grow(maker.genesis_hash, 6)
    daemon = ScriptedDaemon(maker.chain(maker.grow(fork, 2)))
    async with World(make_env(tmp_path), daemon, OwnProcessor) as world:
        await world.until_at(daemon.raw)
        assert [name for name, _count in calls] == ["advance"] * 9
        calls.clear()
        daemon.set_chain(maker.chain(maker.grow(fork, 3)))
        await world.until_at(daemon.raw)
        names = [name for name, _count in calls]
        assert names == ["range", "undo", "undo", "advance", "advance", "advance"]
        hashXs = [hashX_of(script) for script in maker.draws.scripts]
        await assert_equals_model(world.db, Model(daemon.raw), hashXs)


def test_a_processor_that_replaces_a_step_is_indexed_in_pure_python(tmp_path):
    class Replaced(BlockProcessor):
        def backup_txs(self, txs, undo_info, is_unspendable):
            return super().backup_txs(txs, undo_info, is_unspendable)

    class Ranged(BlockProcessor):
        async def calc_reorg_range(self, count):
            return await super().calc_reorg_range(count)

    require(compiled_indexer.compiled, "the Cython modules were not built")
    env, daemon = make_env(tmp_path), ScriptedDaemon([GENESIS])
    processors = {
        cls: cls(env, DB(env), daemon, None) for cls in (BlockProcessor, Replaced, Ranged)
    }

    assert processors[BlockProcessor].state.compiled
    assert not processors[Replaced].state.compiled
    assert processors[Ranged].state.compiled
    with pytest.raises(OperatorError, match="INDEXER is compiled"):
        Replaced(make_env(tmp_path, indexer="compiled"), DB(env), daemon, None)


def test_processors_of_coins_name_their_strategies(tmp_path):
    env, daemon = make_env(tmp_path), ScriptedDaemon([GENESIS])
    names_env = make_env(tmp_path, coin=Coin.lookup_coin_class("Namecoin", "mainnet"))
    strategies = [
        cls(chosen, DB(chosen), daemon, None).strategy
        for cls, chosen in (
            (BlockProcessor, env),
            (LTORBlockProcessor, env),
            (ConvertingBlockProcessor, env),
            (DecredBlockProcessor, env),
            (NameIndexBlockProcessor, names_env),
        )
    ]

    assert [type(strategy) for strategy in strategies] == [
        InOrderStrategy,
        AnyOrderStrategy,
        ConvertingStrategy,
        ConvertingStrategy,
        NameIndexStrategy,
    ]
    assert [strategy.reorg_margin for strategy in strategies] == [0, 0, 0, 1, 0]


def test_the_package_exports_the_processors_by_their_public_names():
    for name in ("DecredBlockProcessor", "LTORBlockProcessor", "NameIndexBlockProcessor"):
        assert getattr(block_processor, name) is getattr(variants, name)


def test_coins_name_their_processors():
    expected = {
        "Namecoin": NameIndexBlockProcessor,
        "Xaya": NameIndexBlockProcessor,
        "Decred": DecredBlockProcessor,
        "TokenPay": ConvertingBlockProcessor,
        "Zcash": BlockProcessor,
        "Emercoin": BlockProcessor,
    }
    for name, processor in expected.items():
        assert processor is Coin.lookup_coin_class(name, "mainnet").BLOCK_PROCESSOR
