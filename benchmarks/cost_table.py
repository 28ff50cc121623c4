#!/usr/bin/env python3
"""Measures what CPU time a cost of one hard limit buys, for each kind of request and connection.

    python -m benchmarks.cost_table [--secs 0.3] [--only WORD ...] [--cpu 1]

A server without limits runs over a fake node.  Each kind is sent over and over from a subnet of its
own until it has taken the server so many CPU seconds; then the cost of that subnet is read by the
administrator's ``groups``.  The table has CPU microseconds and cost of one, and the CPU seconds
that a cost of 10,000 buys, which should be at most 2.  What the server takes when idle is subtracted.

Small requests are sent over each protocol, 50 at a time, and then ``lone``: each once the one before
it was answered.  ``--cpu`` pins the server to one processor and the client to the others.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import crowd_frames as frames
from benchmarks.load import make_node, scripts
from benchmarks.measuring import cpu_secs, pin
from electrumx.lib.hash import double_sha256
from electrumx.lib.merkle import Merkle, MerkleCache
from electrumx.server.session.engine.prices import header_proof_cost
from tests.integration.launcher import InjectedServer

HARD_LIMIT = 10_000
AIM_SECS = 2.0
HEADERS = 900_000
MAX_SEND = 1_000_000
OPENERS = {
    "tcp": frames.connect,
    "ssl": frames.connect_tls,
    "ws": frames.connect_websocket,
    "wss": frames.connect_secure_websocket,
}
#: how long the server is watched when idle
IDLE_SECS = 3.0
#: between two looks whether the cost still grows, and how many there are
SETTLE_SECS = 0.2
SETTLE_TRIES = 100
#: longer requests are not measured alone
SMALL_BYTES = 500
#: scripts with a history that each kind asks for, and for how many kinds there are others
KNOWN_SCRIPTS = 3_000
KNOWN_PARTS = 16
TXID = "ab" * 32
LARGE_TXID = "cd" * 32


def line(method, *params, number=1):
    """A request as it is sent."""
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def array(member, count):
    """A batch of one member, many times."""
    return b"[" + b",".join([member] * count) + b"]\n"


def request_kinds(known, part=0):
    """Name -> function of a counter that gives the line to send; each line has one reply.

    ``known`` are scripts with a history.  Scripts of another ``part`` are others, so not cached.
    """

    def script(number):
        return f"{part << 32 | number:064x}"

    def one(number):
        return known[(2 * part * KNOWN_SCRIPTS + number) % len(known)]

    ping = line("server.ping").strip()
    return {
        "ping": lambda n: line("server.ping"),
        "subscribe, unknown script": lambda n: line("blockchain.scripthash.subscribe", script(n)),
        "subscribe, one transaction": lambda n: line(
            "blockchain.scripthash.subscribe", one(n % KNOWN_SCRIPTS)
        ),
        "subscribe, again": lambda n: line("blockchain.scripthash.subscribe", known[0]),
        "get_balance, unknown": lambda n: line("blockchain.scripthash.get_balance", script(n)),
        "get_history, unknown": lambda n: line("blockchain.scripthash.get_history", script(n)),
        "get_history, one": lambda n: line(
            "blockchain.scripthash.get_history", one(KNOWN_SCRIPTS + n % KNOWN_SCRIPTS)
        ),
        "listunspent, unknown": lambda n: line("blockchain.scripthash.listunspent", script(n)),
        "get_mempool": lambda n: line("blockchain.scripthash.get_mempool", script(n)),
        "block.header": lambda n: line("blockchain.block.header", n % 100),
        "block.headers, 120": lambda n: line("blockchain.block.headers", 0, 120),
        "block.headers, 1": lambda n: line("blockchain.block.headers", n % 100, 1),
        "headers.subscribe": lambda n: line("blockchain.headers.subscribe"),
        "id_from_pos": lambda n: line("blockchain.transaction.id_from_pos", n % 100, 0),
        "id_from_pos, proof": lambda n: line(
            "blockchain.transaction.id_from_pos", n % 100, 0, True
        ),
        "transaction.get, hex": lambda n: line("blockchain.transaction.get", script(n)),
        "transaction.get, verbose": lambda n: line("blockchain.transaction.get", TXID, True),
        "the same over MAX_SEND": lambda n: line("blockchain.transaction.get", LARGE_TXID, True),
        "broadcast, refused": lambda n: line("blockchain.transaction.broadcast", "00"),
        "estimatefee": lambda n: line("blockchain.estimatefee", n % 1000 + 1),
        "relayfee": lambda n: line("blockchain.relayfee"),
        "fee histogram": lambda n: line("mempool.get_fee_histogram"),
        "features": lambda n: line("server.features"),
        "banner": lambda n: line("server.banner"),
        "donation address": lambda n: line("server.donation_address"),
        "peers.subscribe": lambda n: line("server.peers.subscribe"),
        "unknown method": lambda n: line("no.such.method"),
        "batch of 10,000 pings": lambda n: array(ping, 10_000),
        "batch of 14,000 pings": lambda n: array(ping, 14_000),
        "batch of malformed members": lambda n: array(b"1", 490_000),
        "batch of empty objects": lambda n: array(b"{}", 330_000),
        "batch of responses": lambda n: array(b'{"result":1,"id":1}', 48_000),
        "no JSON": lambda n: b"junk\n",
        "900 kB of no JSON": lambda n: b"x" * 900_000 + b"\n",
        "parameter of 900 kB": lambda n: line("blockchain.block.header", "x" * 900_000),
        "parameters: 900 kB of objects": lambda n: (
            b'{"id":1,"method":"server.ping","params":[[' + b"{}," * 300_000 + b"1]]}\n"
        ),
        "parameters: 900 kB of short numbers": lambda n: (
            b'{"id":1,"method":"server.ping","params":[[' + b"1," * 450_000 + b"1]]}\n"
        ),
        "parameters: 900 kB of long numbers": lambda n: (
            b'{"id":1,"method":"server.ping","params":[[' + (b"9" * 4_200 + b",") * 210 + b"1]]}\n"
        ),
        "parameters: 40 kB of long numbers": lambda n: (
            b'{"id":1,"method":"server.ping","params":[[' + (b"9" * 4_200 + b",") * 9 + b"1]]}\n"
        ),
        "parameters: 40 kB of objects": lambda n: (
            b'{"id":1,"method":"server.ping","params":[[' + b"{}," * 13_000 + b"1]]}\n"
        ),
        "parameters: nested deeply": lambda n: (
            b'{"id":1,"method":"server.ping","params":' + b"[" * 900 + b"]" * 900 + b"}\n"
        ),
        "500 kB of brackets": lambda n: b"[" * 500_000 + b"\n",
        "long id": lambda n: line("server.ping", number="x" * 900_000),
    }


class Client:
    """A connection that carries whole messages."""

    def __init__(self, protocol, port, source):
        self._sock = OPENERS[protocol](port, source)
        self._sock.settimeout(60)
        self._is_websocket = protocol in ("ws", "wss")
        self._frames = frames.FrameCounter()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self._sock.close()

    def ask(self, lines):
        """Send lines, and wait until each has its reply; ConnectionError if the connection ends."""
        if self._is_websocket:
            lines = [frames.text_frame(line[:-1]) for line in lines]
        self._sock.sendall(b"".join(lines))
        count = len(lines)
        while count > 0:
            data = self._sock.recv(1 << 20)
            if not data:
                raise ConnectionError("closed")
            count -= self._frames.feed(data) if self._is_websocket else data.count(b"\n")


class Table:
    """Measures kinds one after the other."""

    def __init__(self, server, secs):
        self.server, self.secs = server, secs
        self.rows = []
        self._subnet = 0
        # The share of a processor that the server takes when it has nothing to do
        self._idle = 0.0
        start = self._now()
        time.sleep(IDLE_SECS)
        self._idle = self._busy_secs(*start) / IDLE_SECS

    def source(self):
        """An address in a subnet that has cost nothing yet."""
        self._subnet += 1
        return f"127.{10 + self._subnet // 250}.{self._subnet % 250}.1"

    def _cost(self, source):
        """The cost so far of the clients of an address's subnet."""
        name = source.rpartition(".")[0] + ".0/24"
        for row in self.server.rpc("groups"):
            if row[0] == name:
                return row[2] + row[3]
        return 0.0

    def _now(self):
        """The CPU seconds of the server so far, and the time."""
        return cpu_secs(self.server.child.pid), time.monotonic()

    def _busy_secs(self, cpu, began):
        """The CPU seconds of the server since then, without those it takes when idle."""
        idle = self._idle * (time.monotonic() - began)
        return cpu_secs(self.server.child.pid) - cpu - idle

    def _settle(self, source):
        """Wait until all that was sent is charged: of streams, megabytes are still queued."""
        last = -1.0
        for _ in range(SETTLE_TRIES):
            cost = self._cost(source)
            if cost == last:
                break
            last = cost
            time.sleep(SETTLE_SECS)

    def measure(self, name, source, send, *, settle=False, times=1):
        """Call ``send(n)``, which sends a kind so many times, until it has taken its time."""
        send(0)
        cost, start, count = self._cost(source), self._now(), 0
        ended = time.monotonic() + 30 * self.secs
        while self._busy_secs(*start) < self.secs and time.monotonic() < ended and count < 50_000:
            count += 1
            send(count)
        if settle:
            self._settle(source)
        cpu = self._busy_secs(*start)
        cost = self._cost(source) - cost
        count *= times
        bought = cpu / cost * HARD_LIMIT if cost > 0 else float("inf")
        self.rows.append((name, count, cpu / count * 1e6, cost / count, bought))
        mark = "" if bought <= AIM_SECS else "  <-- more than 2"
        print(
            f"{name:40} {count:7,d} {cpu / count * 1e6:12,.1f} us {cost / count:12,.3f} "
            f"{bought:10,.2f} s{mark}",
            flush=True,
        )

    def requests(self, name, make, protocol):
        """Measure a kind of request, many at a time."""
        source = self.source()
        few = 1 if len(make(0)) > 5_000 else 50
        with Client(protocol, self.server.ports[protocol], source) as client:

            def send(count):
                first = 1 + few * count
                client.ask([make(number) for number in range(first, first + few)])

            self.measure(name, source, send, times=few)

    def lone(self, name, make, protocol):
        """Measure a kind of request, each sent when the one before it was answered."""
        source = self.source()
        with Client(protocol, self.server.ports[protocol], source) as client:
            self.measure(name, source, lambda count: client.ask([make(count)]))

    def connections(self, name, connect):
        """Measure connecting: ``connect(source)`` connects once, and leaves."""
        source = self.source()
        self.measure(name, source, lambda _count: connect(source), settle=True)

    def frames(self, name, open_, data):
        """Measure what is sent over one open connection, and not answered."""
        source = self.source()

        def open_again():
            sock = open_(source)
            sock.settimeout(5)
            return sock

        def send(_count):
            nonlocal sock
            try:
                frames.send_some(sock, data)
            except OSError:
                # The server has ended the connection; another begins, and is charged.
                sock.__exit__()
                sock = open_again()

        sock = open_again()
        try:
            self.measure(name, source, send, settle=True)
        finally:
            sock.__exit__()


