"""Requests of peer discovery to third parties: names, the blacklist, and the Tor proxy.

Each answer has bounds in size and time, and each question fails with few kinds of error.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ssl import SSLContext
from typing import Any

import aiohttp
from aiorpcx import NetAddress, SOCKSProxy

from electrumx.lib.trusted_certificates import trusted_context
from electrumx.server.peers.session import run_bounded

# Host -> texts of its IP addresses; raises OSError without any.
Resolver = Callable[[str], Awaitable[list[str]]]

# Where Tor, the Tor browser and other SOCKS proxies listen.
PROXY_PORTS = (9050, 9150, 1080)
PROXY_DETECT_SECS = 120
PROXY_CONNECT_SECS = 10
BLACKLIST_FETCH_SECS = 60
MAX_BLACKLIST_BYTES = 1_000_000


class ThreadResolver:
    """A `Resolver` that asks the system, in a few threads of its own.

    Strangers choose the names, so slow name servers must not take the threads that the
    database needs.
    """

    THREADS = 4

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    async def __call__(self, host: str) -> list[str]:
        """Return the IP addresses of `host` as texts; raises OSError."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.THREADS, thread_name_prefix="resolver")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._resolve, host)

    @staticmethod
    def _resolve(host: str) -> list[str]:
        try:
            infos = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
        except ValueError as e:
            # A name that cannot be encoded.
            raise OSError(f"cannot resolve: {type(e).__name__}") from e
        return [str(info[4][0]) for info in infos]


class PeerProxy(SOCKSProxy):  # type: ignore[misc]  # the library has no types
    """A SOCKS proxy for which we choose the name given to TLS and the addresses to try."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect through the proxy; ``host`` is an IP address, or a name for it to resolve."""
        sock, remote_address = await self._connect([NetAddress(host, port)])

        def protocol_at_address() -> asyncio.Protocol:
            protocol: Any = protocol_factory()
            # As the library does.
            protocol._proxy = self
            protocol._remote_address = remote_address
            return protocol  # type: ignore[no-any-return]

        return await asyncio.get_running_loop().create_connection(
            protocol_at_address, sock=sock, ssl=ssl, server_hostname=server_hostname
        )


def parse_blacklist(text: str | bytes) -> set[str]:
    """Return the lower-case entries of a JSON list of texts; raises ValueError."""
    try:
        entries = json.loads(text)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("not a list of texts")
    return {entry.lower() for entry in entries}


async def fetch_blacklist(url: str) -> set[str]:
    """Return the entries of the blacklist at `url`.

    Raises OSError, ValueError, asyncio.TimeoutError or aiohttp.ClientError.
    """
    timeout = aiohttp.ClientTimeout(total=BLACKLIST_FETCH_SECS)
    # An http address may redirect to https.
    tls = await trusted_context()
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, raise_for_status=True, ssl=tls) as response,
    ):
        body = b""
        async for part in response.content.iter_any():
            body += part
            if len(body) > MAX_BLACKLIST_BYTES:
                raise ValueError(f"over {MAX_BLACKLIST_BYTES:,d} bytes")
    return await asyncio.to_thread(parse_blacklist, body)


async def detect_proxy(host: str, port: int | None) -> PeerProxy | None:
    """Return the SOCKS proxy that listens at `host`, or None.

    Without a port, try the usual ones in turn. Raises OSError, ValueError or
    asyncio.TimeoutError.
    """
    ports = PROXY_PORTS if port is None else (port,)
    return await run_bounded(PeerProxy.auto_detect_at_host(host, ports, None), PROXY_DETECT_SECS)


async def proxy_ip_address(proxy: PeerProxy) -> str | None:
    """Return the IP address at which `proxy` answers, or None if it does not.

    Tor's own connections to us come from there. A name such as localhost has several addresses,
    so this asks which of them takes a connection.
    """
    address = proxy.address
    try:
        _, writer = await run_bounded(
            asyncio.open_connection(str(address.host), address.port), PROXY_CONNECT_SECS
        )
    except (OSError, asyncio.TimeoutError):
        return None
    peername = writer.get_extra_info("peername")
    writer.close()
    return str(peername[0]) if peername else None
