"""Laws of the tip: whatever chain, mempool and node do, clients know it and get answers in time.

The processor, database, mempool, notifications and session manager are real; the node is a script
of random events, and time is simulated.
"""

import asyncio
import random
import tempfile
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.block_processor.processor import BlockProcessor
from electrumx.server.controller import _MemPoolView
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.mempool_listing import listing_of
from electrumx.server.db import DB
from electrumx.server.db import read_pool as reader
from electrumx.server.db import wire_rows as packed
from electrumx.server.mempool import state as mempool_state
from electrumx.server.mempool.sync import MemPool
from electrumx.server.notifications import Notifications
from electrumx.server.session import SessionManager
from tests.fakes.chain import COIN, ChainMaker, Model, hashX_of
from tests.fakes.session_world import FakePeers, fake_env
from tests.fakes.virtual_time import InlineExecutor, VirtualTimeLoop
from tests.fakes.world import ScriptedDaemon, make_env

# The promise
LIMIT_SECS = 5.0
POLL_SECS = 1.0
START_BLOCKS = 12
# More than any storm undoes
REORG_LIMIT = 100
# After a storm: requests started in it may take 20 seconds more
CALM_SECS = 35.0


class StormyDaemon(ScriptedDaemon):
    """Delays and fails as a test wants; the mempool has the transactions of blocks to come."""

    def __init__(self, maker, tip):
        self.maker, self.tip = maker, tip
        self.mempool_secs = 0.0
        self.mempool_fails = False
        self.url_changed = asyncio.Event()
        self.heights = deque()  # the first results of height(), or errors
        self.mempool = {}
        super().__init__(maker.chain(tip))

    def logged_url(self, url=None):
        return "node"

    async def knows_method(self, method):
        return False

    async def getindexinfo(self):
        return {}

    async def _delay(self):
        await asyncio.sleep(0.002)

    async def height(self):
        await self._delay()
        if self.heights:
            height = self.heights.popleft()
            if height is None:
                raise DaemonError({"code": -1, "message": "getblockcount"})
            self._set(height(self))
            return self.known_height
        self._set(len(self.raw) - 1)
        return self.known_height

    def _set(self, height):
        if height != self.known_height:
            self.known_height = height
            self.height_changed.set()
            self.height_changed.clear()

    def announce(self):
        """Nothing is announced: all is polled."""

    async def block_hex_hashes(self, first, count):
        await self._delay()
        return await super().block_hex_hashes(first, count)

    async def raw_blocks(self, hex_hashes):
        await self._delay()
        return await super().raw_blocks(hex_hashes)

    async def mempool_listing(self):
        if self.mempool_fails:
            raise DaemonError({"code": -1, "message": "getrawmempool"})
        hashes = [hash_to_hex_str(tx_hash) for tx_hash in self.mempool]
        await asyncio.sleep(self.mempool_secs)
        return listing_of(hashes)

    async def getrawtransactions(self, hex_hashes):
        await self._delay()
        return [self.mempool.get(bytes.fromhex(h)[::-1]) for h in hex_hashes]

    # -- events

    def move(self, tip):
        """Have the chain up to a block, and the transactions of a block on top in the mempool."""
        self.tip = tip
        self.set_chain(self.maker.chain(tip))
        self.next = self.maker.extend(tip)
        block = COIN.block(self.maker.blocks[self.next][0], len(self.raw))
        self.mempool = {}
        # Without those that depend on the coinbase of that block
        known = {tx_hash for tx_hash, _idx in self.maker.blocks[tip][2]}
        for tx, tx_hash in block.transactions[1:]:
            if all(txin.prev_hash in known for txin in tx.inputs):
                known.add(tx_hash)
                self.mempool[tx_hash] = tx.serialize()

    def add(self, count):
        """Extend the chain, first by the block that the mempool was about."""
        for _ in range(count):
            self.move(self.next)

    def replace(self, depth, count):
        """Undo blocks and add others, perhaps none."""
        tip = self.tip
        for _ in range(min(depth, len(self.raw) - 2)):
            tip = self.maker.blocks[tip][1]
        self.move(self.maker.grow(tip, count))


EVENTS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 3)),
    st.tuples(st.just("replace"), st.integers(1, 4), st.integers(0, 5)),
    st.tuples(st.just("force"), st.integers(1, 4)),
    st.tuples(st.just("mempool_secs"), st.sampled_from([0.0, 0.3, 2.0, 20.0])),
    st.tuples(st.just("mempool_fails"), st.booleans()),
    st.tuples(st.just("old_height"), st.integers(1, 3)),
    st.tuples(st.just("height_fails"), st.integers(1, 3)),
    st.tuples(st.just("lose_after_old_height"), st.just(1)),
)
STORMS = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.05, 0.5, 1.0, 3.0])), max_size=25)


