"""When the unflushed state is written, and which steps run concurrently; over stubs."""

import asyncio
import logging
import threading
from types import SimpleNamespace

import pytest

from electrumx.server.block_processor.flush_scheduler import FlushScheduler

MB = 1_000_000


class StubProgress:
    logger = logging.getLogger("progress")

    def estimate_txs_remaining(self):
        return 0.0

    def log_cache(self, use):
        self.use = use

    def log_progress(self, _cache_use):
        pass


class StubCompiled:
    """The Cython implementation as far as its size is asked for."""

    BYTES_PER_UTXO = 120
    utxos, deletes, history = 0, 0, 0

    def pending_rows(self):
        return self.utxos, self.deletes

    def memsize(self):
        return 72 * self.utxos

    def history_memsize(self):
        return self.history


class StubState:
    BYTES_PER_BLOCK = 250

    def __init__(self, compiled):
        self.lock = asyncio.Lock()
        self.compiled = compiled
        self.caught_up = False
        self.height, self.tx_count, self.undo_bytes = 10, 100, 0
        self.utxo_cache = SimpleNamespace(adds={}, deletes=set(), memsize=lambda: 0)
        self.frozen = []

    def flush_data(self):
        return f"all up to {self.height}"

    def freeze(self, flush_utxos, keep_bytes):
        self.frozen.append((flush_utxos, keep_bytes))
        return f"frozen at {self.height}"

    def note_flushed(self):
        self.noted = True


class StubDB:
    """Notes flushes; a flush waits for ``may_write`` and raises ``error``."""

    must_flush_utxos = False
    fs_tx_count, fs_height = 100, 10

    def __init__(self):
        self.history = SimpleNamespace(unflushed_memsize=lambda: 0)
        self.flushed = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.error = None
        self.is_closed = False

    def flush_dbs(self, flush_data, flush_utxos, _estimate):
        assert self.may_write.wait(120)
        if self.error:
            raise self.error
        self.flushed.append((flush_data, flush_utxos))

    def end_bulk_load_if_large(self):
        pass

    def raise_explained(self, error):
        raise error

    def close_dbs(self):
        self.is_closed = True


@pytest.fixture
async def db():
    return StubDB()


@pytest.fixture
async def state():
    return StubState(StubCompiled())


@pytest.fixture
async def scheduler(state, db):
    return FlushScheduler(state, db, 10 * MB, StubProgress())


def fill(state):
    """Have so many new UTXOs that they are to be flushed."""
    state.compiled.utxos = 60_000


async def test_nothing_is_flushed_while_the_caches_are_small(scheduler, db):
    await scheduler.flush_if_due()
    assert scheduler.due() is None
    assert db.flushed == []


async def test_once_caught_up_everything_is_flushed_every_time(scheduler, state, db):
    state.caught_up = True
    await scheduler.flush_if_due()
    await scheduler.flush_if_due()
    assert db.flushed == [("all up to 10", True)] * 2
    assert scheduler.flushed_event.is_set()
    assert state.noted


async def test_while_clients_are_served_an_index_that_is_behind_is_committed_at_intervals(
    scheduler, state, db
):
    scheduler.commit_secs = 1_000_000.0
    await scheduler.flush_if_due()
    await scheduler.flush_if_due()
    assert db.flushed == [("all up to 10", True)]
    # Also when the caches are full, and never beside indexing: the tip is to be reported.
    fill(state)
    await scheduler.flush_if_due()
    assert db.flushed == [("all up to 10", True)] * 2
    assert state.frozen == []
    scheduler.commit_secs = 0.0
    state.compiled.utxos = 0
    await scheduler.flush_if_due()
    assert len(db.flushed) == 3


async def test_the_cache_includes_what_a_flush_takes(scheduler, state):
    state.compiled.utxos, state.compiled.deletes, state.compiled.history = 1_000, 10, 77
    state.tx_count, state.height, state.undo_bytes = 110, 12, 5
    use = scheduler.cache_use()
    flushing = 1_000 * 180 + 2 * 10 * 60 + 5
    assert use.utxos == 72_000 + flushing
    assert use.unwritten == 120_000 + flushing
    assert use.history == 77 + 10 * 32 + 2 * 250


