"""Periodic work on sessions: silent ones are closed, costs decay, a reorg clears caches."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest

from electrumx.server.session.housekeeping import Housekeeping


class Session:
    def __init__(self, silent_secs, *, limited=True, requests=0, subscriptions=0):
        self.last_recv = time.monotonic() - silent_secs
        self.limited, self.requests, self.subscriptions = limited, requests, subscriptions
        self.cost_decay_per_sec = None
        self.recalculated = 0

    def unanswered_request_count(self):
        return self.requests

    def sub_count(self):
        return self.subscriptions

    def set_cost_decay(self, per_sec):
        self.cost_decay_per_sec = per_sec

    def recalc_concurrency(self):
        self.recalculated += 1


class Pulse(asyncio.Event):
    """An event that notes that it is awaited."""

    def __init__(self):
        super().__init__()
        self.is_awaited = asyncio.Event()

    async def wait(self):
        self.is_awaited.set()
        return await super().wait()


class Parts:
    """Housekeeping over sessions, and stubs that record its calls."""

    def __init__(self):
        self.closed, self.decayed, self.cleared = [], [], 0
        self.table = SimpleNamespace(
            sessions=set(), disconnect=self.disconnect, groups=SimpleNamespace(forget=self.forget)
        )
        self.tip = SimpleNamespace(reorg_count=0)
        self.processor = SimpleNamespace(backed_up_event=Pulse())
        shared = SimpleNamespace(
            env=SimpleNamespace(session_timeout=600, cost_hard_limit=3600, log_sessions=0),
            table=self.table,
            tip=self.tip,
            blocks=SimpleNamespace(clear=self.clear),
        )
        logger = logging.getLogger("housekeeping")
        self.housekeeping = Housekeeping(shared, self.processor, dict, logger)

    async def disconnect(self, sessions, reason, *, end_reason):
        assert end_reason == "timeout"
        self.closed.append((sessions, reason))

    def forget(self, secs, hard_limit):
        self.decayed.append((secs, hard_limit))

    def clear(self):
        self.cleared += 1


@pytest.fixture
async def parts():
    return Parts()


async def test_only_sessions_silent_for_longer_than_the_time_out_are_closed(parts):
    silent, recent = Session(601), Session(590)
    parts.table.sessions |= {silent, recent}
    await parts.housekeeping.close_stale_sessions()
    assert parts.closed == [([silent], "closing stale")]


async def test_an_administrator_who_waits_for_a_reply_is_not_silent(parts):
    waiting, idle = Session(601, limited=False, requests=1), Session(601, limited=False)
    client = Session(601, requests=1)
    parts.table.sessions |= {waiting, idle, client}
    await parts.housekeeping.close_stale_sessions()
    [(closed, _reason)] = parts.closed
    assert set(closed) == {idle, client}


async def test_costs_of_groups_and_clients_decay_more_slowly_with_subscriptions(parts):
    few, many, administrator = Session(0), Session(0, subscriptions=2000), Session(0, limited=False)
    parts.table.sessions |= {few, many, administrator}
    parts.housekeeping.recalc_costs(300)
    assert parts.decayed == [(300, 3600)]
    assert few.cost_decay_per_sec > many.cost_decay_per_sec
    assert administrator.cost_decay_per_sec is None
    assert [s.recalculated for s in (few, many, administrator)] == [1, 1, 0]


async def test_each_reorganisation_clears_the_caches_of_blocks_once(parts):
    running = asyncio.ensure_future(parts.housekeeping.run())
    try:
        event = parts.processor.backed_up_event
        for count in (0, 1, 2):
            await event.is_awaited.wait()
            event.is_awaited.clear()
            assert (parts.cleared, parts.tip.reorg_count) == (count, count)
            event.set()
            event.clear()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
