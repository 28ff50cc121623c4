"""One outgoing connection to a peer, and how a conversation with a stranger goes wrong.

The library cancels the requests that are waiting when it loses a connection, which a task cannot
distinguish from its own cancellation. `run_bounded` can: it gives every such conversation a task
of its own, so that only *our* cancellation counts as one.
"""

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from aiorpcx import (
    JSONRPC,
    JSONRPCConnection,
    JSONRPCv2,
    Notification,
    ProtocolError,
    RPCError,
    RPCSession,
    SOCKSError,
    connect_rs,
)
from aiorpcx.rawsocket import ConnectionLostError

from electrumx.lib.errors import ElectrumXError
from electrumx.lib.peer import is_small_json
from electrumx.lib.util import class_logger

T = TypeVar("T")

# The library reads all that has arrived before anything else runs, and starts a task for each
# request: a flood must end where it is read. New blocks cause a few notifications at most.
MAX_UNSOLICITED = 100
# Addresses of a name to try in one attempt, of each family.
MAX_ADDRESSES = 4
# How much of a stranger's text a log line or an error repeats.
MAX_QUOTED_LENGTH = 100


class BadPeerError(ElectrumXError):
    """A peer that lies, is unwanted, or does not speak the protocol; the text is the reason."""


class PeerConnectionLostError(ConnectionError):
    """The connection ended before an answer came."""


def quoted(value: object) -> str:
    """Return a stranger's JSON value for a log line: short, without control characters."""
    if isinstance(value, str):
        text = value[: MAX_QUOTED_LENGTH + 1]
    elif is_small_json(value, 10 * MAX_QUOTED_LENGTH):
        text = str(value)
    else:
        text = f"a large {type(value).__name__}"
    if len(text) > MAX_QUOTED_LENGTH:
        text = text[:MAX_QUOTED_LENGTH] + "..."
    return text.encode("unicode_escape").decode("ascii")


def assert_good(message: str, result: object, instance: type) -> None:
    """Raise BadPeerError unless `result`, the answer to `message`, is of type `instance`.

    A boolean is not an integer.
    """
    is_bool = isinstance(result, bool) and instance is not bool
    if is_bool or not isinstance(result, instance):
        raise BadPeerError(f"{message} returned bad result type {type(result).__name__}")


async def run_bounded(coro: Coroutine[object, object, T], timeout_secs: float | None) -> T:
    """Return the result of `coro`, run as a task of its own for at most `timeout_secs`.

    Raises asyncio.TimeoutError, or PeerConnectionLostError if the library cancelled it. The task
    has ended when this returns, also on a cancellation of the caller.
    """
    task = asyncio.ensure_future(coro)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_secs)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                # Looked at, or the loop would report it as never retrieved.
                task.exception()
    if not done:
        raise asyncio.TimeoutError
    if task.cancelled():
        raise PeerConnectionLostError("connection lost")
    return task.result()


class PeerConnection(JSONRPCConnection):  # type: ignore[misc]  # the library has no types
    """JSON-RPC 2.0 state of a connection to a stranger, whatever it sends."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # Messages that answer no request of ours: requests, notifications, invalid ones.
        self.unsolicited_count = 0

    def receive_message(self, message: bytes) -> list[Any]:
        """Return the requests in `message`.

        Raises ProtocolError, also where the library raises others: the JSON parser's errors for
        deep nesting and huge numbers, and a batch whose ids cannot be sorted. Raises
        ConnectionLostError, which ends the reading task, for a flood.
        """
        try:
            requests: list[Any] = super().receive_message(message)
        except ProtocolError:
            self._count_unsolicited(1)
            raise
        except Exception as e:
            self._count_unsolicited(1)
            raise ProtocolError(JSONRPC.PARSE_ERROR, f"bad message: {type(e).__name__}") from e
        self._count_unsolicited(len(requests))
        return requests

    def _count_unsolicited(self, count: int) -> None:
        self.unsolicited_count += count
        if self.unsolicited_count > MAX_UNSOLICITED:
            raise ConnectionLostError


class PeerSession(RPCSession):  # type: ignore[misc]  # the library has no types
    """An outgoing session; serves nothing to the other side."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        # The library's logger is not one of ours.
        self.logger = class_logger(__name__, self.__class__.__name__)

    def default_connection(self) -> PeerConnection:
        """Return the JSON-RPC state; the library calls it."""
        return PeerConnection(JSONRPCv2)

    async def handle_request(self, request: object) -> None:
        """Ignore the header notifications that our subscription causes; reject all else."""
        if isinstance(request, Notification) and request.method == "blockchain.headers.subscribe":
            return
        raise RPCError(JSONRPC.METHOD_NOT_FOUND, "unknown method")

    async def send_request(self, method: str, args: Sequence[Any] = ()) -> Any:
        """Return the answer to a request.

        Raises RPCError or ProtocolError for error replies, TaskTimeout, and
        PeerConnectionLostError.
        """
        return await run_bounded(super().send_request(method, args), None)

    async def close(self, *, force_after: float = 1) -> None:
        """Close and return when closed; abort after a second by default."""
        await super().close(force_after=force_after)


def few_of_family(addresses: Iterable[str], family: int) -> list[str]:
    """Return at most MAX_ADDRESSES of some IP addresses, or a name; raise OSError without any.

    The owner of a name can give it thousands, of other people's machines.
    """
    is_ipv6 = family == socket.AF_INET6
    suitable = dict.fromkeys(address for address in addresses if (":" in address) == is_ipv6)
    if not suitable:
        raise OSError(f"no IPv{6 if is_ipv6 else 4} address")
    return list(suitable)[:MAX_ADDRESSES]


async def connect_to_first(
    stack: AsyncExitStack, addresses: Iterable[str], port: int, args: dict[str, object]
) -> PeerSession:
    """Return a session with the first of some addresses that takes the connection.

    `stack` closes it. Raises the error of the last address: OSError or SOCKSError.
    """
    error: Exception | None = None
    for address in addresses:
        try:
            session: PeerSession = await stack.enter_async_context(
                connect_rs(address, port, session_factory=PeerSession, **args)
            )
            return session
        except (OSError, SOCKSError) as e:
            error = e
    assert error
    raise error
