"""Classifies, logs and retries failures to reach the node.

Owns the log of an outage, which all requests share, and the delays of each request.  Knows neither
URLs nor calls.  Runs in: the event loop.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
import time

import aiohttp

from electrumx.lib.log_text import printable
from electrumx.server.runtime.node_contact import Cause

# A logical request logs a failure at most this often, and all requests together at most that often.
REQUEST_LOG_SECS = 60.0
OUTAGE_LOG_SECS = 5.0
# While an outage lasts, its text reappears in the log this often, by whichever request.
SAME_TEXT_LOG_SECS = 60.0

# Names that older versions of aiohttp lack.
_DNS_ERRORS: tuple[type[Exception], ...] = tuple(
    filter(None, [getattr(aiohttp, "ClientConnectorDNSError", None)])
)
_CONNECT_TIMEOUTS: tuple[type[Exception], ...] = tuple(
    filter(None, [getattr(aiohttp, "ConnectionTimeoutError", None)])
)

CONNECTION_RESTORED = "connection restored"
RUNNING_NORMALLY = "running normally"


class WarmingUpError(Exception):
    """Internal: the node is still starting up, ask again."""


class ServiceRefusedError(Exception):
    """Internal: the node, or a proxy before it, replied with something other than JSON."""

    #: the status of HTTP; None if unknown
    status: int | None = None


class MalformedReplyError(Exception):
    """Internal: the body is no JSON, or JSON but no JSON-RPC reply."""


class ParseErrorReply(Exception):
    """Internal: the node reports that it could not parse our request, as bitcoind does at times."""


class LoginFileError(Exception):
    """Internal: the file with the node's login is unusable; the text is the reason."""


class WrongNodeError(Exception):
    """Internal: no node of the list is usable; the text is the reason."""


#: the exceptions after which a request repeats
RETRIED = (
    asyncio.TimeoutError,
    aiohttp.ClientError,
    OSError,
    LoginFileError,
    ServiceRefusedError,
    WarmingUpError,
    MalformedReplyError,
    ParseErrorReply,
    WrongNodeError,
)


HTTP_UNAUTHORIZED = 401
CONNECTION_PROBLEM = "connection problem - check your daemon is running"


