"""Fee estimates: one request to the node for each target, mode and tip."""

import asyncio

import pytest

from electrumx.server.session.shared.fee_estimates import FeeEstimates


class Node:
    """Returns the number of requests so far; waits if a test wants that."""

    def __init__(self):
        self.requests = []
        self.tip = b"tip"
        self.gate = None
        self.error = None
        self.fees = FeeEstimates(lambda: self.tip, lambda target: target // 10 * 10)

    async def fetch(self, target, mode):
        self.requests.append((target, mode))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return float(len(self.requests))

    async def get(self, target, mode=None):
        return await self.fees.get(target, mode, self.fetch)


@pytest.fixture
def node():
    return Node()


async def test_targets_of_one_bucket_share_a_request_until_the_tip_changes(node):
    assert node.fees.now(12, None) is None
    assert [await node.get(12), await node.get(19)] == [1.0, 1.0]
    assert node.fees.now(15, None) == 1.0
    node.tip = b"next"
    assert node.fees.now(15, None) is None
    assert await node.get(12) == 2.0
    assert node.requests == [(10, None)] * 2


async def test_modes_and_buckets_have_requests_of_their_own(node):
    values = [await node.get(12), await node.get(12, "ECONOMICAL"), await node.get(25)]
    assert values == [1.0, 2.0, 3.0]
    assert node.requests == [(10, None), (10, "ECONOMICAL"), (20, None)]


async def test_concurrent_requests_share_one_of_the_node(node):
    node.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(node.get(10)) for _ in range(3)]
    await asyncio.sleep(0)
    assert node.fees.now(10, None) is None
    node.gate.set()
    assert await asyncio.gather(*waiting) == [1.0] * 3
    assert len(node.requests) == 1


async def test_an_error_is_not_cached(node):
    node.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await node.get(10)
    node.error = None
    assert await node.get(10) == 2.0


async def test_an_estimate_fetched_while_the_tip_changed_is_fetched_again(node):
    node.gate = asyncio.Event()
    waiting = asyncio.ensure_future(node.get(10))
    await asyncio.sleep(0)
    node.tip = b"next"
    node.gate.set()
    assert await waiting == 1.0
    assert await node.get(10) == 2.0
