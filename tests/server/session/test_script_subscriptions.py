"""The script subscriptions of one client: which statuses are sent, kept and deferred."""

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace

import pytest

from electrumx.lib.hash import hash_to_hex_str, sha256
from electrumx.server.session.engine.jsonrpc import V2
from electrumx.server.session.methods.script_subscriptions import SUBSCRIBE, ScriptSubscriptions
from electrumx.server.session.notify.subscriptions import ScriptIndex
from electrumx.server.session.shared.script_cache import ScriptCache
from electrumx.server.session.shared.tip_consistency import TipConsistency
from tests.fakes.session_world import (
    FakeBP,
    FakeDB,
    FakeMempool,
    Summary,
    make_tx_hash,
    script_hash,
)

ALICE, ALICE_X = script_hash("alice")
BOB, BOB_X = script_hash("bob")


def status_of(*entries):
    text = "".join(f"{hash_to_hex_str(tx_hash)}:{height}:" for tx_hash, height in entries)
    return sha256(text.encode()).hex()


class Client:
    """A session that records what it sends: its own account and send queue."""

    rpc_version = V2
    protocol_tuple = (1, 4)
    logger = logging.getLogger("client")

    def __init__(self):
        self.sent, self.cost, self.closing = [], 0.0, False
        self.account = self.queue = self
        self.db = FakeDB()
        self.mempool = FakeMempool()
        tip = TipConsistency(FakeBP(self.db), self.db)
        tip.notified(self.db.db_height, self.db.db_tip)
        self.fan_out = SimpleNamespace(
            scripts=ScriptIndex(), notified=[], notify_deferred=self.notify_deferred
        )
        shared = SimpleNamespace(
            unconfirmed=self.mempool,
            scripts=ScriptCache(self.db, 350_000),
            tip=tip,
            fan_out=self.fan_out,
            notified=Counter(),
        )
        self.shared = shared
        self.subscriptions = ScriptSubscriptions(self, shared)
        self.deferred = []

    def notify_deferred(self, client, hashX):
        self.deferred.append((client, hashX))

    def bump_cost(self, delta):
        self.cost += delta

    def post_lines(self, lines, count):
        assert lines.count(b"\n") == count - 1
        self.sent += [("line", line) for line in lines.split(b"\n")]

    def post_notification(self, method, args):
        self.sent.append((method, *args))

    def flush(self):
        pass

    def is_closing(self):
        return self.closing

    def log_notified(self, count):
        pass

    async def subscribe(self, alias, hashX):
        self.subscriptions.scripts.add(hashX, alias)
        history, cost = await self.shared.scripts.histories.hashes.read(hashX)
        return self.subscriptions.status(hashX, history, cost)


@pytest.fixture
async def client():
    return Client()


async def test_a_status_is_kept_only_while_it_depends_on_the_mempool(client):
    a, b = make_tx_hash("a"), make_tx_hash("b")
    client.db.histories[ALICE_X] = [(a, 5)]
    assert await client.subscribe(ALICE, ALICE_X) == status_of((a, 5))
    assert client.subscriptions.mempool_statuses == {}
    client.mempool.summaries[ALICE_X] = [Summary(b, 1, False)]
    status = status_of((a, 5), (b, 0))
    assert await client.subscribe(ALICE, ALICE_X) == status
    assert client.subscriptions.mempool_statuses == {ALICE_X: status}
    client.mempool.summaries.clear()
    await client.subscribe(ALICE, ALICE_X)
    assert client.subscriptions.mempool_statuses == {}


async def test_confirmed_and_cached_statuses_are_sent_without_waiting(client):
    await client.subscribe(ALICE, ALICE_X)
    await client.subscribe(BOB, BOB_X)
    assert client.subscriptions.notify({ALICE_X, BOB_X, b"z" * 11}, True) is None
    assert {kind for kind, _line in client.sent} == {"line"}
    lines = b"".join(line for _kind, line in client.sent)
    assert ALICE.encode() in lines
    assert BOB.encode() in lines
    assert client.fan_out.notified == [(client, 2)]
    assert client.shared.notified == {"script": 2}


async def test_a_status_that_another_block_changed_is_sent_though_the_script_is_not_touched(client):
    child = make_tx_hash("child")
    client.mempool.summaries[ALICE_X] = [Summary(child, 1, True)]
    await client.subscribe(ALICE, ALICE_X)
    assert client.subscriptions.notify(set(), True) is None
    assert client.sent == []
    client.mempool.summaries[ALICE_X] = [Summary(child, 1, False)]
    assert client.subscriptions.notify(set(), False) is None
    assert client.sent == []
    assert client.subscriptions.notify(set(), True) is None
    assert client.sent == [(SUBSCRIBE, ALICE, status_of((child, 0)))]


async def test_a_history_that_has_to_be_read_is_waited_for(client):
    await client.subscribe(ALICE, ALICE_X)
    client.db.histories[ALICE_X] = [(make_tx_hash("a"), 11)]
    client.shared.scripts.drop([ALICE_X])
    waiting = client.subscriptions.notify({ALICE_X}, True)
    assert client.sent == []
    await waiting
    assert client.sent == [(SUBSCRIBE, ALICE, status_of((make_tx_hash("a"), 11)))]


async def test_a_history_that_became_too_large_ends_the_subscription_with_null(client):
    await client.subscribe(ALICE, ALICE_X)
    limit = client.shared.scripts.histories.limit
    client.db.histories[ALICE_X] = [(make_tx_hash("a"), 11)] * limit
    client.shared.scripts.drop([ALICE_X])
    await client.subscriptions.notify({ALICE_X}, True)
    assert client.sent == [(SUBSCRIBE, ALICE, None)]
    assert len(client.subscriptions.scripts) == 0


async def test_a_notification_before_the_reply_is_deferred_until_after_it(client):
    reply = asyncio.get_running_loop().create_future()
    client.subscriptions.scripts.add(ALICE_X, ALICE)
    awaited = client.subscriptions.await_reply(ALICE_X, reply)
    assert client.subscriptions.notify({ALICE_X}, True) is None
    assert client.sent == client.deferred == []
    reply.set_result(None)
    await awaited
    for _ in range(3):
        await asyncio.sleep(0)
    assert client.deferred == [(client, ALICE_X)]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_subscription_whose_reply_failed_is_removed(client, is_cancelled):
    reply = asyncio.get_running_loop().create_future()
    client.subscriptions.scripts.add(ALICE_X, ALICE)
    awaited = client.subscriptions.await_reply(ALICE_X, reply)
    client.subscriptions.notify({ALICE_X}, True)
    if is_cancelled:
        reply.cancel()
    else:
        reply.set_exception(OSError("disk"))
    with pytest.raises((OSError, asyncio.CancelledError)):
        await awaited
    for _ in range(3):
        await asyncio.sleep(0)
    assert ALICE_X not in client.subscriptions.scripts
    assert client.deferred == []


async def test_a_removed_subscription_has_no_status_any_more(client):
    client.mempool.summaries[ALICE_X] = [Summary(make_tx_hash("a"), 1, False)]
    await client.subscribe(ALICE, ALICE_X)
    assert client.subscriptions.remove(ALICE_X) == ALICE
    assert client.subscriptions.mempool_statuses == {}
    assert client.subscriptions.remove(ALICE_X) is None
