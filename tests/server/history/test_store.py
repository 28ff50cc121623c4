"""Rows of transaction numbers: flushed, cut, staged and compacted."""

import random

import pytest

from electrumx.server.history.row_compaction import compact_prefixes
from electrumx.server.history.store import History
from electrumx.server.storage.base import db_class
from electrumx.server.storage.schema import DBError, cut_row, hist_key, pack_tx_num, unpack_tx_nums


def pack(numbers):
    return b"".join(map(pack_tx_num, numbers))


@pytest.fixture
def history(tmp_path):
    history = History()
    history.open_db(db_class("leveldb"), False, 0, False, str(tmp_path / "hist"))
    yield history
    history.close_db()


def reopen(history, tmp_path, utxo_flush_count):
    history.close_db()
    return history.open_db(
        db_class("leveldb"), False, utxo_flush_count, False, str(tmp_path / "hist")
    )


def fill(history, seed, scripts=20, txs=400):
    """Flush random histories in many flushes; return them."""
    choose = random.Random(seed)
    hashXs = [choose.randbytes(11) for _ in range(scripts)]
    model = {hashX: [] for hashX in hashXs}
    for tx_num in range(txs):
        touched = choose.sample(hashXs, choose.randint(1, 4))
        history.add_unflushed([touched], tx_num)
        for hashX in touched:
            model[hashX].append(tx_num)
        if choose.random() < 0.1:
            history.flush()
    history.flush()
    return model


class Pending:
    """Unflushed history that another implementation has: one row a call."""

    def __init__(self, rows):
        self.rows = dict(rows)
        self.ordered = None

    def has_history(self):
        return bool(self.rows)

    def history_hashXs(self):
        return set(self.rows)

    def packed_hashXs(self):
        return [b"".join(sorted(self.rows))]

    def sort_history(self):
        self.ordered = sorted(self.rows)

    def put_history(self, put, flush_id, _max_bytes):
        if not self.ordered:
            return 0
        hashX = self.ordered.pop(0)
        put(hashX + flush_id, self.rows[hashX])
        return 1

    def clear_history(self):
        self.rows.clear()


def read(history, model):
    return {hashX: list(history.get_txnums(hashX, None)) for hashX in model}


@pytest.mark.parametrize("seed", range(4))
def test_the_first_numbers_of_many_scripts_are_those_of_each(history, seed):
    model = fill(history, seed)
    # Also one whose only row has more than is asked for
    long = b"long script"
    history.add_unflushed([[long]] * 60, 400)
    history.flush()
    scripts = [*model, long, b"\0" * 11, b"\xff" * 11, long]
    random.Random(seed).shuffle(scripts)
    for most in (5, 10, 35, 200, 10_000):
        found = history.first_tx_nums(scripts, most)
        assert found == [history.packed_tx_nums(hashX, most) for hashX in scripts]
        whole = {hashX: pack(numbers) for hashX, numbers in model.items()}
        assert all(
            row == whole[hashX][:most]
            for hashX, row in zip(scripts, found, strict=True)
            if hashX in whole
        )
    assert history.first_tx_nums([], 5) == []


@pytest.mark.parametrize("numbers", [[], [5], [0, 1, 2], [7, 300, 2**40 - 1]])
def test_a_row_is_cut_where_the_numbers_reach_the_count(numbers):
    row = pack(numbers)
    assert unpack_tx_nums(row) == numbers
    for tx_count in {0, 1, 6, 7, 8, 300, 301, 2**40 - 1, 2**40}:
        kept = [n for n in numbers if n < tx_count]
        assert len(kept) * 5 == cut_row(row, tx_count)


def test_histories_are_read_whole_and_limited(history):
    model = fill(history, 1)
    assert model == read(history, model)
    hashX = next(iter(model))
    assert model[hashX][:3] == list(history.get_txnums(hashX, 3))


@pytest.mark.parametrize("tx_count", [0, 1, 57, 399, 400])
def test_staging_hides_nothing_and_dropping_removes_the_staged_entries(history, tx_count):
    model = fill(history, 2)
    flush_count = history.flush_count
    removed = history.stage(model, tx_count)
    assert model == read(history, model)
    assert flush_count + 1 == history.flush_count
    history.drop_staged(model)
    cut = {hashX: [n for n in numbers if n < tx_count] for hashX, numbers in model.items()}
    assert cut == read(history, model)
    assert removed == sum(map(len, model.values())) - sum(map(len, cut.values()))
    assert flush_count == history.flush_count


def test_staged_rows_are_orphaned_if_the_utxos_were_committed(history, tmp_path):
    model = fill(history, 3)
    flush_count = history.flush_count
    history.stage(model, 100)
    assert flush_count == reopen(history, tmp_path, flush_count)
    cut = {hashX: [n for n in numbers if n < 100] for hashX, numbers in model.items()}
    assert cut == read(history, model)


