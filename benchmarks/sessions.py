#!/usr/bin/env python3
"""Measures the memory of idle sessions, and of their subscriptions.

    python -m benchmarks.sessions [--sessions 15000] [--subscriptions 50] [--protocol tcp]

The server runs over a fake node; the clients run in a process of their own. Each script is
subscribed to once. Prints its figures as one JSON object. The limit of open files must allow it.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import ssl
import sys

from benchmarks.load import make_node, make_server, print_figures
from benchmarks.measuring import memory_kb

BACKLOG = 50  # connections that are being opened at once


class Client(asyncio.Protocol):
    """Counts the replies to its requests."""

    def __init__(self):
        self.wanted = 0
        self.done = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.wanted -= data.count(b"\n")
        if self.wanted <= 0:
            self.done.set()

    async def ask(self, lines):
        self.wanted += len(lines)
        self.done.clear()
        self.transport.write(b"".join(lines))
        await asyncio.wait_for(self.done.wait(), 120)


def line(number, method, *params):
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def scripts(session, first, count):
    """Made-up script hashes, no two the same."""
    names = (b"%d %d" % (session, n) for n in range(first, first + count))
    return [hashlib.sha256(name).hexdigest() for name in names]


def _clients(port, tls, sessions, steps, pipe):
    """Open sessions; then, for each count on the pipe, subscribe each to so many scripts."""

    async def run():
        loop = asyncio.get_running_loop()
        context = ssl._create_unverified_context() if tls else None
        gate = asyncio.Semaphore(BACKLOG)
        clients = []

        async def connect(number):
            source = f"127.{1 + number // 10000}.0.{1 + number // 50 % 200}"
            async with gate:
                _transport, client = await loop.create_connection(
                    Client, "127.0.0.1", port, local_addr=(source, 0), ssl=context
                )
                await client.ask(
                    [
                        line(0, "server.version", "idle", ["1.4", "1.4.2"]),
                        line(1, "blockchain.headers.subscribe"),
                    ]
                )
            clients.append(client)

        async def subscribe(number, client, first, count):
            async with gate:
                hashes = scripts(number, first, count)
                await client.ask(
                    [
                        line(n, "blockchain.scripthash.subscribe", item)
                        for n, item in enumerate(hashes)
                    ]
                )

        await asyncio.gather(*(connect(number) for number in range(sessions)))
        pipe.send("connected")
        first = 0
        for count in steps:
            await loop.run_in_executor(None, pipe.recv)
            await asyncio.gather(
                *(subscribe(n, client, first, count) for n, client in enumerate(clients))
            )
            first += count
            pipe.send("subscribed")
        await loop.run_in_executor(None, pipe.recv)

    asyncio.run(run())


def measure(folder, *, sessions, subscriptions, protocol):
    """RSS of the server before and after each step."""
    settings = {
        "COST_SOFT_LIMIT": "0",
        "COST_HARD_LIMIT": "0",
        "MAX_SESSIONS": str(sessions + 100),
        "LOG_LEVEL": "warning",
        "SESSION_TIMEOUT": "6000",
    }
    half = subscriptions // 2
    with make_node() as node, make_server(folder, node, **settings) as server:
        pid, port = server.child.pid, server.ports[protocol]
        start = memory_kb(pid)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        steps = [half, subscriptions - half]
        args = (port, protocol == "ssl", sessions, steps, theirs)
        process = context.Process(target=_clients, args=args, daemon=True)
        process.start()
        # So that to wait for clients that died is an error.
        theirs.close()
        ours.recv()
        connected = memory_kb(pid)
        points = []
        for _ in steps:
            ours.send("go")
            ours.recv()
            points.append(memory_kb(pid))
        counts = server.rpc("getinfo")["sessions"]
        ours.send("end")
        process.join(60)
        return {
            "protocol": protocol,
            "sessions": counts["count"] - 1,
            "subscriptions": counts["subs"],
            "MB at start": start // 1024,
            "MB with idle sessions": connected // 1024,
            "MB with all subscriptions": points[-1] // 1024,
            "bytes a session": (connected - start) * 1024 // sessions,
            # The first half fills the caches of scripts, whose size is bounded.
            "bytes a subscription": (points[1] - points[0]) * 1024 // (sessions * steps[1]),
        }


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=15_000)
    parser.add_argument("--subscriptions", type=int, default=50)
    parser.add_argument("--protocol", choices=("tcp", "ssl"), default="tcp")
    print_figures("sessions", measure, **vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
