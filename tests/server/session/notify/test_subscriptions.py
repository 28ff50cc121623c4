"""The index of subscriptions, compared with sets; and the notifications through it."""

import asyncio
import json
import logging
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, sha256
from electrumx.server.session.notify import fanout, subscriptions
from electrumx.server.session.notify.subscriptions import ScriptIndex, SessionScripts
from tests.fakes.session_world import (
    FakeService,
    Summary,
    make_tx_hash,
    script_hash,
    session_world,
    until,
)

SUBSCRIBE = "blockchain.scripthash.subscribe"


def scripts():
    """Script hashes in hex, of which some agree in their hashX, and some look like two others."""
    raws = [bytes([n % 3]) * HASHX_LEN + bytes([n]) * 21 for n in range(9)]
    raws += [bytes(range(32)), bytes(16) + bytes(range(16)), bytes(32)]
    raws += [(raws[0] + raws[1])[k : k + 32] for k in (1, 11, 21)]
    return [hash_to_hex_str(raw) for raw in raws]


SPELLINGS = st.sampled_from(scripts()).flatmap(
    lambda text: st.sampled_from([text, text.upper(), text[:2] + " " + text[2:]])
)


def hashX_of(spelling):
    return bytes.fromhex(spelling)[::-1][:HASHX_LEN]


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.index = ScriptIndex()
        self.names = ["a", "b", "c"]
        self.subs = {name: SessionScripts(self.index, name) for name in self.names}
        self.model = {name: {} for name in self.names}

    @rule(name=st.sampled_from("abc"), spelling=SPELLINGS)
    def add(self, name, spelling):
        self.subs[name].add(hashX_of(spelling), spelling)
        self.model[name][hashX_of(spelling)] = spelling

    @rule(name=st.sampled_from("abc"), spelling=SPELLINGS)
    def discard(self, name, spelling):
        hashX = hashX_of(spelling)
        assert self.model[name].pop(hashX, None) == self.subs[name].discard(hashX)

    @rule(name=st.sampled_from("abc"))
    def end(self, name):
        self.subs[name].end()
        self.subs[name].add(hashX_of("ab" * 32), "ab" * 32)  # too late
        assert (0, None) == (len(self.subs[name]), self.subs[name].get(hashX_of("ab" * 32)))
        self.subs[name] = SessionScripts(self.index, name)
        self.model[name].clear()

    @rule(touched=st.sets(SPELLINGS.map(hashX_of)))
    def look_up(self, touched):
        found = asyncio.run(self.index.concerned(touched))
        expected = {
            name: sorted(touched & own.keys())
            for name, own in self.model.items()
            if touched & own.keys()
        }
        assert expected == {name: sorted(hashXs) for name, hashXs in found.items()}

    @invariant()
    def agrees(self):
        for name, own in self.model.items():
            assert len(own) == len(self.subs[name])
            for hashX in map(hashX_of, scripts()):
                assert (hashX in own) == (hashX in self.subs[name])
                assert own.get(hashX) == self.subs[name].get(hashX)
        assert len(self.index) == len({hashX for own in self.model.values() for hashX in own})


@pytest.mark.parametrize("searched", [500, 2])
def test_the_index_is_a_set_of_pairs(searched, monkeypatch):
    monkeypatch.setattr(subscriptions, "SEARCHED_RECORDS", searched)
    machine = Machine.TestCase
    machine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
    machine("runTest").runTest()


async def test_many_subscriptions_are_removed_in_time_slices(monkeypatch):
    monkeypatch.setattr(subscriptions, "AT_ONCE", 10)
    index = ScriptIndex()
    subs = SessionScripts(index, "session")
    for n in range(25):
        text, hashX = script_hash(str(n))
        subs.add(hashX, text)
    other = SessionScripts(index, "other")
    other.add(hashX, text)
    subs.end()
    assert (0, 15) == (len(subs), len(index))
    while len(index) > 1:
        await asyncio.sleep(0)
    assert text == other.get(hashX)


def test_a_session_that_ended_is_subscribed_to_no_script():
    text, hashX = script_hash("any")
    subs = SessionScripts(ScriptIndex(), "session")
    subs.end()
    assert hashX not in subs
    subs.add(hashX, text)
    assert hashX not in subs


async def test_a_session_that_ends_is_in_the_index_no_more():
    async with session_world() as world:
        clients = [await world.connect() for _ in range(2)]
        for client in clients:
            await client.request(SUBSCRIBE, script_hash("shared")[0])
            await client.request(SUBSCRIBE, script_hash(str(id(client)))[0])
        index = world.manager.shared.fan_out.scripts
        assert len(index) == 3
        await clients[0].close()
        await world.touch(script_hash("shared")[1])
        assert (await clients[1].notification())[0] == SUBSCRIBE
        assert len(index) == 2


