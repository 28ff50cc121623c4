"""server.version: the protocol that is chosen, refused clients, and notices to old clients."""

import json
import logging
import re

import pytest

import electrumx
from electrumx.server.session import ElectrumX
from tests.fakes.session_world import session_world

VERSION = electrumx.version


@pytest.mark.parametrize(
    ("requested", "chosen"),
    [
        ([], "1.4"),
        (["name"], "1.4"),
        (["name", None], "1.4"),
        (["name", "1.4"], "1.4"),
        (["name", "1.4.1"], "1.4.1"),
        (["name", "1.4.2"], "1.4.2"),
        (["name", " 1.4"], "1.4"),
        (["name", [" 1.4", "1.4.2 "]], "1.4.2"),
        (["name", "1.4", "surplus"], "1.4"),
        (["x", ["1.4", "1.7"], "junk", 9.9, {}], "1.4.2"),
        (["name", ["1.4", "1.6"]], "1.4.2"),
        (["name", ["1.2", "1.4.1"]], "1.4.1"),
        (["name", ["0.8", "1.4"]], "1.4"),
        (["", ["1.4", "1.4"]], "1.4"),
    ],
)
async def test_the_greatest_common_version_is_chosen(requested, chosen):
    async with session_world() as world:
        client = await world.connect()
        assert [VERSION, chosen] == await client.request("server.version", *requested)
        await client.request("server.ping")
        assert chosen == world.session().protocol_version_string()


async def test_clients_of_one_wallet_share_its_name_and_version():
    async with session_world() as world:
        for n in range(2):
            client = await world.connect()
            await client.request("server.version", "wallet 4.7.0", ["1.4", "1.4.2"])
            assert world.session(n).client == "wallet 4.7.0"
        assert world.session(0).client is world.session(1).client
        assert world.session(0).protocol_tuple is world.session(1).protocol_tuple


@pytest.mark.parametrize(
    ("requested", "shown"),
    [
        ("1.4.9", "1.4.9"),
        ("1.3", "1.3"),
        (1.4, "1.4"),
        ("nonsense", "nonsense"),
        ([["1.4"], {}], "[['1.4'], {}]"),
        (["1.5", "1.6"], "['1.5', '1.6']"),
        (["1.0", "1.3"], "['1.0', '1.3']"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
async def test_an_unsupported_version_is_refused_and_the_client_cut_off(requested, shown):
    async with session_world() as world:
        client = await world.connect()
        assert (1, f"unsupported protocol version: {shown}") == await client.error(
            "server.version", "name", requested
        )
        assert None is await client.recv()


async def test_a_client_from_the_future_is_hinted_at_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        client = await world.connect()
        await client.error("server.version", "name", ["1.5", "1.6"])
        assert "client requested future protocol version 1.5" in caplog.text


async def test_the_version_is_negotiated_once():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.version", "name", "1.4")
        assert (1, "server.version already sent") == await client.error("server.version")
        await client.request("server.ping")


async def test_surplus_named_arguments_are_ignored():
    async with session_world() as world:
        client = await world.connect()
        params = {"client_name": "x", "protocol_version": "1.4.2", "dd": [1], "self": 2}
        await client.send({"jsonrpc": "2.0", "method": "server.version", "params": params, "id": 1})
        assert [VERSION, "1.4.2"] == (await client.recv())["result"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("server.ping", []),
        ("server.features", []),
        ("blockchain.relayfee", []),
        ("blockchain.estimatefee", [2]),
        ("blockchain.headers.subscribe", []),
        ("blockchain.scripthash.subscribe", ["ab" * 32]),
        ("blockchain.scripthash.unsubscribe", ["ab" * 32]),
        ("blockchain.transaction.broadcast", ["beef"]),
        ("blockchain.block.headers", [0, 2]),
    ],
)
async def test_a_client_that_never_sends_its_version_is_served(method, params):
    async with session_world() as world:
        client = await world.connect()
        for _ in range(2):
            await client.request(method, *params)
        assert "1.4" == world.session().protocol_version_string()


async def test_requests_before_negotiation_are_served():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.banner")
        assert [VERSION, "1.4"] == await client.request("server.version")


def pipelined(*requests):
    """Return requests (method, params) in one packet; their ids count from 0."""
    lines = [
        json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": n})
        for n, (method, params) in enumerate(requests)
    ]
    return "\n".join(lines).encode()


async def test_what_follows_in_the_same_packet_is_answered_in_the_version_agreed_on():
    async with session_world() as world:
        client = await world.connect()
        await client.send(
            pipelined(
                ("server.version", ["name", ["1.4", "1.4.2"]]),
                ("blockchain.scripthash.unsubscribe", ["ab" * 32]),
                ("server.version", []),
            )
        )
        replies = [await client.recv() for _ in range(3)]
        assert [0, 1, 2] == [reply["id"] for reply in replies]
        assert [[VERSION, "1.4.2"], False] == [reply["result"] for reply in replies[:2]]
        assert "server.version already sent" == replies[2]["error"]["message"]


async def test_nothing_that_follows_a_refused_version_is_answered():
    async with session_world() as world:
        client = await world.connect()
        await client.send(pipelined(("server.version", ["x", "1.2"]), ("server.ping", [])))
        reply = await client.recv()
        assert "unsupported protocol version: 1.2" == reply["error"]["message"]
        assert None is await client.recv()
        assert 0 == world.manager.method_counts["server.ping"]


async def test_unwanted_clients_are_dropped_by_the_start_of_their_name():
    async with session_world(drop_client=re.compile("bad|3[.]2")) as world:
        client = await world.connect()
        assert (1, "unsupported client: bad-one") == await client.error("server.version", "bad-one")
        assert None is await client.recv()
        client = await world.connect()
        await client.request("server.version", "not-bad")


async def test_a_long_client_name_is_cut():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.version", "n" * 1000)
        session = world.session()
        assert ("n" * 100, "n" * 17) == (session.client, session.client_text())


async def test_a_vulnerable_old_client_is_sent_what_crashes_it(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        client = await world.connect()
        await client.error("server.version", "3.2.3", "1.2")
        assert ["blockchain.relayfee", "blockchain.estimatefee"] == [
            item["method"] for item in client.notifications
        ]
        assert all("params" not in item for item in client.notifications)
        assert "attempting to crash old client with version 3.2.3" in caplog.text


@pytest.mark.parametrize(
    ("name", "protocol"), [("3.2.4", "1.2"), ("3.2.3", "1.4"), ("electrum", "1.2")]
)
async def test_other_clients_are_not_sent_it(name, protocol):
    async with session_world() as world:
        client = await world.connect()
        await client.ask("server.version", name, protocol)
        assert [] == client.notifications


def test_the_range_of_protocols_is_reported_as_text():
    assert ["1.4", "1.7.0"] == ElectrumX.protocol_min_max_strings()
    assert [VERSION, ["1.4", "1.4.2"]] == ElectrumX.server_version_args((1, 4, 2))


async def test_a_name_is_not_matched_for_long(caplog):
    async with session_world(drop_client=re.compile("(a+)+$")) as world:
        world.manager.shared.drop_client.cpu_secs = 0.02
        client, other = await world.connect(), await world.connect()
        assert (1, f"unsupported client: {'a' * 99}!") == await client.error(
            "server.version", "a" * 99 + "!" + "b" * 500, "1.4"
        )
        assert "DROP_CLIENT takes too long" in caplog.text
        await other.request("server.version", "b" * 500, "1.4")
        assert world.session().client == "b" * 100
