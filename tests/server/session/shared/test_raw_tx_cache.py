"""Raw transactions are cached while the node cannot have removed or replaced them."""

import pytest

from electrumx.server.session.shared.raw_tx_cache import RawTxCache

TX = b"t" * 32


class Node:
    """A node with one transaction, and the cache before it."""

    def __init__(self):
        self.tip = b"tip"
        self.mempool = set()
        self.raw = "beef"
        self.confirmations = 1
        self.requests = []
        self.cache = RawTxCache(lambda: self.tip, self.mempool.__contains__)

    async def request(self, verbose):
        self.requests.append(verbose)
        if verbose:
            return {"hex": self.raw, "confirmations": self.confirmations}
        return self.raw

    async def fetch(self):
        return await self.cache.fetch(TX, self.request)


@pytest.fixture
def node():
    return Node()


async def test_a_transaction_of_our_mempool_is_cached_while_it_is_there(node):
    node.mempool.add(TX)
    assert await node.fetch() == "beef"
    assert node.cache.get(TX) == b'"beef"'
    node.tip = b"next"
    assert node.cache.get(TX) == b'"beef"'
    node.mempool.clear()
    assert node.cache.get(TX) is None


async def test_a_confirmed_transaction_is_cached_at_its_second_request(node):
    await node.fetch()
    assert node.cache.get(TX) is None
    assert await node.fetch() == "beef"
    assert node.requests == [False, True]
    assert node.cache.get(TX) == b'"beef"'


async def test_a_confirmed_transaction_is_cached_until_clients_know_another_tip(node):
    await node.fetch()
    await node.fetch()
    node.tip = b"next"
    assert node.cache.get(TX) is None


async def test_a_transaction_that_only_the_node_has_is_not_cached(node):
    node.confirmations = 0
    for _ in range(3):
        assert await node.fetch() == "beef"
        assert node.cache.get(TX) is None


async def test_a_large_transaction_is_not_cached(node):
    node.mempool.add(TX)
    node.raw = "00" * (RawTxCache.MAX_DIGITS // 2 + 1)
    assert await node.fetch() == node.raw
    assert node.cache.get(TX) is None


async def test_the_verbose_form_of_a_larger_transaction_is_not_requested(node):
    node.raw = "00" * (RawTxCache.MAX_VERBOSE_DIGITS // 2 + 1)
    for _ in range(3):
        await node.fetch()
    assert node.requests == [False] * 3


@pytest.mark.parametrize("reply", [None, {"hex": 7}, [], 5])
async def test_a_strange_reply_is_passed_on_and_not_cached(node, reply):
    async def strange(_verbose):
        return reply

    assert await node.cache.fetch(TX, strange) == reply
    assert node.cache.get(TX) is None
