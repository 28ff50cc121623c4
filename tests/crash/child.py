"""The process that is killed: our database and block processor over a scripted node.

A *spec* is a dictionary:

    dir, engine      the database
    seed             the story
    path             indices of the story's targets that the node's chain goes through
    kill_point, kill_at   SIGKILL ourselves at that passing (from 1) of a named instant; or None
    mutation         how the code is to be broken, or None
    flush_seed       which batches of the initial sync are flushed, and how
    reorg_limit      REORG_LIMIT
    variable_headers whether the headers of the coin differ in length
    compact          compact the history in the background, often
    bulk             begin with a bulk sync, of chunks of few blocks
    commit           bytes of its run files after which a manifest names them
    leaving          name of the state that another server left, for the job "leave"

The journal, a file beside the database, has the tips that the process had committed when it died.
"""

import asyncio
import json
import logging
import os
import random
import signal
from collections import Counter
from types import SimpleNamespace

from electrumx.cli import compact_history
from electrumx.server.block_processor.flush_scheduler import FlushScheduler
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.db import DB, upgrade
from electrumx.server.history.row_compaction import CompactionPass
from electrumx.server.history.store import History
from electrumx.server.runs.workspace import Workspace
from electrumx.server.runtime import fault_points as faults
from electrumx.server.storage.base import Storage
from tests.crash import audit, leavings, mutations
from tests.crash.stories import UNDO_CHUNK, story
from tests.fakes.bulk import make_limits_small
from tests.fakes.chain import COIN
from tests.fakes.world import ScriptedDaemon, World, make_env

#: blocks in a batch of the initial sync
BATCH = 4


class Journal:
    """Lines that outlive a kill."""

    def __init__(self, folder):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(f"{folder}.journal", flags, 0o600)

    def write(self, *words):
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())


def set_up(spec, journal):
    """Arm the kill, break the code if asked to, and make small chains behave like great ones."""
    mutations.apply(spec.get("mutation"))
    COIN.max_fetch_blocks = classmethod(lambda cls, height: BATCH)
    if spec.get("bulk"):
        make_limits_small(
            SimpleNamespace(setattr=setattr), sections=3, commit=spec.get("commit", 0)
        )
        journal_bulk_sync(journal)
    if spec.get("variable_headers"):
        COIN.STATIC_BLOCK_HEADERS = False
        COIN.block_header = classmethod(lambda cls, block, height: block[:80])
    BlockProcessor.UNDO_CHUNK = UNDO_CHUNK
    BlockProcessor.RETRY_SECS = 0.01
    # So that there is more than one batch of each.
    History.BATCH_BYTES = upgrade.BATCH_BYTES = compact_history.BATCH_BYTES = 200
    CompactionPass.SLICE_BYTES, CompactionPass.SLICE_ROWS = 150, 5
    CompactionPass.FINISH_SCRIPTS = 2
    limit_rows(spec.get("compact"))
    choose = random.Random(spec.get("flush_seed", 0))
    FlushScheduler.due = lambda self: choose.choice([None, False, True, True])
    # A great database is re-opened for serving, a small one is not.
    reopen = spec.get("kill_point") == "caught up: closed for re-opening" or choose.random() < 0.5
    Storage.is_small = property(lambda self: not reopen)
    flush_dbs, flush_backup, open_for_sync = DB.flush_dbs, DB.flush_backup, DB.open_for_sync

    async def journalled_open(self, fetch_blocks=None):
        await open_for_sync(self, fetch_blocks)
        journal.write("opened", self.db_tip.hex() if self.db_height >= 0 else "-")

    def journalled_flush(self, flush_data, flush_utxos, estimate):
        if flush_utxos:
            journal.write("begin", flush_data.tip.hex())
        flush_dbs(self, flush_data, flush_utxos, estimate)
        if flush_utxos:
            journal.write("done", flush_data.tip.hex())

    def journalled_backup(self, flush_data, touched):
        journal.write("begin", flush_data.tip.hex())
        flush_backup(self, flush_data, touched)
        journal.write("done", flush_data.tip.hex())

    DB.flush_dbs, DB.flush_backup = journalled_flush, journalled_backup
    DB.open_for_sync = journalled_open
    passed = Counter()

    def hook(name):
        passed[name] += 1
        if name == spec.get("kill_point") and passed[name] == spec["kill_at"]:
            journal.write("killed", name)
            os.kill(os.getpid(), signal.SIGKILL)

    faults.hook = hook
    return passed


def journal_bulk_sync(journal):
    """Note what is committed when the stores are exchanged."""
    move_stores = Workspace.move_stores

    def journalled(self):
        journal.write("begin", self.manifest.tip.hex())
        move_stores(self)

    Workspace.move_stores = journalled


def limit_rows(compact):
    """Cut histories into rows of few entries; with ``compact`` merge rows after few flushes."""
    init = History.__init__

    def limited(self, *args):
        init(self, *args)
        self.max_hist_row_entries = 25

    History.__init__ = limited
    if compact:
        History.COMPACT_FLUSH_COUNT = 8


def environment(spec):
    return make_env(spec["dir"], engine=spec["engine"], reorg_limit=spec["reorg_limit"])


async def _follow(spec, journal):
    the_story = story(spec["seed"])
    targets = [the_story.targets[n] for n in spec["path"]]
    daemon = ScriptedDaemon()
    # A node knows the blocks of branches that it left.
    for tip in the_story.targets:
        daemon.set_chain(the_story.chain(tip))
    daemon.set_chain(the_story.chain(targets[0]))
    async with World(environment(spec), daemon) as world:
        for n, tip in zip(spec["path"], targets, strict=True):
            journal.write("target", n)
            chain = the_story.chain(tip)
            daemon.set_chain(chain)
            await daemon.height()
            await world.until_at(chain)
            if spec.get("compact"):
                await world.until(lambda: not world.db.compaction_due)
        await world.until(lambda: world.bp.engine_compaction.done)


def follow(spec):
    """Index the chains of a path and shut down in order.  Prints the instants passed, as JSON."""
    journal = Journal(spec["dir"])
    passed = set_up(spec, journal)
    asyncio.run(_follow(spec, journal))
    journal.write("finished")
    print(json.dumps(passed))


async def _inspect(spec):
    db = DB(environment(spec))
    await db.open_for_sync()
    try:
        return {
            "height": db.db_height,
            "tip": db.db_tip.hex() if db.db_height >= 0 else None,
            "first_sync": db.first_sync,
            "problems": await audit.problems(db, spec["seed"]),
        }
    finally:
        db.close_dbs()


def inspect(spec):
    """Open a database, let it recover, audit it.  Prints what the harness looks at as JSON."""
    set_up({**spec, "kill_point": None}, Journal(spec["dir"]))
    print(json.dumps(asyncio.run(_inspect(spec))))


async def _compact(spec):
    db = DB(environment(spec))
    await db.open_for_compacting()
    compact_history.compact(db, logging.getLogger("compact"))
    db.close_dbs()


def compact(spec):
    """Run the stopped server's tool."""
    set_up(spec, Journal(spec["dir"]))
    asyncio.run(_compact(spec))


def leave(spec):
    """Make of the database what another server would have left."""
    leavings.leave(spec["leaving"], spec["dir"], spec["engine"])


JOBS = {"follow": follow, "inspect": inspect, "compact": compact, "leave": leave}
