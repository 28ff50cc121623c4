"""The cost model over real connections: charges, throttling, and the end of a session."""

import asyncio
import json
import math
import time

import pytest

from electrumx.server.session import ElectrumX
from electrumx.server.session.admin.tables import session_rows
from electrumx.server.session.engine import dispatch, receive, session_groups
from electrumx.server.session.engine.prices import LONE_WAIT_COST, READ_COST
from electrumx.server.session.engine.send_queue import SendQueue
from electrumx.server.session.methods import scripthash
from tests.fakes.session_world import (
    FakeDB,
    FakeService,
    make_tx_hash,
    script_hash,
    session_world,
    until,
    utxo,
)

SH, HASHX = script_hash("a")
# A limit that bytes alone do not reach
FREE_BYTES = 10**15


def request(number, method="server.ping", params=()):
    return json.dumps(
        {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
    ).encode()


async def charged(world, client, method, *params, is_error=False, waits=False):
    """Return the cost of one request to its session, without that of its way."""
    before = world.session().cost
    await (client.error if is_error else client.request)(method, *params)
    way = READ_COST + (LONE_WAIT_COST if waits else 0)
    return world.session().cost - before - way


# -- what is charged


async def test_what_was_read_before_costs_less():
    async with session_world(
        db=FakeDB(txs_per_block=300), bw_unit_cost=FREE_BYTES, cost_hard_limit=0
    ) as world:
        world.db.histories[HASHX] = [(make_tx_hash(n), 3) for n in range(1000)]
        client = await world.connect()
        subscribe = 0.1 + 0.00002 * 67 * 1000
        assert pytest.approx(0.25 + 1.0 + subscribe, abs=1e-4) == await charged(
            world, client, "blockchain.scripthash.subscribe", SH, waits=True
        )
        assert pytest.approx(0.1 + subscribe, abs=1e-4) == await charged(
            world, client, "blockchain.scripthash.subscribe", SH
        )
        assert (
            pytest.approx(0.1, abs=1e-4)
            == await charged(world, client, "blockchain.scripthash.get_history", SH) - 0.25
        )
        client = await world.connect()
        await client.request("server.version", "x", "1.4.2")
        assert pytest.approx(0.1, abs=1e-4) == await charged(
            world, client, "blockchain.scripthash.unsubscribe", SH
        )
        merkle = ("blockchain.transaction.get_merkle", make_tx_hash(5, 7)[::-1].hex(), 5)
        # All 300 hashes are read and hashed, then neither.
        assert pytest.approx(0.25 + 0.03 + 300 / 2500, abs=1e-4) == await charged(
            world, client, *merkle, waits=True
        )
        assert pytest.approx(0.1 + 10 * math.sqrt(300) / 2500, abs=1e-4) == await charged(
            world, client, *merkle, waits=True
        )
        # Asked of the node once
        assert pytest.approx(2.1) == await charged(
            world, client, "blockchain.estimatefee", 5, waits=True
        )
        assert pytest.approx(0.1) == await charged(world, client, "blockchain.estimatefee", 5)


async def test_a_header_proof_costs_the_hashes_it_takes(monkeypatch):
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        monkeypatch.setattr(world.db, "header_proof_hashes", lambda *args: 5_000, raising=True)
        client = await world.connect()
        assert pytest.approx(1.25 + 5_000 / 150, abs=1e-4) == await charged(
            world, client, "blockchain.block.header", 3, 5, waits=True
        )


async def test_bytes_cost_in_both_directions():
    async with session_world(bw_unit_cost=10, cost_hard_limit=0) as world:
        client = await world.connect()
        message = request(7)
        await client.send(message)
        reply = await client.recv_raw()
        # The terminator of a message sent is not charged.
        size = len(message) + 1 + len(reply) - 1
        await until(lambda: world.session().send_count == 1)
        assert pytest.approx(5.0 + 0.1 + READ_COST + size / 10, abs=0.01) == world.session().cost


@pytest.mark.parametrize(
    ("message", "cost"),
    [
        (b"{", 1100),
        (b"\xff", 1100),
        (b"[]", 100),
        (b"5", 100),
        (request(1, "no.such.method"), 100),
        (request(1, "server.ping", [1]), 100),
        # A notification is an unknown method, and nothing is sent.
        (b'{"jsonrpc":"2.0","method":"server.ping","params":[]}', 100),
        # A batch is charged for each malformed member.
        (b"[1, 2, 3]", 300),
    ],
)
async def test_errors_cost_a_hundred_and_junk_eleven_times_that(message, cost):
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        client = await world.connect()
        await client.send(message)
        await until(lambda: world.session().cost > 50)
        assert pytest.approx(5.0 + READ_COST + cost, abs=0.01) == world.session().cost


async def test_a_history_too_large_costs_the_reading_of_it():
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0, max_send=350_000) as world:
        limit = world.manager.shared.scripts.histories.limit
        world.db.histories[HASHX] = [(make_tx_hash(n), 3) for n in range(limit + 5)]
        client = await world.connect()
        assert (
            "history too large" in (await client.error("blockchain.scripthash.get_history", SH))[1]
        )
        await until(lambda: world.session().cost > 50)
        way = READ_COST + LONE_WAIT_COST
        expected = 5 + way + 100 + 0.25 + 0.001 * limit
        assert pytest.approx(expected, abs=0.01) == world.session().cost


