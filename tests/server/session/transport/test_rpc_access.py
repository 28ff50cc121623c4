"""Who reaches LocalRPC: the server's user at a Unix socket, this machine, and listed networks."""

import asyncio
import json
import os
import socket
import stat
from ipaddress import ip_network

import pytest

from electrumx.server.services import UnixService, is_allowed
from electrumx.server.session.transport import rpc_access
from electrumx.server.session.transport.listeners import Listener
from electrumx.server.session.transport.rpc_access import bind_socket
from tests.fakes.session_world import WAIT_SECS, FakeService, session_world, until

PING = b'{"jsonrpc":"2.0","id":1,"method":"getinfo","params":[]}\n'


@pytest.fixture
def path(short_tmp):
    return str(short_tmp / "rpc.sock")


async def ask(path):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(PING)
    reply = json.loads(await asyncio.wait_for(reader.readline(), WAIT_SECS))
    writer.close()
    return reply["result"]


async def test_a_unix_socket_is_for_the_servers_user_and_gone_with_the_server(path, caplog):
    caplog.set_level("INFO")
    async with session_world(services=[UnixService(path)]) as world:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert (await ask(path))["coin"] == "FakeCoin"
        assert f"RPC server listening on {path}" in caplog.text
        assert [] == list(world.manager.groups.by_name)
    assert not os.path.lexists(path)
    assert f"closing down server for rpc://{path}" in caplog.text


def test_the_socket_has_no_other_mode_at_any_time(path, monkeypatch):
    modes = []
    bind = socket.socket.bind

    class Watched(socket.socket):
        def bind(self, address):
            bind(self, address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    old_mask = os.umask(0)
    try:
        monkeypatch.setattr("electrumx.server.session.transport.rpc_access.socket.socket", Watched)
        bind_socket(path).close()
        assert (modes, os.umask(0)) == ([0o600], 0)
    finally:
        os.umask(old_mask)


async def test_a_socket_that_a_killed_server_left_is_replaced(path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    async with session_world(services=[UnixService(path)]):
        assert (await ask(path))["coin"] == "FakeCoin"


async def test_a_socket_at_which_another_server_answers_is_left_to_it(path, caplog):
    async with session_world(services=[UnixService(path)]):
        async with session_world(services=[UnixService(path)], ready=False) as second:
            await until(lambda: f"RPC server failed to listen on {path}: " in caplog.text)
            assert not second.manager.listeners.open
        assert "another server listens there" in caplog.text
        assert (await ask(path))["coin"] == "FakeCoin"


def test_a_file_that_is_no_socket_is_not_removed(path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(OSError, match="not a socket"):
        bind_socket(path)
    link = path + "2"
    os.symlink(path, link)
    with pytest.raises(OSError, match="not a socket"):
        bind_socket(link)
    with open(path) as file:
        assert file.read() == "precious"


async def test_at_its_end_a_server_leaves_anothers_socket_alone(path):
    async with session_world(services=[UnixService(path)]):
        os.unlink(path)
        others = bind_socket(path)
    assert os.path.lexists(path)
    others.close()


async def test_other_services_are_served_beside_a_unix_socket(path):
    async with session_world(services=[FakeService("tcp"), UnixService(path)]) as world:
        client = await world.connect("tcp")
        await client.request("server.ping")
        rows = await (await world_admin(path)).request("sessions")
        assert [row[2] for row in rows][1:] == ["unknown"]


async def world_admin(path):
    class Admin:
        async def request(self, method):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(PING.replace(b"getinfo", method.encode()))
            reply = json.loads(await asyncio.wait_for(reader.readline(), WAIT_SECS))
            writer.close()
            return reply["result"]

    return Admin()


# -- RPC_ALLOW


NETWORKS = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.200.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.200", True),
        ("::ffff:192.0.2.1", True),
        ("2001:db8::1", True),
        ("192.0.3.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_this_machine_and_listed_networks_are_allowed(host, expected):
    assert is_allowed(host, NETWORKS) is expected
    assert is_allowed("127.0.0.1", []) is True
    assert is_allowed("192.0.2.1", []) is False


class Accepted:
    """A socket that was accepted, and who made it."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


class Refusing:
    """The admission of a server: notes who came as far as that, and refuses."""

    header_count, is_trusted = 0, False

    def __init__(self):
        self.asked = []
        self.admission = self

    def admit(self, host, *, is_rpc, is_proxied, is_trusted):
        assert (is_rpc, is_proxied, is_trusted) == (True, False, False)
        self.asked.append(host)


class OneClient:
    """A listening socket at which a client waits."""

    def __init__(self, *client_and_address):
        self.waiting = [client_and_address]

    def accept(self):
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop()


def connect_from(host):
    context, client = Refusing(), Accepted()
    listener = Listener(FakeService("rpc"), context, rpc_allow=NETWORKS)
    listener.accept_some(OneClient(client, (host, 5)))
    assert client.closed
    return context.asked


@pytest.mark.parametrize("host", ["192.0.3.1", "2001:db9::1", ""])
def test_a_connection_from_elsewhere_is_closed_at_accept(host, caplog, monkeypatch):
    monkeypatch.setattr(rpc_access, "_next_log", 0.0)
    for _ in range(3):
        assert connect_from(host) == []
    (record,) = caplog.records
    assert record.name.endswith(".LocalRPC")
    assert f"refused a connection from {host}, which RPC_ALLOW does not list" in record.msg


def test_a_connection_from_a_listed_network_is_admitted():
    assert connect_from("192.0.2.7") == ["192.0.2.7"]


async def test_a_connection_of_a_named_unix_socket_has_no_address(path):
    async with session_world(services=[UnixService(path)]) as world:
        client = socket.socket(socket.AF_UNIX)
        client.bind(path + "-client")
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, path)
        await until(lambda: world.manager.sessions)
        (session,) = world.manager.sessions
        assert session.remote_address() is None
        client.close()
