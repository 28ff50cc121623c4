"""Real proxies in front of real listeners: HAProxy, nginx and stunnel name the client.

The clients connect from addresses of 127.0.0.0/8, which stand for subnets: a header's address is
one like every other.
"""

import asyncio
import contextlib
import gc
import json
import os

import pytest

from electrumx.server.session.engine import session_groups
from electrumx.server.session.transport.ticket import Ticket
from electrumx.server.session.transport.transport import StreamConnection
from tests.conftest import require
from tests.fakes.session_world import FakeService, session_world, until
from tests.integration import parts
from tests.integration.client import trusting_context
from tests.integration.processes import Child
from tests.integration.server import certificate
from tests.ports import free_port

TCP, SSL = FakeService("tcp"), FakeService("ssl")
PING = {"jsonrpc": "2.0", "id": 1, "method": "server.ping", "params": []}
BAD = {"jsonrpc": "2.0", "id": 1, "method": "no.such.method", "params": []}
CLIENTS = 200
CHECKS = 400
SOAK_CHECKS = 10_000


def found(part, name):
    """Return the path of a program and the variables that it needs; skip without it."""
    require(part, f"{name} of Debian is neither installed nor fetched (python -m {parts.__name__})")
    return part


@contextlib.asynccontextmanager
async def running(program, arguments, folder, port):
    """Run a program, as ``found``, until the end of the block, from when it listens on a port."""
    path, environment = program
    command = [path, *arguments]
    child = Child("proxy", command, folder=folder, env={**os.environ, **environment})
    try:
        for _ in range(400):
            assert child.running(), child.log_tail()
            try:
                _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.025)
            else:
                writer.close()
                break
        yield child
    finally:
        await asyncio.to_thread(child.terminate)


