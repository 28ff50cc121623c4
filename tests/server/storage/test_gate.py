"""Reads of a store are admitted by a gate, which closing and reopening it drain."""

import os
import random
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.storage.gate import CHECK_ROWS, StoreGate
from electrumx.server.storage.schema import DBClosedError
from tests.conftest import REPOSITORY

#: for an event that should happen at once, on a busy machine
SECS = 120


def in_thread(function):
    """Run a function in a thread; it, and a list of the result or error it will have."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except Exception as e:
            outcome.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def ended(thread):
    thread.join(SECS)
    return not thread.is_alive()


def close(gate, store=None):
    gate.begin_closing()
    with gate.exclusive():
        if store is not None:
            store.close()
        gate.set_closed()


def wait_for_owner(gate):
    """Wait until a thread waits for exclusive access."""
    for _ in range(SECS * 1000):
        if gate.waiting:
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody waits for exclusive access")


def test_closing_waits_for_the_reads_under_way():
    gate = StoreGate()
    gate.enter()
    thread, _outcome = in_thread(lambda: close(gate))
    wait_for_owner(gate)
    assert thread.is_alive()
    gate.leave()
    assert ended(thread)


def test_a_read_of_a_closed_store_fails_with_one_typed_error():
    gate = StoreGate()
    close(gate)
    with pytest.raises(DBClosedError, match="the database is closed"), gate.reading():
        pass
    with pytest.raises(DBClosedError):
        StoreGate(is_open=False).enter()
    gate.set_open()
    with gate.reading():
        pass


def test_a_long_iteration_ends_when_the_store_is_to_be_closed():
    gate = StoreGate()
    begun, taken = threading.Event(), 0

    def endless():
        nonlocal taken
        while True:
            begun.set()
            taken += 1
            yield b"row"

    def read():
        with gate.reading():
            return gate.rows(endless())

    thread, outcome = in_thread(read)
    assert begun.wait(SECS)
    gate.begin_closing()
    assert ended(thread)
    assert isinstance(outcome[0], DBClosedError)
    assert taken % CHECK_ROWS == 0
    close(gate)


def test_all_rows_are_returned_while_the_gate_is_open():
    assert StoreGate().rows(range(2 * CHECK_ROWS + 1)) == list(range(2 * CHECK_ROWS + 1))


def test_a_read_that_comes_while_the_store_is_reopened_waits():
    gate = StoreGate()
    with gate.exclusive():
        thread, outcome = in_thread(lambda: gate.enter() or gate.leave() or "read")
        assert not outcome
    assert ended(thread)
    assert outcome == ["read"]


def test_a_read_that_waits_for_a_reopening_fails_when_the_store_is_closed_instead():
    gate = StoreGate()
    with gate.exclusive():
        thread, outcome = in_thread(gate.enter)
        gate.begin_closing()
        assert ended(thread)
    assert isinstance(outcome[0], DBClosedError)


def test_a_nested_read_is_admitted_while_a_thread_waits_for_its_end():
    gate = StoreGate()
    with gate.reading():
        thread, _outcome = in_thread(lambda: close(gate))
        wait_for_owner(gate)
        with gate.reading():
            pass
        assert thread.is_alive()
    assert ended(thread)


def test_who_reopens_a_store_may_read_it():
    gate = StoreGate(is_open=False)
    with gate.exclusive(), gate.exclusive(), gate.reading():
        gate.check()


def test_a_read_that_would_close_the_store_itself_is_a_bug():
    gate = StoreGate()
    with gate.reading(), pytest.raises(AssertionError, match="cannot close"), gate.exclusive():
        pass


def test_each_exclusive_section_is_another_generation():
    gate = StoreGate()
    before = gate.generation
    with gate.exclusive(), gate.exclusive():
        pass
    assert gate.generation == before + 1


class CheckedStore:
    """Notes whether it was touched while closed, as an engine would crash."""

    def __init__(self):
        self.closed = False
        self.faults = []
        self.inside = 0
        self.lock = threading.Lock()

    def step(self):
        if self.closed:
            self.faults.append("read while closed")

    def read(self, gate, rows, pause):
        with gate.reading():
            self.step()
            for n in range(rows):
                self.step()
                pause()
                if n % 3 == 0:
                    gate.check()
            if rows % 2:
                with gate.reading():
                    self.step()

    def close(self):
        self.closed = True


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_whatever_the_order_no_read_touches_a_closed_store(seed, readers, reopenings):
    gate, store = StoreGate(), CheckedStore()
    choose = random.Random(seed)
    pauses = [choose.random() < 0.2 for _ in range(64)]

    def pause():
        if pauses[choose.randrange(64)]:
            threading.Event().wait(0)

    def read_on(rows):
        while True:
            store.read(gate, rows, pause)

    threads = [in_thread(lambda rows=rows: read_on(rows)) for rows in readers]
    for _ in range(reopenings):
        pause()
        with gate.exclusive():
            store.closed = True
            pause()
            store.closed = False
    close(gate, store)
    for thread, outcome in threads:
        assert ended(thread)
        assert isinstance(outcome[0], DBClosedError)
    assert store.faults == []


PROGRAM = """
import sys, threading
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import DBClosedError
from electrumx.server.storage import db_class

engine, folder = sys.argv[1:]
store = db_class(engine)(folder, False)
with store.write_batch() as batch:
    for n in range(100_000):
        batch.put(b"u%08d" % n, b"value")
gate = StoreGate()
reading = threading.Barrier(5)

def read():
    started = False
    try:
        while True:
            with gate.reading():
                iterator = store.iterator(prefix=b"u")
                next(iterator)
                if not started:
                    started = True
                    reading.wait()
                gate.rows(iterator)
    except DBClosedError:
        pass

threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
reading.wait()
gate.begin_closing()
with gate.exclusive():
    store.close()
    gate.set_closed()
for thread in threads:
    thread.join()
store = db_class(engine)(folder, False)
print(sum(1 for _row in store.iterator(prefix=b"u")))
store.close()
"""


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_a_store_that_is_closed_while_threads_iterate_over_it_harms_no_process(engine, tmp_path):
    if engine == "rocksdb":
        pytest.importorskip("rocksdict")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, engine, str(tmp_path / "store")],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stdout) == (0, "100000\n"), done.stderr
