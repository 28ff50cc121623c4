"""An audit finds every kind of damage, and nothing in an intact database."""

import asyncio
import logging
import os
import re
from contextlib import asynccontextmanager

import pytest

from electrumx.cli import verify as tool
from electrumx.lib.coins import BitcoinSegwitRegtest
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.lib.util import pack_le_uint32
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import DaemonError
from electrumx.server.db import DB, DBError
from electrumx.server.maintenance.verify import NODE_TRIES, Audit, verify
from electrumx.server.storage.schema import pack_tx_num
from tests.fakes.chain import MINUS_1, NULL, ChainMaker, Model, make_block
from tests.fakes.world import ScriptedDaemon, World, make_env
from tests.ports import free_port

LOGGER = logging.getLogger("audit")
MAKER = ChainMaker(seed=61)
TIP = MAKER.grow(MAKER.genesis_hash, 60)
CHAIN = MAKER.chain(TIP)
MODEL = Model(CHAIN)


async def make_database(env, chain=CHAIN):
    """Index a chain in some flushes, as a server that has caught up."""
    daemon = ScriptedDaemon(chain)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    for first in range(0, len(chain), 7):
        bp.state.advance_blocks(bp.parser.parse_blocks(chain[first : first + 7], first))
        await bp.flush_scheduler.flush(True)
    db.write_caught_up()
    db.close_dbs()


@asynccontextmanager
async def opened(env):
    db = DB(env)
    await db.open_for_serving()
    try:
        yield db
    finally:
        db.close_dbs()


async def audited(db, *, deep=True, daemon=None):
    verdict = await verify(db, deep=deep, lock=asyncio.Lock(), daemon=daemon, logger=LOGGER)
    ends = ("verdict: sound",) if verdict.sound else ("verdict: DAMAGED", "verdict: undecided")
    assert verdict.lines[-1].startswith(ends)
    return verdict


class CountingNode(ScriptedDaemon):
    """Counts its outputs as Bitcoin Core does."""

    #: how much it gets wrong
    extra = 0

    async def gettxoutsetinfo(self, hex_hash=None):
        if hex_hash is not None:
            raise DaemonError({"code": -8, "message": "needs coinstatsindex"})
        unspent = {}
        for height, raw in enumerate(self.raw):
            for tx, tx_hash in BitcoinSegwitRegtest.block(raw, height).transactions:
                for txin in tx.inputs:
                    unspent.pop((txin.prev_hash, txin.prev_idx), None)
                for index, txout in enumerate(tx.outputs):
                    script = txout.pk_script
                    if script[:1] != b"\x6a" and len(script) <= 10_000:
                        unspent[tx_hash, index] = txout.value
        return {
            "height": len(self.raw) - 1,
            "bestblock": self.hashes[-1],
            "txouts": len(unspent) + self.extra,
            "total_amount": sum(unspent.values()) / 10**8,
        }


@pytest.mark.parametrize("deep", [False, True])
async def test_an_intact_database_is_found_intact_and_counted(tmp_path, engine, deep):
    env = make_env(tmp_path, engine=engine)
    await make_database(env)
    async with opened(env) as db:
        verdict = await audited(db, deep=deep)
    assert verdict.sound
    total = sum(value for _hashX, value, _height, _num in MODEL.unspent.values())
    entries = sum(map(len, MODEL.history.values()))
    assert verdict.lines[0] == (
        f"height 60, {sum(map(len, MODEL.tx_hashes)):,d} transactions, {len(MODEL.unspent):,d} UTXOs "
        f"of {BitcoinSegwitRegtest.decimal_value(total):,f} XTN, {entries:,d} history entries"
    )
    assert len(verdict.lines) == 2


def first_row(store, prefix, length=None):
    return next(
        (key, value)
        for key, value in store.iterator(prefix=prefix)
        if length is None or len(key) == length
    )


def put(store, key, value):
    with store.write_batch() as batch:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)


def lose_outpoint_row(db):
    put(db.utxo_db, first_row(db.utxo_db, b"h")[0], None)
    return "UTXOs: script row [0-9a-f]+ lacks its outpoint row"


