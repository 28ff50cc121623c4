"""The statuses of outpoints against a naive model, through storms of blocks and transactions.

A server in simulated time, as in ``test_tip_laws``, has a subscriber to many outpoints: of all
branches, of the mempool, unspendable, with an index that is too large, and of transactions that
never come.  Every notification must be true at that moment of the tip that clients know and of the
server's mempool, must differ from the one before, and must in the end be all there is.
"""

import asyncio
import json
import os
import random
from collections import Counter
from functools import partial
from inspect import isawaitable

import pytest
from aiorpcx import RPCError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.tx import Tx, TxInput, TxOutput
from electrumx.server.daemon.client import DaemonError
from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.session.engine.jsonrpc import V2
from electrumx.server.session.methods.outpoint import OutpointMethods
from electrumx.server.session.shared.outpoint_cache import OutpointCache
from electrumx.server.session.shared.outpoint_status import OutpointStatuses
from tests.fakes.chain import COIN, MINUS_1, NULL
from tests.property import test_tip_laws as tip_laws

# Outpoints of a soak in all; the ordinary run has a fraction of them.
SOAK = int(os.environ.get("OUTPOINT_SOAK", "10000"))
NO_SUCH_TX = {"code": -5, "message": "No such mempool or blockchain transaction."}
EVENTS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 3)),
    st.tuples(st.just("replace"), st.integers(1, 20), st.integers(0, 22)),
    st.tuples(st.just("force"), st.integers(1, 4)),
    st.tuples(st.just("remix"), st.just(0)),
    st.tuples(st.just("mine_part"), st.just(0)),
    st.tuples(st.just("evict"), st.integers(1, 3)),
    st.tuples(st.just("node_fails"), st.booleans()),
    st.tuples(st.just("index"), st.booleans()),
    st.tuples(st.just("mempool_secs"), st.sampled_from([0.0, 0.3, 2.0])),
    st.tuples(st.just("subscribe"), st.integers(1, 40)),
    st.tuples(st.just("get_status"), st.integers(1, 10)),
    st.tuples(st.just("unsubscribe"), st.integers(1, 5)),
    st.tuples(st.just("restart"), st.booleans(), st.integers(0, 20), st.integers(0, 22)),
)
STORMS = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.05, 0.5, 1.0, 6.0])), max_size=25)


