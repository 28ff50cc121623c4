"""Tests of the RPC client's tables."""

import time

from electrumx.lib.text import groups_lines, peers_lines, sessions_lines

SESSION = [3, "S10", "1.2.3.4:5", "electrum/4.5.5", "1.4.2", 1234.9, 7.5, 1, 2, 30]
SESSION += [1000, 2_048_000, 999, 1023, 3661]


def test_the_sessions_table_has_its_columns():
    header, row = sessions_lines([SESSION])

    assert header == (
        "ID     Flags            Client Proto    Cost   XCost  Reqs   Txs    Subs    Recv Recv KB"
        "    Sent Sent KB      Time                  Peer"
    )
    assert row == (
        "3      S10      electrum/4.5.5 1.4.2   1,234       7     1     2      30   1,000   2,000"
        "     999       0 01h01m01s             1.2.3.4:5"
    )


def test_a_long_or_hostile_client_name_is_cut_and_made_printable():
    row = list(SESSION)
    row[3] = "\x1b[31m" + "n" * 90

    assert list(sessions_lines([row]))[1][13:30] == "?[31m" + "n" * 12


def test_the_groups_table_has_its_columns_and_no_space_before_recv():
    header, row = groups_lines([["1.2.3.0/24", 2, 1000.7, 5.2, 1, 0, 12, 3, 4096, 5, 10240]])

    assert header == (
        "Name            Sessions     Cost Retained   Reqs    Txs     Subs   Recv   Recv KB"
        "    Sent   Sent KB"
    )
    assert row == (
        "1.2.3.0/24             2    1,000        5      1      0       12      3         4"
        "       5        10"
    )


def peer(**changes):
    item = {
        "host": "electrum.example.org",
        "features": {
            "hosts": {"electrum.example.org": {"tcp_port": 50001, "ssl_port": 50002}},
            "server_version": "ElectrumX 1.15.0",
            "protocol_min": "1.4",
            "protocol_max": "1.4.2",
            "pruning": None,
        },
        "source": "a.source.with.a.rather.long.name",
        "ip_addr": "5.6.7.8",
        "last_good": time.time() - 61,
        "last_try": 0,
        "try_count": 4,
        "status": "good",
    }
    return {**item, **changes}


def cells(line):
    """Return the cells, by the widths of the columns."""
    widths = (62, 6, 5, 5, 17, 4, 5, 8, 11, 11, 5, 20, 15)
    found, start = [], 0
    for width in widths:
        found.append(line[start : start + width].strip())
        start += width + 1
    return found


def test_the_peers_table_shows_what_is_known():
    header, row = peers_lines([peer(last_good=time.time() - 3 * 86400 - 0.5)])

    assert (
        " ".join(header.split())
        == "Host Status TCP SSL Server Min Max Pruning Last Good Last Try Tries Source IP Address"
    )
    assert header[:75] == "Host" + " " * 59 + "Status   TCP"
    assert " ".join(row.split()) == (
        "electrum.example.org good 50001 50002 ElectrumX 1.15.0 1.4 1.4.2 3d 00h 00m Never 4 "
        "a.source.with.a.rath 5.6.7.8"
    )
    assert cells(row)[:5] == ["electrum.example.org", "good", "50001", "50002", "ElectrumX 1.15.0"]


def test_missing_parts_of_a_peer_are_empty_cells_and_its_server_unknown():
    _, row = peers_lines([peer(features={}, ip_addr=None, last_good=0, source="self")])

    assert row.split() == ["electrum.example.org", "good", "unknown", "Never", "Never", "4", "self"]


def test_a_long_host_is_cut_at_62_and_hostile_text_made_printable():
    host = "h" * 70 + ".onion"
    features = {"hosts": {host: {}}, "server_version": "a\x1b[2Jb\n"}
    _, row = peers_lines([peer(host=host, features=features)])

    assert row.startswith("h" * 62 + " good ")
    assert "a?[2Jb? " in row


def test_hosts_that_are_no_mapping_do_no_harm():
    for hosts in (None, [], {"electrum.example.org": 7}):
        _, row = peers_lines([peer(features={"hosts": hosts})])
        assert cells(row)[2:5] == ["", "", "unknown"]
