"""Additions of the sessions of single coins: masternodes, rewards, truncated headers."""

import pytest

from electrumx.lib.coins import Coin
from electrumx.server import session as session_package
from electrumx.server.session import AuxPoWElectrumX, DashElectrumX, SmartCashElectrumX
from electrumx.server.session.notify import fanout
from electrumx.server.session.shared.masternodes import (
    FIELDS,
    parse_list,
    payment_queue,
    with_positions,
)
from tests.fakes.chain import ChainMaker
from tests.fakes.formats import AuxPow, XayaNames
from tests.fakes.session_world import FakeCoin, FakeDB, session_world, utxo

NOW = 1_000_000


class DashCoin(FakeCoin):
    SESSIONCLS = DashElectrumX


class SmartCoin(FakeCoin):
    SESSIONCLS = SmartCashElectrumX


def line(payee, *, status="ENABLED", active=100, paid=0):
    return f"{status} 70215 {payee} 999990 {active} {paid} 1000 1.2.3.4:9999"


class Masternodes:
    """The replies of a node of Dash's family, added to the fake daemon."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.full = {f"tx-{n}": line(f"addr{n}", active=n) for n in range(1, 31)}
        self.status = {"tx-1": "ENABLED"}
        self.protx_answer = {"proTxHash": "aa", "wallet": {"hasOwnerKey": True}}
        for name in ("masternode_list", "masternode_broadcast", "protx", "smartrewards"):
            setattr(daemon, name, getattr(self, name))

    async def masternode_list(self, params):
        self.daemon.note_call("masternode_list", params)
        return self.full if params[0] == "full" else self.status

    async def masternode_broadcast(self, params):
        self.daemon.note_call("masternode_broadcast", params)
        return "relayed"

    async def protx(self, params):
        self.daemon.note_call("protx", params)
        return dict(self.protx_answer)

    async def smartrewards(self, params):
        self.daemon.note_call("smartrewards", params)
        return {"asked": params}


@pytest.fixture
async def world():
    async with session_world(coin=DashCoin) as world:
        world.node = Masternodes(world.daemon)
        yield world


# -- the list


def test_lines_of_the_node_are_split_and_short_ones_filled_up():
    masternodes = parse_list({"tx": line("addr1"), "short": "EXPIRED 70215"})
    assert list(masternodes[0]) == ["vin", *FIELDS]
    assert masternodes[0]["ip"] == "1.2.3.4:9999"
    assert masternodes[1]["status"] == "EXPIRED"
    assert masternodes[1]["payee"] == ""
    assert [] == parse_list(None) == parse_list(["x"])


def test_who_has_waited_longest_is_paid_next():
    masternodes = parse_list(
        {
            "a": line("never-paid", active=50),
            "b": line("long-ago", active=900, paid=NOW - 70),
            "c": line("new", active=10, paid=NOW - 800),
            "d": line("disabled", status="EXPIRED", active=10**9),
            "e": line("nonsense", active="x", paid="y"),
        }
    )
    expected = ["long-ago", "never-paid", "new", "nonsense"]
    assert expected == payment_queue(masternodes, NOW)
    places = {item["payee"]: item["paymentposition"] for item in with_positions(masternodes, NOW)}
    assert places == {**{payee: n for n, payee in enumerate(expected, 1)}, "disabled": -1}


async def test_the_list_has_places_in_the_queue_and_balances(world, client):
    hashX = DashCoin.address_to_hashX("addr30")
    world.db.utxos[hashX] = [utxo("a", 250_000_000)]
    masternodes = await client.request("masternode.list", ["addr30", "addr28", "other"])
    assert masternodes == [
        {
            "vin": "tx-28",
            "status": "ENABLED",
            "protocol": "70215",
            "payee": "addr28",
            "lastseen": "999990",
            "activeseconds": "28",
            "lastpaidtime": "0",
            "lastpaidblock": "1000",
            "ip": "1.2.3.4:9999",
            "paymentposition": 3,
            "inselection": False,
            "balance": 0.0,
        },
        {**masternodes[1], "vin": "tx-30", "paymentposition": 1, "inselection": True}
        | {"balance": 2.5},
    ]
    assert 30 == len(await client.request("masternode.list", []))


async def test_the_list_is_made_once_for_a_height_and_all_sessions(world, client):
    other = await world.connect()
    await client.request("masternode.list", [])
    await other.request("masternode.list", [])
    assert 1 == world.daemon.calls.count(("masternode_list", ["full"]))
    await world.new_block()
    await other.request("masternode.list", [])
    assert 2 == world.daemon.calls.count(("masternode_list", ["full"]))


async def test_balances_in_the_list_follow_the_mempool_between_two_blocks(world, client):
    hashX = DashCoin.address_to_hashX("addr30")
    world.db.utxos[hashX] = [utxo("a", 250_000_000)]
    for delta in (0, 50_000_000, -100_000_000):
        world.mempool.deltas[hashX] = delta
        (masternode,) = await client.request("masternode.list", ["addr30"])
        assert masternode["balance"] == 2.5 + delta / 10**8


async def test_the_list_is_made_again_for_another_block_of_the_same_height(world, client):
    await client.request("masternode.list", [])
    world.db.pop_block()
    world.db.add_block(fork=1)
    await client.request("masternode.list", [])
    assert 2 == world.daemon.calls.count(("masternode_list", ["full"]))


async def test_a_daemon_without_masternodes_gives_an_error(world, client):
    world.daemon.errors["masternode_list"] = {"code": -32601, "message": "Method not found"}
    error = await client.error("masternode.list", [])
    assert error[0] == 2
    assert "Method not found" in error[1]
    assert (await client.error("masternode.list", "addr1"))[1] == ("expected a list of payees")


# -- subscriptions


async def test_a_masternode_is_notified_on_every_occasion(world, client, monkeypatch):
    monkeypatch.setattr(fanout, "ALWAYS_SECS", 0.0)
    assert "ENABLED" == await client.request("masternode.subscribe", "tx-1")
    assert 1 == world.session().sub_count()
    world.node.status = {"tx-1": "EXPIRED"}
    await world.touch(b"x" * 11)
    assert ["tx-1", "EXPIRED"] == (await client.notification())[1]
    world.node.status = None
    await world.touch(b"x" * 11)
    assert ["tx-1", None] == (await client.notification())[1]


async def test_single_transactions_do_not_make_the_daemon_be_asked_each_time(
    world, client, monkeypatch
):
    monkeypatch.setattr(fanout, "ALWAYS_SECS", 3600.0)
    await client.request("masternode.subscribe", "tx-1")
    for _ in range(3):
        await world.touch(b"x" * 11)
    await client.no_notification()
    await world.new_block()
    assert ["tx-1", "ENABLED"] == (await client.notification())[1]
    await world.touch(b"x" * 11)
    await client.no_notification()


async def test_a_failing_daemon_costs_no_session(world, client):
    await client.request("masternode.subscribe", "tx-1")
    world.daemon.errors["masternode_list"] = {"code": -1, "message": "busy"}
    await world.touch(b"x" * 11)
    await client.no_notification()
    assert None is await client.request("server.ping")


async def test_an_unknown_masternode_is_subscribed_to_only_if_the_daemon_answers(world, client):
    world.node.status = None
    assert None is await client.request("masternode.subscribe", "tx-2")
    assert 0 == world.session().sub_count()
    world.node.status = {}
    assert None is await client.request("masternode.subscribe", "tx-2")
    assert 1 == world.session().sub_count()
    for wrong in (5, None, "x" * 201):
        assert (await client.error("masternode.subscribe", wrong))[0] == 1


# -- calls that are passed on


async def test_calls_are_passed_on(world, client):
    assert "relayed" == await client.request("masternode.announce.broadcast", "signed")
    assert world.daemon.calls[-1] == ("masternode_broadcast", ["relay", "signed"])
    assert {"proTxHash": "aa"} == await client.request("protx.info", "aa")
    assert world.daemon.calls[-1] == ("protx", ("info", "aa"))
    await client.request("protx.diff", 1, 10)
    assert world.daemon.calls[-1] == ("protx", ("diff", 1, 10))


@pytest.mark.parametrize("heights", [(0, 1), (5, 4), (1, 11), (-1, 5)])
async def test_heights_of_a_difference_are_checked(client, heights):
    message = (await client.error("protx.diff", *heights))[1]
    expected = f"require 1 <= base_height {heights[0]} <= height {heights[1]} <= chain height 10"
    assert expected == message


async def test_wrong_types_are_refused(client):
    assert (await client.error("protx.diff", "1", 2))[1] == "expected a int block heights"
    assert (await client.error("protx.info", 5))[1] == "expected protx hash string"


@pytest.mark.parametrize("value", [5, None, True, [[]], {"a": 1}, "\ud800", "\u00e9"])
async def test_what_a_node_could_not_parse_is_not_passed_on(value):
    # A node that cannot parse a request is asked again, and then another one.
    async with session_world(coin=SmartCoin) as world:
        Masternodes(world.daemon)
        client = await world.connect()
        for method, text in (
            ("masternode.announce.broadcast", "expected a signed masternode broadcast"),
            ("masternode.subscribe", "expected a collateral outpoint"),
            ("protx.info", "expected protx hash string"),
            ("smartrewards.check", "expected an address"),
        ):
            assert (1, text) == await client.error(method, value)
        assert [] == world.daemon.calls


async def test_smartcash_serves_rewards():
    async with session_world(coin=SmartCoin) as world:
        Masternodes(world.daemon)
        client = await world.connect()
        assert {"asked": ["current"]} == await client.request("smartrewards.current")
        assert {"asked": ["check", "addr"]} == await client.request("smartrewards.check", "addr")


async def test_other_coins_do_not_serve_masternodes():
    async with session_world() as world:
        client = await world.connect()
        assert (await client.error("masternode.list", []))[0] == -32601


# -- headers


def chain_world(made, **settings):
    """A world whose headers are those of a generated chain, all of different lengths."""
    chain = ChainMaker(format=made)
    raws = chain.chain(chain.grow(chain.genesis_hash, 10))
    db = FakeDB()
    db.headers = [chain.coin.block_header(raw, height) for height, raw in enumerate(raws)]
    assert len({len(header) for header in db.headers}) > 1
    return session_world(coin=chain.coin, db=db, **settings), db.headers


@pytest.mark.parametrize(("format_class", "size"), [(AuxPow, 80), (XayaNames, 85)])
async def test_headers_with_a_proof_are_cut(format_class, size):
    worlds, headers = chain_world(format_class(1))
    async with worlds as world:
        assert issubclass(world.manager.env.coin.SESSIONCLS, AuxPoWElectrumX)
        client = await world.connect()
        await client.request("server.version", "x", ["1.4.1", "1.4.1"])
        answer = await client.request("blockchain.block.headers", 2, 5, 9)
        assert answer["hex"] == "".join(header[:size].hex() for header in headers[2:7])
        answer = await client.request("blockchain.block.header", 7, 9)
        assert answer["header"] == headers[7][:size].hex()
        # Without a proof, whole.
        answer = await client.request("blockchain.block.headers", 2, 5)
        assert answer["hex"] == b"".join(headers[2:7]).hex()
        assert headers[7].hex() == await client.request("blockchain.block.header", 7)


async def test_headers_are_whole_in_older_protocols():
    worlds, headers = chain_world(AuxPow(1))
    async with worlds as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.4")
        answer = await client.request("blockchain.block.headers", 2, 5, 9)
        assert answer["hex"] == b"".join(headers[2:7]).hex()
        answer = await client.request("blockchain.block.header", 7, 9)
        assert answer["header"] == headers[7].hex()


def test_coins_name_their_sessions():
    expected = {
        "Dash": DashElectrumX,
        "Zcoin": DashElectrumX,
        "SmartCash": SmartCashElectrumX,
        "Namecoin": session_package.NameElectrumX,
        "Emercoin": AuxPoWElectrumX,
        "Litecoin": session_package.ElectrumX,
    }
    for name, session in expected.items():
        assert session is Coin.lookup_coin_class(name, "mainnet").SESSIONCLS
