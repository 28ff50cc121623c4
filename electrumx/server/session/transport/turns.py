"""The order in which connections process input that waits.

A connection processes one step of its input when bytes arrive; the rest waits for a turn.  One turn of
the event loop spends ``TURN_SECS`` on all connections together.  Runs on the event loop.
"""

import asyncio
from collections import deque
from time import perf_counter
from typing import Protocol

from electrumx.lib import util

_logger = util.class_logger(__name__, "TurnQueue")

# The time that one turn of the event loop spends on waiting input, of all connections.
TURN_SECS = 0.002


class WaitingConnection(Protocol):
    """A connection, as the queue uses it."""

    def on_turn(self) -> None:
        """Process a step of the waiting input."""

    def abort(self) -> None:
        """Close at once."""


class TurnQueue:
    """Connections with input to process, each for a step, in turn."""

    def __init__(self) -> None:
        self._queue: deque[WaitingConnection] = deque()
        self._scheduled = False

    def add(self, connection: WaitingConnection) -> None:
        """Let a connection process a step of its input, soon."""
        self._queue.append(connection)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        queue = self._queue
        deadline = perf_counter() + TURN_SECS
        for _ in range(len(queue)):
            connection = queue.popleft()
            try:
                connection.on_turn()
            except Exception:
                # A transport's own callbacks do the same.
                _logger.exception("processing input failed, a connection is dropped")
                connection.abort()
            if perf_counter() > deadline:
                break
        if queue and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)
