"""Merging history rows: by steps, while serving, when the ids run out, and with the server stopped."""

import asyncio
import os
import random
import threading
import time
from contextlib import contextmanager

import pytest

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.lib.util import pack_le_uint32
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB
from electrumx.server.history.row_compaction import CompactionPass, RowMerger, compact_prefixes
from electrumx.server.history.store import History
from electrumx.server.runtime import fault_points as faults
from electrumx.server.storage.base import db_class
from electrumx.server.storage.leveldb import LevelDB
from electrumx.server.storage.rocksdb import RocksDB
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    HistState,
    hist_key,
    hist_key_flush_id,
    pack_tx_num,
)
from tests.fakes.chain import GENESIS, GENESIS_HEADER, MINUS_1, NULL, ChainMaker, Model, hashX_of
from tests.fakes.chain import make_block as block_of
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env


class Stop(BaseException):
    """Stands for a kill between two writes."""


@pytest.fixture
def no_sync(monkeypatch):
    """Do without waiting for the disk, which is most of the time of a small flush."""

    @contextmanager
    def leveldb_batch(self):
        with self.db.write_batch(transaction=True) as batch:
            yield batch

    @contextmanager
    def rocksdb_batch(self):
        batch = self.module.WriteBatch(raw_mode=True)
        yield batch
        self.db.write(batch)

    monkeypatch.setattr(LevelDB, "write_batch", leveldb_batch)
    monkeypatch.setattr(RocksDB, "write_batch", rocksdb_batch)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def pack(numbers):
    return b"".join(map(pack_tx_num, numbers))


# -- steps


def random_rows(choose, max_id, max_entries):
    ids = sorted(choose.sample(range(max_id + 1), choose.randint(1, max_id + 1)))
    tx_num = 0
    rows = []
    for flush_id in ids:
        numbers = []
        for _ in range(choose.choice([1, 1, 2, 5, max_entries, 3 * max_entries])):
            tx_num += choose.randint(1, 9)
            numbers.append(tx_num)
        rows.append((hist_key(b"h" * 11, flush_id), pack(numbers)))
    return rows


def history_of(rows):
    return b"".join(rows[key] for key in sorted(rows))


