"""The log lines on caches and progress, and their intervals."""

import logging
from types import SimpleNamespace

import pytest

from electrumx.server.block_processor import sync_progress
from electrumx.server.block_processor.cache_policy import CacheUse
from electrumx.server.block_processor.sync_progress import SyncProgress

COIN = SimpleNamespace(TX_COUNT=1_000_000, TX_COUNT_HEIGHT=1_000, TX_PER_BLOCK=500)
USE = CacheUse(700_000_000, 0, 120_000_000)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        sync_progress, "time", SimpleNamespace(monotonic=lambda: clock.now), raising=True
    )
    return clock


@pytest.fixture
def state():
    return SimpleNamespace(height=500, tx_count=400_000)


@pytest.fixture
def progress(clock, state, caplog):
    caplog.set_level("INFO")
    return SyncProgress(COIN, state, 1_200, lambda: 1_200, logging.getLogger("progress"))


def test_the_caches_are_logged_at_first_and_every_half_minute(progress, clock, caplog):
    for seconds in (0, 29, 2, 1, 28):
        clock.now += seconds
        progress.log_cache(USE)
    assert caplog.messages == ["our height: 500 daemon: 1,200 UTXOs 700MB hist 120MB"] * 2


def test_the_progress_is_logged_every_ten_seconds_with_the_speed_since_then(
    progress, clock, state, caplog
):
    progress.start()
    clock.now += 9
    progress.log_progress(lambda: USE)
    assert caplog.messages == []
    clock.now += 1
    state.tx_count += 100_000
    progress.log_progress(lambda: USE)
    [message] = caplog.messages
    remaining = progress.estimate_txs_remaining()
    percent = 100 * 500_000 / (500_000 + remaining)
    assert message.startswith(f"sync {percent:.1f}%  height 500 of 1,200  10,000 tx/s  ETA ")
    assert message.endswith("cache 820 of 1,200 MB")


def test_transactions_remaining_are_those_known_and_those_of_later_blocks(progress, state):
    state.height = 1_150
    state.tx_count = 1_100_000
    assert progress.estimate_txs_remaining() == 50 * 500 * 1.0
    state.height, state.tx_count = 0, 0
    assert progress.estimate_txs_remaining() == (200 * 500 + 1_000_000) * 2.0


def test_at_the_daemons_height_nothing_remains(progress, state):
    state.height = 1_200
    assert progress.estimate_txs_remaining() == 0.0


def test_percent_and_time_left_are_known_after_a_second(progress, clock, state):
    progress.start()
    clock.now += 0.9
    state.tx_count += 90
    early = progress.eta_secs()
    clock.now += 0.1
    state.tx_count += 10
    remaining = progress.estimate_txs_remaining()

    assert early is None
    assert progress.eta_secs() == pytest.approx(remaining / 100)
    assert progress.percent() == pytest.approx(100 * 400_100 / (400_100 + remaining))


def test_time_left_follows_the_speed_of_the_last_interval(progress, clock, state):
    progress.start()
    clock.now += 10
    state.tx_count += 100_000
    progress.log_progress(lambda: USE)
    clock.now += 5

    assert progress.eta_secs() == pytest.approx(progress.estimate_txs_remaining() / 10_000)


def test_nothing_left_is_all_of_it(progress, state):
    state.height = 1_200
    assert progress.percent() == 100
