"""How peers are reached: addresses and names, bans, proxies and TLS."""

import asyncio
import logging
import socket
import ssl

import pytest

from electrumx.lib.peer import Peer
from electrumx.server.peers.proxy import ProxyFinder
from electrumx.server.peers.routes import PeerRoutes
from electrumx.server.peers.session import BadPeerError
from electrumx.server.session.transport.bans import BanList, parse_network
from tests.fakes.peer_world import (
    LAN_HOST,
    Names,
    add,
    discovering,
    ignore_proxy_sockets,
    make_env,
    peer_server,
    socks_proxy,
    until,
)
from tests.ports import free_port

LOGGER = logging.getLogger("electrumx.routes")


def make_routes(env=None, *, myselves=(), names=None, private=(), banned=(), proxy=None):
    """Return the routes of an environment, with names that resolve and addresses that do not do."""
    env = env or make_env()
    proxies = ProxyFinder(env, LOGGER)
    proxies.proxy = proxy
    bans = BanList()
    for network in banned:
        bans.add(parse_network(network), None)
    return PeerRoutes(
        env,
        proxies,
        myselves,
        names=names or Names(),
        is_public=lambda peer: peer.is_valid and peer.host not in private,
        is_banned=bans.is_banned,
    )


def peer_at(host, ip_addr=None):
    peer = Peer.from_real_name(f"{host} t1", "test")
    peer.ip_addr = ip_addr
    return peer


async def test_a_self_signed_certificate_of_another_name_will_do(make_manager, tls_context):
    async with peer_server(tls=tls_context) as script:
        peer = await add(make_manager(), f"{LAN_HOST} s{script.port}")

        assert peer.last_good


@pytest.mark.parametrize(
    ("services", "source"),
    [
        (["tcp://127.0.0.7:50001"], "127.0.0.7"),
        (["tcp://[::1]:50001", "ssl://127.0.0.8:50002"], "127.0.0.8"),
        (["tcp://[::1]:50001"], LAN_HOST),
        (["rpc://127.0.0.7:8000", "tcp://0.0.0.0:1", "tcp://all_interfaces:2"], LAN_HOST),
    ],
)
async def test_connections_come_from_our_service_address_of_the_same_family(
    make_manager, services, source
):
    async with peer_server() as script:
        peer = await add(make_manager(make_env(services=services)), f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        assert script.clients == [source]


async def test_a_loopback_service_address_is_not_used_for_hosts_elsewhere():
    routes = make_routes(make_env(services=["tcp://127.0.0.1:1", "tcp://192.0.2.1:2"]))
    elsewhere = Peer.from_real_name("example.com", "test")
    here = Peer.from_real_name("127.0.0.3", "test")

    assert routes.local_host_for(elsewhere, socket.AF_INET) == "192.0.2.1"
    assert routes.local_host_for(elsewhere, socket.AF_INET6) is None
    assert routes.local_host_for(here, socket.AF_INET) == "127.0.0.1"


async def test_a_name_is_connected_to_at_its_addresses_that_are_not_banned(make_manager, caplog):
    bans = BanList()
    bans.add(parse_network("203.0.113.0/24"), None)
    names = Names(some_host_com=["203.0.113.7", LAN_HOST], other_host_com=["203.0.113.8"])
    async with peer_server(host="some.host.com", listen_host=LAN_HOST) as script:
        manager = make_manager(is_banned=bans.is_banned, names=names)
        peer = await add(manager, f"some.host.com t{script.port}")
        assert peer.last_good
        other = await add(manager, f"other.host.com t{script.port}")
        assert other.bad
        assert "(address 203.0.113.8 is banned)" in caplog.text


async def test_a_name_that_leads_into_a_private_network_is_bad(make_manager, monkeypatch, caplog):
    """No byte is sent to the program that listens there."""
    async with peer_server(listen_host=LAN_HOST, host="stranger.example") as script:
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **kwargs: resolve(
                LAN_HOST if host == "stranger.example" else host, *args, **kwargs
            ),
        )
        manager = make_manager(is_public=lambda peer: peer.host != LAN_HOST)
        peer = await add(manager, f"stranger.example v1.4 t{script.port}")
        assert peer.bad
        assert script.requests == []
        assert "marking bad: (address 127.0.0.1 is not public)" in caplog.text
        # Our own name may: we serve from there.
        report = [f"tcp://stranger.example:{script.port}"]
        manager = make_manager(
            make_env(report=report), is_public=lambda peer: peer.host != LAN_HOST
        )
        manager.note_peers(manager.myselves, limit=None)
        await until(lambda: manager.myselves[0].last_good)