def test_every_step_keeps_a_script_s_history_and_the_last_leaves_full_rows():
    for seed in range(300):
        choose = random.Random(seed)
        max_id = choose.choice([1, 5, 40])
        row_bytes = 5 * choose.choice([1, 3, 10])
        before = random_rows(choose, max_id, row_bytes // 5)
        store = dict(before)
        expected = history_of(store)
        merger = RowMerger(b"h" * 11, before, row_bytes, max_id)
        for step in merger.steps(choose.choice([1, 100, 10**6]), choose.choice([1, 7, 10**6])):
            for key in step.deletes:
                del store[key]
            store.update(step.puts)
            assert history_of(store) == expected
            assert all(hist_key_flush_id(key) <= max_id for key in store)
        ids = [hist_key_flush_id(key) for key in sorted(store)]
        assert merger.highest == ids[-1]
        if len(expected) <= row_bytes * (max_id + 1):
            assert ids == list(range(len(ids)))
            assert all(len(store[key]) == row_bytes for key in sorted(store)[:-1])
        else:
            assert store == dict(before)


def test_a_step_is_bounded_where_the_ids_allow_it():
    rows = [(hist_key(b"h" * 11, n), pack([n])) for n in range(5000)]
    steps = list(RowMerger(b"h" * 11, rows, 12_500 * 5, 60_000).steps(10**6, 100))
    assert len(steps) > 49
    assert all(len(step.deletes) <= 100 for step in steps)


def test_new_rows_are_merged_into_the_last_one_as_if_all_were_read():
    for seed in range(300):
        choose = random.Random(seed)
        row_bytes = 5 * choose.choice([1, 3, 10])
        limit = choose.choice([20, 40])
        store = dict(random_rows(choose, limit, row_bytes // 5))
        full_hist = history_of(store)
        steps = list(RowMerger(b"h" * 11, sorted(store.items()), row_bytes, limit).steps(1, 1))
        if len(full_hist) > row_bytes * (limit + 1):
            assert [] == steps
            continue
        store = {
            hist_key(b"h" * 11, n): full_hist[start : start + row_bytes]
            for n, start in enumerate(range(0, len(full_hist), row_bytes))
        }
        last = len(store) - 1
        for n in range(choose.randint(1, 9)):
            store[hist_key(b"h" * 11, limit + 1 + n)] = pack([10**6 + n] * choose.randint(1, 9))
        expected = history_of(store)
        rows = sorted(store.items())[last:]
        merger = RowMerger(b"h" * 11, rows, row_bytes, limit + n + 1, last)
        for step in merger.steps(choose.choice([1, 100]), choose.choice([1, 7])):
            for key in step.deletes:
                del store[key]
            store.update(step.puts)
            assert history_of(store) == expected
        assert merger.merged is (len(expected) <= row_bytes * (limit + n + 2))
        if merger.merged:
            assert [hist_key_flush_id(key) for key in sorted(store)] == [*range(len(store))]
            assert all(len(store[key]) == row_bytes for key in sorted(store)[:-1])
            assert merger.highest == len(store) - 1


def test_rows_that_are_full_already_need_no_step():
    rows = [(hist_key(b"h" * 11, n), pack(range(10 * n, 10 * n + 10))) for n in range(20)]
    assert [] == list(RowMerger(b"h" * 11, rows, 50, 100).steps(100, 100))


# -- a history of its own


class Opened:
    """A history store and the flush count that the UTXOs have seen, as in two stores."""

    def __init__(self, engine, folder):
        self.engine = engine
        self.folder = folder
        self.utxo_flush_count = 0
        self.tx_count = 0
        self.opened = None

    def open(self, compacting=False):
        if self.opened:
            self.opened.close_db()
        history = self.opened = History(set_utxo_flush_count=self._set)
        history.max_hist_row_entries = 5
        count = history.open_db(
            db_class(self.engine),
            False,
            self.utxo_flush_count,
            compacting,
            str(self.folder / "hist"),
            self.tx_count,
        )
        self.utxo_flush_count = count
        return history

    def _set(self, count):
        self.utxo_flush_count = count

    def agree(self):
        return self.utxo_flush_count == self.opened.flush_count

    def flush(self, touched):
        """One flush of a transaction: history, then UTXOs."""
        self.opened.add_unflushed([touched], self.tx_count)
        self.opened.flush()
        self.tx_count += 1
        self.utxo_flush_count = self.opened.flush_count


@pytest.fixture
def store(engine, tmp_path, no_sync):
    store = Opened(engine, tmp_path)
    yield store
    store.opened.close_db()


def fill(store, choose, hashXs, flushes, model):
    for _ in range(flushes):
        touched = choose.sample(hashXs, choose.randint(1, 4))
        for hashX in touched:
            model.setdefault(hashX, []).append(store.tx_count)
        store.flush(touched)


def assert_whole(history, model):
    assert model == {hashX: list(history.get_txnums(hashX, None)) for hashX in model}


def ids(history):
    return {hist_key_flush_id(key) for key, _ in history.db.iterator() if len(key) == HIST_KEY_LEN}


class SmallSlices(CompactionPass):
    # By count, never by the clock: what happens between them is chosen by a seed.
    PREPARE_SECS = 3600
    SLICE_BYTES = 30
    SLICE_ROWS = 4
    FINISH_SCRIPTS = 2
    TAIL_ROWS = 20
    TAIL_SCRIPTS = 6


def stop_at_write(number):
    """Make the write of that number raise after it was done; return the list of writes seen."""
    seen = []

    def hook(name):
        if name.startswith("compaction"):
            seen.append(name)
            if len(seen) == number:
                raise Stop

    faults.hook = hook
    return seen


@pytest.fixture(autouse=True)
def no_hook():
    yield
    faults.hook = None


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_pass_between_flushes_and_backups_shows_whole_histories_and_frees_the_ids(store, seed):
    choose = random.Random(seed)
    hashXs = [choose.randbytes(11) for _ in range(25)]
    model = {}
    history = store.open()
    fill(store, choose, hashXs, 300, model)
    compaction = SmallSlices(history, store.agree)
    while not compaction.done:
        compaction.prepare()
        # Between reading and writing, so that the rows read are out of date.
        if choose.random() < 0.3 and store.tx_count < 500:
            fill(store, choose, hashXs, 1, model)
        elif choose.random() < 0.1:
            store.tx_count -= 2
            history.backup(hashXs, store.tx_count)
            for numbers in model.values():
                numbers[:] = [n for n in numbers if n < store.tx_count]
        assert compaction.write()
        assert_whole(history, model)
    assert history.flush_count == store.utxo_flush_count == max(ids(history)) < 60
    assert not history.changes.active
    fill(store, choose, hashXs, 20, model)
    assert_whole(store.open(), model)


class CountedStore:
    """Passes everything on to a store, and counts the rows that are read of it."""

    def __init__(self, store):
        self.store = store
        self.count = 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    def get(self, key):
        self.count += 1
        return self.store.get(key)

    def iterator(self, *args, **kwargs):
        for row in self.store.iterator(*args, **kwargs):
            self.count += 1
            yield row


def compact_counting(store, model, between):
    """Make a pass, calling ``between`` before and after each reading; return it and figures.

    They are the most rows read while the lock is held, and those read without it once all
    scripts were scanned.
    """
    history = store.opened
    counted = history.db = CountedStore(history.db)
    compaction = CompactionPass(history, store.agree)
    most_locked = caught_up = 0
    while not compaction.done:
        between(compaction)
        counted.count = 0
        compaction.prepare()
        if compaction.rounds > 1:
            caught_up += counted.count
        between(compaction)
        counted.count = 0
        assert compaction.write()
        most_locked = max(most_locked, counted.count)
    history.db = counted.store
    assert_whole(history, model)
    assert history.flush_count == store.utxo_flush_count == max(ids(history))
    return compaction, most_locked, caught_up


def test_few_rows_are_read_with_the_lock_held_however_many_scripts_in_use_have(store):
    choose = random.Random(6)
    hashXs = [choose.randbytes(11) for _ in range(12)]
    model = {}
    history = store.open()
    history.max_hist_row_entries = 500
    fill(store, choose, hashXs, 4_000, model)
    assert all(len(numbers) > 500 for numbers in model.values())
    fill_1 = lambda _compaction: fill(store, choose, hashXs, 1, model)  # noqa: E731
    compaction, most_locked, caught_up = compact_counting(store, model, fill_1)
    # The slices before the finish hold, too: all these scripts were flushed since.
    assert compaction.rows_deleted > 9_000
    assert compaction.rounds <= 4
    assert 0 < most_locked < 60
    assert caught_up < 100
    fill(store, choose, hashXs, 20, model)
    assert_whole(store.open(), model)


def test_scripts_that_a_reorganisation_cut_are_not_read_with_the_lock_held(store):
    choose = random.Random(7)
    hashXs = [choose.randbytes(11) for _ in range(5)]
    model = {}
    history = store.open()
    history.max_hist_row_entries = 500
    fill(store, choose, hashXs, 2_000, model)
    reorganised = []

    def reorganise(compaction):
        # At first among the steps of a slice, and then whenever it could finish.
        if len(reorganised) < 8 and compaction.has_work:
            reorganised.append(compaction.rounds)
            store.tx_count -= 3
            history.backup(hashXs, store.tx_count)
            for numbers in model.values():
                numbers[:] = [n for n in numbers if n < store.tx_count]
            fill(store, choose, hashXs, 3, model)

    _compaction, most_locked, _caught_up = compact_counting(store, model, reorganise)
    assert len(reorganised) == 8
    assert len(set(reorganised)) > 2
    assert most_locked < 60
    fill(store, choose, hashXs, 20, model)
    assert_whole(store.open(), model)


def test_what_is_known_of_a_script_is_kept_up_to_date_in_rounds_of_many_scripts(store):
    class NoneAtTheEnd(CompactionPass):
        FINISH_SCRIPTS = 0
        TAIL_SCRIPTS = 1

    model = {}
    history = store.open()
    history.max_hist_row_entries = 2
    a, b = b"a" * 11, b"b" * 11

    def flush(*touched):
        for hashX in touched:
            model.setdefault(hashX, []).append(store.tx_count)
        store.flush(touched)

    for _ in range(30):
        flush(a, b)
    compaction = NoneAtTheEnd(history, store.agree)
    # In the round of one script it is noted where its rows end, and the next round adds some.
    for touched in ([a], [a, b], [a, b], [a, b], [a, b], [a], [a, b], [a]):
        while not compaction.exhausted:
            compaction.prepare()
            if not compaction.exhausted:
                compaction.write()
        flush(*touched)
        compaction.write()
        assert_whole(history, model)
    while not compaction.done:
        compaction.prepare()
        compaction.write()
    assert_whole(store.open(), model)
    assert store.opened.flush_count == max(ids(store.opened)) == 18


def test_a_finish_that_new_scripts_delay_comes_after_some_rounds(store, monkeypatch):
    monkeypatch.setattr(SmallSlices, "MAX_ROUNDS", 5)
    choose = random.Random(8)
    model = {}
    store.open()
    fill(store, choose, [b"a" * 11, b"b" * 11, b"c" * 11, b"d" * 11], 50, model)
    compaction = SmallSlices(store.opened, store.agree)
    while not compaction.done:
        compaction.prepare()
        fill(store, choose, [choose.randbytes(11) for _ in range(4)], 1, model)
        compaction.write()
    # The finish is one round more.
    assert compaction.rounds == 6
    assert_whole(store.open(), model)
    assert store.opened.flush_count == store.utxo_flush_count == max(ids(store.opened)) < 30


def test_a_pass_that_is_begun_before_the_coins_of_a_flush_waits_to_read(store):
    choose = random.Random(9)
    hashXs = [choose.randbytes(11) for _ in range(9)]
    model = {}
    history = store.open()
    fill(store, choose, hashXs, 60, model)
    before = dict(history.db.iterator())
    history.add_unflushed([hashXs], store.tx_count)
    history.flush()
    compaction = CompactionPass(history, store.agree)
    compaction.prepare()
    assert compaction.has_work
    assert not compaction.write()
    assert {key: history.db.get(key) for key in before if len(key) == HIST_KEY_LEN}.items() < (
        before.items()
    )
    for hashX in hashXs:
        model.setdefault(hashX, []).append(store.tx_count)
    store.tx_count += 1
    store.utxo_flush_count = history.flush_count
    compaction.run_to_end()
    assert_whole(store.open(), model)
    assert store.opened.flush_count == max(ids(store.opened)) < 30


def test_a_stop_at_any_write_of_a_pass_is_harmless(store):
    choose = random.Random(2)
    hashXs = [choose.randbytes(11) for _ in range(25)]
    model = {}
    store.open()
    fill(store, choose, hashXs, 100, model)
    stops = 0
    number = 1
    finished = False
    while not finished:
        history = store.open()
        assert_whole(history, model)
        assert store.agree()
        fill(store, choose, hashXs, 5, model)
        stop_at_write(number)
        number += 1
        compaction = SmallSlices(history, store.agree)
        try:
            while not compaction.done:
                compaction.prepare()
                if choose.random() < 0.1 and store.tx_count < 2000:
                    fill(store, choose, hashXs, 1, model)
                compaction.write()
            finished = True
        except Stop:
            stops += 1
        faults.hook = None
        assert max(ids(history)) <= max(history.flush_count, store.utxo_flush_count)
    history = store.open()
    assert_whole(history, model)
    fill(store, choose, hashXs, 30, model)
    assert_whole(store.open(), model)
    assert stops > 9


def test_a_stop_in_the_finish_is_repaired_by_the_ordinary_clearing(store):
    choose = random.Random(3)
    hashXs = [choose.randbytes(11) for _ in range(9)]
    for name in ("data written", "utxo flush count lowered", "flush count lowered"):
        model = {}
        store.tx_count = store.utxo_flush_count = 0
        store.folder = store.folder / "next"
        store.folder.mkdir()
        history = store.open()
        fill(store, choose, hashXs, 80, model)

        def hook(seen, name=name):
            if seen == f"compaction: {name}":
                raise Stop

        faults.hook = hook
        with pytest.raises(Stop):
            CompactionPass(history, store.agree).run_to_end()
        faults.hook = None
        history = store.open()
        # The count is lowered by the clearing from the second write on; before, it waits.
        assert (history.flush_count == 80) is (name == "data written")
        fill(store, choose, hashXs, 10, model)
        assert_whole(store.open(), model)


def test_a_pass_waits_for_the_utxos_of_a_history_flush(store):
    choose = random.Random(4)
    hashXs = [choose.randbytes(11) for _ in range(9)]
    model = {}
    history = store.open()
    fill(store, choose, hashXs, 60, model)
    compaction = CompactionPass(history, store.agree)
    history.add_unflushed([hashXs], store.tx_count)
    history.flush()
    while not compaction.has_work:
        compaction.prepare()
    while compaction.write():
        compaction.prepare()
    assert not compaction.done
    # A kill now loses the flush, and nothing else.
    assert store.open().flush_count == 60
    assert_whole(store.opened, model)


@pytest.mark.parametrize("row_entries", [5, 12_500])
def test_a_script_that_would_need_higher_ids_than_there_are_flushes_is_unchanged(
    store, row_entries
):
    history = store.open()
    history.max_hist_row_entries = row_entries
    hashX, other = b"a" * 11, b"b" * 11
    for numbers in (range(20), range(20, 60)):
        history.add_unflushed([[hashX]] * len(numbers), numbers[0])
        history.flush()
        store.tx_count = numbers[-1] + 1
        store.utxo_flush_count = history.flush_count
    store.flush([other])
    before = dict(history.db.iterator(prefix=hashX))
    CompactionPass(history, store.agree).run_to_end()
    assert history.flush_count == store.utxo_flush_count == (2 if row_entries == 5 else 1)
    assert (before == dict(history.db.iterator(prefix=hashX))) is (row_entries == 5)
    store.flush([hashX])
    expected = {hashX: [*range(60), 61], other: [60]}
    assert_whole(store.open(), expected)


def test_the_tool_s_pass_leaves_such_a_script_alone_and_keeps_the_count_above_it(store):
    history = store.open()
    hashX = b"a" * 11
    for first in (0, 20):
        history.add_unflushed([[hashX]] * 20, first)
        history.flush()
    store.tx_count = 40
    store.utxo_flush_count = 2
    history.comp_cursor, history.comp_flush_count = 0, 1
    while history.comp_cursor != -1:
        compact_prefixes(history, 1000)
    assert history.flush_count == store.utxo_flush_count == 2
    store.flush([hashX])
    assert_whole(store.open(), {hashX: list(range(41))})


# -- as ElectrumX leaves it


def test_an_interrupted_compaction_of_electrumx_with_high_ids_keeps_every_entry(store):
    """Its tool makes ids above a low flush count, which the next flushes would overwrite."""
    history = store.open()
    hashX = b"a" * 11
    model = {hashX: list(range(40))}
    with history.db.write_batch() as batch:
        for n in range(8):
            batch.put(hist_key(hashX, n), pack(range(5 * n, 5 * n + 5)))
        batch.put(b"state\0\0", HistState(2, comp_flush_count=7, comp_cursor=0x6200).pack())
    store.utxo_flush_count, store.tx_count = 2, 40
    history = store.open()
    assert history.flush_count == store.utxo_flush_count == 7
    assert HistState.parse(history.db.get(b"state\0\0")) == HistState(7)
    for _ in range(3):
        model[hashX].append(store.tx_count)
        store.flush([hashX])
    assert_whole(store.open(), model)


def test_a_compaction_of_electrumx_that_ended_before_its_last_write_keeps_every_entry(store):
    """It raises the history's count over the other one: no row of it is excess."""
    history = store.open()
    hashX, other = b"a" * 11, b"b" * 11
    with history.db.write_batch() as batch:
        for n in range(8):
            batch.put(hist_key(hashX, n), pack(range(5 * n, 5 * n + 5)))
        batch.put(hist_key(other, 8), pack([40, 41]))
        batch.put(b"state\0\0", HistState(8).pack())
    store.utxo_flush_count, store.tx_count = 2, 40
    history = store.open()
    assert_whole(history, {hashX: list(range(40)), other: []})
    assert history.flush_count == store.utxo_flush_count == 7


def test_the_tool_goes_on_with_a_compaction_of_electrumx(store):
    choose = random.Random(5)
    hashXs = [choose.randbytes(11) for _ in range(30)]
    model = {}
    history = store.open()
    fill(store, choose, hashXs, 200, model)
    history.comp_cursor, history.comp_flush_count = 0, 1
    for _ in range(5):
        compact_prefixes(history, 100)
        cursor = history.comp_cursor
        history = store.open(compacting=True)
        assert history.comp_cursor == cursor > 0
        assert_whole(history, model)
    while history.comp_cursor != -1:
        compact_prefixes(history, 100)
    assert history.flush_count == store.utxo_flush_count == max(ids(history)) < 40
    fill(store, choose, hashXs, 20, model)
    assert_whole(store.open(), model)


# -- in the server


@pytest.fixture
def low_limits(monkeypatch):
    monkeypatch.setattr(History, "COMPACT_FLUSH_COUNT", 40)
    monkeypatch.setattr(History, "OPEN_COMPACT_FLUSH_COUNT", 70)
    monkeypatch.setattr(History, "HOLD_FLUSH_COUNT", 80)


async def test_a_server_compacts_in_the_background_while_the_chain_reorganises(
    tmp_path, engine, low_limits, no_sync
):
    maker = ChainMaker(seed=31)
    choose = random.Random(32)
    tip = maker.grow(maker.genesis_hash, 20)
    daemon = ScriptedDaemon(maker.chain(tip))
    scripts = [hashX_of(script) for script in maker.draws.scripts]
    highest = 0
    async with World(make_env(tmp_path, engine=engine), daemon) as world:
        await world.until_at(maker.chain(tip))
        history = world.db.history
        passes = 0
        last = 0
        while passes < 2:
            if choose.random() < 0.2:
                for _ in range(choose.randint(1, 4)):
                    tip = maker.blocks[tip][1]
            tip = maker.grow(tip, 1 if choose.random() < 0.9 else 6)
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
            highest = max(highest, history.flush_count)
            passes += history.flush_count < last
            last = history.flush_count
            if choose.random() < 0.05:
                await assert_equals_model(world.db, Model(maker.chain(tip)), scripts)
        await assert_equals_model(world.db, Model(maker.chain(tip)), scripts)
    assert highest < 90
    db = DB(make_env(tmp_path, engine=engine))
    await db.open_for_serving()
    await assert_equals_model(db, Model(maker.chain(tip)), scripts)
    db.close_dbs()


async def test_processing_holds_when_the_last_ids_are_reached(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(History, "COMPACT_FLUSH_COUNT", 10**6)
    monkeypatch.setattr(History, "HOLD_FLUSH_COUNT", 12)
    maker = ChainMaker(seed=33)
    chain = maker.chain(maker.grow(maker.genesis_hash, 60))
    daemon = ScriptedDaemon(chain)
    await daemon.height()
    db = DB(make_env(tmp_path, engine=engine))
    await db.open_for_sync()
    bp = BlockProcessor(db.env, db, daemon, None)
    choose = random.Random(34)
    for height, raw in enumerate(chain):
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        # History alone is flushed, too: its rows must not be merged before their coins are there.
        await bp.flush_scheduler.flush(choose.random() < 0.4)
        assert db.history.flush_count <= 13
    await bp.flush_scheduler.flush(True)
    scripts = [hashX_of(script) for script in maker.draws.scripts]
    await assert_equals_model(db, Model(chain), scripts)
    db.close_dbs()


async def test_a_database_that_is_nearly_out_of_ids_is_compacted_at_opening(
    tmp_path, engine, monkeypatch, caplog
):
    maker = ChainMaker(seed=35)
    chain = maker.chain(maker.grow(maker.genesis_hash, 40))
    daemon = ScriptedDaemon(chain)
    await daemon.height()
    env = make_env(tmp_path, engine=engine)
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    # The last rows of an old server have the last ids there are.
    for height, raw in enumerate(chain):
        if height == 38:
            db.history.flush_count = 65_532
        monkeypatch.setattr(History, "HOLD_FLUSH_COUNT", 10**6)
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        await bp.flush_scheduler.flush(True)
    assert db.history.flush_count == 65_535
    db.close_dbs()
    monkeypatch.undo()
    with caplog.at_level("WARNING"):
        async with World(env, daemon) as world:
            await world.until_at(chain)
            assert world.db.history.flush_count < 5
            tip = maker.grow(double_sha256(chain[-1][:80]), 3)
            daemon.set_chain(maker.chain(tip))
            await world.until_at(maker.chain(tip))
            scripts = [hashX_of(script) for script in maker.draws.scripts]
            await assert_equals_model(world.db, Model(maker.chain(tip)), scripts)
    assert "65,535 of 65,535 history flushes are used: compacting" in caplog.text


# -- many flushes


class TinyChain:
    """Blocks of one or two small transactions, made one after the other."""

    def __init__(self, scripts=8):
        self.scripts = [b"\x51" + bytes([n]) for n in range(scripts)]
        self.prev_hash = double_sha256(GENESIS_HEADER)
        self.height = 0
        self.tx_num = 0
        self.coins = []
        self.history = {hashX_of(script): [] for script in self.scripts}

    def next_block(self):
        self.height += 1
        script = self.scripts[self.height % len(self.scripts)]
        coinbase_in = TxInput(NULL, MINUS_1, pack_le_uint32(self.height), MINUS_1)
        txs = [Tx(1, [coinbase_in], [TxOutput(50, script)], 0)]
        touched = [{script}]
        if self.height % 3 == 0:
            spent, owner = self.coins.pop(0)
            other = self.scripts[self.height % 5]
            txs.append(Tx(1, [TxInput(spent, 0, b"", 0)], [TxOutput(50, other)], self.height))
            touched.append({owner, other})
        raw = block_of(self.prev_hash, txs, self.height)
        for tx, scripts in zip(txs, touched, strict=True):
            self.coins.append((double_sha256(tx.serialize()), tx.outputs[0].pk_script))
            for script in scripts:
                self.history[hashX_of(script)].append(self.tx_num)
            self.tx_num += 1
        self.prev_hash = double_sha256(raw[:80])
        return raw


class Reader(threading.Thread):
    """Reads histories, all the time, and notes how long that takes."""

    def __init__(self, history, chain):
        super().__init__()
        self.history = history
        self.chain = chain
        self.stopping = threading.Event()
        self.times = []
        self.errors = []

    def run(self):
        choose = random.Random(1)
        hashXs = list(self.chain.history)
        while not self.stopping.wait(0.002):
            hashX = choose.choice(hashXs)
            committed = len(self.chain.history[hashX]) - 2
            start = time.perf_counter()
            found = list(self.history.get_txnums(hashX, 1000))
            self.times.append(time.perf_counter() - start)
            # The history read is a prefix of the one added; the last block may be missing.
            if found != self.chain.history[hashX][: len(found)] or len(found) < min(
                1000, committed
            ):
                self.errors.append((hashX, len(found), committed))


async def many_flushes(tmp_path, engine, flushes):
    """Index one block at a time, compacting as a server does; return figures."""
    env = make_env(tmp_path, engine=engine, reorg_limit=5)
    daemon = ScriptedDaemon([GENESIS])
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    chain = TinyChain()
    bp.state.advance_blocks(bp.parser.parse_blocks([GENESIS], 0))
    await bp.flush_scheduler.flush(True)
    db.write_caught_up()
    db.close_dbs()
    await db.open_for_serving()
    compacting = asyncio.ensure_future(bp.row_compaction.run())
    reader = Reader(db.history, chain)
    reader.start()
    highest, passes, last = 0, 0, 0
    waits = []
    longest_slice = 0.0
    try:
        for height in range(1, flushes + 1):
            daemon.known_height = height
            bp.state.advance_blocks(bp.parser.parse_blocks([chain.next_block()], height))
            start = time.perf_counter()
            await bp.flush_scheduler.flush(True)
            waits.append(time.perf_counter() - start)
            count = db.history.flush_count
            highest = max(highest, count)
            if count < last:
                passes += 1
                longest_slice = max(longest_slice, db.stores.compaction.longest_slice)
            last = count
            if compacting.done():
                compacting.result()
    finally:
        compacting.cancel()
        await asyncio.gather(compacting, return_exceptions=True)
        reader.stopping.set()
        reader.join()
    assert [] == reader.errors
    for hashX, numbers in chain.history.items():
        assert numbers == list(db.history.get_txnums(hashX, None))
    db.close_dbs()
    return highest, passes, reader.times, waits, longest_slice


def figures(times):
    """Return the median of each tenth of the times, in microseconds."""
    tenth = len(times) // 10
    return [
        round(1e6 * sorted(times[n : n + tenth])[tenth // 2]) for n in range(0, tenth * 10, tenth)
    ]


@pytest.mark.slow
async def test_thousands_of_one_block_flushes_never_run_out_of_ids(
    tmp_path, engine, monkeypatch, no_sync
):
    monkeypatch.setattr(History, "COMPACT_FLUSH_COUNT", 1_000)
    monkeypatch.setattr(History, "HOLD_FLUSH_COUNT", 3_000)
    highest, passes, times, _waits, _slice = await many_flushes(tmp_path, engine, 6_000)
    assert passes >= 2
    assert highest <= 3_001
    # Reading is as fast in the end as it was early on, give or take the noise of the machine.
    medians = figures(times)
    assert medians[-1] < 5 * max(medians[:3]) + 1000


@pytest.mark.soak
async def test_two_hundred_thousand_one_block_flushes_never_run_out_of_ids(
    tmp_path, engine, no_sync, capsys
):
    start = time.perf_counter()
    highest, passes, times, waits, longest = await many_flushes(tmp_path, engine, 200_000)
    with capsys.disabled():
        print(
            f"\n{engine}: {passes} passes, highest id {highest:,d}, "
            f"{time.perf_counter() - start:.0f} s\n"
            f"median read by tenth, µs: {figures(times)}; longest {max(times) * 1e3:.1f} ms\n"
            f"median flush by tenth, µs: {figures(waits)}; longest {max(waits) * 1e3:.1f} ms\n"
            f"longest slice {longest * 1e3:.1f} ms"
        )
    assert passes >= 2
    assert highest < 65_530
