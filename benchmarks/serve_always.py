#!/usr/bin/env python3
"""Measures what clients cost a first sync that serves them: SERVE=always, with and without them.

    python -m benchmarks.serve_always [--chain 100k] [--clients 100] [--every 1] [--rounds 3] [--setting A=B ...]

Each round synchronises twice from nothing, in alternating order: once without clients, once with so
many that connect as soon as the port is open, and each send a request every second, of all kinds in
turn: those that are answered, and those of which the answer is that the index is not complete.  Each
answer must be that error, or the right one of the complete index.  Another client pings every 20 ms.
Prints the seconds and the CPU seconds of each sync, the ratios of the medians and of the lower
quartiles, which other work on the machine disturbs the least, and how long pings took, as one JSON
object.  The processes of the clients are started before the server.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import shutil
import statistics
import time
from collections import Counter
from pathlib import Path

from benchmarks.audience import probe
from benchmarks.chain import make_chain
from benchmarks.chain_files import MAIN, ChainFiles
from benchmarks.measuring import cpu_secs, machine
from benchmarks.pairs import quartile
from benchmarks.scrapes import quantile, script_of
from benchmarks.servers import NodeProcess, Server, Spec, tip_height
from benchmarks.shape import Shape
from benchmarks.wire import HELLO, body, line
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / ".run" / "bench"
PING_SECS = 0.02
SYNC_SECS = 3_600
#: methods that need no index, with their arguments
SERVED = [
    ("server.ping",),
    ("server.features",),
    ("server.banner",),
    ("server.donation_address",),
    ("server.peers.subscribe",),
    ("blockchain.headers.subscribe",),
    ("blockchain.block.header", 0),
    ("blockchain.block.headers", 0, 1),
    ("blockchain.estimatefee", 2),
    ("blockchain.relayfee",),
    ("mempool.get_fee_histogram",),
]
NOT_INDEXED = 4


class Questions:
    """Requests about a chain, and whether an answer is right."""

    def __init__(self, chain):
        files = ChainFiles(chain)
        targets = files.targets()
        self._headers = [files.header(number).hex() for number in files.numbers(MAIN)]
        script, self._txs = targets["small"][0]
        txid, self._height = targets["txs"][0]
        self._calls = [
            *SERVED,
            *(
                (f"blockchain.scripthash.{verb}", script)
                for verb in (
                    "get_history",
                    "get_balance",
                    "listunspent",
                    "get_mempool",
                    "subscribe",
                )
            ),
            ("blockchain.scripthash.unsubscribe", script_of(1)),
            ("blockchain.transaction.get_merkle", txid, self._height),
            ("blockchain.transaction.id_from_pos", self._height, 0),
        ]
        self._bodies = [body(*call) for call in self._calls]

    def line(self, number):
        """Return a request, and its method."""
        index = number % len(self._calls)
        return line(number, self._bodies[index]), self._calls[index][0]

    def is_refusal(self, method, reply):
        """Return whether the index is stated not to be complete; raise ValueError if a reply is wrong."""
        if "error" in reply:
            served = any(call[0] == method for call in SERVED)
            if served or reply["error"]["code"] != NOT_INDEXED:
                raise ValueError(f"{method}: {reply}")
            return True
        result = reply["result"]
        right = {
            "blockchain.headers.subscribe": lambda: (
                result["hex"] == self._headers[result["height"]]
            ),
            "blockchain.block.header": lambda: result == self._headers[0],
            "blockchain.block.headers": lambda: result["hex"] == self._headers[0],
            "blockchain.scripthash.get_history": lambda: len(result) == self._txs,
            "blockchain.scripthash.subscribe": lambda: result is not None,
            "blockchain.transaction.get_merkle": lambda: result["block_height"] == self._height,
        }
        if method in right and not right[method]():
            raise ValueError(f"{method}: {reply}")
        return False


async def _poll(port, number, every, questions, connected, counts):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(HELLO)
        await reader.readline()
        connected.release()
        # Spread over the time between two requests
        await asyncio.sleep(number % 100 / 100 * every)
        for count in itertools.count(number + 1):
            request, method = questions.line(count)
            writer.write(request)
            reply = {"method": None}
            while "method" in reply:
                # Not a notification
                data = await reader.readline()
                if not data:
                    return
                reply = json.loads(data)
            counts["refused" if questions.is_refusal(method, reply) else "answered"] += 1
            await asyncio.sleep(every)
    except ConnectionError:
        pass  # the server has stopped
    finally:
        writer.close()


async def _until_open(port, pipe):
    """Send that this process runs; return once a port is open."""
    pipe.send("started")
    while True:
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def _ping(port, stop, pipe):
    await _until_open(port, pipe)
    await probe(port, itertools.repeat(body("server.ping")), PING_SECS, stop, pipe)


async def _crowd(port, clients, every, questions, stop, pipe):
    counts = Counter()
    connected = asyncio.Semaphore(0)
    await _until_open(port, pipe)
    tasks = [
        asyncio.create_task(_poll(port, number, every, questions, connected, counts))
        for number in range(clients)
    ]
    for _ in range(clients):
        await connected.acquire()
    await asyncio.to_thread(stop.wait)
    for task in tasks:
        task.cancel()
    wrong = [
        str(found)
        for found in await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(found, Exception)
    ]
    pipe.send(dict(counts) | {"wrong": wrong})


def _run(main, *args):
    asyncio.run(main(*args))


class Clients:
    """Processes of the clients and of the one that pings, while the block lasts."""

    def __init__(self, port, clients, every, questions):
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pipes, self._processes = [], []
        for args in ((_crowd, port, clients, every, questions), (_ping, port)):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_run, args=(*args, self._stop, theirs), daemon=True)
            self._pipes.append(pipe)
            self._processes.append(process)
        #: how many of each kind there were
        self.answers = {}
        #: seconds that each ping took
        self.waits = []

    def _received(self, pipe):
        if not pipe.poll(60):
            raise TimeoutError("a process of the clients is silent")
        return pipe.recv()

    def __enter__(self):
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            self._received(pipe)
        return self

    def stop(self):
        """Stop them, and take their figures."""
        self._stop.set()
        crowd, pings = self._pipes
        self.answers = self._received(crowd)
        assert self._received(pings) == "ready"
        waits, _unanswered = self._received(pings)
        self.waits = [wait for _at, wait in waits]

    def __exit__(self, *_exc):
        self._stop.set()
        for process in self._processes:
            process.join(30)


def sync(spec, chain, height, folder, clients, every):
    """Return the figures of one sync."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with NodeProcess(chain, folder) as node, contextlib.ExitStack() as stack:
        server = Server(spec, node, folder, SERVE="always", SESSION_TIMEOUT="3600")
        crowd = None
        if clients:
            crowd = Clients(server.port, clients, every, Questions(chain))
            stack.enter_context(crowd)
        stack.enter_context(server)
        while tip_height(server.port) is None:
            if not server.child.running():
                raise RuntimeError(server.child.log_tail())
            time.sleep(0.01)
        start = time.monotonic()
        server.wait_height(height, timeout=SYNC_SECS, pause=0.05)
        secs, cpu = time.monotonic() - start, cpu_secs(server.pid)
        found = {"secs": round(secs, 2), "cpu secs": round(cpu, 2)}
        if crowd is None:
            return found
        crowd.stop()
        if crowd.answers["wrong"]:
            raise RuntimeError(crowd.answers["wrong"][0])
        return found | {
            "answers": crowd.answers,
            "pings": len(crowd.waits),
            "ping p50 ms": quantile(crowd.waits, 0.5),
            "ping p99 ms": quantile(crowd.waits, 0.99),
            "ping longest ms": quantile(crowd.waits, 1),
        }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chain", default="100k", help="its transactions")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--every", type=float, default=1.0, metavar="SECS")
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
            runs[name].append(
                sync(spec, chain, height, args.folder / "always", clients, args.every)
            )
    shutil.rmtree(args.folder / "always", ignore_errors=True)
    figures = machine() | {
        "chain": shape.name,
        "clients": args.clients,
        "every": args.every,
        **runs,
    }
    for name in ("secs", "cpu secs"):
        mine, other = ([run[name] for run in runs[which]] for which in ("with", "without"))
        for what, mean in (("medians", statistics.median), ("quartiles", quartile)):
            figures[f"{name}, ratio of {what}"] = round(mean(mine) / mean(other), 3)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
