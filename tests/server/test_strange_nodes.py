"""The block processor at a node that sends nonsense, or follows another chain than ours.

And on a machine whose clock is set.
"""

import asyncio
import time
from dataclasses import replace

import pytest

from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.processor import BlockProcessor, UndoMissingError
from electrumx.server.block_processor.reorg import ReorgFinder
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import DB
from tests.fakes.block_format import Regtest
from tests.fakes.chain import COIN, GENESIS, ChainMaker, Model, make_block
from tests.fakes.fake_node import FakeNode
from tests.fakes.world import ScriptedDaemon, World, assert_equals_model, make_env
from tests.server.block_processor.test_processor import hashXs


class OtherNetwork(Regtest):
    """A network whose genesis block is another one."""

    def genesis(self):
        raw = GENESIS[:76] + b"\1\0\0\0\0"
        return raw, raw[:80], []


@pytest.mark.parametrize("answer", ["zz", "", "00", "00" * 33, "é" * 64, "0" * 63 + " "])
async def test_a_block_hash_that_is_none_is_waited_out(tmp_path, answer):
    maker = ChainMaker(seed=31)
    tip = maker.grow(maker.genesis_hash, 10)
    async with (
        FakeNode(maker.chain(tip)) as node,
        Daemon(COIN, node.url) as daemon,
        World(make_env(tmp_path), daemon) as world,
    ):
        await world.until_at(maker.chain(tip))
        node.overrides["getblockhash"] = lambda _height: answer
        asked = node.counts()["getblockhash"]
        await world.until(lambda: node.counts()["getblockhash"] > asked + 3)
        del node.overrides["getblockhash"]
        tip = maker.extend(tip)
        node.append(maker.chain(tip)[-1])
        await world.until_at(maker.chain(tip))


async def stop_polling(bp):
    """Return when only the test polls the node for a reorganisation from here on."""
    paused = asyncio.Event()

    async def pause():
        paused.set()
        await asyncio.Event().wait()

    bp.poll_pause = pause
    await asyncio.wait_for(paused.wait(), 120)


async def poll(bp):
    """Return whether a poll finds that the node left our chain.

    One that meets a compaction, which holds the lock, compares nothing; it is repeated.
    """
    finder = bp.reorg_finder
    before = finder.short_height, finder.short_polls
    while True:
        has_left = await finder.daemon_left_our_chain()
        if (finder.short_height, finder.short_polls) != before:
            return has_left
        async with bp.state_lock:
            pass


async def assert_unharmed(world, maker, tip):
    """The database holds the chain up to a tip after the server has ended."""
    db = DB(world.env)
    await db.open_for_serving()
    try:
        await assert_equals_model(db, Model(maker.chain(tip)), hashXs(maker))
    finally:
        db.close_dbs()


async def test_what_cannot_be_undone_to_the_end_is_not_begun(tmp_path, monkeypatch):
    """The operator may only have named the wrong node."""
    monkeypatch.setattr(BlockProcessor, "UNDO_CHUNK", 2)
    maker = ChainMaker(seed=32)
    fork = maker.grow(maker.genesis_hash, 10)
    old = maker.grow(fork, 12)
    daemon = ScriptedDaemon(maker.chain(old))
    world = World(make_env(tmp_path, reorg_limit=5), daemon)
    async with world:
        await world.until_at(maker.chain(old))
        daemon.set_chain(maker.chain(maker.grow(fork, 14)))
        with pytest.raises(UndoMissingError, match="no undo information found for height 11"):
            await world.until(lambda: False)
    await assert_unharmed(world, maker, old)


@pytest.mark.parametrize("height", [3, 10, 15])
@pytest.mark.parametrize("reorg_limit", [5, 20])
async def test_a_node_of_another_chain_undoes_nothing(tmp_path, height, reorg_limit):
    maker = ChainMaker(seed=33)
    tip = maker.grow(maker.genesis_hash, 10)
    daemon = ScriptedDaemon(maker.chain(tip))
    world = World(make_env(tmp_path, reorg_limit=reorg_limit), daemon)
    async with world:
        await world.until_at(maker.chain(tip))

        other = ChainMaker(format=OtherNetwork(seed=34))
        assert other.genesis_hash != maker.genesis_hash
        daemon.url = "http://node-2/"
        daemon.set_chain(other.chain(other.grow(other.genesis_hash, height)))
        with pytest.raises(OperatorError, match="DAEMON_URL") as info:
            await world.until(lambda: False)
    assert "\n" not in str(info.value)
    assert "genesis" in str(info.value)
    await assert_unharmed(world, maker, tip)


