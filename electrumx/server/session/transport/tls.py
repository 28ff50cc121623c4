"""TLS over bytes in memory: the certificate of the listeners, and the layer of one connection.

``TLSLayer`` takes the bytes of the network and gives the text of the client; it encrypts the
data to send.  It owns no socket and no timer, so its caller knows, and can charge for,
every byte and every record, and decides how much to process in one turn of the event loop.

A record is the unit of work: however short, it costs a decryption.  A client can send records
that carry nothing, such as TLS 1.3's KeyUpdate (27 bytes, 7 µs of CPU), and OpenSSL processes
all its input before it returns.  Hence the layer cuts input at the boundaries of records, which
are in plain sight, and processes ``SLICE_RECORDS`` or ``SLICE_BYTES`` at a time.

Runs on the event loop.
"""

import os
import ssl
from typing import Any

from electrumx.lib import util

# Processed at a time: 64 records without content take half a millisecond.
SLICE_RECORDS = 64
SLICE_BYTES = 65_536
# More than a record holds, so that each read returns all of one.
READ_BYTES = 32_768
# Written at a time.  OpenSSL's buffers grow to the largest piece, and stay so.
WRITE_BYTES = 65_536
# A client's part of the handshake: we request no certificates of clients, and a ClientHello
# with post-quantum keys has 2 KB.
MAX_HANDSHAKE_BYTES = 65_536
# Records without content, such as KeyUpdate and warnings, in the life of a connection.  Clients
# send one for millions of others, if any.
MAX_EMPTY_RECORDS = 1_000

_HEADER_BYTES = 5
# Where decrypted text goes: shared, as nothing waits while it is in use.
_buffer = bytearray(READ_BYTES)
_view = memoryview(_buffer)


class TLSError(Exception):
    """The client broke the protocol: the connection cannot go on."""


class PassphraseError(OSError):
    """A private key is encrypted."""


class RenewedContext(ssl.SSLContext):
    """The context of TLS listeners: each new connection gets the certificate now on disk.

    Raises OSError (ssl.SSLError is one) if the files are bad.  If they are bad when they change,
    new connections go on with the last good ones.

    It looks at the files when a connection comes, on the event loop: two system calls, some 5 µs on a
    local file system.  On one of a network that hangs they would stop the server, so the manual asks
    for local files.  A change goes into a context of its own: a failure half-way could leave
    one with a certificate and no key.
    """

    def __new__(cls, certfile: str, keyfile: str, kind: str = "SSL") -> "RenewedContext":
        """Return a context for servers; arguments are ``__init__``'s."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certfile: str, keyfile: str, kind: str = "SSL") -> None:
        """``kind`` is the first part of the names of the settings of the files."""
        self._kind = kind
        self.logger = util.class_logger(__name__, self.__class__.__name__)
        self._files = (certfile, keyfile)
        # Before reading, so as to notice a change in between.
        self._seen = self._signature()
        self._current = self._load()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Return the TLS layer of a new connection."""
        self._renew()
        return self._current.wrap_bio(*args, **kwargs)

    def _signature(self) -> list[tuple[int, int, int]]:
        """Return values that differ if a file was written again, or a link points to another one."""
        stats = [os.stat(file) for file in self._files]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _load(self) -> ssl.SSLContext:
        for file in self._files:
            # OpenSSL's error would not name the file.
            with open(file, "rb"):
                pass
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A client could make us repeat the handshake in TLS 1.2, without end.
        context.options |= ssl.OP_NO_RENEGOTIATION
        # By default there are two, of 10 µs each; a client that resumes a session gets another one.
        context.num_tickets = 1
        context.load_cert_chain(*self._files, password=self._refuse_passphrase)
        return context

    def _refuse_passphrase(self) -> str:
        """Raise PassphraseError; without a callback OpenSSL would ask on the terminal."""
        keyfile = self._files[1]
        raise PassphraseError(
            f"the private key {keyfile} needs a passphrase, which the server never asks for.  "
            f"Write a copy without one by `openssl pkey -in {keyfile} -out NEW_FILE`, readable "
            f"by the server's user only, and set {self._kind}_KEYFILE to it"
        )

    def _renew(self) -> None:
        try:
            signature = self._signature()
        except OSError as e:
            if self._seen:
                self._seen = []
                self._keep_old(e)
            return
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._current = self._load()
        except OSError as e:
            self._keep_old(e)
        else:
            self.logger.info(f"new connections use the renewed certificate {self._files[0]}")

    def _keep_old(self, error: OSError) -> None:
        self.logger.error(
            f"the renewed certificate {self._files[0]} cannot be used, keeping the old one: {error}"
        )


