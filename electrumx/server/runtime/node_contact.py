"""The contact with the full node: its last reply, and the last failure to get one.

Code that sends a request reports here that it asks, and how that ended.  A reply is anything that
the node answers, errors of JSON-RPC included; a failure is the lack of one, or a refusal of service.

Runs in: the event loop.  Every method costs less than a microsecond.
"""

import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple


class Cause(str, Enum):
    """Why the node did not answer a call."""

    REFUSED = "refused"
    UNKNOWN_HOST = "unknown host"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    STARTING_UP = "starting up"
    MALFORMED = "malformed"
    WRONG_NODE = "wrong node"
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


class NodeFailure(NamedTuple):
    """A call that the node did not answer."""

    cause: Cause
    #: of the node's RPC
    method: str
    #: one printable line, without credentials
    text: str
    #: by the monotonic clock
    time: float


class NodeContact:
    """When the node answered last, and why it did not since then."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """``now()`` returns seconds of a clock that never goes back."""
        self._now = now
        self._last_reply: float | None = None
        self._waiting_since: float | None = None
        self._last_failure: NodeFailure | None = None

    def asked(self) -> None:
        """Note the sending of a request."""
        if self._waiting_since is None:
            self._waiting_since = self._now()

    def replied(self) -> None:
        """Note that the node answered a request."""
        self._last_reply = self._now()
        self._waiting_since = None

    def failed(self, cause: Cause, method: str, text: str) -> None:
        """Note that a request got no answer, or a refusal."""
        self._last_failure = NodeFailure(cause, method, text, self._now())

    @property
    def last_failure(self) -> NodeFailure | None:
        """The last failure, which later replies may have followed; None if there was no failure."""
        return self._last_failure

    @property
    def is_failing(self) -> bool:
        """Whether a failure is more recent than the last reply."""
        failure = self._last_failure
        return failure is not None and (self._last_reply is None or failure.time > self._last_reply)

    def reply_age(self) -> float | None:
        """Return the seconds since the last reply; None before the first."""
        return None if self._last_reply is None else self._now() - self._last_reply

    def waiting_secs(self) -> float:
        """Return for how long requests have been waiting, or failing, without a reply; 0 if none is."""
        return 0.0 if self._waiting_since is None else self._now() - self._waiting_since
