"""One visit to a peer, and the pause after it: honest, lying, broken, slow and huge ones."""

import asyncio
import json
import logging

import pytest
from aiorpcx import RPCError

from electrumx.lib.peer import Peer
from electrumx.server.peers import STALE_SECS, BadPeerError, visits
from electrumx.server.peers.peer_set import PeerSet
from electrumx.server.peers.registration import Registration
from electrumx.server.peers.verify import Ourselves
from electrumx.server.peers.visits import (
    MAX_TRIES,
    MAX_TRIES_ONCE_GOOD,
    REQUESTS_PER_SESSION,
    WAKEUP_SECS,
    PeerVisits,
)
from tests.fakes.peer_world import (
    GENESIS_HASH,
    HANG,
    HANG_UP,
    LAN_HOST,
    Clock,
    FakeDB,
    add,
    is_pausing,
    is_tried,
    make_env,
    peer_server,
    raw_server,
    status_of,
    until,
)
from tests.fakes.virtual_time import run_in_virtual_time
from tests.ports import free_port

LOGGER = logging.getLogger("electrumx.visits")


async def test_tcp_is_tried_when_ssl_fails(make_manager):
    async with peer_server() as script:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} s{free_port()} t{script.port}")

        assert peer.last_good


async def test_a_bad_peer_is_not_tried_by_its_other_ways(make_manager):
    async with peer_server(server__version="bad") as first, peer_server() as second:
        manager = make_manager()
        peer = await add(manager, f"{LAN_HOST} t{first.port}")
        peer.check_ports(Peer.from_real_name(f"{LAN_HOST} t{second.port}", "test"))
        tries = len(first.requests)
        peer.retry_event.set()
        await until(lambda: len(first.requests) > tries and is_pausing(manager, peer))

        assert second.requests == []


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
        manager.visits.request_timeout = 60.0
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


# --- The visits alone


class FakeRoutes:
    """Routes to nowhere; `addresses` is a list, or an exception to raise, or HANG."""

    def __init__(self, addresses=("192.0.2.1",), is_open=True):
        self.found = addresses
        self.open = is_open

    def is_open(self, _peer):
        return self.open

    async def addresses(self, _peer):
        if self.found is HANG:
            await asyncio.Event().wait()
        if isinstance(self.found, Exception):
            raise self.found
        return list(self.found)

    def connection_args(self, _peer, _kind, _family):
        return {}

    def check_address(self, peer):
        raise BadPeerError(f"address {peer.ip_addr} is banned")


class Visited:
    """A `PeerVisits` whose callbacks are recorded."""

    def __init__(self, routes):
        self.peer_set = PeerSet(Clock(), lambda peer: peer.is_valid)
        self.reported = []
        self.verified_count = 0
        env = make_env()
        self.visits = PeerVisits(
            self.peer_set,
            Ourselves(FakeDB(), GENESIS_HASH, ["us 1.0", ["1.4", "1.4.2"]], {}),
            routes,
            Registration(env, [], lambda _peer: True, LOGGER),
            note_peers=self.reported.append,
            on_verified=self.count_verified,
            request_timeout=30.0,
            tor_request_timeout=120.0,
            clock=Clock(),
            logger=LOGGER,
        )

    def count_verified(self):
        self.verified_count += 1


def visit_at_once(routes, peer):
    """Return the pause after a visit, and how long it took in simulated time."""

    async def main():
        pause = await Visited(routes).visits.visit(peer)
        return pause, asyncio.get_running_loop().time()

    return run_in_virtual_time(main())


def peer_of(real_name):
    return Peer.from_real_name(real_name, "test")


def test_waiting_for_a_proxy_is_no_attempt():
    peer = peer_of("a.onion t1")

    assert visit_at_once(FakeRoutes(is_open=False), peer) == (WAKEUP_SECS, 0)
    assert (peer.try_count, peer.last_try) == (0, 0)


