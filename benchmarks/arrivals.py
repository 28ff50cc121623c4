"""The cost of new blocks and a full mempool for a server with clients, and the clients' delays.

Servers look for a new block every few seconds, unless they are notified of it; that pause is not
their own work.  Times are therefore counted from when the server fetched the block from its node.
"""

import json
import socket
import time

from benchmarks.audience import Audience, Probe
from benchmarks.measuring import Spent, memory_mb
from benchmarks.pressure import percentile
from benchmarks.scenarios import SCRIPT
from benchmarks.wire import HELLO, Lines, body, id_of, line
from tests.integration.oracle import Reader, scripthash_of

ARRIVAL_SECS = 60
MEMPOOL_SECS = 600
#: the peer may hold a message back for a second
QUIET_SECS = 1.3
#: seconds between two pings, two subscriptions
PING_PAUSE, SUBSCRIBE_PAUSE = 0.005, 0.02
MOST_PINGS = 120_000
#: seconds between two looks whether the mempool is served, and between two at ``getinfo``
LOOK_PAUSE, REPORT_PAUSE = 0.1, 0.3
#: transactions of the mempool, and the last, whose scripts are asked for
SAMPLED = 8


def _wait_for_block(server, audience, expected):
    """Wait until every client is notified, or nothing more comes."""
    end = time.monotonic() + ARRIVAL_SECS
    count, since = -1, 0.0
    while time.monotonic() < end:
        now = audience.count()
        if now != count:
            count, since = now, time.monotonic()
        elif count >= expected and time.monotonic() - since > QUIET_SECS:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{server.spec}: {count} of at least {expected} notifications")


def announce(server, part, subscriptions, rounds, *, expected=0, processes=1):
    """A new block, and when clients with these subscriptions are notified of it.

    expected: statuses that there must be for each block.  Means over the rounds.
    """
    sessions = len(subscriptions)
    found = []
    with Audience(server.port, subscriptions, processes=processes) as audience:
        time.sleep(1)
        for number in range(rounds):
            time.sleep(0.4 * number)  # another moment between two looks at the node
            audience.clear()
            with Spent(server.pid) as spent:
                server.node.call("bench.extend", part)
                _wait_for_block(server, audience, sessions + expected)
            fetched = server.node.call("bench.state")["fetched_at"]
            heard = audience.heard()
            headers = sorted(item.header_at for item in heard if item.headers)
            last = max(max(item.header_at, item.last_at) for item in heard)
            found.append(
                {
                    "CPU ms": spent.cpu * 1e3,
                    "first ms": (headers[0] - fetched) * 1e3,
                    "last ms": (last - fetched) * 1e3,
                    "spread ms": (last - headers[0]) * 1e3,
                    "statuses": sum(item.statuses for item in heard),
                }
            )
            assert len(headers) == sessions
    return {key: sum(one[key] for one in found) / rounds for key in found[0]}


class Probes:
    """Pings and subscriptions at a steady pace; a context manager."""

    def __init__(self, port, scripthashes):
        pings = [body("server.ping")] * MOST_PINGS
        subscriptions = [body(SCRIPT + "subscribe", name) for name in scripthashes]
        self._port = port
        self.ping = Probe(port, pings, PING_PAUSE)
        self.subscribe = Probe(port, subscriptions, SUBSCRIBE_PAUSE)

    def __enter__(self):
        self.ping.__enter__()
        self.subscribe.__enter__()
        time.sleep(1.2)
        return self

    def mark(self, at):
        """Count requests from then on."""
        self.ping.mark(at)
        self.subscribe.mark(at)

    def mark_end(self, at):
        """Count requests until then."""
        self.ping.mark_end(at)
        self.subscribe.mark_end(at)

    def __exit__(self, *exc):
        self.ping.__exit__(*exc)
        self.subscribe.__exit__(*exc)

    def figures(self):
        result = {}
        for name, probe in (("ping", self.ping), ("subscribe", self.subscribe)):
            result[f"{name} p50 ms"] = percentile(probe.waits, 0.5) * 1e3
            result[f"{name} p99 ms"] = percentile(probe.waits, 0.99) * 1e3
            result[f"{name} max ms"] = max(probe.waits, default=0.0) * 1e3
            if probe.unanswered:
                result[f"{name} unanswered"] = probe.unanswered
        return result


def busy_block(server, fresh):
    """A block of four million weight units, and how long clients wait while it comes in."""
    with Probes(server.port, fresh) as probes, Spent(server.pid) as spent:
        height = server.node.call("bench.extend", "busy")["height"]
        fetched = None
        end = time.monotonic() + ARRIVAL_SECS
        while fetched is None and time.monotonic() < end:
            time.sleep(0.02)
            fetched = server.node.call("bench.state")["fetched_at"]
        probes.mark(fetched)
        server.wait_height(height, timeout=ARRIVAL_SECS)
        seconds = time.monotonic() - fetched
        time.sleep(0.5)
    return {"CPU ms": spent.cpu * 1e3, "seconds": seconds} | probes.figures()