class RecordCutter:
    """Finds where TLS records end in the bytes of a stream, however these are cut."""

    __slots__ = ("_header", "_rest", "is_between_records")

    def __init__(self) -> None:
        # Bytes of the current record still to come, and the part of a header that came
        self._rest = 0
        self._header = b""
        #: whether the next byte begins a record
        self.is_between_records = True

    def whole_record(self, data: bytes, start: int = 0) -> int:
        """Return the end of the whole record that begins at ``start``, 0 if it is not whole."""
        content_at = start + _HEADER_BYTES
        if not self.is_between_records or content_at >= len(data):
            return 0
        end = content_at + (data[start + 3] << 8 | data[start + 4])
        return end if end <= len(data) else 0

    def cut(self, data: bytes, start: int, max_records: int, max_bytes: int) -> tuple[int, int]:
        """Return (position behind, records ended): at most so many, from ``start`` on."""
        position, end = start, min(len(data), start + max_bytes)
        records = 0
        while position < end and records < max_records:
            if not self._rest:
                header = (
                    self._header + data[position : position + _HEADER_BYTES - len(self._header)]
                )
                position += len(header) - len(self._header)
                if len(header) < _HEADER_BYTES:
                    self._header = header
                    break
                self._header = b""
                self._rest = header[3] << 8 | header[4]
            taken = max(0, min(self._rest, end - position))
            position += taken
            self._rest -= taken
            records += not self._rest
        self.is_between_records = not self._rest and not self._header
        return min(position, len(data)), records


class TLSLayer:
    """The server's side of one TLS connection.

    The caller must call ``to_send()``, and send its bytes, after ``receive`` and ``close``; after
    ``receive_record`` only if that raises.
    """

    __slots__ = ("_cutter", "_handshake_bytes", "_incoming", "_outgoing", "_ssl", "empty_records",
                 "is_open", "records")  # fmt: skip

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._cutter = RecordCutter()
        self._handshake_bytes = 0
        #: whether the handshake is done
        self.is_open = False
        #: records that ``receive`` processed since the handshake, and all without content
        self.records = self.empty_records = 0

    def receive(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        """Process a slice of the received bytes; return the position behind it.

        Appends the client's text to ``pieces``; an empty piece is the end of it.  Raises
        TLSError.
        """
        if not self.is_open:
            return self._shake_hands(data, start)
        end, records = self._cutter.cut(data, start, SLICE_RECORDS, SLICE_BYTES)
        whole = start == 0 and end == len(data)
        self._incoming.write(data if whole else memoryview(data)[start:end])
        before = len(pieces)
        self._read(pieces)
        self.records += records
        self._count_empty(max(0, records - (len(pieces) - before)))
        return end

    def is_record(self, data: bytes) -> bool:
        """Return whether the received bytes are one whole record: most often they are."""
        return self.is_open and 0 < self._cutter.whole_record(data) == len(data)

    def receive_record(self, data: bytes) -> bytes | None:
        """Do as ``receive`` with one whole record; return its content, None if it has none."""
        self._incoming.write(data)
        try:
            # There is less in it than it takes.
            return self._ssl.read(len(data))
        except ssl.SSLWantReadError:
            self._count_empty(1)
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as e:
            raise TLSError(str(e)) from None

    def _count_empty(self, count: int) -> None:
        self.empty_records += count
        if self.empty_records > MAX_EMPTY_RECORDS:
            raise TLSError("too many records without content")

    def _read(self, pieces: list[bytes]) -> None:
        incoming, read = self._incoming, self._ssl.read
        try:
            while incoming.pending:
                count: Any = read(READ_BYTES, _buffer)
                pieces.append(bytes(_view[:count]))
                if not count:
                    return
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            pieces.append(b"")
        except ssl.SSLError as e:
            raise TLSError(str(e)) from None

    def _shake_hands(self, data: bytes, start: int) -> int:
        """Go on with the handshake; return the position of the first unused input.

        It feeds records one by one, until the handshake ends: those that follow count as content.
        """
        position, cutter = start, self._cutter
        while position < len(data) and not self.is_open:
            end = cutter.whole_record(data, position)
            if not end:
                end, _records = cutter.cut(data, position, 1, SLICE_BYTES)
            self._handshake_bytes += end - position
            if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
                raise TLSError("handshake too long")
            self._incoming.write(data[position:end])
            position = end
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as e:
                raise TLSError(str(e)) from None
            else:
                self.is_open = True
        return position

    def encrypt_piece(self, data: bytes) -> bytes:
        """Return the encrypted form of up to ``WRITE_BYTES`` to send."""
        self._ssl.write(data)
        return self._outgoing.read()

    def encrypt(self, data: bytes) -> list[bytes]:
        """Return the encrypted form of the data to send, in pieces."""
        if len(data) <= WRITE_BYTES:
            return [self.encrypt_piece(data)]
        write, outgoing = self._ssl.write, self._outgoing
        pieces = []
        view = memoryview(data)
        for start in range(0, len(data), WRITE_BYTES):
            write(view[start : start + WRITE_BYTES])
            pieces.append(outgoing.read())
        return pieces

    def to_send(self) -> bytes:
        """Return the layer's own bytes to send, such as its part of the handshake."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Announce the end of the data, if the handshake is done."""
        if self.is_open:
            try:
                self._ssl.unwrap()
            except ssl.SSLError:
                pass  # it waits for the client's own
