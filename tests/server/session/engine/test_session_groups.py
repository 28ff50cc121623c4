"""Groups of sessions by subnet, their retained costs, and the price list."""

from ipaddress import ip_address

import pytest

from electrumx.server.session.engine import prices, session_groups


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
    assert name == session_groups.subnet_name(host, 24, 48)


def test_the_sizes_of_subnets_can_be_chosen():
    assert "1.2.3.4/32" == session_groups.subnet_name(ip_address("1.2.3.4"), 32, 64)
    assert "1.2.0.0/16" == session_groups.subnet_name(ip_address("1.2.3.4"), 16, 64)
    assert "2a01:4f8:1:2::/64" == session_groups.subnet_name(ip_address("2a01:4f8:1:2::3"), 32, 64)


def test_members_bear_the_cost_of_present_and_departed_members():
    groups = session_groups.SessionGroups(24, 48)
    a, b, far = Visitor(100), Visitor(30), Visitor(1000)
    groups.join(a, ip_address("1.2.3.4"))
    groups.join(b, ip_address("1.2.3.5"))
    groups.join(far, ip_address("1.2.4.5"))
    assert (30, 100, 0) == (groups.extra_cost(a), groups.extra_cost(b), groups.extra_cost(far))
    groups.leave(a)
    assert (0, 100) == (groups.extra_cost(a), groups.extra_cost(b))
    assert isinstance(groups.of(b), tuple)


def test_retained_costs_decay_and_empty_groups_go():
    groups = session_groups.SessionGroups(24, 48)
    visitor = Visitor(700)
    groups.join(visitor, ip_address("1.2.3.4"))
    groups.leave(visitor)
    groups.forget(300, 10_000)
    assert 100 == groups.by_name["1.2.3.0/24"].retained_cost
    groups.forget(300, 10_000)
    assert {} == groups.by_name


def test_a_group_with_members_stays():
    groups = session_groups.SessionGroups(24, 48)
    groups.join(Visitor(), ip_address("1.2.3.4"))
    groups.forget(300, 10_000)
    assert ["1.2.3.0/24"] == list(groups.by_name)


def test_groups_without_members_are_bounded_and_the_costly_ones_stay(monkeypatch):
    monkeypatch.setattr(session_groups, "MAX_EMPTY_GROUPS", 100)
    groups = session_groups.SessionGroups(24, 48, 10_000)
    member, abuser = Visitor(5), Visitor(9_000)
    groups.join(member, ip_address("8.1.0.1"))
    groups.join(abuser, ip_address("8.2.0.1"))
    groups.leave(abuser)
    for number in range(1_000):
        host = ip_address(f"2a01:{number:x}::1")
        if number % 2:
            groups.charge(host, 5)
        else:
            visitor = Visitor(5)
            groups.join(visitor, host)
            groups.leave(visitor)
        # A group that comes again is not the oldest.
        groups.charge(ip_address("8.3.0.1"), 0.5)

    assert len(groups.by_name) == 101
    assert groups.by_name["8.1.0.0/24"].sessions == {member}
    assert groups.cost_of(ip_address("8.2.0.1")) == 9_000
    assert groups.cost_of(ip_address("8.3.0.1")) == 500
    assert groups.cost_of(ip_address("2a01:3e7::1")) == 5
    assert groups.cost_of(ip_address("2a01:0::1")) == 0
    # None is counted twice.
    groups.leave(member)
    groups.forget(10, 10_000)
    assert groups.by_name.keys() == {"8.2.0.0/24", "8.3.0.0/24"}
    groups.forget(5_000, 10_000)
    assert not groups.by_name


