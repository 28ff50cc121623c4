"""Pings without meaning, so that an observer of encrypted traffic cannot count a client's notifications.

Padded messages (``transport.padding``) have few lengths, but that there is one reveals a touched script of
the client.  So a client of protocol 1.7 on a padded service gets a ping at a new block unless it
got at least two messages, sometimes more, and now and then one between blocks.

Clients charge for messages that they did not ask for, so noise is rare: no session gets more than
``MOST_PER_HOUR`` of it in a period of an hour, nor twice that in any hour.  Runs on the event loop.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

from electrumx.lib.tasks import TimeSlice
from electrumx.server.session.notify.subscriber import Subscriber

#: chance of one more ping after each
MORE = 0.1
#: mean time between pings that come without a block, in seconds
MEAN_SECS = 600.0
#: least time between two looks at rounds without a block, in seconds
EVERY_SECS = 5.0
PERIOD_SECS = 3_600.0
MOST_PER_HOUR = 49
SLICE_SECS = 0.001


class NoiseReceiver(Subscriber, Protocol):
    """A session, as noise uses it."""

    def takes_noise(self) -> bool:
        """Return whether its client understands pings, and gets padded messages."""

    def post_noise(self, count: int) -> None:
        """Queue so many pings."""


class Noise:
    """Sends pings at the end of rounds of notifications."""

    def __init__(
        self,
        sessions: Collection[NoiseReceiver],
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``sessions`` is the live table of all sessions; ``draw`` returns numbers from 0 to 1."""
        self._sessions = sessions
        self._draw = draw
        self._clock = clock
        self._due = asyncio.Event()
        # Whether there was a block, and the sessions with touched scripts at it
        self._is_block = False
        self._told: set[Subscriber] = set()
        # When sessions were last looked at
        self._looked_at = clock()
        # Session id -> pings in this period, and its end
        self._sent: Counter[int] = Counter()
        self._period_end = self._looked_at + PERIOD_SECS

    def round_ended(self, told: Collection[Subscriber], *, is_block: bool) -> None:
        """Have noise sent after a round; ``told`` are the sessions with touched scripts."""
        if is_block:
            self._is_block = True
            self._told.update(told)
        elif self._clock() < self._looked_at + EVERY_SECS:
            return
        self._due.set()

    async def run(self) -> None:
        """Send it after each round, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self.send()

    async def send(self) -> None:
        """Send the noise of the rounds that have ended."""
        now = self._clock()
        if now >= self._period_end:
            self._sent.clear()
            self._period_end = now + PERIOD_SECS
        chance = (now - self._looked_at) / MEAN_SECS
        self._looked_at = now
        is_block, self._is_block = self._is_block, False
        told, self._told = self._told, set()
        time_slice = TimeSlice(SLICE_SECS)
        for session in list(self._sessions):
            if time_slice.is_over():
                await time_slice.pause()
            if session.takes_noise() and not session.is_closing():
                self._send_to(session, self._count(is_block, session in told, chance))

    def _count(self, is_block: bool, is_told: bool, chance: float) -> int:
        """Return how many pings a session is to get."""
        count = 1 if is_block and not is_told else 0
        if self._draw() < chance:
            count += 1
        if is_block or count:
            while self._draw() < MORE and count < MOST_PER_HOUR:
                count += 1
        return count

    def _send_to(self, session: NoiseReceiver, count: int) -> None:
        count = min(count, MOST_PER_HOUR - self._sent[session.session_id])
        if count > 0:
            self._sent[session.session_id] += count
            session.post_noise(count)
            session.flush()
