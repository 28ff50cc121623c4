"""The node: one HTTP JSON-RPC connection pool, retry and fail-over, and the calls we make.

Owns the list of node URLs, which of them is in use, and the last height heard. Knows nothing
of what callers do with the answers, nor of blocks and transactions beyond their hex.

Runs in: the event loop. Parsing of big bodies and of long hex goes to worker threads.

Two kinds of failure are told apart. A node that cannot be reached, is starting up, refuses
service or answers something that is no JSON-RPC reply is asked again for ever (the caller
cancels if it grows tired). A JSON-RPC error, or a reply whose *result* is not what the method
promises, is raised as DaemonError. Nothing else leaves this module.

A reply larger than Daemon.RESPONSE_CLASS.max_bytes (1 GiB) is not read to its end: it raises
DaemonError.
"""

import asyncio
import errno
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import aiohttp
import orjson
import yarl
from aiorpcx import JSONRPC

from electrumx.lib.coins import Coin
from electrumx.lib.errors import ElectrumXError, OperatorError
from electrumx.lib.util import class_logger
from electrumx.server.mempool_listing import Listing, listing_of, parse_reply
from electrumx.server.rest import RestBlocks
from electrumx.server.tx_requests import TxRequests

# Work on less than this many bytes (characters of hex) is done on the loop: a thread's hand-over
# costs about as much.
THREAD_THRESHOLD = 200_000
# What we show of a node's or our own text in a log line, in characters.
MAX_LOGGED_TEXT = 300
# A logical request logs a failure at most this often, and all requests together at most that often.
REQUEST_LOG_SECS = 60.0
OUTAGE_LOG_SECS = 5.0
# getnetworkinfo and getmempoolinfo are remembered this long.
INFO_CACHE_SECS = 60.0

CONNECTION_RESTORED = "connection restored"
RUNNING_NORMALLY = "running normally"


class DaemonError(ElectrumXError):
    """The node answered with an error.

    args[0] is the JSON-RPC error object (a dict with "code" and "message") of a single request,
    or a list of them for a batch.
    """


class _ReplyTooLargeError(DaemonError):
    """The node's answer exceeds the limit."""


class WarmingUpError(Exception):
    """Internal: the node is still starting up, ask again."""


class ServiceRefusedError(Exception):
    """Internal: the node, or what stands before it, answered something other than JSON."""


class MalformedReplyError(Exception):
    """Internal: the body is no JSON, or JSON but no JSON-RPC reply."""


class ParseErrorReply(Exception):
    """Internal: the node says that it could not parse our request, which bitcoind does at times."""


class ResponseTooLargeError(Exception):
    """Internal: the body exceeds the limit."""


_RETRIED = (
    asyncio.TimeoutError,
    aiohttp.ClientError,
    OSError,
    ServiceRefusedError,
    WarmingUpError,
    MalformedReplyError,
    ParseErrorReply,
)


class BoundedResponse(aiohttp.ClientResponse):
    """A response that is never read beyond a limit, and whose big bodies are parsed in a thread."""

    # Limit of a JSON body in bytes; a batch of raw blocks is tens of megabytes.
    max_bytes = 1 << 30
    # Other bodies only serve to tell the operator why we were refused; the rest is cut off.
    max_text_bytes = 16_384

    async def json(self, **_kwargs: Any) -> Any:
        """Return the parsed body. Raises ResponseTooLargeError, MalformedReplyError."""
        return await self.parsed(_parse_json, self.max_bytes)

    async def parsed(self, parse: Callable[[bytearray], Any], max_bytes: int) -> Any:
        """Return what parse makes of the body. Raises ResponseTooLargeError, and what parse does."""
        max_bytes = min(max_bytes, self.max_bytes)
        chunks, length = [], 0
        async for chunk in self.content.iter_any():
            chunks.append(chunk)
            length += len(chunk)
            if length > max_bytes:
                raise ResponseTooLargeError(f"response is larger than {max_bytes:,d} bytes")

        def parse_all() -> Any:
            # Not joined on the way: an array of 20 MB takes 10 ms each time that it grows.
            return parse(bytearray().join(chunks))

        if length < THREAD_THRESHOLD:
            return parse_all()
        return await asyncio.to_thread(parse_all)

    async def text(self, *_args: Any, **_kwargs: Any) -> str:
        """Return the beginning of the body."""
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > self.max_text_bytes:
                break
        return body[: self.max_text_bytes].decode("utf-8", "replace")


