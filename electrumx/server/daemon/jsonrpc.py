"""Requests to the node: JSON-RPC over a pool of HTTP connections, with retry and fail-over.

Owns the list of node URLs, and which of them is in use.  Knows no methods but the form of requests and
replies; ``Daemon`` makes its calls through it.  ``node_http`` has the HTTP session.

Runs in: the event loop.  Worker threads parse long answers.

There are two kinds of failure. While a node is unreachable, is starting up, refuses service or
answers something that is no JSON-RPC reply, requests repeat indefinitely (until the caller
cancels). A JSON-RPC error becomes a DaemonError, and so does HTTP status 403, which nodes
answer for a method that they do not allow.

A node that comes into use by fail-over, or by a change of the list, undergoes a check first. One
that fails it, say because it follows another chain, stays out of the list for LEFT_OUT_SECS.

Reading a reply stops at the limit of its method (``responses.REPLY_LIMITS``): a larger one
raises ReplyTooLargeError, a DaemonError.
"""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import aiohttp
import orjson
from aiorpcx import JSONRPC

from electrumx.lib.coins import Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.log_text import MAX_LOGGED_TEXT, printable
from electrumx.server.daemon.byte_budget import ByteBudget
from electrumx.server.daemon.call_record import CallForbiddenError, CallRecord
from electrumx.server.daemon.endpoint import Endpoint, endpoint_of, endpoints_of
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.daemon.node_http import ClosedHTTP, NodeHTTP
from electrumx.server.daemon.responses import (
    TOTAL_REPLY_BYTES,
    DaemonError,
    ForbiddenCallError,
    Reading,
    ReplyTooLargeError,
    ResponseTooLargeError,
    in_order,
    parse_json,
    reply_limit,
)
from electrumx.server.daemon.retry import (
    RETRIED,
    MalformedReplyError,
    OutageLog,
    ParseErrorReply,
    Retry,
    WarmingUpError,
    WrongNodeError,
    failure_texts,
)

# Warnings already logged, which do not repeat.
MAX_LOGGED_ONCE = 1_000


def pulse(event: asyncio.Event) -> None:
    """Wake the tasks that wait for an event now, and none that come later."""
    event.set()
    event.clear()


def _encoded(payload: object) -> str:
    try:
        return orjson.dumps(payload).decode()
    except TypeError:
        # A number that a client gave us, of more than 64 bits
        return json.dumps(payload)


class _LeftOut(NamedTuple):
    """Why a URL stays unused, and until which monotonic time."""

    reason: str
    until: float


def _method(payload: Any) -> str:
    """Return the method of a request, or of the requests of a batch."""
    request = payload if isinstance(payload, dict) else payload[0]
    return str(request["method"])


def _too_large(payload: Any, max_bytes: int) -> ReplyTooLargeError:
    message = f"the daemon's answer to {_method(payload)} is larger than {max_bytes:,d} bytes"
    error = {"code": JSONRPC.INTERNAL_ERROR, "message": message}
    return ReplyTooLargeError(error if isinstance(payload, dict) else [error])


