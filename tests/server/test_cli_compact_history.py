"""The stopped server's compaction tool, on databases that a server has made."""

import asyncio

import pytest

from electrumx.cli import compact_history
from electrumx.cli.compact_history import main
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB
from electrumx.server.runtime import fault_points as faults
from electrumx.server.storage.schema import HistState
from tests.fakes.chain import ChainMaker, Model, hashX_of
from tests.fakes.world import ScriptedDaemon, assert_equals_model, make_env


@pytest.fixture(autouse=True)
def settings(tool_environment):
    """The settings of the environment: those of a server without a node."""
    tool_environment.setenv("COIN", "BitcoinSegwit")
    yield tool_environment
    faults.hook = None


MAKER = ChainMaker(seed=41)
CHAIN = MAKER.chain(MAKER.grow(MAKER.genesis_hash, 50))


async def make_database(env, first_sync=False):
    daemon = ScriptedDaemon(CHAIN)
    await daemon.height()
    db = DB(env)
    await db.open_for_sync()
    bp = BlockProcessor(env, db, daemon, None)
    for height, raw in enumerate(CHAIN):
        bp.state.advance_blocks(bp.parser.parse_blocks([raw], height))
        await bp.flush_scheduler.flush(True)
    if not first_sync:
        db.write_caught_up()
    db.close_dbs()


async def check(env, flush_count):
    db = DB(env)
    await db.open_for_serving()
    assert db.history.flush_count == db.state.utxo_flush_count == flush_count
    scripts = [hashX_of(script) for script in MAKER.draws.scripts]
    await assert_equals_model(db, Model(CHAIN), scripts)
    db.close_dbs()


async def test_the_tool_frees_the_ids_and_keeps_every_answer(tmp_path, engine, capsys):
    env = make_env(tmp_path, engine=engine)
    await make_database(env)
    assert await run_tool() == 0
    output = capsys.readouterr().out
    assert "flush count 51 is now 1" in output
    assert "% done" in output
    await check(env, 1)
    assert await run_tool() == 0
    assert "nothing to compact" in capsys.readouterr().out


async def run_tool():
    # In a thread, for it runs an event loop of its own.
    return await asyncio.to_thread(main, [])


class Stop(KeyboardInterrupt):
    """Stands for an interrupt after a write."""


async def test_a_tool_that_is_interrupted_goes_on_or_is_forgotten(
    tmp_path, engine, capsys, settings
):
    settings.setattr(compact_history, "BATCH_BYTES", 40)
    env = make_env(tmp_path, engine=engine)
    await make_database(env)
    interrupted = 0
    status = 1
    while status:
        seen = []

        def hook(name, seen=seen, last=2 + interrupted // 3):
            if name.startswith("compaction"):
                seen.append(name)
                if len(seen) == last:
                    raise Stop

        faults.hook = hook
        status = await run_tool()
        faults.hook = None
        interrupted += status
        output = capsys.readouterr().out
        if interrupted == 2:
            # A server comes in between: the compaction is forgotten, and nothing else.
            assert "going on with a compaction" in output
            await check(env, 51)
            db = DB(env)
            await db.open_for_compacting()
            assert db.history.comp_cursor == -1
            db.close_dbs()
    assert interrupted > 3
    await check(env, 1)


async def test_a_compaction_that_electrumx_began_is_taken_up(tmp_path, engine, capsys):
    env = make_env(tmp_path, engine=engine)
    await make_database(env)
    db = DB(env)
    await db.open_for_compacting()
    db.history.db.put(b"state\0\0", HistState(51, comp_flush_count=1, comp_cursor=0).pack())
    db.close_dbs()
    assert await run_tool() == 0
    assert "interrupted at 0.0%" in capsys.readouterr().out
    await check(env, 1)


async def test_an_unfinished_initial_sync_is_refused(tmp_path, engine, capsys):
    await make_database(make_env(tmp_path, engine=engine), first_sync=True)
    assert await run_tool() == 1
    output = capsys.readouterr().out
    assert "first synchronisation is not finished" in output
    assert "Traceback" not in output


async def test_a_directory_without_a_database_is_refused_and_unchanged(tmp_path, capsys):
    assert await run_tool() == 1
    assert "no database" in capsys.readouterr().out
    assert [] == list(tmp_path.iterdir())
