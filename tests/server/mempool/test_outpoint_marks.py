"""Which watched outpoints the mempool marks when a transaction comes or goes, and how often it looks."""

import time
import tracemalloc

import pytest

from electrumx.server.mempool.index import MemPoolIndex, MemPoolTx
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.session.notify.outpoints import OutpointSubscriptions
from electrumx.server.session.shared.outpoint_cache import OutpointCache
from electrumx.server.session.shared.outpoint_status import OutpointStatuses

PARENT, CHILD, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))
SCRIPT = (bytes(11), 1)


def transaction(prevouts, outputs):
    prevouts = tuple(prevouts)
    return MemPoolTx(prevouts, (SCRIPT,) * len(prevouts), (SCRIPT,) * outputs, 10, 100)


@pytest.fixture
def index():
    """A mempool in which CHILD spends 300 outputs of PARENT, and an output of OTHER is watched."""
    index = MemPoolIndex()
    prevouts = [(PARENT, n) for n in range(300)]
    index.add_tx(CHILD, transaction([*prevouts, (OTHER, 5)], 1), set())
    index.watch.add((OTHER, 5))
    return index


def test_what_a_child_spends_is_marked_when_its_parent_comes_or_goes(index):
    index.add_tx(PARENT, transaction([], 300), set())
    assert {(OTHER, 5)} == index.watch.take()[0]
    index.remove_tx(PARENT, set())
    assert {(OTHER, 5)} == index.watch.take()[0]


def test_a_child_that_spends_many_outputs_of_a_parent_is_looked_at_once(index, monkeypatch):
    looked_at = []
    touch_tx = index.watch.touch_tx

    def noted(tx_hash, prevouts):
        looked_at.append(tx_hash)
        touch_tx(tx_hash, prevouts)

    monkeypatch.setattr(index.watch, "touch_tx", noted)
    index.add_tx(PARENT, transaction([], 300), set())
    assert [PARENT, CHILD] == looked_at


def test_all_are_marked_at_once_whatever_their_number():
    watch = OutpointWatch()
    for n in range(20_000):
        watch.add((n.to_bytes(32, "big"), 0))
    took = []
    for _ in range(10):
        started = time.thread_time()
        watch.touch_all()
        took.append(time.thread_time() - started)
    # Of the quickest: other work of the machine makes some slower.
    assert min(took) < 0.002
    assert (set(), True) == watch.take()
    assert (set(), False) == watch.take()


def test_outputs_of_one_transaction_are_watched_each_by_itself():
    watch = OutpointWatch()
    for n in (0, 1, 1, 2):
        watch.add((OTHER, n))
    watch.discard((OTHER, 5))
    watch.touch_tx(OTHER, [])
    assert {(OTHER, 0), (OTHER, 1), (OTHER, 2)} == watch.take()[0]
    for n in (0, 1):
        watch.discard((OTHER, n))
    watch.touch_tx(CHILD, [(OTHER, 0), (OTHER, 2)])
    assert {(OTHER, 2)} == watch.take()[0]
    assert ((OTHER, 0) in watch, (OTHER, 2) in watch, (CHILD, 0) in watch) == (False, True, False)
    watch.discard((OTHER, 2))
    assert not watch


def test_a_subscription_takes_less_memory_than_two_sets():
    """Each set takes 216 bytes, of the session's and of the transaction's watched outputs."""
    watch = OutpointWatch()
    statuses = OutpointStatuses(None, None, None, OutpointCache(watch), None, None)
    subscriptions = OutpointSubscriptions(watch, statuses, None)
    outpoints = [(n.to_bytes(32, "big"), 0) for n in range(2_000)]
    session = object()
    tracemalloc.start()
    for outpoint in outpoints:
        subscriptions.add(outpoint, session)
    subscriptions.watch.take()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 300 * len(outpoints)
