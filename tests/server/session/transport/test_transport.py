"""The certificate of TLS listeners: the files on disk now, or the last good ones."""

import os
import shutil
import ssl
import subprocess

import pytest

from electrumx.server.session.transport.tls import RenewedContext
from tests.conftest import require
from tests.integration.client import trusting_context


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two certificates with their keys: folders that hold cert.pem and key.pem."""
    require(shutil.which("openssl"), "openssl is not installed")
    folders = [tmp_path_factory.mktemp(name) for name in ("old", "new")]
    for folder in folders:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += f" -days 2 -subj /CN={folder.name} -keyout key.pem -out cert.pem"
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folders


def certificate_of(folder):
    return ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())


@pytest.fixture
def disk(tmp_path, pairs):
    """Where the server's files are: at first the old pair."""
    install(tmp_path, pairs[0])
    return tmp_path


def install(disk, folder, names=("cert.pem", "key.pem")):
    """Replace files as programs that renew do: by renaming."""
    for name in names:
        shutil.copy(folder / name, disk / "new")
        os.rename(disk / "new", disk / name)


def context_of(disk):
    return RenewedContext(str(disk / "cert.pem"), str(disk / "key.pem"))


class Connection:
    """Both ends of a TLS connection in memory."""

    def __init__(self, context):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(to_server, to_client, server_side=True)
        self.client = trusting_context().wrap_bio(to_client, to_server)
        for side in (self.client, self.server, self.client, self.server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass  # it is the other side's turn

    @property
    def certificate(self):
        return self.client.getpeercert(binary_form=True)


def test_a_connection_gets_the_certificate_on_disk(disk, pairs):
    assert certificate_of(pairs[0]) == Connection(context_of(disk)).certificate


def test_a_renewed_certificate_is_for_new_connections(disk, pairs, caplog):
    caplog.set_level("INFO")
    context = context_of(disk)
    before = Connection(context)

    install(disk, pairs[1])
    after = [Connection(context) for _ in range(3)]

    assert {certificate_of(pairs[1])} == {connection.certificate for connection in after}
    assert len(caplog.records) == 1
    assert "renewed" in caplog.text
    # The connection that was there goes on.
    before.client.write(b"ping")
    assert before.server.read() == b"ping"


def test_a_link_to_another_certificate_is_a_renewal(disk, pairs):
    """As certbot keeps them."""
    for name in ("cert.pem", "key.pem"):
        (disk / name).unlink()
        (disk / name).symlink_to(pairs[0] / name)
    context = context_of(disk)
    for name in ("cert.pem", "key.pem"):
        (disk / name).unlink()
        (disk / name).symlink_to(pairs[1] / name)

    assert certificate_of(pairs[1]) == Connection(context).certificate


def spoil(disk, pairs):
    (disk / "cert.pem").write_text("no certificate")


def truncate(disk, pairs):
    (disk / "key.pem").write_text("")


def remove(disk, pairs):
    (disk / "key.pem").unlink()


def half(disk, pairs):
    install(disk, pairs[1], ["cert.pem"])


@pytest.mark.parametrize("damage", [spoil, truncate, remove, half])
def test_a_bad_renewal_keeps_the_old_certificate_and_is_one_line(damage, disk, pairs, caplog):
    context = context_of(disk)

    damage(disk, pairs)
    during = [Connection(context) for _ in range(3)]

    assert {certificate_of(pairs[0])} == {connection.certificate for connection in during}
    assert ["ERROR"] == [record.levelname for record in caplog.records]
    assert "keeping the old one" in caplog.text
    assert "Traceback" not in caplog.text

    install(disk, pairs[1])
    assert certificate_of(pairs[1]) == Connection(context).certificate


def test_files_that_are_bad_from_the_start_are_an_error(disk):
    (disk / "key.pem").write_text("no key")

    with pytest.raises(ssl.SSLError):
        context_of(disk)
    (disk / "key.pem").unlink()
    with pytest.raises(FileNotFoundError):
        context_of(disk)