async def test_a_name_with_many_addresses_is_tried_at_a_few(make_manager, caplog):
    port = free_port()
    addresses = [f"127.0.1.{n}" for n in range(1, 200)] + ["::1"] * 200
    manager = make_manager(names=Names(many_example=addresses))
    tried = []
    connect = asyncio.get_running_loop().create_connection

    async def note(factory, host, *args, **kwargs):
        tried.append(host)
        return await connect(factory, host, *args, **kwargs)

    asyncio.get_running_loop().create_connection = note
    try:
        peer = await add(manager, f"many.example t{port}")
    finally:
        del asyncio.get_running_loop().create_connection
    assert peer.try_count == 1
    assert tried == ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "::1"]


async def test_a_name_without_addresses_is_a_failed_attempt(make_manager):
    manager = make_manager(names=Names(none_example=[]))
    peer = await add(manager, f"none.example t{free_port()}")
    assert (peer.try_count, peer.bad) == (1, False)


async def test_the_next_address_of_a_name_is_tried_when_one_does_not_answer(make_manager):
    async with peer_server("two.example", listen_host=LAN_HOST) as script:
        addresses = ["127.0.0.77", LAN_HOST]
        manager = make_manager(names=Names(two_example=addresses))
        peer = await add(manager, f"two.example t{script.port}")
        assert peer.last_good
        assert peer.ip_addr == LAN_HOST


async def test_private_addresses_of_a_strangers_name_are_not_connected_to(make_manager, caplog):
    async with peer_server("mixed.example", listen_host=LAN_HOST) as script:
        names = Names(mixed_example=["127.0.0.2", "::1", LAN_HOST], hidden_example=["127.0.0.2"])
        manager = make_manager(
            names=names, is_public=lambda peer: peer.host not in ("127.0.0.2", "::1")
        )
        peer = await add(manager, f"mixed.example t{script.port}")
        assert peer.last_good
        assert peer.ip_addr == LAN_HOST
        # No server listens there: it is bad without a request.
        peer = await add(manager, f"hidden.example t{free_port()}")
        assert peer.bad
        assert "marking bad: (address 127.0.0.2 is not public)" in caplog.text


async def test_a_tls_peer_gets_the_name_that_it_is_reached_by(make_manager, tls_context):
    asked = []
    tls_context.sni_callback = lambda _ssl, name, _context: asked.append(name)
    try:
        async with peer_server("named.example", listen_host=LAN_HOST, tls=tls_context) as script:
            manager = make_manager(names=Names(named_example=[LAN_HOST]))
            peer = await add(manager, f"named.example s{script.port}")
            assert peer.last_good
    finally:
        tls_context.sni_callback = None
    assert asked == ["named.example"]


@ignore_proxy_sockets
async def test_a_forced_proxy_is_given_addresses_and_tls_the_name(make_manager, tls_context):
    asked = []
    tls_context.sni_callback = lambda _ssl, name, _context: asked.append(name)
    try:
        async with (
            peer_server("named.example", listen_host=LAN_HOST, tls=tls_context) as script,
            socks_proxy(script.port) as proxy,
        ):
            env = make_env(tor_proxy_port=proxy.port, force_proxy=True)
            manager = make_manager(env, names=Names(named_example=["127.0.0.9"]))
            async with discovering(manager):
                await until(lambda: manager.proxy)
                peer = await add(manager, f"named.example s{script.port}")
                assert peer.last_good
                assert peer.ip_addr == "127.0.0.9"
            assert "127.0.0.9" in proxy.asked
            assert "named.example" not in proxy.asked
    finally:
        tls_context.sni_callback = None
    assert asked == ["named.example"]


# --- The routes alone


def test_texts_that_are_no_addresses_are_not_banned():
    routes = make_routes(banned=["192.0.2.0/24", "2001:db8::/32"])

    assert routes.is_banned("192.0.2.7")
    assert routes.is_banned("2001:db8::1")
    for text in ("192.0.3.7", "a.example", "", "192.0.2.7/32", "x" * 10_000):
        assert not routes.is_banned(text)


