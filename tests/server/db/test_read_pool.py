"""Reads are gathered into jobs; long ones and those that met a reorganisation are repeated."""

import asyncio
import logging
import threading

import pytest

from electrumx.server.db import read_pool as reader_module
from electrumx.server.db.read_pool import RACED, TOO_MUCH, ReadPool
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBClosedError, DBReadError


@pytest.fixture
def reader():
    return ReadPool(logging.getLogger("reader"))


async def wait(reading):
    return await reading


async def test_each_read_has_its_own_result_or_error(reader):
    def fail(_bounded):
        raise OSError("disk")

    first, second, third = reader.read(lambda _: 1), reader.read(fail), reader.read(lambda _: 3)
    assert (await first, await third) == (1, 3)
    with pytest.raises(OSError, match="disk"):
        await second
    # Also for a callback added after the end
    assert await first == 1


async def test_reads_of_one_turn_run_in_one_thread_one_after_the_other(reader):
    names = [reader.read(lambda _: threading.current_thread().name) for _ in range(50)]
    assert len({await name for name in names}) == 1


async def test_while_a_job_is_under_way_others_gather(reader, monkeypatch):
    monkeypatch.setattr(reader_module, "OVERDUE_SECS", 60)
    begun, go_on = threading.Event(), threading.Event()

    def block(_bounded):
        begun.set()
        go_on.wait(120)

    blocked = reader.read(block)
    await asyncio.to_thread(begun.wait, 120)
    later = [reader.read(lambda _: threading.get_ident()) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    go_on.set()
    await blocked
    assert len({await thread for thread in later}) == 1


async def test_an_overdue_job_does_not_delay_the_others(reader, monkeypatch):
    monkeypatch.setattr(reader_module, "OVERDUE_SECS", 0.001)
    begun, go_on = threading.Event(), threading.Event()

    def block(_bounded):
        begun.set()
        return go_on.wait(60)

    blocked = reader.read(block)
    await asyncio.to_thread(begun.wait, 120)
    assert "quick" == await asyncio.wait_for(wait(reader.read(lambda _: "quick")), 60)
    go_on.set()
    assert await blocked


async def test_what_is_too_much_is_done_again_apart(reader):
    def read(bounded):
        return TOO_MUCH if bounded else threading.current_thread().name

    assert "large-reads" in await reader.read(read)


async def test_a_read_that_met_a_reorganisation_is_repeated(reader, monkeypatch):
    monkeypatch.setattr(reader_module, "RETRY_SECS", 0.001)
    results = [RACED, RACED, "steady"]
    assert "steady" == await reader.read(lambda _: results.pop(0))


async def test_results_come_by_callback_and_a_bad_one_harms_no_other(reader, caplog):
    told = []
    first, second = reader.read(lambda _: 1), reader.read(lambda _: 2)

    def fail(_reading):
        raise ValueError("my fault")

    first.add_done_callback(fail)
    second.add_done_callback(lambda reading: told.append(reading.result()))
    assert await second == 2
    assert told == [2]
    assert "my fault" in caplog.text


async def test_a_batch_of_reads_is_one_call(reader):
    calls = []

    def double(numbers, bounded):
        calls.append((numbers, bounded))
        return [2 * number for number in numbers]

    def negate(numbers, _bounded):
        return [-number for number in numbers]

    readings = [reader.join(double if n % 2 else negate, n) for n in range(7)]
    alone = reader.read(lambda _: "alone")
    assert [await reading for reading in readings] == [0, 2, -2, 6, -4, 10, -6]
    assert await alone == "alone"
    assert calls == [([1, 3, 5], True)]


async def test_a_read_that_fails_harms_no_other_of_its_batch(reader):
    def invert(numbers, _bounded):
        return [12 // number for number in numbers]

    first, second, third = (reader.join(invert, number) for number in (3, 0, 4))
    assert (await first, await third) == (4, 3)
    with pytest.raises(ZeroDivisionError):
        await second


async def test_a_read_left_out_by_its_batch_does_not_wait_indefinitely(reader):
    def forgetful(numbers, _bounded):
        return numbers[:1]

    readings = [reader.join(forgetful, number) for number in (1, 2, 3)]
    assert [await reading for reading in readings] == [1, 2, 3]


async def test_only_a_read_that_is_too_large_for_its_batch_is_repeated(reader, monkeypatch):
    monkeypatch.setattr(reader_module, "RETRY_SECS", 0.001)
    calls, raced = [], [RACED]

    def read(numbers, bounded):
        calls.append((numbers, bounded))
        if bounded and len(numbers) > 1:
            return [1, TOO_MUCH, raced.pop()]
        return [10 * number + bounded for number in numbers]

    readings = [reader.join(read, number) for number in (1, 2, 3)]
    assert [await reading for reading in readings] == [1, 20, 31]
    assert calls[0] == ([1, 2, 3], True)
    assert sorted(calls[1:]) == [([2], False), ([3], True)]


async def test_reads_that_wait_fail_with_one_typed_error_when_the_database_is_closed(monkeypatch):
    monkeypatch.setattr(reader_module, "OVERDUE_SECS", 600)
    gate = StoreGate()
    reader = ReadPool(logging.getLogger("reader"), gate)
    begun = threading.Event()

    def long_read(_bounded):
        begun.set()
        while True:
            gate.check()

    under_way = reader.read(long_read)
    await asyncio.to_thread(begun.wait, 120)
    waiting = [reader.read(lambda _: "never") for _ in range(100)]

    def close():
        gate.begin_closing()
        with gate.exclusive():
            gate.set_closed()

    await asyncio.to_thread(close)
    for reading in [under_way, *waiting, reader.read(lambda _: "later")]:
        with pytest.raises(DBClosedError):
            await asyncio.wait_for(wait(reading), 60)


async def test_pauses_between_repetitions_grow_and_the_log_has_one_line(
    reader, monkeypatch, caplog
):
    monkeypatch.setattr(reader_module, "RETRY_SECS", 0.0001)
    monkeypatch.setattr(reader_module, "MAX_RETRY_SECS", 0.001)
    with pytest.raises(DBReadError, match="changed for too long"):
        await reader.read(lambda _: RACED)
    assert len(caplog.records) == 1


async def test_a_read_waits_for_a_thread_where_none_can_be_started(reader, monkeypatch, caplog):
    monkeypatch.setattr(reader_module, "THREAD_RETRY_SECS", 0.01)
    failures = [RuntimeError("can't start new thread")] * 3
    start = threading.Thread.start

    def start_later(thread):
        if "small-reads" in thread.name and failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    assert await asyncio.wait_for(wait(reader.read(lambda _: "read")), 60) == "read"
    assert not failures
    assert "too few threads" in caplog.text


async def test_an_error_of_the_disk_is_explained_before_it_is_given():
    def explain(error):
        return DBReadError("explained") if isinstance(error, OSError) else error

    def fail(_bounded):
        raise OSError("disk")

    reader = ReadPool(logging.getLogger("reader"), explain=explain)
    with pytest.raises(DBReadError, match="explained"):
        await reader.read(fail)


async def test_reads_end_even_if_their_errors_cannot_be_explained():
    """Such as for lack of memory."""

    def explain(_error):
        raise MemoryError

    def fail(_bounded):
        raise OSError("disk")

    reader = ReadPool(logging.getLogger("reader"), explain=explain)
    for count in (1, 2):
        for read in [reader.read(fail) for _ in range(count)]:
            with pytest.raises(MemoryError):
                await asyncio.wait_for(wait(read), 60)
    assert await asyncio.wait_for(wait(reader.read(lambda _: "read")), 60) == "read"


def test_a_reader_serves_one_loop_after_another(reader):
    async def read():
        return await reader.read(lambda _: "here")

    assert [asyncio.run(read()), asyncio.run(read())] == ["here", "here"]
