"""The peer manager's world on loopback: settings, a database, servers to verify, web and proxy."""

import asyncio
import contextlib
import gc
import ipaddress
import socket
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiorpcx import RPCSession, Service, serve_rs

from electrumx.lib.peer import Peer
from electrumx.lib.util import version_string

GENESIS_HASH = "00" * 31 + "ab"
HEIGHT = 100
LAN_HOST = "127.0.0.1"
#: the address that we report as ours
OURSELF = "tcp://127.0.0.9:5000"


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


async def until(condition):
    """Return when the condition holds; fails after a minute."""
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("waited in vain")


# Replies: wait, or close the connection
HANG, HANG_UP = object(), object()


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


def note_good(manager, host, ip_addr=None):
    peer = Peer.from_real_name(f"{host} t1", "test")
    peer.ip_addr = ip_addr
    manager.peers.add(peer)
    manager.peer_set.mark_verified(peer)
    return peer


def features_of(*hosts):
    return {"hosts": {host: {"tcp_port": 1} for host in hosts}}
