"""Requests for transactions are gathered into batches, and each gets its own answer."""

import asyncio

import pytest

from electrumx.server.daemon import tx_batcher as tx_requests
from electrumx.server.daemon.tx_batcher import BATCH_TXS, BATCHES, MAX_BATCHES, TxRequests


class Node:
    """Answers batches when it is told to."""

    def __init__(self):
        self.batches = []
        self.replies = []
        self.requests = TxRequests(self.send)

    async def send(self, hashes):
        self.batches.append(list(hashes))
        reply = asyncio.get_running_loop().create_future()
        self.replies.append(reply)
        return await reply

    def answer(self, number):
        self.replies[number].set_result([f"tx {name}" for name in self.batches[number]])


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_asked_for_in_one_turn_is_one_batch():
    node = Node()
    futures = [node.requests.get(name) for name in ("a", "b", "a", "c")]
    await turns()
    assert node.batches == [["a", "b", "c"]]
    node.answer(0)
    assert ["tx a", "tx b", "tx a", "tx c"] == await asyncio.gather(*futures)


async def test_while_batches_are_under_way_others_are_gathered():
    node = Node()
    futures = []
    for number in range(10):
        futures.append(node.requests.get(str(number)))
        await turns()
    assert len(node.batches) == BATCHES
    node.answer(0)
    await turns()
    assert node.batches[BATCHES] == [str(number) for number in range(BATCHES, 10)]
    for number in range(1, BATCHES + 1):
        node.answer(number)
    assert [f"tx {number}" for number in range(10)] == await asyncio.gather(*futures)


async def test_a_transaction_under_way_is_asked_for_again_by_who_comes_later():
    node = Node()
    first = node.requests.get("a")
    await turns()
    second = node.requests.get("a")
    await turns()
    assert node.batches == [["a"], ["a"]]
    node.replies[0].set_result([ValueError("not yet")])
    node.replies[1].set_result(["tx a"])
    with pytest.raises(ValueError, match="not yet"):
        await first
    assert "tx a" == await second


async def test_batches_are_bounded_and_all_are_answered():
    node = Node()
    futures = [node.requests.get(str(number)) for number in range(3 * BATCH_TXS + 1)]
    await turns()
    for number in range(4):
        node.answer(number)
        await turns()
    assert [BATCH_TXS] * 3 + [1] == [len(batch) for batch in node.batches]
    assert [f"tx {number}" for number in range(3 * BATCH_TXS + 1)] == [await f for f in futures]


async def test_a_batch_that_fails_fails_each_of_its_requests_and_no_other():
    node = Node()
    first = node.requests.get("a")
    await turns()
    node.replies[0].set_exception(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await first
    second = node.requests.get("b")
    await turns()
    node.answer(1)
    assert "tx b" == await second


async def test_late_batches_do_not_hold_up_others_for_ever(monkeypatch):
    monkeypatch.setattr(tx_requests, "LATE_SECS", 0.001)
    node = Node()
    futures = []
    while len(node.batches) < MAX_BATCHES:
        futures.append(node.requests.get(str(len(futures))))
        await asyncio.sleep(0.002)
    late = node.requests.get("late")
    await asyncio.sleep(0.02)
    assert len(node.batches) == MAX_BATCHES
    for number in range(MAX_BATCHES):
        node.answer(number)
    await turns()
    node.answer(MAX_BATCHES)
    assert "tx late" == await late
    await asyncio.gather(*futures)


async def test_nobody_is_asked_for_who_went_away():
    node = Node()
    gone = node.requests.get("gone")
    here = node.requests.get("here")
    gone.cancel()
    await turns()
    assert node.batches == [["here"]]
    node.answer(0)
    assert "tx here" == await here
