"""Connections are counted from accept, by subnet, and give way to others in a fixed order."""

from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest

from electrumx.server.session.engine.prices import CONNECT_COST
from electrumx.server.session.engine.session_groups import SessionGroups
from electrumx.server.session.transport import admission as admission_module
from electrumx.server.session.transport import connection_rate
from electrumx.server.session.transport.admission import (
    FIRST_MESSAGE_SECS,
    GRACE_SECS,
    HANDSHAKE_SECS,
    Admission,
)
from electrumx.server.session.transport.connection_rate import PERIOD_SECS
from electrumx.server.session.transport.event_log import LOG_SECS
from electrumx.server.session.transport.victims import IDLE_SECS, PLAN_SECS
from tests.fakes.session_world import fake_env


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Connection:
    """The part of a transport that admission uses."""

    late = 0.0

    def __init__(self, ticket):
        self.ticket = ticket
        ticket.connection = self
        self.session = None
        self.aborted = False

    def abort(self):
        self.aborted = True

    def early_cost(self):
        return 7.0

    def late_cost(self):
        return self.late


class Door:
    """An Admission whose clock is the test's."""

    def __init__(self, **settings):
        self.clock = Clock()
        self.groups = SessionGroups(24, 48)
        self.admission = Admission(fake_env(**settings), self.groups, clock=self.clock)

    def connect(self, host, **kwargs):
        """Return a pending connection, None if it was refused."""
        ticket = self.admission.admit(host, **kwargs)
        return None if ticket is None else Connection(ticket)

    def open(self, host, *, spoken=True, **kwargs):
        """Return a connection with a session that has just sent a message, or none yet."""
        connection = self.connect(host, **kwargs)
        if connection is not None:
            connection.session = SimpleNamespace(
                last_recv=self.clock.now,
                recv_count=int(spoken),
                unanswered_request_count=lambda: 0,
            )
            self.admission.opened(connection)
        return connection


@pytest.fixture
def no_timer(monkeypatch):
    """The test calls ``sweep``, not a timer."""
    monkeypatch.setattr(Admission, "_on_sweep_timer", lambda self: None)


pytestmark = pytest.mark.usefixtures("no_timer")


async def test_a_flood_of_silent_connections_from_many_addresses_displaces_itself():
    door = Door(max_sessions=40)
    wallets = [door.open(f"9.9.{n}.1") for n in range(10)]
    flood = [door.open(f"1.{n}.3.4", spoken=False) for n in range(200)]
    assert sum(connection is not None for connection in flood) == 30
    # Each wallet of a minute finds a place, though the flood has no end.
    for second in range(60):
        for connection in wallets:
            connection.session.last_recv = door.clock.now
        door.clock.now += 0.3
        assert not door.admission.is_full()
        newcomer = door.open(f"9.{second + 10}.1.1", spoken=False)
        assert newcomer is not None
        newcomer.session.recv_count = 1
        newcomer.session.last_recv = door.clock.now
        for n in range(30):
            door.open(f"2.{second}.{n}.1", spoken=False)
        assert not newcomer.aborted
        door.admission.lost(newcomer)
    assert not any(wallet.aborted for wallet in wallets)


async def test_a_session_has_a_moment_to_speak_when_the_server_is_full():
    door = Door(max_sessions=1)
    silent = door.open("1.2.3.4", spoken=False)
    door.clock.now += GRACE_SECS * 0.9

    assert door.open("5.6.7.8") is None
    assert not silent.aborted
    door.clock.now += GRACE_SECS * 0.2
    assert door.open("5.6.7.8")
    assert silent.aborted


async def test_the_rate_of_connections_of_a_subnet_is_bounded():
    door = Door(max_connects_per_minute=3)
    for n in range(3):
        door.admission.lost(door.open(f"1.2.3.{n}"))
    assert door.connect("1.2.3.9") is None
    assert door.open("1.2.4.1")
    assert all(door.open("127.0.0.1") for _ in range(9))
    door.clock.now += PERIOD_SECS
    assert door.open("1.2.3.9")


async def test_the_memory_of_rates_is_bounded(monkeypatch):
    monkeypatch.setattr(connection_rate, "MAX_SUBNETS", 10)
    rate = connection_rate.ConnectionRate(1, lambda: 0.0)
    for n in range(10):
        assert rate.admits(str(n))
    assert not rate.admits("9") or rate.subnet_count <= 10
    for n in range(10, 25):
        rate.admits(str(n))
        assert rate.subnet_count <= 10


async def test_a_subnet_has_a_bound_and_others_are_not_affected():
    door = Door(max_sessions_per_subnet=3)
    for n in range(3):
        assert door.open(f"1.2.3.{n}")

    assert door.connect("1.2.3.99") is None
    assert door.open("1.2.4.1")
    assert door.connect("::ffff:1.2.3.4") is None
    assert door.open("2001:db8::1")


