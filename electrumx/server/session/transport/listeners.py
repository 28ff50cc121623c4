"""Listening sockets: raw and WebSocket, plain and TLS.  Listeners belong to the session manager.

This module, not asyncio's servers, accepts connections: so that it can refuse one before it makes
anything for it, and that it handles a shortage of descriptors.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable

from aiorpcx import Service

from electrumx.lib import util
from electrumx.server.env import Env
from electrumx.server.services import Network, is_allowed
from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.held_memory import ReceiveMemory, SendMemory
from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.session.transport.parties import ConnectionSession
from electrumx.server.session.transport.preflight import certificate_files, certificate_kind
from electrumx.server.session.transport.rpc_access import (
    bind_socket,
    log_refusal,
    remove_socket,
    socket_identity,
)
from electrumx.server.session.transport.tls import RenewedContext
from electrumx.server.session.transport.transport import ConnectionContext, StreamConnection
from electrumx.server.session.transport.trust import Trust
from electrumx.server.session.transport.turns import TurnQueue
from electrumx.server.session.transport.websocket import WebSocketTransport

WEBSOCKET_PROTOCOLS = ("ws", "wss")
TLS_PROTOCOLS = ("ssl", "wss")

# Connections that the system keeps until we accept them.
BACKLOG = 512
# Connections accepted of one socket before those of other sockets.
ACCEPTED_AT_ONCE = 16
# Errors of accept when no descriptors, or no memory, are left.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# How long a listener waits then, and between two lines of the log about it.
SHORTAGE_SECS = 1.0
SHORTAGE_LOG_SECS = 60.0
# How often to try listening again where it was possible before.
RETRY_SECS = 5.0


async def bound_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host (None: all interfaces)."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _name, address in dict.fromkeys(infos):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as e:
                if e.errno in SHORTAGES:
                    raise
                continue  # the system does not have this family
            sockets.append(sock)
            _bind(sock, address)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise OSError(f"there is no address family for {host}")
    return sockets


def _bind(sock: socket.socket, address: tuple[object, ...]) -> None:
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # IPv4 has a socket of its own
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(address)
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise OSError(e.errno, f"cannot bind to {address[0]} port {address[1]}: {reason}") from None
    sock.listen(BACKLOG)
    sock.setblocking(False)


SessionFactory = Callable[[StreamConnection], ConnectionSession]


class Listener:
    """One service that accepts connections, from ``open`` to ``close``."""

    def __init__(
        self, service: Service, context: ConnectionContext, *, rpc_allow: Iterable[Network] = ()
    ) -> None:
        """``rpc_allow`` are networks that may connect to ``rpc`` in addition to this machine."""
        self.service = service
        #: shared by its next connections
        self.context = context
        self._rpc_allow = rpc_allow
        # Path and identity of the file of a Unix socket
        self._socket_file: tuple[str, tuple[int, int] | None] | None = None
        self._is_rpc = service.protocol == "rpc"
        is_websocket = service.protocol in WEBSOCKET_PROTOCOLS
        self._connection_class = WebSocketTransport if is_websocket else RawTransport
        self._sockets: list[socket.socket] = []
        # They make transports of new connections
        self._tasks: set[asyncio.Task[None]] = set()
        # Runs while accepting is suspended
        self._resume_timer: asyncio.TimerHandle | None = None
        self._shortage_log_time: float | None = None
        self.logger = util.class_logger(__name__, self.__class__.__name__)

    def set_context(self, context: ConnectionContext) -> None:
        """Use other settings for connections to come."""
        self.context = context

    @property
    def port(self) -> int:
        """The port listened on (the system's choice if the service named port 0)."""
        return int(self._sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Start to listen; raises OSError if that is impossible."""
        await self.bind()
        self.start()

    async def bind(self) -> None:
        """Make the sockets, at which connections wait; raises OSError if that is impossible."""
        self._sockets = await self.make_sockets()

    def start(self) -> None:
        """Begin to accept connections."""
        self._start_accepting()

    async def make_sockets(self) -> list[socket.socket]:
        """Return listening sockets that do not block."""
        path = getattr(self.service, "path", None)
        if path is not None:
            sock = bind_socket(path)
            self._socket_file = (path, socket_identity(path))
            sock.listen(BACKLOG)
            sock.setblocking(False)
            return [sock]
        host: str | None = str(self.service.address.host)
        if host == "all_interfaces":
            host = None
        return await bound_sockets(host, self.service.address.port)

    def close(self) -> None:
        """Accept no more connections; those that exist go on."""
        self._stop_accepting()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        if self._socket_file is not None:
            remove_socket(*self._socket_file)
            self._socket_file = None

    def _start_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        self._resume_timer = None
        for sock in self._sockets:
            loop.add_reader(sock, self.accept_some, sock)

    def _stop_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)

    def accept_some(self, sock: socket.socket) -> None:
        """Accept what waits, up to a bound; there is another call if more does."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                if e.errno in SHORTAGES:
                    self._suspend(e)
                    return
                continue  # the connection has ended already
            self._accept(client, address)

    def _suspend(self, error: OSError) -> None:
        """Close connections that have sent nothing, and accept no others for a while."""
        self._stop_accepting()
        loop = asyncio.get_running_loop()
        self._resume_timer = loop.call_later(SHORTAGE_SECS, self._start_accepting)
        count = self.context.admission.shed()
        last, now = self._shortage_log_time, loop.time()
        if last is None or now - last >= SHORTAGE_LOG_SECS:
            self._shortage_log_time = now
            self.logger.error(
                f"cannot accept connections on {self.service}: {error.strerror}; closed "
                f"{count:,d} that have sent nothing, trying again every second"
            )

    def _accept(self, client: socket.socket, address: object) -> None:
        """Begin a connection, or refuse it."""
        host = address[0] if isinstance(address, tuple) else None
        if self._is_rpc and host is not None and not is_allowed(host, self._rpc_allow):
            log_refusal(host)
            client.close()
            return
        context = self.context
        ticket = context.admission.admit(
            host,
            is_rpc=self._is_rpc,
            is_proxied=context.header_count > 0,
            is_trusted=context.is_trusted,
        )
        if ticket is None:
            client.close()
            return
        client.setblocking(False)
        ticket.connection = connection = self._connection_class(self.context, ticket)
        task = asyncio.get_running_loop().create_task(self._connect(client, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: socket.socket, connection: StreamConnection) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, client)
        except OSError:
            # It ended before it was connected.
            client.close()
            self.context.admission.lost(connection)


class Listeners:
    """The services that the server listens on."""

    def __init__(
        self, env: Env, factory_for: Callable[[str], SessionFactory], admission: Admission
    ) -> None:
        """``factory_for(protocol)`` returns the factory of a transport's sessions."""
        self._env = env
        self._factory_for = factory_for
        self._admission = admission
        self.send_memory = SendMemory()
        self.receive_memory = ReceiveMemory(env.max_recv)
        self._turns = TurnQueue()
        # By the files of certificate and key
        self._tls_contexts: dict[tuple[str, str], ssl.SSLContext] = {}
        # Filters of logs and wait conditions of containers know these lines by that name.
        self.logger = util.class_logger(__name__, "SessionManager")
        self.open: dict[Service, Listener] = {}
        # Services on which listening failed again, and the task that retries
        self._failed: set[Service] = set()
        self._retry_task: asyncio.Task[None] | None = None

    def _tls(self, env: Env, protocol: str) -> ssl.SSLContext | None:
        if protocol not in TLS_PROTOCOLS:
            return None
        files = certificate_files(env, protocol)
        if files not in self._tls_contexts:
            self._tls_contexts[files] = RenewedContext(*files, certificate_kind(env, files))
        return self._tls_contexts[files]

    def load_certificates(self, env: Env) -> None:
        """Load the certificates of new settings, so that ``set_env`` finds them.  Raise OSError."""
        for service in env.services:
            self._tls(env, service.protocol)

    def context_for(self, service: Service, env: Env) -> ConnectionContext:
        """Return the settings and parts that connections of a service share."""
        protocol, trust = service.protocol, Trust(env)
        return ConnectionContext(
            session_factory=self._factory_for(protocol),
            max_recv=env.max_recv,
            admission=self._admission,
            send_memory=self.send_memory,
            receive_memory=self.receive_memory,
            turns=self._turns,
            byte_cost=1 / env.bw_unit_cost,
            tls_context=self._tls(env, protocol),
            is_padded=protocol in env.padded_protocols,
            header_count=trust.header_count(service),
            is_trusted=trust.is_trusted_service(service),
            origins=env.ws_origins,
        )

    async def start(self, services: Iterable[Service]) -> None:
        """Listen on services; where that fails there is a line in the log, and the rest goes on."""
        for service in services:
            await self._start_one(service, logging.ERROR)

    async def resume(self, services: Iterable[Service]) -> None:
        """Listen again on services that ``stop`` ended; where that fails, try until it succeeds."""
        for service in services:
            if not await self._start_one(service, logging.ERROR):
                self._failed.add(service)
        if self._failed and self._retry_task is None:
            self._retry_task = asyncio.get_running_loop().create_task(self._retry())

    async def _retry(self) -> None:
        while self._failed:
            await asyncio.sleep(RETRY_SECS)
            for service in list(self._failed):
                # It may be stopped while the system resolves its name.
                if await self._start_one(service, logging.DEBUG):
                    if service in self._failed:
                        self._failed.discard(service)
                    else:
                        self.stop([service])
        self._retry_task = None

    async def _start_one(self, service: Service, level: int) -> bool:
        """Listen on a service; log at a level, and return False, if that fails."""
        kind = service.protocol.upper()
        try:
            listener = Listener(
                service, self.context_for(service, self._env), rpc_allow=self._env.rpc_allow
            )
            await listener.open()
        except OSError as e:
            # ssl.SSLError is one: a bad certificate
            self.logger.log(level, f"{kind} server failed to listen on {service.address}: {e}")
            return False
        self.open[service] = listener
        self.logger.info(f"{kind} server listening on {service.address}")
        return True

    async def bound(self, env: Env, service: Service) -> Listener:
        """Return a listener of a service that does not accept yet.  Raise OSError."""
        listener = Listener(service, self.context_for(service, env), rpc_allow=env.rpc_allow)
        await listener.bind()
        return listener

    def add(self, listener: Listener) -> None:
        """Start a listener that is bound."""
        listener.start()
        self.open[listener.service] = listener
        kind = listener.service.protocol.upper()
        self.logger.info(f"{kind} server listening on {listener.service.address}")

    def set_env(self, env: Env) -> None:
        """Use new settings, those of the admission control included, for connections to come."""
        self._env = env
        for service, listener in self.open.items():
            listener.set_context(self.context_for(service, env))

    def stop(self, services: Iterable[Service]) -> list[Listener]:
        """Stop listening on services; return the listeners, whose connections go on."""
        stopped = []
        for service in services:
            self._failed.discard(service)
            listener = self.open.pop(service, None)
            if listener is not None:
                self.logger.info(f"closing down server for {service}")
                listener.close()
                stopped.append(listener)
        return stopped

    def close(self) -> None:
        """Stop listening on all services, for good."""
        if self._retry_task is not None:
            self._retry_task.cancel()
            self._retry_task = None
        self._failed.clear()
        self.stop(list(self.open))
