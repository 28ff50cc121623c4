"""Nodes that die, one of two and both, under a server with clients."""

import asyncio
import hashlib
import time

import pytest

from tests.integration.nodes import Litecoind
from tests.integration.server import ServerProcess

pytestmark = [pytest.mark.daemon, pytest.mark.slow]

OUTAGE_SECS = 20
# The node in use is given 3.75 s in all before the other is tried.
FAILOVER_SECS = 60


def feed(source, target):
    """Give a node the blocks that it lacks of another's chain."""
    for raw in source.raw_blocks(target.height() + 1, source.height() - target.height()):
        assert target.rpc("submitblock", raw.hex()) is None
    assert source.rpc("getbestblockhash") == target.rpc("getbestblockhash")


@pytest.fixture
def pair(tmp_path, stopping):
    """Two nodes with one chain."""
    first = stopping.enter_context(Litecoind(tmp_path / "first"))
    second = stopping.enter_context(Litecoind(tmp_path / "second"))
    # Coins of the second are mature, so that it can pay when it is alone.
    second.mine(110)
    feed(second, first)
    return first, second


@pytest.fixture
def server(pair, tmp_path, stopping):
    """The server, using the first of the pair and knowing the second."""
    env = {**pair[0].env, "DAEMON_URL": ",".join(node.url for node in pair)}
    return stopping.enter_context(ServerProcess(tmp_path / "server", env, protocols=("tcp", "rpc")))


async def next_height(client, timeout=FAILOVER_SECS):
    params = await client.notification("blockchain.headers.subscribe", timeout=timeout)
    return params[0]["height"]


async def follow(client, height, timeout=FAILOVER_SECS):
    """Read notifications of headers up to a height."""
    while await next_height(client, timeout) != height:
        pass


async def test_when_the_node_in_use_dies_the_other_is_followed(pair, server):
    first, second = pair
    address = second.rpc("getnewaddress")
    script = bytes.fromhex(second.rpc("validateaddress", address)["scriptPubKey"])
    scripthash = hashlib.sha256(script).digest()[::-1].hex()
    async with server.connect() as client:
        assert (await client.call("blockchain.headers.subscribe"))["height"] == 110
        assert await client.call("blockchain.scripthash.subscribe", scripthash) is None
        first.kill()
        txid = second.pay(address, 2)
        # The mempool, then the blocks of the other node
        got = await client.notification("blockchain.scripthash.subscribe", timeout=FAILOVER_SECS)
        assert got[0] == scripthash
        [unconfirmed] = await client.call("blockchain.scripthash.get_history", scripthash)
        assert (unconfirmed["tx_hash"], unconfirmed["height"]) == (txid, 0)
        second.mine(3)
        await follow(client, 113)
        [confirmed] = await client.call("blockchain.scripthash.get_history", scripthash)
        assert confirmed == {"tx_hash": txid, "height": 111}

        # And the other way round
        first.start(port=first.port)
        feed(second, first)
        second.kill()
        first.mine(1)
        await follow(client, 114)
    log = server.log()
    assert f"failing over to 127.0.0.1:{second.port}/" in log
    assert f"failing over to 127.0.0.1:{first.port}/" in log
    assert "Traceback" not in log


async def test_when_all_nodes_are_dead_the_server_waits_calmly_and_resumes(pair, server):
    first, second = pair
    async with server.connect() as client:
        await client.call("blockchain.headers.subscribe")
        before, begun = len(server.log().splitlines()), time.monotonic()
        # The one that is to come back ends in order: killed, it would forget its last blocks.
        second.stop()
        first.kill()
        deadline = time.monotonic() + OUTAGE_SECS
        while time.monotonic() < deadline:
            # Indexed data is served.
            assert await client.call("server.ping") is None
            assert len(await client.call("blockchain.block.header", 110)) == 160
            await asyncio.sleep(0.5)
        # Two lines have times of their own.
        lines = [
            line
            for line in server.log().splitlines()[before:]
            if "recent blocks for their UTXOs" not in line and "INFO:MemPool:" not in line
        ]
        assert 1 <= len(lines) <= (time.monotonic() - begun) // 5 + 1, lines
        assert not [line for line in lines if "u:p" in line or "Traceback" in line]

        await asyncio.to_thread(second.start, port=second.port)
        second.mine(2)
        await follow(client, 112, timeout=2 * FAILOVER_SECS)
        second.pay(second.rpc("getnewaddress"), 1)
        second.mine(1)
        await follow(client, 113)
    info = await asyncio.to_thread(server.rpc, "getinfo")
    assert info["daemon"] == f"127.0.0.1:{second.port}/"
    assert info["db height"] == info["daemon height"] == 113


def test_a_server_that_is_started_before_its_node_waits_for_it(tmp_path, stopping):
    node = Litecoind(tmp_path / "node").start()
    node.stop()
    server = ServerProcess(tmp_path / "server", node.env, protocols=("tcp", "rpc")).launch()
    stopping.callback(server.terminate)
    server.wait_log("connection problem - check your daemon is running")
    stopping.enter_context(node).mine(5)
    server.wait_serving()
    server.wait_height(5)
    assert "connection restored" in server.log()
    assert "Traceback" not in server.log()