async def test_requests_that_come_together_share_the_cost_of_their_way():
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        client = await world.connect()
        await client.request("server.ping")
        before = world.session().cost
        lines = [request(n, "blockchain.scripthash.get_balance", [f"{n:064x}"]) for n in range(5)]
        await client.send(b"\n".join(lines))
        await until(lambda: world.session().send_count == 6)
        cost = world.session().cost - before
        assert pytest.approx(5 * 1.0 + READ_COST + LONE_WAIT_COST, abs=1e-4) == cost


# -- decay and throttling


@pytest.mark.parametrize(
    ("cost", "target"),
    [(0, 10), (1000, 10), (1900, 9), (5500, 5), (9100, 1), (9999, 1), (10000, 0)],
)
async def test_concurrency_shrinks_from_the_soft_to_the_hard_limit(cost, target):
    async with session_world(bw_unit_cost=FREE_BYTES) as world:
        await world.connect()
        await until(lambda: world.manager.sessions)
        session = world.session()
        session.account.cost_decay_per_sec = 0
        session.account.cost = cost
        session.recalc_concurrency()
        assert target == session.account.concurrency_target
        assert pytest.approx(max(0, (cost - 1000) / 9000)) == session.account.cost_fraction


def recalc_after(secs, session, monkeypatch):
    """Have a session compute its cost as if it were later."""
    now = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now() + secs)
        session.recalc_concurrency()


async def test_costs_decay_with_time_and_more_slowly_with_subscriptions(monkeypatch):
    async with session_world(bw_unit_cost=FREE_BYTES) as world:
        client = await world.connect()
        await client.request("server.ping")
        session = world.session()
        assert 10_000 / 10_000 == session.account.cost_decay_per_sec
        session.account.cost = 500.0
        recalc_after(100, session, monkeypatch)
        assert pytest.approx(400, abs=0.5) == session.cost
        await client.request("blockchain.scripthash.subscribe", SH)
        world.manager.housekeeping.recalc_costs(300)
        assert pytest.approx(10_000 / 10_005) == session.account.cost_decay_per_sec
        session.account.cost = 1.0
        recalc_after(200, session, monkeypatch)
        assert 0 == session.cost


@pytest.mark.parametrize("jump", [-86_400, 86_400])
async def test_setting_the_clock_charges_and_ends_no_session(monkeypatch, caplog, jump):
    caplog.set_level("INFO")
    now = time.time
    async with session_world(bw_unit_cost=FREE_BYTES) as world:
        client = await world.connect()
        await client.request("server.ping")
        session = world.session()
        session.account.cost = 500.0
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        session.recalc_concurrency()
        assert 400 < session.cost <= 500
        await world.manager.housekeeping.close_stale_sessions()
        assert "closing stale" not in caplog.text
        (row,) = session_rows(world.manager, for_log=False)
        assert 0 <= row[-1] < 1000
        await client.request("server.ping")


async def test_above_the_soft_limit_requests_sleep():
    async with session_world(bw_unit_cost=FREE_BYTES, request_sleep=500) as world:
        client = await world.connect()
        await client.request("server.ping")
        session = world.session()
        session.account.cost = 1000 + 9000 * 0.65
        session.recalc_concurrency()
        loop = asyncio.get_running_loop()
        start = loop.time()
        await client.request("server.ping")
        # 0.65 of half a second; an event loop's clock is not exact
        assert loop.time() - start > 0.29
        assert session.flags() == "T4"


async def test_without_a_range_between_the_limits_no_session_is_throttled():
    async with session_world(cost_soft_limit=0, cost_hard_limit=0) as world:
        client = await world.connect()
        for number in range(30):
            await client.send(b"junk %d" % number)
            assert "error" in await client.recv()
        await client.request("server.ping")
        assert world.session().cost > 30_000
        assert 10 == world.session().account.concurrency_target


