"""Outputs with tokens (Bitcoin Cash) are indexed under their locking scripts."""

import ast
import logging
import re

import pytest

from electrumx.lib.coins import (
    BitcoinCash,
    BitcoinCashRegtest,
    BitcoinCashTestnet,
    BitcoinSegwit,
    BitcoinSV,
)
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.block_processor import compiled_indexer as fast_index
from electrumx.server.block_processor.variants import LTORBlockProcessor
from electrumx.server.db import DB
from electrumx.server.mempool.acceptance import CandidateParser
from tests.conftest import require
from tests.fakes.chain import MINUS_1, NULL, ChainMaker, Model, hashX_of, make_block
from tests.fakes.draws import TOKEN_PREFIXES
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env

P2PKH = bytes.fromhex("76a914") + b"\x07" * 20 + bytes.fromhex("88ac")
#: the worked example: 100 fungible tokens of category 00…
PREFIX = b"\xef" + bytes(32) + b"\x10\x64"


class LateTokens(BitcoinCashRegtest):
    """Tokens from height 30 on."""

    NET = "late"
    TOKENS_ACTIVATION = 30


def token_chain(seed, count):
    maker = ChainMaker(seed=seed, scripts=5, ltor=True, tokens=True)
    return maker, maker.grow(maker.genesis_hash, count)


def scripts_of(maker):
    """All scripts that the index may have, with and without what they begin with."""
    return [
        hashX_of(prefix + script)
        for prefix in maker.draws.prefixes
        for script in maker.draws.scripts
    ]


def state_of(db):
    return ast.literal_eval(db.utxo_db.get(b"state").decode())


def test_the_activation_is_that_of_the_network():
    assert BitcoinCash.TOKENS_ACTIVATION == 792_773
    assert BitcoinCashTestnet.TOKENS_ACTIVATION == BitcoinCashRegtest.TOKENS_ACTIVATION == 0
    for coin in (BitcoinSegwit, BitcoinSV):
        assert coin.TOKENS_ACTIVATION > 10_000_000
        assert coin.hashX_from_script(PREFIX + P2PKH) == hashX_of(PREFIX + P2PKH)
    assert BitcoinCash.hashX_from_script(PREFIX + P2PKH) == hashX_of(P2PKH)


async def test_three_outputs_of_a_script_are_in_its_history_whatever_tokens_they_hold(
    tmp_path, engine, indexer
):
    maker = ChainMaker(seed=1)
    txs = [
        Tx(1, [TxInput(NULL, MINUS_1, bytes([n]), 0)], [TxOutput(50 + n, prefix + P2PKH)], 0)
        for n, prefix in enumerate([b"", PREFIX, TOKEN_PREFIXES[1]])
    ]
    chain = maker.chain(maker.genesis_hash)
    for n, tx in enumerate(txs):
        prev = BitcoinCashRegtest.header_hash(chain[-1][:80])
        chain.append(make_block(prev, [tx], n))
    env = make_env(tmp_path, engine=engine, coin=BitcoinCashRegtest, indexer=indexer)
    async with World(env, ScriptedDaemon(chain), LTORBlockProcessor) as world:
        await world.until_at(chain)
        history = await world.db.limited_history(hashX_of(P2PKH))
        assert [height for _hash, height in history] == [1, 2, 3]
        assert [50, 51, 52] == sorted(
            utxo.value for utxo in await world.db.all_utxos(hashX_of(P2PKH))
        )
        assert await world.db.limited_history(hashX_of(PREFIX + P2PKH)) == []