def _cause(exc: Exception) -> str:
    """Return why a connection could not be made or kept, for people; empty if that is unknown."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        reason = exc.certificate_error
        text = getattr(reason, "verify_message", "") or reason
        return f"TLS: its certificate is not trusted, {text}"
    if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)):
        reason = getattr(exc, "os_error", exc)
        text = getattr(reason, "reason", "") or reason
        return f"TLS: {text}, does it speak https at this port?"
    # aiohttp wraps the error of the system.
    error = getattr(exc, "os_error", exc)
    if isinstance(error, socket.gaierror) or isinstance(exc, _DNS_ERRORS):
        return f"unknown host, {getattr(error, 'strerror', '') or error}"
    number = getattr(error, "errno", None)
    if number == errno.ECONNREFUSED or isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if number:
        return os.strerror(number)
    return str(error)


def _timeout_text(exc: Exception) -> str:
    if isinstance(exc, _CONNECT_TIMEOUTS):
        return "timeout error (no connection in time)"
    return "timeout error"


def failure_texts(exc: Exception) -> tuple[str, str | None]:
    """Return the text to log for exc, and the text to log when it is over (None: nothing)."""
    if isinstance(exc, asyncio.TimeoutError):
        return _timeout_text(exc), None
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "disconnected", CONNECTION_RESTORED
    # aiohttp wraps most resets in an error of its own that only keeps the number.
    if isinstance(exc, ConnectionResetError) or (
        isinstance(exc, OSError) and exc.errno == errno.ECONNRESET
    ):
        return "connection reset", CONNECTION_RESTORED
    if isinstance(exc, (aiohttp.ClientConnectionError, OSError)):
        cause = printable(_cause(exc))
        text = f"{CONNECTION_PROBLEM} ({cause})" if cause else CONNECTION_PROBLEM
        return text, CONNECTION_RESTORED
    if isinstance(exc, LoginFileError):
        return printable(exc), CONNECTION_RESTORED
    if isinstance(exc, WarmingUpError):
        return "starting up checking blocks", RUNNING_NORMALLY
    if isinstance(exc, ParseErrorReply):
        return str(exc), RUNNING_NORMALLY
    if isinstance(exc, ServiceRefusedError):
        return f"daemon service refused: {printable(exc)}", RUNNING_NORMALLY
    if isinstance(exc, WrongNodeError):
        return printable(exc), RUNNING_NORMALLY
    if isinstance(exc, MalformedReplyError):
        return f"malformed reply from daemon: {printable(exc)}", RUNNING_NORMALLY
    # Some aiohttp errors have no text of their own.
    return f"daemon error: {printable(exc) or type(exc).__name__}", RUNNING_NORMALLY


def cause_of(exc: Exception) -> Cause:
    """Return the kind of failure that an exception of RETRIED is."""
    error = getattr(exc, "os_error", exc)
    if isinstance(exc, asyncio.TimeoutError):
        return Cause.TIMEOUT
    if isinstance(exc, LoginFileError):
        return Cause.UNAUTHORIZED
    if isinstance(exc, ServiceRefusedError):
        return Cause.UNAUTHORIZED if exc.status == HTTP_UNAUTHORIZED else Cause.OTHER
    if isinstance(exc, WarmingUpError):
        return Cause.STARTING_UP
    if isinstance(exc, (MalformedReplyError, ParseErrorReply)):
        return Cause.MALFORMED
    if isinstance(exc, WrongNodeError):
        return Cause.WRONG_NODE
    if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)):
        return Cause.TLS
    if isinstance(error, socket.gaierror) or isinstance(exc, _DNS_ERRORS):
        return Cause.UNKNOWN_HOST
    if isinstance(error, ConnectionRefusedError) or (
        getattr(error, "errno", None) == errno.ECONNREFUSED
    ):
        return Cause.REFUSED
    if isinstance(exc, aiohttp.ClientConnectorError):
        return Cause.UNREACHABLE
    if isinstance(exc, (aiohttp.ClientConnectionError, OSError)):
        return Cause.DISCONNECTED
    return Cause.OTHER


class RepeatFilter:
    """Passes a text once, and again after SAME_TEXT_LOG_SECS or when another came between."""

    def __init__(self) -> None:
        self._text = ""
        self._time = float("-inf")  # monotonic seconds at which it was passed

    def passes(self, text: str) -> bool:
        """Return whether to log a text now."""
        now = time.monotonic()
        if text == self._text and now - self._time < SAME_TEXT_LOG_SECS:
            return False
        self._text, self._time = text, now
        return True

    def reset(self) -> None:
        """Pass the next text, whatever it is."""
        self._text = ""


class OutageLog:
    """Logs failures and fail-overs of all requests, on average once every OUTAGE_LOG_SECS at most.

    The last text repeats after SAME_TEXT_LOG_SECS, or earlier if a success came between.

    When a node goes away every request in flight fails at once, and each repeats several
    times a second at first.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self._last_time = float("-inf")  # monotonic seconds of the last line
        self._recovery: str | None = None  # owed to the log when a request succeeds again
        self._repeats = RepeatFilter()  # of the outage that lasts
        self._moved = False  # a fail-over was logged since a request last succeeded

    def failed(self, text: str, recovery: str | None) -> bool:
        """Log a failure unless one was logged just now; return whether it did so."""
        now = time.monotonic()
        if now - self._last_time < OUTAGE_LOG_SECS:
            return False
        if not self._repeats.passes(text):
            return False
        self._last_time = now
        self._recovery = recovery
        self.logger.error(f"{text}.  Retrying occasionally...")
        return True

    def moved(self, where: str) -> None:
        """Log a fail-over; if all nodes are dead only the first of many is sure to be logged."""
        now = time.monotonic()
        if self._moved and now - self._last_time < OUTAGE_LOG_SECS:
            return
        self._moved = True
        # A line that comes early uses up the turn of the next.
        self._last_time = max(now, self._last_time + OUTAGE_LOG_SECS)
        self.logger.info(f"failing over to {where}")

    def succeeded(self) -> None:
        """Log that the failure is over, once for each logged failure."""
        self._moved = False
        self._repeats.reset()
        if self._recovery:
            self.logger.info(self._recovery)
            self._recovery = None


class Retry:
    """Delays of one logical request between its attempts, in seconds."""

    def __init__(self, init_retry: float, max_retry: float) -> None:
        self._init_retry = init_retry
        self._max_retry = max_retry
        self._delay = init_retry
        self._url: str | None = None  # which the delay has grown for
        self._logged = float("-inf")

    def failed_at(self, url: str) -> None:
        """Note that an attempt at url failed; each URL has the full patience."""
        if url != self._url:
            self._url = url
            self._delay = min(self._delay, self._init_retry)

    @property
    def exhausted(self) -> bool:
        """True if the node has had all the time it gets before a try of another."""
        return self._delay >= self._max_retry

    def at_once(self) -> None:
        """Do not wait before the next attempt."""
        self._delay = 0.0

    def next_delay(self) -> float:
        """How long to wait now; the next wait is twice as long."""
        delay = self._delay
        self._delay = max(min(self._max_retry, delay * 2), self._init_retry)
        return delay

    def log(self, outage: OutageLog, exc: Exception) -> None:
        """Log exc unless this request, or any other just now, has logged a failure."""
        if time.monotonic() - self._logged >= REQUEST_LOG_SECS and outage.failed(
            *failure_texts(exc)
        ):
            self._logged = time.monotonic()
