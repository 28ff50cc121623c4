"""A future of low overhead gives its result at once, to all who wait, whatever they do."""

import asyncio

import pytest

from electrumx.lib.tasks import DerivedFuture, EagerFuture


def recorder(calls, name="called"):
    def callback(future):
        calls.append((name, future.exception() or future.result()))

    return callback


async def test_callbacks_run_at_once_in_the_order_of_registration():
    future, calls = EagerFuture(), []
    future.add_done_callback(recorder(calls, "first"))
    future.add_done_callback(recorder(calls, "second"))

    future.end(7)

    assert calls == [("first", 7), ("second", 7)]
    assert future.done()
    assert not future.cancelled()


async def test_a_callback_added_after_the_end_runs_in_the_next_turn():
    future, calls = EagerFuture(), []
    future.end(7)
    future.add_done_callback(recorder(calls))

    assert calls == []
    await asyncio.sleep(0)
    assert calls == [("called", 7)]


async def test_a_callback_that_raises_is_reported_and_stops_no_other():
    future, calls, reported = EagerFuture(), [], []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: reported.append(context["exception"])
    )
    future.add_done_callback(lambda _future: 1 / 0)
    future.add_done_callback(recorder(calls))

    future.end(7)

    assert calls == [("called", 7)]
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_the_first_result_stays():
    future, calls = EagerFuture(), []
    future.add_done_callback(recorder(calls))

    future.end(1)
    future.end(None, ValueError())

    assert (calls, future.result(), future.exception()) == ([("called", 1)], 1, None)


async def test_several_tasks_await_one_result():
    future = EagerFuture()

    async def wait():
        return await future

    tasks = [asyncio.ensure_future(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    future.end(7)

    assert await asyncio.gather(*tasks) == [7, 7, 7]
    assert await future == 7


async def test_awaiting_raises_the_error():
    future = EagerFuture()
    asyncio.get_running_loop().call_soon(future.end, None, ValueError("no"))

    with pytest.raises(ValueError, match="no"):
        await future
    assert not future.cancelled()


async def cancelled_waiter(future):
    """Return a task that awaited a future and has been cancelled."""

    async def wait():
        return await future

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task


async def test_a_cancelled_waiter_does_not_end_the_future():
    future = EagerFuture()
    await cancelled_waiter(future)

    assert not future.done()
    future.end(7)
    assert future.result() == 7


async def test_an_end_by_cancellation_is_distinguished():
    future = EagerFuture()
    future.end(None, asyncio.CancelledError())

    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError):
        future.result()


def derived():
    """Return a future of asyncio, and one of its result plus one."""
    source = asyncio.get_running_loop().create_future()
    return source, DerivedFuture(source, lambda ended: ended.result() + 1)


async def test_a_derived_future_is_awaited():
    source, future = derived()
    asyncio.get_running_loop().call_soon(source.set_result, 6)
    assert await future == 7
    assert await future == 7


async def test_a_derived_future_calls_back():
    (source, future), calls = derived(), []
    future.add_done_callback(recorder(calls))
    source.set_result(6)
    await asyncio.sleep(0)
    assert calls == [("called", 7)]


@pytest.mark.parametrize("error", [ValueError("no"), None])
async def test_the_error_of_a_source_or_of_its_function_is_raised(error):
    source, future = derived()
    if error is None:
        source.set_result("text")
    else:
        source.set_exception(error)
    with pytest.raises(TypeError if error is None else ValueError):
        await future
    assert not future.cancelled()


async def test_cancelling_a_derived_future_cancels_the_source():
    (source, future), calls = derived(), []
    future.add_done_callback(lambda ended: calls.append(ended.cancelled()))
    future.cancel()
    assert source.cancelled()
    await asyncio.sleep(0)
    assert calls == [True]
    future.cancel()


async def test_cancelling_a_coroutine_that_awaits_it_cancels_the_source():
    source, future = derived()
    task = await cancelled_waiter(future)
    assert task.cancelled()
    assert source.cancelled()
    await asyncio.sleep(0)
    assert future.cancelled()
