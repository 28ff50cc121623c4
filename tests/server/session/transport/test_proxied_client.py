"""The client that a proxy names, from the first byte to its address."""

import pytest

from electrumx.server.session.transport.proxied_client import ProxiedClient, RefusedError
from electrumx.server.session.transport.ticket import Ticket

LINE = b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 50001\r\n"
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


class Door:
    """Admission control that admits by address."""

    def __init__(self, *refused):
        self.refused = refused
        self.named, self.checks, self.bad_headers = [], [], 0

    def identify(self, ticket, address, *, is_trusted):
        self.named.append((ticket, str(address), is_trusted))
        return str(address) not in self.refused

    def note_check(self, ticket):
        self.checks.append(ticket)

    def note_bad_header(self):
        self.bad_headers += 1


def client_of(door, *, header_count=1, is_trusted=False):
    ticket = Ticket(None, "unnamed", 0.0)
    return ticket, ProxiedClient(header_count, door, ticket, is_trusted=is_trusted)


def test_a_header_in_pieces_names_the_client_and_the_rest_is_returned():
    door = Door()
    ticket, client = client_of(door, is_trusted=True)

    assert client.receive(LINE[:20]) is None
    assert client.address() is None
    assert client.receive(LINE[20:] + b"rest") == b"rest"

    assert door.named == [(ticket, "203.0.113.9", True)]
    assert (str(client.address().host), client.address().port) == ("203.0.113.9", 4242)
    assert not client.is_check
    assert not client.had_tls


def test_with_two_proxies_in_a_row_the_last_header_names_the_client():
    door = Door()
    _ticket, client = client_of(door, header_count=2)

    assert client.receive(LINE.replace(b"203.0.113.9", b"198.51.100.7")) is None
    assert not door.named
    assert client.receive(LINE) == b""
    assert str(client.address().host) == "203.0.113.9"


def test_a_check_of_the_proxy_names_no_client():
    door = Door()
    ticket, client = client_of(door)

    assert client.receive(LOCAL + b"rest") == b"rest"
    assert client.is_check
    assert door.checks == [ticket]
    assert not door.named
    assert client.address() is None


def test_a_client_that_may_not_enter_is_refused():
    door = Door("203.0.113.9")
    _ticket, client = client_of(door)

    with pytest.raises(RefusedError):
        client.receive(LINE)
    assert not door.bad_headers


def test_bytes_that_are_no_header_are_counted_and_refused():
    door = Door()
    _ticket, client = client_of(door)

    with pytest.raises(RefusedError):
        client.receive(b"GET / HTTP/1.1\r\n")
    assert door.bad_headers == 1
