"""A network of whole servers on loopback that find, lose and distrust each other.

Every server has an address in a /16 of its own and a made-up name; launcher.py gives them the
names, makes loopback public, and shortens pauses. Only one of them is known from the start.
"""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from electrumx.lib.hash import double_sha256, hash_to_hex_str
from tests.fakes.chain import GENESIS_HEADER, ChainMaker
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration import client as electrum
from tests.integration.launcher import InjectedServer
from tests.integration.server import certificate
from tests.ports import free_port, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]

HONEST = 8
SYBILS = 24
HEIGHT = 60
STALE_SECS = 16
CONSTANTS = {
    "electrumx.server.peers.visits:STALE_SECS": STALE_SECS,
    "electrumx.server.peers.peer_set:STALE_SECS": STALE_SECS,
    "electrumx.server.peers.visits:WAKEUP_SECS": 1,
    "electrumx.server.peers.visits:MAX_TRIES_ONCE_GOOD": 4,
}
# Not those of real servers: an outgoing connection of another test may have got one of them.
PORT_T, PORT_S = free_ports(2)

NODES = {f"n{k}.example": f"127.{10 + k}.0.1" for k in range(1, HONEST + 1)}
WRONG = {"wrong.example": "127.40.0.1"}
CROWD = {f"sybil{k}.example": f"127.66.{k}.1" for k in range(SYBILS)}
HOSTILE = {
    f"{what}.example": f"127.{50 + k}.0.1"
    for k, what in enumerate(
        ("genesis", "hosts", "huge", "error", "junk", "silent", "tall", "peers", "lister", "nested")
    )
}
# A name of the lister's in a network that counts as private
INNER = {"inner.example": "127.99.0.1"}
NAMES = {**NODES, **WRONG, **CROWD, **HOSTILE, **INNER}


class Scripted:
    """A peer that sends the given replies; ``requests`` counts its requests."""

    def __init__(self, name, blocks, **answers):
        self.name, self.requests = name, []
        features = {
            "hosts": {name: {"tcp_port": PORT_T}},
            "genesis_hash": hash_to_hex_str(double_sha256(GENESIS_HEADER)),
            "server_version": "Sybil 1",
            "protocol_min": "1.4",
            "protocol_max": "1.4.2",
            "hash_function": "sha256",
            "pruning": None,
        }
        self.answers = {
            "server.version": ["Sybil 1", "1.4.2"],
            "blockchain.headers.subscribe": {
                "hex": blocks[-1][:80].hex(),
                "height": len(blocks) - 1,
            },
            "blockchain.block.header": lambda height: blocks[height][:80].hex(),
            "server.features": features,
            "server.peers.subscribe": [],
            "server.add_peer": True,
        }
        for method, answer in answers.items():
            name = method.replace("__", ".")
            self.answers[name] = answer(features) if method == "server__features" else answer

    async def serve(self, reader, writer):
        try:
            while line := await reader.readline():
                request = json.loads(line)
                self.requests.append(request["method"])
                answer = self.answers[request["method"]]
                if callable(answer):
                    answer = answer(*request.get("params", ()))
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    answer = {"jsonrpc": "2.0", "id": request["id"], "result": answer}
                    writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    async def listen(self):
        return await asyncio.start_server(self.serve, NAMES[self.name], PORT_T, limit=1 << 20)


def hostile_peers(blocks):
    """The scripts of the peers that lie, babble, or keep silent."""
    odd_errors = b"".join(b'{"jsonrpc":"2.0","id":%d,"error":"o no"}\n' % n for n in range(10))
    listed = [["127.99.0.1", "inner.example", ["v1.4", f"t{PORT_T}"]]]
    return {
        "genesis.example": {"server__features": lambda f: f | {"genesis_hash": "00" * 32}},
        "hosts.example": {"server__features": lambda f: f | {"hosts": ["hosts.example"]}},
        "huge.example": {"server__features": lambda f: f | {"x": ["y" * 100] * 5_000}},
        "error.example": {"server__features": lambda _f: odd_errors},
        "junk.example": {"server.version": b"\x00\xff{" * 10_000 + b"\n"},
        "silent.example": {"server.version": b""},
        "tall.example": {
            "blockchain.headers.subscribe": {"hex": "00" * 80, "height": 10**30},
        },
        "peers.example": {"server.peers.subscribe": [["1", 2, 3], {"a": []}]},
        "lister.example": {"server.peers.subscribe": listed},
        "nested.example": {"server.peers.subscribe": lambda: b"[" * 100_000 + b"\n"},
    }


