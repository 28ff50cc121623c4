"""What wallet and admin sessions have in common: identity, request handling, limits, logging.

A session is owned by the task of its connection; each request runs as a task of its group.
"""

import asyncio
import itertools
import time
from inspect import isawaitable
from typing import Any

from aiorpcx import (
    JSONRPC,
    JSONRPCAutoDetect,
    ProtocolError,
    ReplyAndDisconnect,
    Request,
    RPCError,
    RPCSession,
    TaskGroup,
    TaskTimeout,
    timeout_after,
)
from aiorpcx.rawsocket import ConnectionLostError, RSTransport
from aiorpcx.session import Concurrency, ExcessiveSessionCostError
from websockets.exceptions import ConnectionClosed

from electrumx.lib import util
from electrumx.server.session.framing import BoundedConnection, BoundedNewlineFramer
from electrumx.server.session.limits import SessionLimits
from electrumx.server.session.tables import ProtocolTuple, handler_names, invoke

MASKED_ADDRESS = "xx.xx.xx.xx:xx"
INVALID_METHOD = "invalid method"
# Results of more items, or longer text, are turned into JSON in a thread.
LARGE_RESULT_ITEMS = 2_000
LARGE_RESULT_CHARS = 200_000
# No log line repeats more of a request than this.
LOGGED_REQUEST_CHARS = 1_000

# A session's requests that are tasks already; further ones wait to be received.
MAX_ADMITTED = 200
# So many requests are admitted before other sessions get their turn.
ADMITTED_AT_ONCE = 4
# How long a session at the hard limit has to read why it is closed.
LAST_WORD_SECS = 1.0
# Longer messages are parsed in a thread.
LARGE_MESSAGE_BYTES = 50_000

_session_ids = itertools.count()
_logger = util.class_logger(__name__, "SessionBase")


def _is_large(result: Any) -> bool:
    """Say if encoding a result would hold up the event loop for milliseconds."""
    if isinstance(result, str):
        return len(result) > LARGE_RESULT_CHARS
    if isinstance(result, (list, tuple)):
        return len(result) > LARGE_RESULT_ITEMS
    if isinstance(result, dict):
        return len(result) > LARGE_RESULT_ITEMS or any(
            isinstance(value, (str, list, tuple, dict)) and _is_large(value)
            for value in result.values()
        )
    return False


class _Turns(Concurrency):
    """aiorpcX's slots for requests, of which one is always left.

    The library's all go when the target falls to 0, and then nobody gets the turn at which the
    session would be ended.
    """

    async def __aexit__(self, *_exc: Any) -> None:
        if self._sem_value > max(1, self._target):
            self._sem_value -= 1
        else:
            self._semaphore.release()


