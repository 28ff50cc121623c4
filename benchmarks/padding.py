#!/usr/bin/env python3
"""Measures how long a lone client waits for pings over TLS, with padded messages and without.

    python -m benchmarks.padding [--pings 3000] [--times 3]

Two servers run over a fake node, one of which pads.  A client pings each in turn, one ping at a time.
Prints median and p99 of each, and the largest difference of the p99 in the runs.
"""

import argparse
import asyncio
import ssl
import sys
import time
from contextlib import ExitStack

from benchmarks.load import print_figures
from benchmarks.pressure import percentile
from benchmarks.sessions import Client, line
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.server import ServerProcess

SETTINGS = {"LOG_LEVEL": "warning", "EVENT_LOOP_POLICY": "uvloop", "PROTOCOL_MAX": "1.7"}
WARM_UP = 200


async def ping(port, count):
    """Seconds of each of so many pings of a lone client, after some more."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _transport, client = await loop.create_connection(Client, "127.0.0.1", port, ssl=context)
    await client.ask([line(0, "server.version", "bench", ["1.4", "1.4.2"])])
    secs = []
    for number in range(WARM_UP + count):
        start = time.perf_counter()
        await client.ask([line(number, "server.ping")])
        secs.append(time.perf_counter() - start)
    client.transport.abort()
    return secs[WARM_UP:]


def measure(folder, *, pings, times):
    """Figures with and without padding, in turn."""
    maker, tip = small_chain(110)
    ms = {"padded": [], "plain": []}
    with NodeThread(maker.chain(tip)) as node, ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                ServerProcess(
                    folder / name,
                    node.env,
                    protocols=("ssl", "rpc"),
                    PAD_MESSAGES=setting,
                    **SETTINGS,
                )
            )
            for name, setting in (("padded", "1"), ("plain", ""))
        }
        for _ in range(times):
            for name, server in servers.items():
                secs = asyncio.run(ping(server.ports["ssl"], pings))
                ms[name].append([round(percentile(secs, share) * 1e3, 3) for share in (0.5, 0.99)])
    differences = [
        padded[1] - plain[1] for padded, plain in zip(ms["padded"], ms["plain"], strict=True)
    ]
    return {
        "median and p99 ms": ms,
        "p99 ms longer when padded": [round(value, 3) for value in differences],
    }


def main():
    """Measure by the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pings", type=int, default=3_000)
    parser.add_argument("--times", type=int, default=3)
    print_figures("padding", measure, **vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
