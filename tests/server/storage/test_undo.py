"""The number of undo items that a block may have."""

import pytest

from electrumx.lib.script import is_unspendable_legacy
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.storage.schema import DBDamagedError
from electrumx.server.storage.undo import (
    coinbase_outputs,
    overwritten_count,
    spend_count,
    split_items,
)
from tests.fakes.chain import MINUS_1, NULL

COINBASE = Tx(
    1,
    [TxInput(NULL, MINUS_1, b"", 0)],
    [TxOutput(1, b"\x51"), TxOutput(0, b"\x6a"), TxOutput(2, b"\x52")],
    0,
)
SPEND = Tx(1, [TxInput(b"\1" * 32, n, b"", 0) for n in range(3)], [TxOutput(3, b"\x51")], 0)
TXS = [(COINBASE, b"\2" * 32), (SPEND, b"\3" * 32)]


def test_every_spend_has_an_item():
    assert spend_count(TXS) == 3
    assert overwritten_count(3, TXS, is_unspendable_legacy) == 0


def test_a_coinbase_that_overwrites_has_an_item_for_each_output_that_can_be_spent():
    assert coinbase_outputs(TXS, is_unspendable_legacy) == [0, 2]
    assert overwritten_count(5, TXS, is_unspendable_legacy) == 2


def test_other_numbers_of_items_do_not_fit():
    for items in (0, 2, 4, 6):
        assert overwritten_count(items, TXS, is_unspendable_legacy) is None


def test_a_block_without_a_coinbase_overwrites_nothing():
    assert coinbase_outputs([], is_unspendable_legacy) == []
    assert coinbase_outputs(TXS[1:], is_unspendable_legacy) == []


def test_joined_items_are_split():
    assert split_items(b"") == []
    assert split_items(b"a" * 24 + b"b" * 24) == [b"a" * 24, b"b" * 24]


@pytest.mark.parametrize("extra", range(1, 24))
def test_items_of_a_wrong_length_are_damage(extra):
    with pytest.raises(DBDamagedError, match=f"{24 + extra} bytes"):
        split_items(bytes(24 + extra))
