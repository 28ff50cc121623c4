"""The Cython implementation of the bulk sync's loops computes what the pure-Python one does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib.coins import BitcoinCashRegtest, BitcoinSegwitRegtest
from electrumx.server.block_processor import compiled_indexer
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.bulk_sync import reference
from electrumx.server.bulk_sync.contents import PackedBlock
from electrumx.server.bulk_sync.kernels import compiled_module
from electrumx.server.runs.records import (
    HISTORY_LEN,
    LATE_LEN,
    OUTPOINT_ROW_LEN,
    OUTPUT_LEN,
    SPEND_LEN,
    UNDO_LEN,
    UTXO_LEN,
)
from tests.conftest import require
from tests.crash.stories import undo_items
from tests.fakes.chain import ChainMaker, Model

fast = compiled_module()


@pytest.fixture(scope="module", autouse=True)
def _built():
    require(fast and compiled_indexer.compiled, "the compiled modules were not built")


class Scanned:
    """The runs of one implementation."""

    def __init__(self, module):
        self.module = module
        self.chunk = module.Chunk()
        self.history, self.undo = [], []
        self.outputs, self.spends, self.late = [], [], []

    def end_chunk(self):
        self.history.append(self.module.sort_history(self.chunk.take_history()))
        self.undo.append(self.chunk.take_undo())
        self.spends.append(self.chunk.spends())
        self.late.append(self.chunk.late())
        self.outputs.append(self.chunk.outputs())
        self.chunk = self.module.Chunk()

    def runs(self):
        parts = (self.history, self.undo, self.outputs, self.spends, self.late)
        return [list(map(bytes, part)) for part in parts]

    def rows(self, joined, row_entries, max_bytes):
        """All rows of both stores, in the order in which they were put."""
        module, rows = self.module, {}
        makers = [
            (module.put_outpoint_rows, joined[0], OUTPOINT_ROW_LEN),
            (module.put_utxo_rows, joined[1], UTXO_LEN),
        ]
        history = module.merge_history([*self.history, joined[2]])
        maker = module.HistoryRows(row_entries)
        makers.append((maker.put_rows, history, HISTORY_LEN))
        for put_rows, buffer, length in makers:
            done = 0
            while done < len(buffer) // length:
                done = put_rows(rows.__setitem__, buffer, done, max_bytes)
        undo = module.merge_undo([*self.undo, joined[3]])
        module.put_undo_rows(rows.__setitem__, undo, 8, 13)
        return rows, maker.max_flush_id


def scan(raws, coin, ltor, seed, end_odds):
    """Run both implementations over a chain; blocks from height 6 on may be undone."""
    choose = random.Random(seed)
    scanned = Scanned(reference), Scanned(fast)
    index = CompiledIndex.for_coin(coin, ltor, None)
    tx_num = 0
    for height, raw in enumerate(raws):
        block = coin.block(raw, height)
        packed = PackedBlock(block.header, raw, block.transactions, coin.output_rule(height))
        ready = fast.fast_block(
            packed.header, raw, packed.tx_hashes, packed.shapes, packed.spends, packed.outputs
        )
        undo_height = height if height >= 6 else -1
        scanned[0].chunk.add(packed, tx_num, False, ltor, undo_height)
        compiled = choose.choice([ready, index.parse(raw, height)])
        scanned[1].chunk.add(compiled, tx_num, False, ltor, undo_height)
        name = bytes([choose.randrange(3)]) * 11
        for one in scanned:
            one.chunk.add_history(name, tx_num)
        tx_num += len(block.transactions)
        if choose.random() < end_odds:
            for one in scanned:
                one.end_chunk()
    for one in scanned:
        one.end_chunk()
    return scanned


@given(
    seed=st.integers(0, 10**9),
    ltor=st.booleans(),
    end_odds=st.sampled_from([0.0, 0.2, 1.0]),
    duplicates=st.sampled_from([0.0, 0.4]),
    row_entries=st.sampled_from([1, 4, 1000]),
    max_bytes=st.sampled_from([1, 100, 10**6]),
)
def test_chains_are_scanned_and_merged_alike(
    seed, ltor, end_odds, duplicates, row_entries, max_bytes
):
    coin = BitcoinCashRegtest if ltor else BitcoinSegwitRegtest
    maker = ChainMaker(seed=seed, scripts=5, ltor=ltor, duplicates=duplicates)
    raws = maker.chain(maker.grow(maker.genesis_hash, 13))
    scanned = scan(raws, coin, ltor, seed, end_odds)
    assert scanned[0].runs() == scanned[1].runs()
    joined = [one.module.join(one.outputs, one.spends, one.late) for one in scanned]
    assert list(map(bytes, joined[0])) == list(map(bytes, joined[1]))
    rows = [
        one.rows(part, row_entries, max_bytes) for one, part in zip(scanned, joined, strict=True)
    ]
    assert rows[0] == rows[1]
    assert list(rows[0][0]) == list(rows[1][0])
    _assert_is_model(rows[0][0], Model(raws, coin))


def _assert_is_model(rows, model):
    """Compare the ``h`` and ``u`` rows with the model's."""
    expected = {}
    for (tx_hash, idx), (hashX, value, _height, tx_num) in model.unspent.items():
        suffix = idx.to_bytes(4, "little") + tx_num.to_bytes(5, "little")
        expected[b"h" + tx_hash[:4] + suffix] = hashX
        expected[b"u" + hashX + suffix] = value.to_bytes(8, "little")
    found = {
        key: row
        for key, row in rows.items()
        if isinstance(key, bytes) and (key[:1], len(key)) in ((b"h", 14), (b"u", 21))
    }
    assert found == expected


