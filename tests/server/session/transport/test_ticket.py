"""How connections are counted by their addresses."""

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.engine.origin import network_of
from electrumx.server.session.transport.ticket import Ticket, parse_host


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_the_network_of_an_ipv4_address(address, prefix):
    assert network_of(address, prefix) == str(ip_network(f"{address}/{prefix}", strict=False))


@given(st.ip_addresses(v=6), st.integers(0, 128))
def test_the_network_of_an_ipv6_address(address, prefix):
    assert network_of(address, prefix) == str(ip_network(f"{address}/{prefix}", strict=False))


def test_addresses_of_one_network_share_its_text():
    texts = [network_of(IPv4Address(f"203.0.113.{n}"), 24) for n in (1, 2, 255)]
    assert texts == ["203.0.113.0/24"] * 3
    assert len({id(text) for text in texts}) == 1


def test_an_ipv4_address_that_came_over_ipv6_is_one():
    assert parse_host("::ffff:203.0.113.9") == IPv4Address("203.0.113.9")
    assert parse_host("fe80::1%eth0") == IPv6Address("fe80::1")
    assert parse_host("no address") is None


def test_an_ipv6_host_counts_as_its_network():
    one, other = (Ticket(parse_host(f"2001:db8::{n}"), "", 0.0) for n in (1, 2))
    assert one.place == other.place == "2001:db8::/64"
    assert Ticket(parse_host("203.0.113.9"), "", 0.0).place == IPv4Address("203.0.113.9")
