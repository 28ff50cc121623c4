"""An event loop whose clock jumps to the next timer, and threads that work at once.

What takes minutes of waiting takes milliseconds, and always happens in the same order.
"""

import asyncio
import selectors
from concurrent.futures import Future, ThreadPoolExecutor


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: if nothing is ready, time has passed."""

    def __init__(self, advance):
        super().__init__()
        self._advance = advance

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("all tasks wait for something that never happens")
        if not events:
            self._advance(timeout)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Begins at time 0; ``job_secs()`` is how long each job of a thread takes."""

    def __init__(self, job_secs=lambda: 0.0):
        self._now = 0.0
        self.job_secs = job_secs
        super().__init__(_JumpingSelector(self.pass_time))
        self.set_default_executor(InlineExecutor())

    def pass_time(self, secs):
        """Let time pass, as a callback does that blocks the loop."""
        self._now += max(0.0, secs)

    def time(self):
        return self._now


def run_in_virtual_time(coro):
    """Run a coroutine on a loop whose clock jumps to the next timer; return its result."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(coro)
    finally:
        loop.close()


class InlineExecutor(ThreadPoolExecutor):
    """Does a job when it is submitted; its result comes after the loop's ``job_secs``."""

    def __init__(self, *_args, **_kwargs):
        super().__init__(1)

    def submit(self, func, /, *args, **kwargs):
        future = Future()
        future.set_running_or_notify_cancel()
        loop = asyncio.get_running_loop()
        try:
            settle, outcome = future.set_result, func(*args, **kwargs)
        except BaseException as e:
            settle, outcome = future.set_exception, e
        loop.call_later(loop.job_secs(), settle, outcome)
        return future
