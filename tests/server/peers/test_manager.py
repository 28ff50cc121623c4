"""The peer manager against real servers on loopback: honest, lying, broken, slow and huge ones."""

import asyncio
import json
import socket

import pytest
from aiorpcx import RPCError, Service

from electrumx.lib.peer import Peer
from electrumx.server.peers import PeerManager
from electrumx.server.session.transport.bans import BanList, parse_network
from tests.fakes.peer_world import (
    HANG,
    HANG_UP,
    LAN_HOST,
    OURSELF,
    FakeDB,
    Names,
    add,
    discovering,
    features_of,
    ignore_proxy_sockets,
    is_pausing,
    is_tried,
    make_env,
    peer_server,
    raw_server,
    socks_proxy,
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


async def test_tcp_is_tried_when_ssl_fails(make_manager):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} s{free_port()} t{script.port}")

        assert peer.last_good


async def test_a_self_signed_certificate_of_another_name_will_do(make_manager, tls_context):
    async with peer_server(tls=tls_context) as script:
        peer = await add(make_manager(), f"{LAN_HOST} s{script.port}")

        assert peer.last_good


# --- Liars


async def test_a_bad_peer_is_not_tried_by_its_other_ways(make_manager):
    async with peer_server(server__version="bad") as first, peer_server() as second:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{first.port}")
        peer.check_ports(Peer.from_real_name(f"{LAN_HOST} t{second.port}", "test"))
        tries = len(first.requests)
        peer.retry_event.set()
        await until(lambda: len(first.requests) > tries and is_pausing(manager, peer))

        assert second.requests == []


# --- Failures that are no lies


async def test_an_error_reply_is_a_failed_attempt(make_manager, caplog):
    error = RPCError(7, "no\nway " + "y" * 1000)
    async with peer_server(server__features=error) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert not peer.bad
        assert peer.try_count == 1
        assert f"[{LAN_HOST}:{script.port} TCP] RPC error: no\\nway yyy" in caplog.text
        assert "y" * 200 not in caplog.text


def malformed_reply(error):
    def answer(line):
        request_id = json.loads(line)["id"]
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"

    return answer


RUBBISH = {
    "error is a text": malformed_reply("oops"),
    "error is null": malformed_reply(None),
    "error has a bad code": malformed_reply({"code": "x", "message": []}),
    "not JSON": lambda line: b"rubbish\n",
    "not UTF-8": lambda line: b"\xff\xfe\n",
    "nested deeply": lambda line: b"[" * 100_000 + b"\n",
    "huge number": lambda line: b'{"jsonrpc":"2.0","id":' + b"9" * 10_000 + b"}\n",
    "unsortable batch": lambda line: (
        json.dumps([{"jsonrpc": "2.0", "id": i, "result": 1} for i in (0, "a", None)]).encode()
        + b"\n"
    ),
    "one endless line": lambda line: b"x" * 3_000_000,
    "many requests": lambda line: b'{"jsonrpc":"2.0","id":1,"method":"x"}\n' * 2000,
    "nothing": lambda line: b"",
}


@pytest.mark.parametrize("answer", RUBBISH.values(), ids=RUBBISH)
async def test_rubbish_is_a_failed_attempt_and_harms_no_other_peer(make_manager, answer):
    async with raw_server(answer) as port, peer_server("127.0.0.2") as honest:
        manager = make_manager(request_timeout=0.3)
        rubbish_peer = await add(manager, f"{LAN_HOST} t{port}")
        # However busy the machine is
        manager.request_timeout = 60.0
        honest_peer = await add(manager, f"127.0.0.2 t{honest.port}")

        assert not rubbish_peer.last_good
        assert rubbish_peer in manager.peers
        assert honest_peer.last_good


async def test_a_peer_that_is_slow_is_a_failed_attempt(make_manager, caplog):
    async with peer_server(blockchain__headers__subscribe=HANG) as script:
        peer = await add(make_manager(request_timeout=0.2), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)
        assert f"[{LAN_HOST}:{script.port} TCP] task timed out" in caplog.text


async def test_a_peer_that_never_finishes_tls_is_a_failed_attempt(make_manager):
    async with raw_server(lambda line: b"") as port:
        peer = await add(make_manager(request_timeout=0.05), f"{LAN_HOST} s{port}")

        assert (peer.bad, peer.try_count) == (False, 1)


@pytest.mark.parametrize("method", ["server__features", "server__peers__subscribe"])
async def test_a_connection_lost_later_is_a_failed_attempt(make_manager, method):
    async with peer_server(**{method: HANG_UP}) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)


