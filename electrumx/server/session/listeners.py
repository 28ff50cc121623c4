"""Listening sockets: raw and websocket, plain and TLS.  Listeners belong to the session manager."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve

from electrumx.lib import util
from electrumx.server.services import Network
from electrumx.server.session.rpc_access import (
    RpcTransport,
    bind_socket,
    remove_socket,
    socket_identity,
)
from electrumx.server.session.transport import RawTransport, WebSocketTransport

WEBSOCKET_PROTOCOLS = ("ws", "wss")
TLS_PROTOCOLS = ("ssl", "wss")

# Hostile handshakes are everyday noise, and connections are logged by their sessions.
_quiet_logger = logging.getLogger("electrumx.websockets")
_quiet_logger.setLevel(logging.CRITICAL)


class RenewedContext(ssl.SSLContext):
    """The context of TLS listeners: each new connection gets the certificate now on disk.

    Raises OSError (ssl.SSLError is one) if the files are bad.  If they are bad when they change,
    new connections go on with what was last good.

    Files are looked at when a connection comes, which is two system calls.  A change is read into
    a context of its own: one that failed half-way could be left with a certificate and no key.
    """

    def __new__(cls, certfile: str, keyfile: str) -> "RenewedContext":
        """Return a context for servers; arguments are ``__init__``'s."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certfile: str, keyfile: str) -> None:
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self._files = (certfile, keyfile)
        # Before reading, so that a change in between is noticed.
        self._seen = self._signature()
        self._current = self._load()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Return the TLS layer of a new connection."""
        self._renew()
        return self._current.wrap_bio(*args, **kwargs)

    def _signature(self) -> list[tuple[int, int, int]]:
        """Return what differs if a file was written again, or a link points to another one."""
        stats = [os.stat(file) for file in self._files]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password OpenSSL would ask for that of an encrypted key at the terminal.
        context.load_cert_chain(*self._files, password="")
        return context

    def _renew(self) -> None:
        try:
            signature = self._signature()
        except OSError as e:
            if self._seen:
                self._seen = []
                self._keep_old(e)
            return
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._current = self._load()
        except OSError as e:
            self._keep_old(e)
        else:
            self.logger.info(f"new connections use the renewed certificate {self._files[0]}")

    def _keep_old(self, error: OSError) -> None:
        self.logger.error(
            f"the renewed certificate {self._files[0]} cannot be used, keeping the old one: {error}"
        )


async def _serve_websocket(session_factory: Callable[..., Any], ws: ServerConnection) -> None:
    await WebSocketTransport(ws, session_factory).run()


class Listener:
    """One service that accepts connections, from ``open`` to ``close``."""

    def __init__(
        self,
        service: Any,
        session_factory: Callable[..., Any],
        *,
        max_recv: int,
        tls_context: ssl.SSLContext | None,
        rpc_allow: Iterable[Network] = (),
    ) -> None:
        self.service = service
        self._session_factory = session_factory
        self._max_recv = max_recv
        self._tls_context = tls_context
        self._rpc_allow = rpc_allow
        # Path and identity of the file of a Unix socket
        self._socket_file: tuple[str, tuple[int, int] | None] | None = None
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port listened on (the system's choice if the service named port 0)."""
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Start to listen; raises OSError if that is impossible."""
        if self.service.protocol == "rpc":
            await self._open_rpc()
            return
        host: str | None = str(self.service.address.host)
        if host == "all_interfaces":
            host = None
        port = self.service.address.port
        if self.service.protocol in WEBSOCKET_PROTOCOLS:
            self._server = await websockets_serve(
                partial(_serve_websocket, self._session_factory),
                host,
                port,
                max_size=self._max_recv or None,
                # Compressing a large reply takes tens of milliseconds, on the event loop
                compression=None,
                ssl=self._tls_context,
                server_header=None,
                logger=_quiet_logger,
            )
        else:
            self._server = await asyncio.get_running_loop().create_server(
                partial(RawTransport, self._session_factory, self._max_recv),
                host,
                port,
                ssl=self._tls_context,
            )

    async def _open_rpc(self) -> None:
        loop = asyncio.get_running_loop()
        factory = partial(RpcTransport, self._session_factory, self._max_recv, self._rpc_allow)
        path = getattr(self.service, "path", None)
        if path is None:
            host = str(self.service.address.host)
            bind_to = None if host == "all_interfaces" else host
            self._server = await loop.create_server(factory, bind_to, self.service.address.port)
            return
        sock = bind_socket(path)
        self._socket_file = (path, socket_identity(path))
        self._server = await loop.create_unix_server(factory, sock=sock)

    def close(self) -> None:
        """Accept no more connections; those that exist go on.

        Deliberately does not wait: since Python 3.12 a server counts as closed only when the
        last of its connections has gone, which is up to the clients.
        """
        if self.service.protocol in WEBSOCKET_PROTOCOLS:
            self._server.close(close_connections=False)
        else:
            self._server.close()
        if self._socket_file is not None:
            remove_socket(*self._socket_file)

    async def wait_closed(self) -> None:
        """Wait until the connections have gone too (not before Python 3.12 for raw sockets)."""
        await self._server.wait_closed()


class Listeners:
    """The services that are being listened on."""

    def __init__(self, env: Any, factory_for: Callable[[str], Callable[..., Any]]) -> None:
        """``factory_for(protocol)`` returns what makes a session of a transport."""
        self._env = env
        self._factory_for = factory_for
        self._tls_context: ssl.SSLContext | None = None
        # Filters of logs and wait conditions of containers know these lines by that name.
        self.logger = util.class_logger(__name__, "SessionManager")
        self.open: dict[Any, Listener] = {}

    def _tls(self, protocol: str) -> ssl.SSLContext | None:
        if protocol not in TLS_PROTOCOLS:
            return None
        if self._tls_context is None:
            self._tls_context = RenewedContext(self._env.ssl_certfile, self._env.ssl_keyfile)
        return self._tls_context

    async def start(self, services: Iterable[Any]) -> None:
        """Listen on services; where that fails there is a line in the log, and the rest goes on."""
        for service in services:
            kind = service.protocol.upper()
            try:
                listener = Listener(
                    service,
                    self._factory_for(service.protocol),
                    max_recv=self._env.max_recv,
                    tls_context=self._tls(service.protocol),
                    rpc_allow=self._env.rpc_allow,
                )
                await listener.open()
            except OSError as e:
                # ssl.SSLError is one: a bad certificate
                self.logger.error(f"{kind} server failed to listen on {service.address}: {e}")
            else:
                self.open[service] = listener
                self.logger.info(f"{kind} server listening on {service.address}")

    def stop(self, services: Iterable[Any]) -> list[Listener]:
        """Stop listening on services; return the listeners, whose connections go on."""
        stopped = []
        for service in services:
            listener = self.open.pop(service, None)
            if listener is not None:
                self.logger.info(f"closing down server for {service}")
                listener.close()
                stopped.append(listener)
        return stopped


async def wait_all_closed(listeners: list[Listener], secs: float) -> bool:
    """Wait for listeners to be closed, at most so long; say if they are."""
    if not listeners:
        return True
    tasks = [asyncio.ensure_future(listener.wait_closed()) for listener in listeners]
    _done, pending = await asyncio.wait(tasks, timeout=secs)
    for task in pending:
        task.cancel()
    return not pending
