"""The client of a connection that came over a proxy: the PROXY headers, until they name it.

Owned by the connection, which gives it the bytes from the first on.  Runs on the event loop.
"""

from aiorpcx import NetAddress

from electrumx.server.session.transport.admission import Admission
from electrumx.server.session.transport.proxy_header import (
    HeaderReader,
    ProxyHeader,
    ProxyHeaderError,
)
from electrumx.server.session.transport.ticket import Ticket


class RefusedError(Exception):
    """The connection has to end: the proxy sent no valid header, or the client may not enter."""


class ForwardedAddress(NetAddress):
    """The address of a client as a proxy names it: its port may be 0."""

    def __init__(self, header: ProxyHeader) -> None:
        # Not the base's, which refuses that port.
        self._host = header.address
        self._port = header.port


class ProxiedClient:
    """The client of one connection, as the proxy names it."""

    __slots__ = ("_admission", "_is_trusted", "_reader", "_ticket", "header")

    def __init__(
        self, header_count: int, admission: Admission, ticket: Ticket | None, *, is_trusted: bool
    ) -> None:
        """``is_trusted``: whether all clients of the service are trusted."""
        self._reader: HeaderReader | None = HeaderReader(header_count)
        self._admission = admission
        self._ticket = ticket
        self._is_trusted = is_trusted
        #: the last header, None until it is complete
        self.header: ProxyHeader | None = None

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes; return those behind the headers, None while these are not complete.

        Raise RefusedError if the connection has to end; it may have ended already.
        """
        assert self._reader is not None
        try:
            rest = self._reader.feed(data)
        except ProxyHeaderError as e:
            self._admission.note_bad_header()
            raise RefusedError(str(e)) from None
        if rest is None:
            return None
        self.header = header = self._reader.header
        self._reader = None
        assert header is not None
        if self._ticket is None:
            return rest
        if header.is_local:
            self._admission.note_check(self._ticket)
        elif not self._admission.identify(
            self._ticket, header.address, is_trusted=self._is_trusted
        ):
            raise RefusedError("the client may not enter")
        return rest

    @property
    def is_check(self) -> bool:
        """Whether the connection is a check of the proxy's own."""
        return self.header is not None and self.header.is_local

    @property
    def had_tls(self) -> bool:
        """Whether the proxy reports that the client connected to it over TLS."""
        return self.header is not None and self.header.had_tls

    def address(self) -> NetAddress | None:
        """Return the client's address, None if the proxy does not know it."""
        header = self.header
        if header is None or header.address is None:
            return None
        return ForwardedAddress(header)
