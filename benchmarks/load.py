#!/usr/bin/env python3
"""Measures the server under a crowd of clients, and its memory while sessions come and go.

    python -m benchmarks.load crowd [--secs 60]
    python -m benchmarks.load churn [--secs 1800]

The server runs over a fake node; wallets, idle clients and abusers run in processes of their
own, so that none measures another's business. Prints its figures as one JSON object.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.crowd_process import CrowdProcess
from benchmarks.measuring import cpu_secs, memory_kb
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import fan_block, script_of, small_chain
from tests.integration import crowd
from tests.integration.launcher import InjectedServer

SCRIPTS = 6_000


def make_node(count=SCRIPTS):
    """A node with a chain whose last block pays to so many scripts, one each."""
    maker, tip = small_chain()
    tip, _tx = fan_block(maker, tip, count)
    return NodeThread(maker.chain(tip))


def make_server(folder, node, **settings):
    """A server with default limits, that groups loopback clients as if they came from elsewhere."""
    settings = {
        "COST_SOFT_LIMIT": None,
        "COST_HARD_LIMIT": None,
        "MAX_SESSIONS": 2000,
        "MAX_SESSIONS_PER_SUBNET": 2000,
    } | settings
    return InjectedServer(
        folder,
        node.env,
        {"loopback_has_groups": True},
        protocols=("tcp", "ssl", "rpc"),
        **settings,
    )


def scripts(count=SCRIPTS):
    """Script hashes that each have a history."""
    return [crowd.script_hash(script_of(n + 1)) for n in range(count)]


def print_figures(name, measure, **options):
    """Print what is measured in a folder of its own, as one JSON object."""
    with tempfile.TemporaryDirectory(prefix=f"ex-{name}-") as folder:
        print(json.dumps(measure(Path(folder), **options), indent=2))


def _abuse(tcp_port, ssl_port, count, ready, stop, results):
    async def run():
        async with crowd.Abusers(tcp_port, ssl_port, count) as abusers:
            ready.set()
            while not stop.is_set():  # noqa: ASYNC110  another process sets it
                await asyncio.sleep(0.2)
            results.put({"attempts": abusers.attempts, "bytes sent": abusers.sent})

    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    asyncio.run(run())


def _idle(port, count, ready, stop, results):
    async def run():
        async with crowd.Idlers(port, count) as idlers:
            ready.set()
            while not stop.is_set():  # noqa: ASYNC110  another process sets it
                await asyncio.sleep(0.2)
            results.put(idlers.lost())

    asyncio.run(run())


def wallet_figures(wallets):
    """How long wallets waited, in milliseconds."""
    return {
        name: {
            "count": len(values),
            "median ms": round(crowd.percentile(values, 0.5) * 1000, 1),
            "p99 ms": round(crowd.percentile(values, 0.99) * 1000, 1),
            "max ms": round(max(values) * 1000, 1),
        }
        for name, values in (("ping", wallets.pings), ("subscribe", wallets.subscribes))
        if values
    } | {"wallets lost": wallets.lost}


def run_crowd(folder, *, secs, wallet_count, idle_count, abuser_count, alone_secs):
    """Wallets alone, then among idle clients, then with abusers too; the figures of each."""
    fresh = iter(scripts())
    figures = {"load average before": os.getloadavg()[0]}
    with make_node() as node, make_server(folder, node) as server:
        port, pid = server.ports["tcp"], server.child.pid

        def measure(name, secs):
            wallets = crowd.Wallets(port, wallet_count, fresh)
            cpu, start = cpu_secs(pid), time.monotonic()
            asyncio.run(wallets.run(secs))
            share = (cpu_secs(pid) - cpu) / (time.monotonic() - start)
            figures[name] = wallet_figures(wallets) | {
                "server CPU": round(share, 2),
                "server MB": memory_kb(pid) // 1024,
            }

        if alone_secs:
            measure("wallets alone", alone_secs)
        idlers = CrowdProcess(_idle, port, idle_count)
        assert idlers.is_ready
        if alone_secs:
            measure("with idle clients", alone_secs)
        abusers = CrowdProcess(_abuse, port, server.ports["ssl"], abuser_count)
        assert abusers.is_ready
        measure("with abusers", secs)
        figures["groups"] = [
            [name, sessions, round(cost), round(retained)]
            for name, sessions, cost, retained, *_rest in server.rpc("groups")
            if cost + retained > 1000
        ]
        figures["sessions"] = server.rpc("getinfo")["sessions"]
        figures["abusers"] = abusers.finish()
        figures["idle clients lost"] = idlers.finish()
        figures["server MB peak"] = memory_kb(pid, "VmHWM") // 1024
        log = server.log()
        figures["closed over resource usage"] = log.count("closing session over res usage")
        figures["tracebacks"] = log.count("Traceback")
    figures["load average after"] = os.getloadavg()[0]
    return figures


def slope(points):
    """Least squares slope of (x, y)."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    return above / below if below else 0.0


def run_churn(folder, *, secs, parallel=10):
    """Sessions that come and go; the growth of the server's memory."""
    points = []
    # Not throttled: it is memory that is looked for.
    settings = {"COST_SOFT_LIMIT": "0", "COST_HARD_LIMIT": "0", "LOG_LEVEL": "warning"}
    with make_node() as node, make_server(folder, node, **settings) as server:
        pid = server.child.pid
        start = time.monotonic()

        async def run():
            async def sample():
                while True:
                    points.append((time.monotonic() - start, memory_kb(pid)))
                    await asyncio.sleep(2)

            sampling = asyncio.create_task(sample())
            count = await crowd.churn(server.ports["tcp"], secs, scripts(), parallel=parallel)
            sampling.cancel()
            return count

        count = asyncio.run(run())
        # The first part fills caches and the allocator's pools.
        settled = [point for point in points if point[0] >= min(120, secs / 4)]
        half = [point for point in points if point[0] >= secs / 2]
        return {
            "seconds": secs,
            "sessions": count,
            "subscriptions": count * 50,
            "RSS kB at start": points[0][1],
            "RSS kB when settled": settled[0][1],
            "RSS kB at end": points[-1][1],
            "slope kB/min": round(slope(settled) * 60, 1),
            "slope of second half kB/min": round(slope(half) * 60, 1),
            "RSS kB each minute": [kb for _secs, kb in points[::30]],
            "sessions left": server.rpc("getinfo")["sessions"],
        }


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("crowd", "churn"))
    parser.add_argument("--secs", type=int)
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="let server and honest clients run before all else on a busy machine (needs root)",
    )
    args = parser.parse_args()
    if args.real_time:
        # Inherited by all that is started, but for the abusers
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    if args.what == "crowd":
        print_figures(
            "crowd",
            run_crowd,
            secs=args.secs or 60,
            wallet_count=20,
            idle_count=1000,
            abuser_count=50,
            alone_secs=15,
        )
    else:
        print_figures("churn", run_churn, secs=args.secs or 1800)
    return 0


if __name__ == "__main__":
    sys.exit(main())
