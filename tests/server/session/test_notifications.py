"""Notifications: their content, time and order, and that one client cannot harm the others."""

import asyncio
import logging

import pytest

from electrumx.lib.hash import double_sha256, hash_to_hex_str, sha256
from electrumx.server.session import ElectrumX
from electrumx.server.session.notify import fanout
from electrumx.server.session.shared import script_history
from electrumx.server.session.shared import tip_consistency as chaintip
from tests.fakes.session_world import (
    Summary,
    make_tx_hash,
    script_hash,
    session_world,
    until,
    utxo,
)

ALICE, ALICE_X = script_hash("alice")
BOB, BOB_X = script_hash("bob")
SUBSCRIBE = "blockchain.scripthash.subscribe"
HEADERS = "blockchain.headers.subscribe"


def status_of(*entries):
    text = "".join(f"{hash_to_hex_str(tx_hash)}:{height}:" for tx_hash, height in entries)
    return sha256(text.encode()).hex()


async def test_a_header_notification_comes_before_those_of_scripts():
    async with session_world() as world:
        client = await world.connect()
        await client.request(SUBSCRIBE, ALICE)
        await client.request(HEADERS)
        tx_hash = make_tx_hash("a")
        world.db.histories[ALICE_X] = [(tx_hash, 11)]
        await world.new_block([ALICE_X])
        header = {"hex": world.db.headers[11].hex(), "height": 11}
        assert (HEADERS, [header]) == await client.notification()
        assert (SUBSCRIBE, [ALICE, status_of((tx_hash, 11))]) == await client.notification()
        assert header == await client.request(HEADERS)


async def test_only_subscribers_are_notified():
    async with session_world() as world:
        client = await world.connect()
        await client.request(SUBSCRIBE, ALICE)
        await world.new_block([BOB_X])
        await client.no_notification()