class SessionBase(RPCSession):
    """A connection of a client: a wallet, or the administrator's tool.

    ``kind`` is the protocol of the service it came through; ``transport`` aiorpcX's.
    """

    # Wallet sessions are throttled; the administrator is not.
    limited = True

    def __init__(
        self,
        session_mgr: Any,
        db: Any,
        mempool: Any,
        peer_mgr: Any,
        kind: str,
        transport: Any,
    ) -> None:
        self.session_mgr = session_mgr
        self.env = session_mgr.env
        if self.limited:
            SessionLimits.from_env(self.env).apply(self)
        super().__init__(transport, connection=BoundedConnection(JSONRPCAutoDetect))
        self._incoming_concurrency = _Turns(self.initial_concurrent)
        self.db = db
        self.mempool = mempool
        self.peer_mgr = peer_mgr
        self.kind = kind
        self.coin = self.env.coin
        self.client = "unknown"
        self.anon_logs = self.env.anon_logs
        self.txs_sent = 0
        self.log_me: bool = session_mgr.log_new
        self.protocol_tuple: ProtocolTuple = (0,)
        # Request name -> attribute; see set_request_handlers
        self.request_handlers: dict[str, str] = {}
        # Notifications are computed and sent one at a time, in the order they arose.
        self.notify_lock = asyncio.Lock()
        self._admission = asyncio.Semaphore(MAX_ADMITTED)
        self._admitted_count = 0
        self.session_id = next(_session_ids)
        self.logger = util.ConnectionLogger(_logger, {"conn_id": str(self.session_id)})
        address = self.remote_address_string()
        self.logger.info(f"{kind.upper()} {address}, {session_mgr.session_count():,d} total")
        session_mgr.add_session(self)

    # -- identity

    def remote_address_string(self, *, for_log: bool = True) -> str:
        """Return the peer's address; masked in logs if the operator wants that."""
        if for_log and self.anon_logs:
            return MASKED_ADDRESS
        address = self.remote_address()
        return "unknown" if address is None else str(address)

    def flags(self) -> str:
        """Return the status column of the sessions table."""
        status = self.kind[0].upper()
        if self.is_closing():
            status += "C"
        if self.log_me:
            status += "L"
        return status + str(self._incoming_concurrency.max_concurrent)

    def client_text(self) -> str:
        """Return how the client calls itself, short enough for a table."""
        return self.client[:17]

    def protocol_version_string(self) -> str:
        """Return the negotiated protocol."""
        return util.version_string(self.protocol_tuple)

    def sub_count(self) -> int:
        """Return the number of subscriptions held."""
        return 0

    def is_concerned(self, touched: set[bytes], height_changed: bool) -> bool:
        """Say if ``notify`` would have anything to do."""
        return False

    async def notify(self, touched: set[bytes], height_changed: bool) -> None:
        """Tell the client what it subscribed to; wallet sessions do."""

    # -- life

    def default_framer(self) -> BoundedNewlineFramer:
        """Return the framer of raw connections."""
        return BoundedNewlineFramer(self.env.max_recv)

    async def process_messages(self, recv_message: Any) -> None:
        """Run the session; its own faults end it and nothing else."""
        try:
            await super().process_messages(recv_message)
        except (TaskTimeout, OSError) as e:
            self.logger.info(f"connection aborted: {e!r}")
            await self.abort()
        except (ConnectionLostError, ConnectionClosed) as e:
            # The frames it came through hold the task that holds it.
            e.__traceback__ = None
        except Exception:
            self.logger.exception("session failed")
            await self.abort()
        finally:
            # The tasks of the old one lead back to us.
            self._group = TaskGroup()

    async def connection_lost(self) -> None:
        """Leave the session table, with a line in the log if there is something to say."""
        await super().connection_lost()
        self.session_mgr.remove_session(self)
        if isinstance(self.transport, RSTransport):
            # It is gone already; but Python 3.10 takes TLS transports for leaked unless told
            await self.abort()
        message = ""
        if self._incoming_concurrency.max_concurrent < self.initial_concurrent * 0.8:
            message += " whilst throttled"
        if self.send_size >= 1_000_000:
            message += f".  Sent {self.send_size:,d} bytes in {self.send_count:,d} messages"
        if message:
            self.logger.info("disconnected" + message)

    def extra_cost(self) -> float:
        """Return what the sessions of the same groups add to this one's cost."""
        return self.session_mgr.extra_cost(self) if self.limited else 0.0

    def on_disconnect_due_to_excessive_session_cost(self) -> None:
        """Log who is being thrown out."""
        address = self.remote_address()
        ip = None if address is None else str(address.host)
        groups = [group.name for group in self.session_mgr.groups.of(self)]
        if self.anon_logs:
            ip, groups = "xx.xx.xx.xx", ["xx" for _group in groups]
        self.logger.info(f"closing session over res usage. ip: {ip}. groups: {groups}")

    def is_over_limit(self) -> bool:
        """Say if the session, with its groups, has reached the hard limit."""
        return self.limited and self._incoming_concurrency.max_concurrent <= 0

    # -- requests

    def set_request_handlers(self, ptuple: ProtocolTuple) -> None:
        """Serve the requests of a protocol version from now on."""
        self.protocol_tuple = ptuple
        self.request_handlers = handler_names(type(self), ptuple)  # type: ignore[arg-type] # a base is Any

    async def _process_messages_loop(self, recv_message: Any) -> None:
        """Receive until the connection is lost, which is an exception."""
        while True:
            try:
                message = await recv_message()
            except MemoryError as e:
                self.logger.warning(f"{e}")
                continue
            if self.is_closing():
                # What was sent before the client noticed; the loss of the connection comes next.
                continue
            self.last_recv = time.time()
            self.recv_count += 1
            if self.log_me:
                self.logger.info(f"processing {message!r}")
            try:
                requests = await self._parsed(message)
            except ProtocolError as e:
                if e.code == JSONRPC.PARSE_ERROR:
                    e.cost = self.error_base_cost * 10
                self._bump_errors(e)
                if e.error_message:
                    await self._send_message(e.error_message)
                await self._after_malformed()
                continue
            if self.connection.malformed_count:
                for _ in range(self.connection.malformed_count):
                    self._bump_errors()
                if self.connection.immediate_reply:
                    await self._send_message(self.connection.immediate_reply)
                await self._after_malformed()
            await self._admit(requests)

    async def _parsed(self, message: bytes) -> list[Any]:
        """Return the requests and notifications in a message; raises ProtocolError."""
        if len(message) > LARGE_MESSAGE_BYTES:
            # One at a time: every busy thread delays the event loop's return from system calls.
            async with self.session_mgr.parsing_lock:
                items = await asyncio.to_thread(self.connection.receive_message, message)
        else:
            items = self.connection.receive_message(message)
        return items  # type: ignore[no-any-return]

    async def _after_malformed(self) -> None:
        """End a session that has used up its limit: what is malformed never gets a turn."""
        if self.is_over_limit() and not self.is_closing():
            self.on_disconnect_due_to_excessive_session_cost()
            await self._group.spawn(self.close(force_after=LAST_WORD_SECS))
        await asyncio.sleep(0)

    async def _admit(self, requests: list[Any]) -> None:
        """Start a task for each request, as long as not too many wait their turn.

        Whoever sends more at once finds that we do not read on, and holds up nobody else.
        """
        for request in requests:
            await self._admission.acquire()
            if self.is_closing():
                self._admission.release()
                return
            await self._group.spawn(self._admitted(request))
            self._admitted_count += 1
            if self._admitted_count % ADMITTED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _admitted(self, request: Any) -> None:
        try:
            await self._throttled_request(request)
        finally:
            self._admission.release()

    async def _throttled_request(self, request: Any) -> None:
        """Answer one request or notification, within the limits of the session."""
        disconnect = False
        try:
            result = await self._limited_result(request)
        except (ProtocolError, RPCError) as e:
            result = e
        except ReplyAndDisconnect as e:
            result = e.args[0]
            disconnect = True
        except TaskTimeout:
            text = str(request)[:LOGGED_REQUEST_CHARS]
            secs = self.processing_timeout
            self.logger.info(f"incoming request {text} timed out after {secs} secs")
            result = RPCError(JSONRPC.SERVER_BUSY, "server busy - request timed out")
        except ExcessiveSessionCostError:
            await self._end_excessive(request)
            return
        except Exception:
            self.logger.exception(f"exception handling {str(request)[:LOGGED_REQUEST_CHARS]}")
            result = RPCError(JSONRPC.INTERNAL_ERROR, "internal server error")
        if isinstance(request, Request):
            await self._reply(request, result)
        if isinstance(result, Exception):
            self._bump_errors(result)
        if disconnect:
            await self.close()

    async def _end_excessive(self, request: Any) -> None:
        """Tell a client why it is thrown out, if it listens, and close."""
        self.on_disconnect_due_to_excessive_session_cost()
        error = RPCError(JSONRPC.EXCESSIVE_RESOURCE_USAGE, "excessive resource usage")
        self._bump_errors(error)
        if isinstance(request, Request):
            try:
                async with timeout_after(LAST_WORD_SECS):
                    await self._reply(request, error)
            except TaskTimeout:
                await self.abort()
        # Those who do not read must not stay until they would be cut off anyway.
        await self.close(force_after=LAST_WORD_SECS)

    async def _limited_result(self, request: Any) -> Any:
        """Return the result once a slot is free; the time-out covers waiting for it too."""
        if not self.limited:
            return await self.handle_request(request)
        async with timeout_after(self.processing_timeout), self._incoming_concurrency:
            if self._cost_fraction:
                await asyncio.sleep(self._cost_fraction * self.cost_sleep)
            return await self.handle_request(request)

    async def _reply(self, request: Any, result: Any) -> None:
        if _is_large(result):
            part = await asyncio.to_thread(request.encode, result)
        else:
            part = request.encode(result)
        message = request.deliver(part)
        if message:
            try:
                await self._send_message(message)
            except TaskTimeout:
                # The connection was aborted, and the receiving task will notice
                self.logger.info("connection aborted: the client does not read its replies")

    async def handle_request(self, request: Any) -> Any:
        """Return the result of a request; raises RPCError. Notifications have no handlers."""
        attribute = None
        if isinstance(request, Request):
            attribute = self.request_handlers.get(request.method)
        handler = None if attribute is None else getattr(self, attribute)
        self.session_mgr.method_counts[INVALID_METHOD if handler is None else request.method] += 1
        result = invoke(handler, request)
        return await result if isawaitable(result) else result
