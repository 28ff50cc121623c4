"""Requests of clients to add a peer."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electrumx.server.peers import PEER_ADD_PAUSE, PeerManager
from tests.fakes.peer_world import LAN_HOST, FakeDB, Names, add, features_of, make_env, peer_server
from tests.lib.test_peer import hostile_features, json_values


async def test_a_host_that_resolves_to_its_asker_is_accepted(make_manager, clock, caplog):
    names = Names(www_a_com=["8.8.8.8", "9.9.9.9"])
    manager = make_manager(resolver=names, clock=clock)

    assert await manager.on_add_peer(features_of("www.a.com", "b.com"), "9.9.9.9") is True
    assert [peer.host for peer in manager.peers] == ["www.a.com"]
    assert "accepted add_peer request from 9.9.9.9 for www.a.com" in caplog.text
    assert "accepted new peer www.a.com from 9.9.9.9" in caplog.text


async def test_addresses_of_clients_are_not_logged_if_that_is_forbidden(make_manager, caplog):
    names = Names(a_com=["9.9.9.9"])
    manager = make_manager(make_env(anon_logs=True), resolver=names)

    assert await manager.on_add_peer(features_of("a.com"), "9.9.9.9")
    assert not await manager.on_add_peer(features_of("b.com"), "9.9.9.9")
    assert "9.9.9.9" not in caplog.text


@pytest.mark.parametrize(
    ("host", "source", "reason"),
    [
        ("a.com", "9.9.9.9", "source-destination mismatch"),
        ("unknown.com", "8.8.8.8", "address resolution failure"),
    ],
)
async def test_a_host_that_is_not_its_asker_is_rejected(make_manager, caplog, host, source, reason):
    manager = make_manager(resolver=Names(a_com=["8.8.8.8"]))

    assert await manager.on_add_peer(features_of(host), source) is False
    assert f"rejected add_peer request from {source} for {host} ({reason})" in caplog.text
    assert manager.peers == set()


@pytest.mark.parametrize("source", [None, ""])
async def test_a_request_from_nowhere_is_ignored(make_manager, source):
    names = Names(a_com=["8.8.8.8"])

    assert await make_manager(resolver=names).on_add_peer(features_of("a.com"), source) is False
    assert names.questions == 0


@pytest.mark.parametrize("features", [None, {}, features_of(), features_of("not a host!")])
async def test_a_request_without_usable_host_is_ignored(make_manager, features, caplog):
    names = Names()

    assert await make_manager(resolver=names).on_add_peer(features, "8.8.8.8") is False
    assert names.questions == 0
    assert "no usable host" in caplog.text


async def test_a_domain_has_one_turn_in_ten_minutes(make_manager, clock):
    names = Names(x_a_com=["8.8.8.8"], y_A_com=["8.8.8.8"], b_com=["8.8.8.8"])
    manager = make_manager(resolver=names, clock=clock)

    assert await manager.on_add_peer(features_of("x.a.com"), "8.8.8.8")
    assert not await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")
    assert names.questions == 1
    assert await manager.on_add_peer(features_of("b.com"), "8.8.8.8")
    clock.now += PEER_ADD_PAUSE
    assert not await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")
    clock.now += 1
    assert await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")


async def test_a_rejected_request_does_not_use_up_the_turn_of_a_domain(make_manager, clock):
    manager = make_manager(resolver=Names(a_com=["8.8.8.8"]), clock=clock)

    assert not await manager.on_add_peer(features_of("a.com"), "6.6.6.6")
    assert await manager.on_add_peer(features_of("a.com"), "8.8.8.8")


async def test_requests_that_resolve_at_the_same_time_share_one_turn(make_manager, clock):
    names = Names(x_a_com=["8.8.8.8"], y_a_com=["8.8.8.8"])
    manager = make_manager(resolver=names, clock=clock)
    answers = await asyncio.gather(
        *(manager.on_add_peer(features_of(host), "8.8.8.8") for host in ("x.a.com", "y.a.com"))
    )
    assert sorted(answers) == [False, True] or names.questions == 1
    assert len(manager.peers) == 1


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (LAN_HOST, "127.0.255.2", "127.1.0.1"),
        ("fd00:1::1", "fd00:1:ffff::1", "fd00:2::1"),
    ],
)
async def test_addresses_of_one_network_share_a_turn(make_manager, clock, first, same, other):
    manager = make_manager(clock=clock, request_timeout=0.1)

    assert await manager.on_add_peer(features_of(first), first)
    assert not await manager.on_add_peer(features_of(same), same)
    assert await manager.on_add_peer(features_of(other), other)


async def test_onion_peers_are_accepted_now_and_then(make_manager, clock, caplog):
    manager = make_manager(clock=clock)

    assert await manager.on_add_peer(features_of("a.onion"), LAN_HOST)
    rules = manager.add_peer_rules
    assert clock.now <= rules.permit_onion_peer_time < clock.now + 2 * PEER_ADD_PAUSE
    rules.permit_onion_peer_time = clock.now + 5
    assert not await manager.on_add_peer(features_of("b.onion"), LAN_HOST)
    assert "for b.onion (rate limiting)" in caplog.text
    clock.now += 5
    assert await manager.on_add_peer(features_of("b.onion"), LAN_HOST)


async def test_a_verified_peer_does_not_lift_the_rate_limit(make_manager, clock):
    async with peer_server() as script:
        manager = make_manager(resolver=Names(a_com=["8.8.8.8"]), clock=clock)
        manager.add_peer_rules.recent_peer_adds["ancient.com"] = clock.now - PEER_ADD_PAUSE - 1
        manager.add_peer_rules.recent_peer_adds["a.com"] = clock.now - 5
        await add(manager, f"{LAN_HOST} t{script.port}")

        assert manager.add_peer_rules.recent_peer_adds == {"a.com": clock.now - 5}
        assert not await manager.on_add_peer(features_of("a.com"), "8.8.8.8")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(features=json_values | hostile_features, source=st.none() | st.text(max_size=20))
def test_hostile_requests_to_add_a_peer_are_answered(features, source):
    async def ask():
        manager = PeerManager(make_env(), FakeDB(), resolver=Names())
        answer = await manager.on_add_peer(features, source)
        await manager.stop()
        return answer

    assert asyncio.run(ask()) in (True, False)
