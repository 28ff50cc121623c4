#!/usr/bin/env python3
"""Measures what wallets wait while the mempool loads and while blocks come.

    python -m benchmarks.latency [--txs 300000] [--block-txs 6000] [--blocks 3] [--uvloop] [--real-time]

A fake node, in a process of its own, is first without a mempool, then has all of it at once,
and then mines parts of it, in blocks of about 4 MB.  All the time four wallets ping and subscribe to a
script with a history; one more is notified of headers and of some hundred scripts of each block.
Prints one line for each phase, and for each block when the node had it, when the server requested
and indexed it by its log, and when the last wallet was notified.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import cpu_secs, memory_kb
from electrumx.lib.hash import double_sha256
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import (
    coinbase,
    fan_block,
    fan_spends,
    script_of,
    small_chain,
)
from tests.integration.server import ServerProcess

WALLETS = 4
SUBSCRIPTIONS = 300
FAN = 50_000
LOADED_SECS = 600


def script_hash(number):
    return hashlib.sha256(script_of(number)).digest()[::-1].hex()


def own_script(number):
    """The script of its own that the numbered spend of a fan pays to."""
    return (1 << 40) + number


def run_node(conn, txs, block_txs, blocks):
    """The node's process: makes all beforehand, then obeys its commands."""
    maker, tip = small_chain(20)
    mempool = []
    for first in range(0, txs, FAN):
        tip, fan = fan_block(maker, tip, min(FAN, txs - first))
        # Only those that go into blocks are long.
        long = first < block_txs * blocks
        mempool += fan_spends(fan, sig_size=500 if long else 107, first=first)
    with NodeThread(maker.chain(tip)) as thread:
        node = thread.node
        node.waits_for_blocks = True
        raws = [tx.serialize() for tx in mempool]
        hashes = [double_sha256(raw) for raw in raws]
        mined = []
        for n in range(blocks):
            part = mempool[n * block_txs : (n + 1) * block_txs]
            tip = maker.add_block(tip, [coinbase(maker, script_of(0)), *part])
            mined.append(maker.blocks[tip][0])
            thread.do(lambda node, n=n: node.block_txs(mined[n]))
        conn.send((thread.env, len(node.blocks) - 1))
        while True:
            order = conn.recv()
            if order == "load":
                thread.do(lambda node: node.mempool.update(zip(hashes, raws, strict=True)))
            elif order == "mine":
                thread.do(lambda node: node.append(mined.pop(0)))
            else:
                return
            conn.send(time.time())


