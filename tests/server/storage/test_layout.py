"""The row widths that the Cython modules use are those of the schema, and written in one place."""

import re

import pytest

from electrumx.server.storage import schema
from tests.conftest import REPOSITORY

SERVER = REPOSITORY / "electrumx" / "server"
CONSTANT = re.compile(r"^ +(\w+) = (\d+)$", re.MULTILINE)
LAYOUT = {
    name: int(width)
    for name, width in CONSTANT.findall((SERVER / "storage" / "_layout.pxd").read_text())
}
# Cython modules that take their widths from the layout
SHARING = (
    "db/_fastquery.pyx",
    "block_processor/_fastblock.pyx",
    "block_processor/_fasthistory.pyx",
    "block_processor/_fastindex.pyx",
)


def test_the_layout_has_the_widths_of_keys_and_items():
    assert {"TXNUM_LEN", "UTXO_KEY_LEN", "OUTPOINT_KEY_LEN", "UNDO_ITEM_LEN"} <= LAYOUT.keys()


@pytest.mark.parametrize("name", LAYOUT)
def test_a_width_of_the_layout_is_that_of_the_schema(name):
    assert LAYOUT[name] == getattr(schema, name)


@pytest.mark.parametrize("module", SHARING)
def test_a_cython_module_defines_no_width_of_its_own(module):
    own = dict(CONSTANT.findall((SERVER / module).read_text()))

    assert [name for name in own if name.endswith("_LEN")] == []
