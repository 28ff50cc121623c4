#!/usr/bin/env python3
"""Measures subscriptions to outpoints: a block that spends many of them, and cold look-ups.

    python -m benchmarks.outpoints block [--sessions 1000] [--each 10] [--engine leveldb] [--times 3] [--stages]
    python -m benchmarks.outpoints cold [--distances 10 1000 100000] [--index]

``block``: sessions subscribe to outpoints, each to others, and a block spends all of them.  Prints how
long after the node had the block the first and the last notification came, how long another client
waited for pings in the meantime, and the server's CPU.  Subscribers, that client and the server are
processes of their own.  With ``--stages`` also when the server reached each stage first, in ms.

``cold``: an output is spent so many entries of its script's history later.  Prints the CPU of one
``get_status`` that is not cached, how long it took, whether it was answered before it timed out, and the
calls of the node.  With
``--index`` the node has an index of spenders.  The server runs over a fake node without limits.
"""

import argparse
import asyncio
import collections
import multiprocessing
import sys
import time

from benchmarks.audience import raise_file_limit
from benchmarks.load import print_figures
from benchmarks.measuring import cpu_secs
from benchmarks.pressure import percentile
from benchmarks.sessions import Client, line
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx.bitcoin import Tx, TxInput, TxOutput
from tests.fakes.fake_node import FakeNode, to_hex
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import (
    MINUS_1,
    coinbase,
    fan_block,
    fan_spends,
    script_of,
    small_chain,
)
from tests.integration.processes import Child
from tests.integration.server import ServerProcess

SETTINGS = {
    "COST_SOFT_LIMIT": "0",
    "COST_HARD_LIMIT": "0",
    "LOG_LEVEL": "warning",
    "MAX_SESSIONS": "5000",
    "MAX_SESSIONS_PER_SUBNET": "5000",
    "PROTOCOL_MAX": "1.7",
    "EVENT_LOOP_POLICY": "uvloop",
}
HELLO = line(0, "server.version", "bench", "1.7")
SUBSCRIBE, STATUS = "blockchain.outpoint.subscribe", "blockchain.outpoint.get_status"
PER_BLOCK = 2_000
WAIT_SECS = 60


class Subscriber(Client):
    """Counts replies, and notes when notifications come."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.errors = 0

    def data_received(self, data):
        notifications = data.count(b'"method"')
        self.errors += data.count(b'"error"')
        self.told += [time.perf_counter()] * notifications
        self.wanted -= data.count(b"\n") - notifications
        if self.wanted <= 0:
            self.done.set()


async def connect(port):
    """A session that has negotiated protocol 1.7."""
    loop = asyncio.get_running_loop()
    _transport, client = await loop.create_connection(Subscriber, "127.0.0.1", port)
    await client.ask([HELLO])
    return client


async def ping_until(client, end, waits):
    """Ping again and again, and note when each was sent and how long it took."""
    while not end.is_set():
        start = time.perf_counter()
        await client.ask([line(1, "server.ping")])
        waits.append((start, time.perf_counter() - start))
        await asyncio.sleep(0.002)


async def _subscribed(port, txid, sessions, each):
    """Sessions that are each subscribed to other outpoints of a transaction."""
    clients = []
    for number in range(sessions):
        client = await connect(port)
        indexes = range(number * each, (number + 1) * each)
        await client.ask([line(n, SUBSCRIBE, txid, n, "") for n in indexes])
        clients.append(client)
    return clients


def _audience(port, txid, sessions, each, pipe):
    """The subscribers' process: when each notification came, once all have or it takes too long."""

    async def run():
        clients = await _subscribed(port, txid, sessions, each)
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        deadline, count = time.perf_counter() + WAIT_SECS, sessions * each
        while (  # noqa: ASYNC110  many clients, none of which knows of the others
            sum(len(client.told) for client in clients) < count and time.perf_counter() < deadline
        ):
            await asyncio.sleep(0.02)
        pipe.send(sorted(at for client in clients for at in client.told))

    raise_file_limit()
    asyncio.run(run())


def _pinger(port, pipe):
    """The process of a client that pings: when each ping was sent and how long it took."""

    async def run():
        client, waits, end = await connect(port), [], asyncio.Event()
        pings = asyncio.create_task(ping_until(client, end, waits))
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        end.set()
        await pings
        pipe.send(waits)

    asyncio.run(run())