def _parse_json(body: bytearray) -> Any:
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError) as e:
        raise MalformedReplyError(f"not JSON: {_printable(e)}") from None


def _parse_listing(body: bytearray) -> Any:
    return parse_reply(body, _parse_json)


def _printable(text: object) -> str:
    """Put text on one line, cut it, and take the credentials of any URL out of it."""
    line = re.sub(r"//\S*@", "//", " ".join(str(text).split()))
    if len(line) > MAX_LOGGED_TEXT:
        line = line[:MAX_LOGGED_TEXT] + "…"
    return "".join(c if c.isprintable() else "?" for c in line)


def _trouble(exc: Exception) -> tuple[str, str | None]:
    """Return what to log of exc, and what to log when it is over (None: nothing)."""
    if isinstance(exc, asyncio.TimeoutError):
        return "timeout error", None
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "disconnected", CONNECTION_RESTORED
    # aiohttp wraps most resets in an error of its own that only keeps the number.
    if isinstance(exc, ConnectionResetError) or (
        isinstance(exc, OSError) and exc.errno == errno.ECONNRESET
    ):
        return "connection reset", CONNECTION_RESTORED
    if isinstance(exc, (aiohttp.ClientConnectionError, OSError)):
        return "connection problem - check your daemon is running", CONNECTION_RESTORED
    if isinstance(exc, WarmingUpError):
        return "starting up checking blocks", RUNNING_NORMALLY
    if isinstance(exc, ParseErrorReply):
        return str(exc), RUNNING_NORMALLY
    if isinstance(exc, ServiceRefusedError):
        return f"daemon service refused: {_printable(exc)}", RUNNING_NORMALLY
    if isinstance(exc, MalformedReplyError):
        return f"malformed reply from daemon: {_printable(exc)}", RUNNING_NORMALLY
    # Some aiohttp errors have no text of their own.
    return f"daemon error: {_printable(exc) or type(exc).__name__}", RUNNING_NORMALLY


