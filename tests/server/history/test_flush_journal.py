"""Orphaned rows are found by the scripts of the interrupted flush, without reading all history."""

import errno
import random

import pytest

from electrumx.server.history import flush_journal
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
        world.history.utxo_flush_count = lambda: None
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
    world.history.stage(touched, world.tx_count)
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
        journal.write(flush_id, [bytes([flush_id]) * 22], is_first=is_first)

    def noted(first_id, last_id):
        found = journal.sections(first_id, last_id)
        return found and [list(journal.hashXs(section)) for section in found]

    assert noted(3, 4) == [[b"\3" * 11] * 2, [b"\4" * 11] * 2]
    assert noted(3, 3) == [[b"\3" * 11] * 2]
    assert noted(2, 3) is None
    assert noted(4, 5) is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_sections_are_read_in_pieces(tmp_path, monkeypatch, count):
    monkeypatch.setattr(flush_journal, "PIECE_SCRIPTS", 2)
    (tmp_path / "hist").mkdir()
    (tmp_path / "hist" / "CURRENT").write_text("MANIFEST-1\n")
    journal = FlushJournal(str(tmp_path / "hist"))
    scripts = [bytes([n]) * 11 for n in range(count)]
    journal.write(1, iter(scripts), is_first=True)
    journal.write(2, [b"".join(reversed(scripts))], is_first=False)
    first, second = journal.sections(1, 2)
    assert list(journal.hashXs(first)) == scripts
    assert list(journal.hashXs(second)) == scripts[::-1]
    path = tmp_path / "hist_flushes"
    path.write_bytes(path.read_bytes()[:-1])
    assert journal.sections(1, 2) is None
    assert journal.sections(1, 1) == [first]


def test_the_entry_of_the_file_is_on_disk_even_if_the_first_write_failed(tmp_path, monkeypatch):
    (tmp_path / "hist").mkdir()
    (tmp_path / "hist" / "CURRENT").write_text("MANIFEST-1\n")
    synced, full = [], [True]

    def fsync(_fd):
        if full:
            raise OSError(full.pop() and errno.ENOMEM, "no memory")

    monkeypatch.setattr(flush_journal.util, "sync_directory", synced.append)
    monkeypatch.setattr(flush_journal.os, "fsync", fsync)
    journal = FlushJournal(str(tmp_path / "hist"))
    with pytest.raises(OSError, match="no memory"):
        journal.write(1, [bytes(11)], is_first=True)
    assert synced == []
    journal.write(1, [bytes(11)], is_first=True)
    journal.write(2, [bytes(11)], is_first=True)
    assert synced == [tmp_path]


def test_a_store_whose_stamp_cannot_be_read_has_none(tmp_path):
    journal = FlushJournal(str(tmp_path / "hist"))
    journal.write(1, [bytes(11)], is_first=True)
    assert journal.sections(1, 1) is None


def test_a_store_put_in_the_place_of_the_one_noted_is_read_whole(tmp_path, engine, scans):
    """Both are new, so their engines count alike."""
    stores = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        world = World(tmp_path / str(seed), engine)
        world.open()
        choose = random.Random(seed)
        world.flush(choose, whole=True)
        expected = world.rows()
        world.flush(choose, whole=False)
        world.history.close_db()
        stores.append((world, expected))
    (world, _rows), (other, expected) = stores
    assert (tmp_path / "1/hist/CURRENT").read_bytes() == (tmp_path / "2/hist/CURRENT").read_bytes()
    # As another server that notes nothing left it; the file is still that of the first store.
    (tmp_path / "2/hist_flushes").unlink()
    (tmp_path / "1/hist_flushes").rename(tmp_path / "2/hist_flushes")
    scans.clear()
    other.open()
    assert b"" in scans
    assert other.rows() == expected
    other.history.close_db()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("raised", [False, True])
def test_a_stop_between_the_batches_of_a_deletion_is_harmless(
    tmp_path, engine, monkeypatch, seed, raised
):
    choose = random.Random(seed)
    world = World(tmp_path, engine)
    world.open()
    for _ in range(3):
        world.flush(choose, whole=True)
    for _ in range(3):
        world.flush(choose, whole=False)
    if raised:
        # A row of a compaction, with an id that the UTXOs have not seen.
        key = b"\x11" * 11 + (world.history.flush_count).to_bytes(2, "big")
        world.history.db.put(key, pack_tx_num(0))
    seen, first_new = world.seen, world.tx_count
    expected = {
        key: row
        for key, row in world.rows().items()
        if int.from_bytes(row[:5], "little") < first_new
    }
    world.history.close_db()
    if raised:
        # Where rows of others are possible the file does not fit.
        (tmp_path / "hist_flushes").unlink()
    monkeypatch.setattr(History, "CLEAR_KEYS", 5)
    delete = History.delete_rows
    for writes in range(99):
        left = [writes % 3]

        def stopping(self, keys, state=None, left=left):
            if not left[0]:
                raise InterruptedError
            left[0] -= 1
            delete(self, keys, state)

        monkeypatch.setattr(History, "delete_rows", stopping)

        def set_count(count):
            # Nothing else is left of the interrupted flushes by then.
            assert world.rows() == expected
            world.seen = count

        world.history = History(set_utxo_flush_count=set_count, utxo_flush_count=lambda: world.seen)
        try:
            args = (world.engine, True, world.seen, False, world.name, world.tx_count)
            count = world.history.open_db(*args)
            break
        except InterruptedError:
            world.history.close_db()
    assert writes > 2
    assert world.rows() == expected
    assert count == world.seen == (seen + 3 if raised else seen)
    world.history.close_db()


@pytest.mark.parametrize("whole_before", [True, False])
@pytest.mark.parametrize("written", [0, 3, 40])
def test_a_full_disk_while_scripts_are_noted_costs_only_the_flush(
    tmp_path, engine, monkeypatch, whole_before, written
):
    choose = random.Random(written)
    world = World(tmp_path, engine)
    world.open()
    world.flush(choose, whole=True)
    expected = world.rows()
    world.flush(choose, whole=whole_before)
    if whole_before:
        expected = world.rows()
    rows = world.rows()
    write = FlushJournal.write

    def full(self, flush_id, hashXs, *, is_first):
        path = tmp_path / "hist_flushes"
        before, end = path.read_bytes(), self._end
        write(self, flush_id, hashXs, is_first=is_first)
        start = 0 if is_first else end
        now = path.read_bytes()
        path.write_bytes(now[: start + written] + before[start + written :])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(FlushJournal, "write", full)
        with pytest.raises(OSError, match="full"):
            world.flush(choose, whole=False)
    assert world.rows() == rows
    world.history.close_db()
    assert world.open() == world.seen
    assert world.rows() == expected
    world.history.close_db()


def test_flushes_are_noted_from_the_first_that_the_utxos_have_seen(tmp_path, engine, scans):
    """Also one after a count of 0, to which a compaction may lower it."""
    choose = random.Random(1)
    world = World(tmp_path, engine)
    world.history = History(utxo_flush_count=lambda: None)
    world.history.open_db(world.engine, True, 0, False, world.name, 0)
    world.flush(choose, whole=False)
    world.history.close_db()
    assert not list(tmp_path.glob("*flushes*"))

    scans.clear()
    world.open()
    assert b"" in scans
    assert world.rows() == {}
    world.flush(choose, whole=False)
    world.history.close_db()
    scans.clear()
    world.open()
    assert b"" not in scans
    assert world.rows() == {}