async def ask(address, method, *params, source=None):
    """The result of one request to a server's address, from an address of ours."""
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(address, PORT_T, local_addr=local, limit=1 << 22)
    client = electrum.ElectrumClient.from_streams(reader, writer)
    try:
        await client.hello()
        return await client.call(method, *params)
    finally:
        await client.close()


async def reported(address):
    """Names of the peers a server reports, with their addresses."""
    return {host: ip for ip, host, _details in await ask(address, "server.peers.subscribe")}


async def eventually(condition, what, secs=120):
    """Wait until an async condition holds."""
    deadline = asyncio.get_running_loop().time() + secs
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"no {what} within {secs} s"
        await asyncio.sleep(0.5)


class Network:
    """The servers, by name."""

    def __init__(self, folder, stopping):
        self._folder, self._stopping = folder, stopping
        self.servers = {}

    async def start(self, names, node):
        for name in names:
            address = NAMES[name]
            services = f"tcp://{address}:{PORT_T},ssl://{address}:{PORT_S}"
            cert, key = certificate()
            server = InjectedServer(
                self._folder / name,
                node.env,
                {
                    "names": NAMES,
                    "peers": [f"n1.example v1.4 s{PORT_S} t{PORT_T}"],
                    "public_but": list(INNER.values()),
                    "constants": CONSTANTS,
                },
                protocols=("rpc",),
                PEER_DISCOVERY="on",
                PEER_ANNOUNCE="1",
                BLACKLIST_URL="",
                TOR_PROXY_PORT=free_port(),
                # Names are resolved by the launcher's replacement of Python's resolver,
                # which uvloop does not ask.
                EVENT_LOOP_POLICY="asyncio",
                SSL_CERTFILE=cert,
                SSL_KEYFILE=key,
                REPORT_SERVICES=f"tcp://{name}:{PORT_T},ssl://{name}:{PORT_S}",
            )
            rpc_port = server.ports["rpc"]
            server.env["SERVICES"] = f"{services},rpc://127.0.0.1:{rpc_port}"
            self._stopping.callback(server.kill)
            self.servers[name] = server.launch()
        for name in names:
            await asyncio.to_thread(
                self.servers[name].wait_log, rf"TCP server listening on {NAMES[name]}", timeout=90
            )

    def peers(self, name):
        """Rows of a server's own table, by host."""
        return {row["host"]: row for row in self.servers[name].rpc("peers")}

    async def peers_of(self, name):
        return await asyncio.to_thread(self.peers, name)


@pytest.fixture
def chain():
    maker, tip = small_chain(HEIGHT)
    return maker.chain(tip)


