"""A pytest plugin that makes races likely: ``pytest -p tests.races tests/server``.

Each test is run with some of these disturbances, chosen by RACES_SEED (the environment; any text) and
the name of the test, so that a failure can be repeated:

- work in threads begins late, and its end is noticed late
- sockets that are ready are seen some iterations of the event loop later, in another order
- the event loop pauses, as where the system runs another process
- a lock is held for some iterations longer
- files are replaced, and writes reach the disk, slowly
- the scripted node takes a moment to answer
- threads take turns very often, or seldom

All of that may happen on a machine that is busy.  A test that fails under it races, or the server.
"""

import asyncio
import functools
import os
import random
import sys
import time
from asyncio import base_events, selector_events
from concurrent.futures import ThreadPoolExecutor

import pytest

from electrumx.server.db.reader_threads import ReaderThreads
from tests.fakes.world import ScriptedDaemon

SEED = os.environ.get("RACES_SEED", "1")
KINDS = ("late start", "late end", "sockets", "pauses", "locks", "files", "node", "turns")
#: seconds
LONG_SECS, SHORT_SECS = 0.05, 0.012

_random = random.Random()
#: the disturbances of the test that is running
_active = set()


def _lag(share=0.5):
    """Seconds to wait: mostly none or few."""
    chosen = _random.random()
    if chosen > share:
        return 0.0
    return _random.random() * (LONG_SECS if chosen < share / 10 else SHORT_SECS)


def _disturb_threads(submit):
    @functools.wraps(submit)
    def disturbed(self, func, /, *args, **kwargs):
        def run():
            if "late start" in _active:
                time.sleep(_lag())
            try:
                return func(*args, **kwargs)
            finally:
                if "late end" in _active:
                    time.sleep(_lag())

        return submit(self, run)

    return disturbed


def _disturb_sockets(process_events):
    @functools.wraps(process_events)
    def disturbed(self, events):
        if "sockets" in _active and events:
            # Those left out are still ready the next time.
            events = [event for event in events if _random.random() > 0.3]
            _random.shuffle(events)
        return process_events(self, events)

    return disturbed


def _disturb_loop(run_once):
    @functools.wraps(run_once)
    def disturbed(self):
        if "pauses" in _active and _random.random() < 0.02:
            time.sleep(_random.random() * 0.03)
        return run_once(self)

    return disturbed


def _disturb_locks(acquire):
    @functools.wraps(acquire)
    async def disturbed(self):
        await acquire(self)
        if "locks" in _active:
            try:
                for _ in range(_random.choice((0, 0, 1, 2, 5, 20))):
                    await asyncio.sleep(0)
            except BaseException:
                self.release()
                raise
        return True

    return disturbed


def _disturb_files(call):
    @functools.wraps(call)
    def disturbed(*args, **kwargs):
        if "files" in _active:
            time.sleep(_lag(0.3))
        return call(*args, **kwargs)

    return disturbed


def _disturb_node(call):
    @functools.wraps(call)
    async def disturbed(*args, **kwargs):
        if "node" in _active:
            await asyncio.sleep(_lag())
        result = await call(*args, **kwargs)
        if "node" in _active:
            await asyncio.sleep(_lag())
        return result

    return disturbed


DISTURBED = (
    (ThreadPoolExecutor, "submit", _disturb_threads),
    (ReaderThreads, "submit", _disturb_threads),
    (selector_events.BaseSelectorEventLoop, "_process_events", _disturb_sockets),
    (base_events.BaseEventLoop, "_run_once", _disturb_loop),
    (asyncio.Lock, "acquire", _disturb_locks),
    *((os, name, _disturb_files) for name in ("fsync", "fdatasync", "replace", "rename")),
    *(
        (ScriptedDaemon, name, _disturb_node)
        for name in ("height", "block_hex_hashes", "raw_blocks", "sync_target")
    ),
)


def pytest_configure():
    for owner, name, disturb in DISTURBED:
        setattr(owner, name, disturb(getattr(owner, name)))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    _random.seed(SEED + item.nodeid)
    _active.update(kind for kind in KINDS if _random.random() < 0.6)
    interval = sys.getswitchinterval()
    if "turns" in _active:
        sys.setswitchinterval(_random.choice((1e-5, 1e-4, 0.03)))
    item.add_report_section("call", "races", f"RACES_SEED={SEED}: {', '.join(sorted(_active))}")
    yield
    sys.setswitchinterval(interval)
    _active.clear()
