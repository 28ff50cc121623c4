#!/usr/bin/env python3
"""Measures how soon the subscribers of a script are notified of a transaction for it.

    python -m benchmarks.broadcast_latency [--broadcasts 200] [--via server|node] [--poll 5000] [--real-time]

A real litecoind on regtest and a server with default settings, both on this machine.  One wallet is
subscribed to a new script for each transaction; another broadcasts it through the server (or, with
``--via node``, hands it to the node, as if it had come from the network).  The time is from when the
broadcast is sent to when the notification arrives.  Prints the median, the 99th percentile and the
maximum in milliseconds, of the notification and of the reply to the broadcast.
"""

import argparse
import asyncio
import hashlib
import os
import random
import tempfile
import time
from pathlib import Path

from tests.integration.nodes import Litecoind
from tests.integration.server import ServerProcess

# Satoshis of each output that is spent, and of the fee
VALUE, FEE = 1_000_000, 10_000
#: the longest pause between two broadcasts, in seconds: they fall anywhere between two polls
PAUSE_SECS = 0.1
WAIT_SECS = 60


def script_of(number):
    """A script without a signature, of its own for each number: P2WSH of OP_TRUE and the number."""
    return bytes.fromhex("0020") + hashlib.sha256(b"\x51%d" % number).digest()


def script_hash(script):
    return hashlib.sha256(script).digest()[::-1].hex()


def raw_payment(txid, index, script, value):
    """An unsigned transaction, in hex, with one input and one output."""
    return (
        f"0200000001{bytes.fromhex(txid)[::-1].hex()}{index.to_bytes(4, 'little').hex()}00ffffffff"
        f"01{value.to_bytes(8, 'little').hex()}{len(script):02x}{script.hex()}00000000"
    )


def make_transactions(node, count):
    """Signed transactions in hex, each spending a confirmed output to the numbered script."""
    node.mine(110)
    amounts = {}
    for _ in range(count):
        amounts[node.rpc("getnewaddress", "", "bech32")] = VALUE / 10**8
    txid = node.rpc("sendmany", "", amounts)
    node.mine(1)
    outputs = node.rpc("getrawtransaction", txid, True)["vout"]
    chosen = [out["n"] for out in outputs if int(out["value"] * 10**8) == VALUE]
    calls = [
        ("signrawtransactionwithwallet", raw_payment(txid, n, script_of(i), VALUE - FEE))
        for i, n in enumerate(chosen[:count])
    ]
    return [result["hex"] for result in node.rpc_batch(calls)]


async def one(send, subscriber, number, raw):
    """Return the seconds until the notification, and until the reply, of one broadcast."""
    script = script_hash(script_of(number))
    assert await subscriber.call("blockchain.scripthash.subscribe", script) is None
    start = time.perf_counter()
    sending = asyncio.ensure_future(send(raw))
    sending.add_done_callback(lambda _task: replied.append(time.perf_counter() - start))
    replied = []
    params = await subscriber.notification("blockchain.scripthash.subscribe", timeout=WAIT_SECS)
    notified = time.perf_counter() - start
    assert params[0] == script
    await sending
    return notified, replied[0]


def figures(secs):
    values = sorted(secs)
    chosen = values[len(values) // 2], values[len(values) * 99 // 100], values[-1]
    return " / ".join(f"{value * 1000:.1f}" for value in chosen)


async def measure(args, node, server, transactions):
    async with server.connect() as sender, server.connect() as subscriber:

        async def send(raw):
            if args.via == "node":
                return await asyncio.to_thread(node.rpc, "sendrawtransaction", raw)
            return await sender.call("blockchain.transaction.broadcast", raw)

        rng = random.Random(1)
        found = []
        for number, raw in enumerate(transactions):
            await asyncio.sleep(rng.random() * PAUSE_SECS)
            found.append(await one(send, subscriber, number, raw))
    notified, replied = zip(*found, strict=True)
    print(f"{len(found)} transactions sent through the {args.via}; median / 99 % / maximum in ms:")
    print(f"  notified: {figures(notified)}")
    print(f"  replied:  {figures(replied)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--broadcasts", type=int, default=200)
    parser.add_argument("--via", choices=("server", "node"), default="server")
    parser.add_argument("--poll", type=int, help="milliseconds, default: the server's default")
    parser.add_argument("--real-time", action="store_true", help="for a machine that is busy")
    args = parser.parse_args()
    if args.real_time:
        # Inherited by the node and the server
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    settings = {
        "DAEMON_POLL_INTERVAL_BLOCKS": None,
        "DAEMON_POLL_INTERVAL_MEMPOOL": args.poll,
        "COST_SOFT_LIMIT": None,
        "COST_HARD_LIMIT": None,
    }
    with (
        tempfile.TemporaryDirectory(prefix="ex-broadcast-") as name,
        Litecoind(Path(name) / "litecoind") as node,
    ):
        transactions = make_transactions(node, args.broadcasts)
        folder = Path(name) / "server"
        with ServerProcess(folder, node.env, protocols=("tcp", "rpc"), **settings) as server:
            asyncio.run(measure(args, node, server, transactions))


if __name__ == "__main__":
    main()