class Simulation:
    """A server without sockets, in simulated time, and checks of its clients' view."""

    daemon_class = StormyDaemon

    def __init__(self, seed, folder, engine="leveldb"):
        self.choose = random.Random(seed)
        self.maker = ChainMaker(seed=seed, scripts=4)
        self.daemon = self.daemon_class(
            self.maker, self.maker.grow(self.maker.genesis_hash, START_BLOCKS)
        )
        self.daemon.move(self.daemon.tip)
        self.folder, self.engine = folder, engine
        self.committed = deque()  # (time at which it was last seen, tip)
        self.answers = 0
        self.models = {}
        self.queries = set()
        self.make_server()

    def make_server(self):
        """Have a server that has not been started yet, over the database that there is."""
        env = make_env(self.folder, engine=self.engine, reorg_limit=REORG_LIMIT)
        env.daemon_poll_interval_blocks_msec = int(POLL_SECS * 1000)
        self.db = DB(env)
        self.notifications = Notifications()
        self.bp = BlockProcessor(env, self.db, self.daemon, self.notifications)
        view = _MemPoolView(self.daemon, self.db, self.bp, self.notifications)
        self.mempool = MemPool(COIN, view)
        settings_ = fake_env(services=[], report_services=[], coin=COIN)
        self.manager = SessionManager(
            settings_,
            self.db,
            self.bp,
            self.daemon,
            self.mempool,
            asyncio.Event(),
            peers=FakePeers(settings_, self.db),
        )

    # -- life

    async def run(self, storm):
        """Let a storm pass over the server, and then calm; check all along."""
        caught_up, synchronized, usable = (asyncio.Event() for _ in range(3))
        processing = asyncio.ensure_future(self.bp.fetch_and_process_blocks(caught_up))
        await caught_up.wait()

        async def serve():
            await self.mempool.wait_until_usable()
            usable.set()

        parts = [
            asyncio.ensure_future(self.mempool.keep_synchronized(synchronized)),
            asyncio.ensure_future(serve()),
            asyncio.ensure_future(self.manager.serve(self.notifications, usable)),
        ]
        await self.manager.serving_event.wait()
        parts.append(asyncio.ensure_future(self.watch_tips()))
        parts.append(asyncio.ensure_future(self.ask()))
        try:
            await self.pass_over(storm, [processing, *parts[:1], *parts[2:]])
        finally:
            for task in [*parts, *self.queries, processing]:
                task.cancel()
            await asyncio.gather(*parts, *self.queries, processing, return_exceptions=True)

    async def pass_over(self, storm, parts):
        async def happen():
            for event, pause in storm:
                self.do(*event)
                await asyncio.sleep(pause)
            await self.become_calm()

        happening = asyncio.ensure_future(happen())
        done, _ = await asyncio.wait([happening, *parts], return_when=asyncio.FIRST_COMPLETED)
        happening.cancel()
        for task in done:
            task.result()
        assert happening in done

    async def become_calm(self):
        """Let the node be calm: all follow it."""
        self.daemon.mempool_fails, self.daemon.mempool_secs = False, 0.0
        self.daemon.heights.clear()
        await asyncio.sleep(CALM_SECS)
        assert self.manager.shared.tip.notified_tip == self.daemon.tip
        assert self.db.db_tip == self.daemon.tip
        assert set(self.mempool.txs) == set(self.daemon.mempool)
        assert not self.mempool.info()["behind"]
        assert self.answers

    def do(self, name, *args):
        """Let an event happen."""
        daemon = self.daemon
        if name == "add":
            daemon.add(*args)
        elif name == "replace":
            daemon.replace(*args)
        elif name == "force":
            self.force(*args)
        elif name == "mempool_secs":
            daemon.mempool_secs = args[0]
        elif name == "mempool_fails":
            daemon.mempool_fails = args[0]
        elif name == "old_height":
            old = len(daemon.raw) - 1
            daemon.heights.extend([lambda _daemon: old] * args[0])
        elif name == "height_fails":
            daemon.heights.extend([None] * args[0])
        elif name == "lose_after_old_height":
            old = len(daemon.raw) - 1

            def lose(_daemon):
                daemon.replace(1, 0)
                return old

            daemon.heights.append(lose)
            self.force(1)

    def force(self, count):
        async def force():
            try:
                await self.bp.force_chain_reorg(count)
            except ValueError:
                pass  # more than can be undone

        task = asyncio.ensure_future(force())
        self.queries.add(task)
        task.add_done_callback(self.queries.discard)

    # -- what clients see

    async def watch_tips(self):
        """Check that clients know a tip that was the database's a moment ago."""
        now = asyncio.get_running_loop().time
        before = None
        while True:
            known = self.manager.shared.tip.notified_tip
            if known != before:
                # The tip notified last was committed just before, perhaps between two checks.
                before = known
                self.committed.append((now(), known))
            self.committed.append((now(), self.db.db_tip))
            while self.committed[0][0] < now() - LIMIT_SECS:
                self.committed.popleft()
            assert known in {tip for _time, tip in self.committed}, now()
            await asyncio.sleep(0.1)

    async def ask(self):
        """Ask all the time; check that answers come in time and are right."""
        while True:
            task = asyncio.ensure_future(self.ask_one())
            self.queries.add(task)
            await asyncio.sleep(0.47)
            for done in [task for task in self.queries if task.done()]:
                self.queries.discard(done)
                done.result()

    def model(self, tip):
        if tip not in self.models:
            self.models[tip] = Model(self.maker.chain(tip))
        return self.models[tip]

    async def ask_one(self):
        now = asyncio.get_running_loop().time
        start = now()
        hashX = hashX_of(self.choose.choice(self.maker.draws.scripts))
        seen = []

        async def compute():
            history, _cost = await self.manager.shared.scripts.histories.read(hashX)
            unconfirmed = self.mempool.index.sync_summaries(hashX)
            seen.append((self.db.db_tip, self.manager.shared.tip.notified_tip))
            return packed.entries_of(history.entries), {tx.hash for tx in unconfirmed}

        entries, unconfirmed = await self.manager.shared.tip.retry_at_stable_tip(
            compute, lambda _cost: None
        )
        assert now() - start <= LIMIT_SECS
        tip, known = seen[-1]
        assert tip == known
        assert entries == self.model(tip).history.get(hashX, [])
        assert not unconfirmed & {tx_hash for tx_hash, _height in entries}
        self.answers += 1


