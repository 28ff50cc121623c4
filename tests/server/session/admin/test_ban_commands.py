"""Bans by the administrator, with real connections; the clients are on this machine."""

import asyncio
import json
import logging
from ipaddress import ip_network

import pytest

from electrumx.server.session.transport.ticket import parse_host
from tests.fakes.session_world import session_world, until
from tests.server.session.transport.test_proxies import (
    ask,
    connect,
    is_closed,
    named,
    proxied_world,
)

OWN = "127.0.0.1"


@pytest.fixture
async def world(tmp_path):
    async with session_world(db_dir=str(tmp_path)) as world:
        yield world


@pytest.fixture
async def admin(world):
    return await world.connect("rpc")


async def test_a_ban_closes_sessions_and_refuses_connections_but_not_the_administrator(
    world, admin, caplog
):
    caplog.set_level(logging.INFO)
    clients = [await world.connect() for _ in range(2)]
    for client in clients:
        await client.request("server.ping")

    lines = await admin.request("ban", [OWN], 3600, True)
    assert lines == ["banned 127.0.0.1/32 for 01h 00m 00s", "closed 2 connections"]
    for client in clients:
        assert await client.recv() is None
    refused = await world.connect()
    assert await refused.recv() is None
    assert "refused: banned" in caplog.text
    assert world.manager.shared.peers.bans_retried == 1
    # The administrator is at the same address.
    ((network, since, end),) = await admin.request("bans")
    assert (network, end - since) == ("127.0.0.1/32", 3600)

    assert await admin.request("unban", [OWN]) == ["lifted the ban of 127.0.0.1/32"]
    client = await world.connect()
    assert await client.request("server.ping") is None
    assert await admin.request("bans") == []


async def test_connections_without_a_session_are_closed_too(world, admin):
    ticket = world.manager.admission.admit("203.0.113.5")
    other = world.manager.admission.admit("203.0.114.5")
    assert ticket.address == parse_host("203.0.113.5")
    lines = await admin.request("ban", ["203.0.113.0/24"], 60)
    assert lines[1] == "closed 1 connections"
    assert ticket.is_dropped
    assert not other.is_dropped
    world.manager.admission.release(other)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("127.0.0.1", "this machine (127.0.0.0/8)"),
        ("::1", "this machine (::1/128)"),
        ("::ffff:127.0.0.1", "this machine (127.0.0.0/8)"),
        ("0.0.0.0/0", "this machine (127.0.0.0/8)"),
        ("192.168.7.0/24", "private addresses (192.168.0.0/16)"),
        ("fd00::/8", "private addresses (fc00::/7)"),
    ],
)
async def test_own_addresses_are_not_banned_without_force(world, admin, item, reason):
    client = await world.connect()
    (line,) = await admin.request("ban", [item], 60)
    assert line == f"refused: {item}: it has {reason}; --force bans it all the same"
    assert await client.request("server.ping") is None
    assert await admin.request("bans") == []


async def test_addresses_of_proxies_and_trusted_clients_are_not_banned_without_force(tmp_path):
    settings = {
        "proxy_trusted": [ip_network("203.0.113.7/32")],
        "trusted_clients": [ip_network("2001:db8::/48")],
    }
    async with session_world(db_dir=str(tmp_path), **settings) as world:
        admin = await world.connect("rpc")
        lines = await admin.request("ban", ["203.0.113.0/24", "2001:db8::7", "198.51.100.1"], 60)
        assert lines == [
            "refused: 203.0.113.0/24: it has trusted addresses (203.0.113.7/32); "
            "--force bans it all the same",
            "refused: 2001:db8::7: it has trusted addresses (2001:db8::/48); "
            "--force bans it all the same",
            "banned 198.51.100.1/32 for 01m 00s",
        ]


async def test_clients_that_a_proxy_names_are_banned_by_their_own_address(tmp_path):
    async with proxied_world(db_dir=str(tmp_path)) as world:
        admin = await world.connect("rpc")
        streams = await connect(world, named("198.51.100.7"))
        other = await connect(world, named("203.0.113.7"))
        assert await ask(streams)
        assert await ask(other)
        lines = await admin.request("ban", ["198.51.100.0/24"], 60)
        assert lines[1] == "closed 1 connections"
        assert await is_closed(streams)
        assert await ask(other)
        assert await ask(await connect(world, named("198.51.100.8"))) is None
        assert await ask(await connect(world, named("203.0.113.8")))


@pytest.mark.parametrize("anonymous", [False, True])
async def test_the_log_has_the_addresses_unless_it_is_to_have_none(tmp_path, caplog, anonymous):
    caplog.set_level(logging.INFO)
    async with session_world(db_dir=str(tmp_path), anon_logs=anonymous) as world:
        admin = await world.connect("rpc")
        await admin.request("ban", ["203.0.113.7"], 60)
        await admin.request("unban", ["203.0.113.7"])
    assert ("203.0.113.7" in caplog.text) != anonymous
    assert ("bans: changed, now 1" in caplog.text) == anonymous


