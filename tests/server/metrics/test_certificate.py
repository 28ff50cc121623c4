"""The end of a certificate's validity."""

import ssl
import subprocess
from datetime import datetime, timezone

import pytest

from electrumx.server.metrics.certificate import expiry_of_der, expiry_of_file
from tests.integration.server import certificate


def test_expiry_is_the_one_that_openssl_prints():
    path, _key = certificate()
    command = ["openssl", "x509", "-in", path, "-noout", "-enddate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = done.stdout.strip().partition("=")[2]
    expected = datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=timezone.utc)

    assert expiry_of_file(str(path)) == expected.timestamp()


def test_files_without_a_certificate_have_no_expiry(tmp_path):
    path = tmp_path / "file.pem"
    assert expiry_of_file(str(path)) is None
    _cert, key = certificate()
    assert expiry_of_file(str(key)) is None
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert expiry_of_file(str(path)) is None


def item(tag, value):
    return bytes([tag, len(value)]) + value


def made_certificate(end, tag, *, version=True):
    """A certificate with as much in it as leads to its end."""
    name = item(0x30, b"")
    validity = item(0x30, item(0x17, b"200101000000Z") + item(tag, end))
    parts = item(0xA0, item(2, b"\x02")) if version else b""
    parts += item(2, b"\x01") + name + name + validity
    return item(0x30, item(0x30, parts))


@pytest.mark.parametrize(
    ("end", "tag", "year"),
    [
        (b"491231235959Z", 0x17, 2049),
        (b"501231235959Z", 0x17, 1950),
        (b"20601231235959Z", 0x18, 2060),
    ],
)
@pytest.mark.parametrize("version", [False, True])
def test_both_forms_of_time_are_read(end, tag, year, version):
    expected = datetime(year, 12, 31, 23, 59, 59, tzinfo=timezone.utc).timestamp()
    assert expiry_of_der(made_certificate(end, tag, version=version)) == expected


def test_every_truncation_is_refused():
    path, _key = certificate()
    der = ssl.PEM_cert_to_DER_cert(path.read_text())
    for length in range(len(der)):
        with pytest.raises((ValueError, IndexError)):
            expiry_of_der(der[:length])


def test_other_values_in_place_of_a_time_are_refused():
    with pytest.raises(ValueError, match="no time"):
        expiry_of_der(made_certificate(b"491231235959Z", 0x02))
