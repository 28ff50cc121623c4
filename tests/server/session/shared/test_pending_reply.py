"""Replies that wait for the database: each callback is called once, in order."""

import asyncio

import pytest

from electrumx.server.session.shared.pending_reply import PendingReply
from electrumx.server.session.shared.script_cache import PendingValue
from electrumx.server.session.shared.tip_consistency import TipConsistency
from tests.fakes.session_world import FakeBP, FakeDB

HASHX = b"x" * 11


class Source:
    """A query whose values arrive when the test ends them."""

    def __init__(self):
        self.pending = []
        self.value = "read"

    def fetch(self, hashX):
        self.pending.append(PendingValue(hashX, 0))
        return self.pending[-1]

    def check(self, value):
        pass

    async def read(self, _hashX):
        return self.value, 1.0


class Asked:
    """A query, a chain, and the charges of its replies."""

    def __init__(self):
        self.source = Source()
        self.db = FakeDB()
        self.chain = TipConsistency(FakeBP(self.db), self.db)
        self.notify()
        self.charged = []

    def notify(self):
        self.chain.notified(self.db.db_height, self.db.db_tip)

    def fetch(self, finish=lambda hashX, value, cost: (hashX, value, cost)):
        return PendingReply(
            self.chain, self.chain.state(), self.source, finish, HASHX, self.charged.append
        )

    def arrive(self, value="value", cost=0.5, error=None):
        pending = self.source.pending.pop(0)
        pending.cost = cost
        pending.end(value, error)


@pytest.fixture
async def asked():
    return Asked()


async def test_callbacks_are_called_at_once_and_in_order(asked):
    answer, told = asked.fetch(), []
    answer.add_done_callback(lambda answer: told.append(("first", answer.result())))
    answer.add_done_callback(
        lambda answer: told.append(("second", (answer.exception() is not None)))
    )
    asked.arrive()
    assert told == [("first", (HASHX, "value", 0.5)), ("second", False)]
    # A callback added after the end is called, too.
    answer.add_done_callback(lambda _answer: told.append("third"))
    await asyncio.sleep(0)
    assert told[2:] == ["third"]
    assert await answer == (HASHX, "value", 0.5)


async def test_a_callback_that_raises_does_not_stop_the_others(asked):
    loop, troubles, told = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _loop, context: troubles.append(str(context["exception"])))
    answer = asked.fetch()

    def fail(_answer):
        raise ValueError("my fault")

    answer.add_done_callback(fail)
    answer.add_done_callback(lambda answer: told.append(answer.result()[1]))
    asked.arrive()
    assert told == ["value"]
    assert troubles == ["my fault"]


async def test_the_awaiting_coroutine_resumes_right_after_the_callbacks(asked):
    answer, order = asked.fetch(), []
    loop = asyncio.get_running_loop()

    def told(_answer):
        order.append("told")
        loop.call_soon(order.append, "what follows")

    answer.add_done_callback(told)

    async def wait():
        await answer
        order.append("went on")

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    loop.call_soon(order.append, "before")
    asked.arrive()
    loop.call_soon(order.append, "after")
    await waiting
    await asyncio.sleep(0)
    assert order == ["before", "told", "went on", "after", "what follows"]


async def test_errors_of_the_read_and_of_the_answer_are_raised(asked):
    answer = asked.fetch()
    asked.arrive(error=OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        await answer

    def refuse(_hashX, _value, _cost):
        raise ValueError("too large")

    answer = asked.fetch(refuse)
    asked.arrive()
    assert answer.exception() is not None
    with pytest.raises(ValueError, match="too large"):
        answer.result()


async def test_an_awaitable_result_is_awaited(asked):
    async def later(value):
        await asyncio.sleep(0)
        if value == "bad":
            raise ValueError(value)
        return value

    for value in ("good", "bad"):
        answer = asked.fetch(lambda _hashX, value, _cost: later(value))
        asked.arrive(value)
        if value == "good":
            assert await answer == "good"
        else:
            with pytest.raises(ValueError, match="bad"):
                await answer


async def test_a_value_is_read_again_if_the_tip_changed(asked):
    answer = asked.fetch()
    asked.db.add_block()
    asked.notify()
    asked.arrive("old")
    assert await answer == (HASHX, "read", 1.0)
    assert len(asked.charged) == 1


@pytest.mark.parametrize("moved", [False, True])
async def test_cancelling_calls_the_callbacks_once_in_the_next_turn(asked, moved):
    answer, told = asked.fetch(), []
    answer.add_done_callback(lambda answer: told.append(answer.exception() is not None))
    if moved:
        asked.db.add_block()
        asked.arrive("old")
    answer.cancel()
    answer.cancel()
    assert told == []
    for _ in range(3):
        await asyncio.sleep(0)
    assert told == [True]
    if not moved:
        asked.arrive()
    assert told == [True]
    with pytest.raises(asyncio.CancelledError):
        answer.result()


async def test_cancelling_the_awaiting_coroutine_cancels_the_reply(asked):
    answer, told = asked.fetch(), []
    answer.add_done_callback(lambda answer: told.append(answer.exception() is not None))

    async def wait():
        await answer

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert told == [True]
