"""Connections without sockets: fakes of asyncio and of the server's parts that a transport uses."""

import contextlib

from electrumx.server.session.transport.held_memory import ReceiveMemory, SendMemory
from electrumx.server.session.transport.transport import ConnectionContext
from electrumx.server.session.transport.turns import TurnQueue


def abort(transport):
    """Abort a client's transport, also one that was lost.

    Before Python 3.11.5 a TLS transport that was lost raises AttributeError.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()


class FreeAdmission:
    """Admits every connection, and remembers nothing."""

    def opened(self, connection):
        pass

    def lost(self, connection):
        pass


def connection_context(session_factory, max_recv=1_000_000, **settings):
    """Return the parts that the connections of a service share."""
    shared = {
        "admission": FreeAdmission(),
        "send_memory": SendMemory(1 << 30),
        "receive_memory": ReceiveMemory(limit=1 << 30),
        "turns": TurnQueue(),
    }
    return ConnectionContext(session_factory, max_recv, **(shared | settings))


class FakeSocketTransport:
    """The transport that asyncio gives a protocol, with a client that reads everything at once."""

    def __init__(self):
        self.sent = b""
        self.is_reading = True
        self.is_closed = self.is_aborted = self.eof_sent = False
        #: bytes that the client has not read
        self.unread = 0

    def write(self, data):
        self.sent += data

    def write_eof(self):
        self.eof_sent = True

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def get_write_buffer_size(self):
        return self.unread

    def get_extra_info(self, name):
        return ("192.0.2.1", 4242) if name == "peername" else None

    def is_closing(self):
        return self.is_closed or self.is_aborted

    def can_write_eof(self):
        return True

    def close(self):
        self.is_closed = True

    def abort(self):
        self.is_aborted = True
