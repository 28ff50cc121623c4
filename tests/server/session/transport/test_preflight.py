"""Errors that would keep a service from being served are found before anything else."""

import asyncio
import os
import shutil
import socket
import subprocess

import pytest

from electrumx.server.services import UnixService
from electrumx.server.session.transport.preflight import (
    CertificateError,
    ListenError,
    check_certificate,
    check_services,
)
from tests.conftest import require
from tests.fakes.session_world import FakeService, fake_env
from tests.ports import free_port


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """Two certificates and their keys, one of the keys encrypted too."""
    require(shutil.which("openssl"), "openssl is not installed")
    folder = tmp_path_factory.mktemp("pems")

    def openssl(words):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=e"
    for name in ("one", "two"):
        openssl(f"req -x509 {curve} -keyout {name}.key -out {name}.crt")
    openssl("ec -in one.key -aes128 -passout pass:secret -out encrypted.key")
    whole = (folder / "one.crt").read_text()
    (folder / "truncated.crt").write_text(whole[: len(whole) // 2])
    whole = (folder / "one.key").read_text()
    (folder / "truncated.key").write_text(whole[: len(whole) // 2])
    (folder / "empty").touch()
    (folder / "text").write_text("no certificate\n")
    return folder


def test_a_good_certificate_passes(pems):
    check_certificate(str(pems / "one.crt"), str(pems / "one.key"))


@pytest.mark.parametrize("order", [("one.key", "one.crt"), ("one.crt", "one.key", "two.crt")])
def test_one_file_may_hold_the_key_and_the_chain(pems, tmp_path, order):
    combined = tmp_path / "combined.pem"
    parts = [f"text before\n{(pems / name).read_text()}" for name in order]
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    combined.write_text(parameters + "".join(parts))
    check_certificate(str(combined), str(combined))


@pytest.mark.parametrize(
    ("cert", "key", "name", "bad", "reason"),
    [
        ("missing", "one.key", "SSL_CERTFILE", "missing", "cannot be read: No such file"),
        ("one.crt", "missing", "SSL_KEYFILE", "missing", "cannot be read: No such file"),
        ("", "one.key", "SSL_CERTFILE", "", "cannot be read: Is a directory"),
        ("empty", "one.key", "SSL_CERTFILE", "empty", "holds no certificate in PEM form"),
        ("text", "one.key", "SSL_CERTFILE", "text", "holds no certificate in PEM form"),
        ("truncated.crt", "one.key", "SSL_CERTFILE", "truncated.crt", "holds no certificate"),
        ("one.key", "one.key", "SSL_CERTFILE", "one.key", "holds no certificate in PEM form"),
        ("one.crt", "empty", "SSL_KEYFILE", "empty", "holds no private key in PEM form"),
        ("one.crt", "text", "SSL_KEYFILE", "text", "holds no private key in PEM form"),
        ("one.crt", "one.crt", "SSL_KEYFILE", "one.crt", "holds no private key in PEM form"),
        ("one.crt", "truncated.key", "SSL_KEYFILE", "truncated.key", "holds no private key"),
        ("one.crt", "two.key", "SSL_KEYFILE", "two.key", "is not the key of the certificate"),
        ("one.crt", "encrypted.key", "SSL_KEYFILE", "encrypted.key", "needs a passphrase"),
    ],
)
def test_the_error_names_the_bad_file(pems, cert, key, name, bad, reason):
    with pytest.raises(CertificateError) as info:
        check_certificate(str(pems / cert), str(pems / key))
    text = str(info.value)
    assert text.startswith(f"envvar {name} value {pems / bad} {reason}")
    assert text.isprintable()


async def test_a_certificate_is_looked_at_only_where_a_service_needs_it():
    port = free_port()
    env = fake_env(services=[FakeService("tcp", port=port)], ssl_certfile="no", ssl_keyfile="no")
    await check_services(env)
    for protocol in ("ssl", "wss"):
        env.services = [FakeService(protocol, port=port)]
        with pytest.raises(CertificateError, match="envvar SSL_CERTFILE value no cannot be read"):
            await check_services(env)
    env.wss_certfile = "other"
    with pytest.raises(CertificateError, match="envvar WSS_CERTFILE value other cannot be read"):
        await check_services(env)


@pytest.mark.parametrize("protocol", ["tcp", "ws", "rpc"])
async def test_a_port_in_use_is_refused(protocol):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = fake_env(services=[FakeService(protocol, port=port)])
        with pytest.raises(ListenError) as info:
            await check_services(env)
    assert str(info.value) == (
        f"{protocol.upper()} server failed to listen on 127.0.0.1:{port}: Address already in use; "
        "stop the program that listens there, or change SERVICES"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address; name an address of this machine"),
        ("no-such-host.invalid", "name a host of this machine in SERVICES"),
    ],
)
async def test_a_host_that_is_not_this_machine_is_refused(host, reason):
    port = free_port()
    env = fake_env(services=[FakeService("tcp", host, port)])
    with pytest.raises(ListenError, match=f"TCP server failed to listen on {host}:{port}: ") as e:
        await check_services(env)
    assert reason in str(e.value)


async def test_an_address_of_another_machine_is_refused_by_every_version_of_asyncio(monkeypatch):
    """Newer ones state neither the number nor the system's reason."""

    async def refuse(*_args, **_kwargs):
        raise OSError("could not bind on any address out of [('192.0.2.1', 50001)]")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refuse)
    env = fake_env(services=[FakeService("tcp", "192.0.2.1", 50001)])
    with pytest.raises(ListenError, match="Cannot assign requested address; name an address of"):
        await check_services(env)


async def test_a_privileged_port_is_refused_with_the_reason(monkeypatch):
    async def refuse(*_args, **_kwargs):
        raise PermissionError(13, "error while attempting to bind on address")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refuse)
    env = fake_env(services=[FakeService("tcp", port=443)])
    with pytest.raises(ListenError, match="Permission denied; ports below 1024 need a privilege"):
        await check_services(env)


async def test_what_was_tried_is_free_again(short_tmp):
    path = str(short_tmp / "rpc.sock")
    port = free_port()
    env = fake_env(services=[FakeService("tcp", "all_interfaces", port), UnixService(path)])
    for _ in range(2):
        await check_services(env)
    assert not os.path.lexists(path)
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_unix_socket_that_cannot_be_made_is_refused(short_tmp):
    file = short_tmp / "file"
    file.touch()
    for path, reason in (
        (short_tmp / "missing" / "rpc.sock", "No such file or directory"),
        (file / "rpc.sock", "Not a directory"),
        (file, "there is a file that is not a socket"),
    ):
        with pytest.raises(ListenError) as info:
            await check_services(fake_env(services=[UnixService(str(path))]))
        start = f"RPC server failed to listen on {path}: {reason}; check the path in SERVICES"
        assert str(info.value).startswith(start)