def lose_script_row(db):
    put(db.utxo_db, first_row(db.utxo_db, b"u")[0], None)
    return "UTXOs: outpoint row [0-9a-f]+ lacks its script row"


def give_a_coin_to_another(db):
    key, _hashX = first_row(db.utxo_db, b"h")
    put(db.utxo_db, key, b"\xee" * 11)
    return "UTXOs: outpoint row [0-9a-f]+ lacks its script row"


def shorten_an_outpoint_row(db):
    key, hashX = first_row(db.utxo_db, b"h")
    put(db.utxo_db, key, hashX[:-1])
    return "outpoint rows: [0-9a-f]+ has a wrong length"


def shorten_a_script_row(db):
    key, value = first_row(db.utxo_db, b"u")
    put(db.utxo_db, key, value[:-1])
    return "script rows: [0-9a-f]+ has a wrong length"


def name_a_transaction_that_is_none(db):
    key, hashX = first_row(db.utxo_db, b"h")
    put(db.utxo_db, key[:-5] + pack_tx_num(10**6), hashX)
    return "outpoint rows: [0-9a-f]+ is of no transaction"


def swap_history_entries(db):
    for key, row in db.history.db.iterator():
        if len(key) == 13 and len(row) >= 10:
            put(db.history.db, key, row[5:10] + row[:5] + row[10:])
            return r"history: row [0-9a-f]+: [\d,]+ comes after [\d,]+"
    raise AssertionError


def lose_a_history_row(db):
    _hash, coin = next(iter(MODEL.unspent.items()))
    hashX = coin[0]
    for key, _row in list(db.history.db.iterator(prefix=hashX)):
        put(db.history.db, key, None)
    return f"history: script {hashX.hex()} has a UTXO of transaction [0-9,]+, which it lacks"


def cut_a_history_row(db):
    key, row = next((k, r) for k, r in db.history.db.iterator() if len(k) == 13)
    put(db.history.db, key, row + b"\0")
    return "history: row [0-9a-f]+ has [0-9,]+ bytes"


def add_a_row_of_a_later_flush(db):
    put(db.history.db, b"\x01" * 11 + b"\xff\xff", pack_tx_num(3))
    return "history: row 0101[0-9a-f]+ffff is of a flush that was not made"


def name_a_later_transaction(db):
    put(db.history.db, b"\x01" * 11 + b"\0\1", pack_tx_num(10**6))
    return "history: row [0-9a-f]+ names transaction 1,000,000"


def lose_an_undo_row(db):
    put(db.utxo_db, b"U" + (55).to_bytes(4, "big"), None)
    return "undo rows: some between 41 and 60 lack"


def cut_an_undo_row(db):
    put(db.utxo_db, b"U" + (55).to_bytes(4, "big"), bytes(23))
    return "undo rows: height 55 has 23 bytes"


def add_an_undo_item(db):
    key = b"U" + (55).to_bytes(4, "big")
    put(db.utxo_db, key, (db.utxo_db.get(key) or b"") + bytes(24))
    return r"undo rows: height 55 has \d+ items for \d+"


