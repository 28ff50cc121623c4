"""Orphaned rows are found by the scripts of the interrupted flush, without reading all history."""

import random

import pytest

from electrumx.server.history.flush_journal import FlushJournal
from electrumx.server.history.store import History
from electrumx.server.storage.base import Storage, db_class
from electrumx.server.storage.schema import HIST_KEY_LEN, pack_tx_num


class World:
    """A history beside the flush count of UTXOs."""

    def __init__(self, folder, engine):
        self.name = str(folder / "hist")
        self.engine = db_class(engine)
        self.seen = 0
        self.tx_count = 0
        self.history = None

    def open(self):
        self.history = History(utxo_flush_count=lambda: self.seen)
        return self.history.open_db(self.engine, True, self.seen, False, self.name, self.tx_count)

    def flush(self, choose, *, whole):
        for _ in range(choose.randint(1, 9)):
            scripts = {bytes([choose.randrange(40)]) * 11 for _ in range(3)}
            self.history.add_unflushed([scripts], self.next_tx)
            self.next_tx += 1
        self.history.flush()
        if whole:
            self.seen, self.tx_count = self.history.flush_count, self.next_tx

    next_tx = 0

    def rows(self):
        return {key: row for key, row in self.history.db.iterator() if len(key) == HIST_KEY_LEN}


@pytest.fixture
def scans(monkeypatch, engine):
    """Return a list of the prefixes of iterators that are made."""
    made = []
    klass = db_class(engine)
    iterator = klass.iterator

    def noted(self, prefix=b"", reverse=False, start=b""):
        made.append(prefix)
        return iterator(self, prefix, reverse, start)

    monkeypatch.setattr(klass, "iterator", noted)
    assert issubclass(klass, Storage)
    return made


@pytest.mark.parametrize("seed", range(5))
def test_interrupted_flushes_are_deleted_without_a_scan(tmp_path, engine, scans, seed):
    choose = random.Random(seed)
    world = World(tmp_path, engine)
    world.open()
    for _ in range(4):
        for _ in range(choose.randint(1, 3)):
            world.flush(choose, whole=True)
        expected = world.rows()
        for _ in range(choose.randint(1, 4)):
            world.flush(choose, whole=False)
        assert world.rows() != expected
        world.history.close_db()
        scans.clear()
        assert world.open() == world.seen
        assert b"" not in scans
        assert world.rows() == expected
        world.next_tx = world.tx_count
    world.history.close_db()


@pytest.mark.parametrize("fault", ["no file", "short", "flipped", "opened", "another flush"])
def test_where_the_file_does_not_fit_all_rows_are_read(tmp_path, engine, scans, fault):
    choose = random.Random(fault)
    world = World(tmp_path, engine)
    world.open()
    world.flush(choose, whole=True)
    expected = world.rows()
    world.flush(choose, whole=False)
    world.flush(choose, whole=False)
    path = tmp_path / "hist_flushes"
    if fault == "another flush":
        # As another server, which leaves no note, goes on.
        world.history._utxo_flush_count = None
        world.flush(choose, whole=False)
    world.history.close_db()
    raw = path.read_bytes()
    if fault == "no file":
        path.unlink()
    elif fault == "short":
        path.write_bytes(raw[:-1])
    elif fault == "flipped":
        at = choose.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    elif fault == "opened":
        world.engine(world.name, False).close()
    scans.clear()
    world.open()
    assert b"" in scans
    assert world.rows() == expected
    world.history.close_db()


def test_rows_below_the_committed_transactions_stay(tmp_path, engine):
    choose = random.Random(1)
    world = World(tmp_path, engine)
    world.open()
    world.flush(choose, whole=True)
    world.flush(choose, whole=False)
    everything = world.rows()
    world.history.close_db()
    # All that the last flush wrote is committed, as rows of a compaction are.
    world.tx_count = world.next_tx
    counts = []
    world.history = History(counts.append, utxo_flush_count=lambda: world.seen)
    history = History(set_utxo_flush_count=counts.append, utxo_flush_count=lambda: world.seen)
    history.open_db(world.engine, True, world.seen, False, world.name, world.tx_count)
    world.history = history
    assert world.rows() == everything
    assert counts == [2]
    history.close_db()


def test_staged_rows_are_dropped_without_a_scan(tmp_path, engine, scans):
    choose = random.Random(2)
    world = World(tmp_path, engine)
    world.open()
    for _ in range(3):
        world.flush(choose, whole=True)
    touched = {key[:11] for key in world.rows()}
    world.tx_count = world.next_tx = world.next_tx - 2
    world.history.park(touched, world.tx_count)
    world.history.close_db()
    scans.clear()
    world.open()
    assert b"" not in scans
    numbers = [row[n : n + 5] for row in world.rows().values() for n in range(0, len(row), 5)]
    assert pack_tx_num(world.tx_count - 1) in numbers
    assert pack_tx_num(world.tx_count) not in numbers
    world.history.close_db()


def test_sections_are_those_since_the_last_whole_flush(tmp_path):
    (tmp_path / "hist").mkdir()
    (tmp_path / "hist" / "CURRENT").write_text("MANIFEST-1\n")
    journal = FlushJournal(str(tmp_path / "hist"))
    for flush_id, is_first in ((1, True), (2, False), (3, True), (4, False)):
        journal.write(flush_id, bytes([flush_id]) * 22, is_first=is_first)
    assert journal.hashXs(3, 4) == [b"\3" * 22, b"\4" * 22]
    assert journal.hashXs(3, 3) == [b"\3" * 22]
    assert journal.hashXs(2, 3) is None
    assert journal.hashXs(4, 5) is None
