"""The certificates that the system trusts, by which servers that we ask over https are verified.

Owns the one TLS context that has them.  Reading them takes some 50 ms of processor time and
1.6 MB, so a worker thread reads them once, before the first request that may go over https.
aiohttp would read them twice, at its import: a fifth of the time that the server's
modules take to load.  So the server imports it by ``import_aiohttp``, and gives every such request
``trusted_context()``.

Any thread may use it.
"""

import asyncio
import os
import ssl
from collections.abc import MutableMapping
from functools import cache
from threading import Lock

#: OpenSSL's variables for the file, and for the directories, with the trusted certificates
_FILE_VARIABLE, _DIRECTORIES_VARIABLE = "SSL_CERT_FILE", "SSL_CERT_DIR"
_reading = Lock()


def keep_paths(environ: MutableMapping[str, str]) -> None:
    """Make the relative paths of certificates absolute, before the process changes its directory.

    ``environ`` is the process's environment, where OpenSSL finds them.
    """
    if environ.get(_FILE_VARIABLE):
        environ[_FILE_VARIABLE] = os.path.abspath(environ[_FILE_VARIABLE])
    if environ.get(_DIRECTORIES_VARIABLE):
        paths = environ[_DIRECTORIES_VARIABLE].split(os.pathsep)
        environ[_DIRECTORIES_VARIABLE] = os.pathsep.join(map(os.path.abspath, paths))


def import_aiohttp(environ: MutableMapping[str, str]) -> None:
    """Import aiohttp for the first time; its own TLS contexts will trust no certificate of a file.

    ``environ`` is the process's environment.  During the import of aiohttp, it has a setting for
    OpenSSL, which reads it from there: no other thread may run yet.
    """
    configured = environ.get(_FILE_VARIABLE)
    environ[_FILE_VARIABLE] = os.devnull
    try:
        import aiohttp  # noqa: F401
    finally:
        if configured is None:
            del environ[_FILE_VARIABLE]
        else:
            environ[_FILE_VARIABLE] = configured


async def trusted_context() -> ssl.SSLContext:
    """Return the context for requests over https: it verifies the certificate and the name."""
    if _context.cache_info().currsize:
        return _context()
    return await asyncio.to_thread(_read)


def _read() -> ssl.SSLContext:
    # Two that come first at once would both read them.
    with _reading:
        return _context()


@cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
