#!/usr/bin/env python3
"""Compares the CPU time of requests between this checkout and another one, pair by pair.

    python -m benchmarks.pairs CHECKOUT [--rounds 9] [--chain 100k] [--only WORD ...] [--cpu 1]
    python -m benchmarks.pairs . --metrics [...]

CHECKOUT is a directory with an earlier or later version of the project, whose compiled modules have
been built there (``setup.py build_ext --inplace``).  It is started by its own ``.venv`` if there is
one, else by this interpreter.

A round starts one fresh server of each, on a database of its own over one fake node, and sends both
the same fixed requests in short turns, alternately; the order alternates from turn to turn and from
round to round.  So both meet the machine in the same mood, and cold requests are cold in each round.
``cold`` requests name each script once; ``lone`` ones wait for the reply before the next is sent.
Handshakes are counted with the connection and one ping.

Both use copies of one database.  CPU is that of all threads of the server, from the kernel.  Prints,
for each scenario, the medians of the microseconds a request of the rounds, the median, lowest and
highest ratio of a round, and the ratio of the lower quartiles of all turns: other work on the machine
makes turns longer, never shorter, so this one is the least disturbed.  ``--only`` takes
parts of scenario names, ``--cpu`` pins the servers to one processor and the client to the others.
With ``--metrics`` the first server has the ``metrics`` service, and the other has not.
"""

import argparse
import contextlib
import os
import random
import shutil
import socket
import ssl
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chain import make_chain
from benchmarks.chain_files import ChainFiles
from benchmarks.measuring import cpu_secs
from benchmarks.report import columns, number
from benchmarks.servers import NodeProcess, Server
from benchmarks.shape import Shape
from benchmarks.tls import make_certificate
from benchmarks.wire import HELLO, body, line
from tests.conftest import REPOSITORY
from tests.ports import free_ports

FOLDER = REPOSITORY / ".run" / "bench"
SCRIPT = "blockchain.scripthash."
TURNS = 20
SYNC_SECS = 900


@dataclass(frozen=True)
class Scenario:
    """Requests of one kind: ``count`` in each round, of ``bodies`` one after the other.

    ``depth`` requests are sent at once on each of so many connections.  ``handshakes`` are
    connections by TLS, each with one ping.
    """

    name: str
    bodies: list
    count: int
    connections: int = 4
    depth: int = 32
    service: str = "tcp"
    handshakes: bool = False


