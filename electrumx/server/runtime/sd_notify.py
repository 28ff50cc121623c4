"""Notifies systemd of the server's state: starting, serving, alive, stopping.

A unit of ``Type=notify`` gives the server a socket, and takes datagrams of ``NAME=value`` lines on
it, as sd_notify(3) has them.  Without that socket nothing here does anything.

Owned by a task of the event loop, which the ``async with`` block of :class:`Readiness` starts and
ends.  A report proves that the loop runs, so systemd finds a server that hangs by its silence.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from electrumx.lib.env_base import EnvBase
from electrumx.lib.tasks import wait_for_event
from electrumx.lib.util import class_logger

# Between two reports, unless the watchdog wants more of them.
REPORT_SECS = 10.0
# Reports in one period of the watchdog: one may be late, one lost.
REPORTS_PER_WATCHDOG = 3
# The extension that each report while stopping requests; the next comes long before its end.
EXTENSION_SECS = 120
# Ask for no more after so long: something hangs, and systemd may end it.
MAX_STOPPING_SECS = 3600.0


class Notifier:
    """Sends messages to the service manager.

    ``address`` is the path of its socket, or a name that begins with ``@`` (Linux's abstract
    sockets); empty without a service manager.
    """

    def __init__(self, address: str) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._complained = False

    def __bool__(self) -> bool:
        """Return whether a service manager listens."""
        return bool(self._address)

    def send(self, *assignments: str) -> bool:
        """Send lines as one message, without waiting; say if they went.

        Never raises for an error of the socket: it logs the first.
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
                self.logger.warning(f"cannot notify the service manager of the server's state: {e}")
            return False
        return True


def watchdog_secs() -> float | None:
    """Return the period in which systemd expects a report, None without a watchdog."""
    period = EnvBase.integer("WATCHDOG_USEC", 0, minimum=0)
    # Processes inherit the variables: they may be meant for the process that started us.
    pid = EnvBase.integer("WATCHDOG_PID", os.getpid())
    return period / 1_000_000 if period and pid == os.getpid() else None


class Readiness:
    """Reports for as long as its ``async with`` block lasts; then the server has stopped.

    ``describe`` returns one line for people about the server's present work.
    """

    def __init__(
        self,
        notifier: Notifier,
        watchdog: float | None,
        shutdown_event: asyncio.Event,
        describe: Callable[[], str],
    ) -> None:
        """``watchdog`` is its period in seconds; the event is set when the server is to stop."""
        self._describe = describe
        self._notifier = notifier
        #: seconds between two reports
        self.interval = min(REPORT_SECS, (watchdog or REPORT_SECS * 3) / REPORTS_PER_WATCHDOG)
        self._heartbeat = ["WATCHDOG=1"] if watchdog else []
        self._shutdown_event = shutdown_event
        #: assignments that must arrive once: sent again until they do
        self._owed: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False

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
            # A part failed, without a request to stop.
            self._send("STOPPING=1")

    async def announce(self, event: asyncio.Event) -> None:
        """Report that the server is ready when the event is set."""
        await event.wait()
        self._is_ready = True
        self._owed.append("READY=1")
        self._report()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the server reads settings again, while a block runs, and then that it serves.

        Before it serves there is nothing to report: it is starting, and that goes on.
        """
        if self._is_ready:
            # By the clock of systemd, so that it can relate the message to its own signal.
            usec = time.monotonic_ns() // 1000
            self._send("RELOADING=1", f"MONOTONIC_USEC={usec}")
        try:
            yield
        finally:
            if self._is_ready:
                self._owed.append("READY=1")
                self._report()

    def _send(self, *assignments: str) -> None:
        if self._notifier.send(*self._owed, *assignments, *self._heartbeat):
            self._owed.clear()

    def _report(self) -> None:
        self._send(f"STATUS={self._describe()}")

    async def _report_until_cancelled(self) -> None:
        try:
            is_shutdown = False
            while not is_shutdown:
                self._report()
                is_shutdown = await wait_for_event(self._shutdown_event, self.interval)
        finally:
            if self._shutdown_event.is_set():
                # Also when the process ends too fast for the next lines
                self._owed = ["STOPPING=1"]
                self._report_stopping()
        deadline = asyncio.get_running_loop().time() + MAX_STOPPING_SECS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self.interval)
            self._report_stopping()

    def _report_stopping(self) -> None:
        self._send(
            "STATUS=stopping: writing to disk what is in memory",
            f"EXTEND_TIMEOUT_USEC={EXTENSION_SECS * 1_000_000}",
        )