class Stopwatch:
    """Times requests of some wallets until stopped; its figures in milliseconds."""

    def __init__(self, clients, scripthash):
        self.clients, self.scripthash = clients, scripthash
        self.secs = {"ping": [], "subscribe": []}
        self.running = True

    async def _ask(self, client):
        while self.running:
            for name, call in (
                ("ping", ("server.ping",)),
                ("subscribe", ("blockchain.scripthash.subscribe", self.scripthash)),
            ):
                start = time.perf_counter()
                await client.call(*call)
                self.secs[name].append(time.perf_counter() - start)
                await asyncio.sleep(0.01)

    async def __aenter__(self):
        self.start = time.monotonic()
        self.tasks = [asyncio.create_task(self._ask(client)) for client in self.clients]
        return self

    async def __aexit__(self, *_exc):
        self.running = False
        await asyncio.wait(self.tasks)

    def show(self, what):
        took = time.monotonic() - self.start
        parts = [f"{what}: {took:.1f} s"]
        for name, secs in self.secs.items():
            values = sorted(secs)
            chosen = values[len(values) // 2], values[len(values) * 99 // 100], values[-1]
            figures = " / ".join(f"{value * 1000:.1f}" for value in chosen)
            parts.append(f"{name} {figures} ms ({len(values)})")
        print("; ".join(parts), flush=True)


async def phase(what, clients, scripthash, work):
    async with Stopwatch(clients, scripthash) as watch:
        result = await work
        await asyncio.sleep(0.3)
        watch.show(what)
    return result


async def loaded(client, number):
    deadline = time.monotonic() + LOADED_SECS
    while not await client.call("blockchain.scripthash.get_mempool", script_hash(number)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def log_times(server, height):
    """When the server asked for a block and when it had it indexed, by its log."""
    log = server.log()
    asked = re.search(rf"^([\d.]+) new block height {height:,d} ", log, re.MULTILINE)
    done = [float(t) for t in re.findall(r"^([\d.]+) processed 1 block ", log, re.MULTILINE)]
    return float(asked[1]), done[-1]


async def one_block(server, conn, subscriber, height):
    conn.send("mine")
    at_node = await asyncio.to_thread(conn.recv)
    heard, last = None, at_node
    while heard is None:
        method, params = await subscriber.notifications.get()
        if method == "blockchain.headers.subscribe":
            assert params[0]["height"] == height
            heard = time.time()
    scripts = 0
    while scripts < SUBSCRIPTIONS:
        method, _params = await asyncio.wait_for(subscriber.notifications.get(), 60)
        if method == "blockchain.scripthash.subscribe":
            scripts, last = scripts + 1, time.time()
    asked, indexed = log_times(server, height)
    legs = [asked, indexed, heard, last]
    names = ("asked for", "indexed", "header told", "scripts told")
    text = ", ".join(
        f"{name} {(t - at_node) * 1000:.0f}" for name, t in zip(names, legs, strict=True)
    )
    print(f"  ms after the node had it: {text}")


async def measure(args, conn, folder):
    env, height = await asyncio.to_thread(conn.recv)
    settings = {
        "LOG_FORMAT": "%(created).6f %(message)s",
        "DAEMON_POLL_INTERVAL_BLOCKS": None,
        "DAEMON_POLL_INTERVAL_MEMPOOL": None,
    }
    if args.uvloop:
        settings["EVENT_LOOP_POLICY"] = "uvloop"
    server = ServerProcess(Path(folder), env, protocols=("tcp", "rpc"), **settings)
    await asyncio.to_thread(server.start)
    clients = [await server.connect().__aenter__() for _ in range(WALLETS + 1)]
    subscriber = clients.pop()
    known = script_hash(1)
    try:
        await phase("quiet", clients, known, asyncio.sleep(5))
        conn.send("load")
        await asyncio.to_thread(conn.recv)
        await phase(
            f"{args.txs:,d} transactions load", clients, known,
            loaded(subscriber, own_script(args.txs - 1)),
        )  # fmt: skip
        await phase("refreshes", clients, known, asyncio.sleep(12))
        pid = server.child.pid
        lag = (await asyncio.to_thread(server.rpc, "getinfo"))["loop lag"]
        print(f"  memory {memory_kb(pid) // 1024} MB, CPU {cpu_secs(pid):.1f} s, loop lag {lag}")
        await subscriber.call("blockchain.headers.subscribe")
        for n in range(args.blocks):
            step = args.block_txs // SUBSCRIPTIONS
            for number in range(0, step * SUBSCRIPTIONS, step):
                number += n * args.block_txs
                await subscriber.call(
                    "blockchain.scripthash.subscribe", script_hash(own_script(number))
                )
            height += 1
            await phase("a block", clients, known, one_block(server, conn, subscriber, height))
        lag = await asyncio.to_thread(server.rpc, "getinfo")
        print(f"  loop lag {lag['loop lag']}")
    finally:
        for client in [*clients, subscriber]:
            await client.close()
        await asyncio.to_thread(server.terminate)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--txs", type=int, default=300_000)
    parser.add_argument("--block-txs", type=int, default=6_000)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--real-time", action="store_true", help="for a machine that is busy")
    args = parser.parse_args()
    if args.real_time:
        # Inherited by the node and the server
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    ours, theirs = multiprocessing.Pipe()
    node = multiprocessing.get_context("fork").Process(
        target=run_node, args=(theirs, args.txs, args.block_txs, args.blocks)
    )
    node.start()
    try:
        with tempfile.TemporaryDirectory(prefix="ex-latency-") as folder:
            asyncio.run(measure(args, ours, folder))
        ours.send("stop")
        node.join(10)
    finally:
        node.kill()


if __name__ == "__main__":
    main()
