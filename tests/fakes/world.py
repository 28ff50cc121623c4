"""A database and a block processor over a scripted node, without any network."""

import asyncio
from types import SimpleNamespace

from electrumx.lib.coins import Coin
from electrumx.lib.hash import double_sha256, hash_to_hex_str
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.daemon.client import DaemonError
from electrumx.server.db import DB
from electrumx.server.db import wire_rows as packed
from electrumx.server.notifications import Notifications
from tests.fakes.chain import COIN, Model


def make_env(
    db_dir,
    *,
    engine="leveldb",
    coin: type[Coin] = COIN,
    reorg_limit=20,
    cache_MB=100,
    indexer="auto",
    bulk_sync="auto",
    serve_always=False,
):
    return SimpleNamespace(
        db_dir=str(db_dir),
        db_engine=engine,
        coin=coin,
        reorg_limit=reorg_limit,
        cache_MB=cache_MB,
        spare_files=0,
        daemon_poll_interval_blocks_msec=10,
        indexer=indexer,
        bulk_sync=bulk_sync,
        serve_always=serve_always,
    )


class ScriptedDaemon:
    """Answers from a list of raw blocks, which a test may replace at any time."""

    def __init__(self, raw_blocks=()):
        self.url = "http://node-1/"
        self.height_changed = asyncio.Event()
        self.tip_changed = asyncio.Event()
        self.fail = None
        self.failures = 0  # how often it failed
        self.known_height = None
        self.set_chain(raw_blocks)

    def set_chain(self, raw_blocks):
        self.raw = list(raw_blocks)
        self.hashes = [hash_to_hex_str(double_sha256(raw[:80])) for raw in self.raw]
        known = getattr(self, "by_hash", {})
        self.by_hash = known | dict(zip(self.hashes, self.raw, strict=True))
        self.announce()

    def announce(self):
        """Wake the tasks that wait for a new tip, as a poll does; not before the first poll."""
        if self.known_height is not None:
            self.known_height = len(self.raw) - 1
        for event in (self.height_changed, self.tip_changed):
            event.set()
            event.clear()

    def maybe_fail(self):
        """Raise the error that was set, if any, and count it."""
        if self.fail:
            self.failures += 1
            raise DaemonError(self.fail)

    async def height(self):
        self.maybe_fail()
        self.known_height = len(self.raw) - 1
        return self.known_height

    #: the height that the node itself still synchronises to
    target = None

    async def sync_target(self):
        return self.target

    #: the size of its blocks on its disk, if known
    block_bytes = None

    async def size_on_disk(self):
        return self.block_bytes

    def cached_height(self):
        return self.known_height

    def current_url(self):
        return self.url

    def has_rest(self):
        return False

    async def block_hex_hashes(self, first, count):
        self.maybe_fail()
        if first + count > len(self.raw):
            # Of a batch
            raise DaemonError([{"code": -8, "message": "Block height out of range"}])
        return self.hashes[first : first + count]

    async def raw_blocks(self, hex_hashes):
        self.maybe_fail()
        return [self.by_hash[hex_hash] for hex_hash in hex_hashes]


class World:
    """A running block processor; ``async with`` it."""

    def __init__(self, env, daemon, processor_class=BlockProcessor):
        self.env = env
        self.daemon = daemon
        self.processor_class = processor_class
        self.failure_seen = False

    async def __aenter__(self):
        self.db = DB(self.env)
        self.notifications = Notifications()
        self.bp = self.processor_class(self.env, self.db, self.daemon, self.notifications)
        self.bp.RETRY_SECS = 0.01
        await self.daemon.height()
        self.caught_up = asyncio.Event()
        self.task = asyncio.ensure_future(self.bp.fetch_and_process_blocks(self.caught_up))
        return self

    async def __aexit__(self, *_exc_info):
        self.task.cancel()
        try:
            await self.task
        except asyncio.CancelledError:
            pass
        except Exception:
            # A failure that the test was shown and expected.
            if not self.failure_seen:
                raise

    async def until(self, condition, timeout=540):
        """Wait until a condition holds; raise what the processor raised."""

        async def poll():
            while not condition():
                if self.task.done():
                    self.failure_seen = True
                    self.task.result()
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), timeout)

    async def until_at(self, raw_blocks):
        """Wait until a chain is committed."""
        tip = double_sha256(raw_blocks[-1][:80])
        await self.until(lambda: self.caught_up.is_set() and self.db.db_tip == tip)


async def _assert_same_together(db, model, scripts_hashX):
    """Compare the requests of one loop iteration, which one job reads."""
    # Those that have nothing are among them, and one is asked twice.
    asked = [*scripts_hashX, b"\xff" * 11, *list(scripts_hashX)[:1], b"\0" * 11]
    readings = [(db.history_entries(x), db.packed_utxos(x), db.balance(x)) for x in asked]
    for hashX, (history, coins, balance) in zip(asked, readings, strict=True):
        entries = packed.entries_of((await history).entries)
        assert model.history.get(hashX, []) == entries
        utxos = sorted(model.utxos(hashX))
        assert packed.utxos_of((await coins).utxos) == [
            (tx_hash, height, idx, value) for _num, idx, tx_hash, height, value in utxos
        ]
        assert (await balance)[:2] == (len(utxos), sum(utxo[-1] for utxo in utxos))


async def assert_equals_model(db, model: Model, scripts_hashX):
    """Compare every answer of an open database with the model."""
    assert len(model.headers) - 1 == db.db_height
    assert sum(map(len, model.tx_hashes)) == db.db_tx_count
    for hashX in scripts_hashX:
        assert model.history.get(hashX, []) == await db.limited_history(hashX, limit=None)
        assert model.utxos(hashX) == {tuple(utxo) for utxo in await db.all_utxos(hashX)}
    await _assert_same_together(db, model, scripts_hashX)
    for height, hashes in enumerate(model.tx_hashes):
        assert hashes == await db.tx_hashes_at_blockheight(height)
    headers, count = await db.read_headers(0, len(model.headers) + 5)
    assert count == len(model.headers)
    assert headers == b"".join(model.headers)
    outpoints = list(model.unspent)
    expected = [model.unspent[outpoint][:2] for outpoint in outpoints]
    assert expected == await db.lookup_utxos(outpoints)
    assert [None] == await db.lookup_utxos([(b"\xaa" * 32, 0)])
