"""The gauge of the event loop's delays."""

import asyncio
import logging

import pytest

from electrumx.server.runtime import loop_lag
from electrumx.server.runtime.loop_lag import LoopLag
from tests.fakes.virtual_time import VirtualTimeLoop


def test_nothing_measured_is_no_delay():
    assert LoopLag().summary() == {"median ms": 0.0, "p99 ms": 0.0, "longest ms": 0.0}


def test_the_summary_has_the_median_the_99th_and_the_longest():
    lag = LoopLag()
    for msec in range(200, 0, -1):
        lag.note(msec / 1000)
    assert lag.summary() == {"median ms": 101.0, "p99 ms": 199.0, "longest ms": 200.0}


def test_a_clock_that_is_early_is_no_negative_delay():
    lag = LoopLag()
    lag.note(-0.001)
    assert lag.summary()["longest ms"] == 0


def test_what_is_a_minute_old_is_forgotten():
    lag = LoopLag()
    lag.note(5)
    for _ in range(round(loop_lag.WINDOW_SECS / loop_lag.PERIOD_SECS)):
        lag.note(0.001)
    assert lag.summary()["longest ms"] == 1.0


def test_a_long_delay_is_logged_once_in_a_while(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    lag = LoopLag()
    for delay in (0.2, 0.31, 0.5):
        lag.note(delay)
    assert caplog.messages == ["the event loop was blocked for 0.31s"]
    monkeypatch.setattr(lag, "_next_log", 0.0)
    lag.note(0.4)
    assert len(caplog.messages) == 2


def test_the_lag_of_a_blocked_loop_is_measured():
    loop = VirtualTimeLoop()
    lag = LoopLag()

    async def block_the_loop():
        task = asyncio.ensure_future(lag.run())
        loop.call_later(2.5 * loop_lag.PERIOD_SECS, loop.pass_time, 0.2)
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(block_the_loop())
    loop.close()

    # The next wake-up was due half a period after the loop was blocked.
    expected = 1000 * (0.2 - loop_lag.PERIOD_SECS / 2)
    assert lag.summary()["longest ms"] == pytest.approx(expected, abs=0.1)
    assert lag.summary()["median ms"] == 0.0