def overwrite(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def damage_a_header(db):
    overwrite(db.files.folder / "headers00", 80 * 30 + 40, b"\x99" * 4)
    return "headers: 31 does not follow on 30"


def replace_the_last_header(db):
    overwrite(db.files.folder / "headers00", 80 * 60 + 76, b"\x99" * 4)
    return "headers: the last is not of the tip"


def damage_a_count(db):
    overwrite(db.files.folder / "txcounts00", 8 * 30, (0).to_bytes(8, "little"))
    return "txcounts: [0-9,]+ is followed by 0 at 30"


def damage_a_hash(db):
    overwrite(db.files.folder / "hashes0000", 32 * 20, b"\x99" * 32)
    return r"hashes: those of block \d+ do not give its merkle root"


def cut_the_hashes(db):
    path = db.files.folder / "hashes0000"
    os.truncate(path, path.stat().st_size - 1)
    return "files: .*hashes0000 is truncated"


DAMAGES = (
    lose_outpoint_row,
    lose_script_row,
    give_a_coin_to_another,
    shorten_an_outpoint_row,
    shorten_a_script_row,
    name_a_transaction_that_is_none,
    swap_history_entries,
    lose_a_history_row,
    cut_a_history_row,
    add_a_row_of_a_later_flush,
    name_a_later_transaction,
    lose_an_undo_row,
    cut_an_undo_row,
    add_an_undo_item,
    damage_a_header,
    replace_the_last_header,
    damage_a_count,
    damage_a_hash,
    cut_the_hashes,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_every_damage_is_found_and_named(tmp_path, damage):
    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        found = damage(db)
        verdict = await audited(db)
    assert not verdict.sound
    assert any(re.match(found, line) for line in verdict.lines), verdict.lines


async def test_of_many_faults_a_few_are_named_and_the_rest_counted(tmp_path):
    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        keys = [key for key, _hashX in db.utxo_db.iterator(prefix=b"h")]
        for key in keys[:20]:
            put(db.utxo_db, key, None)
        verdict = await audited(db)
    named = [line for line in verdict.lines if "lacks its outpoint row" in line]
    assert len(named) == 4
    assert "UTXOs: 16 more" in verdict.lines


async def test_a_window_that_is_shorter_than_the_limit_is_noted_but_no_damage(tmp_path):
    await make_database(make_env(tmp_path, reorg_limit=5))
    async with opened(make_env(tmp_path, reorg_limit=20)) as db:
        verdict = await audited(db)
    assert verdict.sound
    assert "undo rows: only the last 5 blocks can be reorganised" in verdict.lines


async def test_an_audit_of_a_running_server_sees_one_state_while_blocks_come(tmp_path, engine):
    env = make_env(tmp_path, engine=engine)
    daemon = CountingNode(CHAIN[:30])
    async with World(env, daemon) as world:
        await world.until_at(CHAIN[:30])
        db = world.db
        audit = Audit(db, deep=True, logger=LOGGER)
        audit.SLICE_SECS = 0.0001
        async with world.bp.state_lock:
            audit.take_snapshot()
        daemon.set_chain(CHAIN)
        await world.until_at(CHAIN)
        await asyncio.to_thread(audit.run)
        assert audit.fault_lines() == []
        model = Model(CHAIN[:30])
        assert audit.utxos.count == len(model.unspent)
        assert audit.utxos.value == sum(coin[1] for coin in model.unspent.values())


async def test_an_audit_ends_when_the_database_is_closed(tmp_path, engine):
    env = make_env(tmp_path, engine=engine)
    await make_database(env)
    async with opened(env) as db:
        audit = Audit(db, deep=True, logger=LOGGER, rest=100)
        audit.SLICE_SECS = 0.001
        audit.take_snapshot()
        running = asyncio.ensure_future(asyncio.to_thread(audit.run))
        await asyncio.to_thread(db.close_dbs)
        with pytest.raises(DBError, match="the audit was stopped; start it again"):
            await running


async def test_a_cancelled_audit_leaves_no_thread_at_work(tmp_path):
    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        lock = asyncio.Lock()
        task = asyncio.ensure_future(
            verify(db, deep=True, lock=lock, daemon=None, logger=LOGGER, rest=1000)
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        def nobody_reads():
            # A read that is still under way would be waited for.
            with db.gate.exclusive():
                return True

        assert await asyncio.wait_for(asyncio.to_thread(nobody_reads), 120)


# -- the node


def block_with(prev, nonce, outputs):
    coinbase = Tx(1, [TxInput(NULL, MINUS_1, pack_le_uint32(nonce), MINUS_1)], outputs, 0)
    return make_block(prev, [coinbase], nonce)


def odd_chain():
    """Outputs that only one side keeps, and a coinbase that comes twice."""
    chain = list(CHAIN[:20])
    p2pkh = MAKER.draws.scripts[0]

    def add(nonce, outputs):
        chain.append(block_with(double_sha256(chain[-1][:80]), nonce, outputs))

    add(900, [TxOutput(10**8, b"\x00\x6a"), TxOutput(3, p2pkh), TxOutput(7, b"\x00\x6a\x01\x01")])
    add(901, [TxOutput(11, b"\x51" * 10_001), TxOutput(13, b"\x51" * 10_000)])
    add(902, [TxOutput(17, b"\x00\x6a" + b"\x51" * 10_000), TxOutput(19, b"\x6a" * 2)])
    add(903, [TxOutput(50 * 10**8, p2pkh)])
    # The same transaction again, in another block.
    coinbase = BitcoinSegwitRegtest.block(chain[-1], 23).transactions[0][0]
    chain.append(make_block(double_sha256(chain[-1][:80]), [coinbase], 904))
    return chain


async def test_a_deep_audit_accounts_for_every_output_of_the_node(tmp_path):
    chain = odd_chain()
    env = make_env(tmp_path)
    await make_database(env, chain)
    node = CountingNode(chain)
    async with opened(env) as db:
        assert (await audited(db, daemon=node)).sound
        verdict = await audited(db, deep=True, daemon=node)
        assert any(line.endswith("all accounted for") for line in verdict.lines)
        [line] = [line for line in verdict.lines if line.startswith("node: ")]
        only_node = sum(
            script[:2] == b"\x00\x6a" and len(script) <= 10_000
            for raw in chain
            for tx, _hash in BitcoinSegwitRegtest.block(raw, 1).transactions
            for _value, script in tx.outputs
        )
        assert f"{only_node} are the node's alone (00 6a), 1 ours (over 10,000 bytes)" in line
        # One that is not deep cannot decide, on so small a chain, and names the one that can.
        shallow = await audited(db, deep=False, daemon=node)
        assert not shallow.sound
        assert shallow.lines[-1].startswith("verdict: undecided; a deep audit tells")


@pytest.mark.parametrize("both_kept", [False, True])
async def test_a_coinbase_that_comes_twice_is_counted_as_the_node_counts_it(
    tmp_path, monkeypatch, both_kept
):
    chain = odd_chain()
    env = make_env(tmp_path, indexer="python")
    if both_kept:
        # As by other servers: flushed in between, the earlier coin stays in the database.
        monkeypatch.setattr(indexer, "_overwrite", lambda *_args: [])
    daemon = CountingNode(chain)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    for height, raw in enumerate(chain):
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        await bp.flush_scheduler.flush(True)
    db.write_caught_up()
    verdict = await audited(db, daemon=daemon)
    db.close_dbs()
    assert verdict.sound
    count = f"and {both_kept:d} whose hash a later coinbase has"
    assert any(count in line for line in verdict.lines)


async def test_outputs_that_nothing_accounts_for_are_a_finding(tmp_path):
    env = make_env(tmp_path)
    await make_database(env)
    node = CountingNode(CHAIN)
    node.extra = 1
    async with opened(env) as db:
        verdict = await audited(db, daemon=node)
    assert not verdict.sound
    assert any("unaccounted for: +1 outputs and +0 satoshis" in line for line in verdict.lines)


async def test_a_pair_of_rows_that_is_missing_shows_in_the_nodes_count(tmp_path):
    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        key, hashX = first_row(db.utxo_db, b"h")
        utxo_key = b"u" + hashX + key[-9:]
        value = int.from_bytes(db.utxo_db.get(utxo_key), "little")
        put(db.utxo_db, key, None)
        put(db.utxo_db, utxo_key, None)
        assert (await audited(db)).sound
        verdict = await audited(db, daemon=CountingNode(CHAIN))
    assert not verdict.sound
    assert any(f"+1 outputs and {value:+,d} satoshis" in line for line in verdict.lines)


async def test_a_node_at_another_block_is_not_compared_with(tmp_path, monkeypatch):
    monkeypatch.setattr("electrumx.server.maintenance.verify.NODE_RETRY_SECS", 0)
    assert NODE_TRIES > 1
    env = make_env(tmp_path)
    await make_database(env, CHAIN[:50])
    async with opened(env) as db:
        verdict = await audited(db, daemon=CountingNode(CHAIN))
    assert verdict.sound
    assert any(
        "not compared, for it is at height 60, the database at 49" in x for x in verdict.lines
    )


async def test_a_node_that_gives_no_count_is_not_compared_with(tmp_path):
    class Silent(ScriptedDaemon):
        async def gettxoutsetinfo(self, _hex_hash=None):
            return {"height": "?"}

    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        verdict = await audited(db, daemon=Silent(CHAIN))
    assert verdict.sound
    assert any("gettxoutsetinfo makes no sense" in line for line in verdict.lines)


async def test_a_node_that_goes_away_while_blocks_are_read_is_not_waited_for(tmp_path, monkeypatch):
    class Gone(CountingNode):
        async def raw_blocks(self, _hex_hashes):
            await asyncio.Event().wait()

    monkeypatch.setattr("electrumx.server.maintenance.audit_node.BLOCKS_SECS", 0.1)
    chain = odd_chain()
    env = make_env(tmp_path)
    await make_database(env, chain)
    async with opened(env) as db:
        verdict = await audited(db, deep=True, daemon=Gone(chain))
    assert "node: not compared to the end: no answer in time" in verdict.lines


# -- the stopped server's tool


@pytest.fixture
def settings(tool_environment, tmp_path, engine):
    tool_environment.setenv("COIN", "Bitcoin")
    return make_env(tmp_path, engine=engine)


def test_the_tool_ends_with_0_for_an_intact_database(settings, capsys):
    asyncio.run(make_database(settings))
    assert tool.main([]) == 0
    assert tool.main(["--deep"]) == 0
    out = capsys.readouterr().out
    assert "verify: height 60, " in out
    assert "verify: verdict: sound (audit, " in out
    assert "verify: verdict: sound (deep audit, " in out


def test_the_tool_gives_its_verdict_without_a_node_that_does_not_answer(
    settings, capsys, monkeypatch
):
    asyncio.run(make_database(settings))
    monkeypatch.setenv("DAEMON_URL", f"http://user:secret@127.0.0.1:{free_port()}/")
    monkeypatch.setattr("electrumx.server.maintenance.verify.NODE_ANSWER_SECS", 0.5)
    assert tool.main([]) == 0
    out = capsys.readouterr().out
    assert (
        "verify: node: not compared, for it did not answer within 0.5 seconds; check that it runs"
    ) in out
    assert "verify: verdict: sound" in out
    assert "secret" not in out


def test_the_tool_ends_with_1_and_the_findings_for_a_damaged_one(settings, capsys):
    async def damage():
        await make_database(settings)
        async with opened(settings) as db:
            lose_outpoint_row(db)

    asyncio.run(damage())
    assert tool.main([]) == 1
    out = capsys.readouterr().out
    assert "lacks its outpoint row" in out
    assert "verify: verdict: DAMAGED, 2 findings; restore a backup" in out


def test_the_tool_ends_with_1_and_a_line_where_there_is_no_database(settings, capsys):
    assert tool.main([]) == 1
    out = capsys.readouterr().out
    assert "verify ended: there is no database in" in out
    assert "Traceback" not in out
    assert list(os.listdir(settings.db_dir)) == []


def test_the_tool_ends_with_1_while_a_server_holds_the_database(settings, capsys, monkeypatch):
    monkeypatch.setattr("electrumx.server.storage.rocksdb.REOPEN_SECS", 0.1)
    asyncio.run(make_database(settings))

    async def held():
        async with opened(settings):
            # The tool has an event loop of its own.
            return await asyncio.to_thread(tool.main, [])

    assert asyncio.run(held()) == 1
    assert "another process holds it" in capsys.readouterr().out


async def test_hashes_of_headers_are_shown_as_people_write_them(tmp_path):
    env = make_env(tmp_path)
    await make_database(env)
    async with opened(env) as db:
        found = replace_the_last_header(db)
        verdict = await audited(db)
    assert f"{found} {hash_to_hex_str(TIP)}" in verdict.lines