async def test_the_pure_python_implementation_flushes_before_more_is_indexed(state, db):
    state.compiled = None
    state.utxo_cache = SimpleNamespace(
        adds=range(60_000), deletes=set(), memsize=lambda: 60_000 * 205
    )
    await FlushScheduler(state, db, 10 * MB, StubProgress()).flush_if_due()
    assert db.flushed == [("all up to 10", True)]
    assert state.frozen == []


async def test_history_alone_is_flushed_when_utxos_are_few(scheduler, state, db):
    state.compiled.history = 6 * MB
    await scheduler.flush_if_due()
    await scheduler.run_locked(lambda: None)
    assert db.flushed == [("frozen at 10", False)]


async def test_blocks_are_indexed_while_frozen_data_is_written(scheduler, state, db):
    fill(state)
    db.may_write.clear()
    await scheduler.flush_if_due()
    assert state.frozen == [(True, 10 * MB // 3)]
    assert not state.lock.locked()
    state.compiled.utxos = 0

    await scheduler.run_beside_flush(lambda: setattr(state, "height", 11))

    assert (state.height, db.flushed) == (11, [])
    changing = asyncio.ensure_future(scheduler.run_locked(lambda: list(db.flushed)))
    db.may_write.set()
    assert await changing == [("frozen at 10", True)]
    assert scheduler.flushed_event.is_set()


async def test_there_is_one_flush_at_a_time(scheduler, state, db):
    fill(state)
    db.may_write.clear()
    await scheduler.flush_if_due()
    state.height = 20
    second = asyncio.ensure_future(scheduler.flush_if_due())
    await asyncio.sleep(0)
    assert len(state.frozen) == 1
    db.may_write.set()
    await second
    await scheduler.run_locked(lambda: None)
    assert db.flushed == [("frozen at 10", True), ("frozen at 20", True)]


async def test_the_last_history_flushes_are_not_made_beside_indexing(scheduler, state, db):
    fill(state)
    db.must_flush_utxos = True
    await scheduler.flush_if_due()
    assert (db.flushed, state.frozen) == ([("all up to 10", True)], [])


async def test_after_a_change_that_failed_nothing_is_flushed(scheduler, db, caplog):
    def fail():
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        await scheduler.run_locked(fail)
    assert scheduler.broken
    assert await scheduler.flush_at_shutdown(False) is None
    assert db.flushed == []
    assert "not flushing" in caplog.text


async def test_an_error_of_the_flush_beside_indexing_is_raised_by_the_next_change(
    scheduler, state, db
):
    fill(state)
    db.error = OSError("disk full")
    await scheduler.flush_if_due()
    with pytest.raises(OSError, match="disk full"):
        await scheduler.run_locked(lambda: None)
    assert scheduler.broken


async def test_a_shutdown_returns_the_error_of_the_flush_beside_indexing(scheduler, state, db):
    fill(state)
    db.error = OSError("disk full")
    await scheduler.flush_if_due()
    assert await scheduler.flush_at_shutdown(False) is db.error
    assert db.flushed == []


async def test_a_shutdown_flushes_everything_unless_a_task_failed(scheduler, db):
    assert await scheduler.flush_at_shutdown(True) is None
    assert db.flushed == []
    assert await scheduler.flush_at_shutdown(False) is None
    assert db.flushed == [("all up to 10", True)]


async def test_if_the_disk_fails_at_shutdown_the_database_is_closed_first(scheduler, db):
    db.error = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await scheduler.flush_at_shutdown(False)
    assert db.is_closed


async def test_a_change_goes_on_when_its_caller_is_cancelled(scheduler, state):
    begun, may_end, done = threading.Event(), threading.Event(), []

    def change():
        begun.set()
        assert may_end.wait(120)
        done.append(True)

    caller = asyncio.ensure_future(scheduler.run_locked(change))
    assert await asyncio.to_thread(begun.wait, 120)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert state.lock.locked()
    may_end.set()
    async with state.lock:
        assert done
