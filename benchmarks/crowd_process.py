"""Clients in a process of their own, so that they do not measure another's business."""

import multiprocessing
import queue
import time


class CrowdProcess:
    """A part of a crowd: ``target(*args, ready, stop, results)`` in a process.

    It sets ``ready``, waits for ``stop``, and puts its figures into ``results``.
    """

    def __init__(self, target, *args, ready_secs=180):
        context = multiprocessing.get_context("spawn")
        self._stop, self._results = context.Event(), context.Queue()
        ready = context.Event()
        args = (*args, ready, self._stop, self._results)
        self._process = context.Process(target=target, args=args, daemon=True)
        self._process.start()
        self.is_ready = ready.wait(ready_secs)

    def finish(self, secs=120):
        """Stop it; return its figures, None without any."""
        self._stop.set()
        deadline = time.monotonic() + secs
        try:
            while True:
                try:
                    return self._results.get(timeout=1)
                except queue.Empty:
                    if time.monotonic() > deadline or not self._process.is_alive():
                        return None
        finally:
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
