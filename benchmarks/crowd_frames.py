"""Connections and frames of hostile clients, as bytes over blocking sockets."""

import base64
import os
import pty
import socket
import ssl
import subprocess
import time

# A masked control frame without content; of ping the server has to answer each with a pong.
PINGS = bytes.fromhex("8980") + bytes(4)
PINGS *= 2_000
PONGS = (bytes.fromhex("8a80") + bytes(4)) * 2_000
# A message that begins and never ends: its first frame, and those that follow
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
    sock = connect(port, source)
    sock.sendall(upgrade(port))
    reply = b""
    while b"\r\n\r\n" not in reply:
        data = sock.recv(4_096)
        if not data:
            raise ConnectionError("the websocket was refused")
        reply += data
    return sock


def begin_fragments(port, source):
    """A websocket on which a message has begun."""
    sock = connect_websocket(port, source)
    sock.sendall(BEGIN_FRAGMENTS)
    return sock


def send_some(sock, data):
    """Send frames, or key updates instead; ConnectionError if the server ends it."""
    if isinstance(sock, KeyUpdates):
        sock.update()
    else:
        sock.sendall(data)


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
