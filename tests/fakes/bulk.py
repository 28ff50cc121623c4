"""The bulk sync on small chains: limits that make them behave like great ones, and comparisons."""

from collections import defaultdict

from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.bulk_sync import choice, merge, scan, space
from electrumx.server.bulk_sync.driver import BulkSync
from electrumx.server.bulk_sync.merge import Merge
from electrumx.server.bulk_sync.scan import Scan
from electrumx.server.db.database import DB
from electrumx.server.storage import schema
from tests.fakes.world import World


def make_limits_small(
    monkeypatch,
    *,
    chunk=3_000,
    history=2_000,
    part=600,
    range_bytes=1_500,
    sections=16,
    commit=0,
):
    """Have chunks of few blocks, several spills of history in each, and many ranges.

    All in bytes; ``part`` is of raw blocks parsed at a time, and a manifest is written when ``commit``
    have come together.  More than ``sections`` sections are merged first.
    """
    monkeypatch.setattr(scan, "COMMIT_BYTES", commit)
    monkeypatch.setattr(merge, "COMMIT_BYTES", commit)
    monkeypatch.setattr(Merge, "LEAST_SECTIONS", sections)
    monkeypatch.setattr(choice, "MIN_BLOCKS", 5)
    monkeypatch.setattr(choice, "MIN_SHARE_OF_CACHE", 0)
    monkeypatch.setattr(choice, "MIN_BYTES", 0)
    # Of coins whose real chains are large, and small disks.
    monkeypatch.setattr(space, "RUN_BYTES_PER_TX", 0)
    monkeypatch.setattr(space, "FLAT_BYTES_PER_TX", 0)
    monkeypatch.setattr(space, "DATABASE_BYTES_PER_TX", 0)
    monkeypatch.setattr(BulkSync, "PARSE_BYTES", part)
    init, merge_init = Scan.__init__, Merge.__init__

    def small_scan(self, *args, **kwargs):
        init(self, *args, **kwargs)
        # A compiled chunk begins with a table of 16 KiB.
        floor = 1 << 14 if self.kernels.is_compiled else 0
        self.chunk_bytes, self.history_bytes = floor + chunk, history

    def small_merge(self, *args, **kwargs):
        merge_init(self, *args, **kwargs)
        self.range_bytes = range_bytes

    monkeypatch.setattr(Scan, "__init__", small_scan)
    monkeypatch.setattr(Scan, "HASH_BYTES", 300)
    monkeypatch.setattr(Merge, "__init__", small_merge)


async def sync(env, daemon, processor_class=BlockProcessor):
    """Follow a node's chain to its tip and shut down."""
    async with World(env, daemon, processor_class) as world:
        await world.until(world.caught_up.is_set)
        # Compaction after the initial sync ends.
        await world.until(lambda: world.bp.engine_compaction.done)


async def contents(env):
    """Everything that a database holds, history joined by script; for comparisons."""
    db = DB(env)
    await db.open_for_sync()
    try:
        coins = {key: row for key, row in db.utxo_db.iterator() if key != schema.STATE_KEY}
        history = defaultdict(bytes)
        for key, row in db.history.db.iterator():
            if key != schema.HIST_STATE_KEY:
                history[key[:-2]] += row
        state = db.state
        assert state.utxo_flush_count == db.history.flush_count
        folder = db.files.folder
        return {
            "coins": coins,
            "history": dict(history),
            "state": (state.height, state.tx_count, state.tip, state.first_sync, state.genesis),
            "tokens": state.tokens_from,
            "hashes": db.files.read_tx_hashes(0, state.tx_count),
            "counts": db.files.read_tx_counts(state.height + 1),
            "headers": db.files.read_headers(0, state.height + 1),
            "offsets": db.files.headers_offsets.read(0, (state.height + 2) * 8),
            "blocks": {path.name: path.read_bytes() for path in folder.glob("block*")},
        }
    finally:
        db.close_dbs()
