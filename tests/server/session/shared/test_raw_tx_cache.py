"""Raw transactions are cached while the node cannot have removed or replaced them."""

import asyncio

import pytest

from electrumx.server.session.shared.raw_tx_cache import (
    CACHE_ENTRIES,
    NOTED_TXS,
    RawTxCache,
)

TX = b"t" * 32


class Node:
    """A node with one transaction, and the cache before it."""

    def __init__(self):
        self.tip = b"tip"
        self.mempool = set()
        self.raw = "beef"
        self.error = None
        self.replies = True
        self.confirmations = 1
        self.requests = []
        self.cache = RawTxCache(lambda: self.tip, self.mempool.__contains__)

    def request_hex(self, _tx_hash):
        self.requests.append("hex")
        future = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        elif self.replies:
            future.set_result(self.raw)
        else:
            self.unanswered = future
        return future

    def read_hex(self, _tx_hash, reply):
        return reply.result()

    async def request_verbose(self, tx_hash):
        assert tx_hash == TX
        self.requests.append("verbose")
        return {"hex": self.raw, "confirmations": self.confirmations}

    async def fetch(self, tx_hash=TX):
        return await self.cache.fetch(tx_hash, self)


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
    assert node.requests == ["hex", "verbose"]
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
    assert node.requests == ["hex"] * 3


@pytest.mark.parametrize("reply", [None, {"hex": 7}, [], 5])
async def test_the_hex_is_requested_if_the_verbose_form_lacks_it(node, reply, monkeypatch):
    async def strange(_tx_hash):
        return reply

    monkeypatch.setattr(node, "request_verbose", strange)
    for _ in range(3):
        assert await node.fetch() == "beef"
        assert node.cache.get(TX) is None
    assert node.requests == ["hex"] * 3


async def test_a_transaction_that_the_node_does_not_have_is_not_noted(node):
    node.error = RuntimeError("absent")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="absent"):
            await node.fetch()
    assert node.requests == ["hex"] * 2


async def test_a_transaction_is_not_noted_at_a_tip_that_was_not_known_when_it_was_requested(node):
    waiting = node.cache.fetch(TX, node)
    node.tip = b"next"
    await waiting
    await node.fetch()
    assert node.requests == ["hex"] * 2


async def test_transactions_that_are_requested_once_displace_nothing(node):
    for _ in range(2):
        await node.fetch()
    for number in range(3 * CACHE_ENTRIES):
        await node.fetch(number.to_bytes(32, "big"))
    assert node.cache.get(TX) == b'"beef"'


async def test_the_number_of_noted_transactions_is_bounded(node):
    for _ in range(2):
        for number in range(NOTED_TXS + 1):
            await node.fetch(number.to_bytes(32, "big"))
    assert node.requests.count("verbose") <= 1


async def test_a_reply_of_an_older_tip_does_not_displace_what_was_noted_since(node):
    node.replies = False
    late = node.cache.fetch(b"l" * 32, node)
    node.tip, node.replies = b"next", True
    await node.fetch()
    node.unanswered.set_result("late")
    assert await late == "late"
    await node.fetch()
    assert node.requests == ["hex", "hex", "verbose"]