@pytest.mark.parametrize("coin", [BitcoinCashRegtest, LateTokens], ids=lambda coin: coin.NET)
async def test_a_chain_with_tokens_is_indexed_and_reorganised(tmp_path, engine, indexer, coin):
    maker, tip = token_chain(3, 45)
    chain = maker.chain(tip)
    env = make_env(tmp_path, engine=engine, coin=coin, indexer=indexer, reorg_limit=30)
    daemon = ScriptedDaemon(chain)
    async with World(env, daemon, LTORBlockProcessor) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain, coin), scripts_of(maker))
        other = chain[:25] + maker.chain(maker.grow(coin.header_hash(chain[24][:80]), 25))[25:]
        daemon.set_chain(other)
        await world.until_at(other)
        await assert_equals_model(world.db, Model(other, coin), scripts_of(maker))
        assert state_of(world.db)["tokens_from"] == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_an_unconfirmed_output_with_tokens_pays_to_its_locking_script(compiled):
    if compiled:
        require(fast_index.compiled, "the compiled form of indexing was not built")
    outputs = [TxOutput(7, PREFIX + P2PKH), TxOutput(8, b"\xef" + P2PKH)]
    raw = Tx(2, [TxInput(b"\1" * 32, 0, b"", 0)], outputs, 0).serialize()
    parser = CandidateParser(BitcoinCashRegtest, compiled=compiled)
    candidates, _prevouts = parser.parse([b"\2" * 32], [raw], ())
    [candidate] = candidates.txs.values()
    assert candidate.out_pairs == ((hashX_of(P2PKH), 7), (hashX_of(b"\xef" + P2PKH), 8))


async def index_as_another_server(env, chain):
    """Leave a database that a server without tokens has written."""
    env.coin = type("NoTokens", (LateTokens,), {"NET": "none", "TOKENS_ACTIVATION": 10**8})
    async with World(env, ScriptedDaemon(chain), LTORBlockProcessor) as world:
        await world.until_at(chain)
        # Extra keys of the state row are dropped by servers that do not know them.
        assert "tokens_from" not in state_of(world.db)
    env.coin = LateTokens


async def test_a_database_indexed_without_tokens_is_used_and_named(
    tmp_path, indexer, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("electrumx"), "propagate", True)
    maker, tip = token_chain(4, 40)
    chain = maker.chain(tip)
    env = make_env(tmp_path, coin=LateTokens, indexer=indexer, reorg_limit=30)
    await index_as_another_server(env, chain)
    longer = maker.chain(maker.grow(tip, 5))
    for _start in range(2):
        caplog.clear()
        daemon = ScriptedDaemon(longer)
        async with World(env, daemon, LTORBlockProcessor) as world:
            await world.until_at(longer)
            assert state_of(world.db)["tokens_from"] == 41
            warnings = [r.getMessage() for r in caplog.records if "tokens" in r.getMessage()]
            assert len(warnings) == 1
            assert re.search(r"blocks 30 to 40 .* empty .* to synchronise again", warnings[0])
    # Blocks of both kinds are undone, and indexed again, as they were the first time.
    mixed = type("Mixed", (LateTokens,), {"NET": "mixed", "TOKENS_ACTIVATION": 41})
    async with World(env, daemon, LTORBlockProcessor) as world:
        await world.until_at(longer)
        await assert_equals_model(world.db, Model(longer, mixed), scripts_of(maker))
        other = (
            longer[:36] + maker.chain(maker.grow(LateTokens.header_hash(longer[35][:80]), 12))[36:]
        )
        daemon.set_chain(other)
        await world.until_at(other)
        await assert_equals_model(world.db, Model(other, mixed), scripts_of(maker))


async def test_a_database_that_ends_before_the_activation_is_as_good_as_a_new_one(
    tmp_path, indexer, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("electrumx"), "propagate", True)
    maker, tip = token_chain(5, 29)
    env = make_env(tmp_path, coin=LateTokens, indexer=indexer)
    await index_as_another_server(env, maker.chain(tip))
    chain = maker.chain(maker.grow(tip, 5))
    async with World(env, ScriptedDaemon(chain), LTORBlockProcessor) as world:
        await world.until_at(chain)
        await assert_equals_model(world.db, Model(chain, LateTokens), scripts_of(maker))
    assert not [r for r in caplog.records if "tokens" in r.getMessage()]


async def test_other_coins_have_no_such_key_in_their_state(tmp_path):
    maker = ChainMaker(seed=6)
    chain = maker.chain(maker.grow(maker.genesis_hash, 3))
    env = make_env(tmp_path)
    async with World(env, ScriptedDaemon(chain)) as world:
        await world.until_at(chain)
    db = DB(env)
    await db.open_for_serving()
    assert "tokens_from" not in state_of(db)
    db.close_dbs()