# -- what the operator's own machine, and private networks, may cost


async def test_ten_thousand_subscriptions_from_the_own_machine_are_not_throttled():
    scripts = [script_hash(str(number))[0] for number in range(10_000)]
    async with session_world(lenient=True) as world:
        client = await world.connect()
        await client.request("server.ping")
        # However long it takes
        world.session().account.cost_decay_per_sec = 0
        for first in range(0, 10_000, 5_000):
            batch = [
                json.loads(request(n, "blockchain.scripthash.subscribe", [scripts[n]]))
                for n in range(first, first + 5_000)
            ]
            await client.send(batch)
            assert all(reply["result"] is None for reply in await client.recv())
        session = world.session()
        assert session.cost > 3_000
        session.recalc_concurrency()
        assert session.account.effective_cost() < 200
        assert (session.account.cost_fraction, session.account.concurrency_target) == (0, 10)


async def test_an_advertised_server_is_not_lenient_to_loopback():
    service = FakeService("tcp", "example.com", 50001)
    async with session_world(lenient=True, report_services=[service]) as world:
        client = await world.connect()
        await client.request("server.ping")
        assert world.session().account.leniency == 1
        world.session().bump_cost(10_000)
        assert (await client.error("server.ping"))[0] == -101


async def test_abusers_throttle_others_of_a_private_address_and_lock_no_client_out():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        (group,) = world.manager.groups.values()
        # The retained cost of 25 abusers throttles no later client much.
        group.retained_cost = 25 * 10_000
        client = await world.connect()
        await client.request("server.ping")
        assert world.session().account.concurrency_target >= 8
        # However many there were, the others are still served.
        group.retained_cost = 1_000 * 10_000
        client = await world.connect()
        await client.request("server.ping")
        assert world.session().account.concurrency_target == 6
        # A session's own cost ends it, at half of the limit.
        world.session().bump_cost(5_000)
        assert (await client.error("server.ping"))[0] == -101
        # Forgotten as fast as any group's.
        await until(lambda: len(world.manager.sessions) == 2)
        assert group.retained_cost == 60 * 10_000
        world.manager.housekeeping.recalc_costs(session_groups.GROUP_FORGET_SECS)
        client = await world.connect()
        await client.request("server.ping")
        assert world.session().account.concurrency_target == 10


# -- the end of a session


async def test_the_end_names_the_cost_the_limit_and_when_to_retry(monkeypatch):
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        world.session().bump_cost(11_000)
        error = (await client.ask("server.ping"))["error"]
        assert (error["code"], error["message"]) == (-101, "excessive resource usage")
        data = error["data"]
        assert 11_000 <= data["cost"] <= 11_010
        assert data["limit"] == 10_000
        # A thousand more than the limit, at 2 a second
        assert 500 <= data["retry_after"] <= 510 + session_groups.RECALC_SECS
        world.manager.housekeeping.recalc_costs(data["retry_after"])
        await until(lambda: not world.manager.sessions)
        client = await world.connect()
        await client.request("server.ping")


async def test_a_batch_that_ends_a_session_is_answered_with_the_reason():
    async with session_world(request_sleep=0) as world:
        client = await world.connect()
        await client.request("server.ping")
        await client.send(b"[" + b",".join(request(n, "no.such.method") for n in range(500)) + b"]")
        replies = await client.recv()
        assert replies[-1]["error"]["code"] == -101
        assert replies[-1]["error"]["data"]["limit"] == 10_000
        assert await client.recv() is None


async def test_a_request_that_the_node_delays_too_long_costs_the_client_nothing():
    async with session_world(request_timeout=1, cost_soft_limit=200, cost_hard_limit=400) as world:
        client = await world.connect()
        world.daemon.stall = asyncio.Event()
        for number in range(10):
            await client.send(request(number, "blockchain.transaction.get", ["ab" * 32]))
        assert [(await client.recv())["error"]["code"] for _ in range(10)] == [-102] * 10
        assert world.session().errors == 10
        assert world.session().cost < 20


async def test_at_the_hard_limit_a_request_gets_an_error_and_the_session_is_closed(caplog):
    caplog.set_level("INFO")
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        world.session().bump_cost(10_000)
        assert await client.error("server.ping") == (-101, "excessive resource usage")
        assert await client.recv() is None
        await until(lambda: not world.manager.sessions)
    assert "closing session over res usage. ip: 127.0.0.1. groups: ['loopback']" in caplog.text


