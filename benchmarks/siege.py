#!/usr/bin/env python3
"""The acceptance scenario against abuse: every kind of abuser against honest clients.

    python -m benchmarks.siege [--secs 120] [--abusers 75] [--kinds WORD ...] [--cgroup FOLDER]

Two sieges: all abusers from one address, then from 25 subnets.  During each, 20 honest wallets ping
and subscribe with a stopwatch, in a process that shares no processor with the server, and 1,000
idle clients keep their connections.  The server has default limits, and groups loopback addresses
as if they were public.  Prints one JSON object: honest clients lost or throttled, how long they
waited, memory and descriptors over time, log lines by level, and the abusers' counts.
"""

import argparse
import asyncio
import collections
import itertools
import json
import os
import random
import re
import resource
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import crowd_frames as frames
from benchmarks.audience import raise_file_limit
from benchmarks.cost_table import LARGE_TXID, array, line, verbose_answers
from benchmarks.crowd_process import CrowdProcess
from benchmarks.load import _idle, make_node, scripts, wallet_figures
from benchmarks.measuring import cpu_secs, memory_kb
from tests.integration import crowd
from tests.integration.launcher import InjectedServer

SUBNETS = 25
SIEGES = ("one address", "25 subnets")
#: open files of the server, as in the systemd unit
UNIT_FILES = 16_384
SAMPLE_SECS = 5
#: connections that each abuser of these kinds holds
HELD = 150
PAUSE_SECS = 0.2
HONEST = re.compile(r"127\.(1\d|2\d|4\d)\.")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MALFORMED = array(b"1", 490_000)
LARGE_PARAMS = b'{"id":1,"method":"server.ping","params":[[' + b"{}," * 300_000 + b"1]]}\n"
NESTED = b'[{"id":1,"method":"server.ping","params":' + b"[" * 300_000 + b"]" * 300_000 + b"}]\n"