def simulate(seed, storm, slow_disk, make=Simulation):
    choose = random.Random(seed)
    loop = VirtualTimeLoop((lambda: choose.choice([0, 0.001, 0.02])) if slow_disk else lambda: 0.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for module, name in (
            (mempool_state, "ThreadPoolExecutor"),
            (reader, "ReaderThreads"),
        ):
            stack.enter_context(mock.patch.object(module, name, InlineExecutor))
        stack.callback(loop.close)
        asyncio.set_event_loop(loop)
        stack.callback(asyncio.set_event_loop, None)

        async def main():
            await make(seed, folder).run(storm)

        loop.run_until_complete(main())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), STORMS, st.booleans())
def test_tips_are_known_and_queries_answered_within_5_seconds_through_any_storm(
    seed, storm, slow_disk
):
    simulate(seed, storm, slow_disk)


def test_a_height_from_before_a_loss_does_not_hide_the_loss():
    """The node answers once with the height that it had, and has lost that block by then."""
    simulate(1, [(("add", 1), 3.0), (("lose_after_old_height", 1), 3.0)], False)


def test_a_failing_mempool_after_a_reorg_delays_no_client():
    blocks = [(("add", 1), 1.0)] * 20
    simulate(2, [(("mempool_fails", True), 0.0), (("replace", 1, 2), 1.0), *blocks], False)


def test_a_slow_mempool_in_a_storm_delays_no_client():
    blocks = [(("add", 1), 1.0)] * 20
    simulate(3, [(("mempool_secs", 2.0), 0.0), (("replace", 1, 2), 1.0), *blocks], True)


def test_a_node_that_loses_blocks_before_it_was_polled_is_followed_down():
    storm = [("mempool_fails", True), ("height_fails", 2), ("replace", 4, 0), ("force", 3)]
    simulate(783777, list(zip(storm, [0.5, 1.0, 0.0, 0.05], strict=True)), False)


def test_a_timer_that_fires_within_the_clocks_resolution_of_a_deadline_is_no_endless_loop():
    storm = [
        (("lose_after_old_height", 1), 3.0),
        (("mempool_fails", True), 1.0),
        (("add", 3), 0.5),
        (("force", 4), 0.0),
        (("replace", 4, 2), 0.5),
        (("height_fails", 3), 3.0),
        (("mempool_fails", True), 0.0),
        (("height_fails", 1), 0.5),
    ]
    simulate(556, storm, True)
