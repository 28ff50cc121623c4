"""The signals that ask a server to end, and how to note them before there is an event loop.

Imports next to nothing: importing the rest of the server takes most of a second, and a signal that
comes during that time must not kill the process.  Runs in: the main thread.
"""

import os
import signal
from types import FrameType

# Loops on Windows cannot handle signals; Ctrl-C raises KeyboardInterrupt there.
_NAMES = () if os.name == "nt" else ("SIGINT", "SIGTERM", "SIGHUP")


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask for shutdown, without those that the process ignores.

    SIGHUP comes when a terminal or an ssh session closes; under ``nohup`` it is ignored, and
    stays so.
    """
    signals = [signal.Signals[name] for name in _NAMES]
    return [
        signum
        for signum in signals
        if signum.name != "SIGHUP" or signal.getsignal(signum) is not signal.SIG_IGN
    ]


class EarlySignals:
    """Notes a signal that comes before the event loop handles it."""

    def __init__(self) -> None:
        #: name of the first one, None before it
        self.received: str | None = None

    def install(self) -> "EarlySignals":
        """Begin to note signals; return this object."""
        for signum in stop_signals():
            signal.signal(signum, self._on_signal)
        return self

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        # A hang-up may be no request to end.
        if self.received in (None, "SIGHUP"):
            self.received = signal.Signals(signum).name