async def test_cached_statuses_are_sent_without_a_task():
    async with session_world() as world:
        clients = [await world.connect() for _ in range(3)]
        sh, hashX = script_hash("popular")
        for client in clients:
            await client.request(SUBSCRIBE, sh)
            await client.request("blockchain.headers.subscribe")
        world.mempool.summaries[hashX] = [Summary(make_tx_hash("a"), 1, False)]
        await world.touch(hashX)
        assert not world.manager.shared.fan_out.tasks
        statuses = Counter([(await client.notification())[1][1] for client in clients])
        assert [3] == list(statuses.values())
        world.db.histories[hashX] = [(make_tx_hash("a"), 11)]
        world.mempool.summaries.clear()
        reads = world.db.history_reads
        await world.new_block([hashX])
        assert not world.manager.shared.fan_out.tasks
        # It was read once, for all.
        assert world.db.history_reads == reads + 1
        for client in clients:
            assert (await client.notification())[0] == "blockchain.headers.subscribe"
            assert (await client.notification())[0] == SUBSCRIBE


def status_of(history):
    text = "".join(f"{hash_to_hex_str(tx_hash)}:{height}:" for tx_hash, height in history)
    return sha256(text.encode()).hex() if history else None


@pytest.mark.parametrize("protocol", ["tcp", "ws"])
async def test_additions_of_a_block_are_notified_without_a_read(protocol, caplog):
    caplog.set_level(logging.INFO)
    async with session_world(services=[FakeService(protocol), FakeService("rpc")]) as world:
        pairs = [script_hash(str(n)) for n in range(3)]
        wallet, spelled, versioned = [await world.connect(protocol) for _ in range(3)]
        await wallet.request("blockchain.headers.subscribe")
        for sh, _hashX in pairs:
            await wallet.request(SUBSCRIBE, sh)
        await spelled.request(SUBSCRIBE, pairs[0][0].upper())
        await spelled.request(SUBSCRIBE, pairs[1][0])
        await versioned.send({"jsonrpc": "1.0", "id": 0, "method": "server.ping", "params": []})
        await versioned.recv()
        await versioned.send(
            {"jsonrpc": "1.0", "id": 1, "method": SUBSCRIBE, "params": [pairs[2][0]]}
        )
        await versioned.recv()
        reads = world.db.history_reads
        for _ in range(2):
            caplog.clear()
            costs = [world.session(n).cost for n in range(3)]
            sent = [world.session(n).send_count for n in range(3)]
            await world.new_confirmed_block([hashX for _sh, hashX in pairs])
            assert not world.manager.shared.fan_out.tasks
            assert (await wallet.notification())[0] == "blockchain.headers.subscribe"
            expected = {sh: status_of(world.db.histories[hashX]) for sh, hashX in pairs}
            told = [await wallet.notification() for _ in pairs]
            assert {method for method, _params in told} == {SUBSCRIBE}
            assert dict(params for _method, params in told) == expected
            told = dict([(await spelled.notification())[1] for _ in range(2)])
            assert told == {
                pairs[0][0].upper(): expected[pairs[0][0]],
                pairs[1][0]: expected[pairs[1][0]],
            }
            message = await versioned.recv()
            assert (message["id"], message["params"]) == (
                None,
                [pairs[2][0], expected[pairs[2][0]]],
            )
            assert [4, 2, 1] == [world.session(n).send_count - sent[n] for n in range(3)]
            assert [3, 2, 1] == [int((world.session(n).cost - costs[n]) / 0.2) for n in range(3)]
            assert "notified of 3 addresses" in caplog.text
            assert "notified of 1 address" in caplog.text
        assert world.db.history_reads == reads


async def test_the_status_of_a_script_with_unconfirmed_transactions_includes_them():
    async with session_world() as world:
        client = await world.connect()
        (one, one_x), (two, two_x) = script_hash("one"), script_hash("two")
        for sh in (one, two):
            await client.request(SUBSCRIBE, sh)
        await world.new_confirmed_block([one_x, two_x])
        before = dict([(await client.notification())[1] for _ in range(2)])
        world.mempool.summaries[two_x] = [Summary(make_tx_hash("a"), 1, False)]
        await world.touch(one_x, two_x)
        told = dict([(await client.notification())[1] for _ in range(2)])
        assert told[one] == before[one]
        text = "".join(f"{hash_to_hex_str(h)}:{n}:" for h, n in world.db.histories[two_x])
        text += hash_to_hex_str(make_tx_hash("a")) + ":0:"
        assert told[two] == sha256(text.encode()).hex()
        assert world.session().subscriptions.mempool_statuses == {two_x: told[two]}