async def test_servers_find_each_other_and_are_not_misled(chain, tmp_path, stopping):
    node = stopping.enter_context(NodeThread(chain))
    other = ChainMaker(seed=11)
    foreign = other.chain(other.grow(other.genesis_hash, HEIGHT))
    wrong_node = stopping.enter_context(NodeThread(foreign))
    network = Network(tmp_path, stopping)
    first = NODES["n1.example"]

    async with AsyncExitStack() as stack:
        # -- eight servers find each other from one name
        await network.start(NODES, node)

        async def all_know_all():
            for address in NODES.values():
                if set(NODES) - set(await reported(address)):
                    return False
            return True

        await eventually(all_know_all, "complete network")
        assert await reported(first) == NODES

        # -- one of another chain, and ten of ill will
        await network.start(WRONG, wrong_node)
        scripts = {}
        for name, answers in hostile_peers(chain).items():
            if name in NAMES:
                scripts[name] = Scripted(name, chain, **answers)
                stack.push_async_callback(_close, await scripts[name].listen())
        inner = Scripted("inner.example", chain)
        stack.push_async_callback(_close, await inner.listen())
        n1 = network.servers["n1.example"]

        async def log_of_n1(pattern):
            await asyncio.to_thread(n1.wait_log, pattern)

        for name in (*WRONG, *HOSTILE):
            await asyncio.to_thread(n1.rpc, "add_peer", f"{name} v1.4 t{PORT_T}")

        async def all_judged():
            peers = await network.peers_of("n1.example")
            judged = [
                name
                for name in (*WRONG, *HOSTILE)
                if name not in peers or (peers[name]["try_count"] or peers[name]["last_good"])
            ]
            return len(judged) == len(WRONG) + len(HOSTILE)

        await eventually(all_judged, "judgement of every hostile peer")
        await log_of_n1(rf"\[wrong\.example:{PORT_T} TCP\] marking bad: \(our header")
        await log_of_n1(rf"\[genesis\.example:{PORT_T} TCP\] marking bad: \(incorrect genesis hash")
        await log_of_n1(
            rf"\[hosts\.example:{PORT_T} TCP\] marking bad: \(server.features hosts returned bad"
        )
        await log_of_n1(
            rf"\[huge\.example:{PORT_T} TCP\] marking bad: \(server.features is too large"
        )
        await log_of_n1(rf"\[tall\.example:{PORT_T} TCP\] marking bad: \(bad height")
        await log_of_n1(
            rf"\[peers\.example:{PORT_T} TCP\] marking bad: \(bad server.peers.subscribe entry"
        )
        # The lister is honest but for its list.
        await log_of_n1(
            rf"\[inner\.example:{PORT_T} TCP\] marking bad: \(address 127\.99\.0\.1 is not public"
        )
        assert inner.requests == []

        # -- a crowd in one /16 that introduces itself
        for name in CROWD:
            scripts[name] = sybil = Scripted(name, chain)
            sybil.answers["server.peers.subscribe"] = [
                [ip, host, ["v1.4", f"t{PORT_T}"]] for host, ip in CROWD.items()
            ]
            stack.push_async_callback(_close, await sybil.listen())
        for name, address in CROWD.items():
            features = scripts[name].answers["server.features"]
            assert await ask(first, "server.add_peer", features, source=address) is True
        # A request for another server is refused.
        features = {"hosts": {"ghost.example": {"tcp_port": PORT_T}}}
        assert await ask(first, "server.add_peer", features, source="127.66.0.1") is False

        async def crowd_is_verified():
            peers = await network.peers_of("n1.example")
            return sum(name in peers and peers[name]["status"] == "good" for name in CROWD) > 10

        await eventually(crowd_is_verified, "crowd among the good peers")
        for _ in range(5):
            names = await reported(first)
            assert len(set(names) & set(CROWD)) == 2
            assert set(NODES) <= set(names)
            assert not set(names) & {*WRONG, *INNER, *HOSTILE} - {"lister.example"}

        # -- two go, one cleanly and one not
        await asyncio.to_thread(network.servers["n7.example"].terminate)
        network.servers["n8.example"].kill()
        gone = {"n7.example", "n8.example"}
        rest = set(NODES) - gone

        async def none_report_the_lost():
            for name in rest:
                if gone & set(await reported(NODES[name])):
                    return False
            return True

        await eventually(none_report_the_lost, "reports without the lost", 3 * STALE_SECS + 60)

        async def forgotten():
            return not gone & set(await network.peers_of("n1.example"))

        await eventually(forgotten, "end of the lost in the table", 120)
        assert "forgetting unreachable peer: n8.example" in n1.log()

        # -- no other server is the worse for it
        for name in rest:
            server = network.servers[name]
            assert server.child.running()
            assert "Traceback" not in server.log(), server.log()
            assert (await ask(NODES[name], "blockchain.headers.subscribe"))["height"] == HEIGHT
        assert rest <= set(await reported(first))


async def _close(server):
    server.close()
