"""Tells systemd how the server is: starting, serving, alive, stopping.

A unit of ``Type=notify`` gives the server a socket, and takes datagrams of ``NAME=value`` lines on
it, as sd_notify(3) has them.  Without that socket nothing here does anything.

Owned by a task of the event loop, which the ``async with`` block of :class:`Readiness` starts and
ends.  A report says that the loop runs, so a server that hangs is found by its silence.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from electrumx.lib.env_base import EnvBase
from electrumx.lib.util import class_logger

# Between two reports, unless the watchdog wants more of them.
REPORT_SECS = 10.0
# Reports in one period of the watchdog: one may be late, one lost.
REPORTS_PER_WATCHDOG = 3
# What each report while stopping asks for; the next comes long before it has passed.
EXTENSION_SECS = 120
# No more is asked for after so long: something hangs, and systemd may end it.
MAX_STOPPING_SECS = 3600.0


class Notifier:
    """Sends messages to the service manager.

    ``address`` is the path of its socket, or a name that begins with ``@`` (Linux's abstract
    sockets); empty if there is none.
    """

    def __init__(self, address: str) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._complained = False

    def __bool__(self) -> bool:
        """Say if anybody listens."""
        return bool(self._address)

    def send(self, *assignments: str) -> bool:
        """Send lines as one message, without waiting; say if they went.

        Never raises for trouble with the socket: the first is logged.
        """
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(assignments).encode(), self._address)
        except OSError as e:
            if not self._complained:
                self._complained = True
                self.logger.warning(f"cannot tell the service manager how the server is: {e}")
            return False
        return True


def watchdog_secs() -> float | None:
    """Return the period in which systemd wants to hear of us, None if it does not."""
    period = EnvBase.integer("WATCHDOG_USEC", 0, minimum=0)
    # The variables are inherited: they may be meant for the process that started us.
    pid = EnvBase.integer("WATCHDOG_PID", os.getpid())
    return period / 1_000_000 if period and pid == os.getpid() else None


class Readiness:
    """Reports for as long as its ``async with`` block lasts; then the server has stopped.

    ``describe`` returns one line for people about what the server does now.
    """

    def __init__(
        self,
        notifier: Notifier,
        watchdog: float | None,
        shutdown_event: asyncio.Event,
        describe: Callable[[], str],
    ) -> None:
        """``watchdog`` is its period in seconds; the event is set when the server shall stop."""
        self._describe = describe
        self._notifier = notifier
        self._interval = min(REPORT_SECS, (watchdog or REPORT_SECS * 3) / REPORTS_PER_WATCHDOG)
        self._heartbeat = ["WATCHDOG=1"] if watchdog else []
        self._shutdown_event = shutdown_event
        #: what must get through once: sent again until it did
        self._owed: list[str] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def from_environment(
        cls, shutdown_event: asyncio.Event, describe: Callable[[], str]
    ) -> "Readiness":
        """Return one as the process's environment asks for; raises Env.Error if it is wrong."""
        notifier = Notifier(EnvBase.default("NOTIFY_SOCKET", ""))
        return cls(notifier, watchdog_secs(), shutdown_event, describe)

    async def __aenter__(self) -> "Readiness":
        if self._notifier:
            self._task = asyncio.create_task(self._report_until_cancelled())
        return self

    async def __aexit__(self, *_exc: Any) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._shutdown_event.is_set():
            # A part failed: nobody asked for the end.
            self._send("STOPPING=1")

    async def announce(self, event: asyncio.Event) -> None:
        """Report that the server is ready when the event is set."""
        await event.wait()
        self._owed.append("READY=1")
        self._report()

    def _send(self, *assignments: str) -> None:
        if self._notifier.send(*self._owed, *assignments, *self._heartbeat):
            self._owed.clear()

    def _report(self) -> None:
        self._send(f"STATUS={self._describe()}")

    async def _report_until_cancelled(self) -> None:
        shutdown = asyncio.ensure_future(self._shutdown_event.wait())
        try:
            while not shutdown.done():
                self._report()
                await asyncio.wait([shutdown], timeout=self._interval)
        finally:
            shutdown.cancel()
            if self._shutdown_event.is_set():
                # Also when the end comes too fast for what follows
                self._owed = ["STOPPING=1"]
                self._report_stopping()
        deadline = asyncio.get_running_loop().time() + MAX_STOPPING_SECS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._interval)
            self._report_stopping()

    def _report_stopping(self) -> None:
        self._send(
            "STATUS=writing to disk what is in memory",
            f"EXTEND_TIMEOUT_USEC={EXTENSION_SECS * 1_000_000}",
        )
