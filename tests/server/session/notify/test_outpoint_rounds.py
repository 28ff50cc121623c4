"""Rounds of notifications of outpoints: slow look-ups, failures, and many subscribers."""

import asyncio
import logging
import time

import pytest
from aiorpcx import RPCError

from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.session.notify.outpoints import (
    AT_ONCE,
    PART,
    SLICE_SECS,
    OutpointSubscriptions,
)
from electrumx.server.session.shared.outpoint_status import Status

KNOWN = bytes(32), 0
UNKNOWN = [(bytes([n]) * 32, 1) for n in range(1, 51)]


class Statuses:
    """Statuses of which some are cached, and others are read as a test has it."""

    def __init__(self):
        self.known = {KNOWN: Status(5)}
        self.kept = set()
        self.in_database = []
        self.loads = []
        self.reads = []
        self.load_now = self.read_now = self.nothing

    async def nothing(self, _outpoint):
        pass

    def cached(self, outpoint):
        return self.known.get(outpoint)

    def keep(self, outpoint):
        self.kept.add(outpoint)

    def let_go(self, outpoint):
        self.kept.remove(outpoint)

    now = cached

    async def load(self, outpoints):
        self.known.update(dict.fromkeys(self.in_database, Status(7)))
        self.loads.append(len(outpoints))
        await self.load_now(outpoints)

    async def read(self, outpoint, _charge):
        self.reads.append(outpoint)
        await self.read_now(outpoint)
        self.known[outpoint] = Status(6)


class Tip:
    """A tip that a test changes."""

    def __init__(self):
        self.number = 1

    def state(self):
        return self.number


class Session:
    """A subscriber that notes what it is notified of."""

    session_id = 1

    def __init__(self, secs=0.0):
        self.told = []
        self.flushed = 0
        self.secs = secs

    def notify_outpoints(self, news):
        for item in news:
            time.sleep(self.secs)
            self.told.append(item.outpoint)

    def flush(self):
        self.flushed = len(self.told)

    def is_closing(self):
        return False


@pytest.fixture
def statuses():
    return Statuses()


@pytest.fixture
def tip():
    return Tip()


@pytest.fixture
def subscriptions(statuses, tip):
    return OutpointSubscriptions(OutpointWatch(), statuses, tip)


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
    assert set() == statuses.kept


@pytest.mark.parametrize("way", ["load", "read"])
async def test_what_was_found_while_the_tip_changed_is_sent_at_the_new_one(
    subscriptions, statuses, tip, way
):
    """Then the mempool may be at the new tip, and confirmed parts at the old one."""
    outpoints = UNKNOWN[:3]

    async def tip_changes(_what):
        tip.number = 2

    if way == "load":
        statuses.in_database = outpoints
        statuses.load_now = tip_changes
    else:
        statuses.read_now = tip_changes
    session = Session()
    for outpoint in outpoints:
        subscriptions.add(outpoint, session)
    await run(subscriptions)
    assert [] == session.told
    assert set(outpoints) == subscriptions.watch.touched
    await run(subscriptions)
    assert sorted(outpoints) == sorted(session.told)
    assert set() == subscriptions.watch.touched


async def test_nothing_more_is_read_from_the_database_at_another_tip(subscriptions, statuses, tip):
    async def tip_changes(_outpoints):
        tip.number = 2

    statuses.load_now = tip_changes
    session = Session()
    for number in range(AT_ONCE + 1):
        subscriptions.add((bytes(32), 1 + number), session)
    await run(subscriptions)
    assert [AT_ONCE] == statuses.loads
    assert AT_ONCE + 1 == len(subscriptions.watch.touched)


async def test_what_was_queued_before_the_tip_changed_is_sent(subscriptions, statuses, tip):
    outpoints = [(bytes(32), n) for n in range(2 * PART)]
    statuses.known = dict.fromkeys(outpoints, Status(5))

    class SlowSession(Session):
        def notify_outpoints(self, news):
            super().notify_outpoints(news)
            asyncio.get_running_loop().call_soon(setattr, tip, "number", 2)

    session = SlowSession(SLICE_SECS / 16)
    for outpoint in outpoints:
        subscriptions.add(outpoint, session)
    await run(subscriptions)
    assert PART == len(session.told) == session.flushed
    assert set(outpoints) == subscriptions.watch.touched


async def test_a_session_that_closes_during_a_round_is_not_notified(subscriptions, statuses):
    closing, staying = Session(), Session()

    async def read_now(_outpoint):
        closing.is_closing = lambda: True

    statuses.read_now = read_now
    for session in (closing, staying):
        subscriptions.add(UNKNOWN[0], session)
    await run(subscriptions)
    assert ([], UNKNOWN[:1]) == (closing.told, staying.told)


async def test_a_subscription_that_ends_during_a_round_is_not_notified(subscriptions, statuses):
    session = Session()

    async def read_now(_outpoint):
        subscriptions.discard(UNKNOWN[0], session)

    statuses.read_now = read_now
    subscriptions.add(UNKNOWN[0], session)
    await run(subscriptions)
    assert ([], set()) == (session.told, subscriptions.watch.touched)


async def test_a_subscription_that_begins_during_a_round_is_in_the_next(subscriptions, statuses):
    session = Session()

    async def read_now(_outpoint):
        subscriptions.add(KNOWN, session)

    statuses.read_now = read_now
    subscriptions.add(UNKNOWN[0], session)
    await run(subscriptions)
    assert UNKNOWN[:1] == session.told
    assert {KNOWN} == subscriptions.watch.touched
    await run(subscriptions)
    assert [UNKNOWN[0], KNOWN] == session.told
