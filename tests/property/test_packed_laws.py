"""Laws of packed rows: the Cython and pure-Python implementations agree, and are right."""

import json
import os
import struct
from array import array
from bisect import bisect_right
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, sha256
from electrumx.lib.merkle import Merkle
from electrumx.server.db import wire_rows as packed
from electrumx.server.db.flat_files import HeldFile
from electrumx.server.session.engine.jsonrpc import AUTO, V1, V2, notification_parts

PER_FILE = 300

FORMS = [packed.READABLE]
if packed.COMPILED:
    FORMS.append({name: getattr(packed, name) for name in packed.READABLE})


def tx_hash(tx_num):
    return sha256(b"tx %d" % tx_num)


class Files:
    """Files of hashes, of which the last may end early."""

    def __init__(self, folder, count):
        self.folder = folder
        for first in range(0, count, PER_FILE):
            hashes = b"".join(map(tx_hash, range(first, min(count, first + PER_FILE))))
            (folder / str(first // PER_FILE)).write_bytes(hashes)

    def open(self, number):
        path = self.folder / str(number)
        return HeldFile(os.open(path, os.O_RDONLY)) if path.exists() else None


TX_COUNT = 4 * PER_FILE + 17


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("hashes"), TX_COUNT)


# Heights of several transactions, of one, and of none at all.
counts = st.lists(st.integers(0, 40), min_size=1, max_size=80).map(
    lambda sizes: array("Q", accumulate(sizes))
)
tx_nums = st.sets(st.integers(0, TX_COUNT - 1), max_size=200).map(sorted)
dense = st.tuples(st.integers(0, TX_COUNT - 1), st.integers(1, 900)).map(
    lambda start_and_length: list(range(start_and_length[0], min(TX_COUNT, sum(start_and_length))))
)
coin_sets = st.dictionaries(
    st.tuples(st.integers(0, TX_COUNT - 1), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**63),
    max_size=60,
).map(lambda coins: [(*outpoint, value) for outpoint, value in coins.items()])


def row_of(numbers):
    return b"".join(number.to_bytes(5, "little") for number in numbers)


def coin_row(tx_num, txout_idx, value):
    key = b"u" + bytes(11) + struct.pack("<I", txout_idx) + tx_num.to_bytes(5, "little")
    return key, struct.pack("<Q", value)


@settings(deadline=None, max_examples=60)
@given(numbers=st.one_of(tx_nums, dense), tx_counts=counts)
def test_packed_history_has_the_hash_and_height_of_each_number(files, numbers, tx_counts):
    expected = [(tx_hash(n), bisect_right(tx_counts, n)) for n in numbers]
    objects = [{"tx_hash": hash_to_hex_str(h), "height": height} for h, height in expected]
    text = "".join(f"{hash_to_hex_str(h)}:{height}:" for h, height in expected)
    for form in FORMS:
        ((found, last),) = form["pack_histories"](
            [row_of(numbers)], TX_COUNT, tx_counts, files.open, PER_FILE
        )
        assert packed.entries_of(found) == expected
        assert last == (numbers[-1] if numbers else -1)
        assert json.loads(b"[" + form["history_json"](found) + b"]") == objects
        assert form["status_text"](found).decode() == text
        assert form["status_of"](found) == (
            (sha256(text.encode()).hex() if text else None, len(text))
        )


@settings(deadline=None, max_examples=60)
@given(
    histories=st.lists(st.one_of(tx_nums, dense), max_size=8),
    tx_count=st.one_of(st.just(TX_COUNT), st.integers(0, TX_COUNT)),
    tx_counts=counts,
)
def test_histories_packed_together_are_those_packed_one_by_one(
    files, histories, tx_count, tx_counts
):
    expected = [
        (
            b"".join(
                packed.pack_entry(tx_hash(n), bisect_right(tx_counts, n))
                for n in numbers
                if n < tx_count
            ),
            max((n for n in numbers if n < tx_count), default=-1),
        )
        for numbers in histories
    ]
    rows = list(map(row_of, histories))
    for form in FORMS:
        found = form["pack_histories"](rows, tx_count, tx_counts, files.open, PER_FILE)
        assert found == expected


@settings(deadline=None, max_examples=60)
@given(coins=coin_sets, tx_counts=counts)
def test_packed_utxos_are_sorted_and_add_up(files, coins, tx_counts):
    rows = [coin_row(*coin) for coin in coins]
    expected = [
        (tx_hash(tx_num), bisect_right(tx_counts, tx_num), txout_idx, value)
        for tx_num, txout_idx, value in sorted(coins)
    ]
    objects = [
        {"tx_hash": hash_to_hex_str(h), "tx_pos": idx, "height": height, "value": value}
        for h, height, idx, value in expected
    ]
    for form in FORMS:
        found = form["pack_utxos"](rows, TX_COUNT, tx_counts, files.open, PER_FILE)
        assert packed.utxos_of(found) == expected
        assert json.loads(b"[" + form["utxos_json"](found) + b"]") == objects
        # Sums beyond 64 bits are beyond all the coins there are.
        if sum(value for _num, _idx, value in coins) < 2**64:
            total = sum(value for _num, _idx, value in coins)
            assert form["sum_utxos"](rows, TX_COUNT) == total


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_are_not_committed_are_distinguished(files, form):
    tx_counts = array("Q", [TX_COUNT])
    for missing in (TX_COUNT, 40 * PER_FILE):
        rows = [coin_row(5, 0, 1), coin_row(missing, 0, 1)]
        numbers = [[5], [5, missing], [missing], [7, 2 * PER_FILE], []]
        found = form["pack_histories"](
            list(map(row_of, numbers)), 10**9, tx_counts, files.open, PER_FILE
        )
        assert [one and one[1] for one in found] == [5, None, None, 2 * PER_FILE, -1]
        assert form["pack_utxos"](rows, 10**9, tx_counts, files.open, PER_FILE) is None
        assert form["pack_utxos"](rows, missing, tx_counts, files.open, PER_FILE) is None
        assert form["sum_utxos"](rows, missing) is None


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_packed_to_nothing(files, form):
    tx_counts = array("Q", [1])
    assert form["pack_histories"]([], 1, tx_counts, files.open, PER_FILE) == []
    nothing = form["pack_histories"]([b"", b""], 1, tx_counts, files.open, PER_FILE)
    assert nothing == [(b"", -1)] * 2
    assert form["status_of"](b"") == (None, 0)
    assert form["pack_utxos"]([], 1, tx_counts, files.open, PER_FILE) == b""
    assert form["sum_utxos"]([], 1) == 0
    for name in ("history_json", "utxos_json", "status_text", "merkle_levels"):
        assert form[name](b"") == b""


@settings(deadline=None, max_examples=40)
@given(entries=st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))))
def test_the_longest_numbers_have_room(entries):
    rows = b"".join(packed.pack_entry(*entry) for entry in entries)
    coins = b"".join(packed.pack_utxo(*entry, 2**32 - 1, 2**64 - 1) for entry in entries)
    first, *others = FORMS
    for form in others:
        assert form["history_json"](rows) == first["history_json"](rows)
        assert form["status_text"](rows) == first["status_text"](rows)
        assert form["utxos_json"](coins) == first["utxos_json"](coins)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 100, 255, 256, 257])
