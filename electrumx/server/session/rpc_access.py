"""How LocalRPC is reached: at a Unix socket of the server's user only, or from listed networks.

Whoever reaches LocalRPC controls the server, and it has no password.  A listener of an ``rpc``
service uses ``RpcTransport``; one at a Unix socket also ``bind_socket`` and ``remove_socket``.

Runs on the event loop; system calls on a Unix socket do not block.
"""

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable
from typing import Any

from electrumx.lib import util
from electrumx.server.services import Network, is_allowed
from electrumx.server.session.transport import RawTransport

_logger = util.class_logger(__name__, "LocalRPC")

# Refused connections are logged once in so many seconds, at most.
REFUSAL_LOG_SECS = 60.0


class RpcTransport(RawTransport):
    """The connection of an administrator; one from elsewhere is aborted before it is read."""

    __slots__ = ("_allow",)

    _next_log = 0.0

    def __init__(
        self,
        session_factory: Callable[[Any], Any],
        max_recv: int,
        allow: Iterable[Network],
    ) -> None:
        """``allow`` are the networks that may connect in addition to this machine."""
        super().__init__(session_factory, max_recv)
        self._allow = allow

    def connection_made(self, transport: Any) -> None:
        """Start a session, unless the peer is in no network that may connect."""
        peername = transport.get_extra_info("peername")
        if self._is_unix(transport) or (peername and is_allowed(peername[0], self._allow)):
            super().connection_made(transport)
            return
        self._transport = transport
        self._log_refusal(peername)
        transport.abort()

    @staticmethod
    def _is_unix(transport: Any) -> bool:
        sock = transport.get_extra_info("socket")
        return sock is not None and sock.family == getattr(socket, "AF_UNIX", None)

    @classmethod
    def _log_refusal(cls, peername: Any) -> None:
        now = time.monotonic()
        if now >= RpcTransport._next_log:
            RpcTransport._next_log = now + REFUSAL_LOG_SECS
            address = peername[0] if peername else "an unknown address"
            _logger.warning(f"refused a connection from {address}, which RPC_ALLOW does not list")

    def remote_address(self) -> Any:
        """Return the peer's address; None for a Unix socket, whose peers have a path at most."""
        return None if self._is_unix(self._transport) else super().remote_address()


def bind_socket(path: str) -> socket.socket:
    """Return a Unix socket bound to a path, for the server's user only (mode 0600).

    A socket there at which nobody answers was left by a server that was killed, and is removed.
    Raise OSError if somebody answers, or if the path cannot be used.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Of the whole process, for the length of one system call: the socket never has another mode.
    old_mask = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old_mask)
    return sock


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, "another server listens there", path)


def socket_identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from a later one at the same path; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_socket(path: str, identity: tuple[int, int] | None) -> None:
    """Remove the file of a socket that is listened on no more, if it is still the same file."""
    if identity is not None and socket_identity(path) == identity:
        try:
            os.unlink(path)
        except OSError as e:
            _logger.warning(f"cannot remove the socket {path}: {e.strerror}")
