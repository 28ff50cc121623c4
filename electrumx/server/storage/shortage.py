"""Retries writes of the database while descriptors or memory are short.

A process that has too many files open cannot open another one, and clients may be the reason.
That is no error of the disk: :meth:`Patience.run` repeats the write, for a minute at most, with
growing pauses, and the log has one line for the beginning and one for the end.  A :class:`Reserve`
of descriptors exists for this case; the first step releases it.

Runs in: worker threads.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

#: descriptors in reserve: reopening an engine needs about ten
RESERVE_FILES = 16
#: pauses between attempts, in seconds: the second one, the longest, and the sum
FIRST_PAUSE_SECS = 0.05
MAX_PAUSE_SECS = 2.0
PATIENCE_SECS = 60.0

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
# The engines raise texts.
_TEXTS = ("too many open files", "cannot allocate memory")


def is_shortage(error: BaseException) -> bool:
    """Return whether an error means that descriptors or memory are used up for now."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _SHORTAGES
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(shortage in text for shortage in _TEXTS)


class Reserve:
    """Descriptors held open, to release when others are needed."""

    def __init__(self, count: int = RESERVE_FILES) -> None:
        self._count = count
        self._files: list[int] = []

    def fill(self) -> None:
        """Open the missing ones, as many as the limit allows."""
        with suppress(OSError):
            while len(self._files) < self._count:
                self._files.append(os.open(os.devnull, os.O_RDONLY))

    def release(self) -> None:
        """Close all, so that other files may open."""
        while self._files:
            os.close(self._files.pop())

    def __len__(self) -> int:
        return len(self._files)


class Patience:
    """Repeats work that failed for a shortage, for one database."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.reserve = Reserve()

    def run(
        self, work: Callable[[], T], what: str, before_retry: Callable[[], object] | None = None
    ) -> T:
        """Return the result of ``work``, which must be repeatable.

        ``what`` names the work in the log.  ``before_retry`` runs before each attempt but the first
        two, and may raise, too.  Raise the error of the last attempt.
        """
        try:
            return work()
        except Exception as e:
            if not is_shortage(e):
                raise
            self._logger.warning(
                f"{what}: {reason_of(e)}; trying again for up to {PATIENCE_SECS:.0f}s.  If this "
                "happens often, raise the limit of open files (LimitNOFILE, ulimit -n) or lower "
                "MAX_SESSIONS"
            )
        start = time.monotonic()
        self.reserve.release()
        try:
            result = self._repeat(work, before_retry, start + PATIENCE_SECS)
        finally:
            self.reserve.fill()
        self._logger.info(f"{what}: done after {time.monotonic() - start:.1f}s")
        return result

    @staticmethod
    def _repeat(
        work: Callable[[], T], before_retry: Callable[[], object] | None, deadline: float
    ) -> T:
        pause = 0.0
        while True:
            try:
                if pause and before_retry:
                    before_retry()
                return work()
            except Exception as e:
                if not is_shortage(e) or time.monotonic() > deadline:
                    raise
            pause = min(max(2 * pause, FIRST_PAUSE_SECS), MAX_PAUSE_SECS)
            time.sleep(pause)


def reason_of(error: BaseException) -> str:
    """Return an error's text as one line; plyvel's are bytes."""
    text = error.args[0].decode(errors="replace") if _has_bytes(error) else str(error)
    return " ".join(text.split()) or type(error).__name__


def _has_bytes(error: BaseException) -> bool:
    return len(error.args) == 1 and isinstance(error.args[0], bytes)