@pytest.mark.parametrize(
    ("force_proxy", "proxy", "onion", "clearnet"),
    [(False, None, False, True), (True, None, False, False), (True, "a proxy", True, True)],
)
def test_peers_that_need_a_proxy_are_reached_once_one_is_known(force_proxy, proxy, onion, clearnet):
    routes = make_routes(make_env(force_proxy=force_proxy), proxy=proxy)

    assert routes.is_open(peer_at("a.onion")) is onion
    assert routes.is_open(peer_at("a.example")) is clearnet


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.onion", ["a.onion"]),
        ("192.0.2.1", ["192.0.2.1"]),
        # Whether a peer's own address is public was checked when it was noted.
        ("10.0.0.1", ["10.0.0.1"]),
        ("mixed.example", ["192.0.2.1", "2001:db8::1"]),
        ("ours.example", ["10.0.0.1"]),
        ("none.example", []),
    ],
)
async def test_addresses_are_those_of_a_name_that_are_public_and_not_banned(host, expected):
    names = Names(
        mixed_example=["10.0.0.1", "192.0.2.1", "198.51.100.1", "2001:db8::1"],
        ours_example=["10.0.0.1"],
        none_example=[],
    )
    peer = peer_at(host)
    routes = make_routes(
        names=names,
        private=["10.0.0.1"],
        banned=["198.51.100.0/24"],
        myselves=[peer] if host == "ours.example" else [],
    )

    assert await routes.addresses(peer) == expected
    assert names.questions == host.endswith(".example")


@pytest.mark.parametrize(
    ("host", "error", "reason"),
    [
        ("198.51.100.1", BadPeerError, "address 198.51.100.1 is banned"),
        ("banned.example", BadPeerError, "address 198.51.100.2 is banned"),
        ("inner.example", BadPeerError, "address 10.0.0.1 is not public"),
        ("both.example", BadPeerError, "address 10.0.0.1 is not public"),
        ("unknown.example", OSError, "no such name"),
    ],
)
async def test_a_name_without_any_such_address_is_not_connected_to(host, error, reason):
    names = Names(
        banned_example=["198.51.100.2", "198.51.100.3"],
        inner_example=["10.0.0.1"],
        both_example=["198.51.100.2", "10.0.0.1"],
    )
    routes = make_routes(names=names, private=["10.0.0.1"], banned=["198.51.100.0/24"])

    with pytest.raises(error, match=f"^{reason}$"):
        await routes.addresses(peer_at(host))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("198.51.100.1", "address 198.51.100.1 is banned"),
        ("10.0.0.1", "address 10.0.0.1 is not public"),
        ("192.0.2.1", None),
        (None, None),
    ],
)
def test_the_address_of_a_connection_is_checked_again(address, reason):
    routes = make_routes(private=["10.0.0.1"], banned=["198.51.100.0/24"])
    peer = peer_at("a.example", address)

    if reason is None:
        routes.check_address(peer)
    else:
        with pytest.raises(BadPeerError, match=f"^{reason}$"):
            routes.check_address(peer)


def test_we_may_be_at_an_inner_address_but_not_at_a_banned_one():
    ourself = peer_at("ours.example", "10.0.0.1")

    make_routes(private=["10.0.0.1"], myselves=[ourself]).check_address(ourself)
    with pytest.raises(BadPeerError, match="is banned"):
        make_routes(banned=["10.0.0.1"], myselves=[ourself]).check_address(ourself)


def test_a_connection_by_a_proxy_does_not_come_from_our_address():
    env = make_env(services=["tcp://192.0.2.9:1"])
    peer = peer_at("a.example")

    assert make_routes(env).connection_args(peer, "TCP", socket.AF_INET) == {
        "local_addr": ("192.0.2.9", 0)
    }
    assert make_routes(env).connection_args(peer, "TCP", socket.AF_INET6) == {}
    env.force_proxy = True
    routes = make_routes(env, proxy="a proxy")
    assert routes.connection_args(peer, "TCP", socket.AF_INET) == {"proxy": "a proxy"}
    args = routes.connection_args(peer, "SSL", socket.AF_INET)
    assert args.pop("ssl").verify_mode == ssl.CERT_NONE
    assert args == {"proxy": "a proxy", "server_hostname": "a.example"}
