"""Services behind proxies, and trusted clients: identity, limits, checks, over real sockets."""

import asyncio
import contextlib
import json
from ipaddress import ip_address, ip_network

import pytest

from electrumx.server.session.engine.prices import CONNECT_COST
from electrumx.server.session.transport import admission as admission_module
from electrumx.server.session.transport import victims
from tests.fakes.session_world import FakeService, session_world, until
from tests.server.session.transport.test_proxy_header import SSL_ON, V6_ADDRESSES, addresses, block

LOCAL_CHECK = block(0x00, b"", command=0x20)
PING = b'{"jsonrpc": "2.0", "id": 1, "method": "server.ping", "params": []}\n'
TCP, WS, SSL = (FakeService(protocol) for protocol in ("tcp", "ws", "ssl"))


def named(address, port=5000):
    """Return the header of version 1 that names a client."""
    family = "TCP6" if ":" in address else "TCP4"
    destination = "::1" if ":" in address else "203.0.113.9"
    return f"PROXY {family} {address} {destination} {port} 50001\r\n".encode()


def circuit(number):
    """Return the header that Tor writes for a circuit."""
    return (
        f"PROXY TCP6 fc00:dead:beef:4dad::{number >> 16:x}:{number & 65535:x} ::1 1 80\r\n".encode()
    )


@contextlib.asynccontextmanager
async def proxied_world(**settings):
    settings.setdefault("services", [TCP, FakeService("rpc")])
    settings.setdefault("proxy_protocol", [TCP])
    async with session_world(**settings) as world:
        world.writers = []
        try:
            yield world
        finally:
            for writer in world.writers:
                writer.close()


