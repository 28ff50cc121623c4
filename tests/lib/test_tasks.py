"""Tasks run together, wait with a time-out and yield in time slices; requests go out in batches."""

import asyncio
import threading

import pytest

from electrumx.lib import tasks
from electrumx.lib.tasks import (
    Batcher,
    TimeSlice,
    for_each,
    run_in_own_thread,
    run_together,
    wait_for_event,
)
from tests.fakes.virtual_time import run_in_virtual_time

BATCH_SIZE = 25
BATCHES = 2
MAX_BATCHES = 6
LATE_SECS = 0.05


async def iterations():
    """Let the event loop run what is scheduled."""
    for _ in range(5):
        await asyncio.sleep(0)


async def result_of(value):
    await asyncio.sleep(0)
    return value


async def test_run_together_returns_results_in_order():
    assert ["a", "b"] == await run_together(result_of("a"), result_of("b"))


async def test_run_together_raises_the_first_error_and_reports_later_ones():
    ended, failures = [], []

    async def fails():
        raise ValueError("first")

    async def fails_when_cancelled():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)
            raise RuntimeError("second")

    with pytest.raises(ValueError, match="first"):
        await run_together(fails_when_cancelled(), fails(), on_failure=failures.append)

    assert ended == [True]
    assert ["second"] == [str(failure) for failure in failures]


async def test_cancelling_run_together_cancels_all_and_waits_for_them():
    ended = []

    async def cleans_up():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    task = asyncio.ensure_future(run_together(cleans_up(), cleans_up()))
    await iterations()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == [True, True]


async def test_cancelling_run_together_raises_the_cancellation_not_a_later_error():
    failures = []

    async def fails_when_cancelled():
        try:
            await asyncio.sleep(3600)
        finally:
            raise RuntimeError("at its end")

    task = asyncio.ensure_future(run_together(fails_when_cancelled(), on_failure=failures.append))
    await iterations()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["at its end"] == [str(failure) for failure in failures]


async def test_run_together_ends_when_a_task_is_cancelled_by_another():
    async def awaits_a_cancelled_future():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(asyncio.CancelledError):
        await run_together(asyncio.sleep(3600), awaits_a_cancelled_future())


def test_waiting_for_an_event_ends_at_the_time_out():
    async def scenario():
        loop = asyncio.get_running_loop()
        was_set = await wait_for_event(asyncio.Event(), 60.0)
        return was_set, loop.time()

    was_set, now = run_in_virtual_time(scenario())

    assert not was_set
    assert now == pytest.approx(60.0)


def test_an_event_that_is_set_for_an_instant_ends_the_wait():
    async def scenario():
        event = asyncio.Event()
        loop = asyncio.get_running_loop()

        def pulse():
            event.set()
            event.clear()

        loop.call_later(1.0, pulse)
        return await wait_for_event(event, 60.0), loop.time()

    was_set, now = run_in_virtual_time(scenario())

    assert was_set
    assert now == pytest.approx(1.0)


async def test_a_cancellation_that_comes_with_the_event_is_raised():
    event = asyncio.Event()
    task = asyncio.ensure_future(wait_for_event(event, 60.0))
    await iterations()
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_waiting_without_a_time_out_lasts_until_the_event():
    event = asyncio.Event()
    task = asyncio.ensure_future(wait_for_event(event, None))
    await iterations()
    assert not task.done()
    event.set()

    assert await task


async def test_a_long_loop_yields_after_each_time_slice(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tasks, "perf_counter", lambda: now[0])
    order = []

    def process(item):
        now[0] += tasks.SLICE_SECS / tasks.SLICE_ITEMS
        order.append(item)

    loop = asyncio.get_running_loop()
    loop.call_soon(order.append, "another task")
    await for_each(range(3 * tasks.SLICE_ITEMS), process)

    items = list(range(3 * tasks.SLICE_ITEMS))
    # A slice is over when its time is exceeded, which is seen at the next look at the clock.
    place = order.index("another task")
    assert place in (tasks.SLICE_ITEMS, 2 * tasks.SLICE_ITEMS)
    assert items == order[:place] + order[place + 1 :]


async def test_a_pause_starts_the_next_time_slice(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tasks, "perf_counter", lambda: now[0])
    time_slice = TimeSlice(1.0)
    now[0] = 1.5
    assert time_slice.is_over()
    await time_slice.pause()

    assert not time_slice.is_over()


async def test_a_call_in_its_own_thread_has_its_result_or_its_error():
    current = await run_in_own_thread(threading.current_thread, "of the test")
    assert current.name == "of the test"
    assert current.daemon

    def exits():
        raise SystemExit("whatever it raises")

    future = run_in_own_thread(exits, "of the test")
    await asyncio.wait([future])
    with pytest.raises(SystemExit, match="whatever it raises"):
        future.result()


