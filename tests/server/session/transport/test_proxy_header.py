"""PROXY headers of versions 1 and 2: the bytes of real balancers, every split, an oracle."""

import importlib
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.transport.proxy_header import (
    LOCAL,
    MAX_HEADER_BYTES,
    UNKNOWN_CLIENT,
    HeaderReader,
    ProxyHeader,
    ProxyHeaderError,
    crc32c,
    parse_header,
)
from tests.conftest import require

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
SSL_OFF = bytes.fromhex("20 0005 00 00000000")
SSL_ON = bytes.fromhex("20 0005 01 00000000")


def block(family, content, command=0x21):
    """Return a header of version 2."""
    return SIGNATURE + bytes([command, family]) + len(content).to_bytes(2, "big") + content


def addresses(source="192.0.2.1", port=5000, destination="203.0.113.9", to_port=50002):
    """Return the addresses of a header of version 2."""
    packed = ip_address(source).packed + ip_address(destination).packed
    return packed + struct.pack(">HH", port, to_port)


def with_crc(family, content, tlvs=b""):
    """Return a header of version 2 with a checksum, and TLVs behind it."""
    blank = block(family, content + bytes.fromhex("030004 00000000") + tlvs)
    at = 16 + len(content) + 3
    return blank[:at] + crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]


IPV4 = ProxyHeader(IPv4Address("192.0.2.1"), 5000)
IPV4_TLS = ProxyHeader(IPv4Address("192.0.2.1"), 5000, had_tls=True)
IPV6 = ProxyHeader(IPv6Address("2001:db8::7"), 5000)
V6_ADDRESSES = addresses("2001:db8::7", destination="2001:db8::1")

VALID = [
    (b"PROXY TCP4 192.0.2.1 203.0.113.9 5000 50002\r\n", IPV4),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 50002\r\n", IPV6),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 1\r\n", IPV4),
    (b"PROXY TCP4 192.0.2.1 203.0.113.9 0 65535\r\n", ProxyHeader(IPV4.address, 0)),
    (b"PROXY UNKNOWN\r\n", UNKNOWN_CLIENT),
    (b"PROXY UNKNOWN ffff::1 anything at all\r\n", UNKNOWN_CLIENT),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", UNKNOWN_CLIENT),
    (block(0x11, addresses()), IPV4),
    (block(0x12, addresses()), IPV4),
    (block(0x21, V6_ADDRESSES), IPV6),
    (block(0x21, addresses("::ffff:192.0.2.1", destination="::1")), IPV4),
    (block(0x11, addresses() + SSL_OFF), IPV4),
    (block(0x11, addresses() + SSL_ON), IPV4_TLS),
    (block(0x11, addresses() + b"\xee\x00\x00" + SSL_ON + b"\x04\x00\x03abc"), IPV4_TLS),
    (with_crc(0x11, addresses()), IPV4),
    (with_crc(0x11, addresses(), SSL_ON), IPV4_TLS),
    (with_crc(0x21, V6_ADDRESSES, b"\x04\x01\x00" + bytes(256)), IPV6),
    (block(0x00, b""), UNKNOWN_CLIENT),
    (block(0x31, bytes(216)), UNKNOWN_CLIENT),
    # Checks of HAProxy: check-send-proxy alone, and with send-proxy-v2-ssl.
    (block(0x00, b"", command=0x20), LOCAL),
    (block(0x00, SSL_OFF, command=0x20), LOCAL),
    (block(0xFF, b"rubbish", command=0x20), LOCAL),
]

