"""The counters that metrics are read from are those of a walk over the sessions, whatever these do."""

import asyncio
import hashlib
import json
from collections import Counter
from ipaddress import ip_address
from types import SimpleNamespace

from aiorpcx import NetAddress
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.lib.hash import hex_str_to_hash
from electrumx.server.metrics.sources import Reading
from electrumx.server.session import LocalRPC, SessionManager
from electrumx.server.session.coin_sessions import DashElectrumX
from electrumx.server.session.engine.origin import Origin
from electrumx.server.session.engine.session_counts import protocol_label
from electrumx.server.session.engine.session_limits import UNLIMITED
from tests.fakes.session_world import FakeBP, FakeDaemon, FakeDB, FakeMempool, FakePeers, fake_env

CLIENTS = 4
#: script hashes, and the ids of transactions
NAMES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
ABSENT = {"code": -5, "message": "No such mempool or blockchain transaction."}


class Transport:
    """A client that reads, or not."""

    has_lines, had_tls = True, False

    def __init__(self, number):
        self.number = number
        self.sent = 0
        self.is_held = self.closing = False
        self.is_writable = True

    def send(self, messages):
        self.sent += sum(map(len, messages))

    def hold(self, *, held):
        self.is_held = held

    def note_queued(self, size):
        pass

    def note_unanswered(self):
        pass

    def origin(self):
        return Origin(ip_address(f"8.8.{self.number}.8"))

    def remote_address(self):
        return NetAddress(f"8.8.{self.number}.8", 5000)

    def proxy_address(self):
        return None

    def is_closing(self):
        return self.closing

    def end(self, force_after):
        self.closing = True

    abort = end


class Server:
    """The sessions of a server without sockets."""

    def __init__(self):
        env, db = fake_env(), FakeDB()
        self.parts = db, FakeMempool(), FakePeers(env, db)
        daemon = FakeDaemon()
        daemon.db = db
        daemon.errors["getrawtransaction"] = ABSENT
        self.manager = SessionManager(
            env, db, FakeBP(db), daemon, self.parts[1], asyncio.Event(), peers=self.parts[2]
        )
        shared = self.manager.shared
        shared.protocol.maximum = (1, 7)
        shared.tip.notified(db.db_height, db.db_tip)
        # Known at once; the others are looked up.
        for name in NAMES[:2]:
            self.parts[1].outpoints[hex_str_to_hash(name), 0] = (-1, None, None)
        shared.node = SimpleNamespace(request=self.node_request)
        #: sessions by the number of their client; all there were
        self.sessions, self.all = {}, []

    async def node_request(self, _method, params):
        return {params[1]: "ENABLED"}

    @property
    def counts(self):
        return self.manager.shared.table.counts

    def connect(self, number, *, kind):
        if number not in self.sessions:
            session_class = LocalRPC if kind == "rpc" else DashElectrumX
            session = session_class(self.manager, *self.parts, kind, Transport(number))
            self.sessions[number] = session
            self.all.append(session)

    def ask(self, number, method, *args):
        session = self.sessions.get(number)
        if session is not None:
            message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": args})
            session.receiver.received_bytes(len(message))
            session.receiver.receive([message.encode()])

    def charge(self, number, cost):
        if number in self.sessions:
            self.sessions[number].bump_cost(cost)

    def set_limits(self, number):
        if number in self.sessions:
            self.sessions[number].set_limits(UNLIMITED)

    def set_writable(self, number, *, writable):
        session = self.sessions.get(number)
        if session is not None:
            session.transport.is_writable = writable
            if writable:
                session.on_writable()

    def end(self, number):
        if number in self.sessions:
            self.sessions[number].end(1.0)

    def lose(self, number):
        session = self.sessions.pop(number, None)
        if session is not None:
            session.on_lost()


def walk(server):
    """Return the counters as they must be, added up session by session."""
    by_protocol = Counter()
    subscriptions = {"headers": 0, "script": 0, "outpoint": 0}
    for session in server.sessions.values():
        by_protocol[session.kind, protocol_label(session.kind, session.protocol_tuple)] += 1
        if session.kind != "rpc":
            subscriptions["headers"] += session.headers.is_subscribed
            subscriptions["script"] += len(session.scripts) + len(session.mns)
            subscriptions["outpoint"] += len(session.outpoints)
    return {
        "by_protocol": by_protocol,
        "subscriptions": subscriptions,
        "throttled": sum(session.throttled for session in server.sessions.values()),
        "opened": Counter(session.kind for session in server.all),
        "closed": len(server.all) - len(server.sessions),
        "received": sum(session.recv_size for session in server.all),
        "sent": sum(session.transport.sent for session in server.all),
    }


