"""The layouts in memory of the Cython implementation are sums of the schema's widths."""

import re

import pytest

from electrumx.lib.hash import HASHX_LEN
from electrumx.server.storage.schema import (
    OUTPOINT_KEY_LEN,
    SUFFIX_LEN,
    TX_HASH_PREFIX_LEN,
    TXNUM_LEN,
    UNDO_ITEM_LEN,
    VALUE_LEN,
)
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "electrumx" / "server" / "block_processor"
CONSTANT = re.compile(r"^ +(\w+) = (\d+)$", re.MULTILINE)
SUMS = {
    "OUTPUT_LEN": HASHX_LEN + VALUE_LEN + 1,
    "OUTPUT_FLAGS": HASHX_LEN + VALUE_LEN,
    "UTXO_VALUE": UNDO_ITEM_LEN - VALUE_LEN,
    "ROW_ID_LEN": TX_HASH_PREFIX_LEN + SUFFIX_LEN,
    "DELETE_LEN": TX_HASH_PREFIX_LEN + SUFFIX_LEN + HASHX_LEN,
    "FROZEN_LEN": TX_HASH_PREFIX_LEN + SUFFIX_LEN + HASHX_LEN + VALUE_LEN,
}
# Where a source states how many bytes it copies, compares or holds
BYTES = re.compile(
    r"(?:memcpy|memmove|memset|memcmp|PyBytes_FromStringAndSize)\([^\n]*, (\d+)\)"
    r"|uint8_t \w+\[(\d+)\]"
)
# Of a C integer
INTEGERS = {"1", "4", "8"}


def test_each_number_of_the_layout_is_its_sum():
    constants = CONSTANT.findall((FOLDER / "_layout.pxd").read_text())

    assert {name: int(number) for name, number in constants} == SUMS
    assert SUMS["ROW_ID_LEN"] == OUTPOINT_KEY_LEN - 1
    assert SUMS["UTXO_VALUE"] == HASHX_LEN + TXNUM_LEN


@pytest.mark.parametrize("name", ["_fastblock", "_fasthistory", "_fastindex"])
def test_a_width_has_a_name_wherever_it_is_used(name):
    source = (FOLDER / f"{name}.pyx").read_text()

    assert BYTES.search("memcpy(at + 32, &idx, 5)")
    assert {first or second for first, second in BYTES.findall(source)} <= INTEGERS