def scenarios(targets, size):
    """All scenarios; ``size`` is the number of requests of one."""
    mixed = random.Random(1)

    def about(method, names):
        return [body(SCRIPT + method, name) for name in names]

    fresh = [*targets["single"], *targets["crowd"]]
    mixed.shuffle(fresh)
    # Four parts of so many scripts, then four half as large
    few = min(size, len(fresh) // 6)
    parts = [fresh[n * few : (n + 1) * few] for n in range(4)]
    rest, half = fresh[4 * few :], few // 2
    lone_parts = [rest[n * half : (n + 1) * half] for n in range(4)]
    small = [name for name, _count in targets["small"]]
    mixed.shuffle(small)
    ping = [body("server.ping")]
    header = [body("blockchain.block.header", n) for n in range(targets["height"])]
    txs = [body("blockchain.transaction.get", txid) for txid, _height in targets["txs"]]
    lone = {"connections": 1, "depth": 1}
    made = [
        Scenario("ping", ping, size * 2),
        Scenario("header", header, size),
        Scenario("balance, hot", about("get_balance", small[:50]), size),
        Scenario("history, hot", about("get_history", small[:50]), size),
        Scenario("unspent, hot", about("listunspent", small[:50]), size),
        Scenario("transaction, hot", txs[:20], size),
        Scenario("subscribe, hot", about("subscribe", small[:50]), size),
        Scenario("balance, cold", about("get_balance", parts[0]), few),
        Scenario("history, cold", about("get_history", parts[1]), few),
        Scenario("unspent, cold", about("listunspent", parts[2]), few),
        Scenario("subscribe, cold", about("subscribe", parts[3]), few),
        Scenario("transaction, cold", txs[20:], min(size, len(txs[20:]))),
        Scenario("ping, lone", ping, size // 2, **lone),
        Scenario("header, lone", header, size // 2, **lone),
        Scenario("balance, cold, lone", about("get_balance", lone_parts[0]), half, **lone),
        Scenario("history, cold, lone", about("get_history", lone_parts[1]), half, **lone),
        Scenario("unspent, cold, lone", about("listunspent", lone_parts[2]), half, **lone),
        Scenario("subscribe, cold, lone", about("subscribe", lone_parts[3]), half, **lone),
        Scenario("ping, ssl", ping, size, service="ssl"),
        Scenario("ping, ssl, lone", ping, size // 2, service="ssl", **lone),
        Scenario("history, ssl", about("get_history", small[:50]), size, service="ssl"),
        Scenario("handshake, ssl", ping, size // 25, service="ssl", handshakes=True),
    ]
    return [scenario for scenario in made if scenario.bodies]


class Checkout:
    """A version of the project, as ``Server`` starts it."""

    is_peer = False

    def __init__(self, path, *, has_metrics=False):
        self.path = Path(path).resolve()
        self.has_metrics = has_metrics
        self.settings = {"DB_ENGINE": "leveldb", "EVENT_LOOP_POLICY": "uvloop"}

    def __str__(self):
        return self.path.name + ("+metrics" if self.has_metrics else "")

    def command(self):
        """The command line of its server."""
        own = self.path / ".venv" / "bin" / "python"
        return [own if own.exists() else sys.executable, self.path / "electrumx_server"]


class Client:
    """Connections to one server, which send the requests of a scenario turn by turn."""

    def __init__(self, port, scenario):
        self.scenario = scenario
        self._port = port
        self._context = ssl._create_unverified_context()
        self._sent = 0
        self._sockets = []
        if not scenario.handshakes:
            self._sockets = [self._connect() for _ in range(scenario.connections)]

    def close(self):
        """Close the connections."""
        for sock in self._sockets:
            sock.close()

    def _connect(self):
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.scenario.service == "ssl":
            sock = self._context.wrap_socket(sock)
        sock.settimeout(60)
        sock.sendall(HELLO)
        _receive(sock, 1)
        return sock

    def turn(self, count):
        """Send so many requests and receive the replies."""
        if self.scenario.handshakes:
            for _ in range(count):
                with self._connect() as sock:
                    sock.sendall(line(1, self.scenario.bodies[0]))
                    _receive(sock, 1)
            return
        while count > 0:
            asked = []
            for sock in self._sockets:
                depth = min(self.scenario.depth, count)
                if not depth:
                    break
                count -= depth
                sock.sendall(b"".join(self._lines(depth)))
                asked.append((sock, depth))
            for sock, depth in asked:
                _receive(sock, depth)

    def _lines(self, count):
        bodies = self.scenario.bodies
        first, self._sent = self._sent, self._sent + count
        return [line(n + 1, bodies[n % len(bodies)]) for n in range(first, first + count)]


def _receive(sock, lines):
    """Receive so many lines, of which none may be an error."""
    while lines > 0:
        data = sock.recv(1 << 20)
        if not data:
            raise ConnectionError("the server hung up")
        if b'"error":{' in data:
            raise RuntimeError(data[:300])
        lines -= data.count(b"\n")


class Comparison:
    """One run: the servers of two checkouts over one node."""

    def __init__(self, checkouts, chain, folder, *, cpu=None):
        self._checkouts, self._chain, self._folder = checkouts, ChainFiles(chain), folder
        self._height = self._chain.targets()["height"]
        self._cpu = cpu
        #: scenario -> for each round (microseconds of each turn of the first, of the second)
        self.rounds = {}

    def run(self, node, rounds, chosen):
        """Measure so many rounds."""
        self._make_databases(node)
        for round_number in range(rounds):
            with contextlib.ExitStack() as stack:
                servers = [stack.enter_context(self._server(c, node)) for c in self._checkouts]
                for scenario in chosen:
                    spent = self._measure(scenario, servers, round_number)
                    self.rounds.setdefault(scenario.name, []).append(spent)
            print(f"round {round_number + 1} of {rounds}", file=sys.stderr, flush=True)

    def _make_databases(self, node):
        """Let the other version synchronise, and give a copy of its database to this one.

        Reads of another layout of the tables would be compared else.
        """
        folders = [self._folder / f"server-{number}" / "db" for number in (0, 1)]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        with self._server(self._checkouts[1], node):
            pass
        shutil.copytree(folders[1], folders[0])
        # A version may convert what another one has left.
        with self._server(self._checkouts[0], node):
            pass

    @contextlib.contextmanager
    def _server(self, checkout, node):
        folder = self._folder / f"server-{self._checkouts.index(checkout)}"
        folder.mkdir(parents=True, exist_ok=True)
        ssl_port, metrics_port = free_ports(2)
        server = Server(checkout, node, folder)
        settings = {
            "SERVICES": f"tcp://127.0.0.1:{server.port},ssl://127.0.0.1:{ssl_port},"
            f"rpc://127.0.0.1:{server.rpc_port}",
            "SSL_CERTFILE": str(self._folder / "cert.pem"),
            "SSL_KEYFILE": str(self._folder / "key.pem"),
        }
        if checkout.has_metrics:
            settings["SERVICES"] += f",metrics://127.0.0.1:{metrics_port}"
        server._settings.update(settings)
        server.ssl_port = ssl_port
        with server:
            server.wait_height(self._height, timeout=SYNC_SECS)
            if self._cpu is not None:
                for task in os.listdir(f"/proc/{server.pid}/task"):
                    os.sched_setaffinity(int(task), {self._cpu})
            yield server

    def _measure(self, scenario, servers, number):
        """Return the microseconds of each server for a request, in each turn of a scenario."""
        ports = [
            server.port if scenario.service == "tcp" else server.ssl_port for server in servers
        ]
        clients = [Client(port, scenario) for port in ports]
        spent = [], []
        count = max(1, scenario.count // TURNS)
        try:
            for turn in range(TURNS):
                for index in (0, 1) if (turn + number) % 2 else (1, 0):
                    start = cpu_secs(servers[index].pid)
                    clients[index].turn(count)
                    secs = cpu_secs(servers[index].pid) - start
                    spent[index].append(secs / count * 1e6)
        finally:
            for client in clients:
                client.close()
        return spent


def quartile(values):
    """Return the lower quartile."""
    return sorted(values)[len(values) // 4]


def table(rounds, checkouts):
    """Return the lines of the result."""
    heads = [
        "us of CPU a request",
        *map(str, checkouts),
        "ratio",
        "lowest",
        "highest",
        "of quartiles",
    ]
    rows = []
    for name, pairs in rounds.items():
        ratios = sorted(sum(mine) / sum(other) for mine, other in pairs)
        values = [statistics.median(statistics.mean(pair[n]) for pair in pairs) for n in (0, 1)]
        values += [statistics.median(ratios), ratios[0], ratios[-1]]
        mine, other = (quartile([turn for pair in pairs for turn in pair[n]]) for n in (0, 1))
        rows.append([name, *map(number, [*values, mine / other])])
    return columns(heads, rows)


def main():
    """Compare by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chain", default="100k", help="its transactions")
    parser.add_argument("--size", type=int, default=5_000, help="requests of a kind in a round")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="scenarios named like this")
    parser.add_argument("--cpu", type=int, help="the processor of the servers")
    parser.add_argument("--metrics", action="store_true", help="served by the first only")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    if not (args.checkout / "electrumx_server").exists():
        raise SystemExit(f"{args.checkout} is no checkout of the project")
    shape = Shape.sized(args.chain)
    chain = args.folder / "chains" / shape.name
    make_chain(chain, shape)
    folder = args.folder / "pairs" / shape.name
    folder.mkdir(parents=True, exist_ok=True)
    make_certificate(folder, "rsa:2048")
    chosen = [
        scenario
        for scenario in scenarios(ChainFiles(chain).targets(), args.size)
        if not args.only or any(word in scenario.name for word in args.only)
    ]
    checkouts = [Checkout(REPOSITORY, has_metrics=args.metrics), Checkout(args.checkout)]
    comparison = Comparison(checkouts, chain, folder, cpu=args.cpu)
    if args.cpu is not None:
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {args.cpu})
    with NodeProcess(chain, folder) as node, contextlib.suppress(KeyboardInterrupt):
        # Interrupted, it shows the rounds so far.
        comparison.run(node, args.rounds, chosen)
    print("\n".join(table(comparison.rounds, checkouts)))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
