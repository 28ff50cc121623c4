"""The tasks that compact history rows and the engine's tables while the server serves."""

import asyncio
import logging
import threading

import pytest

from electrumx.server.block_processor.compaction_tasks import (
    EngineCompactionTask,
    RowCompactionTask,
)


class StubPass:
    """A compaction of so many slices; the first is refused until history was flushed."""

    def __init__(self, slices):
        self.slices = slices
        self.written = 0
        self.has_work = True
        self.refused = 0

    @property
    def done(self):
        return self.written == self.slices

    def prepare(self):
        pass

    def write(self):
        if not self.refused:
            self.refused += 1
            return False
        self.written += 1
        return True


class StubDB:
    def __init__(self):
        self.passes = []
        self.due = False
        self.merging, self.may_end = threading.Event(), threading.Event()
        self.merged = self.recorded = self.stopped = False
        self.error = None

    @property
    def compaction_due(self):
        return self.due and not any(not one.done for one in self.passes)

    def begin_compaction(self):
        self.due = False
        self.passes.append(StubPass(3))
        return self.passes[-1]

    def compact_tables(self):
        self.merging.set()
        assert self.may_end.wait(120)
        if self.error:
            raise self.error
        self.merged = not self.stopped
        return self.merged

    def stop_table_compaction(self):
        self.stopped = True
        self.may_end.set()

    def write_compacted(self):
        self.recorded = True


class StubFlusher:
    def __init__(self):
        self.flushed_event = asyncio.Event()

    async def run_locked(self, func, *args):
        return func(*args)


async def until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 120)


async def test_rows_are_compacted_after_a_flush_when_that_is_due():
    db, flusher = StubDB(), StubFlusher()
    task = asyncio.ensure_future(RowCompactionTask(db, flusher).run())
    await asyncio.sleep(0)
    assert db.passes == []
    db.due = True
    flusher.flushed_event.set()
    await until(lambda: db.passes and db.passes[0].refused)
    # History was flushed without its UTXOs: the next flush lets it continue.
    assert db.passes[0].written == 0
    flusher.flushed_event.set()
    await until(lambda: db.passes[0].done)
    task.cancel()
    await asyncio.wait([task])
    assert len(db.passes) == 1


@pytest.fixture
async def db():
    return StubDB()


async def test_the_end_of_an_engine_compaction_is_recorded_under_the_lock(db):
    lock = asyncio.Lock()
    task = EngineCompactionTask(db, lock, logging.getLogger("engine"))
    assert not task.done
    async with lock:
        task.start()
        db.may_end.set()
        await until(lambda: db.merged)
        assert not task.done
        assert not db.recorded
    await until(lambda: task.done)
    assert db.recorded


async def test_an_engine_compaction_that_fails_is_logged(db, caplog):
    task = EngineCompactionTask(db, asyncio.Lock(), logging.getLogger("engine"))
    db.error = OSError("no space left")
    db.may_end.set()
    task.start()
    await until(lambda: task.done)
    assert "could not compact tables" in caplog.text
    assert not db.recorded


async def test_stopping_waits_for_the_end_and_stops_it_after_the_grace_time(db):
    task = EngineCompactionTask(db, asyncio.Lock(), logging.getLogger("engine"))
    task.GRACE_SECS = 0.0
    task.start()
    await asyncio.to_thread(db.merging.wait, 120)
    await task.stop()
    assert task.done
    assert db.stopped
    assert not db.recorded


async def test_stopping_without_a_compaction_does_nothing(db):
    task = EngineCompactionTask(db, asyncio.Lock(), logging.getLogger("engine"))
    await task.stop()
    assert not db.stopped
