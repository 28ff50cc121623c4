#!/usr/bin/env python3
"""Measures the server's own part of a ping, and the cost of counting requests.

    python -m benchmarks.counting [--rounds 500] [--compare CHECKOUT]

In one process, without sockets: a session's receiver is given 64 pipelined pings at a time, and one
at a time.  Prints the least time of all rounds, in nanoseconds a request, as JSON.  With a checkout
of another version, whose modules are built there, that is measured in turns with this one: each
version runs in a fresh process, ten times.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from time import perf_counter_ns

from electrumx.server.session.engine import receive
from electrumx.server.session.engine.cost_account import CostAccount
from electrumx.server.session.engine.dispatch import Dispatcher
from electrumx.server.session.engine.method_registry import SessionMethods, rpc_method
from electrumx.server.session.engine.send_queue import SendQueue
from electrumx.server.session.engine.session_limits import SessionLimits

PIPELINED = 64
TURNS = 10
LIMITS = SessionLimits(1e12, 1e13, 0.0, 1e-9, 20, 30.0)


class Pings:
    """Answers the only method."""

    @rpc_method("server.ping")
    def ping(self):
        """Return nothing."""


class Discarding:
    """A transport whose client reads everything at once."""

    is_writable, is_held, has_lines = True, False, True

    def send(self, messages):
        """Discard."""

    def note_unanswered(self):
        """Count nothing."""

    def is_closing(self):
        """Return that it goes on."""
        return False


class Owner:
    """The session, of which nothing is used."""

    def extra_cost(self):
        """Return no cost."""
        return 0.0

    def accepts_first(self, _message):
        """Return that all is well."""
        return True


def make_stats():
    """Return the counter that this version of the server takes."""
    try:
        from electrumx.server.session.engine.request_stats import RequestStats
    except ImportError:
        return Counter()
    return RequestStats()


def make_counts():
    """Return the counter of traffic, if this version of the server takes one."""
    try:
        from electrumx.server.session.engine.session_counts import SessionCounts
    except ImportError:
        return ()
    return (SessionCounts(),)


def make_receiver():
    """Return a session's receiver, and the queue that it answers to."""
    owner = Owner()
    account = CostAccount(owner, LIMITS)
    queue = SendQueue(Discarding(), account, owner, *make_counts())
    methods = SessionMethods((Pings(),), make_stats())
    methods.set_version((1, 4))
    dispatcher = Dispatcher(owner, account, queue, methods)
    owner.on_slot_free = owner.on_hard_limit = lambda: None
    return receive.Receiver(
        owner, account, queue, dispatcher, methods, parsing_lock=asyncio.Lock(), max_reply_bytes=0
    )


async def measure(rounds):
    """Return nanoseconds a ping, pipelined and lone."""
    # A busy machine does not end a slice.
    receive.SLICE_SECS = 3600
    receiver = make_receiver()
    message = b'{"jsonrpc": "2.0", "id": 123, "method": "server.ping", "params": []}'
    found = {}
    for name, batch in (("pipelined", [message] * PIPELINED), ("lone", [message])):
        times = []
        for _ in range(rounds):
            start = perf_counter_ns()
            for _ in range(200 // len(batch) + 1):
                receiver.receive(batch)
            count = (200 // len(batch) + 1) * len(batch)
            times.append((perf_counter_ns() - start) / count)
        found[name] = round(min(times), 1)
    return found


def in_turns(checkout, rounds):
    """Return the least figures of this checkout and another one."""
    least = {}
    for _ in range(TURNS):
        for name, folder in (("this", os.getcwd()), ("other", checkout)):
            command = [sys.executable, __file__, "--rounds", str(rounds)]
            env = os.environ | {"PYTHONPATH": str(folder)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            for key, value in json.loads(done.stdout).items():
                key = f"{key}, {name}"
                least[key] = min(value, least.get(key, value))
    return least


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--compare", metavar="CHECKOUT")
    args = parser.parse_args()
    if args.compare:
        figures = in_turns(args.compare, args.rounds)
    else:
        figures = asyncio.run(measure(args.rounds))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
