#!/usr/bin/env python3
"""Measures what clients cost a first sync that serves them: SERVE=always, with and without them.

    python -m benchmarks.serve_always [--chain 100k] [--clients 100] [--rounds 3] [--setting A=B ...]

Each round synchronises twice from nothing, in alternating order: once without clients, once with so
many that connect as soon as the port is open, and each send a request a second, of all kinds in turn:
those that are answered, and those of which the answer is that the index is not complete.  Another
one pings every 20 ms.  Prints the seconds and the CPU seconds of each sync, the ratios of the medians,
and how long pings took, as one JSON object.
"""

import argparse
import asyncio
import json
import multiprocessing
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.audience import Probe
from benchmarks.chain import make_chain
from benchmarks.chain_files import ChainFiles
from benchmarks.measuring import cpu_secs, machine
from benchmarks.scrapes import quantile, script_of
from benchmarks.servers import NodeProcess, Server, Spec, tip_height
from benchmarks.shape import Shape
from benchmarks.wire import HELLO, body, line
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / ".run" / "bench"
PING_SECS = 0.02
SYNC_SECS = 3_600
REQUESTS = [
    body("server.ping"),
    body("blockchain.headers.subscribe"),
    body("blockchain.block.header", 0),
    body("blockchain.scripthash.get_balance", script_of(1)),
    body("blockchain.scripthash.subscribe", script_of(2)),
    body("server.features"),
    body("blockchain.scripthash.get_history", script_of(3)),
]


async def _poll(port, number, connected, answers):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HELLO)
        await reader.readline()
        connected.release()
        # Spread over the second
        await asyncio.sleep(number % 100 / 100)
        for count in range(1, SYNC_SECS):
            writer.write(line(count, REQUESTS[(count + number) % len(REQUESTS)]))
            if not await reader.readline():
                return
            answers[0] += 1
            await asyncio.sleep(1)
    except ConnectionError:
        pass  # the server has stopped
    finally:
        writer.close()


async def _crowd(port, clients, stop, pipe):
    answers = [0]
    connected = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(_poll(port, number, connected, answers)) for number in range(clients)
    ]
    for _ in range(clients):
        await connected.acquire()
    pipe.send("ready")
    await asyncio.to_thread(stop.wait)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pipe.send(answers[0])


def _crowd_process(*args):
    asyncio.run(_crowd(*args))


class Crowd:
    """Clients in a process of their own, while the block lasts; ``answers`` are those they got."""

    def __init__(self, port, clients):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._stop = context.Event()
        args = (port, clients, self._stop, theirs)
        self._process = context.Process(target=_crowd_process, args=args, daemon=True)
        self.answers = 0

    def __enter__(self):
        self._process.start()
        if not self._pipe.poll(60):
            raise TimeoutError("the clients are not connected")
        self._pipe.recv()
        return self

    def __exit__(self, *_exc):
        self._stop.set()
        self.answers = self._pipe.recv() if self._pipe.poll(60) else -1
        self._process.join(30)


def sync(spec, chain, height, folder, clients):
    """Return the figures of one sync."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (
        NodeProcess(chain, folder) as node,
        Server(spec, node, folder, SERVE="always", SESSION_TIMEOUT="3600") as server,
    ):
        while tip_height(server.port) is None:
            if not server.child.running():
                raise RuntimeError(server.child.log_tail())
            time.sleep(0.01)
        start = time.monotonic()
        found = {}
        if clients:
            with (
                Probe(server.port, [body("server.ping")] * 1_000_000, PING_SECS) as probe,
                Crowd(server.port, clients) as crowd,
            ):
                probe.mark(start)
                server.wait_height(height, timeout=SYNC_SECS, pause=0.05)
                secs, cpu = time.monotonic() - start, cpu_secs(server.pid)
            found = {
                "answers": crowd.answers,
                "pings": len(probe.waits),
                "ping p50 ms": quantile(probe.waits, 0.5),
                "ping p99 ms": quantile(probe.waits, 0.99),
                "ping longest ms": quantile(probe.waits, 1),
            }
        else:
            server.wait_height(height, timeout=SYNC_SECS, pause=0.05)
            secs, cpu = time.monotonic() - start, cpu_secs(server.pid)
    return {"secs": round(secs, 2), "cpu secs": round(cpu, 2)} | found


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chain", default="100k", help="its transactions")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    shape = Shape.sized(args.chain)
    chain = args.folder / "chains" / shape.name
    make_chain(chain, shape)
    height = ChainFiles(chain).targets()["height"]
    spec = Spec(
        ":".join(["ours-leveldb", ",".join(args.setting)]) if args.setting else "ours-leveldb"
    )
    runs = {"without": [], "with": []}
    for number in range(args.rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            clients = args.clients if name == "with" else 0
            runs[name].append(sync(spec, chain, height, args.folder / "always", clients))
    shutil.rmtree(args.folder / "always", ignore_errors=True)
    figures = machine() | {"chain": shape.name, "clients": args.clients, **runs}
    for name in ("secs", "cpu secs"):
        mine, other = (
            statistics.median(run[name] for run in runs[which]) for which in ("with", "without")
        )
        figures[f"ratio of {name}"] = round(mine / other, 3)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
