"""The ``metrics`` service: plain HTTP for the operator, with small bounds.

Owns its sockets and connections, and knows nothing of the pages.  Only GET and HEAD.  A request, the
pause before it and its reply have ``IDLE_SECS`` each; a head has ``MAX_HEAD_BYTES`` at most.  There
are ``MAX_CONNECTIONS``; another one closes the connection that has waited longest for its client:
for a request, or to read a reply.  ``web_pages`` refuses web pages of other origins.

Runs in: the event loop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiorpcx import Service

from electrumx.lib.util import class_logger
from electrumx.server.metrics.web_pages import refusal
from electrumx.server.session.transport.listeners import bound_sockets

MAX_CONNECTIONS = 8
IDLE_SECS = 5.0
MAX_HEAD_BYTES = 8_192
METHODS = ("GET", "HEAD")
# An answer with one of these statuses closes the connection.
CLOSING = (400, 403, 405, 421, 500)
# Pages load nothing from elsewhere, and are not shown inside others.
COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "ElectrumX",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a request."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


#: (path, value of the Accept header) -> the answer
Respond = Callable[[str, str], Awaitable[Reply]]


class HttpConnection(web.RequestHandler):
    """A connection with a deadline and a bound on its heads."""

    __slots__ = ("_deadline", "_head_bytes", "_owner", "is_idle")

    def __init__(self, owner: "HttpService", *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = owner
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        #: whether it waits for its client: for a request, or to read a reply
        self.is_idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or close if there are too many."""
        super().connection_made(transport)
        self._restart_deadline()
        self._owner.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._owner.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, all of which belong to heads."""
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.abort()
            return
        super().data_received(data)

    def abort(self) -> None:
        """Close at once."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def answering(self) -> None:
        """Note that a head is complete."""
        self.is_idle = False
        self._restart_deadline()

    def sending(self) -> None:
        """Note that a reply is ready for the client to read."""
        self.is_idle = True
        self._owner.idle(self)

    def answered(self) -> None:
        """Note that a reply was sent."""
        self.sending()
        self._head_bytes = 0
        self._restart_deadline()

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(IDLE_SECS, self.abort)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log an error below the usual level: requests that do not parse are the client's."""
        self.logger.debug(*args, **kwargs)


class _Factory(web.Server):
    """Makes the connections."""

    def __init__(self, owner: "HttpService", *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner = owner

    def __call__(self) -> web.RequestHandler:
        return HttpConnection(self._owner, self, loop=self._loop, **self._kwargs)


class HttpService:
    """Listens on services, and answers with ``respond``."""

    def __init__(
        self, services: Iterable[Service], respond: Respond, hosts: Iterable[str] = ()
    ) -> None:
        """``hosts`` are names of the service in the public DNS."""
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._services = list(services)
        self._respond = respond
        self._hosts = frozenset(hosts)
        self._factory: _Factory | None = None
        self._servers: list[asyncio.Server] = []
        # In the order in which they began to wait, busy ones anywhere
        self._connections: dict[HttpConnection, None] = {}
        #: they answer requests
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "HttpService":
        for service in self._services:
            await self._listen(service)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        # Aborted transports close their sockets in the next iteration of the loop, which cancels
        # the tasks of their requests.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def ports(self) -> list[int]:
        """The ports of the listening sockets."""
        return [sock.getsockname()[1] for server in self._servers for sock in server.sockets]

    def busy_count(self) -> int:
        """Return how many connections have a reply in preparation."""
        return sum(not connection.is_idle for connection in self._connections)

    async def _listen(self, service: Service) -> None:
        """Listen on a service; where that fails there is a line in the log, and the rest goes on."""
        loop = asyncio.get_running_loop()
        factory = self._factory = self._factory or _Factory(
            self,
            self._handle,
            loop=loop,
            handler_cancellation=True,
            logger=logging.getLogger("aiohttp.server"),
            access_log=None,
            keepalive_timeout=IDLE_SECS,
            lingering_time=0,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            read_bufsize=MAX_HEAD_BYTES,
        )
        host: str | None = str(service.address.host)
        if host == "all_interfaces":
            host = None
        try:
            for sock in await bound_sockets(host, service.address.port):
                self._servers.append(await loop.create_server(factory, sock=sock))
        except OSError as e:
            self.logger.error(f"METRICS server failed to listen on {service.address}: {e}")
            return
        self.logger.info(f"METRICS server listening on {service.address}")

    # -- called by connections

    def opened(self, connection: HttpConnection) -> None:
        """Take in a connection, if need be in the place of one that waits for its client."""
        if len(self._connections) >= MAX_CONNECTIONS:
            victim = next((item for item in self._connections if item.is_idle), connection)
            self.lost(victim)
            victim.abort()
            if victim is connection:
                return
        self._connections[connection] = None

    def idle(self, connection: HttpConnection) -> None:
        """Note that a connection is the last that began to wait for its client."""
        if self._connections.pop(connection, self) is None:
            self._connections[connection] = None

    def lost(self, connection: HttpConnection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    # -- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        task = asyncio.current_task()
        assert isinstance(connection, HttpConnection)
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection.answering()
        reply = await self._reply_to(request)
        response = web.Response(body=reply.body, status=reply.status)
        response.headers.update(COMMON_HEADERS)
        response.headers["Content-Type"] = reply.content_type
        response.headers.update(reply.headers)
        if reply.status in CLOSING:
            response.force_close()
        connection.sending()
        try:
            await response.prepare(request)
            await response.write_eof()
        finally:
            connection.answered()
        return response

    async def _reply_to(self, request: web.BaseRequest) -> Reply:
        if request.method not in METHODS:
            text = b"only GET and HEAD\n"
            return Reply(text, status=405, headers={"Allow": ", ".join(METHODS)})
        headers = request.headers
        refused = refusal(
            headers.getall("Host", []),
            headers.get("Sec-Fetch-Site", ""),
            headers.get("Sec-Fetch-Mode", ""),
            self._hosts,
        )
        if refused is not None:
            return Reply(refused[1], status=refused[0])
        if request.can_read_body:
            return Reply(b"no request here has a body\n", status=400)
        try:
            return await self._respond(request.path, request.headers.get("Accept", ""))
        except Exception:
            self.logger.exception(f"could not answer {request.path[:100]!r}")
            return Reply(b"internal server error\n", status=500)