class IndexedDaemon(tip_laws.StormyDaemon):
    """Also has the transactions of its chain, and may have an index of spenders."""

    def __init__(self, maker, tip):
        # Large blocks, so that transactions depend on each other
        maker.extend = partial(maker.extend, max_txs=20)
        self.lookups_fail = False
        self.has_index = False
        self.lookups = 0
        self.chains = {}  # tip -> {tx hash: (transaction, raw, block hash, height)}
        super().__init__(maker, tip)

    def transactions(self, tip):
        if tip not in self.chains:
            found = self.chains[tip] = {}
            for height, raw in enumerate(self.maker.chain(tip)):
                block = COIN.block(raw, height)
                for tx, tx_hash in block.transactions:
                    found[tx_hash] = tx, tx.serialize(), COIN.header_hash(raw[:80]), height
        return self.chains[tip]

    def _raw(self, hex_hash):
        tx_hash = hex_str_to_hash(hex_hash)
        if tx_hash in self.mempool:
            return self.mempool[tx_hash], None
        found = self.transactions(self.tip).get(tx_hash)
        return (None, None) if found is None else (found[1], found[2])

    def mine_part(self):
        """Have a block with the first half of the mempool; the others stay there."""
        txs = list(self.mempool.items())
        mined, left = txs[: len(txs) // 2], txs[len(txs) // 2 :]
        self.maker.format.nonce += 1
        script = (1_000_000 + self.maker.format.nonce).to_bytes(4, "little")
        coinbase = Tx(1, [TxInput(NULL, MINUS_1, script, MINUS_1)], [TxOutput(1, b"\x51")], 0)
        block = [coinbase, *(COIN.DESERIALIZER(raw).read_tx() for _tx_hash, raw in mined)]
        block_hash = self.maker.add_block(self.tip, block)
        self.move(block_hash)
        self.mempool = dict(left)

    async def _look_up(self):
        self.lookups += 1
        await self._delay()
        if self.lookups_fail:
            raise DaemonError({"code": -1, "message": "a hiccup"})

    async def getrawtransactions(self, hex_hashes):
        await self._delay()
        return [self._raw(hex_hash)[0] for hex_hash in hex_hashes]

    async def getrawtransaction(self, hex_hash, verbose=False, *, max_bytes=None):
        await self._look_up()
        raw, block_hash = self._raw(hex_hash)
        if raw is None:
            raise DaemonError(NO_SUCH_TX)
        if not verbose:
            return raw.hex()
        answer = {"hex": raw.hex()}
        if block_hash is not None:
            answer["blockhash"] = hash_to_hex_str(block_hash)
        return answer

    async def getblockheader(self, hex_hash):
        await self._look_up()
        return {"height": self.hashes.index(hex_hash)} if hex_hash in self.hashes else {}

    async def gettxspendingprevout(self, txid, txout_idx):
        await self._look_up()
        wanted = hex_str_to_hash(txid), txout_idx
        result = {"txid": txid, "vout": txout_idx}
        unconfirmed = {h: COIN.DESERIALIZER(raw).read_tx() for h, raw in self.mempool.items()}
        confirmed = {h: found[0] for h, found in self.transactions(self.tip).items()}
        for tx_hash, tx in (unconfirmed | confirmed).items():
            if any((txin.prev_hash, txin.prev_idx) == wanted for txin in tx.inputs):
                result["spendingtxid"] = hash_to_hex_str(tx_hash)
        return result


class Simulation(tip_laws.Simulation):
    """Has one subscriber, which is this."""

    session_id = 1
    daemon_class = IndexedDaemon

    def __init__(self, seed, folder, engine="leveldb"):
        self.told = {}
        self.asking = set()
        self.tellings = self.answered = self.restarts = 0
        self.failed_subscriptions = 0
        self.is_calm_at_end = True
        super().__init__(seed, folder, engine=engine)

    def make_server(self):
        super().make_server()
        self.shared = self.manager.shared
        self.shared.protocol.has_spender_index = False
        self.methods = OutpointMethods(self, self.shared)

    async def run(self, storm):
        """Let storms pass over the server, with a restart after each but the last."""
        life = []
        for (name, *args), pause in storm:
            if name != "restart":
                life.append(((name, *args), pause))
                continue
            self.is_calm_at_end, depth, count = args
            await self.live(life)
            self.restarts += 1
            # The chain moves on, and the wallet subscribes again.  A server that starts waits for a
            # node whose chain is shorter than its own.
            if depth or count:
                self.daemon.replace(depth, count)
            self.daemon.add(max(0, self.db.db_height + 1 - len(self.daemon.raw)))
            life = [(("subscribe_to", [*self.told]), 12.0), (("settled",), pause)]
            self.told.clear()
            self.asking.clear()
            self.make_server()
        self.is_calm_at_end = True
        await self.live(life)

    async def live(self, storm):
        """Let a storm pass over the server, and stop it."""
        await super().run(storm)
        for task in self.queries:
            if not task.cancelled():
                task.result()
        self.queries.clear()
        self.committed.clear()

    # -- as a session

    @property
    def account(self):
        return self

    @property
    def queue(self):
        return self

    rpc_version = V2

    def bump_cost(self, _cost):
        pass

    def is_closing(self):
        return False

    def flush(self):
        pass

    def end(self, force_after):
        raise AssertionError("ended")

    def notify_outpoints(self, news):
        # Blocks and mempool are of one tip, which clients know.
        assert self.shared.tip.state() is not None
        self.methods.notify(news)

    def post_lines(self, lines, count):
        lines = lines.split(b"\n")
        assert len(lines) == count
        for line in lines:
            txid, index, status = json.loads(line)["params"]
            outpoint = hex_str_to_hash(txid), index
            self.tellings += 1
            assert self.told[outpoint] != status
            self.check(outpoint, status)
            self.told[outpoint] = status

    # -- the model

    def known_state(self):
        """The tip that clients know, and the transactions of the server's mempool."""
        shared = self.shared
        unconfirmed = {
            tx_hash: tx
            for tx_hash, tx in self.mempool.txs.items()
            if self.mempool.index.has_tx(tx_hash)
        }
        return shared.tip.notified_tip, unconfirmed

    def naive(self, outpoint, tip, unconfirmed):
        """The status by looking at everything, as it is answered."""
        confirmed, spends = self.daemon.transactions(tip), self.spends(tip)
        funder_height = spender = spender_height = None
        for tx_hash, tx in unconfirmed.items():
            height = -any(prev_hash in unconfirmed for prev_hash, _idx in tx.prevouts)
            if tx_hash == outpoint[0] and outpoint[1] < len(tx.out_pairs):
                funder_height = height
            if outpoint in tx.prevouts:
                spender, spender_height = tx_hash, height
        found = confirmed.get(outpoint[0])
        if found is not None and outpoint[1] < len(found[0].outputs):
            funder_height = found[3]
        if outpoint in spends:
            spender, spender_height = spends[outpoint]
        if funder_height is None:
            return {}
        status = {"funder_height": funder_height}
        if spender is not None:
            txid = hash_to_hex_str(spender)
            status |= {"spender_txhash": txid, "spender_height": spender_height}
        return status

    def spends(self, tip):
        """The transactions of a chain by the outpoints that they spend, with their heights."""
        if ("spends", tip) not in self.models:
            self.models["spends", tip] = {
                (txin.prev_hash, txin.prev_idx): (tx_hash, height)
                for tx_hash, (tx, _raw, _hash, height) in self.daemon.transactions(tip).items()
                for txin in tx.inputs
            }
        return self.models["spends", tip]

    def check(self, outpoint, status):
        assert status == self.naive(outpoint, *self.known_state())

    # -- events

    def do(self, name, *args):
        daemon = self.daemon
        if name == "remix":
            # Others in place of the transactions that were to be in the next block
            daemon.move(daemon.tip)
        elif name == "mine_part":
            daemon.mine_part()
        elif name == "evict":
            for tx_hash in list(daemon.mempool)[-args[0] :]:
                del daemon.mempool[tx_hash]
        elif name == "node_fails":
            daemon.lookups_fail = args[0]
        elif name == "index":
            self.shared.protocol.has_spender_index = args[0]
        elif name == "subscribe":
            for outpoint in self.some_outpoints(args[0]):
                self.spawn(self.subscribe(outpoint))
        elif name == "subscribe_to":
            for outpoint in args[0]:
                self.spawn(self.subscribe(outpoint))
        elif name == "get_status":
            for outpoint in self.some_outpoints(args[0]):
                self.spawn(self.ask_of(self.methods.outpoint_get_status, outpoint))
        elif name == "subscribe_to_mempool":
            self.subscribe_to_mempool()
        elif name == "unsubscribe":
            for tx_hash, index in list(self.told)[: args[0]]:
                del self.told[tx_hash, index]
                assert self.methods.outpoint_unsubscribe(hash_to_hex_str(tx_hash), index)
        elif name == "settled":
            self.check_all()
        else:
            super().do(name, *args)

    def some_outpoints(self, count):
        """Outpoints of blocks of all branches, of the next one too, and some that never are."""
        outpoints = []
        for _ in range(count):
            block_hash = self.choose.choice([self.daemon.tip, self.daemon.next, *self.maker.blocks])
            block = COIN.block(self.maker.blocks[block_hash][0], 1)
            if not block.transactions:
                continue
            tx, tx_hash = self.choose.choice(block.transactions)
            if self.choose.random() < 0.3 and not tx.inputs[0].is_generation():
                txin = self.choose.choice(tx.inputs)
                outpoints.append((txin.prev_hash, txin.prev_idx))
                continue
            index = self.choose.choice([*range(len(tx.outputs)), 0, 0, 7, 2**32, 2**70])
            outpoints.append((self.choose.choice([tx_hash] * 20 + [bytes(32)]), index))
        return outpoints

    def spawn(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.queries.add(task)

    async def subscribe(self, outpoint):
        if outpoint in self.told or outpoint in self.asking:
            return
        self.asking.add(outpoint)
        try:
            status = await self.ask_of(self.methods.outpoint_subscribe, outpoint)
        finally:
            self.asking.discard(outpoint)
        if status is not None:
            # Nothing has happened since.
            self.told[outpoint] = status

    async def ask_of(self, method, outpoint):
        """Call a method with a hint; check the status and return it, None after an error."""
        try:
            status = method(hash_to_hex_str(outpoint[0]), outpoint[1], self.hint(outpoint))
            if isawaitable(status):
                status = await status
        except RPCError:
            self.failed_subscriptions += 1
            return None
        self.answered += 1
        self.check(outpoint, status)
        return status

    def hint(self, outpoint):
        """A hint to an outpoint's script: right, wrong or empty."""
        kind = self.choose.choice(["right", "wrong", "empty"])
        if kind == "right":
            found = self.daemon.transactions(self.daemon.tip).get(outpoint[0])
            if found is not None and outpoint[1] < len(found[0].outputs):
                return found[0].outputs[outpoint[1]].pk_script.hex()
        return "" if kind == "empty" else self.choose.choice(self.maker.draws.scripts).hex()

    def subscribe_to_mempool(self):
        """Subscribe to all that unconfirmed transactions create and spend."""
        for raw in self.daemon.mempool.values():
            tx, tx_hash = COIN.DESERIALIZER(raw).read_tx_and_hash()
            for index in range(len(tx.outputs)):
                self.spawn(self.subscribe((tx_hash, index)))
            for txin in tx.inputs:
                self.spawn(self.subscribe((txin.prev_hash, txin.prev_idx)))

    async def become_calm(self):
        if not self.is_calm_at_end:
            return
        self.daemon.lookups_fail = False
        await super().become_calm()
        await self.check_cold(*self.check_all())

    def check_all(self):
        """Check that all that was due has been sent; return the tip and the mempool."""
        tip, unconfirmed = self.known_state()
        assert tip == self.daemon.tip
        assert set(unconfirmed) == set(self.daemon.mempool)
        for outpoint, status in self.told.items():
            assert status == self.naive(outpoint, tip, unconfirmed), outpoint
        return tip, unconfirmed

    async def check_cold(self, tip, unconfirmed):
        """The statuses of a server that has just started, with and without the node's index."""
        for has_index in (False, True):
            cold = OutpointStatuses(
                self.db,
                self.daemon,
                self.mempool.index,
                OutpointCache(OutpointWatch()),
                COIN,
                lambda has=has_index: has,
            )
            for outpoint in [*self.told][:60]:
                answer = await cold.answer(outpoint, lambda _cost: None)
                expected = self.naive(outpoint, tip, unconfirmed)
                assert answer.answer() == expected, (has_index, outpoint)


def simulate(seed, storm, *, slow_disk=False, engine="leveldb", subscriptions=40):
    storm = [(("subscribe", subscriptions), 1.0), *storm]
    made = []

    def make(*args):
        made.append(Simulation(*args, engine=engine))
        return made[0]

    tip_laws.simulate(seed, storm, slow_disk, make)
    return made[0]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), STORMS, st.booleans())
