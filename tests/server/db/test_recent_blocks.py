"""Undo rows and raw blocks are kept for as many heights as can be undone."""

import pytest

from electrumx.server.storage.schema import DBDamagedError, undo_key
from tests.server.db.parts import REORG_LIMIT, add_blocks, stores_in


def heights_with_undo_rows(stores, last):
    recent = stores.recent_blocks
    return [h for h in range(last + 1) if recent.undo_info(stores.utxo_db, h) is not None]


def test_the_window_ends_at_the_tip(stores):
    assert stores.recent_blocks.lowest_height(100) == 100 - REORG_LIMIT + 1


def test_flushing_deletes_the_undo_rows_that_fall_out_of_the_window(stores):
    stores.leave_initial_sync(tables_due=False)
    add_blocks(stores, 0, 11)
    add_blocks(stores, 12, 20)

    assert heights_with_undo_rows(stores, 20) == list(range(11, 21))


def test_the_initial_sync_keeps_undo_rows_until_the_next_opening(tmp_path, engine, stores):
    add_blocks(stores, 0, 20)
    assert heights_with_undo_rows(stores, 20) == list(range(21))
    stores.close()

    again = stores_in(tmp_path, engine)
    again.open_for_serving()

    assert heights_with_undo_rows(again, 20) == list(range(11, 21))
    again.close()


def test_an_undo_row_that_is_not_whole_is_damage(stores):
    stores.utxo_db.put(undo_key(3), bytes(25))

    with pytest.raises(DBDamagedError, match="of height 3, has 25 bytes"):
        stores.recent_blocks.undo_info(stores.utxo_db, 3)


def test_writing_a_raw_block_deletes_the_one_that_falls_out(stores):
    recent = stores.recent_blocks
    for height in range(REORG_LIMIT + 2):
        recent.write_raw_block(b"block %d" % height, height)

    assert sorted(stores.files.raw_block_heights()) == list(range(2, REORG_LIMIT + 2))
    assert recent.raw_block(5) == b"block 5"
    with pytest.raises(FileNotFoundError):
        recent.raw_block(1)