@pytest.mark.parametrize(("last_good", "tries"), [(0, MAX_TRIES), (1.0, MAX_TRIES_ONCE_GOOD)])
@pytest.mark.parametrize("fault", [OSError("no such name"), RuntimeError("our own")])
def test_pauses_double_until_the_peer_is_forgotten(last_good, tries, fault):
    peer = peer_of("a.example t1")
    peer.last_good = last_good
    pauses = [visit_at_once(FakeRoutes(fault), peer)[0] for _ in range(tries)]

    assert pauses == [*(WAKEUP_SECS * 2**n for n in range(1, tries)), None]
    assert not peer.bad


def test_a_bad_peer_is_forgotten_sooner_even_if_it_was_good(caplog):
    peer = peer_of("a.example t1 s2")
    peer.last_good = 1.0
    pauses = [visit_at_once(FakeRoutes(BadPeerError("banned")), peer)[0] for _ in range(MAX_TRIES)]

    assert pauses == [600.0, 1200.0, None]
    assert peer.bad
    # The other port was not tried.
    assert caplog.text.count("marking bad: (banned)") == MAX_TRIES


@pytest.mark.parametrize(("host", "secs"), [("a.example", 30), ("a.onion", 120)])
def test_the_resolution_of_a_name_is_bounded_and_failure_ends_the_visit(host, secs):
    assert visit_at_once(FakeRoutes(HANG), peer_of(f"{host} t1 s2")) == (600.0, secs)


@pytest.mark.parametrize(
    ("real_name", "addresses", "ways", "timeout"),
    [
        ("a.example t1", ["192.0.2.1"], 1, 30),
        ("a.example t1 s2", ["192.0.2.1"], 2, 30),
        ("a.example t1 s2", ["192.0.2.1", "2001:db8::1"], 4, 30),
        ("a.onion t1 s2", ["a.onion"], 2, 120),
    ],
)
def test_each_conversation_is_bounded(monkeypatch, real_name, addresses, ways, timeout):
    connected = []

    async def connect(_stack, candidates, port, _args):
        connected.append((candidates, port))
        await asyncio.Event().wait()

    monkeypatch.setattr(visits, "connect_to_first", connect)
    peer = peer_of(real_name)

    assert visit_at_once(FakeRoutes(addresses), peer) == (
        600.0,
        ways * timeout * REQUESTS_PER_SESSION,
    )
    assert len(connected) == ways
    assert all(len(candidates) == 1 for candidates, _port in connected)


class OpenRoutes(FakeRoutes):
    def check_address(self, peer):
        assert peer.ip_addr == LAN_HOST


async def test_a_verified_peer_is_good_and_reports_others():
    reported = [["", "a.example", ["t1"]]]
    async with peer_server(server__peers__subscribe=reported) as script:
        visited = Visited(OpenRoutes([LAN_HOST]))
        peer = peer_of(f"{LAN_HOST} t{script.port}")
        visited.peer_set.peers.add(peer)

        assert await visited.visits.visit(peer) == STALE_SECS - 2 * WAKEUP_SECS
        assert visited.peer_set.counts()["good"] == 1
        assert visited.verified_count == 1
        assert [peer.host for (peer,) in visited.reported] == ["a.example"]


async def test_no_request_is_sent_to_an_address_that_will_not_do():
    async with peer_server() as script:
        visited = Visited(FakeRoutes([LAN_HOST]))
        peer = peer_of(f"{LAN_HOST} t{script.port}")

        assert await visited.visits.visit(peer) == 600.0
        assert peer.bad
        assert (script.requests, visited.reported, visited.verified_count) == ([], [], 0)


async def test_a_blacklisted_peer_is_sent_no_request():
    async with peer_server() as script:
        visited = Visited(OpenRoutes([LAN_HOST]))
        visited.peer_set.blacklist = {LAN_HOST}
        peer = peer_of(f"{LAN_HOST} t{script.port}")

        assert await visited.visits.visit(peer) == 600.0
        assert peer.bad
        assert script.requests == []


async def test_a_visit_can_be_cancelled():
    task = asyncio.ensure_future(Visited(FakeRoutes(HANG)).visits.visit(peer_of("a.example t1")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