async def connect(world, data=b"", protocol="tcp"):
    """Return the streams of a connection that begins with these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port(protocol))
    world.writers.append(writer)
    writer.write(data)
    return reader, writer


async def ask(streams, message=PING):
    """Return the reply to a message, None if the connection ends."""
    reader, writer = streams
    writer.write(message)
    try:
        line = await reader.readline()
    except ConnectionError:
        return None
    return json.loads(line) if line else None


async def is_closed(streams):
    """Return whether the connection ends without a byte."""
    try:
        return await streams[0].read() == b""
    except ConnectionError:
        return True


def groups(world):
    return {group.name: len(group.sessions) for group in world.manager.groups.values()}


# -- identity


@pytest.mark.parametrize(
    ("header", "address", "group"),
    [
        (named("198.51.100.7"), "198.51.100.7:5000", "198.51.100.0/24"),
        (named("2001:db8::7", 0), "[2001:db8::7]:0", "2001:db8::/48"),
        (named("::ffff:198.51.100.7"), "198.51.100.7:5000", "198.51.100.0/24"),
        (named("10.1.2.3"), "10.1.2.3:5000", "10.1.2.0/24"),
        (named("127.0.0.1"), "127.0.0.1:5000", "127.0.0.0/24"),
        (block(0x21, V6_ADDRESSES), "[2001:db8::7]:5000", "2001:db8::/48"),
        (b"PROXY UNKNOWN\r\n", "unknown", "unknown_addr"),
        (block(0x00, b""), "unknown", "unknown_addr"),
        (block(0x31, bytes(216)), "unknown", "unknown_addr"),
    ],
)
async def test_a_session_is_the_clients_that_the_header_names(header, address, group, caplog):
    caplog.set_level("INFO")
    async with proxied_world() as world:
        caplog.clear()
        streams = await connect(world, header)
        assert (await ask(streams))["result"] is None
        assert address == world.session().remote_address_string()
        assert groups(world) == {group: 1}
        assert f"TCP {address}, 0 total" in caplog.text
        assert "127.0.0.1:" not in caplog.text or address.startswith("127.")


async def test_logs_without_addresses_have_neither_the_clients_nor_the_proxys(caplog):
    caplog.set_level("INFO")
    async with proxied_world(anon_logs=True) as world:
        streams = await connect(world, named("198.51.100.7"))
        assert await ask(streams)
        assert "198.51.100.7" not in caplog.text
        assert "xx.xx.xx.xx" in caplog.text


async def test_the_proxys_address_is_in_the_rows_of_sessions_only():
    async with proxied_world() as world:
        streams = await connect(world, named("198.51.100.7"))
        assert await ask(streams)
        admin = await world.connect("rpc")
        rows = await admin.request("sessions")
        port = streams[1].get_extra_info("sockname")[1]
        wallet, administrator = rows
        assert wallet[2] == "198.51.100.7:5000"
        assert wallet[15:] == [f"127.0.0.1:{port}"]
        assert len(administrator) == 15


async def test_the_flags_show_that_a_client_came_over_tls_to_the_proxy():
    async with proxied_world() as world:
        plain = await connect(world, block(0x11, addresses()))
        assert await ask(plain)
        encrypted = await connect(world, block(0x11, addresses() + SSL_ON))
        assert await ask(encrypted)
        assert [world.session(n).flags() for n in (0, 1)] == ["T10", "TS10"]


async def test_requests_may_come_with_the_header_or_in_any_pieces():
    async with proxied_world() as world:
        streams = await connect(world)
        for byte in named("198.51.100.7") + PING:
            streams[1].write(bytes([byte]))
            await asyncio.sleep(0)
        assert json.loads(await streams[0].readline())["id"] == 1
        both = await connect(world, named("198.51.100.7") + PING)
        assert json.loads(await both[0].readline())["id"] == 1


async def test_of_two_proxies_in_a_row_the_last_header_counts():
    async with proxied_world(proxy_depth=2) as world:
        streams = await connect(world, block(0x11, addresses()) + named("198.51.100.7"))
        assert await ask(streams)
        assert world.session().remote_address_string() == "198.51.100.7:5000"
        assert await is_closed(await connect(world, named("198.51.100.7") + PING))


async def test_add_peer_is_checked_against_the_clients_address():
    asked = []
    async with proxied_world() as world:

        async def on_add_peer(features, source):
            asked.append(source)
            return False

        world.manager.shared.peers.on_add_peer = on_add_peer
        streams = await connect(world, named("198.51.100.7"))
        request = {"jsonrpc": "2.0", "id": 1, "method": "server.add_peer", "params": [{}]}
        assert (await ask(streams, json.dumps(request).encode() + b"\n"))["result"] is False
        assert asked == ["198.51.100.7"]


async def test_a_websocket_upgrade_may_follow_a_header():
    async with proxied_world(services=[WS], proxy_protocol=[WS]) as world:
        upgrade = (
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        reader, _writer = await connect(world, named("198.51.100.7") + upgrade, "ws")
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        await until(lambda: world.manager.session_count() == 1)
        assert world.session().remote_address_string() == "198.51.100.7:5000"


# -- forged and missing headers


async def test_a_header_on_a_service_without_proxies_is_a_bad_line():
    async with proxied_world(proxy_protocol=[]) as world:
        streams = await connect(world, named("198.51.100.7"))
        # Depending on the first message the server answers, or closes at once.
        reply = await ask(streams)
        assert reply is None or "error" in reply
        assert "198.51.100.0/24" not in groups(world)


async def test_a_header_from_elsewhere_than_a_proxy_is_not_read():
    elsewhere = [ip_network("192.0.2.0/24")]
    async with proxied_world(proxy_trusted=elsewhere) as world:
        assert await is_closed(await connect(world, named("198.51.100.7") + PING))
        assert not groups(world)
        assert world.manager.admission.count == 0


@pytest.mark.parametrize(
    "data", [PING, b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 x\r\n", b"\x16\x03"]
)
async def test_a_proxys_connection_without_a_header_is_closed_and_costs_nothing(data, caplog):
    caplog.set_level("INFO")
    async with proxied_world() as world:
        for _ in range(3):
            assert await is_closed(await connect(world, data))
        assert not groups(world)
        assert len([r for r in caplog.records if "no valid PROXY header" in r.message]) == 1


async def test_a_header_that_does_not_come_in_time_ends_the_connection(monkeypatch):
    monkeypatch.setattr(admission_module, "HEADER_SECS", 0.0)
    monkeypatch.setattr(admission_module, "SWEEP_SECS", 0.01)
    async with proxied_world() as world:
        assert await is_closed(await connect(world, named("198.51.100.7")[:-1]))
        assert not groups(world)


# -- checks of balancers


async def test_checks_leave_no_session_no_log_and_no_cost(caplog):
    caplog.set_level("DEBUG")
    async with proxied_world() as world:
        caplog.clear()
        for data in [LOCAL_CHECK, b"", LOCAL_CHECK + PING] * 5:
            _reader, writer = await connect(world, data)
            await writer.drain()
            writer.transport.abort()
        admission = world.manager.admission
        await until(lambda: admission.count == 0)
        assert not groups(world)
        assert world.manager.session_count() == 0
        assert not admission.subnets
        assert not admission.addresses
        assert [r.message for r in caplog.records if "electrumx" in r.name] == []


async def test_a_check_is_served_nothing_and_ends_in_time(monkeypatch):
    monkeypatch.setattr(admission_module, "HANDSHAKE_SECS", 0.05)
    monkeypatch.setattr(admission_module, "SWEEP_SECS", 0.01)
    async with proxied_world() as world:
        streams = await connect(world, LOCAL_CHECK + PING)
        streams[1].write(PING)
        assert await is_closed(streams)
        assert world.manager.session_count() == 0


# -- limits


async def test_limits_are_those_of_the_clients_subnet():
    async with proxied_world(max_sessions_per_subnet=2, max_sessions_per_address=2) as world:
        kept = [await connect(world, named("10.0.0.7", n)) for n in (1, 2)]
        for streams in kept:
            assert await ask(streams)
        assert await is_closed(await connect(world, named("10.0.0.8")))
        other = await connect(world, named("10.0.1.7"))
        assert await ask(other)


async def test_connections_that_are_not_named_yet_count_and_are_bounded():
    async with proxied_world(max_sessions=10) as world:
        admission = world.manager.admission
        oldest = await connect(world, named("198.51.100.7")[:-1])
        await until(lambda: admission.count == 1)
        assert world.manager.session_count() == 0
        for _ in range(30):
            await connect(world)
        # The oldest one without a name gives way.
        assert await is_closed(oldest)
        wallet = await connect(world, named("198.51.100.8"))
        assert await ask(wallet)
        assert admission.count <= admission.max_pending < 10


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.7", "127.0.0.1", "fd00::7"])
async def test_a_private_address_that_a_proxy_names_has_the_costs_of_any_other(address):
    async with proxied_world(lenient=True) as world:
        streams = await connect(world, named(address))
        assert await ask(streams)
        world.session().bump_cost(20_000)
        error = (await ask(streams))["error"]
        assert error["code"] == -101
        assert error["data"]["cost"] > error["data"]["limit"] == 10_000
        assert error["data"]["retry_after"] > 0
        assert await is_closed(streams)
        assert await is_closed(await connect(world, named(address)))
        other = await connect(world, named("172.16.0.7"))
        assert "result" in await ask(other)


async def test_an_address_has_a_limit_of_its_own():
    async with proxied_world(max_sessions_per_address=1) as world:
        first = await connect(world, named("2001:db8::7"))
        assert await ask(first)
        # The same network of 64 bits
        assert await is_closed(await connect(world, named("2001:db8::8")))
        other = await connect(world, named("2001:db8:0:1::8"))
        assert await ask(other)
        first[1].close()
        await until(lambda: world.manager.session_count() == 1)
        again = await connect(world, named("2001:db8::8"))
        assert await ask(again)


async def test_a_subnet_at_its_limit_of_cost_is_refused_when_it_is_named():
    async with proxied_world() as world:
        world.manager.groups.charge(ip_address("8.8.8.1"), 20_000)
        assert await is_closed(await connect(world, named("8.8.8.7") + PING))
        streams = await connect(world, named("8.8.9.7"))
        assert await ask(streams)


async def test_a_client_that_ends_without_a_session_is_charged_not_the_proxy():
    async with proxied_world(services=[WS], proxy_protocol=[WS]) as world:
        _reader, writer = await connect(world, named("198.51.100.7"), "ws")
        await writer.drain()
        await until(lambda: world.manager.admission.subnets["198.51.100.0/24"])
        writer.transport.abort()
        await until(lambda: world.manager.admission.count == 0)
        assert world.manager.groups.by_name["198.51.100.0/24"].cost() == CONNECT_COST
        assert groups(world) == {"198.51.100.0/24": 0}


async def test_a_full_server_takes_no_place_away_for_a_client_that_is_refused(monkeypatch):
    monkeypatch.setattr(victims, "IDLE_SECS", 0.0)
    settings = {"max_sessions": 10, "max_sessions_per_subnet": 2, "max_sessions_per_address": 2}
    async with proxied_world(**settings) as world:
        flood = [await connect(world, named("10.0.0.7", n)) for n in (1, 2)]
        wallets = [await connect(world, named(f"10.9.{n}.7")) for n in range(8)]
        for streams in (*flood, *wallets):
            assert await ask(streams)
        for _ in range(20):
            assert await is_closed(await connect(world, named("10.0.0.7")))
        for streams in wallets:
            assert await ask(streams)
        # A client of another subnet takes the place of one that is idle.
        newcomer = await connect(world, named("10.8.0.7"))
        assert await ask(newcomer)
        await until(lambda: world.manager.admission.count == 10)


# -- trusted clients


async def test_a_trusted_client_costs_nothing_and_is_in_no_group():
    async with proxied_world(trusted_clients=[ip_network("10.0.0.0/8")]) as world:
        trusted = await connect(world, named("10.0.0.7"))
        stranger = await connect(world, named("198.51.100.7"))
        for streams in (trusted, stranger):
            assert await ask(streams)
            assert "error" in await ask(streams, b'{"id": 2, "method": "no.such"}\n')
        assert [world.session(n).cost > 0 for n in (0, 1)] == [False, True]
        assert groups(world) == {"198.51.100.0/24": 1}
        assert world.session(0).limited
        trusted[1].close()
        await until(lambda: world.manager.session_count() == 1)
        assert groups(world) == {"198.51.100.0/24": 1}
        stranger[1].close()


async def test_trusted_clients_connect_to_a_full_server_within_a_bound():
    settings = {"max_sessions": 10, "trusted_clients": [ip_network("10.0.0.0/8")]}
    async with proxied_world(**settings) as world:
        wallets = [await connect(world, named(f"198.51.{n}.7")) for n in range(10)]
        for streams in wallets:
            assert await ask(streams)
        assert await is_closed(await connect(world, named("203.0.113.7")))
        trusted = await connect(world, named("10.0.0.7"))
        assert await ask(trusted)
        assert await is_closed(await connect(world, named("10.0.0.7")))


async def test_all_clients_of_a_trusted_service_are_trusted():
    services = [TCP, WS, FakeService("rpc")]
    async with proxied_world(services=services, proxy_protocol=[], trusted_services=[TCP]) as world:
        streams = await connect(world)
        assert await ask(streams)
        session = world.session()
        assert (session.cost, session.origin().is_trusted) == (0.0, True)
        websocket = await world.connect("ws")
        await websocket.request("server.ping")
        assert world.session(-1).cost > 0


async def test_clients_of_a_trusted_service_connect_to_a_full_server(monkeypatch):
    monkeypatch.setattr(victims, "IDLE_SECS", 3_600.0)
    settings = {"services": [TCP, WS], "trusted_services": [WS], "max_sessions": 10}
    async with proxied_world(**settings) as world:
        wallets = [await connect(world, named(f"198.51.{n}.7")) for n in range(10)]
        for streams in wallets:
            assert await ask(streams)
        assert await is_closed(await connect(world, named("203.0.113.7")))
        trusted = await world.connect("ws")
        await trusted.request("server.ping")
        for streams in wallets:
            assert await ask(streams)


# -- Tor


async def test_circuits_of_tor_are_groups_under_one_weight(tmp_path):
    banner = tmp_path / "tor"
    banner.write_text("onion")
    settings = {"tor_banner_file": str(banner), "banner_file": None, "tor_group_weight": 0.25}
    async with proxied_world(**settings) as world:
        first, second = await connect(world, circuit(0x10005)), await connect(world, circuit(7))
        plain = await connect(world, named("198.51.100.7"))
        request = b'{"jsonrpc": "2.0", "id": 1, "method": "server.banner", "params": []}\n'
        assert [(await ask(s, request))["result"] == "onion" for s in (first, second, plain)] == [
            True,
            True,
            False,
        ]
        assert groups(world) == {"tor:65541": 1, "tor:7": 1, "tor": 2, "198.51.100.0/24": 1}
        abuser, other = world.session(0), world.session(1)
        abuser.bump_cost(4_000)
        assert other.extra_cost() == pytest.approx(abuser.cost * 0.25)
        # Without an end to it, all of Tor is throttled and not excluded.
        abuser.account.cost = 1e9
        assert other.extra_cost() == 5_000


async def test_clients_on_a_circuit_get_the_peers_of_tor_clients():
    async with proxied_world() as world:
        request = b'{"jsonrpc": "2.0", "id": 1, "method": "server.peers.subscribe", "params": []}\n'
        for header in (circuit(7), named("198.51.100.7")):
            assert (await ask(await connect(world, header), request))["result"]
        assert world.manager.shared.peers.asked_by_tor == [True, False]


async def test_an_abusers_circuit_is_refused_and_others_are_not():
    async with proxied_world() as world:
        streams = await connect(world, circuit(1))
        assert await ask(streams)
        world.session().bump_cost(20_000)
        reply = await ask(streams)
        assert reply["error"]["code"] == -101
        assert reply["error"]["data"].keys() == {"cost", "limit", "retry_after"}
        assert await is_closed(streams)
        assert await is_closed(await connect(world, circuit(1)))
        other = await connect(world, circuit(2))
        assert "result" in await ask(other)


async def test_the_address_of_a_circuit_means_nothing_without_a_proxy():
    """An IPv6 client may have any private address."""
    async with proxied_world(tor_group_weight=0.0) as world:
        streams = await connect(world, circuit(1))
        assert await ask(streams)
        assert groups(world) == {"tor:1": 1}
    groups_of_addresses = world.manager.groups
    assert groups_of_addresses.main_name(ip_address("fc00:dead:beef:4dad::1")) is None
