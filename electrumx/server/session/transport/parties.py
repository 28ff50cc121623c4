"""How connections, their sessions, the admission control and the bounds on memory see each other."""

from typing import Protocol


class MessageReceiver(Protocol):
    """The part of a session that its connection gives messages to."""

    def received_bytes(self, count: int, extra_cost: float = 0.0) -> None:
        """Charge for bytes received in one read, which costs ``extra_cost`` more than others."""

    def receive(self, messages: list[bytes]) -> None:
        """Process whole messages, in order."""


class ConnectionSession(Protocol):
    """A session, as its connection and the admission control use it."""

    @property
    def receiver(self) -> MessageReceiver:
        """Where its messages go; asked at once, as each message would be a call more else."""

    @property
    def last_recv(self) -> float:
        """When a message was last received, by the monotonic clock."""

    @property
    def recv_count(self) -> int:
        """Messages received and processed."""

    def unanswered_request_count(self) -> int:
        """Return how many requests taken on have no answer yet."""

    def unanswered_bytes(self) -> int:
        """Return the memory that received and unanswered requests take."""

    def bump_cost(self, delta: float) -> None:
        """Charge ``delta``."""

    def is_over_limit(self) -> bool:
        """Return whether the session, with its groups, has reached the hard limit."""

    def log_excessive_cost(self) -> None:
        """Log that the session ends for its cost."""

    def dropped_messages(self, count: int) -> None:
        """Note that so many messages were too long."""

    def on_unwritable(self) -> None:
        """Note that the client does not read."""

    def on_writable(self) -> None:
        """Note that the client reads again."""

    def on_eof(self) -> bool:
        """Note that the client will ask no more; return whether an answer is still due."""

    def on_lost(self) -> None:
        """End: the connection has."""


class HoldingConnection(Protocol):
    """A connection, as the bounds on memory use it."""

    def unsent_bytes(self) -> int:
        """Return the number of unsent bytes."""

    def unanswered_bytes(self) -> int:
        """Return how many bytes of requests it holds."""

    def abort(self) -> None:
        """Close at once."""
