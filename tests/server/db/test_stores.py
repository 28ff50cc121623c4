"""The committed state and its storage: opening, writing, closing, without a processor."""

import pytest

from electrumx.server.storage.schema import DBError, DBReadError
from tests.server.db.parts import add_blocks, header, stores_in, tip_hash, tx_hash, undo_blocks


def test_a_new_database_is_empty_and_in_the_initial_sync(stores):
    assert (stores.state.height, stores.state.tx_count, stores.fs_height) == (-1, 0, -1)
    assert stores.state.first_sync
    assert stores.opened_in_initial_sync
    assert stores.opened_for_sync


def test_a_reopened_database_has_the_committed_blocks(tmp_path, engine, stores):
    add_blocks(stores, 0, 5)
    stores.close()

    again = stores_in(tmp_path, engine)
    again.open_for_serving()

    assert (again.state.height, again.state.tip) == (5, tip_hash(5))
    assert list(again.tx_counts) == [1, 2, 3, 4, 5, 6]
    assert again.files.read_headers(5, 1) == header(5)
    assert again.files.tx_hashes([0, 5]) == [tx_hash(0), tx_hash(5)]
    assert not again.opened_for_sync
    again.close()


def test_blocks_that_only_the_flat_files_have_are_not_committed(tmp_path, engine, stores):
    add_blocks(stores, 0, 2)
    stores.append_blocks([header(3)], [tx_hash(3)])
    assert (stores.fs_height, stores.state.height) == (3, 2)
    stores.close()

    again = stores_in(tmp_path, engine)
    again.open_for_sync()

    assert (again.fs_height, again.fs_tx_count, len(again.tx_counts)) == (2, 3, 3)
    again.close()


def test_the_initial_sync_lasts_on_disk_until_the_tables_are_done(tmp_path, engine, stores):
    add_blocks(stores, 0, 2)
    stores.leave_initial_sync(tables_due=True)
    stores.write_state()
    assert not stores.state.first_sync
    stores.close()
    again = stores_in(tmp_path, engine)
    again.open_for_sync()
    assert again.state.first_sync

    again.leave_initial_sync(tables_due=True)
    again.tables_done()
    again.write_state()
    again.close()
    third = stores_in(tmp_path, engine)
    third.open_for_sync()
    assert not third.state.first_sync
    third.close()


def test_undoing_lowers_the_height_before_the_counts_and_is_counted(stores):
    add_blocks(stores, 0, 4)
    undo_blocks(stores, 3, 4)

    assert (stores.state.height, stores.fs_height, stores.fs_tx_count) == (2, 2, 3)
    assert list(stores.tx_counts) == [1, 2, 3]
    assert stores.backup_count == 1


def test_committing_makes_the_sequence_odd_until_its_end(stores):
    before = stores.commit_seq
    with stores.committing():
        assert stores.commit_seq == before + 1

    assert (before, stores.commit_seq) == (0, 2)


def test_the_time_spent_is_added_to_the_state_once(stores, monkeypatch):
    now = stores.last_timed + 5
    monkeypatch.setattr("electrumx.server.db.stores.time.monotonic", lambda: now)

    timed = stores.timed(stores.state)

    assert timed.wall_time == stores.state.wall_time + 5
    assert stores.timed(timed).wall_time == timed.wall_time


def test_an_error_while_opening_closes_what_was_opened(tmp_path, engine, stores):
    add_blocks(stores, 0, 2)
    stores.close()
    (tmp_path / "meta" / "hashes0000").unlink()

    again = stores_in(tmp_path, engine)
    for _ in range(2):
        with pytest.raises(DBError, match="is missing where"):
            again.open_for_sync()
        assert again.utxo_db is None
        assert again.history.db is None


def test_an_error_of_the_disk_is_explained_and_others_stay(stores):
    other = KeyError("x")

    assert stores.explain_read(other) is other
    explained = stores.explain_read(OSError(5, "Input/output error"))
    assert isinstance(explained, DBReadError)
    assert "Input/output error" in str(explained)


def test_closing_twice_is_harmless(stores):
    stores.close()
    stores.close()

    assert stores.utxo_db is None
