"""Advancing and undoing are inverses, whatever the blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.script import is_unspendable_legacy
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.utxo_cache import UTXOCache
from tests.fakes.chain import COIN, ChainMaker

ORDERS = {
    False: (indexer.advance_txs, indexer.undo_txs),
    True: (indexer.advance_txs_any_order, indexer.undo_txs_any_order),
}


def no_utxo_on_disk(_tx_hash, _idx, _spent, exact=False):
    return None


@given(
    seed=st.integers(0, 10**9),
    blocks=st.integers(1, 8),
    ltor=st.booleans(),
    duplicates=st.sampled_from([0.0, 0.5]),
)
def test_undoing_all_blocks_restores_each_earlier_state(seed, blocks, ltor, duplicates):
    maker = ChainMaker(seed=seed, scripts=4, ltor=ltor, duplicates=duplicates)
    advance, backup = ORDERS[ltor]
    chain = maker.chain(maker.grow(maker.genesis_hash, blocks))
    cache = UTXOCache(no_utxo_on_disk)
    parsed = [COIN.block(raw, height).transactions for height, raw in enumerate(chain)]
    states, undos, touches = [], [], []
    tx_num = 0
    for txs in parsed:
        states.append(dict(cache.adds))
        undo, hashXs = advance(txs, tx_num, cache, COIN.hashX_from_script, is_unspendable_legacy)
        undos.append(undo)
        touches.append(set().union(*hashXs))
        tx_num += len(txs)
    for txs in reversed(parsed):
        touched = backup(txs, undos.pop(), cache, is_unspendable_legacy)
        # A block's outputs that it spent itself are met on the way back, too.
        assert touches.pop() <= touched
        assert states.pop() == cache.adds


@given(seed=st.integers(0, 10**9))
def test_a_topologically_ordered_block_is_indexed_alike_in_any_order(seed):
    maker = ChainMaker(seed=seed, scripts=4)
    chain = maker.chain(maker.grow(maker.genesis_hash, 5))
    results = []
    for advance, _backup in ORDERS.values():
        cache = UTXOCache(no_utxo_on_disk)
        answers = []
        for height, raw in enumerate(chain):
            txs = COIN.block(raw, height).transactions
            answers.append(
                advance(txs, height * 100, cache, COIN.hashX_from_script, is_unspendable_legacy)
            )
        results.append((answers, cache.adds))
    assert results[0] == results[1]


def test_spending_what_does_not_exist_is_a_chain_error():
    cache = UTXOCache(no_utxo_on_disk)
    with pytest.raises(ChainError, match='not found in "h" table'):
        cache.spend(b"\1" * 32, 7)


def test_undo_items_that_do_not_fit_the_block_are_a_chain_error():
    maker = ChainMaker(seed=1)
    tip = maker.grow(maker.genesis_hash, 3)
    txs = COIN.block(maker.blocks[tip][0], 3).transactions
    for undo in ([b"x" * 24] * 100, []):
        cache = UTXOCache(no_utxo_on_disk)
        for height, raw in enumerate(maker.chain(tip)):
            block = COIN.block(raw, height).transactions
            indexer.advance_txs(block, height, cache, COIN.hashX_from_script, is_unspendable_legacy)
        spends = any(txin.prev_idx != 0xFFFFFFFF for tx, _ in txs for txin in tx.inputs)
        assert spends
        before = dict(cache.adds)
        for undo_txs in (indexer.undo_txs, indexer.undo_txs_any_order):
            with pytest.raises(ChainError, match="do not fit"):
                undo_txs(txs, list(undo), cache, is_unspendable_legacy)
            assert cache.adds == before
