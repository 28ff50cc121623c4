"""Tries the certificate and every listening address before the initial sync, which takes days.

What is wrong by then is the operator's to correct at once: one line, and the server does not
start.  A port that another program takes later is met by the listeners, with a line in the log.

Runs on the event loop, once, at start-up.
"""

import asyncio
import errno
import os
import socket
import ssl

from aiorpcx import Service

from electrumx.lib.env_base import shown
from electrumx.lib.errors import OperatorError
from electrumx.server.env import Env
from electrumx.server.services import UnixService
from electrumx.server.session.transport.rpc_access import bind_socket

TLS_PROTOCOLS = ("ssl", "wss")

_REMEDIES = {
    errno.EADDRINUSE: "stop the program that listens there, or change SERVICES",
    errno.EACCES: "ports below 1024 need a privilege; use a higher one and forward the port to it",
    errno.EPERM: "ports below 1024 need a privilege; use a higher one and forward the port to it",
    errno.EADDRNOTAVAIL: "name an address of this machine in SERVICES",
}


class ListenError(OperatorError):
    """The server cannot listen on a service of SERVICES."""

    #: whether the reason is that a program listens there
    is_in_use = False


class CertificateError(OperatorError):
    """A certificate or its key is unusable."""


def certificate_files(env: Env, protocol: str) -> tuple[str, str]:
    """Return the certificate and the key of the services of a protocol with TLS."""
    if protocol == "wss":
        return env.wss_certfile, env.wss_keyfile
    return env.ssl_certfile, env.ssl_keyfile


def certificate_kind(env: Env, files: tuple[str, str]) -> str:
    """Return the first part of the names of the settings of these files: SSL or WSS."""
    return "SSL" if files == certificate_files(env, "ssl") else "WSS"


def check_certificates(env: Env) -> None:
    """Raise CertificateError unless the services with TLS have usable certificates."""
    checked = set()
    for protocol in TLS_PROTOCOLS:
        files = certificate_files(env, protocol)
        if files not in checked and any(item.protocol == protocol for item in env.services):
            checked.add(files)
            check_certificate(*files, kind=certificate_kind(env, files))


async def check_services(env: Env) -> None:
    """Try what the services of SERVICES need.  Raise OperatorError if a service cannot work."""
    check_certificates(env)
    for service in env.services:
        await check_service(service)


async def check_service(service: Service, *, leave_files: bool = False) -> None:
    """Raise ListenError if the server cannot listen on a service.

    With ``leave_files`` make and remove no file of a Unix socket; only check its directory.
    """
    try:
        if leave_files and isinstance(service, UnixService):
            _check_directory(service.path)
        else:
            await _try_to_bind(service)
    except OSError as e:
        error = ListenError(
            f"{service.protocol.upper()} server failed to listen on {service.address}: "
            f"{_reason(service, e)}"
        )
        error.is_in_use = e.errno == errno.EADDRINUSE
        raise error from e


def _check_directory(path: str) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)


async def _try_to_bind(service: Service) -> None:
    if isinstance(service, UnixService):
        bind_socket(service.path).close()
        os.unlink(service.path)
        return
    host = str(service.address.host)
    loop = asyncio.get_running_loop()
    # Bound, but no client can connect.
    server = await loop.create_server(
        asyncio.Protocol,
        None if host == "all_interfaces" else host,
        service.address.port,
        start_serving=False,
    )
    server.close()
    await server.wait_closed()


def _reason(service: Service, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; name a host of this machine in SERVICES"
    number = error.errno or 0
    if not number and str(error).startswith("could not bind on any address"):
        # asyncio of newer Pythons, in place of the system's error
        number = errno.EADDRNOTAVAIL
    # asyncio puts sentences there; of a number the system's are known.
    reason = os.strerror(number) if number else str(error)
    if isinstance(service, UnixService):
        if error.errno in (errno.EADDRINUSE, errno.EEXIST):
            reason = error.strerror or reason
        return f"{reason}; check the path in SERVICES, and that its directory is the server's"
    remedy = _REMEDIES.get(number, "check SERVICES")
    return f"{reason}; {remedy}"


class _EncryptedKeyError(Exception):
    """Internal: OpenSSL asks for a passphrase."""


def _no_passphrase() -> str:
    raise _EncryptedKeyError


def check_certificate(certfile: str, keyfile: str, kind: str = "SSL") -> None:
    """Load a certificate and its key.  Raise CertificateError, which names the bad file.

    ``kind`` is the first part of the variables' names.
    """
    for name, path in ((f"{kind}_CERTFILE", certfile), (f"{kind}_KEYFILE", keyfile)):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as e:
            raise _file_error(
                name, path, f"cannot be read: {e.strerror}; let the server's user read the file"
            ) from e
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(certfile)
    except ssl.SSLError as e:
        raise _file_error(
            f"{kind}_CERTFILE", certfile, f"holds no certificate in PEM form ({_text(e)})"
        ) from e
    try:
        context.load_cert_chain(certfile, keyfile, _no_passphrase)
    except _EncryptedKeyError:
        raise _file_error(
            f"{kind}_KEYFILE",
            keyfile,
            "needs a passphrase, which the server never asks for: write a copy without one by "
            f"`openssl pkey -in {keyfile} -out NEW_FILE`, and name that",
        ) from None
    except ssl.SSLError as e:
        raise _pair_error(certfile, keyfile, kind, e) from e


def _pair_error(certfile: str, keyfile: str, kind: str, error: ssl.SSLError) -> CertificateError:
    reason = str(error.reason)
    if reason == "KEY_VALUES_MISMATCH":
        return _file_error(
            f"{kind}_KEYFILE", keyfile, f"is not the key of the certificate {shown(certfile)}"
        )
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        return _file_error(
            f"{kind}_CERTFILE",
            certfile,
            f"is refused by OpenSSL ({_text(error)}): make a stronger one",
        )
    return _file_error(
        f"{kind}_KEYFILE", keyfile, f"holds no private key in PEM form ({_text(error)})"
    )


def _file_error(name: str, path: str, reason: str) -> CertificateError:
    return CertificateError(f"envvar {name} value {shown(path)} {reason}")


def _text(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
