"""Settings that change while sessions exist: texts, limits, services."""

import copy
import re

import pytest

from electrumx.server.session.transport.preflight import ListenError
from tests.fakes.session_world import FakeService, session_world, until


async def switch(world, **settings):
    """Reload these settings of sessions; services stay unless some are given."""
    env = copy.copy(world.manager.env)
    for name, value in settings.items():
        assert hasattr(env, name)
        setattr(env, name, value)
    changes = [await part.prepare(env) for part in world.manager.reloadable]
    for change in changes:
        change.commit()


async def test_texts_and_patterns_are_used_by_sessions_that_exist():
    async with session_world() as world:
        client = await world.connect()
        await switch(world, donation_address="new", drop_client=re.compile("bad"))

        assert await client.request("server.donation_address") == "new"
        code, text = await client.error("server.version", "bad", "1.4")
        assert text == "unsupported client: bad"
        assert code == 1


async def test_limits_apply_to_sessions_that_exist_and_to_new_ones():
    async with session_world() as world:
        await (await world.connect()).request("server.ping")
        (session,) = world.manager.sessions
        session.bump_cost(600)
        assert session.account.concurrency_target == 10

        await switch(world, cost_soft_limit=100, cost_hard_limit=1100, initial_concurrent=8)

        # Half of the way from one limit to the other.
        assert session.account.concurrency_target == pytest.approx(4, abs=1)
        assert session.account.limits.cost_hard_limit == 1100
        await switch(world, cost_hard_limit=0, cost_soft_limit=0)
        assert session.account.concurrency_target == 10
        assert session.account.cost_fraction == 0
        assert world.manager.shared.limits.cost_hard_limit == 0


async def test_the_number_of_sessions_is_that_of_the_new_settings():
    async with session_world() as world:
        admission = world.manager.admission
        await switch(world, max_sessions=7, max_sessions_per_subnet=3)

        assert (admission.max_connections, admission.max_per_subnet) == (7, 3)


async def test_an_administrators_session_is_not_limited():
    async with session_world() as world:
        admin = await world.connect("rpc")
        await admin.request("getinfo")
        await switch(world, cost_soft_limit=1, cost_hard_limit=2)
        (session,) = world.manager.sessions
        assert not session.account.limited
        assert session.account.limits.cost_hard_limit != 2


async def test_a_service_that_cannot_be_listened_on_leaves_the_others():
    async with session_world() as world:
        services = list(world.manager.env.services)
        before = dict(world.manager.listeners.open)
        taken = FakeService("tcp", port=world.port("tcp"))

        with pytest.raises(ListenError):
            await switch(world, services=[*services, FakeService("ws"), taken])

        assert world.manager.listeners.open == before


async def test_services_come_and_go_and_sessions_stay():
    async with session_world() as world:
        services = list(world.manager.env.services)
        client = await world.connect()
        await client.request("server.ping")
        added = FakeService("ws")

        await switch(world, services=[services[1], added])

        assert set(world.manager.listeners.open) == {services[1], added}
        assert await client.request("server.donation_address") == "donate-here"


async def test_an_interval_of_the_log_that_was_off_can_be_switched_on(caplog):
    async with session_world() as world:
        lines = []
        world.manager.housekeeping.log_sessions = lambda: lines.append("logged")
        await switch(world, log_sessions=0.01)
        await until(lambda: len(lines) >= 2)
