"""The proxy: looked for until there is one, and used."""

import asyncio
import logging

import pytest

from electrumx.lib.peer import Peer
from electrumx.server.peers.proxy import PROXY_RETRY_SECS, ProxyFinder
from tests.fakes.peer_world import (
    LAN_HOST,
    discovering,
    ignore_proxy_sockets,
    make_env,
    peer_server,
    socks_proxy,
    until,
)
from tests.fakes.virtual_time import run_in_virtual_time
from tests.ports import free_port

LOGGER = logging.getLogger("electrumx.proxy")


@ignore_proxy_sockets
async def test_onion_peers_are_verified_through_a_detected_proxy(make_manager, caplog):
    async with (
        peer_server("abc.onion", listen_host=LAN_HOST) as script,
        socks_proxy(script.port) as proxy,
    ):
        # A name that may have more addresses than the proxy listens on.
        env = make_env(
            tor_proxy_host="localhost",
            tor_proxy_port=proxy.port,
            peers=[f"abc.onion t{script.port}"],
        )
        manager = make_manager(env)
        assert manager.proxy_address() is None
        async with discovering(manager):
            await until(lambda: manager.info()["good"] == 1)

            assert manager.proxy_address() == LAN_HOST
            assert "abc.onion" in proxy.asked
            (peer,) = manager.peers
            assert peer.ip_addr is None
            assert manager.on_peers_subscribe(True)[0][1] == "abc.onion"
        assert "detected SOCKS5 proxy" in caplog.text


@ignore_proxy_sockets
async def test_a_forced_proxy_is_used_for_clearnet_peers_once_there_is_one(make_manager):
    async with peer_server() as script, socks_proxy(script.port) as proxy:
        env = make_env(tor_proxy_port=proxy.port, force_proxy=True)
        manager = make_manager(env)
        await manager.add_localRPC_peer(f"{LAN_HOST} t{script.port}")
        (peer,) = manager.peers
        await until(lambda: peer in manager.pausing)
        # Waiting for a proxy is not a try, however often.
        for _ in range(3):
            peer.retry_event.set()
            await until(lambda: not peer.retry_event.is_set() and peer in manager.pausing)
        assert (peer.try_count, script.clients) == (0, [])

        async with discovering(manager):
            await until(lambda: peer.last_good)
            assert LAN_HOST in proxy.asked
            assert peer.ip_addr == LAN_HOST


@ignore_proxy_sockets
async def test_no_proxy_is_looked_for_again_later(make_manager, caplog):
    manager = make_manager(make_env(tor_proxy_port=free_port()))
    async with discovering(manager):
        await until(lambda: "no proxy detected, will try later" in caplog.text)

    assert manager.proxy_address() is None


@ignore_proxy_sockets
async def test_a_senseless_proxy_host_does_no_harm(make_manager, caplog):
    manager = make_manager(make_env(tor_proxy_host="not a host"))
    async with discovering(manager):
        await until(lambda: "no proxy detected, will try later" in caplog.text)

    assert "proxy detection failed" in caplog.text


# --- The search alone


@pytest.mark.parametrize(
    ("force_proxy", "host", "is_needed"),
    [
        (False, "a.onion", True),
        (True, "a.onion", True),
        (True, "a.example", True),
        (False, "a.example", False),
    ],
)
def test_onion_peers_need_a_proxy_and_others_where_it_is_forced(force_proxy, host, is_needed):
    finder = ProxyFinder(make_env(force_proxy=force_proxy), LOGGER)

    assert finder.is_needed_for(Peer.from_real_name(f"{host} t1", "test")) is is_needed


def test_the_search_goes_on_until_a_proxy_is_found(monkeypatch, caplog):
    asked = []

    async def detect(host, port):
        asked.append((host, port))
        if len(asked) == 1:
            raise OSError("line\ncut")
        return "a proxy" if len(asked) == 3 else None

    async def ip_address(proxy):
        # None may connect by the proxy before clients from there are known as such.
        assert (proxy, finder.proxy) == ("a proxy", None)
        return "127.0.0.5"

    async def main():
        await finder.find()
        return asyncio.get_running_loop().time()

    monkeypatch.setattr("electrumx.server.peers.proxy.detect_proxy", detect)
    monkeypatch.setattr("electrumx.server.peers.proxy.proxy_ip_address", ip_address)
    finder = ProxyFinder(make_env(tor_proxy_host="tor.example", tor_proxy_port=None), LOGGER)

    assert (finder.proxy, finder.ip_address) == (None, None)
    assert run_in_virtual_time(main()) == 2 * PROXY_RETRY_SECS
    assert asked == [("tor.example", None)] * 3
    assert (finder.proxy, finder.ip_address) == ("a proxy", "127.0.0.5")
    assert "proxy detection failed: line\\ncut" in caplog.text
