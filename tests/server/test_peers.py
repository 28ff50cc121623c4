"""The peer manager against real servers on loopback: honest, lying, broken, slow and huge ones."""

import asyncio
import contextlib
import gc
import ipaddress
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiorpcx import RPCError, RPCSession, Service, serve_rs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electrumx.lib.peer import MAX_FEATURES_SIZE, Peer
from electrumx.lib.tasks import run_together
from electrumx.lib.util import version_string
from electrumx.server.peers import (
    PEER_ADD_PAUSE,
    STALE_SECS,
    BadPeerError,
    PeerManager,
    assert_good,
)
from electrumx.server.peers.session import (
    PeerConnectionLostError,
    quoted,
    run_bounded,
)
from electrumx.server.peers.sources import ThreadResolver, parse_blacklist
from electrumx.server.session.transport.bans import BanList, parse_network
from tests.conftest import require
from tests.lib.test_peer import hostile_features, json_values
from tests.ports import free_port

GENESIS_HASH = "00" * 31 + "ab"
HEIGHT = 100
LAN_HOST = "127.0.0.1"


def header(height):
    return height.to_bytes(80, "little")


class FakeDB:
    db_height = HEIGHT

    async def raw_header(self, height):
        if not 0 <= height <= self.db_height:
            raise IndexError(height)
        return header(height)


class FakeSessionClass:
    @classmethod
    def server_features(cls, env, newest=(1, 4, 2)):
        hosts = {}
        for service in env.report_services:
            ports = hosts.setdefault(str(service.host), {})
            ports[f"{service.protocol}_port"] = service.port
        return {
            "hosts": hosts,
            "genesis_hash": GENESIS_HASH,
            "protocol_max": version_string(newest),
        }

    @classmethod
    def server_version_args(cls, newest=(1, 4, 2)):
        return ["us 1.0", ["1.4", version_string(newest)]]


class FakeCoin:
    SESSIONCLS = FakeSessionClass
    GENESIS_HASH = GENESIS_HASH
    PEER_DEFAULT_PORTS = {"t": "50001", "s": "50002"}
    PEERS: list[str] = []


def make_env(report=(), services=(), peers=(), **settings):
    env = SimpleNamespace(
        PD_OFF="OFF",
        PD_SELF="SELF",
        PD_ON="ON",
        coin=type("Coin", (FakeCoin,), {"PEERS": list(peers)}),
        peer_discovery="ON",
        peer_announce=True,
        force_proxy=False,
        tor_proxy_host=LAN_HOST,
        tor_proxy_port=1,
        anon_logs=False,
        blacklist_url="",
        services=[Service.from_string(service) for service in services],
        report_services=[Service.from_string(service) for service in report],
    )
    vars(env).update(settings)
    return env


class Clock:
    """Unix time that a test moves forward."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


class Names:
    """A resolver that knows a few names, and counts the questions."""

    def __init__(self, **addresses):
        self.addresses = addresses
        self.questions = 0

    async def __call__(self, host):
        self.questions += 1
        try:
            return self.addresses[host.replace(".", "_")]
        except KeyError:
            raise OSError("no such name") from None


@pytest.fixture(autouse=True)
def see_logs(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
async def make_manager():
    """Return a function that makes managers, for which every valid host is public."""
    managers = []

    def make(env=None, db=None, **kwargs):
        kwargs.setdefault("is_public", lambda peer: peer.is_valid)
        kwargs.setdefault("request_timeout", 60.0)
        manager = PeerManager(env or make_env(), db or FakeDB(), **kwargs)
        managers.append(manager)
        return manager

    yield make
    for manager in managers:
        await manager.stop()


async def until(condition):
    """Return when the condition holds; fails after a minute."""
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited in vain")


# --- Servers to verify


class Script:
    """The replies of a peer server: a value, an exception to raise, or a function of the arguments."""

    def __init__(self, host, port, **answers):
        self.requests = []
        self.clients = []
        self.port = port
        self.answers = {
            "server.version": ["ElectrumX 9", "1.4.2"],
            "blockchain.headers.subscribe": {"hex": header(HEIGHT).hex(), "height": HEIGHT},
            "blockchain.block.header": lambda height: header(height).hex(),
            "server.features": {
                "hosts": {host: {"tcp_port": port}},
                "genesis_hash": GENESIS_HASH,
                "server_version": "ElectrumX 9",
                "protocol_min": "1.4",
                "protocol_max": "1.4.2",
            },
            "server.peers.subscribe": [],
            "server.add_peer": True,
            **answers,
        }

    def methods(self):
        return [method for method, _ in self.requests]


class ScriptedSession(RPCSession):
    def __init__(self, *args, script, **kwargs):
        super().__init__(*args, **kwargs)
        self.script = script
        script.clients.append(str(self.remote_address().host))

    async def handle_request(self, request):
        self.script.requests.append((request.method, request.args))
        answer = self.script.answers[request.method]
        if answer is HANG:
            await asyncio.sleep(3600)
        if answer is HANG_UP:
            await self.abort()
            return None
        if callable(answer):
            answer = answer(*request.args)
        if isinstance(answer, Exception):
            raise answer
        return answer


HANG, HANG_UP = object(), object()


@contextlib.asynccontextmanager
async def peer_server(host=LAN_HOST, *, listen_host=None, tls=None, **answers):
    """Serve as a peer named host; gives its Script. Method names are written with underscores."""
    sock = socket.socket(socket.AF_INET6 if ":" in (listen_host or host) else socket.AF_INET)
    sock.bind((listen_host or host, 0))
    named = {name.replace("__", "."): answer for name, answer in answers.items()}
    script = Script(host, sock.getsockname()[1], **named)
    server = await serve_rs(
        lambda transport: ScriptedSession(transport, script=script), sock=sock, ssl=tls
    )
    try:
        yield script
    finally:
        server.close()
        # Server.wait_closed would wait for clients that hang on purpose.
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def raw_server(answer):
    """Serve bytes: answer(line) returns the bytes to send for each line received, None to hang up."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                reply = answer(line)
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, LAN_HOST, 0, limit=1 << 21)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def add(manager, real_name):
    """Add a peer and return it after its first attempt."""
    await manager.add_localRPC_peer(real_name)
    host = real_name.split()[0]
    peer = next(peer for peer in manager.peers if peer.host == host)
    await until(lambda: is_tried(manager, peer))
    return peer


def is_tried(manager, peer):
    """Whether an attempt has ended: the peer is good, waits to be retried, or is forgotten."""
    verified = peer.last_good and not peer.try_count
    return verified or peer not in manager.peers or is_pausing(manager, peer)


def is_pausing(manager, peer):
    return bool(peer.try_count and peer in manager.pausing)


async def status_of(manager, host):
    return next(row["status"] for row in await manager.rpc_data() if row["host"] == host)


# --- Honest peers


