#!/usr/bin/env python3
"""Measure the server's CPU time per connection: handshakes, upgrades, one request, and the end.

    python -m benchmarks.tls [--connections 2000] [--loop asyncio] [--key rsa:2048]

One client connects, asks server.ping once and closes, again and again, over each kind of
connection.  The difference between ``ssl`` and ``tcp`` is the cost of TLS: the handshake, mostly.
Prints microseconds per connection as one JSON object.
"""

import argparse
import socket
import ssl
import subprocess
import sys

from benchmarks.load import make_node, print_figures
from benchmarks.measuring import cpu_secs
from tests.integration.launcher import InjectedServer

PROTOCOLS = ("tcp", "ssl", "ws", "wss")
PING = b'{"jsonrpc": "2.0", "id": 1, "method": "server.ping", "params": []}'
# A text frame with a mask of zeros, which is as good as another.
PING_FRAME = bytes((0x81, 0x80 | len(PING), 0, 0, 0, 0)) + PING
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def connect(protocol, port, context):
    """Connect, ask once, and close."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        if protocol in ("ssl", "wss"):
            sock = context.wrap_socket(sock)
        with sock:
            if protocol in ("ws", "wss"):
                sock.sendall(UPGRADE)
                received = b""
                while not received.endswith(b"\r\n\r\n"):
                    received += sock.recv(65_536)
                sock.sendall(PING_FRAME)
            else:
                sock.sendall(PING + b"\n")
            sock.recv(65_536)


def make_certificate(folder, key):
    """Write cert.pem and key.pem of a kind of key into a folder."""
    kind, _, size = key.partition(":")
    option = f"ec_paramgen_curve:{size}" if kind == "ec" else f"rsa_keygen_bits:{size}"
    command = (
        f"openssl req -x509 -newkey {kind} -pkeyopt {option} -nodes -days 2 -subj /CN=localhost"
    )
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)


def measure(folder, *, connections, loop, key):
    """Microseconds of the server's CPU per connection that asks once."""
    make_certificate(folder, key)
    settings = {
        "COST_SOFT_LIMIT": "0",
        "COST_HARD_LIMIT": "0",
        "LOG_LEVEL": "warning",
        "EVENT_LOOP_POLICY": loop,
        "SSL_CERTFILE": str(folder / "cert.pem"),
        "SSL_KEYFILE": str(folder / "key.pem"),
    }
    context = ssl._create_unverified_context()
    figures = {"loop": loop, "connections": connections, "key": key}
    with (
        make_node() as node,
        InjectedServer(folder, node.env, {}, protocols=(*PROTOCOLS, "rpc"), **settings) as server,
    ):
        pid = server.child.pid
        for protocol in PROTOCOLS:
            port = server.ports[protocol]
            for _ in range(connections // 10):
                connect(protocol, port, context)
            start = cpu_secs(pid)
            for _ in range(connections):
                connect(protocol, port, context)
            secs = cpu_secs(pid) - start
            figures[protocol] = round(secs / connections * 1e6, 1)
    return figures


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--key", default="rsa:2048", help="rsa:2048 or ec:prime256v1")
    print_figures("tls", measure, **vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