def test_subscribers_get_every_status_and_no_other_through_any_storm(seed, storm, slow_disk):
    simulate(seed, storm, slow_disk=slow_disk)


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_subscribers_are_notified_of_blocks_reorganisations_and_replacements(engine):
    storm = [
        (("add", 1), 6.0),
        (("remix", 0), 6.0),
        (("subscribe", 40), 1.0),
        (("add", 2), 6.0),
        (("evict", 2), 6.0),
        (("replace", 3, 1), 6.0),
        (("node_fails", True), 0.0),
        (("replace", 5, 7), 6.0),
        (("node_fails", False), 6.0),
        (("index", True), 0.0),
        (("replace", 20, 22), 6.0),
        (("add", 3), 6.0),
    ]
    simulation = simulate(5, storm, engine=engine, subscriptions=200)
    assert simulation.tellings > 100
    assert simulation.failed_subscriptions == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_dependent_transaction_is_notified_when_the_other_is_mined(seed):
    """Heights of -1 become 0 without anything of the outpoint itself being mined."""
    storm = [(("subscribe_to_mempool",), 6.0), (("mine_part", 0), 6.0)] * 6
    simulation = simulate(seed, storm)
    assert simulation.tellings > 5


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_transactions_the_mempool_never_had_are_notified(seed):
    """They come too fast for the mempool, and nothing is undone at the end."""
    storm = [(("subscribe", 60), 6.0), (("add", 3), 0.0)] * 4
    simulation = simulate(seed, storm)
    assert simulation.tellings > 10


