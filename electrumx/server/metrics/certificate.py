"""The end of a certificate's validity, read from its file.  Pure but for the file.

Only as much of DER as leads to the date (RFC 5280, 4.1): certificate, tbsCertificate, and in that
version, serial number, signature, issuer, validity.
"""

import ssl
from datetime import datetime, timezone

SEQUENCE, EXPLICIT_0, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
PEM_BEGIN, PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
MAX_FILE_BYTES = 1_000_000


def expiry_of_file(path: str) -> float | None:
    """Return when the first certificate of a PEM file ends, in seconds since the epoch.

    None if the file is unreadable, or has no certificate.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(MAX_FILE_BYTES)
        begin = text.index(PEM_BEGIN)
        end = text.index(PEM_END, begin) + len(PEM_END)
        return expiry_of_der(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except (OSError, ValueError, IndexError):
        return None


def expiry_of_der(der: bytes) -> float:
    """Return when a certificate ends, in seconds since the epoch; raise ValueError, IndexError."""
    _tag, certificate, _rest = _item(der)
    _tag, rest, _ = _item(certificate)
    tag, _value, after = _item(rest)
    if tag == EXPLICIT_0:
        # The version is there, and the serial number follows.
        _tag, _value, after = _item(after)
    _tag, _signature, after = _item(after)
    _tag, _issuer, after = _item(after)
    tag, validity, _after = _item(after)
    if tag != SEQUENCE:
        raise ValueError("no validity where it is expected")
    _tag, _begin, after = _item(validity)
    tag, end, _after = _item(after)
    return _time(tag, end.decode("ascii"))


def _item(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and value of the first item, and the bytes after it."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        width = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + width], "big"), 2 + width
    if start + length > len(der):
        raise ValueError("the certificate is cut off")
    return tag, der[start : start + length], der[start + length :]


def _time(tag: int, text: str) -> float:
    if tag == UTC_TIME:
        # Two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time where it is expected")
    when = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
    return when.timestamp()
