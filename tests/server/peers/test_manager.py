"""The peer manager against real servers on loopback."""

import asyncio

import pytest

from electrumx.lib.peer import Peer
from electrumx.server.peers import PeerManager
from electrumx.server.session.transport.bans import BanList, parse_network
from tests.fakes.peer_world import (
    LAN_HOST,
    OURSELF,
    FakeDB,
    Names,
    add,
    discovering,
    features_of,
    ignore_proxy_sockets,
    make_env,
    peer_server,
    status_of,
    until,
)
from tests.ports import free_port

# --- Honest peers


async def test_an_honest_peer_is_verified_and_reported(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert await status_of(manager, LAN_HOST) == "good"
        assert (peer.source, peer.try_count, peer.ip_addr) == ("peer", 0, LAN_HOST)
        assert (peer.server_version, peer.protocol_max) == ("ElectrumX 9", "1.4.2")
        assert manager.info() == {"bad": 0, "good": 1, "never": 0, "stale": 0, "total": 1}
        assert manager.on_peers_subscribe(False) == [
            (LAN_HOST, LAN_HOST, ["v1.4.2", f"t{script.port}"])
        ]
        assert f"[{LAN_HOST}] verified in" in caplog.text


# --- Peers that others report


async def test_few_of_the_reported_peers_are_taken(make_manager):
    reported = [["", f"host{n}.invalid", ["t1"]] for n in range(5000)]
    async with peer_server(server__peers__subscribe=reported) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        assert len(manager.peers) == 3


async def test_reported_peers_are_verified_in_turn(make_manager):
    async with peer_server("127.0.0.2") as second:
        reported = [
            ["127.0.0.2", "127.0.0.2", ["v1.4", f"t{second.port}"]],
            ["127.0.0.2", "127.0.0.2", ["v1.4", "t9"]],
            ["", "not-a-host!", []],
            ["", "abcdef.onion", ["t"]],
        ]
        async with peer_server(server__peers__subscribe=reported) as first:
            manager = make_manager()
            await add(manager, f"{LAN_HOST} t{first.port}")
            await until(lambda: manager.info()["good"] == 2)

            assert {peer.host for peer in manager.peers} == {LAN_HOST, "127.0.0.2"}


# --- Peers among themselves


async def test_a_verified_name_replaces_its_bare_address(make_manager):
    async with peer_server("localhost", listen_host=LAN_HOST) as script:
        manager = make_manager()
        by_address = await add(manager, f"{LAN_HOST} t{free_port()}")
        named = await add(manager, f"localhost t{script.port}")

        assert manager.peers == {named}
        await until(lambda: len(manager.tasks) == 1)
        assert by_address not in manager.peers


async def test_a_bare_address_gives_way_to_a_known_name(make_manager):
    async with peer_server() as script:
        manager = make_manager()
        named = await add(manager, f"example.invalid t{free_port()}")
        named.ip_addr = LAN_HOST
        # Known by name already, so it can only have come before the name.
        by_address = Peer.from_real_name(f"{LAN_HOST} t{script.port}", "test")
        by_address.retry_event = asyncio.Event()
        manager.peers.add(by_address)
        await manager.monitor_peer(by_address)

        assert manager.peers == {named}


async def test_a_known_peer_with_other_ports_is_tried_at_once(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{free_port()}")
        await manager.add_localRPC_peer(f"{LAN_HOST} t{script.port}")
        await until(lambda: peer.last_good)

        assert f"ports changed for {LAN_HOST}" in caplog.text
        assert len(manager.peers) == 1
        assert peer.tcp_port == script.port


async def test_useless_peers_are_not_noted(make_manager):
    manager = make_manager(is_public=lambda peer: peer.is_public)
    for real_name in ("127.0.0.1 t1", "localhost t1", "abc.onion t1", "", "no:host t1"):
        await manager.add_localRPC_peer(real_name)

    assert manager.peers == set()


# --- Discovery


@ignore_proxy_sockets
async def test_discovery_verifies_ourselves_and_the_hard_coded_peers(make_manager):
    async with peer_server() as ourself, peer_server("127.0.0.2") as other:
        env = make_env(
            report=[f"tcp://{LAN_HOST}:{ourself.port}"], peers=[f"127.0.0.2 t{other.port}"]
        )
        manager = make_manager(env)
        async with discovering(manager):
            await until(lambda: manager.info()["good"] == 2)

            assert manager.on_peers_subscribe(False)[0][0] == LAN_HOST
            assert "server.add_peer" not in ourself.methods()
            assert "server.add_peer" in other.methods()
        assert not manager.tasks


@pytest.mark.parametrize("setting", ["OFF", "SELF"])
async def test_without_discovery_nothing_is_started(make_manager, caplog, setting):
    manager = make_manager(make_env(report=[OURSELF], peers=["a.com t"], peer_discovery=setting))
    await manager.discover_peers()

    assert manager.info()["total"] == 0
    assert f"peer discovery: {setting}" in caplog.text
    assert "peer discovery is disabled" in caplog.text
    assert not await manager.on_add_peer({"hosts": {"8.8.8.8": {}}}, "8.8.8.8")


def test_discovery_off_answers_with_the_hard_coded_peers():
    manager = PeerManager(
        make_env(report=[OURSELF], peers=["a.com s t", "b.com t99"], peer_discovery="OFF"),
        FakeDB(),
    )
    assert manager.on_peers_subscribe(False) == [
        ("a.com", "a.com", ["v0.0", "s50002", "t50001"]),
        ("b.com", "b.com", ["v0.0", "t99"]),
    ]


def test_discovery_self_answers_with_ourselves():
    env = make_env(
        report=[OURSELF, "ssl://127.0.0.9:5001", "tcp://abc.onion:7"],
        peers=["a.com t"],
        peer_discovery="SELF",
    )
    assert PeerManager(env, FakeDB()).on_peers_subscribe(False) == [
        ("127.0.0.9", "127.0.0.9", ["v1.4.2", "s5001", "t5000"]),
        ("abc.onion", "abc.onion", ["v1.4.2", "t7"]),
    ]


@ignore_proxy_sockets
async def test_discovery_outlives_its_parts(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        manager.hard_coded_peers = None
        async with discovering(manager) as task:
            await until(lambda: "peer import failed" in caplog.text)
            peer = await add(manager, f"{LAN_HOST} t{script.port}")

            assert peer.last_good
            assert not task.done()


# --- Bans


async def test_a_peer_that_was_banned_is_neither_connected_to_nor_reported(make_manager, caplog):
    bans = BanList()
    async with peer_server() as script:
        manager = make_manager(is_banned=bans.is_banned)
        peer = await add(manager, f"{LAN_HOST} t{script.port}")
        assert peer.last_good
        bans.add(parse_network(LAN_HOST), None)
        manager.retry_banned()
        await until(lambda: peer.bad)

        assert f"marking bad: (address {LAN_HOST} is banned)" in caplog.text
        assert manager.on_peers_subscribe(False) == []
        assert len(script.clients) == 1


# --- A clock that is set


async def test_a_clock_set_back_lifts_no_peer_and_blocks_none_for_long(make_manager, clock):
    names = Names(a_example=["1.1.1.1"], b_example=["1.1.1.1"])
    manager = make_manager(clock=clock, resolver=names)
    clock.now += 1e9
    assert await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert await manager.on_add_peer(features_of("x.onion"), "1.1.1.1")
    peer = Peer.from_real_name("good.example", "test")
    peer.last_good = clock.now
    manager.peers.add(peer)
    clock.now -= 1e9
    assert manager.info()["good"] == 0
    assert manager.info()["stale"] == 1
    assert await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert await manager.on_add_peer(features_of("y.onion"), "1.1.1.1")
    # From here on everything is as usual.
    assert not await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert manager.add_peer_rules.recent_peer_adds.keys() == {"a.example", "y.onion"}