fields = st.integers(0, 2)


@given(st.lists(st.tuples(fields, fields), max_size=30), st.lists(st.tuples(fields, fields)))
def test_joins_of_any_events_are_alike(outputs, spends):
    """Few outpoints and numbers, so that the same are made and spent in every order."""

    def record(key, tx_num, rest):
        return bytes([key]) * 24 + tx_num.to_bytes(5, "big") + rest

    made = sorted({record(key, num, b"x" * 11 + bytes([key]) * 8) for key, num in outputs})
    spent = sorted({record(key, num + 1, b"") for key, num in spends})
    late = [spend + b"\0\0\0\7" + n.to_bytes(4, "big") for n, spend in enumerate(spent)][::2]
    assert all(len(one) == OUTPUT_LEN for one in made)
    assert all(len(one) == SPEND_LEN for one in spent)
    assert all(len(one) == LATE_LEN for one in late)
    results = []
    for module in (reference, fast):
        try:
            joined = module.join([b"".join(made)], [b"".join(spent)], [b"".join(late)])
            results.append(list(map(bytes, joined)))
        except KeyError as e:
            results.append(e.args)
    assert results[0] == results[1]


places = st.tuples(st.integers(0, 8), st.integers(0, 300))


@given(st.dictionaries(places, st.binary(min_size=24, max_size=24)), st.integers(0, 5))
def test_undo_rows_of_any_records_are_alike(items, first):
    records = [
        height.to_bytes(4, "big") + number.to_bytes(4, "big") + item
        for (height, number), item in items.items()
    ]
    assert all(len(record) == UNDO_LEN for record in records)
    rows = [{}, {}]
    for module, found in zip((reference, fast), rows, strict=True):
        undo = module.merge_undo([b"".join(records[::2]), b"".join(records[1::2])])
        assert bytes(undo) == b"".join(sorted(records))
        module.put_undo_rows(found.__setitem__, undo, first, 6)
    assert rows[0] == rows[1]
    assert list(rows[0]) == list(range(first, 7))


def test_undo_records_and_rows_agree_with_the_spends_of_blocks():
    maker = ChainMaker(seed=77, scripts=5)
    raws = maker.chain(maker.grow(maker.genesis_hash, 13))
    for one in scan(raws, BitcoinSegwitRegtest, False, 3, 0.3):
        joined = one.module.join(one.outputs, one.spends, one.late)
        rows, _highest = one.rows(joined, 1000, 10**6)
        assert [rows[height] for height in range(8, 14)] == undo_items(raws)[8:14]
