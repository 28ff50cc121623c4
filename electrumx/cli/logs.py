"""Where the log of a process of ours goes, and in what form."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from electrumx.lib.util import CompactFormatter, make_logger

DEFAULT_LOG_FORMAT = "%(levelname)s:%(name)s:%(message)s"


@contextmanager
def logging_to_stdout() -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Have everything of ours logged, from INFO on; yield the logger above all, and its handler."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every locale has all characters that a client's name, or ours, may have.
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(CompactFormatter(DEFAULT_LOG_FORMAT))
    logger = make_logger("electrumx", handler=handler, level=logging.INFO)
    try:
        yield logger, handler
    finally:
        handler.flush()
        logger.removeHandler(handler)