async def test_a_slow_reader_at_the_hard_limit_is_disconnected_in_seconds():
    async with session_world(request_sleep=0) as world:
        world.daemon.txs["ab" * 32] = "00" * 400_000
        client = await world.connect()
        await client.request("server.ping")
        client.stop_reading()
        for number in range(30):
            await client.send(request(number, "blockchain.transaction.get", ["ab" * 32]))
        session = world.session()
        await until(lambda: not session.transport.is_writable)
        session.bump_cost(20_000)
        await until(lambda: not world.manager.sessions, secs=25)


async def test_requests_that_wait_when_the_limit_is_reached_end_the_session():
    async with session_world(initial_concurrent=2, bw_unit_cost=FREE_BYTES) as world:
        client = await world.connect()
        await client.request("server.ping")
        world.daemon.stall = asyncio.Event()
        for number in range(6):
            await client.send(request(number, "blockchain.transaction.get", ["ab" * 32]))
        session = world.session()
        await until(lambda: session.unanswered_request_count() == 6)
        session.bump_cost(12_000)
        world.daemon.stall.set()
        codes = []
        while (reply := await client.recv()) is not None:
            codes.append(reply.get("error", {}).get("code"))
        # Two were being served; of those that waited, one at least gets the reason for the end.
        assert codes[:2] == [None, None]
        assert set(codes[2:]) == {-101}
        await until(lambda: not world.manager.sessions)


@pytest.mark.parametrize("message", [b"junk", b"", b"[1,2,3,4,5,6,7,8,9]"])
async def test_a_client_that_sends_only_junk_is_disconnected_at_the_hard_limit(message):
    async with session_world(request_sleep=0) as world:
        client = await world.connect()
        for _ in range(100):
            try:
                await client.send(message)
            except ConnectionError:
                break
        received = 0
        while await client.recv_raw():
            received += 1
        assert 9 <= received <= 15
        await until(lambda: not world.manager.sessions)


