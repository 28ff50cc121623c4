"""Listening, the limit of sessions, groups, stale sessions, log lines and the end of it all."""

import asyncio
import json
import logging
import re
from ipaddress import ip_address

import pytest
from aiorpcx import connect_rs

from electrumx.lib.log_limit import RateLimitedLog
from electrumx.lib.util import CompactFormatter, make_logger
from electrumx.server.env import Env
from electrumx.server.notifications import Notifications
from electrumx.server.session import SessionManager
from tests.fakes.session_world import (
    FakeBP,
    FakeCoin,
    FakeDaemon,
    FakeDB,
    FakeMempool,
    FakeService,
    script_hash,
    session_world,
    until,
)
from tests.ports import free_port


async def connects(world):
    """Return whether a wallet can connect and is served."""
    try:
        client = await world.connect()
        await client.request("server.ping")
    except (AssertionError, ConnectionError):
        return False
    return True


async def test_the_administrator_is_served_before_the_wallets(caplog):
    caplog.set_level(logging.INFO)
    async with session_world(ready=False) as world:
        await until(lambda: world.manager.listeners.open)
        assert ["rpc"] == [service.protocol for service in world.manager.listeners.open]
        admin = await world.connect("rpc")
        assert "getinfo" in (await admin.request("getinfo"))["request counts"]
        world.mempool_event.set()
        await until(lambda: len(world.manager.listeners.open) == 2)
        assert await connects(world)


@pytest.mark.parametrize("first_sync", [True, False])
async def test_a_server_that_serves_always_is_announced_to_peers_once_it_is_complete(first_sync):
    db, caught_up = FakeDB(), asyncio.Event()
    db.first_sync = first_sync
    async with session_world(db=db, ready=False, caught_up=caught_up, serve_always=True) as world:
        peers = world.manager.shared.peers
        await until(lambda: len(world.manager.listeners.open) == 2)
        client = await world.connect()
        assert await client.request("server.peers.subscribe") == peers.coin_peers()
        caught_up.set()
        await until(lambda: not world.manager.shared.stage.is_indexing)
        assert await client.request("server.peers.subscribe") == peers.coin_peers()
        assert not peers.is_discovering
        assert not world.manager.serving_event.is_set()
        world.mempool_event.set()
        await until(lambda: peers.is_discovering)
        assert world.manager.serving_event.is_set()
        assert await client.request("server.peers.subscribe") != peers.coin_peers()


async def test_the_limits_are_logged(caplog):
    caplog.set_level(logging.INFO)
    report = [FakeService("ssl", "h.example", 50002)]
    async with session_world(drop_client=re.compile("abc"), report_services=report):
        pass
    lines = {record.message for record in caplog.records}
    assert {
        "max session count: 1,000",
        "session timeout: 600 seconds",
        "session cost hard limit 10,000",
        "session cost soft limit 1,000",
        "bandwidth unit cost 5,000",
        "request sleep 2,500ms",
        "request timeout 30s",
        "initial concurrent 10",
        "max response size 1,000,000 bytes",
        "drop clients matching: abc",
        "advertising service ssl://h.example:50002",
        "TCP server listening on 127.0.0.1:0",
        "RPC server listening on 127.0.0.1:0",
        "closing down server for tcp://127.0.0.1:0",
    } <= lines


@pytest.mark.parametrize("protocol", ["tcp", "ws"])
async def test_too_many_sessions_pause_listening_until_some_leave(protocol, caplog):
    caplog.set_level(logging.INFO)
    services = [FakeService(protocol, port=free_port()), FakeService("rpc")]
    async with session_world(max_sessions=20, services=services) as world:
        clients = [await world.connect(protocol) for _ in range(20)]
        for client in clients:
            await client.request("server.ping")
        await until(lambda: len(world.manager.listeners.open) == 1)
        assert (
            "maximum sessions 20 reached, stopping new connections until count drops to 19"
            in caplog.text
        )
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", services[0].port)
        # Connected clients are served, and the administrator may connect.
        for client in clients:
            await client.request("server.ping")
        admin = await world.connect("rpc")
        assert 21 == (await admin.request("getinfo"))["sessions"]["count"]
        await clients[0].close()
        await until(lambda: world.manager.session_count() == 20)
        assert 1 == len(world.manager.listeners.open)
        await admin.close()
        await until(lambda: len(world.manager.listeners.open) == 2)
        assert "resuming listening for incoming connections" in caplog.text
        newcomer = await world.connect(protocol)
        await newcomer.request("server.ping")