@contextlib.asynccontextmanager
async def haproxy(folder, to, options="", *, bind="", servers=1):
    """Run HAProxy in front of a port; return its own."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    config = folder / "haproxy.cfg"
    lines = [
        "global",
        "  maxconn 2000",
        "defaults",
        "  mode tcp",
        "  timeout connect 20s",
        "  timeout client 60s",
        "  timeout server 60s",
        "frontend electrum",
        f"  bind 127.0.0.1:{port} {bind}",
        "  default_backend electrumx",
        "backend electrumx",
        *(f"  server s{n} 127.0.0.1:{to} {options}" for n in range(servers)),
    ]
    config.write_text("\n".join(lines) + "\n")
    program = found(parts.haproxy(), "HAProxy")
    async with running(program, ["-db", "-f", config], folder, port):
        yield port


@contextlib.asynccontextmanager
async def world_behind_proxies(service=TCP, depth=1, **settings):
    cert, key = certificate() if service is SSL else (None, None)
    async with session_world(
        services=[service],
        proxy_protocol=[service],
        proxy_depth=depth,
        ssl_certfile=cert,
        ssl_keyfile=key,
        **settings,
    ) as world:
        yield world


async def connect(port, source="127.0.0.1", tls=None):
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0), ssl=tls)


async def ask(streams, request=PING):
    """Return the reply; None if the connection ended."""
    reader, writer = streams
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        line = await asyncio.wait_for(reader.readline(), 120)
    except ConnectionError:
        return None
    return json.loads(line) if line else None


async def close(*connections):
    for _reader, writer in connections:
        writer.close()
        with contextlib.suppress(Exception):
            await writer.wait_closed()


async def check_identity(world, port, *, tls=None, flags="T10"):
    """Connect through a proxy, from a known address and port, and look at the session."""
    streams = await connect(port, "127.7.8.9", tls)
    assert await ask(streams) == {"jsonrpc": "2.0", "id": 1, "result": None}
    host, client_port = streams[1].get_extra_info("sockname")
    # The connection that waited for the proxy may reach the server after this one.
    sessions = {session.remote_address_string(): session for session in world.manager.sessions}
    assert f"{host}:{client_port}" in sessions
    session = sessions[f"{host}:{client_port}"]
    assert session.proxy_string().startswith("127.0.0.1:")
    assert session.flags() == flags
    assert [group.name for group in world.manager.groups.of(session)] == ["127.7.8.0/24"]
    await close(streams)
    await until(lambda: not world.manager.sessions)


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_haproxy_names_the_client(option, tmp_path):
    async with (
        world_behind_proxies() as world,
        haproxy(tmp_path, world.port("tcp"), option) as port,
    ):
        await check_identity(world, port)


async def test_haproxy_reports_that_the_client_used_tls(tmp_path):
    cert, key = certificate()
    pem = tmp_path / "pem"
    pem.write_bytes(cert.read_bytes() + key.read_bytes())
    async with world_behind_proxies() as world:
        options = "send-proxy-v2-ssl proxy-v2-options crc32c,ssl"
        bind = f"ssl crt {pem}"
        async with haproxy(tmp_path, world.port("tcp"), options, bind=bind) as port:
            await check_identity(world, port, tls=trusting_context(), flags="TS10")


async def test_tls_of_the_server_begins_behind_the_header(tmp_path):
    async with (
        world_behind_proxies(SSL) as world,
        haproxy(tmp_path, world.port("ssl"), "send-proxy-v2") as port,
    ):
        await check_identity(world, port, tls=trusting_context(), flags="S10")


async def test_two_haproxys_in_a_row(tmp_path):
    async with (
        world_behind_proxies(depth=2) as world,
        haproxy(tmp_path / "inner", world.port("tcp"), "send-proxy-v2") as inner,
        haproxy(tmp_path / "outer", inner, "send-proxy") as outer,
    ):
        await check_identity(world, outer)


async def test_nginx_names_the_client(tmp_path):
    program = found(parts.proxies("usr/sbin/nginx"), "nginx")
    module, _ = found(parts.proxies("usr/lib/nginx/modules/ngx_stream_module.so"), "nginx")
    async with world_behind_proxies() as world:
        port = free_port()
        (tmp_path / "nginx.conf").write_text(
            f"load_module {module}; daemon off; master_process off; pid {tmp_path}/pid;\n"
            "error_log stderr; events { }\n"
            f"stream {{ server {{ listen 127.0.0.1:{port}; proxy_protocol on;"
            f" proxy_pass 127.0.0.1:{world.port('tcp')}; }} }}\n"
        )
        arguments = ["-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr"]
        async with running(program, arguments, tmp_path, port):
            await check_identity(world, port)


async def test_stunnel_names_the_client(tmp_path):
    program = found(parts.proxies("usr/bin/stunnel4"), "stunnel")
    cert, key = certificate()
    async with world_behind_proxies() as world:
        port = free_port()
        (tmp_path / "stunnel.conf").write_text(
            f"foreground = yes\npid =\n[electrum]\naccept = 127.0.0.1:{port}\n"
            f"connect = 127.0.0.1:{world.port('tcp')}\ncert = {cert}\nkey = {key}\n"
            "protocol = proxy\n"
        )
        async with running(program, [tmp_path / "stunnel.conf"], tmp_path, port):
            await check_identity(world, port, tls=trusting_context())


# -- checks of balancers


async def flat_under_checks(folder, count, caplog):
    """Let HAProxy check the server so many times, which must leave nothing behind."""
    caplog.set_level("INFO", logger="electrumx")
    async with world_behind_proxies() as world:
        caplog.clear()
        admission = world.manager.admission
        seen = 0
        note_check = admission.note_check

        def count_check(ticket):
            nonlocal seen
            seen += 1
            note_check(ticket)

        admission.note_check = count_check
        options = "send-proxy-v2 check check-send-proxy inter 5ms fastinter 5ms"
        async with haproxy(folder, world.port("tcp"), options, servers=4) as port:
            await until(lambda: seen > count, secs=600)
            streams = await connect(port, "127.7.8.9")
            assert await ask(streams)
            await close(streams)
            await until(lambda: not world.manager.sessions)
        await until(lambda: admission.count == 0)
        assert not admission.subnets
        assert not admission.addresses
        # Of the one client, its connection is retained as a cost at most.
        assert {group.name for group in world.manager.groups.values()} <= {
            "127.7.8.0/24",
            # The probe for the port came without a request.
            "127.0.0.0/24",
        }
        assert len([r for r in caplog.records if r.name.startswith("electrumx")]) <= 3
        gc.collect()
        left = [o for o in gc.get_objects() if isinstance(o, (Ticket, StreamConnection))]
        assert len(left) <= 2
        return seen


async def test_checks_leave_nothing_behind(tmp_path, caplog):
    assert await flat_under_checks(tmp_path, CHECKS, caplog) > CHECKS


@pytest.mark.soak
async def test_many_checks_leave_nothing_behind(tmp_path, caplog):
    assert await flat_under_checks(tmp_path, SOAK_CHECKS, caplog) > SOAK_CHECKS


# -- one abuser among many clients


async def abuse(port):
    """Cause errors until the session is closed; return the last reply."""
    streams = await connect(port, "127.250.0.1")
    reply = None
    for _ in range(300):
        found = await ask(streams, BAD)
        if found is None:
            break
        reply = found
        if found["error"]["code"] == -101:
            break
    await close(streams)
    return reply


@pytest.mark.parametrize("is_named", [True, False])
async def test_an_abuser_behind_a_proxy_throttles_others_only_if_it_is_not_named(
    is_named, tmp_path, monkeypatch
):
    # The proxy has a public address.
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    settings = {"max_sessions_per_subnet": 1000, "max_sessions_per_address": 1000}
    settings |= {"request_sleep": 0, "proxy_protocol": [TCP] if is_named else []}
    async with (
        session_world(services=[TCP], **settings) as world,
        haproxy(tmp_path, world.port("tcp"), "send-proxy" if is_named else "") as port,
    ):
        clients = [await connect(port, f"127.{n}.0.1") for n in range(1, CLIENTS)]
        for streams in clients:
            assert "result" in await ask(streams)
        sessions = list(world.manager.sessions)
        reply = await abuse(port)
        assert reply["error"]["code"] == -101
        assert reply["error"]["data"].keys() == {"cost", "limit", "retry_after"}
        for session in sessions:
            session.recalc_concurrency()
        throttled = [session for session in sessions if session.account.cost_fraction > 0]
        assert len(throttled) == (0 if is_named else len(sessions))
        replies = [await ask(streams) for streams in clients]
        served = [reply for reply in replies if reply is not None and "result" in reply]
        assert len(served) == (CLIENTS - 1 if is_named else 0)
        newcomer = await connect(port, "127.251.0.1")
        assert (await ask(newcomer) is not None) == is_named
        await close(*clients, newcomer)
