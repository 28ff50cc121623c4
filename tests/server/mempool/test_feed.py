"""ZMQ messages of nodes' mempools are applied to ours."""

import asyncio
import logging
import struct
import sys

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.server.mempool import feed as mempool_feed
from electrumx.server.mempool.feed import MempoolFeed
from tests.conftest import free_port
from tests.fakes.chain import COIN
from tests.fakes.fake_mempool import (
    ALICE,
    BOB,
    WAIT_SECS,
    FakeAPI,
    ModelTx,
    by_hash,
    check_against_model,
    eventually,
    notified,
    pay,
    synchronizing,
)


class Publisher:
    """A node that publishes its mempool; the numbers of the messages go on by themselves."""

    def __init__(self, socket, address):
        self.socket, self.address = socket, address
        self.numbers = {b"rawtx": 7, b"sequence": 2**32 - 1}

    async def subscribed(self):
        """Wait until both topics were asked for."""
        topics = set()
        while len(topics) < 2:
            assert await asyncio.to_thread(self.socket.poll, WAIT_SECS * 1000)
            topics.add(self.socket.recv())
        assert topics == {b"\x01rawtx", b"\x01sequence"}

    def send(self, topic, body):
        number = self.numbers[topic]
        self.numbers[topic] = (number + 1) % 2**32
        self.socket.send_multipart([topic, body, struct.pack("<I", number)])

    def raw(self, tx):
        self.send(b"rawtx", tx.raw)

    def entered(self, tx):
        self.send(b"sequence", tx.hash[::-1] + b"A" + bytes(8))

    def left(self, tx):
        self.send(b"sequence", tx.hash[::-1] + b"R" + bytes(8))


@pytest.fixture
def publisher():
    zmq = pytest.importorskip("zmq")
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield Publisher(socket, f"tcp://127.0.0.1:{port}")


@pytest.fixture
async def api(publisher):
    """The node of a mempool that follows the publisher; attribute mempool."""
    result = FakeAPI(tip=bytes(32))
    async with synchronizing(COIN, result) as mempool:
        await notified(result)
        result.mempool = mempool
        feed = MempoolFeed(COIN, mempool, [publisher.address])
        task = asyncio.create_task(feed.run())
        await publisher.subscribed()
        yield result
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


async def has(api, *txs):
    """Wait until our mempool consists of these transactions."""
    expected = by_hash(*txs)
    await eventually(lambda: api.mempool.txs.keys() == expected.keys())
    await check_against_model(api.mempool, expected)


async def listed(api):
    """Wait for the listing that the first message makes due."""
    await eventually(lambda: api.listings >= 2)
    return api.listings


async def test_raw_transactions_are_added_without_asking_the_node(api, publisher):
    plain, segwit = pay(api), pay(api, witness_bytes=107)
    # A listing, which follows the first message, would fetch them.
    api.mempool.refresh_soon = lambda: None
    for tx in (plain, segwit):
        publisher.raw(tx)
    await has(api, plain, segwit)
    assert api.fetches == 0


async def test_a_sequence_of_hashes_is_followed_both_ways(api, publisher):
    coin = api.add_utxo(ALICE, 10_000)
    first = pay(api, coin, b"first")
    publisher.entered(first)
    await has(api, first)
    listings = await listed(api)
    del api.txs[first.hash]
    second = pay(api, coin, b"second", fee=500)
    publisher.left(first)
    publisher.entered(second)
    await has(api, second)
    del api.txs[second.hash]
    publisher.left(second)
    await has(api)
    # Connected and disconnected blocks are handled elsewhere.
    publisher.send(b"sequence", bytes(32) + b"C")
    publisher.send(b"sequence", bytes(32) + b"D")
    third = pay(api)
    publisher.entered(third)
    await has(api, third)
    assert api.listings == listings


async def test_both_topics_together_are_one_report(api, publisher):
    for _ in range(3):
        tx = pay(api)
        publisher.raw(tx)
        publisher.entered(tx)
    await has(api, *api.txs.values())


async def test_lost_messages_make_the_mempool_be_listed(api, publisher, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(mempool_feed, "LISTING_SECS", 0.01)
    first = pay(api)
    publisher.entered(first)
    await has(api, first)
    listings = await listed(api)
    lost, next_one = pay(api), pay(api)
    publisher.numbers[b"sequence"] += 1
    publisher.entered(next_one)
    await has(api, first, lost, next_one)
    assert api.listings > listings
    assert "ZMQ messages were lost" in caplog.text


async def test_what_a_block_has_is_not_taken_for_unconfirmed(api, publisher):
    first = pay(api)
    publisher.raw(first)
    await has(api, first)
    await listed(api)
    mined = ModelTx([api.add_utxo(ALICE, 5000)], [(BOB, 4000)])
    generation = ModelTx([(bytes(32), 0xFFFFFFFF, b"", 0)], [(BOB, 50)])
    api.index_block([first.hash], [mined])
    api.announce_block()
    await has(api)
    for tx in (generation, first, mined):
        publisher.raw(tx)
    last = pay(api)
    publisher.raw(last)
    await has(api, last)


async def test_nonsense_is_passed_over(api, publisher):
    for body in (b"", b"\x00", b"short", bytes(100), bytes(20_000)):
        for topic in (b"rawtx", b"sequence"):
            publisher.send(topic, body)
    publisher.socket.send_multipart([b"rawtx"])
    publisher.socket.send_multipart([b"rawtx2", b"", bytes(4)])
    publisher.socket.send_multipart([b"sequence", bytes(32) + b"A", b"", b"more"])
    tx = pay(api)
    publisher.raw(tx)
    await has(api, tx)


async def test_a_socket_is_renewed_after_silence(publisher, monkeypatch):
    monkeypatch.setattr(mempool_feed, "RENEW_SECS", 0.01)
    api = FakeAPI()
    async with synchronizing(COIN, api) as mempool:
        await notified(api)
        api.mempool = mempool
        task = asyncio.create_task(MempoolFeed(COIN, mempool, [publisher.address]).run())
        # Subscribes, unsubscribes and so on
        for _ in range(6):
            assert await asyncio.to_thread(publisher.socket.poll, WAIT_SECS * 1000)
            publisher.socket.recv()
        task.cancel()
        await asyncio.wait([task])


async def test_without_addresses_there_is_nothing_to_follow():
    await asyncio.wait_for(MempoolFeed(COIN, None, []).run(), WAIT_SECS)


def test_an_address_that_zmq_refuses_is_the_operators_error():
    pytest.importorskip("zmq")
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(OperatorError, match=r"cannot use ZMQ_MEMPOOL_ADDRESS nonsense://x: "):
        MempoolFeed(COIN, None, [address, "nonsense://x"])


def test_the_error_without_pyzmq_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(OperatorError, match=r"ZMQ_MEMPOOL_ADDRESS .* install electrumx\[zmq\]"):
        MempoolFeed(COIN, None, ["tcp://127.0.0.1:1"])
