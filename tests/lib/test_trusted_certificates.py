"""Verification over https, and the certificates that importing aiohttp does not read.

In processes of their own: OpenSSL takes the trusted certificates from the environment.
"""

import os
import subprocess
import sys

import pytest

from electrumx.lib.trusted_certificates import keep_paths
from tests.conftest import REPOSITORY
from tests.integration.server import certificate

PROGRAM = """
import asyncio, os, ssl, sys

from electrumx.lib.trusted_certificates import import_aiohttp, trusted_context

assert "aiohttp" not in sys.modules
before = dict(os.environ)
import_aiohttp(os.environ)
assert dict(os.environ) == before

import aiohttp
from aiohttp import web

async def ask(url, tls):
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=tls) as response:
            return await response.text()
    except aiohttp.ClientConnectorCertificateError as e:
        return e.certificate_error.reason

async def main(cert, key, host):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    app = web.Application()
    app.add_routes([web.get("/", lambda request: asyncio.sleep(0, web.Response(text="answer")))])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    url = f"https://{host}:{runner.addresses[0][1]}/"
    for _ in range(2):
        print(await ask(url, await trusted_context()))
    print(await ask(url, True))
    await runner.cleanup()

asyncio.run(main(*sys.argv[1:]))
"""

REFUSED = "CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        # aiohttp's own context trusts no certificate, whatever the file.
        (lambda cert: {"SSL_CERT_FILE": cert}, ["answer", "answer", REFUSED]),
        (lambda cert: {}, [REFUSED, REFUSED, REFUSED]),
    ],
    ids=["trusted", "not-trusted"],
)
def test_requests_are_verified_by_the_certificates_that_the_system_trusts(variables, expected):
    cert, key = certificate()
    env = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), **variables(str(cert))}
    env["SSL_CERT_DIR"] = os.devnull
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, cert, key, "127.0.0.1"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.split() == expected, run.stderr


def test_paths_of_certificates_outlast_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"SSL_CERT_FILE": "ca.pem", "SSL_CERT_DIR": os.pathsep.join(["one", "/two"])}
    keep_paths(environ)
    assert environ == {
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "SSL_CERT_DIR": os.pathsep.join([str(tmp_path / "one"), "/two"]),
    }
    for without in ({}, {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}):
        environ = dict(without)
        keep_paths(environ)
        assert environ == without
