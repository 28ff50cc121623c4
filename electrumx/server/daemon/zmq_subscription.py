"""Subscriptions to the messages that a node publishes by ZMQ.  Runs on the event loop."""

from collections.abc import Iterable
from typing import Any

from electrumx.lib.errors import OperatorError


def open_subscription(
    variable: str,
    addresses: Iterable[str],
    topics: Iterable[bytes],
    *,
    max_messages: int,
    max_bytes: int,
) -> tuple[Any, Any]:
    """Return a context, and a socket that is, or will be, connected to the addresses.

    At most ``max_messages`` wait, each of ``max_bytes`` at most.  Raise OperatorError, which names
    the environment variable, if pyzmq is missing or an address is unusable.
    """
    try:
        import zmq
        import zmq.asyncio
    except ImportError as e:
        raise OperatorError(
            f"{variable} is set, but pyzmq cannot be imported ({e}): install electrumx[zmq]"
        ) from e
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    options = {
        zmq.LINGER: 0,
        zmq.IPV6: 1,
        zmq.RCVHWM: max_messages,
        zmq.MAXMSGSIZE: max_bytes,
        zmq.RECONNECT_IVL_MAX: 10_000,  # milliseconds
        # Notices a node that vanished without closing the connection.
        zmq.HEARTBEAT_IVL: 30_000,
    }
    for option, value in options.items():
        socket.setsockopt(option, value)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    for address in addresses:
        try:
            socket.connect(address)
        except zmq.ZMQError as e:
            close_subscription(context, socket)
            raise OperatorError(f"cannot use {variable} {address}: {e}") from e
    return context, socket


def close_subscription(context: Any, socket: Any) -> None:
    """Close the socket and context of :func:`open_subscription`."""
    socket.close(0)
    context.term()
