"""A record of the calls to the node: contact, counts and durations.

Owns nothing of the calls themselves.  Runs in: the event loop.
"""

import asyncio
from collections import Counter
from time import perf_counter
from types import TracebackType

from electrumx.lib.log_text import printable
from electrumx.server.daemon.responses import DaemonError
from electrumx.server.daemon.retry import RETRIED, cause_of, failure_texts
from electrumx.server.runtime.histogram import Histogram
from electrumx.server.runtime.node_contact import Cause, NodeContact

# Upper bounds of the durations of calls, in seconds.
CALL_SECS = (0.01, 0.1, 1, 10)
# Methods counted by their names; coins have a few of their own.
MAX_METHODS = 40
OTHER_METHODS = "other"


class CallForbiddenError(Exception):
    """Internal: HTTP status 403; the text is the node's."""


class CallRecord:
    """Records the calls; ``call`` wraps one exchange of HTTP, of a request or of a batch."""

    def __init__(self) -> None:
        #: replies and failures, for the server's state
        self.contact = NodeContact()
        #: (method, ok, error or failed) -> calls
        self.counts: Counter[tuple[str, str]] = Counter()
        #: durations of answered calls, by method
        self.durations: dict[str, Histogram] = {}
        #: how often another URL came into use
        self.url_switches = 0

    def call(self, method: str) -> "Call":
        """Return a context manager for one call of a method."""
        return Call(self, method)

    def ended(self, method: str, outcome: str, secs: float) -> None:
        """Count a call; ``secs`` is its duration."""
        histogram = self.durations.get(method)
        if histogram is None:
            if len(self.durations) >= MAX_METHODS:
                method = OTHER_METHODS
            histogram = self.durations.setdefault(method, Histogram(CALL_SECS))
        self.counts[method, outcome] += 1
        if outcome != "failed":
            histogram.observe(secs)


class Call:
    """One call: notes its outcome at the end of a ``with`` block, and lets exceptions pass."""

    __slots__ = ("_method", "_record", "_start")

    def __init__(self, record: CallRecord, method: str) -> None:
        self._record = record
        self._method = method
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = perf_counter()
        self._record.contact.asked()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            return
        record, contact = self._record, self._record.contact
        outcome = "ok" if error is None else "error"
        if isinstance(error, CallForbiddenError):
            contact.failed(Cause.FORBIDDEN, self._method, printable(error))
        elif isinstance(error, RETRIED) and not isinstance(error, DaemonError):
            outcome = "failed"
            contact.failed(cause_of(error), self._method, failure_texts(error)[0])
        if outcome != "failed":
            # A refusal of a single method is an answer, too.
            contact.replied()
        record.ended(self._method, outcome, perf_counter() - self._start)