async def test_a_node_that_starts_from_nothing_undoes_nothing_and_is_waited_for(tmp_path, caplog):
    """As with -reindex: it has fewer blocks than can be undone, and will have ours again."""
    caplog.set_level("WARNING")
    maker = ChainMaker(seed=35)
    tip = maker.grow(maker.genesis_hash, 20)
    chain = maker.chain(tip)
    daemon = ScriptedDaemon(chain)
    async with World(make_env(tmp_path, reorg_limit=5), daemon) as world:
        await world.until_at(chain)
        await world.until(lambda: world.bp.reorg_finder.followed_url)
        daemon.set_chain(chain[:1])
        await world.until(lambda: world.bp.reorg_finder.short_polls > 10)
        daemon.set_chain(chain[:14])
        await world.until(
            lambda: (
                (world.bp.reorg_finder.short_height, world.bp.reorg_finder.short_polls) > (13, 10)
            )
        )
        assert world.db.db_height == 20
        assert len([m for m in caplog.messages if "blocks fewer" in m]) == 1
        tip = maker.extend(tip)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))


async def test_blocks_undone_while_a_poll_compares_hashes_are_no_error(tmp_path):
    maker = ChainMaker(seed=36)
    chain = maker.chain(maker.grow(maker.genesis_hash, 10))
    daemon = ScriptedDaemon(chain)
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(chain)
        bp, db = world.bp, world.db
        await stop_polling(bp)
        daemon.set_chain(chain[:-1])
        headers, stores = db.headers, db.stores
        load = headers.load

        async def undo_meanwhile(start_height, count):
            headers.load = load
            stores.state = replace(stores.state, height=7)
            bp.state.height = 7
            await load(start_height, count)

        headers.forget()
        headers.load = undo_meanwhile
        state, height = stores.state, bp.height
        try:
            # A poll that meets a compaction, which holds the lock, compares nothing.
            while headers.load is not load:
                assert not await bp.reorg_finder.daemon_left_our_chain()
                async with bp.state_lock:
                    pass
        finally:
            stores.state, bp.state.height = state, height


async def test_a_long_error_of_the_node_is_cut_off_in_the_log(tmp_path, caplog):
    """A node that lost blocks has an error for each of the hashes that it is asked for."""
    caplog.set_level("INFO")
    maker = ChainMaker(seed=37)
    chain = maker.chain(maker.grow(maker.genesis_hash, 5))
    daemon = ScriptedDaemon(chain)
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(chain)
        world.bp.prefetcher.polling_delay = 0.01
        daemon.fail = [{"code": -8, "message": "Block height\nout of range"}] * 5000
        await world.until(lambda: caplog.text.count("ignoring daemon error") > 5)
        world.bp.reorg_seen = True
        world.bp.blocks_event.set()
        await world.until(lambda: not world.bp.reorg_seen)
        await world.until(lambda: caplog.text.count("ignoring daemon error") > 10)
        daemon.fail = None
    lines = [message for message in caplog.messages if "ignoring daemon error" in message]
    assert max(map(len, lines)) < 500
    assert "Block height" in lines[0]


@pytest.mark.parametrize("jump", [-1_000_000, 1_000_000])
async def test_a_clock_that_is_set_does_not_count_as_work(tmp_path, monkeypatch, caplog, jump):
    caplog.set_level("INFO")
    now = time.time
    maker = ChainMaker(seed=38)
    fork = maker.grow(maker.genesis_hash, 10)
    daemon = ScriptedDaemon(maker.chain(maker.grow(fork, 2)))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until(world.caught_up.is_set)
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        tip = maker.grow(fork, 4)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))
        assert 0 < world.db.wall_time < 1000
    took = [message for message in caplog.messages if "flush #" in message]
    assert took
    assert not [message for message in took if "took -" in message or ",000" in message]


