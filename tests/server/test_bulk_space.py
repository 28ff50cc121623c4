"""The disk that a bulk sync needs is estimated from the number of transactions."""

import pytest

from electrumx.lib.coins import Bitcoin
from electrumx.server.bulk_sync.space import SpaceNeeded, space_needed
from electrumx.server.sync_estimate import txs_in_chain


@pytest.mark.parametrize("height", [Bitcoin.TX_COUNT_HEIGHT, Bitcoin.TX_COUNT_HEIGHT - 12_000])
def test_the_disk_needed_for_a_main_network_is_that_of_all_its_transactions(tmp_path, height):
    txs = txs_in_chain(Bitcoin, height)
    assert 0.98 * Bitcoin.TX_COUNT < txs <= Bitcoin.TX_COUNT
    needed = space_needed(tmp_path, txs)
    assert needed.peak == pytest.approx(215 * txs, abs=1)
    assert needed.database == pytest.approx(100 * txs, abs=1)


def test_blocks_above_the_coin_s_figures_count_with_its_average():
    height = Bitcoin.TX_COUNT_HEIGHT + 10
    assert txs_in_chain(Bitcoin, height) == Bitcoin.TX_COUNT + 10 * Bitcoin.TX_PER_BLOCK


def test_small_sizes_are_stated_in_megabytes():
    assert str(SpaceNeeded(289_000_000, 1_900_000, 65_700_000_000)) == (
        "about 289 MB of disk at its most, and leaves a database of 2 MB; 65.7 GB are free"
    )