class NodeRPC:
    """The node, or several of them of which one is in use, as an HTTP JSON-RPC server.

    logger:      of the class that makes the calls
    coin:        for its sanitize_url()
    url:         comma-separated URLs with user and password; use begins with the first
    max_workqueue: most HTTP requests in flight (bitcoind's own queue is 16; a batch is one)
    init_retry, max_retry: first and longest wait between attempts, in seconds
    login_files: the cookie or password files of URLs without a password

    warming_up:  the code of the error of a node that is starting
    check_node:  ``await check_node(url)`` raises OperatorError if the node at url is unusable

    Use of another URL sets the event url_changed and clears it at once, so that waiting
    for it means waiting for the next time.
    """

    # How long an unusable node stays out of the list, before another check of it.
    LEFT_OUT_SECS = 60.0

    id_counter = itertools.count()

    def __init__(
        self,
        logger: logging.Logger,
        coin: type[Coin],
        url: str,
        *,
        max_workqueue: int,
        init_retry: float,
        max_retry: float,
        login_files: LoginFiles | None,
        warming_up: int,
        check_node: Callable[[str], Awaitable[None]],
    ) -> None:
        self.logger = logger
        self._coin = coin
        self._warming_up = warming_up
        self._check_node = check_node
        self.url_index = 0
        self.urls: list[str] = []
        self._endpoints: dict[str, Endpoint] = {}
        #: the node in use was checked once
        self._started = False
        #: URLs to check before their use
        self._unchecked: set[str] = set()
        self._left_out: dict[str, _LeftOut] = {}
        #: seconds, by which a node is left out for a while
        self.clock: Callable[[], float] = time.monotonic
        self._check_lock = asyncio.Lock()
        self._logged_once: set[str] = set()
        self.url_changed = asyncio.Event()
        self.set_url(url, login_files)
        self.workqueue_semaphore = asyncio.Semaphore(max_workqueue)
        self.init_retry = init_retry
        self.max_retry = max_retry
        #: the HTTP session, once it is open
        self.http: NodeHTTP = ClosedHTTP()
        #: logs that the nodes do not reply, and that they do again
        self.outage = OutageLog(logger)
        #: bounds the bytes read concurrently
        self.budget = ByteBudget(TOTAL_REPLY_BYTES)
        #: contact with the node, counts and durations of calls
        self.calls = CallRecord()

    def use(self, http: NodeHTTP) -> None:
        """Send requests over another session from now on."""
        self.http = http

    # -- URLs

    def set_url(self, url: str, login_files: LoginFiles | None = None) -> None:
        """Replace the list of nodes by the comma-separated url and use its first.

        ``login_files`` has their logins, where a URL has none.  Raises OperatorError (CoinError) if
        any of them is bad; then nothing changes.
        """
        endpoints = endpoints_of(self._coin, url, login_files or LoginFiles())
        urls = list(endpoints)
        for n, one in enumerate(urls):
            current = "" if n else " (current)"
            self.logger.info(f"daemon #{n + 1} at {self.logged_url(one)}{current}")
        # Requests in progress still name a URL of the old list.
        old = {one: self._endpoints[one] for one in self.urls}
        self.url_index = 0
        self.urls = urls
        self._endpoints = old | endpoints
        # The checks at the start cover the first one.
        self._unchecked = set(urls if self._started else urls[1:])
        self._left_out = {}
        pulse(self.url_changed)

    def current_url(self) -> str:
        """Return the URL in use, with its credentials."""
        return self.urls[self.url_index]

    def logged_url(self, url: str | None = None) -> str:
        """Return url (default: the one in use) without scheme and credentials, for people."""
        url = url or self.current_url()
        return url[url.rindex("@") + 1 :]

    def failover(self) -> bool:
        """Use the next URL that is not left out; return False if there is no other."""
        for step in range(1, len(self.urls)):
            index = (self.url_index + step) % len(self.urls)
            if self._reason_left_out(self.urls[index]) is None:
                self.url_index = index
                self._unchecked.add(self.urls[index])
                self.calls.url_switches += 1
                pulse(self.url_changed)
                self.outage.moved(self.logged_url())
                return True
        return False

    def note_started(self) -> None:
        """Note that the node in use passed its check: from now on others need one before their use."""
        self._started = True

    def endpoint(self, url: str) -> Endpoint:
        """Return the address and login of a URL."""
        return self._endpoints.get(url) or endpoint_of(url)

    def _reason_left_out(self, url: str) -> str | None:
        left_out = self._left_out.get(url)
        if left_out is None or self.clock() >= left_out.until:
            return None
        return left_out.reason

    async def _check_unless_done(self, url: str) -> None:
        """Check a node before its first use.  Raises WrongNodeError if it is unusable."""
        async with self._check_lock:
            if url not in self._unchecked:
                return
            reason = self._reason_left_out(url)
            if reason is None:
                try:
                    await self._check_node(url)
                except OperatorError as e:
                    reason = str(e)
            if reason is None:
                self._unchecked.discard(url)
                self._left_out.pop(url, None)
                return
        moved = url not in self.urls or self.leave_out(url, reason)
        if not self._started and not moved:
            # The operator is there to see it.
            raise OperatorError(reason)
        raise WrongNodeError(reason)

    def leave_out(self, url: str, reason: str) -> bool:
        """Do not use a URL for a while; return whether another one is in use now."""
        if url not in self._left_out and len(self.urls) > 1:
            self.logger.warning(f"the daemon at {self.logged_url(url)} is left out: {reason}")
        if self._reason_left_out(url) is None:
            self._left_out[url] = _LeftOut(reason, self.clock() + self.LEFT_OUT_SECS)
        self._unchecked.add(url)
        return url != self.current_url() or self.failover()

    def log_once(self, text: str) -> None:
        """Log a warning the first time only."""
        if text not in self._logged_once:
            if len(self._logged_once) >= MAX_LOGGED_ONCE:
                self._logged_once.clear()
            self._logged_once.add(text)
            self.logger.warning(printable(text))

    # -- Requests

    async def _post(self, url: str, data: str, reading: Reading) -> Any:
        """Send data to url when a slot is free; return the parsed JSON of the answer."""
        async with self.workqueue_semaphore:
            return await self.http.post(url, data, reading)

    async def _send(
        self, payload: object, processor: Callable[[Any], Any], reading: Reading
    ) -> Any:
        """POST payload as JSON and return the result of ``processor`` for the reply.

        Asks again, and at other URLs, until there is an answer. processor raises WarmingUpError,
        MalformedReplyError or ParseErrorReply to have the request repeated, DaemonError to end it.
        """
        data = _encoded(payload)
        retry = Retry(self.init_retry, self.max_retry)
        while True:
            url = self.current_url()
            try:
                if url in self._unchecked:
                    await self._check_unless_done(url)
                with self.calls.call(_method(payload)):
                    result = processor(await self._post(url, data, reading))
            except CallForbiddenError as e:
                self.outage.succeeded()
                raise self._forbidden(url, payload, e) from None
            except ResponseTooLargeError as e:
                raise _too_large(payload, e.args[0]) from None
            except DaemonError:
                self.outage.succeeded()
                raise
            except ParseErrorReply as e:
                request = printable(data[: 2 * MAX_LOGGED_TEXT])
                retry.log(self.outage, ParseErrorReply(f"{e}. request was: {request}"))
            except WrongNodeError as e:
                # The warning is enough if another node is in use now.
                if url == self.current_url():
                    retry.log(self.outage, e)
            except RETRIED as e:
                retry.log(self.outage, e)
            else:
                self.outage.succeeded()
                return result

            retry.failed_at(url)
            # Many requests fail together: only the first moves on, else they would rotate past
            # a healthy node, or back to the dead one.
            if url != self.current_url() or (retry.exhausted and self.failover()):
                retry.at_once()
            await asyncio.sleep(retry.next_delay())

    def _forbidden(self, url: str, payload: Any, reason: object) -> ForbiddenCallError:
        """Return the error for a call that the node does not allow, and log it once."""
        method = _method(payload)
        self.log_once(
            f"the daemon at {self.logged_url(url)} does not allow {method} ({printable(reason)}): "
            "see its rpcwhitelist and rpcallowip"
        )
        message = f"the daemon does not allow {method}: {printable(reason)}"
        error = {"code": ForbiddenCallError.CODE, "message": message}
        return ForbiddenCallError(error if isinstance(payload, dict) else [error])

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
        if code == self._warming_up:
            raise WarmingUpError
        if code == JSONRPC.PARSE_ERROR:
            message = printable(error.get("message"))
            raise ParseErrorReply(f"received RPC_PARSE_ERROR ({message})")
        return error

    async def send_single(
        self, method: str, params: Sequence[Any] = (), reading: Reading | None = None
    ) -> Any:
        """Call method; return its result. Raises DaemonError with the node's error object."""
        reading = reading or Reading(parse_json, reply_limit(method))

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

    async def call_once(
        self,
        url: str,
        method: str,
        params: Sequence[Any] = (),
        *,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        """Call method at url once, beside the slots for requests; return its result.

        Without a ``timeout`` it may take as long as any request.  Raises DaemonError with the
        node's error object, and one of RETRIED if there is no answer.
        """
        payload = {"method": method, "id": next(self.id_counter), "params": list(params)}
        reading = Reading(parse_json, reply_limit(method))
        try:
            with self.calls.call(method):
                reply = await self.http.post(url, json.dumps(payload), reading, timeout)
                error = self._check_error(reply)
        except ResponseTooLargeError as e:
            raise _too_large(payload, e.args[0]) from None
        except CallForbiddenError as e:
            raise self._forbidden(url, payload, e) from None
        if error is not None:
            raise DaemonError(error)
        return reply["result"]

    async def call_aside(
        self, url: str, method: str, params: Sequence[Any], timeout_secs: float
    ) -> Any:
        """Call method at url once, beside the slots for requests; return its result.

        For calls that wait at the node.  Raises DaemonError with the node's error object, and,
        without logging it, ConnectionError for whatever keeps it from answering.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_secs)
        try:
            return await self.call_once(url, method, params, timeout=timeout)
        except RETRIED as e:
            raise ConnectionError(failure_texts(e)[0]) from e

    async def send_vector(
        self,
        method: str,
        params_iterable: Iterable[Sequence[Any]],
        replace_errs: bool = False,
        reading: Reading | None = None,
    ) -> list[Any]:
        """Call method once for each item of params_iterable, in one HTTP request.

        Return the results in the same order. Failed ones are None if replace_errs; otherwise
        raise DaemonError with the list of the error objects.
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
            return [item.get("result") for item in in_order(items, ids)]

        reading = reading or Reading(parse_json, reply_limit(method, len(payload)))
        results: list[Any] = await self._send(payload, processor, reading)
        return results

    def _batch_items(self, reply: Any, ids: list[object]) -> list[Any]:
        """Return the responses in the reply to a batch, in whatever order they came."""
        if isinstance(reply, dict):
            # One error may answer a whole batch.
            error = self._check_error(reply)
            if error is not None:
                raise DaemonError([error])
        if not isinstance(reply, list) or len(reply) != len(ids):
            raise MalformedReplyError("not one response for each request of a batch")
        return reply

    async def send_each(
        self, method: str, params: Iterable[Sequence[Any]], reading: Reading
    ) -> list[Any]:
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
                for item in in_order(items, ids)
            ]

        results: list[Any] = await self._send(payload, processor, reading)
        return results
