"""The life of a server process: signals, the loop's exception handler, orderly shutdown.

Owns nothing of the server's work, which is ``serve`` of a subclass. Runs in the event loop.
"""

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from electrumx.lib.errors import OperatorError
from electrumx.lib.signals import stop_signals
from electrumx.lib.util import class_logger


class StartupError(OperatorError, RuntimeError):
    """The machine or the user is not fit for running the server."""


class _Settings(Protocol):
    """The settings that the server base uses."""

    allow_root: bool


class ServerBase:
    """Base of a server: derive, override ``serve``, then await ``run`` in a fresh event loop."""

    # Noise that clients cause at will. The server drops a message that *begins* with one of these.
    SUPPRESS_MESSAGE_REGEX = re.compile(
        "|".join(
            re.escape(text)
            for text in (
                "SSL handshake",
                "Fatal read error on",
                "SSL error in data received",
                "socket.send() raised exception",
            )
        )
    )
    SUPPRESS_TASK_REGEX = re.compile("accept_connection2")
    PYTHON_MIN_VERSION = (3, 10)

    def __init__(
        self, env: _Settings, *, early_signal: Callable[[], str | None] = lambda: None
    ) -> None:
        """Raise StartupError if Python is too old, or run by root without ALLOW_ROOT.

        ``early_signal()`` returns the name of a signal that came before ``run``, or None.
        """
        self.logger = class_logger(__name__, self.__class__.__name__)
        self.env: Any = env
        self._early_signal = early_signal
        #: Seconds since the epoch, set when run begins.
        self.start_time: float = 0.0

        if sys.version_info < self.PYTHON_MIN_VERSION:
            wanted = ".".join(str(part) for part in self.PYTHON_MIN_VERSION)
            raise StartupError(f"Python version {wanted} or later is required")
        if os.name != "nt" and os.geteuid() == 0 and not env.allow_root:
            raise StartupError(
                "running as root is refused: run the server as a user without privileges, "
                "or set environment variable ALLOW_ROOT to 1 to do so all the same"
            )

    async def drain(self) -> None:
        """Return when a server that was asked to shut down has served long enough."""

    async def _drain_with(self, server_task: asyncio.Task[None]) -> None:
        """Drain, at most until the server ends by itself."""
        draining = asyncio.ensure_future(self.drain())
        try:
            await asyncio.wait([server_task, draining], return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()

    async def serve(self, shutdown_event: asyncio.Event) -> None:
        """Do the server's work until cancelled; setting the event asks for shutdown.

        Returning or raising ends the server.
        """
        raise NotImplementedError

    def on_hangup(self) -> bool:
        """Act on SIGHUP; return False if the server is to shut down instead, as by default."""
        return False

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an error in a callback of the loop, unless it is known noise."""
        message = context.get("message")
        if message and self.SUPPRESS_MESSAGE_REGEX.match(message):
            return
        task = context.get("task")
        if task and self.SUPPRESS_TASK_REGEX.search(repr(task)):
            return
        loop.default_exception_handler(context)

    def _install_signal_handlers(
        self, loop: asyncio.AbstractEventLoop, shutdown_event: asyncio.Event
    ) -> None:
        """Let SIGINT, SIGTERM and SIGHUP ask for shutdown, also one that came before.

        On Windows loops cannot handle signals: Ctrl-C there cancels the main task.
        """

        def on_signal(name: str) -> None:
            if name == "SIGHUP" and self.on_hangup():
                return
            # A second signal finds the event set and changes nothing: the flush goes on.
            self.logger.warning(f"received {name} signal, initiating shutdown")
            shutdown_event.set()

        if os.name != "nt":
            for signum in stop_signals():
                loop.add_signal_handler(signum, on_signal, signum.name)
        early = self._early_signal()
        if early:
            on_signal(early)

    async def run(self) -> None:
        """Serve until a signal, the shutdown event or the end of serve; then shut down.

        Raises the exceptions of ``serve``. Cancelling this, too, shuts down in order.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.on_exception)
        shutdown_event = asyncio.Event()
        self._install_signal_handlers(loop, shutdown_event)
        self.start_time = time.time()

        server_task = asyncio.create_task(self.serve(shutdown_event))
        server_task.add_done_callback(lambda _task: shutdown_event.set())
        try:
            await shutdown_event.wait()
            if not server_task.done():
                await self._drain_with(server_task)
        finally:
            self.logger.info("shutting down")
            server_task.cancel()
            # Unlike awaiting the task, this distinguishes its cancellation from our own.
            await asyncio.wait([server_task])
            self.logger.info("shutdown complete")
        if not server_task.cancelled():
            server_task.result()