async def test_a_line_without_end_is_cut_off_at_the_hard_limit():
    async with session_world(max_recv=100_000, bw_unit_cost=100) as world:
        other = await world.connect()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port("tcp"))

        async def send_on():
            while True:
                writer.write(b"x" * 60_000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await send_on()
        writer.close()
        assert not await _rest(reader)
        await other.request("server.ping")
        await until(lambda: len(world.manager.sessions) == 1)


async def _rest(reader):
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_newcomer_from_an_exhausted_subnet_is_refused_and_others_are_not(monkeypatch):
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    async with session_world() as world:
        first = await world.connect()
        await first.request("server.ping")
        world.session().bump_cost(12_000)
        assert (await first.error("server.ping"))[0] == -101
        await until(lambda: not world.manager.sessions)
        group = world.manager.groups.by_name["127.0.0.0/24"]
        # As much is remembered, and no more.
        assert group.retained_cost == 12_000
        # At accept: there is no session, nor an answer
        second = await world.connect()
        assert await second.recv() is None
        assert not world.manager.sessions
        # Half an hour and more later
        world.manager.housekeeping.recalc_costs(10_000)
        assert "127.0.0.0/24" not in world.manager.groups.by_name
        third = await world.connect()
        await third.request("server.ping")


@pytest.mark.parametrize("size", [1_000, 490_000])
async def test_one_message_costs_no_more_than_a_limit(monkeypatch, size):
    monkeypatch.setattr(session_groups, "is_exempt", lambda host: False)
    async with session_world(bw_unit_cost=1) as world:
        client = await world.connect()
        await client.send(b"[" + b",".join([b"1"] * size) + b"]")
        reply = await client.recv()
        assert reply["error"]["code"] == -32600
        await client.close()
        await until(lambda: not world.manager.sessions)
        (group,) = world.manager.groups.values()
        assert group.retained_cost <= 12_000


# -- replies that are too large


@pytest.mark.parametrize("batch", [False, True])
async def test_a_result_too_large_to_send_is_charged(batch):
    txid = "ab" * 32
    async with session_world(bw_unit_cost=1_000, cost_hard_limit=0) as world:
        world.daemon.txs[txid] = {"hex": "ab" * 600_000}
        client = await world.connect()
        message = request(1, "blockchain.transaction.get", [txid, True])
        await client.send(b"[" + message + b"]" if batch else message)
        reply = await client.recv()
        error = (reply[0] if batch else reply)["error"]
        assert error["message"] == "response too large (over 1,000,000 bytes"
        await until(lambda: world.session().send_count == 1)
        assert world.session().cost > 1_200


@pytest.mark.parametrize(
    ("size", "verbose"),
    [(3_000_000, True), (600_000, True), (600_000, False), (3_000_000, False)],
)
async def test_the_node_is_asked_once_at_a_tip_for_an_oversized_result(size, verbose):
    txid = "ab" * 32
    async with session_world(bw_unit_cost=1_000, cost_hard_limit=0) as world:
        world.daemon.txs[txid] = {"hex": "ab" * size} if verbose else "ab" * size
        client = await world.connect()
        expected = (-32600, "response too large (over 1,000,000 bytes")
        ask = ("blockchain.transaction.get", txid, verbose)
        first = await charged(world, client, *ask, is_error=True)
        for spelling in (txid, txid.upper()):
            assert expected == await client.error("blockchain.transaction.get", spelling, verbose)
        assert len(world.daemon.calls) == 1
        again = await charged(world, client, *ask, is_error=True)
        # No more is read from the node than twice what could be sent.
        assert first - again == pytest.approx(min(2 * size, 2_000_000) / 1_000, rel=0.05)
        assert 100 < again < 103
        await world.new_block()
        assert expected == await client.error("blockchain.transaction.get", txid, verbose)
        assert len(world.daemon.calls) == 2
        # Whether it is verbose makes a difference.
        world.daemon.txs[txid] = {} if not verbose else "ab"
        await client.request("blockchain.transaction.get", txid, not verbose)


async def test_unspent_outputs_that_cannot_be_sent_are_not_encoded(monkeypatch):
    made = []
    monkeypatch.setattr(scripthash, "_unspent", lambda *args: made.append(args))
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        world.db.utxos[HASHX] = [utxo("tx", 1, tx_num=n) for n in range(9_100)]
        client = await world.connect()
        assert await client.error("blockchain.scripthash.listunspent", SH) == (
            -32600,
            "response too large (over 1,000,000 bytes",
        )
        assert not made
        assert world.session().cost > 9_100 / 50


# -- floods


async def test_a_flood_waits_in_the_senders_own_buffers(monkeypatch):
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        client, other = await world.connect(), await world.connect()
        await client.request("server.ping")
        await other.request("server.ping")
        world.daemon.stall = asyncio.Event()
        session = world.session(0)
        held = []
        monkeypatch.setattr(receive, "READ_HIGH_MARK", 20_000)
        txid = "ab" * 32
        flood = b"\n".join(request(n, "blockchain.transaction.get", [txid]) for n in range(5_000))
        sending = asyncio.create_task(client.send(flood))
        await until(lambda: session.unanswered_request_count() >= dispatch.MAX_ADMITTED)
        for _ in range(20):
            await other.request("server.ping")
            held.append(session.unanswered_request_count())
        assert max(held) <= dispatch.MAX_ADMITTED + 1
        assert session.transport.is_held
        world.daemon.stall.set()
        ids = set()
        for _ in range(5_000):
            ids.add((await client.recv())["id"])
        assert ids == set(range(5_000))
        await sending


async def test_during_a_huge_batch_others_are_served():
    async with session_world(bw_unit_cost=FREE_BYTES, cost_hard_limit=0) as world:
        client, other = await world.connect(), await world.connect()
        await other.request("server.ping")
        batch = b"[" + b",".join(request(n) for n in range(10_000)) + b"]"
        await client.send(batch)
        answered = asyncio.create_task(client.recv())
        pings = 0
        while not answered.done():
            await other.request("server.ping")
            pings += 1
        assert [item["id"] for item in answered.result()] == list(range(10_000))
        # Had the batch been served in one go, one or two would have been.
        assert pings > 10


async def test_only_subscribers_are_notified_of_blocks(monkeypatch):
    async with session_world() as world:
        idle, headers, script = [await world.connect() for _ in range(3)]
        await idle.request("server.ping")
        await headers.request("blockchain.headers.subscribe")
        await script.request("blockchain.scripthash.subscribe", SH)
        notified = []

        def note(session, *args):
            notified.append(session.session_id)

        monkeypatch.setattr(ElectrumX, "notify", note)
        sessions = [world.session(n) for n in range(3)]
        ids = [session.session_id for session in sessions]
        ids_by_queue = {session.queue: session.session_id for session in sessions}
        monkeypatch.setattr(
            SendQueue, "send_message", lambda queue, _: notified.append(ids_by_queue[queue])
        )
        await world.touch(b"other")
        await world.touch(HASHX)
        assert notified == [ids[2]]
        await world.new_block()
        # No notification is due for a script that the block does not touch.
        assert notified[1:] == [ids[1]]
        world.session(2).subscriptions.mempool_statuses[HASHX] = "changes when others are mined"
        await world.new_block()
        assert notified[2:] == ids[1:]
