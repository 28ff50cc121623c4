"""Access to LocalRPC: at a Unix socket of the server's user only, or from listed networks.

A client that reaches LocalRPC controls the server, without a password.  The listeners refuse at
accept addresses that RPC_ALLOW does not list; this module has the log line of that, and Unix
sockets.

Runs on the event loop; system calls on a Unix socket do not block.
"""

import errno
import os
import socket
import stat
import time

from electrumx.lib import util

_logger = util.class_logger(__name__, "LocalRPC")

# Refused connections have one log line in so many seconds, at most.
REFUSAL_LOG_SECS = 60.0


_next_log = 0.0


def log_refusal(host: str) -> None:
    """Log the refusal of a connection from an address, at most once in REFUSAL_LOG_SECS."""
    global _next_log
    now = time.monotonic()
    if now >= _next_log:
        _next_log = now + REFUSAL_LOG_SECS
        _logger.warning(f"refused a connection from {host}, which RPC_ALLOW does not list")


def bind_socket(path: str) -> socket.socket:
    """Return a Unix socket bound to a path, for the server's user only (mode 0600).

    Remove a socket there at which no program answers: a killed server left it.
    Raise OSError if a program answers, or if the path is unusable.
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
    """Return the device and inode of a file; None if it is missing."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_socket(path: str, identity: tuple[int, int] | None) -> None:
    """Remove the file of a socket that no server listens on any more, if it is still the same file."""
    if identity is not None and socket_identity(path) == identity:
        try:
            os.unlink(path)
        except OSError as e:
            _logger.warning(f"cannot remove the socket {path}: {e.strerror}")
