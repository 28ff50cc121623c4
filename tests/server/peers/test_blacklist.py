"""The task that fetches the blacklist: of a real web server, and in simulated time."""

import asyncio
import contextlib
import json
import logging

import pytest

from electrumx.lib.peer import Peer
from electrumx.server.peers import blacklist
from electrumx.server.peers.blacklist import BLACKLIST_REFRESH_SECS, BlacklistTask
from electrumx.server.peers.peer_set import PeerSet
from tests.fakes.peer_world import (
    LAN_HOST,
    Clock,
    add,
    discovering,
    ignore_proxy_sockets,
    make_env,
    peer_server,
    until,
    web_server,
)
from tests.fakes.virtual_time import run_in_virtual_time

LOGGER = logging.getLogger("electrumx.blacklist")


@ignore_proxy_sockets
async def test_a_blacklist_is_fetched_and_its_peers_are_tried_again(make_manager, caplog):
    async with peer_server() as script:
        async with web_server(json.dumps([LAN_HOST, "*.Evil.Com", "x.ORG"])) as url:
            manager = make_manager(make_env(blacklist_url=url))
            peer = await add(manager, f"{LAN_HOST} t{script.port}")
            assert peer.last_good
            async with discovering(manager):
                await until(lambda: peer.bad)

        assert f"blacklist from {url} has 3 entries" in caplog.text
        assert "marking bad: (blacklisted)" in caplog.text
        assert manager.on_peers_subscribe(False) == []


@ignore_proxy_sockets
@pytest.mark.parametrize(
    ("body", "status"),
    [("{}", 200), ("rubbish", 200), ("[1]", 200), ("[" * 99_999, 200), ("[]", 404)],
)
async def test_an_old_blacklist_outlasts_a_failed_refresh(make_manager, caplog, body, status):
    async with web_server(body, status) as url:
        manager = make_manager(make_env(blacklist_url=url))
        manager.peer_set.blacklist = {"old.com"}
        async with discovering(manager):
            await until(lambda: "could not retrieve blacklist" in caplog.text)

        assert manager.peer_set.blacklist == {"old.com"}


@ignore_proxy_sockets
async def test_a_secret_in_the_url_of_the_blacklist_is_not_logged(make_manager, caplog):
    async with web_server("[]", status=404) as url:
        secret_url = url.replace("http://", "http://operator:sesame@")
        manager = make_manager(make_env(blacklist_url=secret_url))
        async with discovering(manager):
            await until(lambda: "could not retrieve blacklist" in caplog.text)
    async with web_server("[]") as url:
        secret_url = url.replace("http://", "http://operator:sesame@")
        manager = make_manager(make_env(blacklist_url=secret_url))
        async with discovering(manager):
            await until(lambda: "has 0 entries" in caplog.text)
    assert "sesame" not in caplog.text


# --- The task alone


def peer_that_waits(host):
    peer = Peer.from_real_name(f"{host} t1", "test")
    peer.retry_event = asyncio.Event()
    return peer


def run_task(secs, url="http://a.example/list.json"):
    """Run the task for a simulated time; return its peer set, and the hosts of peers it woke."""
    peer_set = PeerSet(Clock(), lambda peer: peer.is_valid)

    async def main():
        peer_set.peers.update(map(peer_that_waits, ("bad.example", "good.example")))
        # No task monitors it.
        peer_set.peers.add(Peer.from_real_name("x.bad.example t1", "test"))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(BlacklistTask(url, peer_set, LOGGER).run(), secs)
        return {p.host for p in peer_set.peers if p.retry_event and p.retry_event.is_set()}

    return peer_set, run_in_virtual_time(main())


def test_the_list_is_fetched_every_ten_minutes_and_its_peers_are_tried(monkeypatch, caplog):
    urls = []

    async def fetch(url):
        urls.append(url)
        if len(urls) == 2:
            raise OSError("line\ncut")
        return {"*.bad.example", "bad.example"}

    monkeypatch.setattr(blacklist, "fetch_blacklist", fetch)
    peer_set, woken = run_task(2.5 * BLACKLIST_REFRESH_SECS)

    assert urls == ["http://a.example/list.json"] * 3
    assert peer_set.blacklist == {"*.bad.example", "bad.example"}
    assert woken == {"bad.example"}
    assert "from http://a.example/list.json: line\\ncut" in caplog.text


def test_a_failed_refresh_tries_no_peer(monkeypatch):
    async def fetch(_url):
        raise ValueError("not a list of texts")

    monkeypatch.setattr(blacklist, "fetch_blacklist", fetch)

    assert run_task(1)[1] == set()


@pytest.mark.parametrize("url", ["", None])
def test_without_a_url_there_is_no_list(monkeypatch, url):
    monkeypatch.setattr(blacklist, "fetch_blacklist", None)
    peer_set, woken = run_task(1, url)

    assert (peer_set.blacklist, woken) == (set(), set())