def measures(table):
    """Name -> function that measures this kind."""
    known = scripts(KNOWN_SCRIPTS * KNOWN_PARTS)
    found = {}
    for part, (protocol, measure) in enumerate(
        (protocol, measure) for measure in (table.requests, table.lone) for protocol in OPENERS
    ):
        is_lone = measure == table.lone
        for name, make in request_kinds(known, part).items():
            full = f"{'lone ' * is_lone}{protocol}, {name}"
            if len(make(0)) <= SMALL_BYTES or full.startswith("tcp"):
                found[full] = partial(measure, full, make, protocol)
    ports = table.server.ports
    tcp, tls, ws, wss = (ports[protocol] for protocol in OPENERS)
    hello, upgrade = frames.hello(), frames.upgrade(ws)
    comers = {
        "connect": lambda s: frames.come_and_go(tcp, s),
        "connect to TLS, no byte": lambda s: frames.come_and_go(tls, s),
        "connect to websocket, no byte": lambda s: frames.come_and_go(ws, s),
        "connect, an HTTP request": lambda s: frames.say_and_go(tcp, s, upgrade),
        "TLS, no handshake": lambda s: frames.say_and_go(tls, s, upgrade),
        "TLS hello, then gone": lambda s: frames.say_and_go(tls, s, hello),
        "TLS handshake": lambda s: frames.connect_tls(tls, s).close(),
        "websocket handshake": lambda s: frames.connect_websocket(ws, s).close(),
        "websocket handshake over TLS": lambda s: frames.connect_secure_websocket(wss, s).close(),
        "websocket, bad request": lambda s: frames.say_and_go(ws, s, b"GET / HTTP/1.1\r\n\r\n"),
        "websocket, request of 60 kB": lambda s: frames.say_and_go(
            ws, s, upgrade[:-2] + b"A: " + b"x" * 8_000 + b"\r\n" + b"A: b\r\n" * 8_500 + b"\r\n"
        ),
        "websocket, forbidden frame": lambda s: frames.say_and_go(
            ws, s, upgrade + frames.BAD_FRAME
        ),
    }
    for name, connect in comers.items():
        found[name] = partial(table.connections, name, connect)
    part = b'{"id":0,"method":' * 120
    streams = {
        "websocket pings, not read": (partial(OPENERS["ws"], ws), frames.PINGS),
        "websocket pings over TLS, not read": (partial(OPENERS["wss"], wss), frames.PINGS),
        "websocket pongs": (partial(OPENERS["ws"], ws), frames.PONGS),
        "websocket empty fragments": (partial(frames.begin_fragments, ws), frames.EMPTY_FRAGMENTS),
        "TLS key updates": (partial(frames.KeyUpdates, tls), b""),
        "TLS records of one byte": (partial(frames.ShortRecords, tls), part + b"\n"),
        "TLS records of one byte, no line": (partial(frames.ShortRecords, tls), part),
    }
    for name, (open_, data) in streams.items():
        found[name] = partial(table.frames, name, open_, data)
    return found


