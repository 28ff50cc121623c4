"""The headers of the PROXY protocol, by which a balancer names the client behind a connection.

Source: "The PROXY protocol, versions 1 & 2" (``proxy-protocol.txt`` of HAProxy).  Version 1 is a line
of text, version 2 a block with a signature, a command, addresses and type-length-value fields (TLVs);
numbers are big-endian.  Pure: bytes in, values out.  ``trust`` decides whether to believe the
sender.

With several balancers in a row the one nearest to the server writes first, so the last header names
the client.  A header with the command LOCAL is a connection of a balancer's own, such as a check.
"""

import re
import struct
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

#: bytes of all headers of a connection
MAX_HEADER_BYTES = 4_200
# A line of version 1 with its end.
_MAX_LINE_BYTES = 107
# The addresses and TLVs of version 2.
_MAX_BLOCK_BYTES = 4_096
_FIXED_BYTES = 16

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LINE = re.compile(
    rb"PROXY TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+) "
    rb"(?P<port>0|[1-9][0-9]{0,4}) (?P<to_port>0|[1-9][0-9]{0,4})\r\n"
)
_MAX_PORT = 65_535

_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
# By family: the bytes of both addresses and ports.
_ADDRESS_BYTES = (0, 12, 36, 216)
_MAX_TRANSPORT = 2

_TLV_CRC32C = 0x03
_TLV_SSL = 0x20
# Bit of the first byte of the SSL TLV: the client connected over TLS.
_CLIENT_SSL = 0x01
_MIN_SSL_BYTES = 5


class ProxyHeaderError(ValueError):
    """The bytes are not a PROXY header."""


class ProxyHeader(NamedTuple):
    """A header's content."""

    #: the client; None if unknown or without an IP address
    address: IPv4Address | IPv6Address | None = None
    #: 0 if the address is unknown, and possible otherwise
    port: int = 0
    #: whether the connection is the balancer's own
    is_local: bool = False
    #: whether the client connected to the balancer over TLS
    had_tls: bool = False


UNKNOWN_CLIENT = ProxyHeader()
LOCAL = ProxyHeader(is_local=True)


def parse_header(data: bytes) -> tuple[ProxyHeader, int] | None:
    """Return the header that bytes begin with and its length; None if it is not complete.

    Raise ProxyHeaderError as soon as the bytes cannot begin a header.
    """
    if data[:1] == _SIGNATURE[:1]:
        return _parse_block(data)
    return _parse_line(data)


