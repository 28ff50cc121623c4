"""The queue of reports that the node added a transaction to its mempool, or removed one.

Between two listings of the node's mempool come reports of single transactions: those that clients
broadcast through us, and those that the node publishes by ZMQ.  They queue here until the mempool
applies them, in batches, and notifies.  A report is only a hint: the mempool adds a transaction
when the node has it and all its inputs are there.  The next listing finds lost reports.

A record keeps the reports applied since the last request of a listing, because that listing may
lack them: without the record a refresh would remove a transaction broadcast just before.

Pure state; runs in: the event loop.
"""

import asyncio
from dataclasses import dataclass
from itertools import islice

#: reports that wait at most, and the bytes of their raw transactions
MAX_REPORTS = 10_000
MAX_RAW_BYTES = 32_000_000
#: seconds before the next request to a node for a transaction that it did not have: some accept
#: a broadcast first and verify it afterwards
RETRY_SECS = (0.05, 0.25)


@dataclass(slots=True)
class Report:
    """A transaction that entered, or left, the node's mempool."""

    entered: bool
    #: the raw transaction, None if the node has to send it
    raw: bytes | None = None
    #: number of requests to the node in vain
    tries: int = 0


class Arrivals:
    """Reports that wait, and those applied since the last listing."""

    def __init__(self) -> None:
        #: set while there are reports to apply
        self.event = asyncio.Event()
        #: the queue dropped reports: a refresh has to list the node's mempool
        self.overflowed = False
        #: transactions that entered, or left, since the request of the last listing
        self.entered_since: set[bytes] = set()
        self.left_since: set[bytes] = set()
        self._reports: dict[bytes, Report] = {}
        self._raw_bytes = 0
        # Reports with missing inputs: perhaps those are in a block that is not in the database yet.
        self._unresolved: dict[bytes, Report] = {}

    def report(self, tx_hash: bytes, report: Report) -> None:
        """Queue a report; it replaces an earlier one of the same transaction."""
        earlier = self._reports.get(tx_hash)
        if report.entered and report.raw is None and earlier is not None and earlier.entered:
            # The same, perhaps with the raw transaction
            return
        self._discard(tx_hash)
        size = len(report.raw or b"")
        if len(self._reports) >= MAX_REPORTS or self._raw_bytes + size > MAX_RAW_BYTES:
            self.overflowed = True
        else:
            self._reports[tx_hash] = report
            self._raw_bytes += size
        self.event.set()

    def _discard(self, tx_hash: bytes) -> None:
        old = self._reports.pop(tx_hash, None)
        if old is not None:
            self._raw_bytes -= len(old.raw or b"")
        self._unresolved.pop(tx_hash, None)

    def take(self, count: int) -> dict[bytes, Report]:
        """Return the oldest reports, at most ``count``, and forget them."""
        reports = {h: self._reports[h] for h in islice(self._reports, count)}
        for tx_hash in reports:
            self._discard(tx_hash)
        if not self._reports:
            self.event.clear()
        return reports

    def retry_later(self, tx_hash: bytes, report: Report) -> None:
        """Queue a transaction again, after a pause, that the node did not have; at most twice."""
        if report.tries >= len(RETRY_SECS):
            return
        delay = RETRY_SECS[report.tries]
        report.tries += 1
        asyncio.get_running_loop().call_later(delay, self._report_again, tx_hash, report)

    def _report_again(self, tx_hash: bytes, report: Report) -> None:
        if tx_hash not in self._reports:
            self.report(tx_hash, report)

    def retry_after_block(self, tx_hash: bytes, report: Report) -> None:
        """Keep a transaction with missing inputs until the database has moved."""
        if len(self._unresolved) < MAX_REPORTS:
            self._unresolved[tx_hash] = report

    def has_unresolved(self) -> bool:
        """Return whether a transaction waits for a block with its inputs."""
        return bool(self._unresolved)

    def database_moved(self) -> None:
        """Queue the transactions that waited for another block."""
        unresolved, self._unresolved = self._unresolved, {}
        for tx_hash, report in unresolved.items():
            self._report_again(tx_hash, report)

    def listing_requested(self) -> None:
        """Forget the changes that the listing requested now will include."""
        self.overflowed = False
        self.entered_since, self.left_since = set(), set()
        self._unresolved = {}

    def applied(self, tx_hash: bytes, *, entered: bool) -> None:
        """Note a change of our mempool that a listing under way does not show."""
        into, other = self.entered_since, self.left_since
        if not entered:
            into, other = other, into
        into.add(tx_hash)
        other.discard(tx_hash)
