"""The Cython parser of unconfirmed transactions agrees with the pure one, or returns None."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.coins import BitcoinCashRegtest, BitcoinSegwitRegtest, LitecoinRegtest
from electrumx.lib.errors import DeserializeError
from electrumx.server.block_processor import compiled_indexer as fast_index
from electrumx.server.block_processor.compiled_indexer import unconfirmed_parser
from electrumx.server.mempool.acceptance import CandidateParser
from tests.conftest import require
from tests.property import strategies

COINS = [BitcoinCashRegtest, BitcoinSegwitRegtest, LitecoinRegtest]
any_tx = st.one_of(strategies.bitcoin_txs, strategies.litecoin_txs)


@pytest.fixture(scope="module", autouse=True)
def _built():
    require(fast_index.compiled, "the compiled form of indexing was not built")


def readable(coin, raw):
    try:
        candidate = CandidateParser(coin, compiled=False).parse_tx(raw)
    except DeserializeError:
        return None
    return candidate.prevouts, candidate.out_pairs, candidate.size


@given(st.sampled_from(COINS), any_tx, st.binary(max_size=3))
def test_a_transaction_is_parsed_alike(coin, tx, tail):
    raw = tx.serialize() + tail
    assert unconfirmed_parser(coin)(raw) == readable(coin, raw)


@given(strategies.raw_peg_ins(), st.binary(max_size=3))
def test_a_peg_in_is_parsed_alike(raw, tail):
    found = readable(LitecoinRegtest, raw + tail)
    assert unconfirmed_parser(LitecoinRegtest)(raw + tail) == found
    assert found is not None
    assert len(found[0]) <= 4


@given(any_tx, st.data())
def test_a_damaged_transaction_is_parsed_alike(tx, data):
    raw = tx.serialize()
    at = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255))
    for coin in COINS:
        assert unconfirmed_parser(coin)(raw + b"x") == readable(coin, raw + b"x")
        for damaged in (raw[:at], raw[:at] + bytes([byte]) + raw[at + 1 :]):
            assert unconfirmed_parser(coin)(damaged) == readable(coin, damaged)


@given(st.sampled_from(COINS), st.binary(max_size=120))
def test_arbitrary_bytes_are_parsed_alike(coin, raw):
    assert unconfirmed_parser(coin)(raw) == readable(coin, raw)
