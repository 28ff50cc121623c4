"""The index over bcash: Bitcoin Cash, whose transactions have no witnesses."""

import asyncio
import random

import pytest

from tests.integration.audit import assert_follows, assert_same_blocks
from tests.integration.chains import script_pool
from tests.integration.nodes import Bcash
from tests.integration.oracle import Oracle
from tests.integration.server import wait_until
from tests.integration.turmoil import Turmoil, free_coins

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("bcash")]

# The script hash of OP_TRUE: rewards to it need no key.
FREE_ADDRESS = "2ND8PB9RrfCaAcjfjP1Y6nAgFd9zWHYX4DN"


def pay(chain, count):
    """Payments that have arrived in the mempool; bcash answers before it has looked at them."""
    waiting = len(chain.node.rpc("getrawmempool"))
    assert chain.pay(free_coins(Oracle(chain.node)), count) == count
    wait_until(
        lambda: len(chain.node.rpc("getrawmempool")) == waiting + count, what="payments in mempool"
    )


def a_chain_with_payments(folder, stopping):
    """A node with matured coins and some payments in blocks; its Turmoil."""
    node = stopping.enter_context(Bcash(folder))
    node.mine(10, FREE_ADDRESS)
    node.mine(100)
    # Spends of a bare OP_TRUE would be shorter than the 100 bytes that a transaction must have.
    chain = Turmoil(node, script_pool(40), kinds=("p2sh",), most_ancestors=20, new_addresses=True)
    for _ in range(5):
        pay(chain, 10)
        node.mine(1)
    return chain


async def test_blocks_mempool_and_branches_of_bitcoin_cash_are_indexed(
    tmp_path, stopping, server_for
):
    chain = await asyncio.to_thread(a_chain_with_payments, tmp_path / "bcash", stopping)
    node = chain.node
    server = await asyncio.to_thread(server_for, node, protocols=("tcp", "rpc"))
    oracle = Oracle(node)
    assert oracle.height == 115
    await assert_follows(server, oracle)
    await assert_same_blocks(server, oracle, sample=range(105, oracle.height + 1))

    await asyncio.to_thread(pay, chain, 15)
    oracle = Oracle(node)
    assert len(oracle.mempool) == 15
    await assert_follows(server, oracle)

    choose = random.Random(4)
    seen = set(oracle.scripthashes())
    for depth in (1, 4, 8):
        length = depth + choose.randint(0, 2)
        await asyncio.to_thread(chain.branch, depth, length, pay=5, coins=free_coins(oracle))
        oracle = Oracle(node)
        seen.update(oracle.scripthashes())
        await assert_follows(server, oracle, also=seen)
    assert await asyncio.to_thread(server.terminate) == 0
