"""Which session gives its place to a newcomer."""

from collections import Counter
from types import SimpleNamespace

import pytest

from electrumx.server.session.transport.ticket import Ticket, parse_host
from electrumx.server.session.transport.victims import IDLE_SECS, PLAN_SECS, Victims


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Session:
    """The part of a session that the choice depends on."""

    def __init__(self, last_recv, *, recv_count=1, unanswered=0):
        self.last_recv = last_recv
        self.recv_count = recv_count
        self.unanswered = unanswered

    def unanswered_request_count(self):
        return self.unanswered


class Crowd:
    """Connections, and the choice among them."""

    def __init__(self):
        self.clock = Clock()
        self.tickets = {}
        self.subnets = Counter()
        self.victims = Victims(self.tickets, self.subnets, self.clock)

    def add(self, host, idle_secs, *, is_rpc=False, **session):
        subnet = host.rpartition(".")[0]
        ticket = Ticket(parse_host(host), subnet, self.clock(), is_rpc=is_rpc)
        ticket.stage = "silent"
        ticket.connection = SimpleNamespace(session=Session(self.clock() - idle_secs, **session))
        self.tickets[ticket] = None
        self.subnets[subnet] += ticket.is_counted
        return ticket


@pytest.fixture
def crowd():
    return Crowd()


def test_the_longest_idle_of_the_largest_subnet_comes_first(crowd):
    crowd.add("192.0.2.1", 10 * IDLE_SECS)
    crowd.add("198.51.100.1", 2 * IDLE_SECS)
    oldest = crowd.add("198.51.100.2", 3 * IDLE_SECS)

    assert crowd.victims.next() is oldest


def test_one_that_has_sent_nothing_comes_before_those_that_have(crowd):
    crowd.add("192.0.2.1", 3 * IDLE_SECS)
    silent = crowd.add("192.0.2.2", 2 * IDLE_SECS, recv_count=0)

    assert crowd.victims.next() is silent


def test_busy_and_recently_active_sessions_and_administrators_stay(crowd):
    crowd.add("192.0.2.1", 3 * IDLE_SECS, unanswered=1)
    crowd.add("192.0.2.2", IDLE_SECS / 2)
    crowd.add("127.0.0.1", 3 * IDLE_SECS, is_rpc=True)

    assert crowd.victims.next() is None


def test_one_that_is_gone_or_was_active_since_the_plan_is_passed_over(crowd):
    gone = crowd.add("192.0.2.1", 4 * IDLE_SECS)
    active = crowd.add("192.0.2.2", 3 * IDLE_SECS)
    last = crowd.add("192.0.2.3", 2 * IDLE_SECS)
    assert crowd.victims.next() is gone

    del crowd.tickets[gone]
    assert crowd.victims.next() is active
    active.connection.session.last_recv = crowd.clock()
    assert crowd.victims.next() is last


def test_all_sessions_are_looked_at_once_a_second_at_most(crowd):
    assert crowd.victims.next() is None
    idle = crowd.add("192.0.2.1", 3 * IDLE_SECS)
    assert crowd.victims.next() is None

    crowd.clock.now += PLAN_SECS
    assert crowd.victims.next() is idle


def test_a_subnet_is_the_largest_only_if_there_are_several(crowd):
    crowd.add("192.0.2.1", 0)
    assert not crowd.victims.largest_subnet()

    crowd.add("198.51.100.1", 0)
    crowd.add("198.51.100.2", 0)
    crowd.clock.now += PLAN_SECS
    assert crowd.victims.largest_subnet() == "198.51.100"


def test_of_a_crowd_one_that_waits_for_no_answer_is_preferred(crowd):
    busy = crowd.add("192.0.2.1", 0, unanswered=1)
    assert crowd.victims.idle_member("192.0.2") is busy

    idle = crowd.add("192.0.2.2", 0)
    assert crowd.victims.idle_member("192.0.2") is idle
    assert crowd.victims.idle_member("198.51.100") is None


def test_an_administrator_that_waits_for_no_answer_is_found(crowd):
    crowd.add("192.0.2.1", 0)
    crowd.add("127.0.0.1", 0, is_rpc=True, unanswered=1)
    assert crowd.victims.idle_administrator() is None

    idle = crowd.add("127.0.0.1", 0, is_rpc=True)
    assert crowd.victims.idle_administrator() is idle
