"""A flush comes when the caches are full, and frees the most memory."""

import pytest

from electrumx.server.block_processor.cache_policy import CacheUse, flush_due, written_bytes_to_keep

MB = 1_000_000
LIMIT = 100 * MB


@pytest.mark.parametrize(
    ("utxos", "unwritten", "history", "due"),
    [
        (50, 30, 49, None),
        (99, 99, 0, None),
        (10, 10, 50, False),
        (70, 39, 30, False),
        (60, 40, 40, True),
        (100, 100, 0, True),
        # UTXOs on disk are evicted only when UTXOs are flushed.
        (90, 5, 10, True),
    ],
)
def test_flushes_come_when_the_caches_are_full(utxos, unwritten, history, due):
    use = CacheUse(utxos * MB, unwritten * MB, history * MB)
    assert flush_due(use, LIMIT) is due


def test_the_smallest_cache_still_holds_some_history():
    assert flush_due(CacheUse(0, 0, 900_000), 1 * MB) is None


def test_utxos_that_stay_cached_leave_room_for_new_ones():
    kept = written_bytes_to_keep(LIMIT)
    assert flush_due(CacheUse(kept, 0, 0), LIMIT) is None
    assert 0 < kept < LIMIT // 2
