"""New blocks reach subscribers when the node has them, long before it would be polled."""

import asyncio
import time

import pytest

from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.nodes import PublishingNode
from tests.integration.server import ServerProcess

# Of polls, which these tests would wait for in vain.
HOUR = dict.fromkeys(("DAEMON_POLL_INTERVAL_BLOCKS", "DAEMON_POLL_INTERVAL_MEMPOOL"), 3_600_000)
# The time that a slow machine may take
LIMIT_SECS = 120


async def seconds_to_notify(server, node, blocks=3):
    """How long each of some blocks takes from the node to a client."""
    took = []
    async with server.connect() as client:
        height = (await client.call("blockchain.headers.subscribe"))["height"]
        for _ in range(blocks):
            await asyncio.to_thread(node.mine)
            start = time.monotonic()
            height += 1
            params = await client.notification("blockchain.headers.subscribe", timeout=LIMIT_SECS)
            took.append(time.monotonic() - start)
            assert params[0]["height"] == height
    return took


@pytest.mark.daemon
@pytest.mark.xdist_group("litecoind")
async def test_litecoind_announces_blocks_to_a_call_that_waits(litecoind, server_for):
    litecoind.mine(3)
    server = server_for(litecoind, protocols=("tcp",), **HOUR)
    took = await seconds_to_notify(server, litecoind)
    print("seconds to notify:", took)
    assert "announces blocks by waitfornewblock" in server.log()
    # Also after a restart of the node, which cuts the call.
    await asyncio.to_thread(litecoind.restart)
    assert len(await seconds_to_notify(server, litecoind, 1)) == 1


@pytest.mark.daemon
@pytest.mark.xdist_group("bitcoin-sv")
async def test_a_real_node_announces_blocks_by_zmq(tmp_path, stopping, server_for):
    pytest.importorskip("zmq")
    node = stopping.enter_context(PublishingNode(tmp_path / "bitcoin-sv", "hashblock"))
    node.mine(3)
    server = server_for(node, protocols=("tcp",), ZMQ_BLOCK_ADDRESS=node.address, **HOUR)
    took = await seconds_to_notify(server, node)
    print("seconds to notify:", took)
    assert "announces blocks by ZMQ" in server.log()


async def test_the_fake_node_announces_blocks_by_zmq_only(tmp_path, stopping):
    zmq = pytest.importorskip("zmq")
    maker, tip = small_chain(5)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    context = stopping.enter_context(zmq.Context())
    publisher = stopping.enter_context(context.socket(zmq.XPUB))
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    address = f"tcp://127.0.0.1:{port}"
    server = await asyncio.to_thread(
        stopping.enter_context,
        ServerProcess(tmp_path, node.env, protocols=("tcp",), ZMQ_BLOCK_ADDRESS=address, **HOUR),
    )
    assert await asyncio.to_thread(publisher.poll, LIMIT_SECS * 1000)

    class Miner:
        def __init__(self, tip):
            self.tip = tip

        def mine(self):
            self.tip = maker.grow(self.tip, 1)
            raw = maker.blocks[self.tip][0]
            node.do(lambda n: n.append(raw))
            publisher.send_multipart([b"hashblock", self.tip[::-1], bytes(4)])

    assert len(await seconds_to_notify(server, Miner(tip))) == 3
    log = server.log()
    assert "does not know waitfornewblock" in log
    assert "a daemon announces blocks by ZMQ" in log


@pytest.mark.daemon
@pytest.mark.xdist_group("bcoin")
async def test_a_node_without_announcements_is_polled(bcoin, server_for):
    bcoin.mine(3)
    server = server_for(bcoin, protocols=("tcp",))
    assert len(await seconds_to_notify(server, bcoin)) == 3
    assert "waitfornewblock: polling it" in server.log()


def test_an_address_that_is_none_ends_the_start_with_one_line(tmp_path, stopping):
    maker, tip = small_chain(2)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    server = ServerProcess(
        tmp_path, node.env, protocols=("tcp",), ZMQ_BLOCK_ADDRESS="127.0.0.1:28332"
    ).launch()
    assert server.wait_exit(LIMIT_SECS) == 1
    assert "ZMQ_BLOCK_ADDRESS value 127.0.0.1:28332 is no address" in server.log()
    assert "Traceback" not in server.log()
