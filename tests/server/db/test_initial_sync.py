"""The initial sync ends with the engine's options for use, and compacted tables."""

import pytest

from electrumx.server.db.initial_sync import InitialSync
from electrumx.server.storage.schema import STATE_KEY, CommittedState
from tests.server.db.parts import LOGGER, add_blocks, stores_in


@pytest.fixture
def initial_sync(stores):
    return InitialSync(stores, LOGGER)


def first_sync_on_disk(stores):
    return CommittedState.parse(stores.utxo_db.get(STATE_KEY)).first_sync


def test_catching_up_ends_bulk_load_and_compacts_once(stores, initial_sync):
    add_blocks(stores, 0, 5)
    assert stores.utxo_db.bulk_loading

    initial_sync.end_bulk_load()
    initial_sync.write_caught_up()
    assert not stores.utxo_db.bulk_loading
    assert not stores.history.db.bulk_loading
    assert not stores.state.first_sync
    assert first_sync_on_disk(stores)

    assert initial_sync.compact_tables()
    initial_sync.write_compacted()
    assert not first_sync_on_disk(stores)
    assert not initial_sync.compact_tables()


def test_a_chain_without_blocks_needs_no_compaction(stores, initial_sync):
    initial_sync.end_bulk_load()
    initial_sync.write_caught_up()

    assert not first_sync_on_disk(stores)
    assert not initial_sync.compact_tables()


def test_a_compaction_that_fails_is_not_tried_again(stores, initial_sync, monkeypatch):
    def fail(_store):
        raise OSError("no space left on device")

    add_blocks(stores, 0, 5)
    initial_sync.end_bulk_load()
    monkeypatch.setattr(type(stores.utxo_db), "compact", fail)

    with pytest.raises(OSError, match="no space left"):
        initial_sync.compact_tables()
    assert not initial_sync.compact_tables()


def test_closing_leaves_the_compaction_to_the_next_start(tmp_path, engine, stores, initial_sync):
    add_blocks(stores, 0, 5)
    initial_sync.end_bulk_load()
    initial_sync.write_caught_up()
    stores.close()

    assert not initial_sync.compact_tables()
    initial_sync.write_compacted()
    again = stores_in(tmp_path, engine)
    again.open_for_sync()
    assert again.state.first_sync
    again.close()


def test_a_store_too_large_to_compact_leaves_bulk_load_early(stores, initial_sync, monkeypatch):
    initial_sync.end_bulk_load_if_large()
    assert stores.utxo_db.bulk_loading

    monkeypatch.setattr(type(stores.utxo_db), "COMPACT_BYTES", -1)
    initial_sync.end_bulk_load_if_large()
    assert not stores.utxo_db.bulk_loading