async def test_a_block_that_confirms_all_or_some_of_a_wallets_transactions(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        client = await world.connect()
        (mined, mined_x), (pending, pending_x), (other, other_x) = map(script_hash, "abc")
        for sh in (mined, pending, other):
            await client.request(SUBSCRIBE, sh)
        summaries = world.mempool.summaries
        for hashX in (mined_x, pending_x, other_x):
            summaries[hashX] = [Summary(make_tx_hash(hashX), 1, True)]
        await world.touch(mined_x, pending_x, other_x)
        for _ in range(3):
            await client.notification()
        assert world.session().subscriptions.mempool_statuses.keys() == {
            mined_x,
            pending_x,
            other_x,
        }
        # The pending transaction has its parent confirmed, and is not touched itself.
        del summaries[mined_x]
        summaries[pending_x] = [Summary(make_tx_hash(pending_x), 1, False)]
        await world.new_confirmed_block([mined_x])
        assert not world.manager.shared.fan_out.tasks
        told = [(await client.notification())[1] for _ in range(2)]
        text = f"{hash_to_hex_str(make_tx_hash(pending_x))}:0:".encode()
        assert told == [
            [mined, status_of(world.db.histories[mined_x])],
            [pending, sha256(text).hex()],
        ]
        assert world.session().subscriptions.mempool_statuses.keys() == {pending_x, other_x}
        assert "notified of 2 addresses" in caplog.text
        summaries.clear()
        await world.new_confirmed_block([mined_x, pending_x, other_x])
        told = dict([(await client.notification())[1] for _ in range(3)])
        assert told == {
            sh: status_of(world.db.histories[hashX])
            for sh, hashX in ((mined, mined_x), (pending, pending_x), (other, other_x))
        }
        assert world.session().subscriptions.mempool_statuses == {}


async def test_a_block_is_notified_when_the_next_is_already_committed():
    async with session_world() as world:
        client = await world.connect()
        sh, hashX = script_hash("a")
        await client.request("blockchain.headers.subscribe")
        await client.request(SUBSCRIBE, sh)
        reads = world.db.history_reads
        world.add_confirmed_block([hashX])
        first = status_of(world.db.histories[hashX])
        world.add_confirmed_block([hashX])
        for height, status in ((11, first), (12, status_of(world.db.histories[hashX]))):
            world.bp.reported_height = height
            await world.manager.notifier.notify(height, {hashX})
            method, params = await client.notification()
            assert ("blockchain.headers.subscribe", height) == (method, params[0]["height"])
            assert params[0]["hex"] == world.db.headers[height].hex()
            assert await client.notification() == (SUBSCRIBE, [sh, status])
        assert world.db.history_reads == reads


async def test_news_of_a_block_that_is_undone_are_not_used():
    async with session_world() as world:
        client = await world.connect()
        sh, hashX = script_hash("a")
        await client.request(SUBSCRIBE, sh)
        before = world.db.db_tip
        world.add_confirmed_block([hashX])
        # The processor forgets it a moment later.
        world.db.pop_block()
        world.db.histories.clear()
        assert world.bp.confirmed_after(before) is not None
        await world.manager.notifier.notify(11, {hashX})
        assert world.manager.shared.header.result["height"] == 10
        assert (await client.notification())[1] == [sh, None]


async def test_a_header_does_not_wait_long_for_statuses(monkeypatch):
    monkeypatch.setattr(fanout, "HEADER_SECS", 0.01)
    async with session_world() as world:
        client, other = [await world.connect() for _ in range(2)]
        sh, hashX = script_hash("slow")
        for each in (client, other):
            await each.request("blockchain.headers.subscribe")
        await client.request(SUBSCRIBE, sh)
        gate = asyncio.Event()
        world.db.before_history_returns = gate.wait
        telling = asyncio.create_task(world.new_block([hashX]))
        for each in (client, other):
            assert (await each.notification())[0] == "blockchain.headers.subscribe"
        assert not telling.done()
        gate.set()
        await telling
        assert (await client.notification())[0] == SUBSCRIBE
        # Once only
        await world.touch(hashX)
        assert (await client.notification())[0] == SUBSCRIBE


async def test_a_subscription_that_times_out_before_it_began_does_not_silence_the_next(
    world, client
):
    await client.request("server.ping")
    session = world.session()
    scripthash, hashX = script_hash("alice")
    world.bp.lagging = True
    limits = session.account.limits
    session.account.limits = replace(limits, processing_timeout=0)
    message = {"jsonrpc": "2.0", "id": 5, "method": SUBSCRIBE, "params": [scripthash]}
    session.receiver.receive([json.dumps(message).encode()])
    # In the same turn of the loop: nothing that the request needs has begun.
    session.dispatcher.end_overdue()
    assert (await client.recv())["error"]["code"] == -102
    assert session.sub_count() == 0
    world.bp.lagging = False
    session.account.limits = limits
    await client.request(SUBSCRIBE, scripthash)
    await world.touch(hashX)
    assert (await client.notification())[0] == SUBSCRIBE


@pytest.mark.parametrize("begun", [True, False])
async def test_a_session_whose_notification_is_cancelled_is_ended(
    world, client, monkeypatch, begun
):
    scripthash, hashX = script_hash("alice")
    await client.request(SUBSCRIBE, scripthash)

    async def cancelled():
        raise asyncio.CancelledError

    monkeypatch.setattr(type(world.session()), "notify", lambda *args: cancelled())
    await world.touch(hashX)
    if not begun:
        world.manager.shared.fan_out.cancel()
    assert await client.recv() is None
    await until(lambda: not world.manager.sessions)
    assert not world.manager.shared.fan_out.busy
