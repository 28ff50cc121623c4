"""Requests to third parties: names and the blacklist."""

import asyncio
import json
import socket
import threading

import pytest

from electrumx.server.peers.sources import ThreadResolver, parse_blacklist
from tests.fakes.peer_world import (
    LAN_HOST,
    discovering,
    ignore_proxy_sockets,
    make_env,
    until,
    web_server,
)


@ignore_proxy_sockets
async def test_a_huge_blacklist_is_refused(make_manager, caplog):
    async with web_server(json.dumps(["x" * 2_000_000])) as url:
        async with discovering(make_manager(make_env(blacklist_url=url))):
            await until(lambda: "could not retrieve blacklist" in caplog.text)

        assert "over 1,000,000 bytes" in caplog.text


def test_blacklist_entries_are_lower_case_texts():
    assert parse_blacklist('["A.com", "*.B.org"]') == {"a.com", "*.b.org"}
    with pytest.raises(ValueError, match="not a list of texts"):
        parse_blacklist('["a", null]')


async def test_the_system_resolves_names_in_threads_of_its_own():
    resolver = ThreadResolver()

    assert LAN_HOST in await resolver(LAN_HOST)
    for host in ("a" * 300 + ".com", "no such name", "\0"):
        with pytest.raises(OSError):
            await resolver(host)


async def test_slow_name_servers_keep_no_other_thread_busy(make_manager, monkeypatch):
    """The threads that write blocks are few, and strangers choose the names."""
    over = threading.Event()

    def getaddrinfo(host, *_args, **_kwargs):
        over.wait()
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    manager = make_manager()
    try:
        for n in range(60):
            await manager.add_localRPC_peer(f"slow{n}.example t50001 s50002")
        await until(lambda: all(peer.last_try for peer in manager.peers))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "written"), 120) == "written"
    finally:
        over.set()