async def test_an_honest_peer_is_verified_and_reported(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert await status_of(manager, LAN_HOST) == "good"
        assert (peer.source, peer.try_count, peer.ip_addr) == ("peer", 0, LAN_HOST)
        assert (peer.server_version, peer.protocol_max) == ("ElectrumX 9", "1.4.2")
        assert manager.info() == {"bad": 0, "good": 1, "never": 0, "stale": 0, "total": 1}
        assert manager.on_peers_subscribe(False) == [
            (LAN_HOST, LAN_HOST, ["v1.4.2", f"t{script.port}"])
        ]
        assert f"[{LAN_HOST}] verified in" in caplog.text


async def test_server_version_comes_first_and_a_buried_header_is_compared(make_manager):
    async with peer_server() as script:
        await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert script.requests[0] == ("server.version", ["us 1.0", ["1.4", "1.4.2"]])
        assert ("blockchain.block.header", [HEIGHT - 10]) in script.requests
        assert set(script.methods()[1:]) == {
            "blockchain.headers.subscribe",
            "blockchain.block.header",
            "server.features",
            "server.peers.subscribe",
        }


async def test_the_header_to_compare_is_never_below_the_first(make_manager):
    db = FakeDB()
    db.db_height = 3
    async with peer_server(blockchain__headers__subscribe={"height": 5}) as script:
        peer = await add(make_manager(db=db), f"{LAN_HOST} t{script.port}")

        assert ("blockchain.block.header", [0]) in script.requests
        assert peer.last_good


async def test_a_name_listed_in_another_case_is_verified(make_manager):
    async with peer_server("LocalHost", listen_host=LAN_HOST) as script:
        peer = await add(make_manager(), f"localhost t{script.port}")

        assert peer.last_good


async def test_tcp_is_tried_when_ssl_fails(make_manager):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} s{free_port()} t{script.port}")

        assert peer.last_good