def _unexpected(method: str) -> DaemonError:
    return DaemonError(
        {"code": JSONRPC.INTERNAL_ERROR, "message": f"daemon's answer to {method} makes no sense"}
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unhex_or_none(value: object) -> bytes | None:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _pulse(event: asyncio.Event) -> None:
    event.set()
    event.clear()


@dataclass(slots=True, frozen=True)
class _Reading:
    """How the body of an answer is read: by which function, and how many bytes of it."""

    parse: Callable[[bytearray], Any]
    max_bytes: int = BoundedResponse.max_bytes


_AS_JSON = _Reading(_parse_json)
_AS_LISTING = _Reading(_parse_listing)
# Ten of them may be under way; transactions of ordinary size take a hundredth of it.
_AS_TX_BATCH = _Reading(_parse_json, max_bytes=16_000_000)


def _encoded(payload: object) -> str:
    try:
        return orjson.dumps(payload).decode()
    except TypeError:
        # A number that a client gave us, of more than 64 bits
        return json.dumps(payload)


async def _unhex_list(values: Sequence[object]) -> list[bytes | None]:
    """Convert hex texts to bytes, in a thread if they are long; None for what is not hex."""
    length = sum(len(value) for value in values if isinstance(value, str))
    if length < THREAD_THRESHOLD:
        return [_unhex_or_none(value) for value in values]
    return await asyncio.to_thread(lambda: [_unhex_or_none(value) for value in values])


class _OutageLog:
    """Logs failures and fail-overs of all requests, on average once every OUTAGE_LOG_SECS.

    When a node goes away every request in flight fails at once, and each is retried several
    times a second at first.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self._last_time = float("-inf")  # monotonic seconds of the last line
        self._recovery: str | None = None  # owed to the log when a request succeeds again
        self._moved = False  # a fail-over was logged since a request last succeeded

    def failed(self, text: str, recovery: str | None) -> bool:
        """Log a failure unless one was logged just now; return True if it was logged."""
        now = time.monotonic()
        if now - self._last_time < OUTAGE_LOG_SECS:
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
        """Log that the trouble is over, once for each logged failure."""
        self._moved = False
        if self._recovery:
            self.logger.info(self._recovery)
            self._recovery = None


class _Retry:
    """Delays of one logical request between its attempts, in seconds."""

    def __init__(self, init_retry: float, max_retry: float) -> None:
        self._init_retry = init_retry
        self._max_retry = max_retry
        self._delay = init_retry
        self._url: str | None = None  # which the delay has grown for
        self._logged = float("-inf")

    def failed_at(self, url: str) -> None:
        """Note that an attempt at url failed; patience starts anew with each URL."""
        if url != self._url:
            self._url = url
            self._delay = min(self._delay, self._init_retry)

    @property
    def exhausted(self) -> bool:
        """True if the node has been given all the time it gets before another is tried."""
        return self._delay >= self._max_retry

    def at_once(self) -> None:
        """Do not wait before the next attempt."""
        self._delay = 0.0

    def next_delay(self) -> float:
        """How long to wait now; the next wait is twice as long."""
        delay = self._delay
        self._delay = max(min(self._max_retry, delay * 2), self._init_retry)
        return delay

    def log(self, outage: _OutageLog, exc: Exception) -> None:
        """Log exc unless this request, or any other just now, has logged a failure."""
        if time.monotonic() - self._logged >= REQUEST_LOG_SECS and outage.failed(*_trouble(exc)):
            self._logged = time.monotonic()


class _InfoCache:
    """The last answer to a parameterless call, kept INFO_CACHE_SECS; one call at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._expires = float("-inf")
        self._value: dict[str, Any] = {}

    async def get(self, fetch: Callable[[], Any]) -> dict[str, Any]:
        """Return a copy of the remembered dict, first awaiting fetch() if it is too old."""
        async with self._lock:
            if time.monotonic() >= self._expires:
                self._value = await fetch()
                self._expires = time.monotonic() + INFO_CACHE_SECS
            return self._value.copy()


class Daemon:
    """The node, or several of them of which one is in use.

    coin:        its sanitize_url() and parameters are used
    url:         comma-separated URLs with user and password; the first is used first
    max_workqueue: most HTTP requests in flight (bitcoind's own queue is 16; a batch is one)
    init_retry, max_retry: first and longest wait between attempts, in seconds

    Use as an async context manager, which opens and closes the HTTP session.
    Three events are set and cleared at once, so that waiting for one means waiting for the next
    time: height_changed when a polled height differs from the one before, tip_changed when
    somebody heard (and told through tip_news) that the node has another tip, url_changed when
    another URL is in use.
    """

    WARMING_UP = -28
    PARSE_ERROR = JSONRPC.PARSE_ERROR
    RESPONSE_CLASS = BoundedResponse
    # Of one HTTP exchange from connecting to the last byte of the body.
    TIMEOUT_SECS = 300.0
    # To fetch blocks by, where the node has REST.
    REST_CONNECTIONS = 4

    id_counter = itertools.count()

    def __init__(
        self,
        coin: type[Coin],
        url: str,
        *,
        max_workqueue: int = 10,
        init_retry: float = 0.25,
        max_retry: float = 4.0,
    ) -> None:
        self.coin = coin
        self.logger = class_logger(__name__, self.__class__.__name__)
        self.url_index = 0
        self.urls: list[str] = []
        self.height_changed = asyncio.Event()
        self.tip_changed = asyncio.Event()
        self.url_changed = asyncio.Event()
        self.set_url(url)
        self.workqueue_semaphore = asyncio.Semaphore(max_workqueue)
        self.init_retry = init_retry
        self.max_retry = max_retry
        self.session: aiohttp.ClientSession | None = None
        self._height: int | None = None
        self._outage = _OutageLog(self.logger)
        # One place is left for other requests.
        connections = min(self.REST_CONNECTIONS, max_workqueue - 1)
        self._rest = RestBlocks(self.logger, self.workqueue_semaphore, connections)
        self._available_rpcs: dict[str, bool] = {}
        self._tx_requests = TxRequests(self._raw_txs_or_errors)
        self._network_info = _InfoCache()
        self._mempool_info = _InfoCache()

    async def __aenter__(self) -> "Daemon":
        self.session = aiohttp.ClientSession(
            connector=self.connector(),
            response_class=self.RESPONSE_CLASS,
            timeout=aiohttp.ClientTimeout(total=self.TIMEOUT_SECS, sock_connect=30),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        assert self.session is not None
        self._rest.close()
        await self.session.close()
        self.session = None

    def connector(self) -> aiohttp.BaseConnector | None:
        """Return the connector for the HTTP session; None means aiohttp's default."""
        return None

    # -- URLs

    def set_url(self, url: str) -> None:
        """Replace the list of nodes by the comma-separated url and use its first.

        Raises OperatorError (CoinError) if any of them is bad; then nothing is changed.
        """
        urls = [self.coin.sanitize_url(one) for one in url.split(",")]
        for one in urls:
            self._check_url(one)
        for n, one in enumerate(urls):
            current = "" if n else " (current)"
            self.logger.info(f"daemon #{n + 1} at {self.logged_url(one)}{current}")
        self.url_index = 0
        self.urls = urls
        _pulse(self.url_changed)

    def _check_url(self, url: str) -> None:
        """Refuse at once what would only fail, endlessly, when a request is sent."""
        try:
            parsed = yarl.URL(url)
            # aiohttp sends user and password in this character set.
            f"{parsed.user}{parsed.password}".encode("latin-1")
            good = bool(parsed.host)
        except ValueError:
            good = False
        if not good:
            raise OperatorError(f"cannot use daemon URL with host {self.logged_url(url)}")

    def current_url(self) -> str:
        """Return the URL in use, with its credentials."""
        return self.urls[self.url_index]

    def logged_url(self, url: str | None = None) -> str:
        """Return url (default: the one in use) without scheme and credentials, for people."""
        url = url or self.current_url()
        return url[url.rindex("@") + 1 :]

    def failover(self) -> bool:
        """Use the next URL; return False if there is only one."""
        if len(self.urls) <= 1:
            return False
        self.url_index = (self.url_index + 1) % len(self.urls)
        _pulse(self.url_changed)
        self._outage.moved(self.logged_url())
        return True

    # -- Requests

    async def _post(self, url: str, data: str, reading: _Reading) -> Any:
        """Send data to url when a slot is free; return the parsed JSON of the answer."""
        async with self.workqueue_semaphore:
            return await self._exchange(url, data, reading)

    async def _exchange(self, url: str, data: str, reading: _Reading, **options: Any) -> Any:
        """Send data to url; return the parsed JSON of the answer."""
        if self.session is None:
            raise RuntimeError("the daemon's HTTP session is not open")
        async with self.session.post(url, data=data, **options) as resp:
            content_type = resp.headers.get("Content-Type") or ""
            if content_type.partition(";")[0].strip().lower() == "application/json":
                try:
                    # A stand-in for the session need not know how to read otherwise.
                    if reading is not _AS_JSON and isinstance(resp, BoundedResponse):
                        return await resp.parsed(reading.parse, reading.max_bytes)
                    return await resp.json()
                except ValueError as e:
                    raise MalformedReplyError(f"not JSON: {e}") from None
            # bitcoind answers "Work queue depth exceeded" as text, and 401 with an empty body.
            text = (await resp.text()).strip()
            raise ServiceRefusedError(text or resp.reason)

    async def _send(
        self, payload: object, processor: Callable[[Any], Any], reading: _Reading
    ) -> Any:
        """POST payload as JSON and return what processor makes of the answer.

        Asks again, and at other URLs, until there is an answer. processor raises WarmingUpError,
        MalformedReplyError or ParseErrorReply to have the request repeated, DaemonError to end it.
        """
        data = _encoded(payload)
        retry = _Retry(self.init_retry, self.max_retry)
        while True:
            url = self.current_url()
            try:
                result = processor(await self._post(url, data, reading))
            except ResponseTooLargeError as e:
                error = {"code": JSONRPC.INTERNAL_ERROR, "message": str(e)}
                raise _ReplyTooLargeError(error if isinstance(payload, dict) else [error]) from None
            except DaemonError:
                self._outage.succeeded()
                raise
            except ParseErrorReply as e:
                request = _printable(data[: 2 * MAX_LOGGED_TEXT])
                retry.log(self._outage, ParseErrorReply(f"{e}. request was: {request}"))
            except _RETRIED as e:
                retry.log(self._outage, e)
            else:
                self._outage.succeeded()
                return result

            retry.failed_at(url)
            # Many requests fail together: only the first moves on, else they would rotate past
            # a healthy node, or back to the dead one.
            if url != self.current_url() or (retry.exhausted and self.failover()):
                retry.at_once()
            await asyncio.sleep(retry.next_delay())

    def _check_error(self, item: object) -> dict[str, Any] | None:
        """Return the error object of a reply, None if it has none."""
        if not isinstance(item, dict):
            raise MalformedReplyError("not a JSON-RPC response object")
        error = item.get("error")
        if not error:
            if "result" not in item:
                raise MalformedReplyError("response has neither result nor error")
            return None
        if not isinstance(error, dict):
            raise MalformedReplyError("error is not an object")
        code = error.get("code")
        if code == self.WARMING_UP:
            raise WarmingUpError
        if code == self.PARSE_ERROR:
            message = _printable(error.get("message"))
            raise ParseErrorReply(f"received RPC_PARSE_ERROR ({message})")
        return error

    async def _send_single(
        self, method: str, params: Sequence[Any] = (), reading: _Reading = _AS_JSON
    ) -> Any:
        """Call method; return its result. Raises DaemonError with the node's error object."""

        def processor(reply: Any) -> Any:
            error = self._check_error(reply)
            if error is not None:
                raise DaemonError(error)
            return reply["result"]

        # No "jsonrpc" member: newer Core would then answer in 2.0 form.
        payload: dict[str, Any] = {"method": method, "id": next(self.id_counter)}
        if params:
            payload["params"] = list(params)
        return await self._send(payload, processor, reading)

    async def call_aside(
        self, url: str, method: str, params: Sequence[Any], timeout_secs: float
    ) -> Any:
        """Call method at url once, beside the slots for requests; return its result.

        For calls that wait at the node.  Raises DaemonError with the node's error object, and
        ConnectionError for whatever keeps it from answering; nothing is logged.
        """
        payload = {"method": method, "id": next(self.id_counter), "params": list(params)}
        timeout = aiohttp.ClientTimeout(total=timeout_secs)
        try:
            reply = await self._exchange(url, json.dumps(payload), _AS_JSON, timeout=timeout)
            error = self._check_error(reply)
        except (*_RETRIED, ResponseTooLargeError) as e:
            raise ConnectionError(_trouble(e)[0]) from e
        if error is not None:
            raise DaemonError(error)
        return reply["result"]

    async def _send_vector(
        self,
        method: str,
        params_iterable: Iterable[Sequence[Any]],
        replace_errs: bool = False,
        reading: _Reading = _AS_JSON,
    ) -> list[Any]:
        """Call method once for each item of params_iterable, in one HTTP request.

        Return the results in the same order. Failed ones are None if replace_errs, otherwise
        DaemonError is raised with the list of the error objects.
        """
        payload = [
            {"method": method, "params": list(params), "id": next(self.id_counter)}
            for params in params_iterable
        ]
        if not payload:
            return []
        ids: list[object] = [item["id"] for item in payload]

        def processor(reply: Any) -> list[Any]:
            items = self._batch_items(reply, ids)
            errors = [self._check_error(item) for item in items]
            if any(errors) and not replace_errs:
                raise DaemonError([error for error in errors if error])
            return [item.get("result") for item in _in_order(items, ids)]

        results: list[Any] = await self._send(payload, processor, reading)
        return results

    def _batch_items(self, reply: Any, ids: list[object]) -> list[Any]:
        """Return the responses in the reply to a batch, in whatever order they came."""
        if isinstance(reply, dict):
            # A whole batch may be answered by one error.
            error = self._check_error(reply)
            if error is not None:
                raise DaemonError([error])
        if not isinstance(reply, list) or len(reply) != len(ids):
            raise MalformedReplyError("not one response for each request of a batch")
        return reply

    async def _send_each(self, method: str, params: Iterable[Sequence[Any]]) -> list[Any]:
        """Call method for each item of params, in one HTTP request.

        Return, in the same order, each one's result or the DaemonError that it met.
        """
        payload = [
            {"method": method, "params": list(item), "id": next(self.id_counter)} for item in params
        ]
        ids: list[object] = [item["id"] for item in payload]

        def processor(reply: Any) -> list[Any]:
            items = self._batch_items(reply, ids)
            for item in items:
                self._check_error(item)
            return [
                DaemonError(item["error"]) if item.get("error") else item["result"]
                for item in _in_order(items, ids)
            ]

        results: list[Any] = await self._send(payload, processor, _AS_TX_BATCH)
        return results

    async def _is_rpc_available(self, method: str) -> bool:
        """Return whether the node knows method. The answer is remembered for ever."""
        available = self._available_rpcs.get(method)
        if available is None:
            available = True
            try:
                await self._send_single(method)
            except DaemonError as e:
                # Other errors are the help text for the missing parameters.
                available = e.args[0].get("code") != JSONRPC.METHOD_NOT_FOUND
            self._available_rpcs[method] = available
        return available

    async def _send_for_dict(self, method: str, params: Sequence[Any] = ()) -> dict[str, Any]:
        result = await self._send_single(method, params)
        if not isinstance(result, dict):
            raise _unexpected(method)
        return result

    async def _hex_batch(self, method: str, params: Iterable[Sequence[Any]]) -> list[bytes]:
        """Call method in a batch; every result must be hex."""
        items = await _unhex_list(await self._send_vector(method, params))
        good = [item for item in items if item is not None]
        if len(good) != len(items):
            raise _unexpected(method)
        return good

    # -- Calls

    async def height(self) -> int:
        """Ask the node for its height, and remember it."""
        height = await self._send_single("getblockcount")
        if not _is_int(height):
            raise _unexpected("getblockcount")
        self._set_height(height)
        return int(height)

    def _set_height(self, height: int) -> None:
        if height != self._height:
            self._height = height
            _pulse(self.height_changed)

    async def tip_news(self) -> None:
        """Take note that the node has another tip than before: ask for its height."""
        try:
            await self.height()
        except DaemonError as e:
            self.logger.info(f"ignoring daemon error: {e}")
        _pulse(self.tip_changed)

    def cached_height(self) -> int | None:
        """Return the height last heard, None before the first time."""
        return self._height

    async def block_hex_hashes(self, first: int, count: int) -> list[str]:
        """Return the hex hashes of count blocks from height first."""
        hashes = await self._send_vector(
            "getblockhash", ((h,) for h in range(first, first + count))
        )
        return self._checked_hashes("getblockhash", hashes)

    @staticmethod
    def _checked_hashes(method: str, hashes: object) -> list[str]:
        if not isinstance(hashes, list) or not all(isinstance(item, str) for item in hashes):
            raise _unexpected(method)
        return hashes

    async def deserialised_block(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block."""
        return await self._send_for_dict("getblock", (hex_hash, True))

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the raw blocks with the given hashes, all of them and in the same order."""
        hex_hashes = list(hex_hashes)
        # A stand-in for the session has no REST.
        if hex_hashes and isinstance(self.session, aiohttp.ClientSession):
            blocks = await self._rest.raw_blocks(self.current_url(), hex_hashes)
            if blocks is not None:
                return blocks
        return await self._hex_batch("getblock", ((h, False) for h in hex_hashes))

    async def mempool_hashes(self) -> list[str]:
        """Return the hex hashes of the transactions in the node's mempool."""
        hashes = await self._send_single("getrawmempool")
        return self._checked_hashes("getrawmempool", hashes)

    async def mempool_listing(self) -> Listing:
        """Return the same as mempool_hashes, binary, without stalling the loop if it is long.

        What is text, but no hash, is left out.
        """
        listing = await self._send_single("getrawmempool", reading=_AS_LISTING)
        if isinstance(listing, Listing):
            return listing
        hashes = self._checked_hashes("getrawmempool", listing)
        return await asyncio.to_thread(listing_of, hashes)

    async def estimatefee(self, block_count: int, estimate_mode: str | None = None) -> float:
        """Return the fee, in coins per kilobyte, to confirm within block_count blocks.

        -1 if the node cannot tell. estimate_mode is passed on unless it is None.
        """
        params = (block_count,) if estimate_mode is None else (block_count, estimate_mode)
        if await self._is_rpc_available("estimatesmartfee"):
            estimate = await self._send_for_dict("estimatesmartfee", params)
            return self._checked_number("estimatesmartfee", estimate.get("feerate", -1))
        try:
            fee = await self._send_single("estimatefee", params)
        except DaemonError as e:
            # The Bitcoin SV node has neither; wallets drop a server that answers with an error.
            if e.args[0].get("code") != JSONRPC.METHOD_NOT_FOUND:
                raise
            return -1
        return self._checked_number("estimatefee", fee)

    @staticmethod
    def _checked_number(method: str, value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _unexpected(method)
        return value

    async def getnetworkinfo(self) -> dict[str, Any]:
        """Return the node's getnetworkinfo, up to 60 seconds old."""
        return await self._network_info.get(lambda: self._send_for_dict("getnetworkinfo"))

    async def getmempoolinfo(self) -> dict[str, Any]:
        """Return the node's getmempoolinfo, up to 60 seconds old."""
        return await self._mempool_info.get(lambda: self._send_for_dict("getmempoolinfo"))

    async def relayfee(self) -> float:
        """Return the least fee, in coins per kilobyte, for the node to relay a transaction."""
        network_info = await self.getnetworkinfo()
        return self._checked_number("getnetworkinfo", network_info.get("relayfee"))

    async def getrawtransaction(self, hex_hash: str, verbose: bool = False) -> Any:
        """Return the transaction as hex, or the node's JSON form of it if verbose.

        Those asked for as hex at about the same time go to the node in one batch.
        """
        if not verbose:
            return await self._tx_requests.get(hex_hash)
        # Old nodes want an integer.
        return await self._send_single("getrawtransaction", (hex_hash, 1))

    async def _raw_txs_or_errors(self, hex_hashes: Sequence[str]) -> list[Any]:
        """Return the hex of each transaction, or the DaemonError that is its answer."""
        params = [(hex_hash, 0) for hex_hash in hex_hashes]
        if len(params) > 1:
            try:
                return await self._send_each("getrawtransaction", params)
            except DaemonError:
                # Of the batch as a whole: not allowed, or too large an answer.
                pass
        requests = (self._send_single("getrawtransaction", item) for item in params)
        return await asyncio.gather(*requests, return_exceptions=True)

    async def getrawtransactions(
        self, hex_hashes: Iterable[str], replace_errs: bool = True
    ) -> list[bytes | None]:
        """Return the raw transactions with the given hashes, in the same order.

        Those the node does not know, or answers without hex, are None if replace_errs; otherwise
        DaemonError is raised.
        """
        hex_hashes = list(hex_hashes)
        params = [(hex_hash, 0) for hex_hash in hex_hashes]
        if not replace_errs:
            return list(await self._hex_batch("getrawtransaction", params))
        reading = _AS_TX_BATCH if len(params) > 1 else _AS_JSON
        try:
            raw_txs = await self._send_vector("getrawtransaction", params, True, reading)
        except _ReplyTooLargeError:
            if len(params) <= 1:
                raise
            # In halves, until it fits: nobody knows beforehand how long a transaction is.
            half = len(params) // 2
            first = await self.getrawtransactions(hex_hashes[:half])
            return first + await self.getrawtransactions(hex_hashes[half:])
        return [raw_tx or None for raw_tx in await _unhex_list(raw_txs)]

    async def broadcast_transaction(self, raw_tx: str) -> str:
        """Give a transaction, in hex, to the network; return its hex hash."""
        tx_hash = await self._send_single("sendrawtransaction", (raw_tx,))
        if not isinstance(tx_hash, str):
            raise _unexpected("sendrawtransaction")
        return tx_hash

    async def submitpackage(self, raw_txs: Sequence[str]) -> dict[str, Any]:
        """Give a package of transactions, in hex and child last, to the network."""
        return await self._send_for_dict("submitpackage", (list(raw_txs),))

    async def testmempoolaccept(self, raw_txs: Sequence[str]) -> list[dict[str, Any]]:
        """Return, for each transaction in hex, whether the node's mempool would take it."""
        results = await self._send_single("testmempoolaccept", (list(raw_txs),))
        if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
            raise _unexpected("testmempoolaccept")
        return results

    async def gettxspendingprevout(self, txid: str, txout_idx: int) -> dict[str, Any]:
        """Return txid, vout and, if that output is spent, spendingtxid (and blockhash)."""
        outpoint = {"txid": txid, "vout": txout_idx}
        params = ([outpoint], {"mempool_only": False})
        results = await self._send_single("gettxspendingprevout", params)
        if not isinstance(results, list) or not results or not isinstance(results[0], dict):
            raise _unexpected("gettxspendingprevout")
        return dict(results[0])

    async def getblockheader(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block's header."""
        return await self._send_for_dict("getblockheader", (hex_hash, True))

    async def gettxoutsetinfo(self, hex_hash: str | None = None) -> dict[str, Any]:
        """Return the number and sum of the node's unspent outputs, which can take it minutes.

        They are those at its tip, or at the block ``hex_hash``, which needs its coinstatsindex.
        """
        # No hash of the set, which takes longest; nodes before 0.21 know only the slow form.
        params = ("none",) if hex_hash is None else ("none", hex_hash)
        try:
            return await self._send_for_dict("gettxoutsetinfo", params)
        except DaemonError:
            if hex_hash is not None:
                raise
            return await self._send_for_dict("gettxoutsetinfo")

    async def getindexinfo(self) -> dict[str, Any]:
        """Return the indexes that the node keeps: name to a dict with "synced"."""
        return await self._send_for_dict("getindexinfo")

    # -- Checks at start

    async def check_version(self) -> None:
        """Raise OperatorError if the node is older than the coin's minimum, if it has one."""
        minimum = self.coin.MIN_REQUIRED_DAEMON_VERSION
        if not minimum:
            return
        version = (await self.getnetworkinfo()).get("version")
        if not isinstance(version, int):
            raise _unexpected("getnetworkinfo")
        have = (version // 10_000, version // 100 % 100, version % 100)
        need = tuple(int(part) for part in minimum.split("."))
        if have < need:
            text = ".".join(str(part) for part in have)
            raise OperatorError(f"the daemon has version {text}, at least {minimum} is needed")

    async def check_indexes(self) -> None:
        """Raise OperatorError if the node does not keep an index that we depend on.

        A node that cannot tell is believed to keep it; an unfinished index only warns.
        """
        try:
            indexes = await self.getindexinfo()
        except DaemonError as e:
            if e.args[0].get("code") != JSONRPC.METHOD_NOT_FOUND:
                raise
            self.logger.info("the daemon cannot list its indexes; not checked")
            return
        for name in self.coin.REQUIRED_DAEMON_INDEXES:
            index = indexes.get(name)
            if not isinstance(index, dict):
                raise OperatorError(
                    f"the daemon at {self.logged_url()} has no {name}: "
                    f"set {name}=1 in its configuration and let it reindex"
                )
            if not index.get("synced"):
                self.logger.warning(f"the daemon's {name} is not complete yet; queries may fail")


def _in_order(reply: list[dict[str, Any]], ids: list[object]) -> list[dict[str, Any]]:
    """Put responses in the order of their requests, which JSON-RPC does not promise."""
    by_id = {item.get("id"): item for item in reply if isinstance(item.get("id"), int)}
    if len(by_id) == len(ids) and all(request_id in by_id for request_id in ids):
        return [by_id[request_id] for request_id in ids]
    # Nodes that do not echo our ids answer in order.
    return reply


def __getattr__(name: str) -> Any:
    """Find the nodes of other coins by the names that they have always had here.

    Their module imports this one.
    """
    if name.endswith("Daemon"):
        found = getattr(import_module("electrumx.server.daemon_variants"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
