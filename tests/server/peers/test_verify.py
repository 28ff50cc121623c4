"""The answers by which a peer is good or bad, of real servers on loopback."""

import pytest

from electrumx.lib.peer import MAX_FEATURES_SIZE
from tests.fakes.peer_world import (
    GENESIS_HASH,
    HANG_UP,
    HEIGHT,
    LAN_HOST,
    FakeDB,
    add,
    header,
    peer_server,
    status_of,
)


async def test_server_version_comes_first_and_a_buried_header_is_compared(make_manager):
    async with peer_server() as script:
        await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert script.requests[0] == ("server.version", ["us 1.0", ["1.4", "1.4.2"]])
        assert ("blockchain.block.header", [HEIGHT - 10]) in script.requests
        assert set(script.methods()[1:]) == {
            "blockchain.headers.subscribe",
            "blockchain.block.header",
            "server.features",
            "server.peers.subscribe",
        }


async def test_the_header_to_compare_is_never_below_the_first(make_manager):
    db = FakeDB()
    db.db_height = 3
    async with peer_server(blockchain__headers__subscribe={"height": 5}) as script:
        peer = await add(make_manager(db=db), f"{LAN_HOST} t{script.port}")

        assert ("blockchain.block.header", [0]) in script.requests
        assert peer.last_good


async def test_a_name_listed_in_another_case_is_verified(make_manager):
    async with peer_server("LocalHost", listen_host=LAN_HOST) as script:
        peer = await add(make_manager(), f"localhost t{script.port}")

        assert peer.last_good


def good_features(**changes):
    return {"hosts": {LAN_HOST: {}}, "genesis_hash": GENESIS_HASH, **changes}


BAD_ANSWERS = [
    ("server__version", "text", "server.version returned bad result type str"),
    ("server__version", ["one"], "bad server.version result"),
    ("server__version", ["one", 2], "bad server.version result"),
    ("server__version", HANG_UP, "terminated before server.version response"),
    ("server__features", good_features(genesis_hash="11" * 32), "incorrect genesis hash"),
    ("server__features", good_features(genesis_hash=None), "incorrect genesis hash"),
    ("server__features", good_features(hosts={"other.com": {}}), "not listed in own hosts list"),
    ("server__features", good_features(hosts=[LAN_HOST]), "hosts returned bad result type list"),
    ("server__features", good_features(hosts=None), "hosts returned bad result type NoneType"),
    ("server__features", [], "server.features returned bad result type list"),
    ("server__features", good_features(junk="x" * MAX_FEATURES_SIZE), "features is too large"),
    ("blockchain__headers__subscribe", None, "returned bad result type NoneType"),
    ("blockchain__headers__subscribe", {}, "bad height None"),
    ("blockchain__headers__subscribe", {"height": "100"}, "bad height 100"),
    ("blockchain__headers__subscribe", {"height": True}, "bad height True"),
    ("blockchain__headers__subscribe", {"height": 106}, "bad height 106 (ours: 100)"),
    ("blockchain__headers__subscribe", {"height": 94}, "bad height 94 (ours: 100)"),
    ("blockchain__headers__subscribe", {"height": 10**1000}, "bad height 10,000"),
    ("blockchain__block__header", header(7).hex(), "at height 90 differ"),
    ("blockchain__block__header", 5, "block.header returned bad result type int"),
    ("server__peers__subscribe", {}, "peers.subscribe returned bad result type dict"),
    ("server__peers__subscribe", [1], "bad server.peers.subscribe entry: 1"),
    ("server__peers__subscribe", [["1.2.3.4", "a.com"]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", 5, []]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", "a", "t"]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", "a", [1]]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a", ["t"] * 99]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "", ["a.com"]]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a com", []]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a" * 999, []]], "bad server.peers.subscribe entry"),
]


@pytest.mark.parametrize(("method", "answer", "reason"), BAD_ANSWERS)
async def test_a_peer_that_lies_is_marked_bad(make_manager, caplog, method, answer, reason):
    async with peer_server(**{method: answer}) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert f"[{LAN_HOST}:{script.port} TCP] marking bad: (" in caplog.text
        assert reason in caplog.text
        assert peer.bad
        assert await status_of(manager, LAN_HOST) == "bad"
        assert manager.on_peers_subscribe(False) == []


@pytest.mark.parametrize("difference", [-5, 5])
async def test_a_height_that_differs_a_little_is_good(make_manager, difference):
    tip = {"height": HEIGHT + difference}
    async with peer_server(blockchain__headers__subscribe=tip) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert peer.last_good
