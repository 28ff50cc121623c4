"""Laws of transaction parsing: written transactions are read back; bad bytes raise one error."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import (
    Deserializer,
    DeserializerLitecoin,
    DeserializerSegWit,
    Tx,
    TxInput,
    TxOutput,
    TxSegWit,
)
from electrumx.lib.util import pack_varint
from tests.property import strategies

FORMATS = [
    (Deserializer, strategies.plain_txs),
    (DeserializerSegWit, strategies.bitcoin_txs),
    (DeserializerLitecoin, strategies.litecoin_txs),
]
READERS = [Deserializer, DeserializerSegWit, DeserializerLitecoin]
ANY_FORMAT = st.sampled_from(FORMATS).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.lists(pair[1], max_size=4))
)


def stripped(tx):
    """The bytes of a transaction without marker, flag and witness."""
    return Tx(tx.version, tx.inputs, tx.outputs, tx.locktime).serialize()


@given(ANY_FORMAT)
def test_a_block_of_written_transactions_is_read_back_with_their_hashes(case):
    reader, txs = case
    raw = b"header" + pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)

    found = reader(raw + b"what follows is ignored", start=6).read_tx_block()

    assert [(tx, double_sha256(stripped(tx))) for tx in txs] == found
    assert [type(tx) for tx in txs] == [type(tx) for tx, _ in found]


@given(ANY_FORMAT)
def test_reading_one_by_one_gives_the_same_as_the_block_loop(case):
    reader, txs = case
    raw = b"".join(tx.serialize() for tx in txs)
    block = reader(pack_varint(len(txs)) + raw).read_tx_block()

    one_by_one = reader(raw)
    assert block == [one_by_one.read_tx_and_hash() for _ in txs]
    assert one_by_one.cursor == len(raw)

    only_txs = reader(raw)
    assert [tx for tx, _ in block] == [only_txs.read_tx() for _ in txs]


@given(ANY_FORMAT)
def test_a_subclass_with_its_own_read_tx_reads_the_same(case):
    reader, txs = case

    class Own(reader):
        def read_tx(self):
            return super().read_tx()

    raw = pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs)
    assert reader(raw).read_tx_block() == Own(raw).read_tx_block()


@given(strategies.litecoin_txs, st.integers(0, 3))
def test_vsize_weighs_the_witness_a_quarter_wherever_the_transaction_stands(tx, start):
    raw = tx.serialize()
    base = len(stripped(tx))
    expected = -((3 * base + len(raw)) // -4)

    deserializer = DeserializerLitecoin(bytes(start) + raw + b"behind", start=start)
    assert (tx, expected) == deserializer.read_tx_and_vsize()


@given(st.sampled_from(READERS), st.binary(max_size=200))
@example(DeserializerSegWit, bytes(6))
@example(Deserializer, b"\xff" * 60)
def test_arbitrary_bytes_raise_nothing_but_a_deserialize_error(reader, raw):
    for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize", "read_tx_block"):
        try:
            getattr(reader(raw), method)()
        except DeserializeError:
            pass


@given(st.data(), ANY_FORMAT)
def test_damaged_transactions_raise_nothing_but_a_deserialize_error(data, case):
    reader, txs = case
    raw = bytearray(pack_varint(len(txs)) + b"".join(tx.serialize() for tx in txs))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(
            st.sampled_from([0, 1, 8, 253, 255])
        )
    for method in ("read_tx_and_vsize", "read_tx_block"):
        try:
            getattr(reader(bytes(raw)), method)()
        except DeserializeError:
            pass


INPUT = TxInput(bytes(range(32)), 7, b"script", 0xFFFFFFFE)
LONG_INPUT = TxInput(bytes(32), 7, bytes(253), 0xFFFFFFFE)
OUTPUT = TxOutput(5_000_000_000, b"\x51")
LONG_OUTPUT = TxOutput(1, bytes(253))
SMALL_TXS = [
    Tx(1, [INPUT, LONG_INPUT], [OUTPUT, LONG_OUTPUT], 500_000),
    TxSegWit(2, 0, 1, [INPUT, INPUT], [OUTPUT], [[], [b"", b"\1" * 71, b"\2" * 260]], 0),
]


@pytest.mark.parametrize("tx", SMALL_TXS, ids=["plain", "witness"])
@pytest.mark.parametrize("reader", [DeserializerSegWit, DeserializerLitecoin])
def test_truncation_at_every_offset_is_an_error(reader, tx):
    raw = tx.serialize()
    for end in range(len(raw)):
        cut = raw[:end]
        for method in ("read_tx", "read_tx_and_hash", "read_tx_and_vsize"):
            with pytest.raises(DeserializeError):
                getattr(reader(cut), method)()
        with pytest.raises(DeserializeError):
            reader(b"\1" + cut).read_tx_block()
    assert (tx, double_sha256(stripped(tx))) == reader(raw).read_tx_and_hash()


@settings(max_examples=50)
@given(st.sampled_from([253, 254, 255]), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_a_lying_count_or_length_is_refused_at_once(prefix, number, place):
    width = {253: 2, 254: 4, 255: 8}[prefix]
    lie = bytes([prefix]) + (number % 256**width | 0x4000).to_bytes(width, "little")
    version, outpoint, tail = b"\1\0\0\0", bytes(36), bytes(100)
    raw = [
        lie,  # transactions
        b"\1" + version + lie,  # inputs
        b"\1" + version + b"\1" + outpoint + lie,  # bytes of a script
        b"\1" + version + b"\1" + outpoint + b"\0" + bytes(4) + lie,  # outputs
    ][place] + tail
    for reader in READERS:
        with pytest.raises(DeserializeError):
            reader(raw).read_tx_block()