def _parse_line(data: bytes) -> tuple[ProxyHeader, int] | None:
    if data[: len(_LINE_START)] != _LINE_START[: len(data)]:
        raise ProxyHeaderError("neither version 1 nor 2")
    end = data.find(b"\n", 0, _MAX_LINE_BYTES) + 1
    if not end:
        if len(data) >= _MAX_LINE_BYTES:
            raise ProxyHeaderError("the line is too long")
        return None
    line = data[:end]
    if line.startswith((b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ")) and line.endswith(b"\r\n"):
        return UNKNOWN_CLIENT, end
    match = _LINE.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("malformed line")
    kind = IPv4Address if match["family"] == b"4" else IPv6Address
    try:
        source, _ = (kind(match[name].decode()) for name in ("source", "destination"))
    except ValueError:
        raise ProxyHeaderError("malformed address") from None
    port = int(match["port"])
    if max(port, int(match["to_port"])) > _MAX_PORT:
        raise ProxyHeaderError("port out of range")
    return ProxyHeader(_plain(source), port), end


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return an IPv6 address that stands for an IPv4 address as the latter."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_block(data: bytes) -> tuple[ProxyHeader, int] | None:
    if data[: len(_SIGNATURE)] != _SIGNATURE[: len(data)]:
        raise ProxyHeaderError("neither version 1 nor 2")
    if len(data) < _FIXED_BYTES:
        return None
    command, family = data[12], data[13]
    if command >> 4 != 2 or command & 15 > _PROXY:
        raise ProxyHeaderError("unknown version or command")
    size = int.from_bytes(data[14:16], "big")
    if size > _MAX_BLOCK_BYTES:
        raise ProxyHeaderError("the header is too long")
    end = _FIXED_BYTES + size
    if len(data) < end:
        return None
    if command & 15 == _LOCAL:
        # Ignore the rest, whatever it is.
        return LOCAL, end
    if family >> 4 > _UNIX or family & 15 > _MAX_TRANSPORT:
        raise ProxyHeaderError("unknown address family")
    return _parse_content(data[:end], family >> 4), end


def _parse_content(block: bytes, family: int) -> ProxyHeader:
    tlvs_at = _FIXED_BYTES + _ADDRESS_BYTES[family]
    if tlvs_at > len(block):
        raise ProxyHeaderError("no room for the addresses")
    had_tls = _check_tlvs(block, tlvs_at)
    address: IPv4Address | IPv6Address
    if family == _INET:
        source, _destination, port, _to_port = struct.unpack_from(">4s4sHH", block, _FIXED_BYTES)
        address = IPv4Address(source)
    elif family == _INET6:
        source, _destination, port, _to_port = struct.unpack_from(">16s16sHH", block, _FIXED_BYTES)
        address = IPv6Address(source)
    else:
        return ProxyHeader(had_tls=had_tls)
    return ProxyHeader(_plain(address), port, had_tls=had_tls)


def _check_tlvs(block: bytes, position: int) -> bool:
    """Check the TLVs from a position on; return whether the client connected over TLS."""
    had_tls = False
    while position < len(block):
        start = position + 3
        if start > len(block):
            raise ProxyHeaderError("truncated TLV")
        kind, end = block[position], start + int.from_bytes(block[position + 1 : start], "big")
        if end > len(block):
            raise ProxyHeaderError("truncated TLV")
        if kind == _TLV_CRC32C:
            _check_crc(block, start, end)
        elif kind == _TLV_SSL:
            if end - start < _MIN_SSL_BYTES:
                raise ProxyHeaderError("truncated SSL TLV")
            had_tls = bool(block[start] & _CLIENT_SSL)
        position = end
    return had_tls


def _check_crc(block: bytes, start: int, end: int) -> None:
    """Compare the checksum, which is of the header with zeros in place of the checksum."""
    if end - start != 4:
        raise ProxyHeaderError("malformed checksum")
    if crc32c(block[:start] + bytes(4) + block[end:]) != int.from_bytes(block[start:end], "big"):
        raise ProxyHeaderError("wrong checksum")


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            # The Castagnoli polynomial, with its bits in reverse order.
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes; the largest header takes half a millisecond."""
    table = _crc_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


class HeaderReader:
    """Takes the headers off the start of a stream, however it is cut."""

    __slots__ = ("_data", "_depth", "_taken", "header")

    def __init__(self, depth: int) -> None:
        """``depth`` is the number of headers, one for each balancer in a row."""
        self._depth = depth
        self._data = b""
        # Bytes of the headers that are complete
        self._taken = 0
        #: the last header, when ``feed`` has returned the rest
        self.header: ProxyHeader | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return those behind the last header, None while it is not complete.

        Raise ProxyHeaderError if they are no headers, or too long.
        """
        data = self._data + data
        while True:
            parsed = parse_header(data)
            if parsed is None:
                if self._taken + len(data) >= MAX_HEADER_BYTES:
                    raise ProxyHeaderError("the headers are too long")
                self._data = data
                return None
            self.header, size = parsed
            data = data[size:]
            self._taken += size
            if self._taken > MAX_HEADER_BYTES:
                raise ProxyHeaderError("the headers are too long")
            self._depth -= 1
            if self.header.is_local or not self._depth:
                self._data = b""
                return data