def measure_all(server, secs, only):
    """Measure each kind whose name has one of the words."""
    table = Table(server, secs)
    for name, measure in measures(table).items():
        if not only or any(word in name for word in only):
            try:
                measure()
            except (OSError, AssertionError) as e:
                print(f"{name:40} not measured: {e!r}", flush=True)
    if not only or "header proof" in only:
        table.rows.append(header_proof(secs))
    return table.rows


def header_proof(secs):
    """A row for proofs at 900,000 headers, each of another length; the tree alone."""
    headers = [number.to_bytes(80, "little") for number in range(4_096)]

    async def source(start, count):
        return [double_sha256(headers[n % 4_096]) for n in range(start, start + count)]

    async def run():
        cache = MerkleCache(Merkle(), source)
        await cache.initialize(HEADERS)
        count, cost, start = 0, 0.0, time.process_time()
        while time.process_time() - start < secs:
            length, index = HEADERS - 1 - 997 * count % 400_000, 1_231 * count % 400_000
            cost += 1.25 + header_proof_cost(cache.hashes_needed(length, index))
            await cache.branch_and_root(length, index)
            count += 1
        return count, cost, time.process_time() - start

    count, cost, cpu = asyncio.run(run())
    bought = cpu / cost * HARD_LIMIT
    print(
        f"{'header proof, 900,000 headers':40} {count:7,d} {cpu / count * 1e6:12,.0f} us "
        f"{cost / count:12,.2f} {bought:10,.2f} s"
    )
    return ("header proof, 900,000 headers", count, cpu / count * 1e6, cost / count, bought)