async def test_a_touched_script_is_notified_even_if_its_status_is_equal(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        client = await world.connect()
        await client.request(SUBSCRIBE, ALICE)
        await client.request(SUBSCRIBE, BOB)
        await world.touch(ALICE_X)
        assert (SUBSCRIBE, [ALICE, None]) == await client.notification()
        await world.touch(ALICE_X, BOB_X)
        told = [await client.notification() for _ in range(2)]
        assert [(SUBSCRIBE, [ALICE, None]), (SUBSCRIBE, [BOB, None])] == sorted(
            told, key=lambda item: item[1][0] != ALICE
        )
        assert "notified of 1 address\n" in caplog.text
        assert "notified of 2 addresses\n" in caplog.text


async def test_no_notification_precedes_the_answer_of_its_subscription():
    async with session_world() as world:
        client = await world.connect()
        tx_hash = make_tx_hash("a")

        async def block_comes():
            world.db.before_history_returns = None
            world.db.histories[ALICE_X] = [(tx_hash, 11)]
            await world.new_block([ALICE_X])

        # Electrum closes a connection on a notification before the reply to the subscription.
        world.db.before_history_returns = block_comes
        status = status_of((tx_hash, 11))
        assert status == await client.request(SUBSCRIBE, ALICE)
        assert [] == client.notifications
        assert (SUBSCRIBE, [ALICE, status]) == await client.notification()
        await client.no_notification()
        await world.touch(ALICE_X)
        assert (SUBSCRIBE, [ALICE, status]) == await client.notification()


async def test_what_a_block_changes_of_a_subscription_that_is_not_answered_yet_follows_the_answer():
    async with session_world() as world:
        client = await world.connect()
        tx_hash = make_tx_hash("chained")
        world.mempool.summaries[ALICE_X] = [Summary(tx_hash, 100, True)]

        async def block_comes():
            world.db.before_history_returns = None
            world.mempool.summaries[ALICE_X][0].has_unconfirmed_inputs = False
            await world.new_block([BOB_X])

        world.db.before_history_returns = block_comes
        assert status_of((tx_hash, 0)) == await client.request(SUBSCRIBE, ALICE)
        assert [] == client.notifications
        # Its status is one that is looked at again at each block.
        world.mempool.summaries[ALICE_X][0].has_unconfirmed_inputs = True
        await world.new_block([BOB_X])
        assert (SUBSCRIBE, [ALICE, status_of((tx_hash, -1))]) == await client.notification()
        await client.no_notification()


async def test_a_subscription_that_fails_while_a_block_comes_is_none():
    async with session_world(max_send=0) as world:
        client = await world.connect()
        limit = (350_000 - 100) // 99

        async def block_comes():
            world.db.before_history_returns = None
            world.db.histories[ALICE_X] = [(make_tx_hash(n), 11) for n in range(limit)]
            await world.new_block([ALICE_X])

        world.db.before_history_returns = block_comes
        assert (10001, "history too large") == await client.error(SUBSCRIBE, ALICE)
        await world.touch(ALICE_X)
        await client.no_notification()
        assert 0 == world.session().sub_count()


async def test_the_spelling_last_used_is_the_one_notified():
    async with session_world() as world:
        client = await world.connect()
        await client.request(SUBSCRIBE, ALICE)
        await client.request(SUBSCRIBE, ALICE.upper())
        await world.touch(ALICE_X)
        assert (SUBSCRIBE, [ALICE.upper(), None]) == await client.notification()
        await client.no_notification()


async def test_a_status_with_mempool_txs_is_reconsidered_at_each_block():
    async with session_world() as world:
        client = await world.connect()
        tx_hash = make_tx_hash("chained")
        world.mempool.summaries[ALICE_X] = [Summary(tx_hash, 1, True)]
        assert status_of((tx_hash, -1)) == await client.request(SUBSCRIBE, ALICE)
        await world.new_block()
        await client.no_notification()
        # Its parent is mined: nothing of ours was touched
        world.mempool.summaries[ALICE_X] = [Summary(tx_hash, 1, False)]
        await world.new_block()
        assert (SUBSCRIBE, [ALICE, status_of((tx_hash, 0))]) == await client.notification()
        await world.new_block()
        await client.no_notification()
        # Touching another subscription makes it reconsidered too
        await client.request(SUBSCRIBE, BOB)
        world.mempool.summaries[ALICE_X] = [Summary(tx_hash, 1, True)]
        await world.touch(BOB_X)
        assert (SUBSCRIBE, [BOB, None]) == await client.notification()
        assert (SUBSCRIBE, [ALICE, status_of((tx_hash, -1))]) == await client.notification()


async def test_a_just_sent_status_is_not_sent_again():
    async with session_world() as world:
        client = await world.connect()
        await client.request(SUBSCRIBE, ALICE)
        world.mempool.summaries[ALICE_X] = [Summary(make_tx_hash("a"), 1, False)]
        await world.touch(ALICE_X)
        await client.notification()
        await client.no_notification()


async def test_a_history_grown_too_large_ends_the_subscription_with_null():
    async with session_world() as world:
        client = await world.connect()
        world.db.histories[ALICE_X] = [(make_tx_hash("a"), 3)]
        await client.request(SUBSCRIBE, ALICE)
        world.db.histories[ALICE_X] = [(make_tx_hash(n), n) for n in range(10_100)]
        await world.new_block([ALICE_X])
        assert (SUBSCRIBE, [ALICE, None]) == await client.notification()
        assert 0 == world.session().sub_count()
        await world.touch(ALICE_X)
        await client.no_notification()


async def test_an_unsubscribed_script_is_not_notified():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.4.2")
        await client.request(SUBSCRIBE, ALICE)
        await client.request("blockchain.scripthash.unsubscribe", ALICE)
        await world.touch(ALICE_X)
        await client.no_notification()


async def test_a_script_unsubscribed_from_while_statuses_are_computed_is_not_notified():
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.version", "x", "1.4.2")
        gates = []

        async def wait():
            gates.append(asyncio.Event())
            await gates[-1].wait()

        for script, hashX in ((ALICE, ALICE_X), (BOB, BOB_X)):
            await client.request(SUBSCRIBE, script)
            world.mempool.summaries[hashX] = [Summary(make_tx_hash("b"), 100, False)]
        world.manager.shared.scripts.histories.hashes.clear()
        world.db.before_history_returns = wait
        session = world.session()
        notifying = asyncio.ensure_future(session.notify({ALICE_X, BOB_X}, False))
        # One status is there, of the other the history is still being read.
        await until(lambda: len(gates) == 1)
        gates[0].set()
        await until(lambda: len(gates) == 2)
        for script in (ALICE, BOB):
            assert await client.request("blockchain.scripthash.unsubscribe", script)
        gates[1].set()
        await notifying
        await client.no_notification()
        assert {} == session.subscriptions.mempool_statuses


@pytest.mark.parametrize("is_cached", [False, True])
async def test_a_block_while_a_long_history_is_hashed_is_in_the_status(is_cached, monkeypatch):
    monkeypatch.setattr(script_history, "INLINE_ITEMS", 0)
    monkeypatch.setattr(script_history, "KEPT_HASH_ENTRIES", 0)
    async with session_world() as world:
        client = await world.connect()
        old, new = make_tx_hash("old"), make_tx_hash("new")
        world.db.histories[ALICE_X] = [(old, 5)]
        world.mempool.summaries[ALICE_X] = [Summary(new, 100, False)]
        histories = world.manager.shared.scripts.histories
        if is_cached:
            await histories.read(ALICE_X)
        hashed, held, go_on = histories.hashes.hash_history, asyncio.Event(), asyncio.Event()

        async def slowly(hashX, history):
            if not held.is_set():
                held.set()
                await go_on.wait()
            await hashed(hashX, history)

        histories.hashes.hash_history = slowly
        asking = asyncio.ensure_future(client.request(SUBSCRIBE, ALICE))
        await asyncio.wait_for(held.wait(), 60)
        world.mempool.summaries.clear()
        world.db.histories[ALICE_X].append((new, 11))
        await world.new_block([ALICE_X])
        go_on.set()
        status = status_of((old, 5), (new, 11))
        assert await asking == status
        assert await client.notification() == (SUBSCRIBE, [ALICE, status])


async def test_another_block_of_the_same_height_is_news():
    async with session_world() as world:
        client = await world.connect()
        await client.request(HEADERS)
        world.db.histories[ALICE_X] = [(make_tx_hash("a"), 10)]
        await client.request("blockchain.scripthash.get_history", ALICE)
        world.db.pop_block()
        world.db.add_block(fork=1)
        world.db.histories[ALICE_X] = []
        await world.touch(ALICE_X)
        header = {"hex": world.db.headers[10].hex(), "height": 10}
        assert (HEADERS, [header]) == await client.notification()
        assert [] == await client.request("blockchain.scripthash.get_history", ALICE)
        await world.touch()
        await client.no_notification()


async def test_heights_above_the_database_are_not_notified():
    async with session_world() as world:
        client = await world.connect()
        await client.request(HEADERS)
        await world.manager.notifier.notify(15, set())
        await client.no_notification()
        assert 10 == world.manager.shared.tip.notified_height


def replace_notify(monkeypatch, session, notify):
    """Have one session notified in another way."""
    as_before = ElectrumX.notify

    def choose(notified, touched, height_changed):
        if notified is session:
            return notify(touched, height_changed)
        return as_before(notified, touched, height_changed)

    monkeypatch.setattr(ElectrumX, "notify", choose)


async def test_a_failing_session_is_closed_and_the_others_are_notified(caplog, monkeypatch):
    async with session_world() as world:
        bad, good = await world.connect(), await world.connect()
        for client in (bad, good):
            await client.request(SUBSCRIBE, ALICE)

        async def fail(touched, height_changed):
            raise KeyError("broken")

        replace_notify(monkeypatch, world.session(0), fail)
        await world.new_block([ALICE_X])
        assert (await good.notification())[0] == SUBSCRIBE
        assert None is await bad.recv()
        assert "KeyError" in caplog.text
        await world.new_block([ALICE_X])
        assert (await good.notification())[0] == SUBSCRIBE


async def test_a_session_that_takes_too_long_to_notify_is_closed(caplog, monkeypatch):
    # Time enough for the other, however busy the machine is
    monkeypatch.setattr(fanout, "NOTIFY_SECS", 1.0)
    async with session_world() as world:
        slow, good = await world.connect(), await world.connect()
        for client in (slow, good):
            await client.request(SUBSCRIBE, ALICE)

        async def hang(touched, height_changed):
            await asyncio.Event().wait()

        replace_notify(monkeypatch, world.session(0), hang)
        await world.new_block([ALICE_X])
        assert (await good.notification())[0] == SUBSCRIBE
        assert None is await slow.recv()
        assert "with 1 subscriptions: could not notify it" in caplog.text


async def test_notifying_after_the_end_does_no_harm():
    async with session_world() as world:
        client = await world.connect()
        await client.request(HEADERS)
        world.serving.cancel()
        await asyncio.gather(world.serving, return_exceptions=True)
        await world.new_block([ALICE_X])
        assert None is await client.recv()


# -- caches


async def test_a_history_is_read_once_until_it_is_touched():
    async with session_world() as world:
        client = await world.connect()
        for _ in range(3):
            await client.request("blockchain.scripthash.get_history", ALICE)
        assert 1 == world.db.history_reads
        await world.new_block([BOB_X])
        await client.request("blockchain.scripthash.get_history", ALICE)
        assert 1 == world.db.history_reads
        world.db.histories[ALICE_X] = [(make_tx_hash("a"), 12)]
        await world.new_block([ALICE_X])
        assert 1 == len(await client.request("blockchain.scripthash.get_history", ALICE))
        assert 2 == world.db.history_reads


async def test_a_read_begun_before_an_invalidation_is_not_kept():
    async with session_world() as world:
        client = await world.connect()

        async def block_arrives():
            world.db.before_history_returns = None
            world.db.histories[ALICE_X] = [(make_tx_hash("a"), 11)]
            await world.new_block([ALICE_X])

        world.db.before_history_returns = block_arrives
        assert 1 == len(await client.request("blockchain.scripthash.get_history", ALICE))
        assert 1 == len(await client.request("blockchain.scripthash.get_history", ALICE))


async def test_a_reorg_clears_the_caches_of_blocks(caplog):
    caplog.set_level(logging.INFO)
    async with session_world() as world:
        client = await world.connect()
        for _ in range(2):
            await client.request("blockchain.transaction.id_from_pos", 5, 0)
        summary = world.manager.shared.blocks.tx_hashes.summary()
        assert "2 lookups 1 hits 1 entries" == summary
        world.bp.backed_up_event.set()
        world.bp.backed_up_event.clear()
        await until(lambda: len(world.manager.shared.blocks.tx_hashes) == 0)
        assert 1 == world.manager.shared.tip.reorg_count
        assert "reorg signalled; clearing tx_hashes and merkle caches" in caplog.text


# -- the chain tip


async def test_an_answer_waits_until_database_and_notification_agree(monkeypatch):
    monkeypatch.setattr(chaintip, "WAITS", (0, 30, 30, 30, 30, 30))
    async with session_world() as world:
        client = await world.connect()
        await client.request("server.ping")
        world.db.add_block()
        asking = asyncio.create_task(client.request("blockchain.scripthash.get_balance", ALICE))
        await until(lambda: world.session().cost > 5.2)
        assert not asking.done()
        world.db.utxos[ALICE_X] = [utxo("a", 5)]
        await world.touch()
        assert {"confirmed": 5, "unconfirmed": 0} == await asking


async def test_a_chain_that_never_settles_is_an_error_after_six_tries(monkeypatch):
    monkeypatch.setattr(chaintip, "WAITS", (0, 0.01, 0.01, 0.01, 0.01, 0.01))
    async with session_world() as world:
        client = await world.connect()
        world.bp.lagging = True
        text = (
            "chaintip moved too many times, or DB not in sync with daemon, while processing request"
        )
        for name in ("get_balance", "get_history", "get_mempool", "listunspent", "subscribe"):
            world.manager.housekeeping.recalc_costs(0)
            assert (1, text) == await client.error(f"blockchain.scripthash.{name}", ALICE)
            world.session().account.cost = 0
        assert 0 == world.session().sub_count()
        await client.request("blockchain.transaction.id_from_pos", 5, 0)


async def test_what_is_in_memory_is_answered_while_a_block_is_not_on_disk_yet():
    async with session_world() as world:
        client = await world.connect()
        world.db.utxos[ALICE_X] = [utxo("a", 5)]
        balance = await client.request("blockchain.scripthash.get_balance", ALICE)
        status = await client.request("blockchain.scripthash.subscribe", ALICE)
        world.bp.lagging = True
        assert balance == await client.request("blockchain.scripthash.get_balance", ALICE)
        assert status == await client.request("blockchain.scripthash.subscribe", ALICE)
        # But not once a block is committed of which clients were not notified.
        world.bp.lagging = False
        world.db.add_block()
        asking = asyncio.create_task(client.request("blockchain.scripthash.subscribe", ALICE))
        cost = world.session().cost
        await until(lambda: world.session().cost > cost)
        assert not asking.done()
        await world.touch()
        assert status == await asking


async def test_a_tip_that_moves_during_the_computation_repeats_it():
    async with session_world() as world:
        client = await world.connect()
        sums = iter(([utxo("a", 1)], [utxo("a", 2)]))

        async def moving_utxos(hashX):
            result = next(sums)
            if result[0].value == 1:
                await world.new_block()
            return result

        world.db.all_utxos = moving_utxos
        assert {"confirmed": 2, "unconfirmed": 0} == await client.request(
            "blockchain.scripthash.get_balance", ALICE
        )


def test_the_tip_is_a_header_hash():
    from tests.fakes.session_world import FakeDB

    db = FakeDB()
    assert double_sha256(db.headers[-1]) == db.db_tip