async def test_a_closed_port_is_a_failed_attempt(make_manager):
    manager = make_manager()
    peer = await add(manager, f"{LAN_HOST} t{free_port()}")

    assert (peer.bad, peer.try_count) == (False, 1)
    assert await status_of(manager, LAN_HOST) == "never"


async def test_our_own_fault_is_logged_and_a_failed_attempt(make_manager, caplog):
    class BrokenDB(FakeDB):
        async def raw_header(self, height):
            raise RuntimeError("disk on fire")

    async with peer_server() as script:
        peer = await add(make_manager(db=BrokenDB()), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)
        assert "unexpected error" in caplog.text
        assert "disk on fire" in caplog.text


@pytest.mark.parametrize(
    ("was_good", "bad", "tries"), [(False, False, 3), (True, False, 10), (True, True, 3)]
)
async def test_a_peer_is_forgotten_after_some_failures(make_manager, caplog, was_good, bad, tries):
    async with peer_server(server__version="bad" if bad else RPCError(1, "x")) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")
        peer.last_good = 1.0 if was_good else 0
        for count in range(1, tries):
            await until(lambda count=count: peer.try_count == count and is_pausing(manager, peer))
            assert peer in manager.peers
            peer.retry_event.set()
        await until(lambda: peer not in manager.peers)

        assert peer.try_count == tries
        assert f"forgetting {'bad' if bad else 'unreachable'} peer: {LAN_HOST}" in caplog.text
        await until(lambda: not manager.tasks)


# --- Peers that others report, and our registration


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


@pytest.mark.parametrize(
    ("reported", "settings", "registered"),
    [
        ([], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000"]]], {}, False),
        ([["127.0.0.9", "127.0.0.9", ["t5001"]]], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000", "s1"]]], {}, True),
        ([], {"peer_announce": False}, False),
        ([], {"report_services": []}, False),
        ([], {"report_services": [Service.from_string("tcp://abc.onion:5")]}, False),
    ],
)
async def test_we_register_with_peers_that_do_not_know_us(
    make_manager, reported, settings, registered
):
    async with peer_server(server__peers__subscribe=reported) as script:
        manager = make_manager(make_env(report=[OURSELF], **settings))
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        sent = [args for method, args in script.requests if method == "server.add_peer"]
        assert len(sent) == registered
        if registered:
            assert sent[0][0]["hosts"] == {"127.0.0.9": {"tcp_port": 5000}}


async def test_a_refusal_to_add_us_does_not_count_against_a_peer(make_manager):
    async with peer_server(server__add_peer=RPCError(1, "too busy")) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.last_good


async def test_hanging_up_at_add_peer_is_bad(make_manager, caplog):
    async with peer_server(server__add_peer=HANG_UP) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.bad
        assert "terminated before server.add_peer response" in caplog.text


async def test_we_do_not_register_when_we_are_not_public(make_manager):
    async with peer_server() as script:
        manager = make_manager(
            make_env(report=[OURSELF]), is_public=lambda peer: peer.host == LAN_HOST
        )
        await add(manager, f"{LAN_HOST} t{script.port}")

        assert "server.add_peer" not in script.methods()


# --- Where we connect from


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


async def test_a_loopback_service_address_is_not_used_for_hosts_elsewhere(make_manager):
    manager = make_manager(make_env(services=["tcp://127.0.0.1:1", "tcp://192.0.2.1:2"]))
    elsewhere = Peer.from_real_name("example.com", "test")
    here = Peer.from_real_name("127.0.0.3", "test")

    assert manager.local_host_for(elsewhere, socket.AF_INET) == "192.0.2.1"
    assert manager.local_host_for(elsewhere, socket.AF_INET6) is None
    assert manager.local_host_for(here, socket.AF_INET) == "127.0.0.1"


# --- Peers among themselves


async def test_one_good_peer_for_each_address(make_manager, caplog):
    async with peer_server() as first, peer_server("localhost", listen_host=LAN_HOST) as second:
        manager = make_manager()
        good = await add(manager, f"{LAN_HOST} t{first.port}")
        late = await add(manager, f"localhost t{second.port}")

        assert (good.bad, late.bad) == (False, True)
        assert f"too many peers already in bucket {LAN_HOST}/32" in caplog.text


async def test_peers_verified_at_the_same_moment_do_not_share_a_bucket(make_manager):
    async with peer_server() as first, peer_server("localhost", listen_host=LAN_HOST) as second:
        manager = make_manager()
        await manager.add_localRPC_peer(f"{LAN_HOST} t{first.port}")
        await manager.add_localRPC_peer(f"localhost t{second.port}")
        await until(lambda: len(first.requests) >= 5 and len(second.requests) >= 5)
        await until(lambda: all(is_tried(manager, peer) for peer in manager.peers))

        assert manager.info()["good"] == 1


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


# --- Names of strangers


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
