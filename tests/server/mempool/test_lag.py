"""When clients are served although the mempool is not complete, and the log lines."""

import asyncio
import logging
import time

from electrumx.server.mempool.lag import FIRST_SECS, MempoolLag
from tests.fakes.virtual_time import run_in_virtual_time

LOGGER = logging.getLogger("lag")


def seconds_until_usable(complete_at):
    """Return when, in simulated time, clients are served."""

    async def main():
        loop = asyncio.get_running_loop()
        lag = MempoolLag(LOGGER, 5.0)
        if complete_at is not None:
            loop.call_later(complete_at, lag.note_complete)
        await lag.wait_until_usable(lambda: " (5 of 9 read)")
        return loop.time()

    return run_in_virtual_time(main())


def test_clients_are_served_after_the_first_complete_refresh():
    assert seconds_until_usable(3.0) == 3.0


def test_clients_are_served_without_one_that_makes_no_progress():
    assert FIRST_SECS <= seconds_until_usable(None) < FIRST_SECS + 1


def test_a_long_first_refresh_does_not_keep_clients_waiting(caplog):
    assert FIRST_SECS <= seconds_until_usable(100.0) < FIRST_SECS + 1
    (text,) = caplog.messages
    assert text.startswith("serving before the mempool is complete (5 of 9 read): until then ")


def test_falling_behind_and_catching_up_are_logged_once(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    async def main():
        lag = MempoolLag(LOGGER, 5.0)
        assert lag.is_behind()
        lag.log_change()
        assert caplog.messages == []
        lag.note_complete()
        await lag.wait_until_usable()
        for _ in range(2):
            lag.log_change()
        assert not lag.is_behind()
        now[0] += 26
        for _ in range(2):
            lag.log_change()
        assert lag.is_behind()
        lag.note_complete()
        for _ in range(2):
            lag.log_change()

    run_in_virtual_time(main())
    assert caplog.messages == [
        "the mempool is behind the daemon's: no complete refresh for 26s; "
        "unconfirmed transactions may be missing in answers",
        "the mempool is up to date with the daemon's again",
    ]
