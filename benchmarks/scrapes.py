#!/usr/bin/env python3
"""Measures what monitoring costs a server: scrapes of its metrics, alone and many at once.

    python -m benchmarks.scrapes [--sessions 5000] [--rate 1000] [--secs 15]

Sessions that subscribe to headers and to one script each wait in processes of their own, while one more
pings every 5 ms.  Then the metrics are read:

* ``alone`` and ``openmetrics``: once a second, so that each text is made again, in the format of Prometheus
  and in OpenMetrics: how long a scrape takes, and the CPU time of the server for one, less what it uses
  without scrapes;
* ``many``: ``--rate`` scrapes a second over four connections, as Prometheus, balancers and
  dashboards together never do: how many came, their CPU time, and how long pings took in the meantime.

Prints milliseconds and the series of a text as one JSON object.
"""

import argparse
import contextlib
import hashlib
import http.client
import multiprocessing
import time

from benchmarks.audience import Audience, Probe
from benchmarks.load import print_figures
from benchmarks.measuring import cpu_secs, machine
from benchmarks.wire import body
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.server import ServerProcess

SCRAPERS = 4
PING_SECS = 0.005
ALONE, ALONE_RATE = 15, 1.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def script_of(number):
    """A scripthash that nothing was sent to."""
    return hashlib.sha256(number.to_bytes(4, "big")).hexdigest()


def quantile(times, part):
    """That of seconds, in milliseconds."""
    times = sorted(times)
    return round(times[min(len(times) - 1, int(len(times) * part))] * 1000, 2)


def scrape(connection, accept="*/*"):
    """Read the metrics once; return them and the seconds that it took."""
    start = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept": accept})
    text = connection.getresponse().read()
    return text, time.perf_counter() - start


def scrape_at(port, rate, secs, pipe):
    """Read the metrics so many times a second; send the seconds that each took."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    start = time.monotonic()
    while time.monotonic() - start < secs:
        times.append(scrape(connection)[1])
        time.sleep(max(0, start + len(times) / rate - time.monotonic()))
    pipe.send(times)


class Pings:
    """Pings while the block lasts."""

    def __init__(self, server):
        self._probe = Probe(server.ports["tcp"], [body("server.ping")] * 1_000_000, PING_SECS)
        self._pid = server.child.pid
        self.figures = {}

    def __enter__(self):
        self._probe.__enter__()
        self._start = time.monotonic()
        self._probe.mark(self._start)
        self._cpu = cpu_secs(self._pid)
        return self

    def __exit__(self, *exc):
        secs = time.monotonic() - self._start
        cpu = cpu_secs(self._pid) - self._cpu
        self._probe.__exit__(*exc)
        waits = self._probe.waits
        self.figures = {
            "cpu ms a second": round(cpu / secs * 1000, 2),
            "ping p50": quantile(waits, 0.5),
            "ping p99": quantile(waits, 0.99),
            "ping longest": quantile(waits, 1),
        }


def without_scrapes(server, secs):
    """Return the figures of the server without monitoring."""
    with Pings(server) as pings:
        time.sleep(secs)
    return pings.figures


def alone(server, accept="*/*"):
    """Return the figures of scrapes of which each is made again."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports["metrics"])
    times = []
    with Pings(server) as pings:
        for _ in range(ALONE):
            text, secs = scrape(connection, accept)
            times.append(secs)
            time.sleep(max(0, 1 / ALONE_RATE - secs))
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    figures = {"series": series, "scrape p50": quantile(times, 0.5)}
    return figures | {"scrape longest": quantile(times, 1)} | pings.figures


def many(server, rate, secs):
    """Return the figures of so many scrapes a second."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    with contextlib.ExitStack() as stack:
        for _ in range(SCRAPERS):
            ours, theirs = context.Pipe()
            args = (server.ports["metrics"], rate / SCRAPERS, secs, theirs)
            process = context.Process(target=scrape_at, args=args, daemon=True)
            pipes.append(ours)
            processes.append(process)
        pings = stack.enter_context(Pings(server))
        for process in processes:
            process.start()
        times = [secs for pipe in pipes for secs in pipe.recv()]
    for process in processes:
        process.join()
    figures = {"scrapes a second": round(len(times) / secs), "scrape p50": quantile(times, 0.5)}
    return figures | {"scrape p99": quantile(times, 0.99)} | pings.figures


def measure(folder, sessions, rate, secs):
    """Return all figures."""
    maker, tip = small_chain(30)
    limits = {"MAX_SESSIONS": sessions + 100, "MAX_SESSIONS_PER_SUBNET": sessions + 100}
    figures = machine() | {"sessions": sessions}
    with (
        NodeThread(maker.chain(tip)) as node,
        ServerProcess(folder, node.env, protocols=("tcp", "rpc", "metrics"), **limits) as server,
        Audience(server.ports["tcp"], [[script_of(n)] for n in range(sessions)], processes=2),
    ):
        figures["without"] = without_scrapes(server, secs)
        figures["alone"] = alone(server)
        figures["openmetrics"] = alone(server, OPENMETRICS)
        figures["many"] = many(server, rate, secs)
    rates = {"alone": ALONE_RATE, "openmetrics": ALONE_RATE}
    for name, count in (rates | {"many": figures["many"]["scrapes a second"]}).items():
        more = figures[name]["cpu ms a second"] - figures["without"]["cpu ms a second"]
        figures[name]["cpu ms a scrape"] = round(more / count, 3)
    return figures


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.scrapes", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--secs", type=int, default=15)
    args = parser.parse_args()
    print_figures("scrapes", measure, **vars(args))


if __name__ == "__main__":
    main()
