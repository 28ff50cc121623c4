"""Each job wakes one thread, and threads end when nothing needs them."""

import gc
import queue
import subprocess
import sys
import threading

import pytest

from electrumx.server.db.reader_threads import ReaderThreads


class Blocked:
    """Jobs that go on when they are let go."""

    def __init__(self, threads, count):
        self.begun, self.go_on = queue.SimpleQueue(), threading.Event()
        for _ in range(count):
            threads.submit(self._block)

    def _block(self):
        self.begun.put(threading.current_thread())
        self.go_on.wait(120)

    def workers(self, count):
        return {self.begun.get(timeout=120) for _ in range(count)}


def name_of_a_job(threads):
    found = queue.SimpleQueue()
    threads.submit(lambda: found.put(threading.current_thread().name))
    return found.get(timeout=120)


def wait_idle(threads, count):
    """Wait until so many threads are idle."""
    while True:
        if len(threads.idle()) == count:
            return


def test_jobs_run_in_at_most_so_many_threads_and_the_rest_is_queued():
    threads = ReaderThreads(3, "reads")
    blocked = Blocked(threads, 5)
    assert len(blocked.workers(3)) == 3
    assert blocked.begun.empty()
    blocked.go_on.set()
    blocked.workers(2)


def test_a_job_wakes_only_the_thread_that_became_idle_last():
    threads = ReaderThreads(3, "reads")
    blocked = Blocked(threads, 3)
    workers = blocked.workers(3)
    blocked.go_on.set()
    wait_idle(threads, 3)
    last = threads.idle()[-1]
    others = {worker: worker._woken for worker in workers - {last}}
    for _ in range(20):
        assert name_of_a_job(threads) == last.name
        wait_idle(threads, 3)
        assert threads.idle()[-1] is last
    assert all(lock.locked() for lock in others.values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_a_job_that_fails_is_logged_and_harms_no_other(caplog, error):
    def fail():
        raise error

    threads = ReaderThreads(1, "reads")
    threads.submit(fail)
    assert name_of_a_job(threads) == "reads_0"
    assert error.__name__ in caplog.text


def test_a_job_for_which_no_thread_can_be_started_runs_once_one_can(monkeypatch):
    threads = ReaderThreads(2, "reads")
    done = threading.Event()

    def fail(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            threads.submit(done.set)
        with pytest.raises(RuntimeError):
            threads.start_thread()
    threads.start_thread()
    assert done.wait(120)
    wait_idle(threads, 1)
    threads.start_thread()
    wait_idle(threads, 1)


def test_threads_end_with_the_object():
    threads = ReaderThreads(2, "reads")
    blocked = Blocked(threads, 2)
    idle, busy = workers = blocked.workers(2)
    del threads
    gc.collect()
    blocked.go_on.set()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive()
    assert idle is not busy


def test_the_end_of_the_process_waits_for_jobs_and_for_no_idle_thread():
    program = (
        "import threading, time\n"
        "from electrumx.server.db.reader_threads import ReaderThreads\n"
        "threads = ReaderThreads(2, 'reads')\n"
        "begun = threading.Event()\n"
        "def job():\n"
        "    begun.set()\n"
        "    time.sleep(0.05)\n"
        "    print('done')\n"
        "threads.submit(int)\n"
        "threads.submit(job)\n"
        "begun.wait(60)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "done\n"
