"""Connections and frames of hostile clients, as bytes over blocking sockets."""

import base64
import os
import pty
import socket
import ssl
import subprocess
import time

from electrumx.server.session.transport.frame_cutter import MAX_HEADER_BYTES, frame_size

# A masked control frame without content; of ping the server has to answer each with a pong.
PINGS = bytes.fromhex("8980") + bytes(4)
PINGS *= 2_000
PONGS = (bytes.fromhex("8a80") + bytes(4)) * 2_000
# A message that begins and never ends: its first frame, and those that follow
# A whole frame that the protocol forbids: an unknown opcode
BAD_FRAME = bytes.fromhex("8380") + bytes(4)
BEGIN_FRAGMENTS = bytes.fromhex("0180") + bytes(4)
EMPTY_FRAGMENTS = (bytes.fromhex("0080") + bytes(4)) * 2_000
CONNECT_SECS = 20


def connect(port, source):
    """A connection from a loopback address."""
    return socket.create_connection(
        ("127.0.0.1", port), timeout=CONNECT_SECS, source_address=(source, 0)
    )


def come_and_go(port, source):
    """Connect, and end the connection at once; return when the server has done so, too."""
    with connect(port, source) as sock:
        sock.shutdown(socket.SHUT_WR)
        try:
            while sock.recv(4_096):
                pass
        except ConnectionError:
            pass


def connect_tls(port, source):
    """The same with TLS, after the handshake."""
    return ssl._create_unverified_context().wrap_socket(connect(port, source))


def say_and_go(port, source, data):
    """Connect, send some bytes, wait for an answer or the end, and leave."""
    with connect(port, source) as sock:
        sock.sendall(data)
        try:
            sock.recv(65_536)
        except ConnectionError:
            pass


def hello():
    """The first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    layer = ssl._create_unverified_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        layer.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def upgrade(port):
    """The request of a websocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def connect_websocket(port, source):
    """The same with a websocket, after the handshake."""
    return _upgraded(connect(port, source), port)


def connect_secure_websocket(port, source):
    """The same over TLS."""
    return _upgraded(connect_tls(port, source), port)


def _upgraded(sock, port):
    sock.sendall(upgrade(port))
    reply = b""
    while b"\r\n\r\n" not in reply:
        data = sock.recv(4_096)
        if not data:
            raise ConnectionError("the websocket was refused")
        reply += data
    return sock


def text_frame(message):
    """The frame of a text message of a client's."""
    size = len(message)
    if size < 126:
        header = bytes((0x81, 0x80 | size))
    elif size < 65_536:
        header = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        header = b"\x81\xff" + size.to_bytes(8, "big")
    return header + bytes(4) + message


class FrameCounter:
    """Counts the frames that the server sends."""

    def __init__(self):
        self._data = b""

    def feed(self, data):
        """Return how many frames these bytes complete."""
        data = self._data + data
        count, position = 0, 0
        while (size := frame_size(data[position : position + MAX_HEADER_BYTES])) is not None:
            if position + size > len(data):
                break
            position += size
            count += 1
        self._data = data[position:]
        return count


def begin_fragments(port, source):
    """A websocket on which a message has begun."""
    sock = connect_websocket(port, source)
    sock.sendall(BEGIN_FRAGMENTS)
    return sock


def send_some(sock, data):
    """Send frames, or key updates instead; ConnectionError if the server ends it."""
    if isinstance(sock, KeyUpdates):
        sock.update()
    elif isinstance(sock, ShortRecords):
        sock.send_text(data)
    else:
        sock.sendall(data)


class ShortRecords:
    """A connection with TLS whose text is sent in records of one byte, many at a time."""

    def __init__(self, port, source):
        incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._layer = ssl._create_unverified_context().wrap_bio(incoming, self._outgoing)
        self._sock = connect(port, source)
        while True:
            try:
                self._layer.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                incoming.write(self._sock.recv(65_536))

    def __exit__(self, *_exc):
        self._sock.close()

    def settimeout(self, secs):
        """Bound each wait."""
        self._sock.settimeout(secs)

    def send_text(self, text):
        """Send a text."""
        for byte in text:
            self._layer.write(bytes((byte,)))
        self._sock.sendall(self._outgoing.read())


class KeyUpdates:
    """A TLS 1.3 connection that renews its keys over and over, by ``openssl s_client``'s command K.

    Python's ssl module cannot ask for it.
    """

    def __init__(self, port, source):
        self._primary, secondary = pty.openpty()
        self._process = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-bind", f"{source}:0"],
            stdin=secondary,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(secondary)
        # A terminal whose process has ended takes no more.
        os.set_blocking(self._primary, False)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._process.kill()
        self._process.wait()
        os.close(self._primary)

    def settimeout(self, secs):
        """Nothing to set."""

    def update(self, count=100):
        """Renew the keys so many times."""
        commands = memoryview(b"k\n" * count)
        while commands:
            if self._process.poll() is not None:
                raise ConnectionError("the server ended the connection")
            try:
                commands = commands[os.write(self._primary, commands) :]
            except BlockingIOError:
                time.sleep(0.005)