async def test_no_more_blocks_are_replaced_on_demand_than_can_be_undone(tmp_path):
    """Also where REORG_LIMIT was lower when they were indexed."""
    maker = ChainMaker(seed=39)
    chain = maker.chain(maker.grow(maker.genesis_hash, 20))
    daemon = ScriptedDaemon(chain)
    async with World(make_env(tmp_path, reorg_limit=5), daemon) as world:
        await world.until_at(chain)
    async with World(make_env(tmp_path, reorg_limit=15), daemon) as world:
        await world.until_at(chain)
        with pytest.raises(ValueError, match="cannot reorganise 6 blocks"):
            await world.bp.force_chain_reorg(6)
        assert await world.bp.force_chain_reorg(5)
        await world.until(lambda: world.bp.forks_ended == 1)
        await world.until_at(chain)


async def test_a_reorg_deeper_than_an_earlier_limit_names_the_reason(tmp_path):
    maker = ChainMaker(seed=41)
    fork = maker.grow(maker.genesis_hash, 10)
    old = maker.grow(fork, 12)
    daemon = ScriptedDaemon(maker.chain(old))
    async with World(make_env(tmp_path, reorg_limit=5), daemon) as world:
        await world.until_at(maker.chain(old))
    async with World(make_env(tmp_path, reorg_limit=30), daemon) as world:
        await world.until_at(maker.chain(old))
        daemon.set_chain(maker.chain(maker.grow(fork, 14)))
        with pytest.raises(UndoMissingError, match="no undo information") as info:
            await world.until(lambda: False)
    text = str(info.value)
    assert "height 11: the reorganisation is 12 blocks deep, and REORG_LIMIT was lower" in text
    assert "deeper than REORG_LIMIT" not in text
    assert "restore a backup" in text


async def test_a_database_above_the_node_waits_and_logs_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(ReorgFinder, "ABOVE_LOG_SECS", 0.05)
    maker = ChainMaker(seed=42)
    low = maker.grow(maker.genesis_hash, 10)
    high = maker.grow(low, 5)
    daemon = ScriptedDaemon(maker.chain(high))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(high))
    daemon.set_chain(maker.chain(low))
    caplog.set_level("INFO")
    caplog.clear()
    text = (
        "the database is 5 blocks above daemon height 10: waiting for the daemon to reach height 15"
    )
    async with World(make_env(tmp_path), daemon) as world:
        await world.until(lambda: caplog.messages.count(text) >= 3)
        assert not world.caught_up.is_set()
        assert "caught up to daemon height 10" not in caplog.text
        with pytest.raises(ValueError, match="5 blocks above daemon height 10"):
            await world.bp.force_chain_reorg(1)
        tip = maker.extend(high)
        daemon.set_chain(maker.chain(tip))
        await world.until_at(maker.chain(tip))


async def test_a_restart_logs_no_speed_since_genesis(tmp_path, caplog):
    caplog.set_level("INFO")
    maker = ChainMaker(seed=43)
    low = maker.grow(maker.genesis_hash, 10)
    daemon = ScriptedDaemon(maker.chain(low))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(low))
    assert "tx/sec since genesis" in caplog.text
    caplog.clear()
    high = maker.grow(low, 5)
    daemon.set_chain(maker.chain(high))
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(maker.chain(high))
    assert "flush #" in caplog.text
    assert "since genesis" not in caplog.text
    assert "ETA" not in caplog.text


@pytest.mark.parametrize("answer", ["", "00", "00" * 200, 7])
async def test_a_block_that_is_none_is_waited_out_in_one_line(tmp_path, caplog, answer):
    caplog.set_level("INFO")
    maker = ChainMaker(seed=40)
    tip = maker.grow(maker.genesis_hash, 5)
    async with (
        FakeNode(maker.chain(tip)) as node,
        Daemon(COIN, node.url) as daemon,
        World(make_env(tmp_path), daemon) as world,
    ):
        await world.until_at(maker.chain(tip))
        world.bp.prefetcher.polling_delay = 0.01
        node.overrides["getblock"] = lambda *_args: answer
        tip = maker.extend(tip)
        node.append(maker.chain(tip)[-1])
        asked = node.counts()["getblock"]
        await world.until(lambda: node.counts()["getblock"] > asked + 2)
        # The same each time, it is logged once.
        assert caplog.text.count("ignoring daemon error") == 1
        del node.overrides["getblock"]
        await world.until_at(maker.chain(tip))
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_node_that_grows_towards_our_height_undoes_nothing(tmp_path):
    maker = ChainMaker(seed=41)
    chain = maker.chain(maker.grow(maker.genesis_hash, 20))
    daemon = ScriptedDaemon(chain)
    async with World(make_env(tmp_path, reorg_limit=15), daemon) as world:
        await world.until_at(chain)
        bp = world.bp
        await world.until(lambda: bp.reorg_finder.followed_url)
        await stop_polling(bp)
        daemon.set_chain(chain[:1])
        for length in (8, 9, 12, 15, 20):
            daemon.set_chain(chain[:length])
            assert not await poll(bp)
        # It has stopped growing.
        assert await poll(bp)
        daemon.set_chain(chain)
        assert not await poll(bp)


