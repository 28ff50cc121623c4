"""From accept to the end, over real sockets: shortage, eviction, half-closed clients, no leaks."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.session.engine import session_groups
from electrumx.server.session.transport import victims
from electrumx.server.session.transport.held_memory import SendMemory
from electrumx.server.session.transport.listeners import Listener, bound_sockets
from tests.conftest import REPOSITORY
from tests.fakes.session_world import FakeService, make_tx_hash, session_world, until

TXID = hash_to_hex_str(make_tx_hash("some"))


def line(number, method="server.ping", *params):
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


async def raw_connection(port, source="127.0.0.1"):
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))


# -- half-closed clients


async def test_what_was_asked_before_the_end_of_input_is_answered(world):
    reader, writer = await raw_connection(world.port("tcp"))
    world.daemon.stall = asyncio.Event()
    requests = [line(1), line(2, "blockchain.transaction.get", TXID)]
    requests += [line(n, "blockchain.scripthash.get_history", "ab" * 32) for n in range(3, 60)]
    writer.write(b"".join(requests))
    writer.write_eof()
    await until(lambda: world.daemon.calls)
    world.daemon.stall.set()
    replies = [json.loads(reply) for reply in (await reader.read()).splitlines()]
    assert sorted(reply["id"] for reply in replies) == list(range(1, 60))
    assert all("result" in reply for reply in replies)
    await until(lambda: not world.manager.sessions)
    writer.close()


async def test_a_half_closed_client_with_nothing_asked_is_closed_at_once(world):
    reader, writer = await raw_connection(world.port("tcp"))
    writer.write(line(1))
    assert await reader.readline()
    writer.write_eof()
    assert await reader.read() == b""
    await until(lambda: not world.manager.sessions)
    writer.close()


async def test_a_half_closed_client_waits_no_longer_than_others():
    async with session_world(request_timeout=1) as world:
        reader, writer = await raw_connection(world.port("tcp"))
        world.daemon.stall = asyncio.Event()
        writer.write(line(1, "blockchain.transaction.get", TXID))
        writer.write_eof()
        reply = json.loads(await reader.read())
        assert reply["error"]["code"] == -102
        await until(lambda: not world.manager.sessions)
        writer.close()


async def test_a_large_message_before_the_end_of_input_is_answered(world):
    reader, writer = await raw_connection(world.port("tcp"))
    writer.write(line(1, "server.ping").rstrip() + b" " * 100_000 + b"\n")
    writer.write(json.dumps([json.loads(line(n)) for n in range(2, 500)]).encode() + b"\n")
    writer.write_eof()
    replies = [json.loads(reply) for reply in (await reader.read()).splitlines()]
    assert [type(reply) for reply in replies] == [dict, list]
    assert len(replies[1]) == 498
    writer.close()


# -- too many connections


async def test_a_subnet_is_bounded_and_others_connect(monkeypatch):
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    services = [FakeService("tcp"), FakeService("ws")]
    async with session_world(max_sessions_per_subnet=5, services=services) as world:
        kept = [await raw_connection(world.port("tcp"), f"127.1.1.{n}") for n in range(1, 6)]
        await until(lambda: world.manager.session_count() == 5)
        for protocol in ("tcp", "ws"):
            reader, writer = await raw_connection(world.port(protocol), "127.1.1.9")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        reader, writer = await raw_connection(world.port("tcp"), "127.1.2.9")
        writer.write(line(1))
        assert await reader.readline()
        writer.close()
        for _reader, writer in kept:
            writer.close()


async def test_one_subnet_cannot_shut_others_out(monkeypatch):
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    monkeypatch.setattr(victims, "IDLE_SECS", 0.0)
    async with session_world(max_sessions=30, max_sessions_per_subnet=20) as world:
        port = world.port("tcp")
        wallets = [await raw_connection(port, f"127.2.{n}.1") for n in range(10)]
        hoarders = [await raw_connection(port, f"127.1.1.{n}") for n in range(1, 21)]
        await until(lambda: world.manager.session_count() == 30)
        newcomers = [await raw_connection(port, f"127.3.{n}.1") for n in range(8)]
        for reader, writer in [*wallets, *newcomers]:
            writer.write(line(1))
            assert await reader.readline()
        await until(lambda: world.manager.session_count() == 30)
        hosts = [str(session.remote_address().host) for session in world.manager.sessions]
        assert sum(host.startswith("127.1.1.") for host in hosts) == 12
        for _reader, writer in [*wallets, *hoarders, *newcomers]:
            writer.close()


async def test_when_nothing_can_be_evicted_listening_pauses_until_something_can(
    monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr("electrumx.server.session.listening.EVICTION_CHECK_SECS", 0.05)
    monkeypatch.setattr(victims, "PLAN_SECS", 0.0)
    async with session_world(max_sessions=2) as world:
        clients = [await world.connect() for _ in range(2)]
        for client in clients:
            await client.request("server.ping")
        # While one was silent it could be evicted; now the next client finds no place.
        reader, writer = await raw_connection(world.port("tcp"))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: len(world.manager.listeners.open) == 1)
        assert "maximum sessions 2 reached" in caplog.text
        world.session(0).last_recv -= victims.IDLE_SECS
        await until(lambda: len(world.manager.listeners.open) == 2)
        assert "resuming listening for incoming connections" in caplog.text


SHORTAGE = """
    import asyncio, os, resource, sys
    from tests.fakes.session_world import session_world, until

    async def main():
        async with session_world(max_sessions=10_000) as world:
            port = world.port("tcp")
            client = await world.connect()
            await client.request("server.ping")
            descriptors = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + 20, 4096))
            print(port, flush=True)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, sys.stdin.readline)
            # The flood stands; those who ask are served, and the shortage ends.
            await client.request("server.ping")
            print("served", flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            await client.request("server.ping")
            await until(lambda: world.manager.session_count() == 1)
            print(len(os.listdir("/proc/self/fd")) - descriptors, flush=True)

    asyncio.run(main())
"""


def test_a_shortage_of_descriptors_is_survived_and_is_one_line():
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SHORTAGE)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        port = int(server.stdout.readline())
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        # Each shortage closes those that are open and silent.
        for sock in flood[:10]:
            sock.settimeout(60)
            assert sock.recv(1) == b""
        server.stdin.write("go\n")
        server.stdin.flush()
        assert server.stdout.readline() == "served\n"
        # The end of the shortage: a new client is served.
        for sock in flood:
            sock.close()
        with socket.create_connection(("127.0.0.1", port)) as newcomer:
            newcomer.settimeout(60)
            newcomer.sendall(line(1))
            assert newcomer.recv(1_000).endswith(b"\n")
        output, errors = server.communicate("go\n", timeout=60)
    assert int(output) <= 0
    assert errors.count("cannot accept connections on tcp://") == 1
    assert "Traceback" not in errors
    assert server.returncode == 0


async def test_accept_errors_of_single_connections_are_ignored(monkeypatch):
    async with session_world() as world:
        service = next(s for s in world.manager.listeners.open if s.protocol == "tcp")
        listener = world.manager.listeners.open[service]
        failures = [OSError(errno.ECONNABORTED, "aborted"), BlockingIOError()]

        def accept():
            raise failures.pop(0)

        listener.accept_some(SimpleNamespace(accept=accept))
        assert failures == []
        client = await world.connect()
        await client.request("server.ping")


async def test_connections_that_come_and_go_leave_no_descriptor():
    services = [FakeService("tcp"), FakeService("ws"), FakeService("rpc")]
    async with session_world(services=services) as world:
        ports = [world.port(protocol) for protocol in ("tcp", "ws", "rpc")]
        await (await world.connect()).close()
        await until(lambda: world.manager.admission.count == 0)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(60):
            sock = socket.create_connection(("127.0.0.1", ports[number % 3]))
            if number % 2:
                sock.sendall(line(1))
            if number % 4 == 0:
                # A reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if number % 5 == 0:
                await asyncio.sleep(0)
            sock.close()
        await until(lambda: world.manager.admission.count == 0 and not world.manager.sessions)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert not world.manager.admission.subnets


# -- slow readers


class SlowConnection:
    def __init__(self, size):
        self.size = size
        self.aborted = False

    def unsent_bytes(self):
        return self.size

    def abort(self):
        self.aborted = True


def test_the_largest_slow_readers_go_when_all_together_hold_too_much(caplog):
    memory = SendMemory(1_000)
    slow = [SlowConnection(size) for size in (300, 100, 350, 200)]
    for connection in slow:
        memory.note(connection, connection.size)
    assert not any(connection.aborted for connection in slow)
    memory.note(last := SlowConnection(60), 60)

    assert [c.aborted for c in (*slow, last)] == [False, False, True, False, False]
    assert memory.total == 660
    assert "1,010 bytes wait for clients that do not read, over the bound of 1,000" in caplog.text


def test_a_buffer_that_has_drained_since_does_not_count():
    memory = SendMemory(1_000)
    drained, other = SlowConnection(900), SlowConnection(200)
    memory.note(drained, 900)
    drained.size = 10
    memory.note(other, 200)

    assert not drained.aborted
    assert memory.total == 210
    memory.forget(other)
    assert memory.total == 10


async def test_slow_readers_together_have_a_bound():
    async with session_world() as world:
        world.manager.listeners.send_memory.limit = 3_000_000
        world.daemon.txs[TXID] = "ab" * 450_000
        good = await world.connect()
        await good.request("server.ping")
        slow = [await world.connect() for _ in range(6)]
        for client in slow:
            client.stop_reading()
            for n in range(12):
                await client.send(
                    {"method": "blockchain.transaction.get", "params": [TXID], "id": n}
                )
        await until(lambda: world.manager.session_count() < 7)
        assert world.manager.listeners.send_memory.total <= 3_000_000
        await good.request("server.ping")
        for client in slow:
            client.abort()


# -- sockets


async def test_a_port_in_use_is_named():
    (first,) = await bound_sockets("127.0.0.1", 0)
    with first, pytest.raises(OSError, match="cannot bind to 127") as info:
        await bound_sockets("127.0.0.1", first.getsockname()[1])
    assert info.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_a_shortage_is_not_taken_for_a_missing_address_family(number, monkeypatch):
    def no_socket(*args):
        raise OSError(number, "too many")

    monkeypatch.setattr(socket, "socket", no_socket)
    with pytest.raises(OSError, match="too many") as info:
        await bound_sockets("127.0.0.1", 0)
    assert info.value.errno == number


async def test_a_missing_address_family_is_passed_over(monkeypatch):
    make = socket.socket
    infos = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]

    async def getaddrinfo(*args, **kwargs):
        return infos

    def only_ipv4(family=-1, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return make(family, *args, **kwargs)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "socket", only_ipv4)
    (sock,) = await bound_sockets("localhost", 0)
    sock.close()


async def test_a_service_that_cannot_listen_again_after_a_pause_is_tried_until_it_can(
    monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr("electrumx.server.session.listening.EVICTION_CHECK_SECS", 0.05)
    monkeypatch.setattr("electrumx.server.session.transport.listeners.RETRY_SECS", 0.02)
    monkeypatch.setattr(victims, "PLAN_SECS", 0.0)
    failures = 3
    make_sockets = Listener.make_sockets

    async def fail(self):
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return await make_sockets(self)

    async with session_world(max_sessions=2) as world:
        clients = [await world.connect() for _ in range(2)]
        for client in clients:
            await client.request("server.ping")
        await until(lambda: len(world.manager.listeners.open) == 1)
        monkeypatch.setattr(Listener, "make_sockets", fail)
        world.session(0).last_recv -= victims.IDLE_SECS
        await until(lambda: len(world.manager.listeners.open) == 2)
        assert not failures
        assert caplog.text.count("failed to listen") == 1
        await (await world.connect()).request("server.ping")