def test_merkle_levels_end_in_the_root(form, count):
    hashes = [tx_hash(n) for n in range(count)]
    levels = form["merkle_levels"](b"".join(hashes))
    expected = []
    for depth in range(1, Merkle().tree_depth(count)):
        expected += Merkle().level(hashes, depth)
    assert levels == b"".join(expected)
    if count > 1:
        assert levels[-32:] == Merkle().root(hashes)


@settings(max_examples=50)
@given(data=st.binary(max_size=300))
def test_hex_is_hex(data):
    for form in FORMS:
        assert form["hexlify"](data) == data.hex().encode()


# -- what blocks add to histories

hashX_values = st.sampled_from([bytes([n % 3]) * (HASHX_LEN - 1) + bytes([n]) for n in range(8)])


@st.composite
def additions(draw):
    """Transactions before, and in some blocks on top: the scripts of each, and the addition."""
    before = draw(st.lists(st.sets(hashX_values), max_size=6))
    blocks = draw(st.lists(st.lists(st.sets(hashX_values), max_size=5), min_size=1, max_size=4))
    first = draw(st.integers(0, 2**40 - 100)) + len(before)
    ends = array("Q", accumulate(map(len, blocks), initial=first))[1:]
    touched = [hashXs for block in blocks for hashXs in block]
    records = b"".join(sorted(packed.make_records(touched, first)))
    tx_hashes = b"".join(tx_hash(first + n) for n in range(len(touched)))
    height = draw(st.integers(1, 2**31))
    return before, touched, packed.Addition(records, tx_hashes, first, ends, height)


