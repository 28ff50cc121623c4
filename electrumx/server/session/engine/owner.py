"""The interfaces of a session that the parts of its engine use.

When the session ends its parts belong to ``ENDED``: a part and its session would otherwise keep each
other in memory until the collector runs.
"""

import logging
from typing import Protocol, TypeAlias

from electrumx.lib import util

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


class LimitedLog(Protocol):
    """A log that a client cannot fill, and the reason why a session ends."""

    def log_limited(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log what a client can cause any number of times; ``kind`` is common to such lines."""

    def note_end(self, reason: str) -> None:
        """Note why the server ends the session; the first reason counts."""


class AccountOwner(LimitedLog, Protocol):
    """The interface that a ``CostAccount`` uses."""

    def extra_cost(self) -> float:
        """Return the cost that the other sessions of the same groups add."""

    def on_hard_limit(self) -> None:
        """Note that no more requests may run."""

    def on_throttled(self, *, throttled: bool) -> None:
        """Note that requests sleep from now on, or that they no longer do."""


class DispatchOwner(LimitedLog, Protocol):
    """The interface that a ``Dispatcher`` uses."""

    @property
    def logger(self) -> Logger:
        """The logger that names the session."""

    def on_slot_free(self) -> None:
        """Note that the dispatcher may take on more requests than before."""

    def on_flushed(self) -> None:
        """Note that the queue sent replies."""

    def log_excessive_cost(self) -> None:
        """Log that the session ends for its cost."""

    def retry_secs(self) -> int:
        """Return how many seconds a client over the limit has to wait."""


class ReceiveOwner(DispatchOwner, Protocol):
    """The interface that a ``Receiver`` uses."""

    def accepts_first(self, message: bytes) -> bool:
        """Return whether the connection may begin with a message; else the receiver executes nothing."""

    def logged_text(self, message: bytes) -> str:
        """Return the text that the log shows for a message, if the operator logs messages."""

    def max_message_size(self) -> int:
        """Return the bound on messages that the transport keeps, in bytes."""

    def on_malformed(self) -> None:
        """Note a message that is malformed as a whole, once its error is in the queue."""


class _Ended:
    """The owner of the parts of sessions that have ended."""

    logger: Logger = util.class_logger(__name__, "Ended")

    def log_limited(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log nothing."""

    def note_end(self, reason: str) -> None:
        """Note nothing."""

    def extra_cost(self) -> float:
        """Return 0: a session that has ended is in no group."""
        return 0.0

    def on_hard_limit(self) -> None:
        """Do nothing."""

    def on_throttled(self, *, throttled: bool) -> None:
        """Count nothing."""

    def on_slot_free(self) -> None:
        """Do nothing."""

    def on_flushed(self) -> None:
        """Do nothing."""

    def log_excessive_cost(self) -> None:
        """Log nothing."""

    def retry_secs(self) -> int:
        """Return 1: nothing is sent."""
        return 1

    def accepts_first(self, message: bytes) -> bool:
        """Return False: the receiver executes nothing."""
        return False

    def logged_text(self, message: bytes) -> str:
        """Return nothing to log."""
        return ""

    def max_message_size(self) -> int:
        """Return 0."""
        return 0

    def on_malformed(self) -> None:
        """Do nothing."""


ENDED = _Ended()