def verbose_answers(node):
    """Have the node answer verbose requests for two transactions, one larger than MAX_SEND."""
    output = {"value": 0.001, "n": 0, "scriptPubKey": {"hex": "00" * 22, "type": "witness"}}
    small = {"txid": TXID, "hex": "00" * 250, "vout": [output] * 2, "vin": []}
    large = {"txid": LARGE_TXID, "vout": [output] * 15_000, "vin": []}

    def answer(hex_hash, verbose=0):
        if not verbose:
            return "00" * 250
        return large if hex_hash == LARGE_TXID else small

    node.rpc_getrawtransaction = answer


def main():
    """Measure by the command line; 1 if a cost of 10,000 buys more than two seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--secs", type=float, default=0.3, help="of the server's CPU for each kind")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="kinds named like this")
    parser.add_argument("--cpu", type=int, help="the processor of the server")
    args = parser.parse_args()
    settings = {
        "LOG_LEVEL": "warning",
        "MAX_SEND": str(MAX_SEND),
        "MAX_SESSIONS": "5000",
        # The defaults: the server should do little for itself.
        "DAEMON_POLL_INTERVAL_BLOCKS": None,
        "DAEMON_POLL_INTERVAL_MEMPOOL": None,
    }
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory(prefix="ex-costs-") as folder,
        make_node(KNOWN_SCRIPTS * KNOWN_PARTS) as node,
    ):
        node.do(verbose_answers)
        with InjectedServer(
            Path(folder),
            node.env,
            {"loopback_has_groups": True},
            protocols=(*OPENERS, "rpc"),
            **settings,
        ) as server:
            if args.cpu is not None:
                pin(server.child.pid, args.cpu)
            print(f"{'kind':40} {'times':>7} {'CPU each':>15} {'cost each':>12} {'bought':>12}")
            rows = measure_all(server, args.secs, args.only)
    over = [row[0] for row in rows if row[-1] > AIM_SECS]
    print(f"more than {AIM_SECS:g} s: {', '.join(over) or 'nothing'}")
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