@pytest.fixture(scope="module")
def tls_context(tmp_path_factory):
    """A server context with a fresh self-signed certificate."""
    openssl = shutil.which("openssl")
    require(openssl, "the openssl command is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=somebody.else"
    subprocess.run(
        [*request.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def test_a_self_signed_certificate_of_another_name_will_do(make_manager, tls_context):
    async with peer_server(tls=tls_context) as script:
        peer = await add(make_manager(), f"{LAN_HOST} s{script.port}")

        assert peer.last_good


async def test_header_notifications_are_ignored_and_requests_rejected(make_manager):
    def answer(line):
        request = json.loads(line)
        replies = [
            {"jsonrpc": "2.0", "method": "blockchain.headers.subscribe", "params": [{}]},
            {"jsonrpc": "2.0", "method": "server.banner", "id": 99},
        ]
        if "method" in request:
            result = Script(LAN_HOST, 1).answers[request["method"]]
            if callable(result):
                result = result(*request["params"])
            replies.append({"jsonrpc": "2.0", "id": request["id"], "result": result})
        else:
            rejections.append(request["error"]["code"])
            replies = []
        return b"".join(json.dumps(reply).encode() + b"\n" for reply in replies)

    rejections = []
    async with raw_server(answer) as port:
        peer = await add(make_manager(), f"{LAN_HOST} t{port}")

        assert peer.last_good
        assert set(rejections) == {-32601}


# --- Liars


def good_features(**changes):
    return {"hosts": {LAN_HOST: {}}, "genesis_hash": GENESIS_HASH, **changes}


BAD_ANSWERS = [
    ("server__version", "text", "server.version returned bad result type str"),
    ("server__version", ["one"], "bad server.version result"),
    ("server__version", ["one", 2], "bad server.version result"),
    ("server__version", HANG_UP, "terminated before server.version response"),
    ("server__features", good_features(genesis_hash="11" * 32), "incorrect genesis hash"),
    ("server__features", good_features(genesis_hash=None), "incorrect genesis hash"),
    ("server__features", good_features(hosts={"other.com": {}}), "not listed in own hosts list"),
    ("server__features", good_features(hosts=[LAN_HOST]), "hosts returned bad result type list"),
    ("server__features", good_features(hosts=None), "hosts returned bad result type NoneType"),
    ("server__features", [], "server.features returned bad result type list"),
    ("server__features", good_features(junk="x" * MAX_FEATURES_SIZE), "features is too large"),
    ("blockchain__headers__subscribe", None, "returned bad result type NoneType"),
    ("blockchain__headers__subscribe", {}, "bad height None"),
    ("blockchain__headers__subscribe", {"height": "100"}, "bad height 100"),
    ("blockchain__headers__subscribe", {"height": True}, "bad height True"),
    ("blockchain__headers__subscribe", {"height": 106}, "bad height 106 (ours: 100)"),
    ("blockchain__headers__subscribe", {"height": 94}, "bad height 94 (ours: 100)"),
    ("blockchain__headers__subscribe", {"height": 10**1000}, "bad height 10,000"),
    ("blockchain__block__header", header(7).hex(), "at height 90 differ"),
    ("blockchain__block__header", 5, "block.header returned bad result type int"),
    ("server__peers__subscribe", {}, "peers.subscribe returned bad result type dict"),
    ("server__peers__subscribe", [1], "bad server.peers.subscribe entry: 1"),
    ("server__peers__subscribe", [["1.2.3.4", "a.com"]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", 5, []]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", "a", "t"]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["1.2.3.4", "a", [1]]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a", ["t"] * 99]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "", ["a.com"]]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a com", []]], "bad server.peers.subscribe entry"),
    ("server__peers__subscribe", [["", "a" * 999, []]], "bad server.peers.subscribe entry"),
]


@pytest.mark.parametrize(("method", "answer", "reason"), BAD_ANSWERS)
async def test_a_peer_that_lies_is_marked_bad(make_manager, caplog, method, answer, reason):
    async with peer_server(**{method: answer}) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert f"[{LAN_HOST}:{script.port} TCP] marking bad: (" in caplog.text
        assert reason in caplog.text
        assert peer.bad
        assert await status_of(manager, LAN_HOST) == "bad"
        assert manager.on_peers_subscribe(False) == []


async def test_a_bad_peer_is_not_tried_by_its_other_ways(make_manager):
    async with peer_server(server__version="bad") as first, peer_server() as second:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{first.port}")
        peer.check_ports(Peer.from_real_name(f"{LAN_HOST} t{second.port}", "test"))
        tries = len(first.requests)
        peer.retry_event.set()
        await until(lambda: len(first.requests) > tries and is_pausing(manager, peer))

        assert second.requests == []


@pytest.mark.parametrize("difference", [-5, 5])
async def test_a_height_that_differs_a_little_is_good(make_manager, difference):
    tip = {"height": HEIGHT + difference}
    async with peer_server(blockchain__headers__subscribe=tip) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert peer.last_good


# --- Failures that are no lies


async def test_an_error_reply_is_a_failed_attempt(make_manager, caplog):
    error = RPCError(7, "no\nway " + "y" * 1000)
    async with peer_server(server__features=error) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert not peer.bad
        assert peer.try_count == 1
        assert f"[{LAN_HOST}:{script.port} TCP] RPC error: no\\nway yyy" in caplog.text
        assert "y" * 200 not in caplog.text


def malformed_reply(error):
    def answer(line):
        request_id = json.loads(line)["id"]
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"

    return answer


RUBBISH = {
    "error is a text": malformed_reply("oops"),
    "error is null": malformed_reply(None),
    "error has a bad code": malformed_reply({"code": "x", "message": []}),
    "not JSON": lambda line: b"rubbish\n",
    "not UTF-8": lambda line: b"\xff\xfe\n",
    "nested deeply": lambda line: b"[" * 100_000 + b"\n",
    "huge number": lambda line: b'{"jsonrpc":"2.0","id":' + b"9" * 10_000 + b"}\n",
    "unsortable batch": lambda line: (
        json.dumps([{"jsonrpc": "2.0", "id": i, "result": 1} for i in (0, "a", None)]).encode()
        + b"\n"
    ),
    "one endless line": lambda line: b"x" * 3_000_000,
    "many requests": lambda line: b'{"jsonrpc":"2.0","id":1,"method":"x"}\n' * 2000,
    "nothing": lambda line: b"",
}


@pytest.mark.parametrize("answer", RUBBISH.values(), ids=RUBBISH)
async def test_rubbish_is_a_failed_attempt_and_harms_no_other_peer(make_manager, answer):
    async with raw_server(answer) as port, peer_server("127.0.0.2") as honest:
        manager = make_manager(request_timeout=0.3)
        rubbish_peer = await add(manager, f"{LAN_HOST} t{port}")
        # However busy the machine is
        manager.request_timeout = 60.0
        honest_peer = await add(manager, f"127.0.0.2 t{honest.port}")

        assert not rubbish_peer.last_good
        assert rubbish_peer in manager.peers
        assert honest_peer.last_good


async def test_a_peer_that_is_slow_is_a_failed_attempt(make_manager, caplog):
    async with peer_server(blockchain__headers__subscribe=HANG) as script:
        peer = await add(make_manager(request_timeout=0.2), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)
        assert f"[{LAN_HOST}:{script.port} TCP] task timed out" in caplog.text


async def test_a_peer_that_never_finishes_tls_is_a_failed_attempt(make_manager):
    async with raw_server(lambda line: b"") as port:
        peer = await add(make_manager(request_timeout=0.05), f"{LAN_HOST} s{port}")

        assert (peer.bad, peer.try_count) == (False, 1)


@pytest.mark.parametrize("method", ["server__features", "server__peers__subscribe"])
async def test_a_connection_lost_later_is_a_failed_attempt(make_manager, method):
    async with peer_server(**{method: HANG_UP}) as script:
        peer = await add(make_manager(), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)


async def test_a_closed_port_is_a_failed_attempt(make_manager):
    manager = make_manager()
    peer = await add(manager, f"{LAN_HOST} t{free_port()}")

    assert (peer.bad, peer.try_count) == (False, 1)
    assert await status_of(manager, LAN_HOST) == "never"


async def test_our_own_fault_is_logged_and_a_failed_attempt(make_manager, caplog):
    class BrokenDB(FakeDB):
        async def raw_header(self, height):
            raise RuntimeError("disk on fire")

    async with peer_server() as script:
        peer = await add(make_manager(db=BrokenDB()), f"{LAN_HOST} t{script.port}")

        assert (peer.bad, peer.try_count) == (False, 1)
        assert "unexpected error" in caplog.text
        assert "disk on fire" in caplog.text


@pytest.mark.parametrize(
    ("was_good", "bad", "tries"), [(False, False, 3), (True, False, 10), (True, True, 3)]
)
async def test_a_peer_is_forgotten_after_some_failures(make_manager, caplog, was_good, bad, tries):
    async with peer_server(server__version="bad" if bad else RPCError(1, "x")) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")
        peer.last_good = 1.0 if was_good else 0
        for count in range(1, tries):
            await until(lambda count=count: peer.try_count == count and is_pausing(manager, peer))
            assert peer in manager.peers
            peer.retry_event.set()
        await until(lambda: peer not in manager.peers)

        assert peer.try_count == tries
        assert f"forgetting {'bad' if bad else 'unreachable'} peer: {LAN_HOST}" in caplog.text
        await until(lambda: not manager.tasks)


# --- Peers that others report, and our registration


async def test_few_of_the_reported_peers_are_taken(make_manager):
    reported = [["", f"host{n}.invalid", ["t1"]] for n in range(5000)]
    async with peer_server(server__peers__subscribe=reported) as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        assert len(manager.peers) == 3


async def test_reported_peers_are_verified_in_turn(make_manager):
    async with peer_server("127.0.0.2") as second:
        reported = [
            ["127.0.0.2", "127.0.0.2", ["v1.4", f"t{second.port}"]],
            ["127.0.0.2", "127.0.0.2", ["v1.4", "t9"]],
            ["", "not-a-host!", []],
            ["", "abcdef.onion", ["t"]],
        ]
        async with peer_server(server__peers__subscribe=reported) as first:
            manager = make_manager()
            await add(manager, f"{LAN_HOST} t{first.port}")
            await until(lambda: manager.info()["good"] == 2)

            assert {peer.host for peer in manager.peers} == {LAN_HOST, "127.0.0.2"}


OURSELF = "tcp://127.0.0.9:5000"


@pytest.mark.parametrize(
    ("reported", "settings", "registered"),
    [
        ([], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000"]]], {}, False),
        ([["127.0.0.9", "127.0.0.9", ["t5001"]]], {}, True),
        ([["127.0.0.9", "127.0.0.9", ["t5000", "s1"]]], {}, True),
        ([], {"peer_announce": False}, False),
        ([], {"report_services": []}, False),
        ([], {"report_services": [Service.from_string("tcp://abc.onion:5")]}, False),
    ],
)
async def test_we_register_with_peers_that_do_not_know_us(
    make_manager, reported, settings, registered
):
    async with peer_server(server__peers__subscribe=reported) as script:
        manager = make_manager(make_env(report=[OURSELF], **settings))
        peer = await add(manager, f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        sent = [args for method, args in script.requests if method == "server.add_peer"]
        assert len(sent) == registered
        if registered:
            assert sent[0][0]["hosts"] == {"127.0.0.9": {"tcp_port": 5000}}


async def test_a_refusal_to_add_us_does_not_count_against_a_peer(make_manager):
    async with peer_server(server__add_peer=RPCError(1, "too busy")) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.last_good


async def test_hanging_up_at_add_peer_is_bad(make_manager, caplog):
    async with peer_server(server__add_peer=HANG_UP) as script:
        peer = await add(make_manager(make_env(report=[OURSELF])), f"{LAN_HOST} t{script.port}")

        assert peer.bad
        assert "terminated before server.add_peer response" in caplog.text


async def test_we_do_not_register_when_we_are_not_public(make_manager):
    async with peer_server() as script:
        manager = make_manager(
            make_env(report=[OURSELF]), is_public=lambda peer: peer.host == LAN_HOST
        )
        await add(manager, f"{LAN_HOST} t{script.port}")

        assert "server.add_peer" not in script.methods()


# --- Where we connect from


@pytest.mark.parametrize(
    ("services", "source"),
    [
        (["tcp://127.0.0.7:50001"], "127.0.0.7"),
        (["tcp://[::1]:50001", "ssl://127.0.0.8:50002"], "127.0.0.8"),
        (["tcp://[::1]:50001"], LAN_HOST),
        (["rpc://127.0.0.7:8000", "tcp://0.0.0.0:1", "tcp://all_interfaces:2"], LAN_HOST),
    ],
)
async def test_connections_come_from_our_service_address_of_the_same_family(
    make_manager, services, source
):
    async with peer_server() as script:
        peer = await add(make_manager(make_env(services=services)), f"{LAN_HOST} t{script.port}")

        assert peer.last_good
        assert script.clients == [source]


async def test_a_loopback_service_address_is_not_used_for_hosts_elsewhere(make_manager):
    manager = make_manager(make_env(services=["tcp://127.0.0.1:1", "tcp://192.0.2.1:2"]))
    elsewhere = Peer.from_real_name("example.com", "test")
    here = Peer.from_real_name("127.0.0.3", "test")

    assert manager.local_host_for(elsewhere, socket.AF_INET) == "192.0.2.1"
    assert manager.local_host_for(elsewhere, socket.AF_INET6) is None
    assert manager.local_host_for(here, socket.AF_INET) == "127.0.0.1"


# --- Peers among themselves


async def test_one_good_peer_for_each_address(make_manager, caplog):
    async with peer_server() as first, peer_server("localhost", listen_host=LAN_HOST) as second:
        manager = make_manager()
        good = await add(manager, f"{LAN_HOST} t{first.port}")
        late = await add(manager, f"localhost t{second.port}")

        assert (good.bad, late.bad) == (False, True)
        assert f"too many peers already in bucket {LAN_HOST}/32" in caplog.text


async def test_peers_verified_at_the_same_moment_do_not_share_a_bucket(make_manager):
    async with peer_server() as first, peer_server("localhost", listen_host=LAN_HOST) as second:
        manager = make_manager()
        await manager.add_localRPC_peer(f"{LAN_HOST} t{first.port}")
        await manager.add_localRPC_peer(f"localhost t{second.port}")
        await until(lambda: len(first.requests) >= 5 and len(second.requests) >= 5)
        await until(lambda: all(is_tried(manager, peer) for peer in manager.peers))

        assert manager.info()["good"] == 1


async def test_peers_of_unknown_address_share_no_bucket(make_manager):
    manager = make_manager()
    for name in ("a.com", "b.com"):
        peer = Peer.from_real_name(name, "test")
        manager.peers.add(peer)
        manager.peer_set.mark_verified(peer)

    manager.peer_set.check_bucket(Peer.from_real_name("c.com", "test"))


@pytest.mark.parametrize(
    ("onion", "clearnet", "allowed"), [(99, 0, True), (101, 99, False), (100, 100, True)]
)
def test_onion_peers_stay_a_minority_once_they_are_many(onion, clearnet, allowed):
    manager = PeerManager(make_env(), FakeDB())
    for n in range(onion):
        note_good(manager, f"host{n}.onion")
    for n in range(clearnet):
        note_good(manager, f"host{n}.com", f"8.8.{n}.1")
    newcomer = Peer.from_real_name("new.onion", "test")

    if allowed:
        manager.peer_set.check_bucket(newcomer)
    else:
        with pytest.raises(BadPeerError, match="too many onion peers already"):
            manager.peer_set.check_bucket(newcomer)


async def test_a_verified_name_replaces_its_bare_address(make_manager):
    async with peer_server("localhost", listen_host=LAN_HOST) as script:
        manager = make_manager()
        by_address = await add(manager, f"{LAN_HOST} t{free_port()}")
        named = await add(manager, f"localhost t{script.port}")

        assert manager.peers == {named}
        await until(lambda: len(manager.tasks) == 1)
        assert by_address not in manager.peers


async def test_a_bare_address_gives_way_to_a_known_name(make_manager):
    async with peer_server() as script:
        manager = make_manager()
        named = await add(manager, f"example.invalid t{free_port()}")
        named.ip_addr = LAN_HOST
        # Known by name already, so it can only have come before the name.
        by_address = Peer.from_real_name(f"{LAN_HOST} t{script.port}", "test")
        by_address.retry_event = asyncio.Event()
        manager.peers.add(by_address)
        await manager.monitor_peer(by_address)

        assert manager.peers == {named}


async def test_a_known_peer_with_other_ports_is_tried_at_once(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{free_port()}")
        await manager.add_localRPC_peer(f"{LAN_HOST} t{script.port}")
        await until(lambda: peer.last_good)

        assert f"ports changed for {LAN_HOST}" in caplog.text
        assert len(manager.peers) == 1
        assert peer.tcp_port == script.port


async def test_useless_peers_are_not_noted(make_manager):
    manager = make_manager(is_public=lambda peer: peer.is_public)
    for real_name in ("127.0.0.1 t1", "localhost t1", "abc.onion t1", "", "no:host t1"):
        await manager.add_localRPC_peer(real_name)

    assert manager.peers == set()


# --- Discovery


@contextlib.asynccontextmanager
async def discovering(manager):
    task = asyncio.ensure_future(manager.discover_peers())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The library leaves the sockets of failed proxy connections to the collector.
        gc.collect()


ignore_proxy_sockets = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@ignore_proxy_sockets
async def test_discovery_verifies_ourselves_and_the_hard_coded_peers(make_manager):
    async with peer_server() as ourself, peer_server("127.0.0.2") as other:
        env = make_env(
            report=[f"tcp://{LAN_HOST}:{ourself.port}"], peers=[f"127.0.0.2 t{other.port}"]
        )
        manager = make_manager(env)
        async with discovering(manager):
            await until(lambda: manager.info()["good"] == 2)

            assert manager.on_peers_subscribe(False)[0][0] == LAN_HOST
            assert "server.add_peer" not in ourself.methods()
            assert "server.add_peer" in other.methods()
        assert not manager.tasks


@pytest.mark.parametrize("setting", ["OFF", "SELF"])
async def test_without_discovery_nothing_is_started(make_manager, caplog, setting):
    manager = make_manager(make_env(report=[OURSELF], peers=["a.com t"], peer_discovery=setting))
    await manager.discover_peers()

    assert manager.info()["total"] == 0
    assert f"peer discovery: {setting}" in caplog.text
    assert "peer discovery is disabled" in caplog.text
    assert not await manager.on_add_peer({"hosts": {"8.8.8.8": {}}}, "8.8.8.8")


def test_discovery_off_answers_with_the_hard_coded_peers():
    manager = PeerManager(
        make_env(report=[OURSELF], peers=["a.com s t", "b.com t99"], peer_discovery="OFF"),
        FakeDB(),
    )
    assert manager.on_peers_subscribe(False) == [
        ("a.com", "a.com", ["v0.0", "s50002", "t50001"]),
        ("b.com", "b.com", ["v0.0", "t99"]),
    ]


def test_discovery_self_answers_with_ourselves():
    env = make_env(
        report=[OURSELF, "ssl://127.0.0.9:5001", "tcp://abc.onion:7"],
        peers=["a.com t"],
        peer_discovery="SELF",
    )
    assert PeerManager(env, FakeDB()).on_peers_subscribe(False) == [
        ("127.0.0.9", "127.0.0.9", ["v1.4.2", "s5001", "t5000"]),
        ("abc.onion", "abc.onion", ["v1.4.2", "t7"]),
    ]


@ignore_proxy_sockets
async def test_discovery_outlives_its_parts(make_manager, caplog):
    async with peer_server() as script:
        manager = make_manager()
        manager.hard_coded_peers = None
        async with discovering(manager) as task:
            await until(lambda: "peer import failed" in caplog.text)
            peer = await add(manager, f"{LAN_HOST} t{script.port}")

            assert peer.last_good
            assert not task.done()


# --- Bans


async def test_a_peer_that_was_banned_is_neither_connected_to_nor_reported(make_manager, caplog):
    bans = BanList()
    async with peer_server() as script:
        manager = make_manager(is_banned=bans.is_banned)
        peer = await add(manager, f"{LAN_HOST} t{script.port}")
        assert peer.last_good
        bans.add(parse_network(LAN_HOST), None)
        manager.retry_banned()
        await until(lambda: peer.bad)

        assert f"marking bad: (address {LAN_HOST} is banned)" in caplog.text
        assert manager.on_peers_subscribe(False) == []
        assert len(script.clients) == 1


async def test_a_name_is_connected_to_at_its_addresses_that_are_not_banned(make_manager, caplog):
    bans = BanList()
    bans.add(parse_network("203.0.113.0/24"), None)
    names = Names(some_host_com=["203.0.113.7", LAN_HOST], other_host_com=["203.0.113.8"])
    async with peer_server(host="some.host.com", listen_host=LAN_HOST) as script:
        manager = make_manager(is_banned=bans.is_banned, names=names)
        peer = await add(manager, f"some.host.com t{script.port}")
        assert peer.last_good
        other = await add(manager, f"other.host.com t{script.port}")
        assert other.bad
        assert "(address 203.0.113.8 is banned)" in caplog.text


# --- The blacklist


@contextlib.asynccontextmanager
async def web_server(body, status=200):
    async def respond(request):
        return web.Response(text=body, status=status)

    app = web.Application()
    app.router.add_get("/list.json", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, LAN_HOST, 0)
    await site.start()
    try:
        yield f"http://{LAN_HOST}:{runner.addresses[0][1]}/list.json"
    finally:
        await runner.cleanup()


@ignore_proxy_sockets
async def test_a_blacklist_is_fetched_and_its_peers_are_tried_again(make_manager, caplog):
    async with peer_server() as script:
        async with web_server(json.dumps([LAN_HOST, "*.Evil.Com", "x.ORG"])) as url:
            manager = make_manager(make_env(blacklist_url=url))
            peer = await add(manager, f"{LAN_HOST} t{script.port}")
            assert peer.last_good
            async with discovering(manager):
                await until(lambda: peer.bad)

        assert f"blacklist from {url} has 3 entries" in caplog.text
        assert "marking bad: (blacklisted)" in caplog.text
        assert manager.on_peers_subscribe(False) == []


@ignore_proxy_sockets
@pytest.mark.parametrize(
    ("body", "status"),
    [("{}", 200), ("rubbish", 200), ("[1]", 200), ("[" * 99_999, 200), ("[]", 404)],
)
async def test_an_old_blacklist_outlasts_a_failed_refresh(make_manager, caplog, body, status):
    async with web_server(body, status) as url:
        manager = make_manager(make_env(blacklist_url=url))
        manager.peer_set.blacklist = {"old.com"}
        async with discovering(manager):
            await until(lambda: "could not retrieve blacklist" in caplog.text)

        assert manager.peer_set.blacklist == {"old.com"}


@ignore_proxy_sockets
async def test_a_huge_blacklist_is_refused(make_manager, caplog):
    async with web_server(json.dumps(["x" * 2_000_000])) as url:
        async with discovering(make_manager(make_env(blacklist_url=url))):
            await until(lambda: "could not retrieve blacklist" in caplog.text)

        assert "over 1,000,000 bytes" in caplog.text


def test_blacklist_entries_are_lower_case_texts():
    assert parse_blacklist('["A.com", "*.B.org"]') == {"a.com", "*.b.org"}
    with pytest.raises(ValueError, match="not a list of texts"):
        parse_blacklist('["a", null]')


@pytest.mark.parametrize(
    ("entry", "is_listed"),
    [
        ("www.evil.com", True),
        ("*.evil.com", True),
        ("6.6.6.6", True),
        ("evil.com", False),
        ("*.com", False),
    ],
)
def test_the_blacklist_knows_names_domains_and_addresses(entry, is_listed):
    manager = PeerManager(make_env(), FakeDB())
    manager.peer_set.blacklist = {entry}
    peer = Peer.from_real_name("WWW.Evil.com", "test")
    peer.ip_addr = "6.6.6.6"

    assert manager.peer_set.is_blacklisted(peer) == is_listed


# --- The proxy


class SocksProxy:
    """A SOCKS5 proxy that leads every name to one local port, and notes what it was asked."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.asked = []
        self.tasks = set()

    async def serve(self, reader, writer):
        greeting = await reader.read(2)
        if len(greeting) < 2:
            # A connection that only checks whether the port is open.
            writer.close()
            return
        count = greeting[1]
        await reader.readexactly(count)
        writer.write(b"\5\0")
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            size = (await reader.readexactly(1))[0]
            host = (await reader.readexactly(size)).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        await reader.readexactly(2)
        self.asked.append(host)
        if host == "8.8.8.8":
            writer.write(b"\5\1\0\1" + bytes(6))
            writer.close()
            return
        writer.write(b"\5\0\0\1" + bytes(6))
        peer_reader, peer_writer = await asyncio.open_connection(LAN_HOST, self.target_port)
        await asyncio.gather(self.pump(reader, peer_writer), self.pump(peer_reader, writer))

    async def pump(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def socks_proxy(target_port):
    proxy = SocksProxy(target_port)
    server = await asyncio.start_server(proxy.serve, LAN_HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


@ignore_proxy_sockets
async def test_onion_peers_are_verified_through_a_detected_proxy(make_manager, caplog):
    async with (
        peer_server("abc.onion", listen_host=LAN_HOST) as script,
        socks_proxy(script.port) as proxy,
    ):
        # A name that may have more addresses than the proxy listens on.
        env = make_env(
            tor_proxy_host="localhost",
            tor_proxy_port=proxy.port,
            peers=[f"abc.onion t{script.port}"],
        )
        manager = make_manager(env)
        assert manager.proxy_address() is None
        async with discovering(manager):
            await until(lambda: manager.info()["good"] == 1)

            assert manager.proxy_address() == LAN_HOST
            assert "abc.onion" in proxy.asked
            (peer,) = manager.peers
            assert peer.ip_addr is None
            assert manager.on_peers_subscribe(True)[0][1] == "abc.onion"
        assert "detected SOCKS5 proxy" in caplog.text


@ignore_proxy_sockets
async def test_a_forced_proxy_is_used_for_clearnet_peers_once_there_is_one(make_manager):
    async with peer_server() as script, socks_proxy(script.port) as proxy:
        env = make_env(tor_proxy_port=proxy.port, force_proxy=True)
        manager = make_manager(env)
        await manager.add_localRPC_peer(f"{LAN_HOST} t{script.port}")
        (peer,) = manager.peers
        await until(lambda: peer in manager.pausing)
        # Waiting for a proxy is not a try, however often.
        for _ in range(3):
            peer.retry_event.set()
            await until(lambda: not peer.retry_event.is_set() and peer in manager.pausing)
        assert (peer.try_count, script.clients) == (0, [])

        async with discovering(manager):
            await until(lambda: peer.last_good)
            assert LAN_HOST in proxy.asked
            assert peer.ip_addr == LAN_HOST


@ignore_proxy_sockets
async def test_no_proxy_is_looked_for_again_later(make_manager, caplog):
    manager = make_manager(make_env(tor_proxy_port=free_port()))
    async with discovering(manager):
        await until(lambda: "no proxy detected, will try later" in caplog.text)

    assert manager.proxy_address() is None


@ignore_proxy_sockets
async def test_a_senseless_proxy_host_does_no_harm(make_manager, caplog):
    manager = make_manager(make_env(tor_proxy_host="not a host"))
    async with discovering(manager):
        await until(lambda: "no proxy detected, will try later" in caplog.text)

    assert "proxy detection failed" in caplog.text


# --- Peers reported to clients


def note_good(manager, host, ip_addr=None):
    peer = Peer.from_real_name(f"{host} t1", "test")
    peer.ip_addr = ip_addr
    manager.peers.add(peer)
    manager.peer_set.mark_verified(peer)
    return peer


@pytest.mark.parametrize(
    ("clearnet", "is_tor", "onion"),
    [(0, False, 10), (8, False, 10), (60, False, 15), (60, True, 50)],
)
def test_clients_get_few_onion_peers_unless_they_are_on_tor(clearnet, is_tor, onion):
    manager = PeerManager(make_env(), FakeDB())
    for n in range(clearnet):
        note_good(manager, f"host{n}.com", f"8.{n}.1.1")
    for n in range(70):
        note_good(manager, f"host{n}.onion")
    hosts = [host for _, host, _ in manager.on_peers_subscribe(is_tor)]

    assert len(hosts) == len(set(hosts)) == clearnet + onion
    assert sum(host.endswith(".onion") for host in hosts) == onion


def test_clients_get_two_peers_of_a_network():
    manager = PeerManager(make_env(), FakeDB())
    for n in range(5):
        note_good(manager, f"a{n}.com", f"8.8.{n}.1")
        note_good(manager, f"b{n}.com", f"2600:1:2:{n}::1")
    note_good(manager, "c.com", "8.9.0.1")
    hosts = [host for _, host, _ in manager.on_peers_subscribe(False)]

    assert sorted(host[0] for host in hosts) == ["a", "a", "b", "b", "c"]


def test_clients_get_only_recent_good_public_peers_that_are_not_blacklisted():
    clock = Clock()
    manager = PeerManager(make_env(), FakeDB(), clock=clock)
    for host in ("never.com", "stale.com", "bad.com", "listed.com", "10.0.0.1", "good.com"):
        note_good(manager, host)
    by_host = {peer.host: peer for peer in manager.peers}
    by_host["never.com"].last_good = 0
    by_host["stale.com"].last_good = clock.now - STALE_SECS
    by_host["good.com"].last_good = clock.now - STALE_SECS + 1
    by_host["bad.com"].mark_bad()
    manager.peer_set.blacklist = {"listed.com"}

    assert [host for _, host, _ in manager.on_peers_subscribe(False)] == ["good.com"]
    assert manager.info() == {"bad": 1, "good": 3, "never": 1, "stale": 1, "total": 6}


async def test_rpc_data_shows_every_peer_sorted(make_manager):
    clock = Clock()
    manager = make_manager(clock=clock)
    for host, age in (("old.com", 50), ("new.com", 1), ("worst.com", 0)):
        note_good(manager, host, "8.8.8.8").last_good -= age
    next(peer for peer in manager.peers if peer.host == "worst.com").mark_bad()
    rows = await manager.rpc_data()

    assert [(row["host"], row["status"]) for row in rows] == [
        ("new.com", "good"),
        ("old.com", "good"),
        ("worst.com", "bad"),
    ]
    assert set(rows[0]) == {*Peer.ATTRS, "status"}
    assert json.loads(json.dumps(rows)) == rows


# --- Requests to add a peer


def features_of(*hosts):
    return {"hosts": {host: {"tcp_port": 1} for host in hosts}}


@pytest.fixture
def clock():
    return Clock()


async def test_a_host_that_resolves_to_its_asker_is_accepted(make_manager, clock, caplog):
    names = Names(www_a_com=["8.8.8.8", "9.9.9.9"])
    manager = make_manager(resolver=names, clock=clock)

    assert await manager.on_add_peer(features_of("www.a.com", "b.com"), "9.9.9.9") is True
    assert [peer.host for peer in manager.peers] == ["www.a.com"]
    assert "accepted add_peer request from 9.9.9.9 for www.a.com" in caplog.text
    assert "accepted new peer www.a.com from 9.9.9.9" in caplog.text


async def test_addresses_of_clients_are_not_logged_if_that_is_forbidden(make_manager, caplog):
    names = Names(a_com=["9.9.9.9"])
    manager = make_manager(make_env(anon_logs=True), resolver=names)

    assert await manager.on_add_peer(features_of("a.com"), "9.9.9.9")
    assert not await manager.on_add_peer(features_of("b.com"), "9.9.9.9")
    assert "9.9.9.9" not in caplog.text


@pytest.mark.parametrize(
    ("host", "source", "reason"),
    [
        ("a.com", "9.9.9.9", "source-destination mismatch"),
        ("unknown.com", "8.8.8.8", "address resolution failure"),
    ],
)
async def test_a_host_that_is_not_its_asker_is_rejected(make_manager, caplog, host, source, reason):
    manager = make_manager(resolver=Names(a_com=["8.8.8.8"]))

    assert await manager.on_add_peer(features_of(host), source) is False
    assert f"rejected add_peer request from {source} for {host} ({reason})" in caplog.text
    assert manager.peers == set()


@pytest.mark.parametrize("source", [None, ""])
async def test_a_request_from_nowhere_is_ignored(make_manager, source):
    names = Names(a_com=["8.8.8.8"])

    assert await make_manager(resolver=names).on_add_peer(features_of("a.com"), source) is False
    assert names.questions == 0


@pytest.mark.parametrize("features", [None, {}, features_of(), features_of("not a host!")])
async def test_a_request_without_usable_host_is_ignored(make_manager, features, caplog):
    names = Names()

    assert await make_manager(resolver=names).on_add_peer(features, "8.8.8.8") is False
    assert names.questions == 0
    assert "no usable host" in caplog.text


async def test_a_domain_has_one_turn_in_ten_minutes(make_manager, clock):
    names = Names(x_a_com=["8.8.8.8"], y_A_com=["8.8.8.8"], b_com=["8.8.8.8"])
    manager = make_manager(resolver=names, clock=clock)

    assert await manager.on_add_peer(features_of("x.a.com"), "8.8.8.8")
    assert not await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")
    assert names.questions == 1
    assert await manager.on_add_peer(features_of("b.com"), "8.8.8.8")
    clock.now += PEER_ADD_PAUSE
    assert not await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")
    clock.now += 1
    assert await manager.on_add_peer(features_of("y.A.com"), "8.8.8.8")


async def test_a_rejected_request_does_not_use_up_the_turn_of_a_domain(make_manager, clock):
    manager = make_manager(resolver=Names(a_com=["8.8.8.8"]), clock=clock)

    assert not await manager.on_add_peer(features_of("a.com"), "6.6.6.6")
    assert await manager.on_add_peer(features_of("a.com"), "8.8.8.8")


async def test_requests_that_resolve_at_the_same_time_share_one_turn(make_manager, clock):
    names = Names(x_a_com=["8.8.8.8"], y_a_com=["8.8.8.8"])
    manager = make_manager(resolver=names, clock=clock)
    answers = await asyncio.gather(
        *(manager.on_add_peer(features_of(host), "8.8.8.8") for host in ("x.a.com", "y.a.com"))
    )
    assert sorted(answers) == [False, True] or names.questions == 1
    assert len(manager.peers) == 1


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (LAN_HOST, "127.0.255.2", "127.1.0.1"),
        ("fd00:1::1", "fd00:1:ffff::1", "fd00:2::1"),
    ],
)
async def test_addresses_of_one_network_share_a_turn(make_manager, clock, first, same, other):
    manager = make_manager(clock=clock, request_timeout=0.1)

    assert await manager.on_add_peer(features_of(first), first)
    assert not await manager.on_add_peer(features_of(same), same)
    assert await manager.on_add_peer(features_of(other), other)


async def test_onion_peers_are_accepted_now_and_then(make_manager, clock, caplog):
    manager = make_manager(clock=clock)

    assert await manager.on_add_peer(features_of("a.onion"), LAN_HOST)
    rules = manager.add_peer_rules
    assert clock.now <= rules.permit_onion_peer_time < clock.now + 2 * PEER_ADD_PAUSE
    rules.permit_onion_peer_time = clock.now + 5
    assert not await manager.on_add_peer(features_of("b.onion"), LAN_HOST)
    assert "for b.onion (rate limiting)" in caplog.text
    clock.now += 5
    assert await manager.on_add_peer(features_of("b.onion"), LAN_HOST)


async def test_a_verified_peer_does_not_lift_the_rate_limit(make_manager, clock):
    async with peer_server() as script:
        manager = make_manager(resolver=Names(a_com=["8.8.8.8"]), clock=clock)
        manager.add_peer_rules.recent_peer_adds["ancient.com"] = clock.now - PEER_ADD_PAUSE - 1
        manager.add_peer_rules.recent_peer_adds["a.com"] = clock.now - 5
        await add(manager, f"{LAN_HOST} t{script.port}")

        assert manager.add_peer_rules.recent_peer_adds == {"a.com": clock.now - 5}
        assert not await manager.on_add_peer(features_of("a.com"), "8.8.8.8")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(features=json_values | hostile_features, source=st.none() | st.text(max_size=20))
def test_hostile_requests_to_add_a_peer_are_answered(features, source):
    async def ask():
        manager = PeerManager(make_env(), FakeDB(), resolver=Names())
        answer = await manager.on_add_peer(features, source)
        await manager.stop()
        return answer

    assert asyncio.run(ask()) in (True, False)


async def test_the_system_resolves_names_in_threads_of_its_own():
    resolver = ThreadResolver()

    assert LAN_HOST in await resolver(LAN_HOST)
    for host in ("a" * 300 + ".com", "no such name", "\0"):
        with pytest.raises(OSError):
            await resolver(host)


# --- Conversations


@pytest.mark.parametrize(
    ("result", "instance", "is_good"),
    [([], list, True), ({}, list, False), (1, int, True), (True, int, False), (None, str, False)],
)
def test_assert_good_is_about_types(result, instance, is_good):
    if is_good:
        assert_good("x", result, instance)
    else:
        with pytest.raises(BadPeerError, match=r"^method returned bad result type"):
            assert_good("method", result, instance)


def test_quoted_texts_are_short_printable_ascii():
    assert quoted("plain") == "plain"
    assert quoted("a\nb\x1b[31mé\ud800") == "a\\nb\\x1b[31m\\xe9\\ud800"
    assert quoted("x" * 10**6) == "x" * 100 + "..."
    assert quoted(["x" * 10**6]) == "a large list"
    assert quoted({"a": 1}) == "{'a': 1}"


async def test_a_task_that_cancels_itself_is_a_lost_connection():
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(PeerConnectionLostError):
        await run_bounded(cancelled(), 5)


async def test_a_bounded_task_is_over_when_its_time_is():
    events = []

    async def slow():
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    with pytest.raises(asyncio.TimeoutError):
        await run_bounded(slow(), 0.01)
    assert events == ["ended"]


async def test_cancelling_a_bounded_task_cancels_what_it_runs():
    events = []

    async def slow():
        events.append("started")
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    task = asyncio.ensure_future(run_bounded(slow(), None))
    await until(lambda: events)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["started", "ended"]


async def test_the_first_failure_ends_the_others():
    events = []

    async def slow():
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("ended")

    async def fail():
        await asyncio.sleep(0)
        raise BadPeerError("liar")

    with pytest.raises(BadPeerError, match="liar"):
        await run_together(slow(), fail(), slow())
    assert events == ["ended", "ended"]


async def test_a_name_that_leads_into_a_private_network_is_bad(make_manager, monkeypatch, caplog):
    """No byte is sent to the program that listens there."""
    async with peer_server(listen_host=LAN_HOST, host="stranger.example") as script:
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **kwargs: resolve(
                LAN_HOST if host == "stranger.example" else host, *args, **kwargs
            ),
        )
        manager = make_manager(is_public=lambda peer: peer.host != LAN_HOST)
        peer = await add(manager, f"stranger.example v1.4 t{script.port}")
        assert peer.bad
        assert script.requests == []
        assert "marking bad: (address 127.0.0.1 is not public)" in caplog.text
        # Our own name may: we serve from there.
        report = [f"tcp://stranger.example:{script.port}"]
        manager = make_manager(
            make_env(report=report), is_public=lambda peer: peer.host != LAN_HOST
        )
        manager.note_peers(manager.myselves, limit=None)
        await until(lambda: manager.myselves[0].last_good)


# --- Names of strangers


async def test_slow_name_servers_keep_no_other_thread_busy(make_manager, monkeypatch):
    """The threads that write blocks are few, and strangers choose the names."""
    over = threading.Event()

    def getaddrinfo(host, *_args, **_kwargs):
        over.wait()
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    manager = make_manager()
    try:
        for n in range(60):
            await manager.add_localRPC_peer(f"slow{n}.example t50001 s50002")
        await until(lambda: all(peer.last_try for peer in manager.peers))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "written"), 120) == "written"
    finally:
        over.set()


async def test_a_name_with_many_addresses_is_tried_at_a_few(make_manager, caplog):
    port = free_port()
    addresses = [f"127.0.1.{n}" for n in range(1, 200)] + ["::1"] * 200
    manager = make_manager(names=Names(many_example=addresses))
    tried = []
    connect = asyncio.get_running_loop().create_connection

    async def note(factory, host, *args, **kwargs):
        tried.append(host)
        return await connect(factory, host, *args, **kwargs)

    asyncio.get_running_loop().create_connection = note
    try:
        peer = await add(manager, f"many.example t{port}")
    finally:
        del asyncio.get_running_loop().create_connection
    assert peer.try_count == 1
    assert tried == ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "::1"]


async def test_a_name_without_addresses_is_a_failed_attempt(make_manager):
    manager = make_manager(names=Names(none_example=[]))
    peer = await add(manager, f"none.example t{free_port()}")
    assert (peer.try_count, peer.bad) == (1, False)


async def test_the_next_address_of_a_name_is_tried_when_one_does_not_answer(make_manager):
    async with peer_server("two.example", listen_host=LAN_HOST) as script:
        addresses = ["127.0.0.77", LAN_HOST]
        manager = make_manager(names=Names(two_example=addresses))
        peer = await add(manager, f"two.example t{script.port}")
        assert peer.last_good
        assert peer.ip_addr == LAN_HOST


async def test_private_addresses_of_a_strangers_name_are_not_connected_to(make_manager, caplog):
    async with peer_server("mixed.example", listen_host=LAN_HOST) as script:
        names = Names(mixed_example=["127.0.0.2", "::1", LAN_HOST], hidden_example=["127.0.0.2"])
        manager = make_manager(
            names=names, is_public=lambda peer: peer.host not in ("127.0.0.2", "::1")
        )
        peer = await add(manager, f"mixed.example t{script.port}")
        assert peer.last_good
        assert peer.ip_addr == LAN_HOST
        # No server listens there: it is bad without a request.
        peer = await add(manager, f"hidden.example t{free_port()}")
        assert peer.bad
        assert "marking bad: (address 127.0.0.2 is not public)" in caplog.text


async def test_a_tls_peer_gets_the_name_that_it_is_reached_by(make_manager, tls_context):
    asked = []
    tls_context.sni_callback = lambda _ssl, name, _context: asked.append(name)
    try:
        async with peer_server("named.example", listen_host=LAN_HOST, tls=tls_context) as script:
            manager = make_manager(names=Names(named_example=[LAN_HOST]))
            peer = await add(manager, f"named.example s{script.port}")
            assert peer.last_good
    finally:
        tls_context.sni_callback = None
    assert asked == ["named.example"]


@ignore_proxy_sockets
async def test_a_forced_proxy_is_given_addresses_and_tls_the_name(make_manager, tls_context):
    asked = []
    tls_context.sni_callback = lambda _ssl, name, _context: asked.append(name)
    try:
        async with (
            peer_server("named.example", listen_host=LAN_HOST, tls=tls_context) as script,
            socks_proxy(script.port) as proxy,
        ):
            env = make_env(tor_proxy_port=proxy.port, force_proxy=True)
            manager = make_manager(env, names=Names(named_example=["127.0.0.9"]))
            async with discovering(manager):
                await until(lambda: manager.proxy)
                peer = await add(manager, f"named.example s{script.port}")
                assert peer.last_good
                assert peer.ip_addr == "127.0.0.9"
            assert "127.0.0.9" in proxy.asked
            assert "named.example" not in proxy.asked
    finally:
        tls_context.sni_callback = None
    assert asked == ["named.example"]


# --- A clock that is set


async def test_a_clock_set_back_lifts_no_peer_and_blocks_none_for_long(make_manager, clock):
    names = Names(a_example=["1.1.1.1"], b_example=["1.1.1.1"])
    manager = make_manager(clock=clock, resolver=names)
    clock.now += 1e9
    assert await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert await manager.on_add_peer(features_of("x.onion"), "1.1.1.1")
    peer = Peer.from_real_name("good.example", "test")
    peer.last_good = clock.now
    manager.peers.add(peer)
    clock.now -= 1e9
    assert manager.info()["good"] == 0
    assert manager.info()["stale"] == 1
    assert await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert await manager.on_add_peer(features_of("y.onion"), "1.1.1.1")
    # From here on everything is as usual.
    assert not await manager.on_add_peer(features_of("a.example"), "1.1.1.1")
    assert manager.add_peer_rules.recent_peer_adds.keys() == {"a.example", "y.onion"}


# --- The blacklist's corners


@pytest.mark.parametrize("entry", ["bad.example", "*.bad.example"])
def test_a_final_dot_does_not_hide_from_the_blacklist(entry):
    manager = PeerManager(make_env(), FakeDB())
    manager.peer_set.blacklist = {entry}
    assert manager.peer_set.is_blacklisted(Peer.from_real_name("Bad.Example.", "test"))


@ignore_proxy_sockets
async def test_a_secret_in_the_url_of_the_blacklist_is_not_logged(make_manager, caplog):
    async with web_server("[]", status=404) as url:
        secret_url = url.replace("http://", "http://operator:sesame@")
        manager = make_manager(make_env(blacklist_url=secret_url))
        async with discovering(manager):
            await until(lambda: "could not retrieve blacklist" in caplog.text)
    async with web_server("[]") as url:
        secret_url = url.replace("http://", "http://operator:sesame@")
        manager = make_manager(make_env(blacklist_url=secret_url))
        async with discovering(manager):
            await until(lambda: "has 0 entries" in caplog.text)
    assert "sesame" not in caplog.text