@settings(deadline=None, max_examples=150)
@given(case=additions(), known_from=st.integers(0, 3), whole=st.lists(st.booleans(), min_size=9))
def test_histories_are_extended_by_the_touch_records_of_blocks(case, known_from, whole):
    before, touched, addition = case
    first = addition.first_tx_num
    # Some histories were read when a part of the blocks was there already.
    seen = min(known_from, len(touched))
    entries = {}
    for tx_num, hashXs in enumerate([*before, *touched], start=first - len(before)):
        height = addition.height + bisect_right(addition.ends, tx_num)
        for hashX in hashXs:
            entries.setdefault(hashX, []).append((tx_num, tx_hash(tx_num), height))
    hashXs = sorted({*entries, b"unheard of."})
    known, last_tx_nums, expected = [], [], []
    for hashX, is_whole in zip(hashXs, whole, strict=False):
        history = entries.get(hashX, [])
        old = [entry for entry in history if entry[0] < first + seen]
        old_packed, new_packed = (
            b"".join(packed.pack_entry(*entry[1:]) for entry in part)
            for part in (old, history[len(old) :])
        )
        known.append(old_packed if is_whole else None)
        last_tx_nums.append(old[-1][0] if old else -1)
        last = history[-1][0] if history else -1
        if not is_whole:
            expected.append((new_packed, last, None, 0))
            continue
        text = "".join(f"{hash_to_hex_str(h)}:{height}:" for _n, h, height in history)
        status = sha256(text.encode()).hex() if history else None
        expected.append((old_packed + new_packed, last, status, len(text)))
    for form in FORMS:
        found = form["extend_histories"](hashXs, known, last_tx_nums, addition)
        assert found == expected
        assert form["hashXs_of"](addition.records) == set().union(*touched)


def test_a_long_history_has_the_status_of_its_whole_text():
    numbers = range(1_000)
    old = b"".join(packed.pack_entry(tx_hash(n), n) for n in numbers)
    hashX = bytes(HASHX_LEN)
    records = b"".join(packed.make_records([[hashX]] * 70, 1_000))
    hashes = b"".join(tx_hash(1_000 + n) for n in range(70))
    addition = packed.Addition(records, hashes, 1_000, array("Q", [1_030, 1_070]), 10**9)
    results = [form["extend_histories"]([hashX], [old], [999], addition) for form in FORMS]
    assert all(result == results[0] for result in results)
    entries, last, status, _text_len = results[0][0]
    assert (1_069, 1_070) == (last, len(packed.entries_of(entries)))
    assert sha256(packed.status_text(entries)).hex() == status


@pytest.mark.parametrize("form", FORMS)
def test_records_of_other_transactions_than_the_blocks_are_refused_or_left_out(form):
    hashX = bytes(HASHX_LEN)
    records = b"".join(packed.make_records([[hashX]] * 3, 10))
    addition = packed.Addition(records, tx_hash(12), 12, array("Q", [13]), 5)
    expected = (packed.pack_entry(tx_hash(12), 5), 12, None, 0)
    assert form["extend_histories"]([hashX], [None], [11], addition) == [expected]
    if form is not packed.READABLE:
        # The Cython implementation must not read beyond its arguments.
        with pytest.raises(ValueError, match="of no transaction"):
            form["extend_histories"]([hashX], [None], [9], addition)
        with pytest.raises(ValueError, match="not as many hashes"):
            form["extend_histories"]([hashX], [None], [11], addition._replace(tx_hashes=b""))


@given(
    numbers=st.lists(st.integers(0, 4), max_size=8),
    statuses=st.lists(st.none() | st.integers(0, 99), min_size=8, max_size=8),
    version=st.sampled_from([AUTO, V1, V2]),
)
def test_statuses_are_rendered_as_notifications_are_encoded(numbers, statuses, version):
    method = "blockchain.scripthash.subscribe"
    statuses = [None if n is None else sha256(b"%d" % n).hex() for n in statuses[: len(numbers)]]
    hashes = bytearray(b"".join(map(tx_hash, range(5))))
    expected = [
        version.notification(method, (hash_to_hex_str(tx_hash(n)), status))
        for n, status in zip(numbers, statuses, strict=True)
    ]
    parts = notification_parts(version, method)
    for form in FORMS:
        lines = form["render_statuses"](parts, hashes, [32 * n for n in numbers], statuses)
        assert lines == b"\n".join(expected)
