"""Groups of sessions by subnet, what they retain, and the price list."""

from ipaddress import ip_address

import pytest

from electrumx.server.session import limits


class Visitor:
    def __init__(self, cost=0.0):
        self.cost = cost


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (ip_address("1.2.3.4"), "1.2.3.0/24"),
        (ip_address("2a01:4f8:1:2::3"), "2a01:4f8:1::/48"),
        (ip_address("::ffff:1.2.3.4"), "1.2.3.0/24"),
        (ip_address("127.0.0.1"), None),
        (ip_address("::1"), None),
        (ip_address("10.1.2.3"), None),
        (ip_address("192.168.1.1"), None),
        ("some.host", "unknown_addr"),
        (None, "unknown_addr"),
    ],
)
def test_a_group_is_a_subnet_and_private_addresses_have_none(host, name):
    assert name == limits.subnet_name(host, 24, 48)


def test_the_sizes_of_subnets_can_be_chosen():
    assert "1.2.3.4/32" == limits.subnet_name(ip_address("1.2.3.4"), 32, 64)
    assert "1.2.0.0/16" == limits.subnet_name(ip_address("1.2.3.4"), 16, 64)
    assert "2a01:4f8:1:2::/64" == limits.subnet_name(ip_address("2a01:4f8:1:2::3"), 32, 64)


def test_members_bear_the_cost_of_others_and_of_those_who_left():
    groups = limits.SessionGroups(24, 48)
    a, b, far = Visitor(100), Visitor(30), Visitor(1000)
    groups.join(a, ip_address("1.2.3.4"))
    groups.join(b, ip_address("1.2.3.5"))
    groups.join(far, ip_address("1.2.4.5"))
    assert (30, 100, 0) == (groups.extra_cost(a), groups.extra_cost(b), groups.extra_cost(far))
    groups.leave(a)
    assert (0, 100) == (groups.extra_cost(a), groups.extra_cost(b))
    assert isinstance(groups.of(b), tuple)


def test_retained_costs_decay_and_empty_groups_go():
    groups = limits.SessionGroups(24, 48)
    visitor = Visitor(700)
    groups.join(visitor, ip_address("1.2.3.4"))
    groups.leave(visitor)
    groups.forget(300, 10_000)
    assert 100 == groups.by_name["1.2.3.0/24"].retained_cost
    groups.forget(300, 10_000)
    assert {} == groups.by_name


def test_a_group_with_members_stays():
    groups = limits.SessionGroups(24, 48)
    groups.join(Visitor(), ip_address("1.2.3.4"))
    groups.forget(300, 10_000)
    assert ["1.2.3.0/24"] == list(groups.by_name)


def test_prices_grow_with_size_and_stay_finite():
    assert pytest.approx(0.21) == limits.history_cost(10)
    assert pytest.approx(0.26) == limits.tx_hashes_cost(100)
    assert 2 == limits.headers_cost(100)
    assert limits.headers_cost(10**400) < float("inf")