def test_statuses_that_a_failing_node_withheld_are_sent_later():
    storm = [
        (("subscribe", 200), 1.0),
        (("node_fails", True), 0.0),
        (("replace", 6, 8), 6.0),
        (("replace", 3, 8), 6.0),
        (("node_fails", False), 0.0),
    ]
    assert simulate(7, storm).tellings > 10


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_subscribers_are_answered_and_notified_after_restarts(engine):
    storm = [
        (("add", 2), 6.0),
        (("restart", True, 0, 0), 1.0),
        (("mine_part", 0), 12.0),
        (("settled",), 0.0),
        (("restart", True, 20, 22), 1.0),
        (("replace", 3, 4), 0.05),
        (("restart", False, 2, 1), 1.0),
        (("add", 1), 12.0),
        (("settled",), 0.0),
    ]
    simulation = simulate(11, storm, engine=engine, subscriptions=200)
    assert simulation.restarts == 3
    assert simulation.answered > 400
    assert simulation.tellings > 10
    assert simulation.failed_subscriptions == 0


def soak_storm(seed):
    """Events at random, and checks that all that was due has been sent."""
    choose = random.Random(seed)
    storm = []
    for _ in range(14):
        event = choose.choice(
            [
                ("add", choose.randint(1, 3)),
                ("mine_part", 0),
                ("remix", 0),
                ("evict", choose.randint(1, 3)),
                ("replace", choose.randint(1, 20), choose.randint(0, 22)),
                ("force", choose.randint(1, 20)),
                ("index", choose.random() < 0.5),
                ("get_status", 50),
                ("subscribe", 100),
                ("subscribe_to_mempool",),
                ("unsubscribe", 5),
                ("restart", choose.random() < 0.5, choose.randint(0, 20), choose.randint(0, 22)),
            ]
        )
        if choose.random() < 0.6:
            storm += [(event, 12.0), (("settled",), 0.0)]
        else:
            storm.append((event, choose.choice([0.0, 0.05, 0.5, 1.0, 6.0])))
    return storm


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
def test_soak(engine):
    counts = Counter()
    seed = 0
    while counts["outpoints"] < SOAK:
        seed += 1
        storm = soak_storm(seed)
        try:
            simulation = simulate(seed, storm, engine=engine, subscriptions=300)
        except BaseException as e:
            e.add_note(f"seed {seed}: {storm}")
            raise
        counts["outpoints"] += len(simulation.told)
        counts["statuses answered"] += simulation.answered
        counts["notifications"] += simulation.tellings
        counts["restarts"] += simulation.restarts
        counts["errors"] += simulation.failed_subscriptions
        for (name, *_args), _pause in storm:
            counts[name] += 1
    print(", ".join(f"{count:,d} {name}" for name, count in counts.items()))
