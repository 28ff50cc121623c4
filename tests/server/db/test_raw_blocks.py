"""A raw block is used only if it parses and has the hash that the chain has at its height."""

import pytest

from electrumx.server.db.raw_blocks import checked_block, stored_block
from tests.fakes.chain import COIN, ChainMaker

MAKER = ChainMaker(seed=5)
CHAIN = MAKER.chain(MAKER.grow(MAKER.genesis_hash, 3))
HASHES = [COIN.header_hash(raw[:80]) for raw in CHAIN]


def test_the_block_with_the_hash_is_parsed():
    block = checked_block(COIN, CHAIN[2], 2, HASHES[2])

    assert (block.raw, block.header) == (CHAIN[2], CHAIN[2][:80])


@pytest.mark.parametrize("raw", [b"", CHAIN[2][:-1], CHAIN[3], bytes(80) + CHAIN[2][80:]])
def test_other_bytes_are_no_block(raw):
    assert checked_block(COIN, raw, 2, HASHES[2]) is None
    assert stored_block(COIN, lambda _height: raw, 2, HASHES[2]) is None


def test_a_block_that_cannot_be_read_is_missing():
    def read(_height):
        raise FileNotFoundError

    assert stored_block(COIN, read, 2, HASHES[2]) is None