INVALID = [
    b"GET / HTTP/1.1\r\n",
    b'{"id": 0}\n',
    b"\x16\x03\x01\x02\x00",
    b"PROXY TCP4 192.0.2.1 203.0.113.9 5000 50002\n",
    b"PROXY TCP4  192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY TCP4 192.0.2.1 203.0.113.9 05000 50002\r\n",
    b"PROXY TCP4 192.0.2.1 203.0.113.9 65536 50002\r\n",
    b"PROXY TCP4 192.0.2.1 203.0.113.9 5000 70000\r\n",
    b"PROXY TCP4 192.0.2.1 203.0.113.9 -1 50002\r\n",
    b"PROXY TCP4 192.0.2.256 203.0.113.9 5000 50002\r\n",
    b"PROXY TCP4 192.0.2.01 203.0.113.9 5000 50002\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 5000 50002\r\n",
    b"PROXY TCP6 192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::1 5000 50002\r\n",
    b"PROXY TCP5 192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY UDP4 192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN\n",
    b"proxy TCP4 192.0.2.1 203.0.113.9 5000 50002\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 200,
    SIGNATURE[:11] + b"\x0b",
    block(0x11, addresses(), command=0x11),
    block(0x11, addresses(), command=0x31),
    block(0x11, addresses(), command=0x22),
    block(0x41, addresses()),
    block(0x13, addresses()),
    block(0x11, addresses()[:-1]),
    block(0x21, addresses()),
    block(0x31, bytes(215)),
    block(0x11, addresses() + b"\x04"),
    block(0x11, addresses() + b"\x04\x00"),
    block(0x11, addresses() + b"\x04\x00\x05abcd"),
    block(0x11, addresses() + b"\x20\x00\x04\x01\x00\x00\x00"),
    block(0x11, addresses() + b"\x03\x00\x03abc"),
    block(0x11, addresses() + b"\x03\x00\x04abcd"),
    SIGNATURE + b"\x21\x11" + (4_097).to_bytes(2, "big"),
]


def read(pieces, depth=1):
    """Return the last header and the rest of a stream that comes in pieces; None if incomplete."""
    reader = HeaderReader(depth)
    for number, piece in enumerate(pieces):
        rest = reader.feed(piece)
        if rest is not None:
            return reader.header, rest + b"".join(pieces[number + 1 :])
    return None


@pytest.mark.parametrize(("data", "header"), VALID)
def test_headers_are_read_however_they_are_cut(data, header):
    stream = data + b"the rest"

    assert (header, len(data)) == parse_header(stream)
    assert (header, b"the rest") == read([bytes([byte]) for byte in stream])
    for cut in range(len(data) + 1):
        assert (header, b"the rest") == read([stream[:cut], stream[cut:]])
        if cut < len(data):
            assert parse_header(data[:cut]) is None


@pytest.mark.parametrize("data", INVALID)
def test_malformed_headers_are_refused_however_they_are_cut(data):
    with pytest.raises(ProxyHeaderError):
        parse_header(data)
    for cut in range(0, len(data), 7):
        with pytest.raises(ProxyHeaderError):
            read([data[:cut], data[cut:]])


def test_bytes_that_begin_no_header_are_refused_at_the_first_of_them():
    with pytest.raises(ProxyHeaderError):
        parse_header(b"{")
    with pytest.raises(ProxyHeaderError):
        parse_header(b"\r\n\r\r")
    with pytest.raises(ProxyHeaderError):
        parse_header(b"PROXX")


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_last_of_several_headers_counts(depth):
    headers = [data for data, header in VALID if not header.is_local and len(data) < 300]
    for start in range(0, len(headers) - depth, 3):
        chosen = headers[start : start + depth]
        stream = b"".join(chosen)
        (expected, _size) = parse_header(chosen[-1])
        for cut in range(len(stream) + 1):
            assert (expected, b"{") == read([stream[:cut], stream[cut:] + b"{"], depth)
        assert read([stream], depth + 1) is None


def test_a_check_of_any_balancer_in_a_row_ends_the_headers():
    first, check = block(0x11, addresses()), block(0x00, b"", command=0x20)

    assert (LOCAL, b"") == read([check], depth=4)
    assert (LOCAL, b"xyz") == read([first + check + b"xyz"], depth=4)


def test_the_longest_header_is_read():
    size = 4_096 - len(addresses()) - 3 - 7
    longest = with_crc(0x11, addresses(), b"\x04" + size.to_bytes(2, "big") + bytes(size))

    assert (IPV4, b"") == read([longest[:4_000], longest[4_000:]])
    assert len(longest) == 16 + 4_096


