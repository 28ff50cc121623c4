"""Settings that change while sessions exist: texts, limits, services."""

import asyncio
import copy
import re
import shutil
import subprocess
from ipaddress import ip_address

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.session_groups import TOR_GROUP
from electrumx.server.session.transport.preflight import ListenError
from tests.fakes.session_world import FakeService, session_world, until

CIRCUIT = Origin(ip_address("fc00:dead:beef:4dad::1:2"), is_forwarded=True)


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


class Member:
    """A session, as groups know it."""

    cost = 0.0


async def test_origins_padding_and_the_weight_of_tor_are_those_of_the_new_settings():
    service = FakeService("ws")
    async with session_world(services=[service, FakeService("tcp")]) as world:
        uri = f"ws://127.0.0.1:{world.port('ws')}"
        listeners, groups = world.manager.listeners.open, world.manager.groups
        session = Member()
        groups.join(session, CIRCUIT)
        page = {"Origin": "https://a.page"}
        async with connect(uri, additional_headers=page):
            pass

        await switch(
            world,
            ws_origins=["https://other.page"],
            padded_protocols=frozenset({"tcp"}),
            tor_group_weight=0.5,
        )

        with pytest.raises(InvalidStatus):
            await connect(uri, additional_headers=page)
        assert {
            service.protocol: listener.context.is_padded for service, listener in listeners.items()
        } == {"ws": False, "tcp": True}
        assert groups.by_name[TOR_GROUP].weight == 0.5
        await switch(world, tor_group_weight=0)
        groups.leave(session)
        groups.forget(0, 0)
        groups.join(session, CIRCUIT)
        assert TOR_GROUP not in groups.by_name


@pytest.fixture
def certificate(tmp_path):
    """Return (certificate file, key file)."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        f"-subj /CN=localhost -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key


async def test_wss_can_come_with_a_certificate_of_its_own(certificate):
    cert, key = certificate
    other_cert, other_key = (shutil.copy(path, path + ".new") for path in (cert, key))
    async with session_world() as world:
        services = [*world.manager.env.services, FakeService("wss")]
        await switch(world, services=services, wss_certfile=cert, wss_keyfile=key)
        first = world.manager.listeners.open[services[-1]].context.tls_context
        await switch(world, services=services, wss_certfile=other_cert, wss_keyfile=other_key)
        assert world.manager.listeners.open[services[-1]].context.tls_context is not first


async def test_peers_log_no_address_once_logs_are_anonymous():
    async with session_world(anon_logs=False) as world:
        assert not world.manager.shared.peers.anon_logs
        await switch(world, anon_logs=True)
        assert world.manager.shared.peers.anon_logs


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


async def test_a_reload_while_services_start_is_not_lost(monkeypatch):
    async with session_world(ready=False) as world:
        listening = world.manager.listening
        services, added = list(world.manager.env.services), FakeService("ws")
        (gone,) = [item for item in services if item.protocol == "tcp"]
        began, go_on = asyncio.Event(), asyncio.Event()
        start = listening.listeners.start

        async def slow_start(services):
            began.set()
            await go_on.wait()
            await start(services)

        await until(lambda: len(listening.listeners.open) == 1)
        monkeypatch.setattr(listening.listeners, "start", slow_start)
        world.mempool_event.set()
        await began.wait()
        wanted = [item for item in services if item is not gone] + [added]
        switching = asyncio.ensure_future(switch(world, services=wanted))
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        await switching

        assert set(listening.listeners.open) == set(wanted)


async def test_services_that_start_during_a_reload_are_those_of_the_new_settings():
    async with session_world(ready=False) as world:
        listening, added = world.manager.listening, FakeService("ws")
        services = list(world.manager.env.services)
        (gone,) = [item for item in services if item.protocol == "tcp"]
        await until(lambda: len(listening.listeners.open) == 1)
        env = copy.copy(world.manager.env)
        env.services = wanted = [item for item in services if item is not gone] + [added]
        change = await listening.prepare(env)
        world.mempool_event.set()
        for _ in range(20):
            await asyncio.sleep(0)
        change.commit()

        await until(lambda: set(listening.listeners.open) == set(wanted))


async def test_a_stopped_server_does_not_listen_again():
    async with session_world() as world:
        listening = world.manager.listening
        env = copy.copy(world.manager.env)
        env.services = [*env.services, FakeService("ws")]
        change = await listening.prepare(env)
        (port,) = [listener.port for listener in change.listeners]
        listening.stop()
        change.commit()
        assert not listening.listeners.open
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ListenError, match="the server is stopping"):
            await listening.prepare(env)
        # The refused one holds nothing.
        with pytest.raises(ListenError, match="the server is stopping"):
            await listening.prepare(env)
