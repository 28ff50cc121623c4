#!/usr/bin/env python3
"""Measures the server's CPU time for the smallest request, over each kind of connection.

    python -m benchmarks.requests [--requests 100000] [--loop asyncio]

One client asks server.ping, ``DEPTH`` at a time (websockets: as many messages) or one at a time.
Prints microseconds a request as one JSON object.
"""

import argparse
import socket
import ssl
import sys

from websockets.sync.client import connect as connect_websocket

from benchmarks.load import make_node, print_figures
from benchmarks.measuring import cpu_secs
from tests.integration.launcher import InjectedServer

DEPTH = 32
PROTOCOLS = ("tcp", "ssl", "ws")


def ping(number):
    return b'{"jsonrpc": "2.0", "id": %d, "method": "server.ping", "params": []}' % number


def over_socket(sock, count, depth):
    """Ask over a raw socket."""
    lines = b"".join(ping(n) + b"\n" for n in range(depth))
    for _ in range(count // depth):
        sock.sendall(lines)
        missing = depth
        while missing:
            missing -= sock.recv(65_536).count(b"\n")


def over_websocket(connection, count, depth):
    """Ask over a websocket."""
    messages = [ping(n).decode() for n in range(depth)]
    for _ in range(count // depth):
        for message in messages:
            connection.send(message)
        for _reply in messages:
            connection.recv()


def ask(protocol, port, count, depth):
    """Ask so often over a connection of its own."""
    if protocol == "ws":
        with connect_websocket(f"ws://127.0.0.1:{port}", compression=None) as connection:
            over_websocket(connection, count, depth)
        return
    with socket.create_connection(("127.0.0.1", port)) as sock:
        if protocol == "ssl":
            context = ssl._create_unverified_context()
            with context.wrap_socket(sock) as tls:
                over_socket(tls, count, depth)
        else:
            over_socket(sock, count, depth)


def measure(folder, *, requests, loop):
    """Microseconds of the server's CPU for a request, pipelined and one at a time."""
    settings = {
        "COST_SOFT_LIMIT": "0",
        "COST_HARD_LIMIT": "0",
        "LOG_LEVEL": "warning",
        "EVENT_LOOP_POLICY": loop,
    }
    figures = {"loop": loop, "requests": requests}
    with (
        make_node() as node,
        InjectedServer(folder, node.env, {}, protocols=(*PROTOCOLS, "rpc"), **settings) as server,
    ):
        pid = server.child.pid
        for protocol in PROTOCOLS:
            for depth in (DEPTH, 1):
                count = requests if depth > 1 else requests // 5
                ask(protocol, server.ports[protocol], count // 10, depth)
                start = cpu_secs(pid)
                ask(protocol, server.ports[protocol], count, depth)
                secs = cpu_secs(pid) - start
                figures[f"{protocol}, {depth} at a time"] = round(secs / count * 1e6, 1)
    return figures


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    print_figures("requests", measure, **vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