def counted(server):
    """Return the counters."""
    counts = server.counts
    return {
        "by_protocol": counts.by_protocol,
        "subscriptions": Reading(server, None).subscriptions(),
        "throttled": counts.throttled,
        "opened": counts.opened,
        "closed": counts.closed.total(),
        "received": counts.received,
        "sent": counts.sent,
    }


NAME = st.sampled_from(NAMES)
VERSIONS = st.sampled_from(["1.4", "1.4.2", "1.4.1.9", "1.6", "1.7", "1.5.3", "9", "x"])
REQUESTS = st.one_of(
    st.tuples(st.just("server.version"), st.just("name"), VERSIONS),
    st.just(("blockchain.headers.subscribe",)),
    st.tuples(st.just("blockchain.scripthash.subscribe"), NAME),
    st.tuples(st.just("blockchain.scripthash.subscribe"), NAME.map(str.upper)),
    st.tuples(st.just("blockchain.scripthash.unsubscribe"), NAME),
    st.tuples(st.just("blockchain.outpoint.subscribe"), NAME, st.integers(0, 1), st.just("")),
    st.tuples(st.just("blockchain.outpoint.unsubscribe"), NAME, st.integers(0, 1)),
    st.tuples(st.just("masternode.subscribe"), NAME),
    st.just(("sessions",)),
)
KINDS = st.sampled_from(["tcp", "tcp", "wss", "rpc"])
STEPS = st.one_of(
    st.builds(lambda kind: lambda s, n: s.connect(n, kind=kind), KINDS),
    st.builds(lambda request: lambda s, n: s.ask(n, *request), REQUESTS),
    st.builds(
        lambda cost: lambda s, n: s.charge(n, cost), st.sampled_from([3_000, 20_000, -25_000])
    ),
    st.builds(lambda writable: lambda s, n: s.set_writable(n, writable=writable), st.booleans()),
    st.sampled_from([Server.lose, Server.end, Server.set_limits]),
)


async def settle():
    """Let requests that wait for the database be answered."""
    for _ in range(20):
        await asyncio.sleep(0)


@settings(max_examples=150)
@given(st.lists(st.tuples(STEPS, st.integers(0, CLIENTS - 1), st.booleans()), max_size=40))
def test_counters_are_those_of_a_walk_over_the_sessions(steps):
    async def run():
        server = Server()
        for number in range(CLIENTS):
            server.connect(number, kind="tcp")
        for step, number, settled in steps:
            step(server, number)
            if settled:
                await settle()
            assert counted(server) == walk(server)
        await settle()
        assert counted(server) == walk(server)
        for number in range(CLIENTS):
            server.lose(number)
        await settle()
        found = counted(server)
        assert found == walk(server)
        assert found["subscriptions"] == {"headers": 0, "script": 0, "outpoint": 0}
        assert not found["by_protocol"]
        assert not found["throttled"]

    asyncio.run(run())


async def test_each_counter_counts():
    """Requests that are refused would prove nothing above."""
    server = Server()
    name = NAMES[0]
    for number in range(2):
        server.connect(number, kind="tcp")
        server.ask(number, "server.version", "name", "1.7" if number else "1.4.2")
        server.ask(number, "blockchain.headers.subscribe")
        server.ask(number, "masternode.subscribe", name)
    server.ask(0, "blockchain.scripthash.subscribe", name)
    server.ask(1, "blockchain.scriptpubkey.subscribe", "51")
    for txid in NAMES:
        server.ask(1, "blockchain.outpoint.subscribe", txid, 0, "")
    await settle()
    server.charge(0, 20_000)
    found = counted(server)
    assert found == walk(server)
    assert found["by_protocol"] == {("tcp", "1.4.2"): 1, ("tcp", "1.7"): 1}
    assert found["subscriptions"] == {"headers": 2, "script": 4, "outpoint": 4}
    assert found["throttled"] == 1
    assert found["received"] > 500
    assert found["sent"] > 500