def _mempool_scripts(node, known):
    """Scripthashes that transactions throughout the mempool pay to, none of those that are known."""
    found = []
    txids = node.call("getrawmempool")
    for txid in [*txids[:: max(1, len(txids) // SAMPLED)], txids[-1]]:
        tx = Reader(bytes.fromhex(node.call("getrawtransaction", txid))).transaction()
        names = [scripthash_of(output.script) for output in tx.outputs]
        found += [name for name in names if name not in known][:1]
    return found


def _unconfirmed(port, scripthashes):
    """Of these, those that the server knows unconfirmed transactions of."""
    requests = [
        line(number, body(SCRIPT + "get_mempool", name))
        for number, name in enumerate(scripthashes, start=1)
    ]
    with socket.create_connection(("127.0.0.1", port), MEMPOOL_SECS) as sock:
        sock.sendall(b"".join((HELLO, *requests)))
        known, missing = set(), len(requests) + 1
        lines = Lines()
        while missing:
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the server hung up")
            for text in lines.feed(data):
                number = id_of(text)
                missing -= number is not None
                if number and json.loads(text).get("result"):
                    known.add(scripthashes[number - 1])
    return known


def _is_read(rpc_port):
    """Whether ``getinfo`` reports that the mempool is being read; a peer never does."""
    request = {"jsonrpc": "2.0", "id": 0, "method": "getinfo", "params": []}
    with socket.create_connection(("127.0.0.1", rpc_port), ARRIVAL_SECS) as sock:
        sock.sendall(json.dumps(request).encode() + b"\n")
        with sock.makefile("rb") as lines:
            info = json.loads(lines.readline())["result"]
    state = info.get("mempool")
    return isinstance(state, dict) and bool(state.get("reading"))


def mempool(server, targets, fresh):
    """All of the mempool becomes known at once: until it is served, and the waits of requests sent till then.

    It is there when scripts that only single transactions of it pay to have one each.  "reported" is the
    share of looks at ``getinfo`` until then that had a note of it.
    """
    known = {name for group in ("huge", "medium", "small") for name, _ in targets[group]}
    known |= {*targets["crowd"], *targets["single"]}
    before = memory_mb(server.pid)
    with Probes(server.port, fresh) as probes, Spent(server.pid) as spent:
        count = server.node.call("bench.mempool")["mempool"]
        told, end = None, time.monotonic() + MEMPOOL_SECS
        while told is None and time.monotonic() < end:
            time.sleep(0.05)
            told = server.node.call("bench.state")["mempool_told_at"]
        probes.mark(told)
        wanted = _mempool_scripts(server.node, known)
        reported, report_due = [], time.monotonic()
        while len(_unconfirmed(server.port, wanted)) < len(set(wanted)):
            if time.monotonic() > end:
                raise TimeoutError(f"{server.spec} does not know all of the mempool")
            if time.monotonic() >= report_due:
                reported.append(_is_read(server.rpc_port))
                report_due += REPORT_PAUSE
            time.sleep(LOOK_PAUSE)
        served = time.monotonic()
        seconds = served - told
        probes.mark_end(served)
    figures = {"transactions": count, "seconds": seconds, "CPU us a tx": spent.cpu / count * 1e6}
    figures["bytes a tx"] = (memory_mb(server.pid) - before) / count * 1e6
    figures["MB"], figures["peak MB"] = memory_mb(server.pid), memory_mb(server.pid, "VmHWM")
    figures["reported"] = sum(reported) / len(reported) if reported else 0.0
    return figures | probes.figures()


def memory(server, known, sessions, subscriptions):
    """The cost of idle sessions, with subscriptions and without.

    One in five subscriptions is to a script of `known`, the others to scripts without a payment
    yet, each of its own, as wallets have them.
    """
    before = memory_mb(server.pid)
    with Audience(server.port, [[]] * sessions):
        alone = memory_mb(server.pid)
    wanted = []
    for number in range(sessions):
        names = [f"{number << 16 | n:064x}" for n in range(subscriptions)]
        for n in range(0, subscriptions, 5):
            names[n] = known[(number * subscriptions + n) // 5 % len(known)]
        wanted.append(names)
    with Spent(server.pid) as spent, Audience(server.port, wanted):
        subscribed = memory_mb(server.pid)
    count = sessions * subscriptions
    return {
        "MB before": before,
        "MB with all": subscribed,
        "kB a session": (alone - before) / sessions * 1e3,
        "bytes a subscription": max(0.0, subscribed - alone) / count * 1e6,
        "CPU us a subscription": spent.cpu / count * 1e6,
    }