async def test_items_that_are_no_network_do_not_stop_the_others(admin):
    lines = await admin.request("ban", ["x\ny", "203.0.113.1/24", "198.51.100.0/24"], None)
    assert lines[0].startswith("refused: x\\ny: ")
    assert lines[1].startswith("refused: 203.0.113.1/24: ")
    assert lines[2:] == ["banned 198.51.100.0/24 until it is lifted"]


async def test_bans_last_over_a_restart(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with session_world(db_dir=str(tmp_path)) as world:
        admin = await world.connect("rpc")
        await admin.request("ban", [OWN], 3600, True)
        before = await admin.request("bans")
    async with session_world(db_dir=str(tmp_path)) as world:
        assert "bans: 1 addresses and subnets may not connect" in caplog.text
        refused = await world.connect()
        assert await refused.recv() is None
        admin = await world.connect("rpc")
        assert await admin.request("bans") == before
        assert await admin.request("unban", ["all"]) == ["lifted all bans"]
    async with session_world(db_dir=str(tmp_path)) as world:
        client = await world.connect()
        assert await client.request("server.ping") is None


async def test_a_damaged_file_does_not_stop_the_server(tmp_path, caplog):
    (tmp_path / "bans.json").write_bytes(b"{")
    async with session_world(db_dir=str(tmp_path)) as world:
        client = await world.connect()
        assert await client.request("server.ping") is None
    assert "bans.json is damaged" in caplog.text


async def test_a_ban_that_cannot_be_saved_holds_and_is_reported(tmp_path):
    async with session_world(db_dir=str(tmp_path / "missing")) as world:
        admin = await world.connect("rpc")
        lines = await admin.request("ban", [OWN], 3600, True)
        assert lines[1].startswith("not saved: ")
        assert "No such file or directory" in lines[1]
        refused = await world.connect()
        assert await refused.recv() is None


async def test_an_address_is_not_lifted_out_of_a_banned_subnet(admin):
    await admin.request("ban", ["203.0.113.0/24", "203.0.113.7"], 60)
    assert await admin.request("unban", ["203.0.113.7", "203.0.113.8", "198.51.100.1", "z"]) == [
        "lifted the ban of 203.0.113.7/32; it is banned as part of 203.0.113.0/24",
        "unknown: 203.0.113.8: it is banned as part of 203.0.113.0/24",
        "unknown: 198.51.100.1: it is not banned",
        "unknown: z: 'z' does not appear to be an IPv4 or IPv6 network",
    ]


async def test_a_subnet_of_which_parts_are_banned_is_not_reported_as_within_them(admin):
    await admin.request("ban", ["203.0.113.0", "203.0.113.9", "203.0.112.0/21"], 60)
    assert await admin.request("unban", ["203.0.113.0/24", "203.0.112.0/21", "203.0.112.0/20"]) == [
        "unknown: 203.0.113.0/24: it is banned as part of 203.0.112.0/21",
        "lifted the ban of 203.0.112.0/21; parts of it are banned: 2, which `bans` lists",
        "unknown: 203.0.112.0/20: parts of it are banned: 2, which `bans` lists",
    ]


async def test_a_ban_is_carried_out_although_the_administrator_hangs_up(world, tmp_path):
    client = await world.connect()
    await client.request("server.ping")
    task = asyncio.ensure_future(
        world.manager.bans.ban([f"198.51.100.{n}" for n in range(200)] + [OWN], 60, force=True)
    )
    await asyncio.sleep(0)
    task.cancel()
    assert await client.recv() is None
    await until(lambda: (tmp_path / "bans.json").exists())
    assert len(json.loads((tmp_path / "bans.json").read_bytes())["bans"]) == 201


async def test_thousands_of_bans_leave_others_their_turns(world, admin):
    # Networks of IPv6 take the longest to write.
    items = [f"2001:db8:{n:x}::/48" for n in range(1, 2_001)]
    turns, going = 0, True

    async def count():
        nonlocal turns
        while going:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.ensure_future(count())
    lines = await world.manager.bans.ban(items, None, force=False)
    assert len(lines) == len(items)
    assert turns >= len(items)
    rows = await world.manager.bans.rows()
    assert [row[0] for row in rows] == items
    lines = await world.manager.bans.unban(items)
    assert turns >= 2 * len(items)
    going = False
    await counting
    assert await world.manager.bans.rows() == []


@pytest.mark.parametrize(
    "args",
    [["1.2.3.4", 5], [[1], 5], [["1.2.3.4"], 0], [["1.2.3.4"], -1], [["1.2.3.4"], 5, "yes"]],
)
async def test_wrong_arguments_are_errors(admin, args):
    assert (await admin.error("ban", *args))[0] == 1
    assert await admin.request("bans") == []


async def test_unban_needs_texts(admin):
    assert (await admin.error("unban", [1]))[0] == 1