async def test_blocks_that_never_form_a_chain_are_not_asked_for_all_the_time(tmp_path, caplog):
    maker = ChainMaker(seed=42)
    chain = maker.chain(maker.grow(maker.genesis_hash, 10))

    class Confused(ScriptedDaemon):
        asked = 0
        is_confused = True

        async def raw_blocks(self, hex_hashes):
            blocks = await super().raw_blocks(hex_hashes)
            if self.is_confused and len(blocks) > 3:
                self.asked += 1
                blocks[2] = blocks[1]
            return blocks

    daemon = Confused(chain)
    async with World(make_env(tmp_path), daemon) as world:
        world.bp.RETRY_SECS = 1000
        # The node may only have changed branches: the first retry is immediate.
        await world.until(lambda: caplog.text.count("do not form a chain") >= 2)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert daemon.asked <= 4
    daemon.is_confused = False
    async with World(make_env(tmp_path), daemon) as world:
        await world.until_at(chain)


@pytest.mark.parametrize("indexer", ["python", "auto"])
async def test_a_block_that_never_parses_ends_the_server_with_one_line(tmp_path, caplog, indexer):
    """As where COIN is another one, whose transactions have other fields."""
    maker = ChainMaker(seed=43)
    tip = maker.grow(maker.genesis_hash, 10)
    chain = maker.chain(tip)
    bad = maker.chain(maker.extend(tip))[-1]
    daemon = ScriptedDaemon([*chain, bad[:-1]])
    world = World(make_env(tmp_path, indexer=indexer), daemon)
    async with world:
        world.bp.parser.PARSE_BYTES = 1
        with pytest.raises(OperatorError, match="block 11 does not parse") as info:
            await world.until(lambda: False)
    assert "check COIN, NET and DAEMON_URL" in str(info.value)
    assert "\n" not in str(info.value)
    lines = [m for m in caplog.messages if "sent a block that does not parse" in m]
    assert len(lines) == 3
    # The blocks before it are kept.
    await assert_unharmed(world, maker, tip)


async def test_a_block_that_does_not_parse_at_first_is_asked_for_again(tmp_path, caplog):
    maker = ChainMaker(seed=44)
    tip = maker.grow(maker.genesis_hash, 10)
    chain = maker.chain(tip)

    class Damaged(ScriptedDaemon):
        asked = 0

        async def raw_blocks(self, hex_hashes):
            blocks = await super().raw_blocks(hex_hashes)
            if hex_hashes[-1] == self.hashes[-1]:
                self.asked += 1
                # The last block is damaged four times, each time in another way.
                if self.asked < 5:
                    blocks[-1] = blocks[-1][: -self.asked]
            return blocks

    async with World(make_env(tmp_path), Damaged(chain)) as world:
        await world.until_at(chain)
    assert caplog.text.count("does not parse") == 4


@pytest.mark.parametrize("indexer", ["python", "auto"])
async def test_a_block_that_spends_what_is_not_there_ends_the_server_with_one_line(
    tmp_path, indexer
):
    """As where the node lets other outputs into its set than we into ours."""
    maker = ChainMaker(seed=45)
    chain = maker.chain(maker.grow(maker.genesis_hash, 10))
    spend = Tx(1, [TxInput(b"\x55" * 32, 3, b"", 0)], [TxOutput(1, b"\x51")], 0)
    bad = make_block(double_sha256(chain[-1][:80]), [spend])
    daemon = ScriptedDaemon([*chain, bad])
    world = World(make_env(tmp_path, indexer=indexer), daemon)
    async with world:
        with pytest.raises(OperatorError, match='not found in "h" table, at block 11') as info:
            await world.until(lambda: False)
    assert isinstance(info.value, ChainError)
    assert "COIN, NET and DAEMON_URL" in str(info.value)
    assert "\n" not in str(info.value)