async def test_banned_addresses_are_refused_and_the_administrator_is_not():
    door = Door()
    door.admission.bans.add(ip_network("1.2.3.0/24"), None)
    door.admission.bans.add(ip_network("127.0.0.0/8"), None)

    assert door.connect("1.2.3.4") is None
    assert door.connect("::ffff:1.2.3.4") is None
    assert door.connect("127.0.0.1") is None
    assert door.connect("127.0.0.1", is_rpc=True)
    assert door.connect(None)
    assert door.connect("1.2.4.1")
    # A refusal is no connection: it costs the subnet nothing.
    assert door.groups.cost_of(ip_address("1.2.3.4")) == 0


async def test_a_place_that_was_left_can_be_taken():
    door = Door(max_sessions_per_subnet=1)
    first = door.open("1.2.3.4")

    assert door.connect("1.2.3.5") is None
    door.admission.lost(first)
    assert door.open("1.2.3.5")
    assert door.admission.count == 1


async def test_private_addresses_have_no_bound_by_subnet():
    door = Door(max_sessions_per_subnet=1)

    assert all(door.open("127.0.0.1") for _ in range(5))
    assert all(door.open("192.168.1.1") for _ in range(5))


async def test_connections_in_their_handshake_count():
    door = Door(max_sessions=100, max_sessions_per_subnet=3)
    for _ in range(3):
        assert door.connect("1.2.3.4")

    assert door.connect("1.2.3.4") is None
    assert door.admission.count == 3


async def test_a_group_at_its_hard_limit_is_refused():
    door = Door(cost_hard_limit=1_000, cost_soft_limit=100)
    door.groups.charge(ip_address("1.2.3.4"), 999)
    assert door.connect("1.2.3.5")
    door.groups.charge(ip_address("1.2.3.4"), 1)

    assert door.connect("1.2.3.5") is None
    assert door.connect("1.2.4.5")


async def test_a_connection_without_a_session_is_charged_to_its_group():
    door = Door()
    connection = door.connect("1.2.3.4")
    door.admission.lost(connection)
    door.admission.lost(connection)

    assert door.groups.cost_of(ip_address("1.2.3.4")) == CONNECT_COST + 7.0

    # A session has an account of its own.
    door.admission.lost(door.open("1.2.4.4"))
    assert door.groups.cost_of(ip_address("1.2.4.4")) == 0


async def test_what_a_client_sends_after_its_session_is_charged_to_its_group():
    door = Door()
    connection = door.open("1.2.3.4")
    connection.late = 30.0
    door.admission.lost(connection)
    assert door.groups.cost_of(ip_address("1.2.3.9")) == 30.0


async def test_an_accept_does_not_look_at_all_pending_connections(monkeypatch):
    door = Door(max_sessions=1_000)
    for number in range(door.admission.max_pending):
        assert door.connect(f"1.2.{number}.4")

    class NotWalked(dict):
        def __iter__(self):
            raise AssertionError("all pending connections were looked at")

    monkeypatch.setattr(door.admission, "pending", NotWalked(door.admission.pending))
    assert door.connect("1.3.0.4")
    assert len(door.admission.pending) == door.admission.max_pending


async def test_a_handshake_has_a_deadline():
    door = Door()
    slow, ready = door.connect("1.2.3.4"), door.open("1.2.3.5")
    door.clock.now = HANDSHAKE_SECS - 0.1
    door.admission.sweep()
    assert not slow.aborted
    door.clock.now = HANDSHAKE_SECS
    door.admission.sweep()

    assert slow.aborted
    assert not ready.aborted
    assert door.admission.count == 1


async def test_a_session_that_sends_nothing_has_a_deadline():
    door = Door()
    silent, speaking = door.open("1.2.3.4", spoken=False), door.open("1.2.3.5")
    admin = door.open("127.0.0.1", spoken=False, is_rpc=True)
    door.clock.now = FIRST_MESSAGE_SECS
    door.admission.sweep()

    assert silent.aborted
    assert not speaking.aborted
    assert not admin.aborted


async def test_the_longest_idle_session_of_the_largest_subnet_is_evicted():
    door = Door(max_sessions=6)
    alone = door.open("9.9.9.9")
    many = []
    for n in range(3):
        door.clock.now += 1
        many.append(door.open(f"1.2.3.{n}"))
    pair = [door.open("5.5.5.5") for _ in range(2)]
    many[0].session.last_recv = door.clock.now
    door.clock.now += IDLE_SECS

    assert door.open("7.7.7.7")
    assert [c.aborted for c in many] == [False, True, False]
    assert door.open("7.7.8.8")
    assert door.admission.count == 6
    evicted = [c for c in (alone, *many, *pair) if c.aborted]
    assert len(evicted) == 2
    # The two subnets are of equal size now: the one idle longest goes.
    assert many[2].aborted
    assert not alone.aborted


async def test_sessions_that_never_spoke_are_evicted_before_others_of_their_subnet():
    door = Door(max_sessions=3)
    first = door.open("1.2.3.1")
    door.clock.now = 5
    silent = door.open("1.2.3.2", spoken=False)
    door.open("1.2.3.3")
    door.clock.now += IDLE_SECS

    assert door.open("7.7.7.7")
    assert silent.aborted
    assert not first.aborted