class Abuser:
    """Does one wrong thing over and over from one address, and comes back when disconnected."""

    def __init__(self, kind, ports, source):
        self.kind, self.ports, self.source = kind, ports, source
        self.attempts = self.sent = 0

    async def run(self):
        """Abuse until cancelled."""
        while True:
            self.attempts += 1
            try:
                await KINDS[self.kind](self)
            except (OSError, EOFError, ssl.SSLError, asyncio.TimeoutError):
                pass
            await asyncio.sleep(PAUSE_SECS)

    async def connect(self, protocol):
        """A raw socket, connected."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.bind((self.source, 0))
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.ports[protocol])),
                20,
            )
        except BaseException:
            sock.close()
            raise
        return sock

    async def send(self, sock, data):
        """Send all, however long that takes."""
        await asyncio.get_running_loop().sock_sendall(sock, data)
        self.sent += len(data)

    async def read_all(self, sock):
        """Read until the server ends the connection."""
        while await asyncio.get_running_loop().sock_recv(sock, 1 << 18):
            pass

    async def repeat(self, protocol, make, *, reads=True):
        """Send the bytes of ``make(n)`` repeatedly over one connection."""
        with await self.connect(protocol) as sock:
            if protocol == "ws":
                await self.upgrade(sock)
            reading = asyncio.ensure_future(self.read_all(sock)) if reads else None
            try:
                number = 0
                while reading is None or not reading.done():
                    number += 1
                    await self.send(sock, make(number))
                    await asyncio.sleep(0)
            finally:
                if reading is not None:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)

    async def upgrade(self, sock):
        """Shake hands as a websocket."""
        await self.send(sock, frames.upgrade(self.ports["ws"]))
        reply = b""
        while b"\r\n\r\n" not in reply:
            data = await asyncio.get_running_loop().sock_recv(sock, 4_096)
            if not data:
                raise EOFError
            reply += data

    async def hold(self, protocol, data=b""):
        """Hold as many connections as there are, until the server ends one of them; say little."""
        held = []
        try:
            for _ in range(HELD):
                sock = await self.connect(protocol)
                held.append(sock)
                self.attempts += 1
                if data:
                    await self.send(sock, data)
            await asyncio.wait_for(self.read_all(held[0]), 60)
        finally:
            for sock in held:
                sock.close()

    async def handshakes(self):
        """Finish a TLS handshake, and leave."""
        context = ssl._create_unverified_context()
        for _ in range(50):
            self.attempts += 1
            _reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    "127.0.0.1", self.ports["ssl"], ssl=context, local_addr=(self.source, 0)
                ),
                20,
            )
            writer.transport.abort()

    async def come_and_go(self):
        """Connect and leave."""
        for _ in range(200):
            self.attempts += 1
            (await self.connect("tcp")).close()

    async def key_updates(self):
        """Renew the keys of a TLS connection, by a process of its own."""
        with frames.KeyUpdates(self.ports["ssl"], self.source) as tls:
            while True:
                await asyncio.to_thread(tls.update, 100)
                self.sent += 100
                await asyncio.sleep(0.01)


def _script(number):
    return line("blockchain.scripthash.subscribe", f"{number + random.getrandbits(128):064x}") * 20


def _fragments(number):
    """Return frames that go on with one message; the first call begins it."""
    return frames.BEGIN_FRAGMENTS * (number == 1) + frames.EMPTY_FRAGMENTS


#: name -> what an abuser does until the server ends it
KINDS = {
    "half-open TLS": lambda a: a.hold("ssl"),
    "half a ClientHello": lambda a: a.hold("ssl", crowd.HALF_HELLO),
    "half-open websocket": lambda a: a.hold("ws", b"GET / HTTP/1.1\r\n"),
    "idle connections": lambda a: a.hold("tcp", line("server.ping")),
    "connections": Abuser.come_and_go,
    "TLS handshakes": Abuser.handshakes,
    "TLS key updates": Abuser.key_updates,
    "websocket pings": lambda a: a.repeat("ws", lambda n: frames.PINGS, reads=False),
    "websocket pongs": lambda a: a.repeat("ws", lambda n: frames.PONGS),
    "websocket fragments": lambda a: a.repeat("ws", _fragments),
    "request flood": lambda a: a.repeat("tcp", lambda n: crowd.FLOOD),
    "subscriptions": lambda a: a.repeat("tcp", _script),
    "batches": lambda a: a.repeat("tcp", lambda n: crowd.BATCH),
    "malformed batches": lambda a: a.repeat("tcp", lambda n: MALFORMED),
    "large parameters": lambda a: a.repeat("tcp", lambda n: LARGE_PARAMS),
    "nested objects": lambda a: a.repeat("tcp", lambda n: NESTED),
    "incomplete requests": lambda a: a.hold("tcp", b"x" * 900_000),
    "junk": lambda a: a.repeat("tcp", lambda n: b"junk\n" * 100),
    "endless line": lambda a: a.repeat("tcp", lambda n: b"x" * 65_536),
    "over MAX_SEND": lambda a: a.repeat(
        "tcp", lambda n: line("blockchain.transaction.get", LARGE_TXID, True)
    ),
    "slow reader": lambda a: a.repeat("tcp", lambda n: crowd.HEADERS, reads=False),
}


def _share(cpus, nice):
    """Run this process on some processors only, and before or after others."""
    try:
        os.sched_setaffinity(0, cpus)
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        pass  # more urgent than others is for root only


def _besiege(ports, kinds, count, many, ready, stop, results):
    async def run():
        abusers = []
        for number in range(count):
            subnet = number % SUBNETS if many else 0
            host = 1 + number // SUBNETS if many else 1
            source = f"127.{200 + subnet}.0.{host}"
            abusers.append(Abuser(kinds[number % len(kinds)], ports, source))
        tasks = [asyncio.create_task(abuser.run()) for abuser in abusers]
        ready.set()
        while not stop.is_set():  # noqa: ASYNC110  another process sets it
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=20)
        attempts, sent = collections.Counter(), collections.Counter()
        for abuser in abusers:
            attempts[abuser.kind] += abuser.attempts
            sent[abuser.kind] += abuser.sent
        results.put({kind: [attempts[kind], sent[kind]] for kind in kinds})

    _share(_other_cpus(), 15)
    raise_file_limit()
    asyncio.run(run())


class Wallets(crowd.Wallets):
    """Honest wallets, to which an error is a loss like a closed connection."""

    async def _wallet(self, number, end):
        try:
            await super()._wallet(number, end)
        except AssertionError:
            self.lost += 1


def _wallets(port, count, secs, first, ready, stop, results):
    _share(_other_cpus(), -10)
    # Those of a long siege subscribe to some scripts again.
    wallets = Wallets(port, count, itertools.cycle(scripts()[first:]))
    ready.set()
    asyncio.run(wallets.run(secs))
    results.put(wallet_figures(wallets))


def _idlers(port, count, ready, stop, results):
    _share(_other_cpus(), -5)
    raise_file_limit()
    _idle(port, count, ready, stop, results)


def _other_cpus():
    """Processors but the first, which is the server's."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[1:] or cpus


