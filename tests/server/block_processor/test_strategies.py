"""Each indexing strategy computes what a block's transactions change."""

from types import SimpleNamespace

import pytest

from electrumx.lib.script import is_unspendable_legacy
from electrumx.lib.tx import MINUS_1, ZERO, Tx, TxInput, TxOutput
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.strategies import (
    AnyOrderStrategy,
    ConvertingStrategy,
    InOrderStrategy,
    NameIndexStrategy,
    bitcoin_tx,
)
from electrumx.server.block_processor.utxo_cache import UTXOCache
from tests.fakes.chain import hashX_of

NAME = b"name script"
NAME_HASHX = b"hash of nam"
COINBASE = Tx(1, [TxInput(ZERO, MINUS_1, b"", 0)], [TxOutput(50, b"\x51")], 0)
CHILD = Tx(1, [TxInput(b"p" * 32, 0, b"", 0)], [TxOutput(7, b"\x53")], 0)
PARENT = Tx(1, [TxInput(b"c" * 32, 0, b"", 0)], [TxOutput(8, b"\x52"), TxOutput(1, NAME)], 0)
IN_ORDER = [(COINBASE, b"c" * 32), (PARENT, b"p" * 32), (CHILD, b"d" * 32)]
CHILD_FIRST = [IN_ORDER[0], IN_ORDER[2], IN_ORDER[1]]


def name_hashX(script):
    return NAME_HASHX if script == NAME else None


def advance(strategy, txs):
    cache = UTXOCache(lambda *_args, exact=False: None)
    items, touched = strategy.advance(txs, 10, cache, hashX_of, is_unspendable_legacy)
    return cache, items, touched


def unconverted(tx):
    """The same transaction in a format with fields of its own."""
    return SimpleNamespace(
        version=tx.version,
        locktime=tx.locktime,
        inputs=[
            SimpleNamespace(
                prev_hash=txin.prev_hash,
                prev_idx=txin.prev_idx,
                sequence=0,
                tree=9,
                is_generation=txin.is_generation,
            )
            for txin in tx.inputs
        ],
        outputs=[SimpleNamespace(value=o.value, pk_script=o.pk_script, kind=3) for o in tx.outputs],
    )


@pytest.mark.parametrize(
    ("strategy", "txs"),
    [
        (InOrderStrategy(), IN_ORDER),
        (AnyOrderStrategy(), IN_ORDER),
        (AnyOrderStrategy(), CHILD_FIRST),
        (ConvertingStrategy(InOrderStrategy()), [(unconverted(tx), h) for tx, h in IN_ORDER]),
        (ConvertingStrategy(AnyOrderStrategy()), [(unconverted(tx), h) for tx, h in CHILD_FIRST]),
        (NameIndexStrategy(InOrderStrategy(), name_hashX), IN_ORDER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_block_is_advanced_and_undone(strategy, txs):
    cache, items, touched = advance(strategy, txs)

    assert sorted(outpoint[:32] for outpoint in cache.adds) == [b"d" * 32, b"p" * 32]
    assert len(items) == 2
    by_hash = dict(zip([tx_hash for _tx, tx_hash in txs], touched, strict=True))
    assert by_hash[b"d" * 32] == {hashX_of(b"\x52"), hashX_of(b"\x53")}
    undone = strategy.undo(txs, items, cache, is_unspendable_legacy)
    assert undone == set().union(*touched)
    assert cache.adds == {}


def test_in_order_an_output_must_come_before_its_spend():
    with pytest.raises(ChainError, match="not found"):
        advance(InOrderStrategy(), CHILD_FIRST)


def test_a_name_is_touched_by_the_transactions_whose_outputs_have_it():
    strategy = NameIndexStrategy(InOrderStrategy(), name_hashX)

    _cache, _items, touched = advance(strategy, IN_ORDER)

    assert [NAME_HASHX in hashXs for hashXs in touched] == [False, True, False]
    assert [strategy.extra_hashXs(tx) for tx, _tx_hash in IN_ORDER] == [set(), {NAME_HASHX}, set()]


def test_names_are_touched_again_when_their_blocks_are_undone():
    strategy = NameIndexStrategy(InOrderStrategy(), name_hashX)
    cache, items, _touched = advance(strategy, IN_ORDER)

    assert NAME_HASHX in strategy.undo(IN_ORDER, items, cache, is_unspendable_legacy)


def test_a_converted_transaction_has_bitcoins_fields():
    for tx in (COINBASE, PARENT):
        converted = bitcoin_tx(unconverted(tx))
        assert type(converted) is Tx
        assert converted.outputs == tx.outputs
        assert [txin.is_generation() for txin in converted.inputs] == [
            txin.is_generation() for txin in tx.inputs
        ]
        assert [txin[:2] for txin in converted.inputs] == [txin[:2] for txin in tx.inputs]


def test_only_bitcoins_own_rules_are_computed_in_cython():
    inner = InOrderStrategy()

    assert inner.in_cython
    assert AnyOrderStrategy().in_cython
    assert not ConvertingStrategy(inner).in_cython
    assert not NameIndexStrategy(inner, name_hashX).in_cython


def test_a_decorating_strategy_keeps_the_rest_of_the_inner_one():
    inner = ConvertingStrategy(AnyOrderStrategy(), reorg_margin=1)
    names = NameIndexStrategy(inner, name_hashX)

    assert (names.any_order, names.reorg_margin) == (True, 1)
    assert names.bitcoin_txs([(unconverted(CHILD), b"d" * 32)])[0][0].outputs == CHILD.outputs
    assert InOrderStrategy().extra_hashXs is None
    assert ConvertingStrategy(names).extra_hashXs == names.extra_hashXs
