"""The log of our processes: its stream and its format.

Lines have a time where neither the journal nor another supervisor adds one: on a terminal and in a
file.  For the journal they begin with their priority, as sd-daemon(3) has it, and journald removes it.
"""

import io
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

from electrumx.lib.env_base import EnvBase, shown
from electrumx.lib.util import CompactFormatter, make_logger

DEFAULT_LOG_FORMAT = "%(levelname)s:%(name)s:%(message)s"
#: value of LOG_FORMAT for an object in each line
JSON_FORMAT = "json"

# Levels of logging, and the priorities of syslog(3) for them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
# A session's lines begin with its number.
_SESSION = re.compile(r"\[(\d+)\] (.*)", re.DOTALL)


def _utc_time(record: logging.LogRecord) -> str:
    """Return the time of a record as 2026-11-23T14:05:09.123Z."""
    seconds, msecs = divmod(round(record.created * 1_000_000) // 1000, 1000)
    return f"{_utc_second(seconds)}.{msecs:03d}Z"


# Most lines have the second of the line before.
@lru_cache(maxsize=1)
def _utc_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}"


class TimedFormatter(CompactFormatter):
    """The default format, after the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return f"{_utc_time(record)} {super().format(record)}"


class JSONFormatter(logging.Formatter):
    """An object in one line: time, level, logger, message, and session and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object of a record."""
        message = record.getMessage()
        fields: dict[str, Any] = {
            "time": _utc_time(record),
            "level": record.levelname.lower(),
            "logger": record.name.rpartition(".")[-1],
        }
        session = _SESSION.fullmatch(message)
        if session:
            fields["session"], message = int(session[1]), session[2]
        fields["message"] = message
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        # Escaped, so that any stream can take it.
        return json.dumps(fields)


class PriorityFormatter(logging.Formatter):
    """Another format, with the priority before each line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record; the journal makes an entry of each."""
        priority = next(
            (priority for level, priority in _PRIORITIES if record.levelno >= level),
            _DEBUG_PRIORITY,
        )
        lines = self._inner.format(record).split("\n")
        return "\n".join(f"<{priority}>{line}" for line in lines)


def is_journal(stream: TextIO) -> bool:
    """Return whether systemd's journal reads a stream: JOURNAL_STREAM has its device and inode."""
    named = EnvBase.default("JOURNAL_STREAM", "")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def _needs_times(stream: TextIO) -> bool:
    """Return whether no other program adds times to the lines of a stream, as far as known."""
    try:
        return stream.isatty() or stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def default_formatter(stream: TextIO) -> logging.Formatter:
    """Return the formatter for a stream where LOG_FORMAT is not set."""
    if is_journal(stream):
        return PriorityFormatter(CompactFormatter(DEFAULT_LOG_FORMAT))
    kind = TimedFormatter if _needs_times(stream) else CompactFormatter
    return kind(DEFAULT_LOG_FORMAT)


def make_formatter(stream: TextIO) -> logging.Formatter:
    """Return the formatter that LOG_FORMAT asks for; EnvBase.Error if it is no format."""
    text = EnvBase.default("LOG_FORMAT", None)
    if text is None:
        return default_formatter(stream)
    formatter: logging.Formatter = JSONFormatter()
    if text.strip().lower() != JSON_FORMAT:
        try:
            formatter = CompactFormatter(text)
            # Only logging shows a wrong field name.
            formatter.format(logging.makeLogRecord({"name": "electrumx", "msg": "", "args": None}))
        except (ValueError, KeyError, TypeError) as e:
            raise EnvBase.Error(
                f"envvar LOG_FORMAT value {shown(text)} is not a log format ({shown(str(e))}): "
                f"set json, or one like {DEFAULT_LOG_FORMAT}"
            ) from e
    return PriorityFormatter(formatter) if is_journal(stream) else formatter


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
        _ignore_stdout()


def print_lines(lines: Iterable[str]) -> int:
    """Print lines; return 0.  A reader that closes the pipe early, as ``| head``, is no error."""
    never_fail_to_encode(sys.stdout)
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        _ignore_stdout()
    return 0


def _ignore_stdout() -> None:
    # The interpreter flushes once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def logging_to_stdout() -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """Have everything of ours logged, from INFO on; yield the logger above all, and its handler."""
    never_fail_to_encode(sys.stdout)
    handler = _Handler(sys.stdout)
    handler.setFormatter(default_formatter(sys.stdout))
    logger = make_logger("electrumx", handler=handler, level=logging.INFO)
    try:
        yield logger, handler
    finally:
        _flush(handler)
        logger.removeHandler(handler)
