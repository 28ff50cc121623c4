"""The session table: groups, leniency, and sessions that are disconnected."""

import logging
from ipaddress import ip_address

import pytest

from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.session_groups import SessionGroups
from electrumx.server.session.shared.session_table import SessionTable, by_id


class Session:
    """A session at an address, whose end a test chooses."""

    def __init__(self, number, host=None, limited=True, error=None):
        self.session_id, self.limited, self.error = number, limited, error
        self.host = host
        self.kind, self.end_reason = "tcp", "client"
        self.protocol_tuple, self.throttled = (1, 4), False
        self.cost = 0.0
        self.closed = []

    def origin(self):
        return Origin(None if self.host is None else ip_address(self.host))

    def note_end(self, reason):
        self.end_reason = reason

    async def close(self, *, force_after):
        self.closed.append(force_after)
        if self.error is not None:
            raise self.error


@pytest.fixture
def table():
    return SessionTable(SessionGroups(24, 48), logging.getLogger("table"), is_advertised=False)


def test_sessions_of_a_subnet_share_a_group_until_they_leave(table):
    sessions = [Session(1, "8.8.8.1"), Session(2, "8.8.8.2"), Session(3, "9.9.9.9")]
    for session in sessions:
        table.add(session)
    assert len(table) == 3
    assert table.groups.by_name["8.8.8.0/24"].sessions == set(sessions[:2])
    sessions[0].cost = 7.0
    table.remove(sessions[0])
    assert table.sessions == set(sessions[1:])
    group = table.groups.by_name["8.8.8.0/24"]
    assert (group.sessions, group.retained_cost) == ({sessions[1]}, 7.0)


def test_a_client_without_an_address_has_a_group_and_an_administrator_has_none(table):
    client, administrator = Session(1), Session(2, limited=False)
    table.add(client)
    table.add(administrator)
    assert [group.sessions for group in table.groups.values()] == [{client}]


def test_clients_of_an_advertised_server_get_no_leniency():
    groups = SessionGroups(24, 48)
    local = ip_address("127.0.0.1")
    for is_advertised in (False, True):
        table = SessionTable(groups, logging.getLogger("table"), is_advertised=is_advertised)
        assert (table.leniency(local) > 1.0) == (not is_advertised)


async def test_disconnecting_names_the_sessions_and_survives_errors(table, caplog):
    caplog.set_level("INFO")
    good, bad, named = Session(3), Session(1, error=OSError("gone")), Session(2)
    await table.disconnect({good, bad}, "testing", also_named=[named])
    assert "testing session ids 1, 2, 3" in caplog.text
    assert "closing a session: OSError('gone')" in caplog.text
    assert ([1.0], [1.0], []) == (good.closed, bad.closed, named.closed)
    assert (good.end_reason, named.end_reason) == ("operator", "client")


async def test_disconnecting_no_session_is_not_logged(table, caplog):
    caplog.set_level("INFO")
    await table.disconnect([], "testing")
    assert caplog.text == ""


def test_sessions_are_ordered_by_id():
    assert [session.session_id for session in by_id({Session(n) for n in (3, 1, 2)})] == [1, 2, 3]


async def test_counts_have_the_beginnings_and_the_ends_of_sessions(table):
    first, second = Session(1), Session(2)
    table.add(first)
    table.add(second)
    table.negotiated(second, (1, 6))
    assert table.counts.by_protocol == {("tcp", "1.4"): 1, ("tcp", "1.6"): 1}
    await table.disconnect([first], "testing", end_reason="timeout")
    table.remove(first)
    table.remove(first)
    table.negotiated(first, (1, 6))
    counts = table.counts

    assert counts.opened == {"tcp": 2}
    assert counts.closed == {"timeout": 1}
    assert counts.by_protocol == {("tcp", "1.6"): 1}


async def test_a_throttled_session_that_ends_is_no_longer_counted(table):
    session = Session(1)
    table.add(session)
    session.throttled, table.counts.throttled = True, 1
    table.remove(session)
    assert table.counts.throttled == 0
