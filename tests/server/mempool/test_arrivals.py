"""The queue of reports: its order and its bounds."""

from electrumx.server.mempool import arrivals as mempool_arrivals
from electrumx.server.mempool.arrivals import Arrivals, Report


async def test_raw_transactions_that_wait_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(mempool_arrivals, "MAX_RAW_BYTES", 100)
    arrivals = Arrivals()
    for number in range(3):
        arrivals.report(bytes([number]), Report(True, bytes(40)))
    assert arrivals.overflowed
    # A later report of the same transaction replaces the earlier one.
    arrivals.report(bytes([0]), Report(False))
    arrivals.report(bytes([2]), Report(True, bytes(60)))
    assert list(arrivals.take(2)) == [bytes([1]), bytes([0])]
    assert arrivals.event.is_set()
    assert list(arrivals.take(2)) == [bytes([2])]
    assert not arrivals.event.is_set()
    arrivals.report(bytes([3]), Report(True, bytes(100)))
    assert list(arrivals.take(9)) == [bytes([3])]
