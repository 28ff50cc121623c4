"""The set of peers: statuses, the blacklist, and the peers that clients get."""

import json

import pytest

from electrumx.lib.peer import Peer
from electrumx.server.peers import STALE_SECS, BadPeerError, PeerManager
from tests.fakes.peer_world import Clock, FakeDB, make_env, note_good


async def test_peers_of_unknown_address_share_no_bucket(make_manager):
    manager = make_manager()
    for name in ("a.com", "b.com"):
        peer = Peer.from_real_name(name, "test")
        manager.peers.add(peer)
        manager.peer_set.mark_verified(peer)

    manager.peer_set.check_bucket(Peer.from_real_name("c.com", "test"))


@pytest.mark.parametrize(
    ("onion", "clearnet", "allowed"), [(99, 0, True), (101, 99, False), (100, 100, True)]
)
def test_onion_peers_stay_a_minority_once_they_are_many(onion, clearnet, allowed):
    manager = PeerManager(make_env(), FakeDB())
    for n in range(onion):
        note_good(manager, f"host{n}.onion")
    for n in range(clearnet):
        note_good(manager, f"host{n}.com", f"8.8.{n}.1")
    newcomer = Peer.from_real_name("new.onion", "test")

    if allowed:
        manager.peer_set.check_bucket(newcomer)
    else:
        with pytest.raises(BadPeerError, match="too many onion peers already"):
            manager.peer_set.check_bucket(newcomer)


@pytest.mark.parametrize(
    ("entry", "is_listed"),
    [
        ("www.evil.com", True),
        ("*.evil.com", True),
        ("6.6.6.6", True),
        ("evil.com", False),
        ("*.com", False),
    ],
)
def test_the_blacklist_knows_names_domains_and_addresses(entry, is_listed):
    manager = PeerManager(make_env(), FakeDB())
    manager.peer_set.blacklist = {entry}
    peer = Peer.from_real_name("WWW.Evil.com", "test")
    peer.ip_addr = "6.6.6.6"

    assert manager.peer_set.is_blacklisted(peer) == is_listed


@pytest.mark.parametrize(
    ("clearnet", "is_tor", "onion"),
    [(0, False, 10), (8, False, 10), (60, False, 15), (60, True, 50)],
)
def test_clients_get_few_onion_peers_unless_they_are_on_tor(clearnet, is_tor, onion):
    manager = PeerManager(make_env(), FakeDB())
    for n in range(clearnet):
        note_good(manager, f"host{n}.com", f"8.{n}.1.1")
    for n in range(70):
        note_good(manager, f"host{n}.onion")
    hosts = [host for _, host, _ in manager.on_peers_subscribe(is_tor)]

    assert len(hosts) == len(set(hosts)) == clearnet + onion
    assert sum(host.endswith(".onion") for host in hosts) == onion


def test_clients_get_two_peers_of_a_network():
    manager = PeerManager(make_env(), FakeDB())
    for n in range(5):
        note_good(manager, f"a{n}.com", f"8.8.{n}.1")
        note_good(manager, f"b{n}.com", f"2600:1:2:{n}::1")
    note_good(manager, "c.com", "8.9.0.1")
    hosts = [host for _, host, _ in manager.on_peers_subscribe(False)]

    assert sorted(host[0] for host in hosts) == ["a", "a", "b", "b", "c"]


def test_clients_get_only_recent_good_public_peers_that_are_not_blacklisted():
    clock = Clock()
    manager = PeerManager(make_env(), FakeDB(), clock=clock)
    for host in ("never.com", "stale.com", "bad.com", "listed.com", "10.0.0.1", "good.com"):
        note_good(manager, host)
    by_host = {peer.host: peer for peer in manager.peers}
    by_host["never.com"].last_good = 0
    by_host["stale.com"].last_good = clock.now - STALE_SECS
    by_host["good.com"].last_good = clock.now - STALE_SECS + 1
    by_host["bad.com"].mark_bad()
    manager.peer_set.blacklist = {"listed.com"}

    assert [host for _, host, _ in manager.on_peers_subscribe(False)] == ["good.com"]
    assert manager.info() == {"bad": 1, "good": 3, "never": 1, "stale": 1, "total": 6}


async def test_rpc_data_shows_every_peer_sorted(make_manager):
    clock = Clock()
    manager = make_manager(clock=clock)
    for host, age in (("old.com", 50), ("new.com", 1), ("worst.com", 0)):
        note_good(manager, host, "8.8.8.8").last_good -= age
    next(peer for peer in manager.peers if peer.host == "worst.com").mark_bad()
    rows = await manager.rpc_data()

    assert [(row["host"], row["status"]) for row in rows] == [
        ("new.com", "good"),
        ("old.com", "good"),
        ("worst.com", "bad"),
    ]
    assert set(rows[0]) == {*Peer.ATTRS, "status"}
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("entry", ["bad.example", "*.bad.example"])
def test_a_final_dot_does_not_hide_from_the_blacklist(entry):
    manager = PeerManager(make_env(), FakeDB())
    manager.peer_set.blacklist = {entry}
    assert manager.peer_set.is_blacklisted(Peer.from_real_name("Bad.Example.", "test"))