class Party:
    """A process of clients, which reports that it is ready, waits for an order, and sends its result."""

    def __init__(self, target, *args):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(*args, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def _receive(self):
        if not self._pipe.poll(2 * WAIT_SECS):
            raise TimeoutError("clients do not answer")
        return self._pipe.recv()

    def begin(self):
        """Give the order."""
        self._pipe.send("go")

    def result(self):
        """The result, once there is one."""
        result = self._receive()
        self._process.join(10)
        return result


class TimedServer(ServerProcess):
    """A server that writes when it reached each stage; see ``timed_server``."""

    def launch(self):
        command = [sys.executable, "-m", "benchmarks.timed_server", self.folder / "stages"]
        self.child = Child("server", command, folder=self.folder, env=self.env)
        return self

    def stages(self, start):
        """The stages reached first after a time -> ms after it; once the server has ended."""
        lines = (self.folder / "stages").read_text().splitlines()
        found = {}
        for at, stage in (text.split(" ", 1) for text in lines):
            if float(at) > start:
                found.setdefault(stage, round((float(at) - start) * 1e3, 1))
        return found


def measure_block(folder, *, sessions, each, engine, times, stages):
    """Figures of blocks that each spend an outpoint of each subscription."""
    runs = [
        _one_block(folder / str(number), sessions, each, engine, stages) for number in range(times)
    ]
    last = [run["last ms"] for run in runs]
    return {"mean of last ms": round(sum(last) / times, 1), "runs": runs}


def _one_block(folder, sessions, each, engine, stages):
    maker, tip = small_chain(110)
    tip, fan = fan_block(maker, tip, sessions * each)
    txid = double_sha256(fan.serialize())[::-1].hex()
    before = maker.chain(tip)
    tip = maker.add_block(tip, [coinbase(maker, script_of(0)), *fan_spends(fan, sig_size=20)])
    last = maker.chain(tip)[-1]
    settings = SETTINGS | {"DB_ENGINE": engine}
    with NodeThread(before) as node:
        node.do(lambda fake: setattr(fake, "waits_for_blocks", True))
        # A real node has parsed a block when it announces it.
        node.do(lambda fake: fake.block_txs(last))
        server_class = TimedServer if stages else ServerProcess
        with server_class(folder, node.env, protocols=("tcp", "rpc"), **settings) as server:
            port, pid = server.ports["tcp"], server.child.pid
            audience = Party(_audience, port, txid, sessions, each)
            pinger = Party(_pinger, port)
            time.sleep(2)
            audience.begin()
            time.sleep(0.2)
            cpu, start = cpu_secs(pid), time.perf_counter()
            node.do(lambda fake: fake.append(last))
            told = audience.result()
            cpu = cpu_secs(pid) - cpu
            pinger.begin()
            pings = pinger.result()
    quiet = [secs for at, secs in pings if at + secs < start]
    during = [(secs, at - start) for at, secs in pings if start <= at + secs and at <= told[-1]]
    busy, longest = [secs for secs, _at in during], max(during)
    first, end = told[0] - start, told[-1] - start
    return {
        "notifications": len(told),
        "first ms": round(first * 1e3, 1),
        "last ms": round(end * 1e3, 1),
        "first to last ms": round((end - first) * 1e3, 1),
        "ping p99 ms before": round(percentile(quiet, 0.99) * 1e3, 1),
        "ping p99 ms": round(percentile(busy, 0.99) * 1e3, 1),
        "longest ping ms": round(longest[0] * 1e3, 1),
        "longest ping after ms": round(longest[1] * 1e3, 1),
        "CPU s": round(cpu, 2),
    } | ({"stages": server.stages(start)} if stages else {})


def history_chain(distance):
    """A chain in which an output is spent ``distance`` entries of its script's history later.

    Return the blocks, and the txid of the output.
    """
    script = script_of(77)
    maker, tip = small_chain(110)
    fund = coinbase(maker, script)
    tip = maker.add_block(tip, [fund])
    tip, fan = fan_block(maker, tip, max(1, distance - 1))
    fan_hash = double_sha256(fan.serialize())
    txs = [
        Tx(2, [TxInput(fan_hash, index, b"", MINUS_1)], [TxOutput(txout.value, script)], 0)
        for index, txout in enumerate(fan.outputs)
    ]
    for start in range(0, len(txs), PER_BLOCK):
        part = txs[start : start + PER_BLOCK]
        tip = maker.add_block(tip, [coinbase(maker, script_of(0)), *part])
    fund_hash = double_sha256(fund.serialize())
    spend = Tx(
        2,
        [TxInput(fund_hash, 0, b"", MINUS_1)],
        [TxOutput(fund.outputs[0].value, script_of(78))],
        0,
    )
    tip = maker.add_block(tip, [coinbase(maker, script_of(0)), spend])
    return maker.chain(tip), fund_hash[::-1].hex()


def measure_cold(folder, *, distances, index):
    """Figures of one cold look-up for each distance."""
    figures = {}
    for distance in distances:
        blocks, txid = history_chain(distance)
        with NodeThread(node=IndexedNode(blocks)) as node:
            calls = collections.Counter()
            node.do(count_calls, calls)
            if index:
                entry = {"synced": True, "best_block_height": len(blocks) - 1}
                indexes = {"txindex": entry, "txospenderindex": entry}
                node.do(setattr, "indexes", indexes)
            place = folder / str(distance)
            with ServerProcess(place, node.env, protocols=("tcp", "rpc"), **SETTINGS) as server:
                figures[f"{distance:,d} later"] = asyncio.run(look_up(server, txid, calls))
    return figures


class IndexedNode(FakeNode):
    """A fake node that finds a transaction, or the spender of an output, at once, as a real one does by its indexes."""

    def __init__(self, blocks):
        super().__init__(blocks)
        self._txs, self._spends = {}, {}
        for height, raw_block in enumerate(blocks):
            for tx in self.block_txs(raw_block):
                self._txs[tx.tx_hash] = tx.raw, height
                self._spends.update(dict.fromkeys(tx.prevouts, (tx.tx_hash, raw_block)))

    def find_tx(self, hex_hash):
        found = self._txs.get(bytes.fromhex(hex_hash)[::-1])
        return super().find_tx(hex_hash) if found is None else found

    def rpc_gettxspendingprevout(self, outpoints, _options=None):
        answers = []
        for outpoint in outpoints:
            prevout = bytes.fromhex(outpoint["txid"])[::-1], outpoint["vout"]
            answer = dict(outpoint)
            if prevout in self._spends:
                tx_hash, raw_block = self._spends[prevout]
                answer["spendingtxid"] = to_hex(tx_hash)
                answer["blockhash"] = to_hex(self.block_hash(raw_block))
            answers.append(answer)
        return answers


def count_calls(fake, calls):
    """Count the node's calls by method."""
    for name in ("getrawtransaction", "gettxspendingprevout"):
        method = getattr(fake, f"rpc_{name}")

        def counted(*args, name=name, method=method):
            calls[name] += 1
            return method(*args)

        setattr(fake, f"rpc_{name}", counted)


async def look_up(server, txid, calls):
    """Figures of the first get_status of an output."""
    client = await connect(server.ports["tcp"])
    await asyncio.sleep(1)
    calls.clear()
    cpu, start = cpu_secs(server.child.pid), time.perf_counter()
    await client.ask([line(1, STATUS, txid, 0, "")])
    wall, cpu = time.perf_counter() - start, cpu_secs(server.child.pid) - cpu
    client.transport.abort()
    return {
        "is answered": not client.errors,
        "CPU ms": round(cpu * 1e3, 1),
        "ms": round(wall * 1e3, 1),
        "node calls": dict(calls),
    }


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    block = commands.add_parser("block")
    block.add_argument("--sessions", type=int, default=1_000)
    block.add_argument("--each", type=int, default=10)
    block.add_argument("--engine", default="leveldb", choices=("leveldb", "rocksdb"))
    block.add_argument("--times", type=int, default=3)
    block.add_argument("--stages", action="store_true", help="when each stage was reached")
    cold = commands.add_parser("cold")
    cold.add_argument("--distances", type=int, nargs="+", default=[10, 1_000, 100_000])
    cold.add_argument("--index", action="store_true", help="the node has an index of spenders")
    options = vars(parser.parse_args())
    raise_file_limit()
    measure = {"block": measure_block, "cold": measure_cold}[options.pop("what")]
    print_figures("outpoints", measure, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
