"""The log of our processes: its stream and its format."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from electrumx.lib.util import CompactFormatter, make_logger

DEFAULT_LOG_FORMAT = "%(levelname)s:%(name)s:%(message)s"


def never_fail_to_encode(stream: object) -> None:
    """Have a text stream escape the characters that its encoding lacks, as ASCII does most."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    # Python 3.10 cannot subscript it.
    _StreamHandler = logging.StreamHandler


class _Handler(_StreamHandler):
    """A handler that ignores a reader that has gone, as after ``| head``."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a failure to log, unless the reader has gone; logging calls it in the ``except``."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def _flush(handler: logging.Handler) -> None:
    try:
        handler.flush()
    except BrokenPipeError:
        # The interpreter flushes once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def logging_to_stdout() -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Have everything of ours logged, from INFO on; yield the logger above all, and its handler."""
    never_fail_to_encode(sys.stdout)
    handler = _Handler(sys.stdout)
    handler.setFormatter(CompactFormatter(DEFAULT_LOG_FORMAT))
    logger = make_logger("electrumx", handler=handler, level=logging.INFO)
    try:
        yield logger, handler
    finally:
        _flush(handler)
        logger.removeHandler(handler)
