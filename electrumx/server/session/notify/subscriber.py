"""A session, as notifications use it."""

from collections.abc import Awaitable
from typing import Protocol


class Subscriber(Protocol):
    """A session that can get notifications."""

    session_id: int

    def notify_height(self) -> None:
        """Send the announced header, if the client subscribed to headers."""

    def post_height(self) -> None:
        """Queue the announced header, if the client subscribed to headers, for ``flush``."""

    def is_concerned(self) -> bool:
        """Return whether ``notify`` may have to send something at every new height."""

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Notify of own touched scripts; return an awaitable if that has to wait."""

    def flush(self) -> None:
        """Send the queued messages."""

    def sub_count(self) -> int:
        """Return the number of subscriptions."""

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""

    def end(self, force_after: float) -> None:
        """Close the connection, by force after so many seconds; return at once."""

    async def close(self, *, force_after: float = ...) -> None:
        """Close the connection, by force after so many seconds; return when it has closed."""


class ScriptSubscriber(Subscriber, Protocol):
    """A session that can subscribe to scripts."""

    def log_notified(self, count: int) -> None:
        """Log that the client got notifications of so many scripts."""
