"""Managers of peers, a certificate and a clock."""

import logging
import shutil
import ssl
import subprocess

import pytest

from electrumx.server.peers import PeerManager
from tests.conftest import require
from tests.fakes.peer_world import Clock, FakeDB, make_env


@pytest.fixture(autouse=True)
def see_logs(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
async def make_manager():
    """Return a function that makes managers, for which every valid host is public."""
    managers = []

    def make(env=None, db=None, **kwargs):
        kwargs.setdefault("is_public", lambda peer: peer.is_valid)
        kwargs.setdefault("request_timeout", 60.0)
        manager = PeerManager(env or make_env(), db or FakeDB(), **kwargs)
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        await manager.stop()


@pytest.fixture(scope="module")
def tls_context(tmp_path_factory):
    """A server context with a fresh self-signed certificate."""
    openssl = shutil.which("openssl")
    require(openssl, "the openssl command is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=somebody.else"
    subprocess.run(
        [*request.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


@pytest.fixture
def clock():
    return Clock()