def test_all_headers_together_are_bounded():
    padded = block(0x11, addresses() + b"\x04" + (2_500).to_bytes(2, "big") + bytes(2_500))
    assert len(padded) < MAX_HEADER_BYTES < 2 * len(padded)

    assert (IPV4, b"") == read([padded], depth=1)
    with pytest.raises(ProxyHeaderError):
        read([padded, padded], depth=2)
    with pytest.raises(ProxyHeaderError):
        # Incomplete, and too long already
        read([padded, padded[: MAX_HEADER_BYTES - len(padded)]], depth=2)


def test_checksum_of_the_standard():
    """RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([255]) * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_checksum_covers_every_byte():
    header = with_crc(0x11, addresses(), SSL_ON)
    crc_type = 16 + len(addresses())
    # Behind the fixed part, whose change may be another error or a longer header
    for position in {*range(16, len(header))} - {crc_type}:
        changed = bytearray(header)
        changed[position] ^= 4
        with pytest.raises(ProxyHeaderError):
            read([bytes(changed)])


# -- the oracle


def oracle():
    """Return the versions of PyPI's proxy-protocol, an independent implementation."""
    try:
        v1, v2 = (importlib.import_module(f"proxyprotocol.v{number}") for number in (1, 2))
    except ImportError:
        require(False, "the package proxy-protocol is not installed")
    return v1.ProxyProtocolV1(), v2.ProxyProtocolV2()


def verdict_of_oracle(data):
    """Return the header that the oracle reads from one whole header, None if it refuses."""
    v1, v2 = oracle()
    try:
        result = v1.unpack(data) if data.startswith(b"PROXY") else v2.unpack(data)
    except Exception:
        return None
    if not result.proxied:
        return LOCAL
    source, had_tls = result.source, bool(result.tlv.ssl.has_ssl)
    if not isinstance(source, tuple):
        return ProxyHeader(had_tls=had_tls)
    address = getattr(source[0], "ipv4_mapped", None) or source[0]
    return ProxyHeader(address, source[1], had_tls=had_tls)


ports = st.integers(0, 65_535)
ipv4, ipv6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
lines = st.builds(
    "PROXY {0[0]} {0[1]} {0[2]} {1} {2}\r\n".format,
    st.tuples(st.just("TCP4"), ipv4, ipv4) | st.tuples(st.just("TCP6"), ipv6, ipv6),
    ports,
    ports,
).map(str.encode)
tlvs = st.lists(
    st.builds(
        lambda kind, value: bytes([kind]) + len(value).to_bytes(2, "big") + value,
        st.sampled_from([0x01, 0x02, 0x04, 0x05, 0x30, 0xEA]),
        st.binary(max_size=20),
    )
    | st.sampled_from([SSL_ON, SSL_OFF]),
    max_size=3,
    unique=True,
).map(b"".join)


def _block(versions, source_port, to_port, tlvs, has_crc):
    (source, destination), family = versions
    content = addresses(source, source_port, destination, to_port)
    return with_crc(family, content, tlvs) if has_crc else block(family, content + tlvs)


blocks = st.builds(
    _block,
    st.tuples(st.tuples(ipv4, ipv4), st.just(0x11))
    | st.tuples(st.tuples(ipv6, ipv6), st.just(0x21)),
    ports,
    ports,
    tlvs,
    st.booleans(),
)


@given(lines | blocks)
def test_valid_headers_mean_the_same_to_another_implementation(data):
    parsed = parse_header(data)

    assert parsed == (verdict_of_oracle(data), len(data))


@given(lines | blocks, st.data())
def test_no_damaged_header_is_read_differently_by_another_implementation(data, draws):
    """Ours is stricter: it may refuse, but does not read another client."""
    at = draws.draw(st.integers(0, len(data) - 1))
    damaged = data[:at] + bytes([draws.draw(st.integers(0, 255))]) + data[at + 1 :]
    try:
        parsed = parse_header(damaged)
    except ProxyHeaderError:
        return
    if parsed is not None and parsed[1] == len(damaged) and parsed[0].address is not None:
        assert parsed[0] == verdict_of_oracle(damaged)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_incomplete_or_refused(data):
    for start in (b"", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"):
        try:
            parsed = parse_header(start + data)
        except ProxyHeaderError:
            continue
        assert parsed is None or 0 < parsed[1] <= len(start + data)