async def test_silent_sessions_are_closed(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        silent, lively = await world.connect(), await world.connect()
        for client in (silent, lively):
            await client.request("server.ping")
        session = world.session(0)
        session.last_recv -= 601
        await world.manager.housekeeping.close_stale_sessions()
        assert f"closing stale session ids {session.session_id}" in caplog.text
        assert None is await silent.recv()
        await lively.request("server.ping")


async def test_shutting_down_closes_everything(caplog):
    caplog.set_level(logging.INFO)
    services = [FakeService("tcp"), FakeService("ws"), FakeService("rpc")]
    async with session_world(services=services) as world:
        clients = [await world.connect(service.protocol) for service in services]
        for client in clients:
            await client.ask("server.ping")
        world.serving.cancel()
        await asyncio.gather(world.serving, return_exceptions=True)
        for client in clients:
            assert None is await client.recv()
        assert 0 == world.manager.session_count()
        assert "timed out waiting" not in caplog.text


async def test_a_client_that_does_not_read_cannot_delay_the_end():
    async with session_world() as world:
        client = await world.connect()
        world.daemon.txs["00" * 32] = "ab" * 450_000
        client.stop_reading()
        for n in range(20):
            await client.send(
                {"method": "blockchain.transaction.get", "params": ["00" * 32], "id": n}
            )
        await until(lambda: len(world.daemon.calls) >= 10)
        world.serving.cancel()
        _done, pending = await asyncio.wait([world.serving], timeout=25)
        assert not pending
        client.abort()


async def test_a_failing_task_ends_serving_with_its_error(monkeypatch):
    async with session_world(log_sessions=0.01) as world:
        monkeypatch.setattr(world.manager.housekeeping, "log_sessions", lambda: 1 / 0)
        await until(lambda: world.serving.done())
        assert isinstance(world.serving.exception(), ZeroDivisionError)


async def test_peer_discovery_may_fail_without_ending_the_server(caplog):
    async with session_world(ready=False) as world:

        async def fail():
            raise RuntimeError("discovery")

        world.manager.shared.peers.discover_peers = fail
        world.mempool_event.set()
        await until(lambda: "peer discovery ended" in caplog.text)
        assert await connects(world)


async def test_the_session_table_is_logged(caplog):
    caplog.set_level(logging.INFO)
    async with session_world(log_sessions=0.05, anon_logs=True) as world:
        await (await world.connect()).request("server.version", "wallet/1.0", "1.4.2")
        await until(lambda: '"uptime"' in caplog.text and "wallet/1.0" in caplog.text)
        rows = [r.message for r in caplog.records if "wallet/1.0" in r.message]
        assert "xx.xx.xx.xx:xx" in rows[0]
        infos = [r.message for r in caplog.records if r.message.startswith("{")]
        assert 1 == json.loads(infos[-1])["sessions"]["count"]


# -- groups and costs


class Visitor:
    """A session, as its groups use it."""

    def __init__(self, host, cost=0.0):
        self.host = host
        self.cost = cost


async def test_subscriptions_make_costs_linger():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        session = world.session()
        assert pytest.approx(1.0) == session.account.cost_decay_per_sec
        for n in range(2000):
            text, hashX = script_hash(str(n))
            session.subscriptions.scripts.add(hashX, text)
        world.manager.housekeeping.recalc_costs(300)
        assert pytest.approx(0.5) == session.account.cost_decay_per_sec


async def test_a_new_session_bears_the_cost_of_its_subnet_at_once():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        session = world.session()
        groups = world.manager.groups
        groups.leave(session)
        groups.join(Visitor(None, 6000), ip_address("1.2.3.4"))
        groups.join(session, ip_address("1.2.3.5"))
        session.recalc_concurrency()
        assert pytest.approx(6000) == session.extra_cost()
        assert session.account.concurrency_target < 6
        world.manager.shared.table.remove(session)
        assert 0 == session.extra_cost()


async def test_the_administrator_is_never_throttled():
    async with session_world(cost_hard_limit=2000, request_timeout=1) as world:
        admin = await world.connect("rpc")
        for _ in range(50):
            assert -32601 == (await admin.error("nonsense"))[0]
        (session,) = world.manager.sessions
        assert (0, 50) == (session.cost, session.errors)
        await admin.request("getinfo")


async def test_the_settings_of_a_real_environment_suffice(monkeypatch, tmp_path):
    tcp, rpc = free_port(), free_port()
    for name, value in {
        "DB_DIRECTORY": str(tmp_path),
        "DAEMON_URL": "http://u:p@localhost",
        "COIN": "Bitcoin",
        "SERVICES": f"tcp://127.0.0.1:{tcp},rpc://127.0.0.1:{rpc}",
        "REPORT_SERVICES": "tcp://electrum.example:50001",
        "PEER_DISCOVERY": "off",
    }.items():
        monkeypatch.setenv(name, value)
    env = Env()
    db = FakeDB()
    daemon = FakeDaemon()
    shutdown_event, mempool_event = asyncio.Event(), asyncio.Event()
    mempool_event.set()
    manager = SessionManager(env, db, FakeBP(db), daemon, FakeMempool(), shutdown_event)
    serving = asyncio.create_task(manager.serve(Notifications(), mempool_event))
    try:
        await until(lambda: serving.done() or len(manager.listeners.open) == 2)
        async with connect_rs("127.0.0.1", tcp) as wallet, connect_rs("127.0.0.1", rpc) as admin:
            assert "1.4.2" == (await wallet.send_request("server.version", ["x", "1.4.2"]))[1]
            features = await wallet.send_request("server.features")
            assert {"electrum.example": {"tcp_port": 50001}} == features["hosts"]
            # Only reachable peers of ours could be reported.
            assert isinstance(await wallet.send_request("server.peers.subscribe"), list)
            assert False is await wallet.send_request("server.add_peer", [{}])
            await wallet.send_request("blockchain.estimatefee", [1000])
            assert ("estimatefee", 984, None) == daemon.calls[-1]
            assert "Bitcoin" in (await admin.send_request("getinfo"))["coin"]
            lines = await admin.send_request(
                "query", [["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "nonsense!"], 10]
            )
            assert "Address: 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa" == lines[0]
            assert 5 == len(lines)
            assert lines[4].startswith("unknown: nonsense!: ")
            assert 2 == len(await admin.send_request("sessions"))
            assert isinstance(await admin.send_request("peers"), list)
            assert "peer" in await admin.send_request("add_peer", ["a.example v1.4 t s"])
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_flood_of_connections_does_not_flood_the_log(caplog):
    caplog.set_level("INFO")
    async with session_world() as world:
        now = 0.0
        limit = RateLimitedLog(world.manager.logger, lines=5, window_secs=60.0, clock=lambda: now)
        world.manager.shared.log_limit = limit
        for _ in range(20):
            client = await world.connect()
            await client.request("server.ping")
        assert 5 == caplog.text.count(" total")
        now = 61.0
        limit.flush()
        assert "new connection: … 15 more like this" in caplog.text


async def test_lines_have_the_logger_names_that_filters_match():
    """As ElectrumX 1.15 had them: wait conditions of containers match the whole line."""
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    class OtherElectrumX(FakeCoin.SESSIONCLS):
        pass

    class OtherCoin(FakeCoin):
        SESSIONCLS = OtherElectrumX

    handler = Lines()
    handler.setFormatter(CompactFormatter("%(levelname)s:%(name)s:%(message)s"))
    logger = make_logger("electrumx", handler=handler, level=logging.INFO)
    try:
        async with session_world() as world:
            await (await world.connect()).request("server.ping")
            number = world.session().session_id
            await (await world.connect("rpc")).request("stop")
        async with session_world(coin=OtherCoin) as world:
            await (await world.connect()).request("server.ping")
            other = world.session().session_id
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    starts = [
        "INFO:SessionManager:TCP server listening on 127.0.0.1:0",
        "INFO:SessionManager:RPC server listening on 127.0.0.1:0",
        "INFO:SessionManager:closing down server for tcp://127.0.0.1:0",
        f"INFO:ElectrumX:[{number}] TCP 127.0.0.1:",
        f"INFO:OtherElectrumX:[{other}] TCP 127.0.0.1:",
    ]
    for start in starts:
        assert any(line.startswith(start) for line in lines), (start, lines)
    # Health checks come every minute: not at this level.
    assert not any("] RPC " in line for line in lines)
