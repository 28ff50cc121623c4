"""A settings file that changes while the server serves: applied as a whole, or not at all."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration.client import ElectrumError
from tests.integration.server import ServerProcess, _accepts, certificate, wait_until
from tests.integration.test_deployment import ServiceManager
from tests.ports import free_port, free_ports

HEIGHT = 5


@pytest.fixture
def node(stopping):
    maker, tip = small_chain(HEIGHT)
    return stopping.enter_context(NodeThread(maker.chain(tip)))


class Configured(ServerProcess):
    """A server whose settings are in a file."""

    def __init__(self, folder, node_env, **settings):
        super().__init__(folder, node_env, protocols=("tcp", "rpc"), **settings)
        process = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONUNBUFFERED", "PYTHONPATH")
        process += ("NOTIFY_SOCKET", "WATCHDOG_USEC")
        self.settings = {k: v for k, v in self.env.items() if k not in process}
        for name in self.settings:
            del self.env[name]
        self.path = folder / "electrumx.conf"
        self.env["ELECTRUMX_CONFIG"] = str(self.path)
        self.write()

    def write(self, **changes):
        """Write the file with changed settings; None removes one."""
        self.settings |= changes
        self.settings = {k: str(v) for k, v in self.settings.items() if v is not None}
        self.path.write_text("".join(f'{k}="{v}"\n' for k, v in self.settings.items()))
        self.path.chmod(0o640)

    def reload(self, status=0):
        """Run electrumx_rpc reload; its lines."""
        done = subprocess.run(
            [sys.executable, REPOSITORY / "electrumx_rpc", "-p", str(self.ports["rpc"]), "reload"],
            env={k: v for k, v in self.env.items() if k != "ELECTRUMX_CONFIG"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout.splitlines()


async def test_a_reload_applies_what_it_can_and_names_the_rest(short_tmp, node, stopping):
    server = stopping.enter_context(Configured(short_tmp, node.env))
    tcp, rpc, extra, tls = (*server.ports.values(), *free_ports(2))
    banner = short_tmp / "banner"
    banner.write_text("hello")

    assert server.reload() == [f"reloaded {server.path}: no change"]

    async with server.connect() as old:
        assert (await old.call("server.donation_address")) == ""
        cert, key = certificate()
        server.write(
            DONATION_ADDRESS="an address",
            BANNER_FILE=banner,
            DROP_CLIENT="bad",
            COST_SOFT_LIMIT="500",
            COST_HARD_LIMIT="1000",
            LOG_LEVEL="warning",
            SERVICES=f"tcp://127.0.0.1:{extra},ssl://127.0.0.1:{tls},rpc://127.0.0.1:{rpc}",
            SSL_CERTFILE=cert,
            SSL_KEYFILE=key,
            CACHE_MB="30",
            REORG_LIMIT="33",
        )
        applied, later = server.reload()

        assert applied.startswith(f"reloaded {server.path}: changed BANNER_FILE, COST_HARD_LIMIT, ")
        assert later == "changed only by a restart: CACHE_MB, REORG_LIMIT"
        # The session of a service that is gone lives on, with the new settings.
        assert not _accepts(tcp)
        assert (await old.call("server.donation_address")) == "an address"
        assert (await old.call("server.banner")) == "hello"
    for protocol, port in (("tcp", extra), ("ssl", tls)):
        server.ports[protocol] = port
        async with server.connect(protocol) as new:
            assert (await new.call("blockchain.headers.subscribe"))["height"] == HEIGHT
            with pytest.raises(ElectrumError, match="unsupported client"):
                await new.call("server.version", "bad client", "1.4")
    assert not [line for line in server.log().splitlines() if " INFO:" in line and "bad" in line]

    # Back to the file as it was, but for the settings that wait for a restart.
    server.write(
        SERVICES=f"tcp://127.0.0.1:{tcp},rpc://127.0.0.1:{rpc}", SSL_CERTFILE=None, SSL_KEYFILE=None
    )
    assert server.reload()[1] == later
    assert _accepts(tcp)
    assert not _accepts(extra)
    assert "Traceback" not in server.log()


def test_a_file_with_an_error_changes_nothing(short_tmp, node, stopping):
    server = stopping.enter_context(Configured(short_tmp, node.env))
    tcp, rpc = server.ports.values()
    good = dict(server.settings)
    other = free_port()
    taken = stopping.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    (short_tmp / "bad.pem").write_text("no certificate")
    # In each file there is also a valid change, which is not applied.
    for change, reason in (
        ({"MAX_SESSION": "5"}, "the nearest one is MAX_SESSIONS"),
        ({"MAX_SESSIONS": "many"}, "MAX_SESSIONS value many"),
        ({"CACHE_MB": "x"}, "CACHE_MB value x"),
        ({"SERVICES": f"tcp://127.0.0.1:{other},tcp://127.0.0.1:{taken}"}, "in use"),
        (
            {
                "SERVICES": f"tcp://127.0.0.1:{other},ssl://127.0.0.1:{free_port()}",
                "SSL_CERTFILE": short_tmp / "bad.pem",
                "SSL_KEYFILE": short_tmp / "bad.pem",
            },
            "SSL_CERTFILE value",
        ),
        ({"DAEMON_URL": "http://u:sesame@h:1/", "DAEMON_COOKIE_FILE": "/x"}, "and a cookie file"),
        ({"SERVICES": f"tcp://127.0.0.1:{other}", "DAEMON_URL": "nonsense"}, "daemon URL"),
    ):
        server.settings = dict(good)
        server.write(DONATION_ADDRESS="never", **change)
        (line,) = server.reload(status=1)
        assert line.startswith("error making request: reload refused, nothing was changed: ")
        assert reason in line
        assert "sesame" not in line
        assert electrum.call(tcp, "server.donation_address") == ""
        assert not _accepts(other)
    server.path.unlink()
    assert "No such file" in server.reload(status=1)[0]
    server.settings = good
    server.write()
    assert server.reload() == [f"reloaded {server.path}: no change"]
    assert "sesame" not in server.log()
    assert "Traceback" not in server.log()
    assert rpc


def test_sighup_reloads_and_systemd_is_notified(short_tmp, node, stopping):
    manager = stopping.enter_context(ServiceManager(short_tmp / "notify"))
    server = Configured(short_tmp, node.env, NOTIFY_SOCKET=short_tmp / "notify")
    stopping.enter_context(server)
    manager.until("READY=1")
    server.write(DONATION_ADDRESS="new")

    os.kill(server.child.pid, signal.SIGHUP)

    lines = manager.until("RELOADING=1")
    (usec,) = [line for line in lines if line.startswith("MONOTONIC_USEC=")]
    assert int(usec.partition("=")[2]) > 0
    assert "READY=1" not in lines
    manager.until("READY=1")
    assert electrum.call(server.ports["tcp"], "server.donation_address") == "new"
    # One that is refused ends as well.
    server.write(MAX_SEND="x")
    os.kill(server.child.pid, signal.SIGHUP)
    manager.until("RELOADING=1")
    manager.until("READY=1")
    server.wait_log("reload refused, nothing was changed: .*MAX_SEND")
    assert server.terminate() == 0


def test_without_a_settings_file_there_is_nothing_to_reload(short_tmp, node, stopping):
    server = ServerProcess(short_tmp, node.env, protocols=("tcp", "rpc"))
    stopping.enter_context(server)
    line = Configured.reload(server, status=1)[0]
    assert "there is no settings file to read again" in line


async def test_a_changed_node_is_used_after_a_reload(short_tmp, node, stopping):
    maker, tip = small_chain(HEIGHT + 2)
    other = stopping.enter_context(NodeThread(maker.chain(tip)))
    cookie = short_tmp / "cookie"
    cookie.write_bytes(b"__cookie__:sesame")
    other.node.login = b"__cookie__:sesame"
    server = stopping.enter_context(Configured(short_tmp, node.env))

    server.write(DAEMON_URL=f"127.0.0.1:{other.node.port}", DAEMON_COOKIE_FILE=cookie)
    server.reload()

    await asyncio.to_thread(
        wait_until,
        lambda: server.rpc("getinfo")["daemon height"] == HEIGHT + 2,
        what="height of the other node",
    )
    assert "sesame" not in server.log()
