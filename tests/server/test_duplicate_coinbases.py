"""A coinbase that there was before overwrites what is unspent of it, as in Bitcoin Core."""

import asyncio
import logging

import pytest

from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.block_processor import indexer as indexer_module
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB
from electrumx.server.maintenance.verify import verify
from tests.fakes.chain import COIN, MINUS_1, NULL, ChainMaker, Model, hashX_of, make_block
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

A, B = b"\x51\x01", b"\x51\x02"
LOGGER = logging.getLogger("audit")


def coinbase(tag, outputs):
    return Tx(1, [TxInput(NULL, MINUS_1, tag, 0)], outputs, 0)


TWICE = coinbase(b"twice", [TxOutput(30, A), TxOutput(20, A), TxOutput(0, b"\x6a"), TxOutput(5, B)])


def chain_of(*lists_of_txs):
    """The genesis block, and a block for each list of transactions."""
    raws = ChainMaker().chain(ChainMaker().genesis_hash)
    for nonce, txs in enumerate(lists_of_txs):
        raws.append(make_block(COIN.header_hash(raws[-1][:80]), txs, nonce))
    return raws


def spending(tx, idx, script):
    tx_hash = COIN.DESERIALIZER(tx.serialize()).read_tx_and_hash()[1]
    return Tx(1, [TxInput(tx_hash, idx, b"", 0)], [TxOutput(tx.outputs[idx].value, script)], 0)


def other(n):
    return coinbase(b"other%d" % n, [TxOutput(50, B)])


#: the same coinbase at heights 1 and 4; before 4 one of its outputs may be spent, and after it
CHAINS = {
    "all unspent": chain_of([TWICE], [other(2)], [other(3)], [TWICE], [other(5)]),
    "one spent before": chain_of(
        [TWICE], [other(2), spending(TWICE, 0, B)], [other(3)], [TWICE], [other(5)]
    ),
    "all spent before": chain_of(
        [TWICE],
        [other(2), *[spending(TWICE, n, B) for n in (0, 1, 3)]],
        [other(3)],
        [TWICE],
        [other(5)],
    ),
    "one spent in its block": chain_of(
        [TWICE], [other(2)], [other(3)], [TWICE, spending(TWICE, 1, B)], [other(5)]
    ),
    "three times": chain_of([TWICE], [other(2)], [TWICE], [TWICE], [other(5)]),
}


async def make_database(env, chain, flush_heights, processor=BlockProcessor):
    """Index a chain, flushing after those heights and at the end; return the open processor."""
    daemon = ScriptedDaemon(chain)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = processor(env, db, daemon, None)
    for height, raw in enumerate(chain):
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        if height in flush_heights:
            await bp.flush_scheduler.flush(True)
    await bp.flush_scheduler.flush(True)
    db.write_caught_up()
    return bp


def rows_of(db):
    return [row for row in db.utxo_db.iterator() if row[0][:1] in b"uhU"]


async def assert_sound(db):
    verdict = await verify(db, deep=True, lock=asyncio.Lock(), daemon=None, logger=LOGGER)
    assert verdict.sound, verdict.lines


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
async def test_a_database_is_the_same_wherever_flushes_fall(tmp_path, engine, indexer, chain):
    found = []
    for number, heights in enumerate([(), (1,), (2,), (3,), (1, 2, 3, 4)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = make_env(folder, engine=engine, indexer=indexer)
        bp = await make_database(env, chain, heights)
        await assert_equals_model(bp.db, Model(chain), [hashX_of(A), hashX_of(B)])
        await assert_sound(bp.db)
        found.append(rows_of(bp.db))
        bp.db.close_dbs()
    assert all(rows == found[0] for rows in found)


async def test_the_history_of_a_script_lists_both(tmp_path, indexer):
    chain = CHAINS["all unspent"]
    bp = await make_database(make_env(tmp_path, indexer=indexer), chain, (2,))
    history = await bp.db.limited_history(hashX_of(A))
    assert [height for _hash, height in history] == [1, 4]
    assert {4} == {utxo.height for utxo in await bp.db.all_utxos(hashX_of(A))}
    bp.db.close_dbs()


@pytest.mark.parametrize("flush_heights", [(), (2,), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
async def test_undoing_the_later_block_brings_back_what_it_overwrote(
    tmp_path, engine, indexer, order, chain, flush_heights
):
    processor, coin, _ltor = order
    env = make_env(tmp_path, engine=engine, coin=coin, indexer=indexer)
    bp = await make_database(env, chain, flush_heights, processor)
    for height in range(len(chain) - 1, 0, -1):
        bp.state.undo_and_flush([coin.block(chain[height], height)])
        await assert_equals_model(bp.db, Model(chain[:height], coin), [hashX_of(A), hashX_of(B)])
        if height > 1:
            await assert_sound(bp.db)
    bp.db.close_dbs()


async def test_chains_with_duplicates_are_followed_through_reorganisations(
    tmp_path, indexer, order
):
    processor, coin, ltor = order
    maker = ChainMaker(seed=8, scripts=5, ltor=ltor, duplicates=0.5)
    scripts = [hashX_of(script) for script in maker.draws.scripts]
    tip = maker.grow(maker.genesis_hash, 30)
    env = make_env(tmp_path, coin=coin, indexer=indexer, reorg_limit=20)
    daemon = ScriptedDaemon(maker.chain(tip))
    async with World(env, daemon, processor) as world:
        for depth in (0, 1, 7, 15):
            chain = maker.chain(tip)[: 31 + depth]
            tip = maker.grow(coin.header_hash(chain[-1 - depth][:80]), depth + 2)
            chain = maker.chain(tip)
            daemon.set_chain(chain)
            await world.until_at(chain)
            await assert_equals_model(world.db, Model(chain, coin), scripts)
        await assert_sound(world.db)


async def test_undoing_a_block_of_another_servers_database_leaves_the_earlier_coins(
    tmp_path, engine, monkeypatch
):
    chain = CHAINS["all unspent"]
    env = make_env(tmp_path, engine=engine, indexer="python")
    # Flushed in between, both remain there.
    with monkeypatch.context() as patch:
        patch.setattr(indexer_module, "_overwrite", lambda *_args: [])
        bp = await make_database(env, chain, (1, 2, 3, 4))
    for height in (5, 4):
        bp.state.undo_and_flush([COIN.block(chain[height], height)])
    await assert_equals_model(bp.db, Model(chain[:4]), [hashX_of(A), hashX_of(B)])
    await assert_sound(bp.db)
    bp.db.close_dbs()