async def test_the_outcome_of_a_call_that_is_no_longer_wanted_is_dropped():
    released, reports = threading.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context))
    future = run_in_own_thread(released.wait, "of the test")
    future.cancel()
    released.set()
    for thread in threading.enumerate():
        if thread.name == "of the test":
            thread.join()
    await iterations()
    assert future.cancelled()
    assert reports == []


def test_a_call_in_its_own_thread_may_outlive_the_loop(monkeypatch):
    released, errors = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    threads = []

    def hang():
        threads.append(threading.current_thread())
        released.wait()

    async def start():
        future = run_in_own_thread(hang, "of the test")
        while not threads:
            await asyncio.sleep(0)
        return future

    future = asyncio.run(start())
    released.set()
    threads[0].join()
    assert not future.done()
    assert errors == []


class Server:
    """Replies to batches when ``reply`` is called."""

    def __init__(self):
        self.batches = []
        self.replies = []
        self.batcher = Batcher(
            self.send,
            batch_size=BATCH_SIZE,
            batches=BATCHES,
            max_batches=MAX_BATCHES,
            late_secs=LATE_SECS,
        )

    async def send(self, keys):
        self.batches.append(list(keys))
        reply = asyncio.get_running_loop().create_future()
        self.replies.append(reply)
        return await reply

    def reply(self, number):
        self.replies[number].set_result([f"value {key}" for key in self.batches[number]])


async def test_requests_of_one_loop_iteration_are_one_batch():
    server = Server()
    futures = [server.batcher.get(key) for key in ("a", "b", "a", "c")]
    await iterations()
    assert server.batches == [["a", "b", "c"]]
    server.reply(0)
    assert ["value a", "value b", "value a", "value c"] == await asyncio.gather(*futures)


async def test_requests_are_gathered_while_batches_are_in_flight():
    server = Server()
    futures = []
    for number in range(10):
        futures.append(server.batcher.get(str(number)))
        await iterations()
    assert len(server.batches) == BATCHES
    server.reply(0)
    await iterations()
    assert server.batches[BATCHES] == [str(number) for number in range(BATCHES, 10)]
    for number in range(1, BATCHES + 1):
        server.reply(number)
    assert [f"value {number}" for number in range(10)] == await asyncio.gather(*futures)


async def test_a_key_in_flight_is_sent_again_for_a_later_request():
    server = Server()
    first = server.batcher.get("a")
    await iterations()
    second = server.batcher.get("a")
    await iterations()
    assert server.batches == [["a"], ["a"]]
    server.replies[0].set_result([ValueError("not yet")])
    server.replies[1].set_result(["value a"])
    with pytest.raises(ValueError, match="not yet"):
        await first
    assert "value a" == await second


async def test_the_size_of_batches_is_bounded():
    server = Server()
    futures = [server.batcher.get(str(number)) for number in range(3 * BATCH_SIZE + 1)]
    await iterations()
    for number in range(4):
        server.reply(number)
        await iterations()
    assert [BATCH_SIZE] * 3 + [1] == [len(batch) for batch in server.batches]
    assert [f"value {number}" for number in range(3 * BATCH_SIZE + 1)] == [await f for f in futures]


async def test_a_batch_that_fails_fails_its_own_requests_only():
    server = Server()
    first = server.batcher.get("a")
    await iterations()
    server.replies[0].set_exception(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await first
    second = server.batcher.get("b")
    await iterations()
    server.reply(1)
    assert "value b" == await second


def test_late_batches_do_not_block_others_indefinitely():
    async def scenario():
        server = Server()
        futures = []
        while len(server.batches) < MAX_BATCHES:
            futures.append(server.batcher.get(str(len(futures))))
            await asyncio.sleep(2 * LATE_SECS)
        last = server.batcher.get("last")
        await asyncio.sleep(20 * LATE_SECS)
        assert len(server.batches) == MAX_BATCHES
        for number in range(MAX_BATCHES):
            server.reply(number)
        await iterations()
        server.reply(MAX_BATCHES)
        assert "value last" == await last
        return await asyncio.gather(*futures)

    replies = run_in_virtual_time(scenario())

    assert replies == [f"value {number}" for number in range(len(replies))]
    assert len(replies) >= MAX_BATCHES


async def test_cancelled_requests_are_not_sent():
    server = Server()
    cancelled = server.batcher.get("cancelled")
    kept = server.batcher.get("kept")
    cancelled.cancel()
    await iterations()
    assert server.batches == [["kept"]]
    server.reply(0)
    assert "value kept" == await kept
