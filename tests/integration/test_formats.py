"""Whole servers over chains in every wire format: sync, mempool, reorganisation, queries.

There is a node for few of the coins.  So each chain is made in its format, and served
by a node that only looks up the made blocks; the coin is the real one but for its first block.  Every
answer is compared with the made chain, which nothing has parsed.
"""

import asyncio
import importlib.util

import pytest

from tests.conftest import require
from tests.fakes.chain import ChainMaker
from tests.fakes.format_chain import FORMATS, PACKAGED
from tests.fakes.format_node import FormatNode
from tests.fakes.formats import (
    NAMES,
    AuxPow,
    Dash,
    DashItself,
    Decred,
    Dogecoin,
    Emercoin,
    Names,
    Odin,
    PlainAuxPow,
    Primecoin,
    SmartCash,
    XayaNames,
    Zcoin,
)
from tests.fakes.node_thread import NodeThread
from tests.fakes.time_formats import Exos, GravityZeroCoin, Peercoin, TokenPay
from tests.integration.client import ElectrumError
from tests.integration.compare import assert_same_index, assert_same_proofs
from tests.integration.launcher import InjectedServer
from tests.integration.made_oracle import MadeOracle
from tests.integration.oracle import scripthash_of

# The coin's own hash is tested by DashItself.
TESTED = [each for each in FORMATS if each is not Dash] + PACKAGED

# Protocols and the bytes that they get of a header that comes with a proof.
TRUNCATED = {AuxPow: 80, PlainAuxPow: 80, Dogecoin: 80, Names: 80, Emercoin: 80, XayaNames: 85}
# Coins whose nodes are asked about masternodes.
MASTERNODES = (DashItself, SmartCash, Odin, Zcoin)
# (estimatefee, relayfee) of coins that have constants, and of nodes that know only estimatefee.
FEES = {
    GravityZeroCoin: (0.01, 0.01),
    Peercoin: (0.001, 0.01),
    Primecoin: (1.024, 1.024),
    TokenPay: (0.0003, 0.00001),
    Exos: (0.0003, 0.00001),
}


class Story:
    """A chain with two branches, a node that serves it, and a server over the node."""

    def __init__(self, format_class, folder, stopping):
        if format_class.package:
            known = importlib.util.find_spec(format_class.package)
            require(known, f"the package of {format_class.package} is not installed")
        odds = {"disapproval": 0.4} if format_class is Decred else {}
        self.chain = ChainMaker(format=format_class(seed=11, **odds))
        fork = self.chain.grow(self.chain.genesis_hash, 8)
        self.first = self.chain.grow(fork, 4)
        self.second = self.chain.grow(fork, 6)
        node = FormatNode(self.chain, self.first)
        self.node = stopping.enter_context(NodeThread(node=node))
        coin = self.chain.coin
        path = f"{format_class.__module__}:{format_class.__name__}"
        plan = {"format": path, "genesis_hash": coin.GENESIS_HASH}
        env = {"COIN": coin.NAME, "NET": coin.NET, "DAEMON_URL": node.url}
        server = InjectedServer(folder, env, plan, protocols=("tcp", "rpc"))
        self.server = stopping.enter_context(server)

    async def go_to(self, tip, unconfirmed=2):
        """Make a block the node's tip, with some transactions on top; the oracle."""
        txs = self.chain.unconfirmed(tip, unconfirmed)
        await asyncio.to_thread(self.node.do, FormatNode.set_tip, tip, txs)
        return MadeOracle(self.chain, tip, txs)


async def assert_same_headers(server, oracle, protocol, truncated):
    """Headers one by one and together, alone and with proofs."""
    cp_height = oracle.height - 1
    heights = range(cp_height + 1)
    whole = oracle.headers
    shown = whole if truncated is None else [header[: 2 * truncated] for header in whole]
    async with server.connect() as client:
        await client.hello(protocol=protocol)
        calls = [("blockchain.block.header", height) for height in range(oracle.height + 1)]
        assert whole == await client.call_many(calls)
        together = await client.call("blockchain.block.headers", 0, 100)
        assert "".join(whole) == together["hex"]
        assert oracle.height + 1 == together["count"]
        calls = [("blockchain.block.header", height, cp_height) for height in heights]
        expected = [
            {"header": shown[height], **oracle.header_proof(height, cp_height)}
            for height in heights
        ]
        assert expected == await client.call_many(calls)
        together = await client.call("blockchain.block.headers", 2, 5, cp_height)
        assert together["hex"] == "".join(shown[2:7])
        proof = oracle.header_proof(6, cp_height)
        assert proof == {name: together[name] for name in ("branch", "root")}


async def assert_same_answers(story, oracle):
    """All that clients ask of a chain."""
    await assert_same_index(story.server, oracle)
    truncated = TRUNCATED.get(type(story.chain.format))
    await assert_same_headers(story.server, oracle, "1.4.2", truncated)
    if truncated is not None:
        await assert_same_headers(story.server, oracle, "1.4", None)
    await assert_same_proofs(story.server, oracle, every=1)


def assert_chain_has_what_is_tested(oracle):
    """The random chain has the format's special cases."""
    form = oracle.format
    if isinstance(form, Decred):
        assert oracle.void_heights
    if type(form) in TRUNCATED:
        lengths = {len(header) for header in oracle.headers}
        assert max(lengths) > 2 * TRUNCATED[type(form)]


async def assert_what_only_this_coin_has(story, oracle):
    """Names, fees, and the calls of the Dash family."""
    form = story.chain.format
    async with story.server.connect() as client:
        await client.hello()
        fees = [
            await client.call("blockchain.estimatefee", 2),
            await client.call("blockchain.relayfee"),
        ]
        assert fees == list(FEES.get(type(form), (0.0001, 0.00001)))
        if getattr(form, "op_update", None):
            for name in NAMES:
                scripthash = scripthash_of(form.name_script(name))
                assert oracle.get_history(scripthash)
        if isinstance(form, MASTERNODES):
            assert await client.call("masternode.subscribe", "aa-0") == "ENABLED"
            assert await client.call("protx.info", "bb") == {"asked": ["info", "bb"]}
        else:
            with pytest.raises(ElectrumError, match="unknown method"):
                await client.call("masternode.list", [])
        if isinstance(form, SmartCash):
            assert await client.call("smartrewards.current") == {"asked": ["current"]}


@pytest.mark.parametrize("format_class", TESTED, ids=lambda cls: cls.__name__)
async def test_a_server_answers_as_the_chain_was_made(format_class, tmp_path, stopping):
    story = await asyncio.to_thread(Story, format_class, tmp_path / "server", stopping)
    oracle = await story.go_to(story.first)
    assert_chain_has_what_is_tested(oracle)
    await assert_same_answers(story, oracle)
    await assert_what_only_this_coin_has(story, oracle)
    oracle = await story.go_to(story.second)
    assert_chain_has_what_is_tested(oracle)
    await assert_same_answers(story, oracle)
    log = story.server.log()
    assert await asyncio.to_thread(story.server.terminate) == 0
    assert "Traceback" not in log
