"""Regular expressions matched against hostile text, in bounded time.

Python's matcher backtracks: a pattern like ``(a+)+$`` takes seconds for 28 characters, and holds
the interpreter's lock all that time, so a thread does not help.  But it looks for signals.
"""

import re
import signal
import threading
import time
from types import FrameType

# A shorter timer would fire more often than is worth it.
MIN_TIMER_SECS = 0.001


class MatchTimeoutError(Exception):
    """Raised when a match takes too long."""


class BoundedPattern:
    """A compiled pattern whose matching stops when it has taken too much processor time.

    The time of the thread that matches counts; the signal's timer counts that of all threads, and
    restarts for the rest of the time.  Uses the signal SIGVTALRM, whose handler stays installed.
    Outside the main thread, which alone handles signals, the time has no bound.
    """

    def __init__(self, pattern: re.Pattern[str], cpu_secs: float) -> None:
        self.pattern = pattern
        self.cpu_secs = cpu_secs
        self._is_matching = False
        # By the clock of the thread's processor time
        self._deadline = 0.0

    def _on_timer(self, _signum: int, _frame: FrameType | None) -> None:
        if not self._is_matching:
            return
        left = self._deadline - time.thread_time()
        if left > 0:
            signal.setitimer(signal.ITIMER_VIRTUAL, max(left, MIN_TIMER_SECS))
            return
        self._is_matching = False
        raise MatchTimeoutError

    def match(self, text: str) -> re.Match[str] | None:
        """Return the match at the start of a text, or None; raises MatchTimeoutError."""
        if threading.current_thread() is not threading.main_thread():
            return self.pattern.match(text)
        # Never uninstalled: the signal may arrive late, and its default is the end of the process.
        if signal.getsignal(signal.SIGVTALRM) != self._on_timer:
            signal.signal(signal.SIGVTALRM, self._on_timer)
        self._deadline = time.thread_time() + self.cpu_secs
        self._is_matching = True
        signal.setitimer(signal.ITIMER_VIRTUAL, self.cpu_secs)
        try:
            return self.pattern.match(text)
        finally:
            self._is_matching = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