async def test_busy_and_recent_sessions_stay_and_the_newcomer_is_refused():
    door = Door(max_sessions=2)
    busy, recent = door.open("1.2.3.1"), door.open("1.2.3.2")
    busy.session.unanswered_request_count = lambda: 1
    door.clock.now = 60
    recent.session.last_recv = 55

    assert door.admission.is_full()
    assert door.connect("7.7.7.7") is None
    assert not busy.aborted
    assert not recent.aborted


def _crowded_door():
    """Return a full server with two subnets that are never idle, and their connections."""
    door = Door(max_sessions=50)
    crowds = [[door.open(f"1.2.{n}.{m}") for m in range(20)] for n in (3, 4)]
    others = [door.open(f"5.5.{n}.5") for n in range(10)]
    return door, crowds, others


async def test_a_crowd_that_is_never_idle_gives_way_to_newcomers_of_small_subnets():
    door, crowds, others = _crowded_door()
    crowds[0][0].session.unanswered_request_count = lambda: 1

    assert not door.admission.is_full()
    for n in range(20):
        door.clock.now += PLAN_SECS
        for ticket in door.admission.tickets:
            ticket.connection.session.last_recv = door.clock.now
        assert door.open(f"7.7.{n}.7")
    assert door.admission.count == 50
    assert not any(connection.aborted for connection in others)
    # Evenly, until they are no crowds; busy ones come last
    assert [sum(c.aborted for c in crowd) for crowd in crowds] == [10, 10]
    assert not crowds[0][0].aborted


async def test_a_crowd_takes_no_place_of_others():
    door, crowds, others = _crowded_door()
    door.admission.max_pending = 100
    door.clock.now += PLAN_SECS
    honest = door.connect("7.7.7.7")
    assert honest

    for n in range(100):
        assert door.connect(f"1.2.3.{n}") is None
    assert not honest.aborted
    assert not any(connection.aborted for connection in others)
    assert sum(connection.aborted for crowd in crowds for connection in crowd) == 1


async def test_where_all_come_from_one_address_a_full_server_is_full():
    door = Door(max_sessions=50)
    clients = [door.open("127.0.0.1") for _ in range(50)]

    assert door.admission.is_full()
    assert door.connect("127.0.0.1") is None
    assert not any(client.aborted for client in clients)


async def test_the_plan_of_evictions_is_checked_when_it_is_used():
    door = Door(max_sessions=3)
    for n in range(3):
        door.open(f"1.2.3.{n}")
    door.clock.now = IDLE_SECS
    assert door.admission.can_evict()
    for ticket in door.admission.tickets:
        ticket.connection.session.last_recv = door.clock.now

    assert door.connect("7.7.7.7") is None


async def test_a_flood_of_half_open_connections_is_evicted_first_and_is_bounded():
    door = Door(max_sessions=100)
    wallets = [door.open(f"5.5.{n}.5") for n in range(70)]
    door.clock.now = IDLE_SECS
    honest = door.connect("9.9.9.9")
    flood = [door.connect("127.0.0.1") for _ in range(1_000)]

    assert all(flood)
    assert len(door.admission.pending) == 25
    assert door.admission.count == 95
    assert not honest.aborted
    assert not any(wallet.aborted for wallet in wallets)
    assert not any(connection.aborted for connection in flood[-24:])


async def test_the_administrator_can_connect_to_a_full_server_but_not_without_bound(monkeypatch):
    monkeypatch.setattr(admission_module, "MAX_RPC", 2)
    door = Door(max_sessions=1)
    wallet = door.open("9.9.9.9")
    first = door.open("127.0.0.1", is_rpc=True)
    assert door.open("127.0.0.1", is_rpc=True)
    assert door.admission.count == 3
    assert door.open("127.0.0.1", is_rpc=True)

    assert first.aborted
    assert not wallet.aborted
    for ticket in door.admission.tickets:
        ticket.connection.session.unanswered_request_count = lambda: 1
    assert door.connect("127.0.0.1", is_rpc=True) is None


async def test_a_shortage_closes_connections_that_have_sent_nothing():
    door = Door()
    pending, silent = door.connect("1.2.3.4"), door.open("1.2.3.4", spoken=False)
    speaking, admin = door.open("1.2.3.4"), door.open(None, spoken=False, is_rpc=True)

    assert door.admission.shed() == 2
    assert (pending.aborted, silent.aborted) == (True, True)
    assert (speaking.aborted, admin.aborted) == (False, False)


async def test_a_flood_of_refusals_is_a_line_a_minute(caplog):
    caplog.set_level("INFO")
    door = Door(max_sessions_per_subnet=1)
    door.open("1.2.3.4")
    for _ in range(1_000):
        assert door.connect("1.2.3.4") is None
    assert len(caplog.records) == 1
    door.clock.now = LOG_SECS
    door.connect("1.2.3.4")

    assert [record.getMessage() for record in caplog.records] == [
        "connections 1 refused: too many of one subnet",
        "connections 1,000 refused: too many of one subnet",
    ]