class Samples(threading.Thread):
    """Looks at the server's process every few seconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._pid, self._stopped = pid, threading.Event()
        self.memory_mb, self.descriptors = [], []
        self.start()

    def run(self):
        """Sample until stopped, or the process has ended."""
        while not self._stopped.wait(SAMPLE_SECS):
            try:
                self.descriptors.append(len(os.listdir(f"/proc/{self._pid}/fd")))
                self.memory_mb.append(memory_kb(self._pid) // 1024)
            except (OSError, ValueError):
                break

    def figures(self):
        """Stop; return the figures."""
        self._stopped.set()
        self.join()
        return {"MB": self.memory_mb, "descriptors": self.descriptors}


def log_figures(log):
    """Lines of each level, and bytes."""
    levels = collections.Counter(text.partition(":")[0] for text in log.splitlines())
    return {level: levels[level] for level in LEVELS if levels[level]} | {
        "bytes": len(log),
        "tracebacks": log.count("Traceback"),
    }


def honest_throttled(server):
    """How many sessions of honest clients may run fewer requests at once than others."""
    count = 0
    for row in server.rpc("sessions"):
        flags, address = row[1], row[2]
        target = re.search(r"\d+$", flags)
        count += bool(HONEST.match(address) and target and int(target[0]) < 10)
    return count


def siege(server, name, args, first_script):
    """One siege; its figures."""
    pid = server.child.pid
    port = server.ports["tcp"]
    log_start = len(server.log())
    idlers = CrowdProcess(_idlers, port, args.idlers)
    samples = Samples(pid)
    abusers = CrowdProcess(_besiege, server.ports, args.kinds, args.abusers, name != SIEGES[0])
    cpu, start = cpu_secs(pid), time.monotonic()
    wallets = CrowdProcess(_wallets, port, args.wallets, args.secs, first_script)
    figures = {"wallets": wallets.finish(args.secs + 180)}
    figures["server CPU"] = round((cpu_secs(pid) - cpu) / (time.monotonic() - start), 2)
    try:
        figures["honest clients throttled"] = honest_throttled(server)
        figures["groups"] = [
            [row[0], row[1], round(row[2]), round(row[3])]
            for row in server.rpc("groups")
            if row[2] + row[3] > 1_000
        ]
        figures["loop lag"] = server.rpc("getinfo").get("loop lag")
    except OSError as e:
        figures["administrator"] = repr(e)
    figures["idle clients lost"] = idlers.finish() if idlers.is_ready else "never connected"
    figures["abusers: attempts, bytes"] = abusers.finish()
    figures |= samples.figures()
    figures["log"] = log_figures(server.log()[log_start:])
    return figures


def measure(folder, args):
    """Both sieges, or one; the server lives through the first into the second."""
    figures = {"load average before": round(os.getloadavg()[0], 1)}
    settings = {"COST_SOFT_LIMIT": None, "COST_HARD_LIMIT": None, "MAX_SESSIONS": "2000"}
    with make_node() as node:
        node.do(verbose_answers)
        with InjectedServer(
            folder,
            node.env,
            {"loopback_has_groups": True},
            protocols=("tcp", "ssl", "ws", "wss", "rpc"),
            **settings,
        ) as server:
            pid = server.child.pid
            os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[:1])
            if args.cgroup:
                Path(args.cgroup, "cgroup.procs").write_text(str(pid))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (UNIT_FILES, UNIT_FILES))
            for number, name in enumerate(SIEGES):
                if args.siege not in (None, name):
                    continue
                figures[name] = siege(server, name, args, number * 3_000)
                if not server.child.running():
                    figures[name]["server"] = f"ended with {server.child.popen.returncode}"
                    return figures
            figures["MB at the end"] = memory_kb(pid) // 1024
            figures["MB peak"] = memory_kb(pid, "VmHWM") // 1024
    figures["load average after"] = round(os.getloadavg()[0], 1)
    return figures


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--secs", type=int, default=120, help="of each siege")
    parser.add_argument("--abusers", type=int, default=75)
    parser.add_argument("--wallets", type=int, default=20)
    parser.add_argument("--idlers", type=int, default=1_000)
    parser.add_argument("--kinds", nargs="+", metavar="WORD", help="kinds named like this")
    parser.add_argument("--siege", choices=SIEGES, help="only this one")
    parser.add_argument("--cgroup", metavar="FOLDER", help="control group of the server")
    args = parser.parse_args()
    words = args.kinds or [""]
    args.kinds = [kind for kind in KINDS if any(word in kind for word in words)]
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="ex-siege-") as folder:
        print(json.dumps(measure(Path(folder), args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