def test_prices_grow_with_size_and_stay_finite():
    assert pytest.approx(0.26) == prices.history_cost(10)
    assert pytest.approx(0.26) == prices.tx_hashes_cost(100)
    assert (0.25, 2) == (prices.headers_cost(1), prices.headers_cost(100))
    assert prices.headers_cost(10**400) < float("inf")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", "loopback"),
        ("127.1.2.3", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("172.17.0.1", "172.17.0.1/32"),
        ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ("fd00::1:2", "fd00::/64"),
        ("fe80::3%eth0", "fe80::/64"),
    ],
)
def test_private_addresses_share_a_little_of_their_cost(host, name):
    groups = session_groups.SessionGroups(24, 48, 10_000)
    a, b = Visitor(100), Visitor(5_000)
    for session in (a, b):
        groups.join(session, ip_address(host))
    (group,) = groups.values()
    assert (group.name, group.weight) == (name, 0.01)
    assert (50, 1) == (groups.extra_cost(a), groups.extra_cost(b))


def test_connections_without_a_session_leave_no_more_than_about_a_limit():
    groups = session_groups.SessionGroups(24, 48, 10_000)
    for _ in range(3):
        groups.charge(ip_address("1.2.3.4"), 9_000)
    assert 12_000 == groups.by_name["1.2.3.0/24"].retained_cost


def test_groups_without_members_go_where_no_session_is_limited():
    groups = session_groups.SessionGroups(24, 48)
    groups.charge(ip_address("1.2.3.4"), 5)
    visitor = Visitor(700)
    groups.join(visitor, ip_address("1.2.4.4"))
    groups.leave(visitor)
    groups.join(Visitor(700), ip_address("1.2.5.4"))
    groups.forget(300, 0)
    assert ["1.2.5.0/24"] == list(groups.by_name)


def test_members_of_a_soft_group_bear_at_most_half_a_limit_of_the_others():
    groups = session_groups.SessionGroups(24, 48, 10_000)
    sessions = [Visitor(12_000) for _ in range(100)]
    for session in sessions:
        groups.join(session, ip_address("127.0.0.1"))
    assert 5_000 == groups.extra_cost(sessions[0])
    assert 1 == groups.retry_secs(sessions[0], 10_000)
    for session in sessions:
        groups.leave(session)
    # As much as is borne, and a fifth
    assert 600_000 == groups.by_name["loopback"].retained_cost


def test_no_more_than_about_a_limit_is_retained():
    groups = session_groups.SessionGroups(24, 48, 10_000)
    for cost in (7_000, 66_000_000):
        session = Visitor(cost)
        groups.join(session, ip_address("1.2.3.4"))
        groups.leave(session)
    assert 12_000 == groups.by_name["1.2.3.0/24"].retained_cost
    session = Visitor()
    groups.join(session, ip_address("1.2.3.4"))
    assert 1_000 + session_groups.RECALC_SECS == groups.retry_secs(session, 10_000)
    groups.forget(1_005, 10_000)
    assert 1 == groups.retry_secs(session, 10_000)


def test_a_large_group_is_summed_up_once_a_second(monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(session_groups.time, "monotonic", lambda: now)
    groups = session_groups.SessionGroups(24, 48, 10_000)
    members = [Visitor(1) for _ in range(session_groups.SUMMED_MEMBERS + 1)]
    for session in members:
        groups.join(session, ip_address("1.2.3.4"))
    assert 50 == groups.extra_cost(members[0])
    members[0].cost = 1_000
    members[1].cost = 500
    assert 0 == groups.extra_cost(members[0])
    now += session_groups.SUM_SECS
    assert 49 + 500 == groups.extra_cost(members[0])


@pytest.mark.parametrize(
    ("host", "is_advertised", "factor"),
    [
        (ip_address("127.0.0.1"), False, 50),
        (ip_address("::1"), False, 50),
        (ip_address("127.0.0.1"), True, 1),
        (ip_address("10.0.0.1"), False, 1),
        (ip_address("1.2.3.4"), False, 1),
        ("some.host", False, 1),
        (None, False, 1),
    ],
)
def test_the_own_machine_is_charged_less_unless_others_may_come_through_it(
    host, is_advertised, factor
):
    assert factor == session_groups.leniency(host, is_advertised=is_advertised)
