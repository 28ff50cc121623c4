"""Rounds of notifications of outpoints: slow look-ups, failures, and many subscribers."""

import asyncio
import logging
import time

import pytest
from aiorpcx import RPCError

from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.session.notify.outpoints import OutpointSubscriptions
from electrumx.server.session.shared.outpoint_status import Status

KNOWN = bytes(32), 0
UNKNOWN = [(bytes([n]) * 32, 1) for n in range(1, 51)]


class Statuses:
    """Statuses of which some are cached, and others are read as a test has it."""

    def __init__(self):
        self.known = {KNOWN: Status(5)}
        self.reads = []
        self.read_now = self.nothing

    async def nothing(self, _outpoint):
        pass

    def cached(self, outpoint):
        return self.known.get(outpoint)

    now = cached

    async def load(self, outpoints):
        pass

    async def read(self, outpoint, _charge):
        self.reads.append(outpoint)
        await self.read_now(outpoint)
        self.known[outpoint] = Status(6)


class Tip:
    def state(self):
        return 1


class Session:
    """A subscriber that notes what it is notified of."""

    session_id = 1

    def __init__(self, secs=0.0):
        self.told = []
        self.secs = secs

    def notify_outpoints(self, news):
        for item in news:
            time.sleep(self.secs)
            self.told.append(item.outpoint)

    def flush(self):
        pass

    def is_closing(self):
        return False


@pytest.fixture
def statuses():
    return Statuses()


@pytest.fixture
def subscriptions(statuses):
    return OutpointSubscriptions(OutpointWatch(), statuses, Tip())


async def run(subscriptions):
    """Have a round computed, and wait for it."""
    await asyncio.wait_for(subscriptions.tell(), 60)


async def test_an_outpoint_that_is_searched_for_delays_no_other(subscriptions, statuses):
    found = asyncio.Event()

    async def read_now(_outpoint):
        await found.wait()

    statuses.read_now = read_now
    session = Session()
    for outpoint in (*UNKNOWN[:20], KNOWN):
        subscriptions.add(outpoint, session)
    task = asyncio.ensure_future(subscriptions.run())
    # Two rounds: the second does not wait for the look-ups of the first.
    for count in (1, 2):
        subscriptions.watch.touched.add(KNOWN)
        subscriptions.round_due(tip_changed=False)
        for _ in range(10_000):
            if len(session.told) == count:
                break
            await asyncio.sleep(0.001)
        assert [KNOWN] * count == session.told
    # Each is looked up once, and sent in the round that follows.
    found.set()
    subscriptions.round_due(tip_changed=False)
    while len(session.told) < 22:
        await asyncio.sleep(0.001)
    assert sorted(UNKNOWN[:20]) == sorted(statuses.reads)
    task.cancel()


async def test_failures_are_logged_in_few_lines_and_tried_again(subscriptions, statuses, caplog):
    async def read_now(_outpoint):
        raise DaemonError({"code": -1, "message": "a hiccup"})

    statuses.read_now = read_now
    session = Session()
    for outpoint in UNKNOWN:
        subscriptions.add(outpoint, session)
    with caplog.at_level(logging.INFO):
        await run(subscriptions)
        await run(subscriptions)
    assert 100 == len(statuses.reads)
    assert 0 < len(caplog.records) <= 12
    statuses.read_now = statuses.nothing
    await run(subscriptions)
    assert sorted(UNKNOWN) == sorted(session.told)


async def test_what_takes_too_long_to_search_is_not_searched_for_again(subscriptions, statuses):
    async def read_now(_outpoint):
        raise RPCError(10001, "history too large")

    statuses.read_now = read_now
    subscriptions.add(UNKNOWN[0], Session())
    await run(subscriptions)
    await run(subscriptions)
    assert UNKNOWN[:1] == statuses.reads
    # Until something happens to it
    subscriptions.watch.touch_all()
    await run(subscriptions)
    assert 2 == len(statuses.reads)


async def test_others_run_while_many_subscribers_of_an_outpoint_are_notified(subscriptions):
    sessions = [Session(0.0005) for _ in range(100)]
    for session in sessions:
        subscriptions.add(KNOWN, session)
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await run(subscriptions)
    counting.cancel()
    assert [[KNOWN]] * 100 == [session.told for session in sessions]
    assert turns > 20


async def test_subscriptions_that_ended_are_neither_read_nor_kept(subscriptions, statuses):
    session = Session()
    subscriptions.add(UNKNOWN[0], session)
    subscriptions.discard(UNKNOWN[0], session)
    subscriptions.watch.touched.add(UNKNOWN[0])
    await run(subscriptions)
    assert ([], set(), []) == (statuses.reads, subscriptions.watch.touched, session.told)
