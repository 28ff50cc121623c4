#!/usr/bin/env python3
"""Measures what a script with very many unconfirmed transactions costs other clients.

    python -m benchmarks.large_script [--txs 20000] [--clients 50]

A fake node has that many unconfirmed transactions of one script.  All clients subscribe to it at
once, then ask for its history, balance and unspent outputs, then are notified of one transaction
more.  Another client pings all the time.  Prints each phase's duration, and the median, the
99th percentile and the longest of the pings in milliseconds.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import socket
import tempfile
import time
from pathlib import Path

from electrumx.lib.hash import double_sha256
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import fan_block, fan_spends, script_of, small_chain
from tests.integration.server import ServerProcess

SHARED = hashlib.sha256(script_of(7)).digest()[::-1].hex()
WAIT_SECS = 300
PREFIX = "blockchain.scripthash."


def spends_to_one_script(fan):
    """The spends of a fan, all to one script."""
    for tx in fan_spends(fan, sig_size=100):
        outputs = [tx.outputs[0], tx.outputs[1]._replace(pk_script=script_of(7))]
        yield tx._replace(outputs=outputs)


def ping(port, conn):
    """The process of a client that pings, from one order to the next; sends the seconds of each."""
    message = b'{"jsonrpc":"2.0","method":"server.ping","id":0}\n'
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as lines:
        while conn.recv() == "start":
            secs = []
            while not conn.poll():
                start = time.perf_counter()
                sock.sendall(message)
                lines.readline()
                secs.append(time.perf_counter() - start)
                time.sleep(0.001)
            conn.recv()
            conn.send(secs)


class Pinger:
    """Another client, in a process of its own."""

    def __init__(self, port):
        self._conn, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=ping, args=(port, theirs), daemon=True)
        self._process.start()

    async def phase(self, what, work):
        self._conn.send("start")
        await asyncio.sleep(0.1)
        start = time.perf_counter()
        await work
        took = time.perf_counter() - start
        await asyncio.sleep(0.1)
        self._conn.send("stop")
        values = sorted(await asyncio.to_thread(self._conn.recv))
        chosen = values[len(values) // 2], values[len(values) * 99 // 100], values[-1]
        figures = " / ".join(f"{value * 1000:.1f}" for value in chosen)
        print(f"{what}: {took:.2f} s; pings {figures} ms ({len(values)})", flush=True)

    def stop(self):
        self._conn.send("end")
        self._process.join(10)


def each(clients, method):
    return asyncio.gather(*(c.call(PREFIX + method, SHARED, timeout=WAIT_SECS) for c in clients))


async def measure(args, node, server, spends):
    clients = [await server.connect().__aenter__() for _ in range(args.clients)]
    pinger = Pinger(server.ports["tcp"])
    count = 0
    while count < args.txs:
        count = len(await clients[0].call(PREFIX + "get_mempool", SHARED, timeout=WAIT_SECS))
    try:
        await pinger.phase("quiet", asyncio.sleep(3))
        await pinger.phase("all subscribe", each(clients, "subscribe"))
        for method in ("get_history", "get_balance", "listunspent"):
            await pinger.phase(f"one {method}", each(clients[:1], method))
            await pinger.phase(f"ten {method}", each(clients[:10], method))

        async def notified():
            raw = spends[-1].serialize()
            node.do(lambda n: n.mempool.__setitem__(double_sha256(raw), raw))
            for client in clients:
                await client.notification(PREFIX + "subscribe", timeout=WAIT_SECS)

        await pinger.phase("all are notified", notified())
    finally:
        pinger.stop()
        for client in clients:
            await client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--txs", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=50)
    args = parser.parse_args()
    maker, tip = small_chain(5)
    tip, fan = fan_block(maker, tip, args.txs + 1)
    spends = list(spends_to_one_script(fan))
    mempool = {double_sha256(tx.serialize()): tx.serialize() for tx in spends[:-1]}
    with (
        NodeThread(maker.chain(tip)) as node,
        tempfile.TemporaryDirectory(prefix="ex-script-") as name,
    ):
        node.do(lambda n: n.mempool.update(mempool))
        settings = {"MAX_SEND": 50_000_000, "DAEMON_POLL_INTERVAL_MEMPOOL": 1000}
        server = ServerProcess(Path(name), node.env, protocols=("tcp", "rpc"), **settings)
        with server:
            asyncio.run(measure(args, node, server, spends))


if __name__ == "__main__":
    main()
