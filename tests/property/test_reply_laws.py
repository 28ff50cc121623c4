"""Every request is answered once and gives its slot back, after delays and time-outs too."""

import asyncio
import json
import selectors
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.method_registry import rpc_method
from tests.property.test_session_laws import LIMITS, Handlers, Sent, Session

TIMEOUT_SECS = 1.0


class LateSelector(selectors.DefaultSelector):
    """Advances a simulated clock instead of waiting, plus one lag per iteration of the loop.

    The clock stands still while a thread runs, which takes real time.
    """

    now = 0.0
    lags = ()
    threads = 0

    def select(self, timeout=None):
        waits = timeout is None or timeout > 0
        if waits and self.threads:
            # The thread wakes the loop when it is done.
            return super().select(None)
        if timeout:
            self.now += timeout
        if self.lags:
            self.now += self.lags[0]
            self.lags = self.lags[1:]
        return super().select(None if timeout is None else 0)


class LateLoop(asyncio.SelectorEventLoop):
    def __init__(self, lags):
        self.selector = LateSelector()
        self.selector.lags = lags
        super().__init__(self.selector)

    def time(self):
        return self.selector.now

    def run_in_executor(self, executor, function, *args):
        future = super().run_in_executor(executor, function, *args)
        self.selector.threads += 1
        future.add_done_callback(self._on_thread_done)
        return future

    def _on_thread_done(self, _future):
        self.selector.threads -= 1


SLOW_LIMITS = replace(LIMITS, processing_timeout=TIMEOUT_SECS, cost_sleep=0.5)


class SlowHandlers(Handlers):
    """Handlers that wait for so many seconds, in all ways a handler may wait."""

    @rpc_method("sleeps")
    async def sleeps(self, secs, result=None):
        await asyncio.sleep(secs)
        return result

    @rpc_method("future")
    def future(self, secs):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(secs, lambda: future.done() or future.set_result("result"))
        return future

    @rpc_method("large")
    async def large(self, secs):
        await asyncio.sleep(secs)
        return EncodedJSON(b"[" + b"1," * 40_000 + b"1]")

    @rpc_method("many")
    def many(self, secs):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(secs, lambda: future.done() or future.set_result([0] * 3_000))
        return future

    @rpc_method("cancelled")
    async def cancelled(self, secs):
        await asyncio.sleep(secs)
        # As of a shared read that another caller has cancelled
        raise asyncio.CancelledError

    @rpc_method("cancelled.future")
    def cancelled_future(self, secs):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(secs, future.cancel)
        return future


SECONDS = st.sampled_from([0, 0.1, 0.5, 0.999, 1.0, 1.001, 5])
METHODS = ["sleeps", "future", "large", "many", "cancelled", "cancelled.future", "none"]
CALLS = st.tuples(st.sampled_from(METHODS), SECONDS)
ARRIVALS = st.lists(st.tuples(SECONDS, st.lists(CALLS, max_size=6)), max_size=4)
# One of each kind
MIXED = [
    ("many", 0.1),
    ("none", 1.001),
    ("many", 1.001),
    ("sleeps", 0.5),
    ("cancelled.future", 1.0),
    ("future", 1.001),
]


async def _answered(session, arrivals, batched):
    """Return the ids of requests and of replies, in order, when all has come to an end."""
    asked = []
    for pause, calls in arrivals:
        await asyncio.sleep(pause)
        messages = []
        for method, secs in calls:
            asked.append(len(asked))
            params = [] if method == "none" else [secs]
            messages.append({"jsonrpc": "2.0", "id": asked[-1], "method": method, "params": params})
        if batched and messages:
            messages = [messages]
        session.receiver.receive([json.dumps(message).encode() for message in messages])
    turns = 0
    while session.is_busy():
        await asyncio.sleep(0.2)
        turns += 1
        assert turns < 500, "a request holds its slot"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answered = []
    for message in session.transport.messages:
        reply = json.loads(message)
        answered += [part["id"] for part in reply] if isinstance(reply, list) else [reply["id"]]
    return asked, sorted(answered)


@settings(deadline=None, max_examples=300)
@given(
    arrivals=ARRIVALS,
    lags=st.lists(st.sampled_from([0, 0, 0.001, 0.3, 1.0]), max_size=30),
    slots=st.integers(1, 3),
    throttled=st.booleans(),
    batched=st.booleans(),
)
@example(
    arrivals=[(0, [("sleeps", 0.999)]), (0.1, [("sleeps", 5)] * 3)],
    lags=[0] * 4 + [1.0],
    slots=1,
    throttled=False,
    batched=False,
)
@example(
    arrivals=[
        (0.999, MIXED),
        (5, [("large", 0), ("cancelled", 5), ("large", 1.001)]),
        (0.999, MIXED),
    ],
    lags=[0, 1.0, 0.001],
    slots=2,
    throttled=False,
    batched=True,
)
def test_each_request_is_answered_once_and_its_slot_freed(
    arrivals, lags, slots, throttled, batched
):
    loop = LateLoop(lags)
    try:

        async def converse():
            session = Session(Sent(), handlers=SlowHandlers, limits=SLOW_LIMITS)
            session.account.concurrency_target = slots
            if throttled:
                session.account.cost_fraction = 0.5
            return await _answered(session, arrivals, batched)

        asked, answered = loop.run_until_complete(converse())
        assert asked == answered
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
