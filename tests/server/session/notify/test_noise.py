"""Pings without meaning: who gets them, how many, and when."""

import random

import pytest

from electrumx.server.session.notify.noise import EVERY_SECS, MOST_PER_HOUR, Noise
from tests.fakes.session_world import session_world

HOUR = 3_600


class Session:
    """A session that notes when it gets pings."""

    def __init__(self, clock, number, *, takes_noise=True, is_closing=False):
        self.session_id = number
        self.received = []
        self._clock = clock
        self._takes_noise = takes_noise
        self._is_closing = is_closing
        self._posted = 0

    def takes_noise(self):
        return self._takes_noise

    def is_closing(self):
        return self._is_closing

    def post_noise(self, count):
        self._posted += count

    def flush(self):
        self.received += [self._clock.now] * self._posted
        self._posted = 0


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def round_ends(noise, told=(), *, is_block=False):
    noise.round_ended(told, is_block=is_block)
    await noise.send()


async def hours(clock, noise, *, count, block_secs, round_secs=2.0):
    """Let time pass, with rounds of the mempool and blocks."""
    next_block = clock.now + block_secs
    for _ in range(int(count * HOUR / round_secs)):
        clock.now += round_secs
        is_block = clock.now >= next_block
        if is_block:
            next_block += block_secs
        await round_ends(noise, is_block=is_block)


def most_in_an_hour(times):
    return max(sum(start <= at < start + HOUR for at in times) for start in times)


@pytest.mark.parametrize("block_secs", [15, 60, 600])
async def test_an_idle_session_gets_fewer_than_100_in_any_hour(clock, block_secs):
    draw = random.Random(block_secs).random
    sessions = [Session(clock, n) for n in range(20)]
    noise = Noise(sessions, draw=draw, clock=clock)
    await hours(clock, noise, count=5, block_secs=block_secs)
    for session in sessions:
        assert 0 < most_in_an_hour(session.received) < 100
        assert len(session.received) <= 6 * MOST_PER_HOUR


async def test_an_hour_of_ten_minute_blocks_has_about_a_dozen(clock):
    sessions = [Session(clock, n) for n in range(200)]
    noise = Noise(sessions, draw=random.Random(1).random, clock=clock)
    await hours(clock, noise, count=1, block_secs=600)
    # 6 blocks, 6 times between them, and a ninth more
    assert 11 < sum(len(session.received) for session in sessions) / 200 < 16


async def test_at_a_block_those_that_are_not_notified_otherwise_get_one(clock):
    told, idle = Session(clock, 1), Session(clock, 2)
    noise = Noise({told, idle}, draw=lambda: 0.5, clock=clock)
    await round_ends(noise, [told], is_block=True)
    assert ([], [clock.now]) == (told.received, idle.received)
    # Those of the block before are not remembered.
    await round_ends(noise, is_block=True)
    assert [clock.now] == told.received


async def test_sessions_of_padded_services_get_pings_if_they_speak_1_7():
    settings = {"padded_protocols": frozenset({"tcp"})}
    async with session_world(node=("submitpackage", "testmempoolaccept"), **settings) as world:
        clients = [await world.connect() for _ in range(2)]
        for client, version in zip(clients, ("1.7", "1.6"), strict=True):
            await client.request("server.version", "x", version)
        world.manager.shared.noise.round_ended((), is_block=True)
        await world.manager.shared.noise.send()
        for client in clients:
            # Behind whatever was sent before
            await client.request("server.features")
        pings = [item["params"] for item in clients[0].notifications]
        assert pings
        assert all(params == ["0" * 128] for params in pings)
        assert [] == clients[1].notifications
        assert len(pings) == world.manager.shared.notified["noise"]


async def test_sessions_of_other_services_get_none():
    async with session_world(node=("submitpackage", "testmempoolaccept")) as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.7")
        world.manager.shared.noise.round_ended((), is_block=True)
        await world.manager.shared.noise.send()
        await client.request("server.features")
        assert [] == client.notifications


async def test_others_get_none(clock):
    sessions = {
        Session(clock, 1, takes_noise=False),
        Session(clock, 2, is_closing=True),
    }
    noise = Noise(sessions, draw=lambda: 0.0, clock=clock)
    clock.now += HOUR / 2
    await round_ends(noise, is_block=True)
    assert not any(session.received for session in sessions)


async def test_even_if_all_draws_are_unlikely_there_is_an_end(clock):
    session = Session(clock, 1)
    noise = Noise({session}, draw=lambda: 0.0, clock=clock)
    for _ in range(100):
        clock.now += EVERY_SECS
        await round_ends(noise, is_block=True)
    assert MOST_PER_HOUR == len(session.received)


async def test_rounds_that_follow_at_once_cause_none_between_blocks(clock):
    session = Session(clock, 1)
    noise = Noise({session}, draw=lambda: 0.5, clock=clock)
    for _ in range(1_000):
        await round_ends(noise)
    assert [] == session.received
