"""The connected sessions added up, and their traffic, as they change.

A metric must not cost a walk over all sessions: with thousands of them that takes milliseconds of the
event loop.  The indexes count subscriptions to scripts and outpoints.

Runs in: the event loop.
"""

from collections import Counter

from electrumx.lib.util import version_string

# Of a negotiated version so many numbers are a label: clients can name any number after them.
VERSION_NUMBERS = 2
KNOWN_LABELS = {(1, 4, 1), (1, 4, 2), (1, 4, 3)}


def protocol_label(kind: str, version: tuple[int, ...]) -> str:
    """Return the negotiated version of the protocol, of a bounded number of values."""
    if kind == "rpc":
        return "rpc"
    return version_string(version if version in KNOWN_LABELS else version[:VERSION_NUMBERS])


class SessionCounts:
    """How many sessions, subscriptions and bytes there are."""

    __slots__ = (
        "by_protocol",
        "closed",
        "headers",
        "masternodes",
        "opened",
        "received",
        "sent",
        "throttled",
    )

    def __init__(self) -> None:
        #: since the start, by the protocol of their service
        self.opened: Counter[str] = Counter()
        #: since the start, by the reason of their end
        self.closed: Counter[str] = Counter()
        #: connected now, by (service, label of the negotiated protocol); never 0
        self.by_protocol: Counter[tuple[str, str]] = Counter()
        #: subscriptions to headers, and to masternodes
        self.headers = self.masternodes = 0
        #: sessions whose requests sleep because of their costs
        self.throttled = 0
        #: bytes from and to all clients since the start
        self.received = self.sent = 0

    def began(self, kind: str, version: tuple[int, ...]) -> None:
        """Count a session."""
        self.opened[kind] += 1
        self._add(kind, version, 1)

    def negotiated(self, kind: str, before: tuple[int, ...], version: tuple[int, ...]) -> None:
        """Count a session under another version of the protocol."""
        self._add(kind, before, -1)
        self._add(kind, version, 1)

    def ended(self, kind: str, version: tuple[int, ...], reason: str) -> None:
        """Count the end of a session."""
        self.closed[reason] += 1
        self._add(kind, version, -1)

    def _add(self, kind: str, version: tuple[int, ...], change: int) -> None:
        key = kind, protocol_label(kind, version)
        self.by_protocol[key] += change
        if not self.by_protocol[key]:
            del self.by_protocol[key]