def test_flushes_that_the_coins_have_not_seen_are_cleared(history, tmp_path):
    model = fill(history, 4)
    flush_count = history.flush_count
    history.add_unflushed([list(model)], 1000)
    history.flush()
    assert flush_count == reopen(history, tmp_path, flush_count)
    assert model == read(history, model)


def test_a_lower_history_count_is_reported(history, tmp_path):
    fill(history, 5)
    flush_count = history.flush_count
    assert flush_count == reopen(history, tmp_path, flush_count + 1)


def test_the_last_flush_id_is_usable_and_the_next_is_a_clear_error(history):
    history.flush_count = 65_534
    history.add_unflushed([[b"x" * 11]], 0)
    history.flush()
    assert [0] == list(history.get_txnums(b"x" * 11))
    history.add_unflushed([[b"x" * 11]], 1)
    with pytest.raises(DBError, match="electrumx_compact_history"):
        history.flush()


def test_a_script_is_compacted_into_full_rows(history):
    history.max_hist_row_entries = 40
    hashX = b"h" * 11
    numbers = list(range(100))
    hist_map = {
        hist_key(hashX, 1): pack(numbers[:20]),
        hist_key(hashX, 26): pack(numbers[20:70]),
        hist_key(hashX, 56): pack(numbers[70:]),
    }
    items, keys = [], set()
    size = history._compact_hashX(hashX, dict(hist_map), list(hist_map.values()), items, keys)
    assert size == 500
    assert items == [
        (hist_key(hashX, 0), pack(numbers[:40])),
        (hist_key(hashX, 1), pack(numbers[40:80])),
        (hist_key(hashX, 2), pack(numbers[80:])),
    ]
    assert keys == set(hist_map)


def test_rows_that_are_compact_already_stay_unchanged(history):
    history.max_hist_row_entries = 40
    hashX = b"h" * 11
    hist_map = {hist_key(hashX, 0): pack(range(40)), hist_key(hashX, 1): pack(range(40, 50))}
    items, keys = [], set()
    assert 0 == history._compact_hashX(hashX, hist_map, list(hist_map.values()), items, keys)
    assert (items, keys) == ([], set())


@pytest.mark.parametrize("limit", [1, 500, 10**9])
def test_compaction_keeps_every_history(history, limit):
    history.max_hist_row_entries = 40
    model = fill(history, 6)
    history.comp_cursor, history.comp_flush_count = 0, 1
    while history.comp_cursor != -1:
        history._compact_history(limit)
        assert model == read(history, model)
    assert history.flush_count < 10
    history.add_unflushed([list(model)], 1000)
    history.flush()
    assert {h: [*numbers, 1000] for h, numbers in model.items()} == read(history, model)


def test_an_interrupted_compaction_is_forgotten_without_loss(history, tmp_path):
    history.max_hist_row_entries = 5
    model = fill(history, 7)
    flush_count = history.flush_count
    history.comp_cursor, history.comp_flush_count = 0, 1
    compact_prefixes(history, 1)
    assert history.comp_cursor > 0
    assert reopen(history, tmp_path, flush_count) >= flush_count
    assert history.comp_cursor == -1
    assert model == read(history, model)


def test_one_flush_writes_the_history_of_both_implementations(history):
    first, second, third = (bytes([n]) * 11 for n in (1, 2, 3))
    pending = Pending({first: pack([7]), third: pack([7, 8])})
    history.add_unflushed([[second]], 9)
    with pytest.raises(AssertionError):
        history.assert_flushed(Pending({first: pack([7])}))

    assert history.flush(pending) == 3

    assert history.flush_count == 1
    assert read(history, (first, second, third)) == {first: [7], second: [9], third: [7, 8]}
    history.assert_flushed(pending)


def test_scripts_of_both_implementations_are_logged_as_changed_during_a_compaction(history):
    first, second = bytes([1]) * 11, bytes([2]) * 11
    history.changes.start()
    history.add_unflushed([[second]], 9)
    history.flush(Pending({first: pack([7])}))
    assert history.changes.dirty == {first, second}
    assert history.changes.cut == set()
    history.backup([second], 9)
    assert history.changes.cut == {second}


def test_the_flush_count_of_the_other_store_is_raised_by_the_function_given(tmp_path):
    counts = []
    history = History(set_utxo_flush_count=counts.append)
    history.open_db(db_class("leveldb"), False, 0, False, str(tmp_path / "hist"))
    history.add_unflushed([[bytes(11)]], 3)
    history.flush()
    # The row starts below the committed transactions, so it is confirmed history.
    history.clear_excess(0, tx_count=4)
    assert counts == [1]
    assert history.flush_count == 1
    history.close_db()
