"""A crowd of random hostile clients against the whole server; ``hostile_messages`` is the oracle.

Each connection has a seed of its own, which a failure names. The variable ELECTRUMX_FUZZ_SEED sets
where the seeds begin (at random in the soak test), ELECTRUMX_FUZZ_SECS how long that one lasts.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import time

import pytest

from benchmarks.measuring import memory_kb
from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import Tx, TxInput, TxOutput
from tests.fakes.chain import MINUS_1
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import chained_block, script_of, small_chain
from tests.integration.hostile_client import Hostile
from tests.integration.server import ServerProcess

pytestmark = pytest.mark.slow

PROTOCOLS = ("tcp", "ssl", "ws", "wss")
MAX_RECV = 200_000
# The least that MAX_SEND may be
MAX_SEND = 350_000
BUSY_SCRIPT = script_of(1)
BUSY_COUNT = 3_000
MESSAGES = 25
CONNECTIONS = 48
AT_ONCE = 8
BLOCKS = 3
SETTLING_SECS = 150
# Between the middle and the end, when caches and the allocator's pools are full
MAX_GROWTH_KB = 30_000


def script_hash(script):
    return hashlib.sha256(script).digest()[::-1].hex()


class World:
    """A server over a fake node, clients that have done nothing wrong, and their state."""

    def __init__(self, folder, stack, **settings):
        maker, tip = small_chain()
        tip = chained_block(maker, tip, BUSY_COUNT, script=BUSY_SCRIPT, sig_size=10)
        self._keep_coins(maker, tip)
        self.maker, self.tip = maker, maker.grow(tip, 3)
        blocks = maker.chain(self.tip)
        self.node = stack.enter_context(NodeThread(blocks))
        huge = self._huge_tx()
        self.node.node.mempool[double_sha256(huge)] = huge
        services = (*PROTOCOLS, "rpc")
        settings = {"MAX_RECV": MAX_RECV, "MAX_SEND": 0, **settings}
        self.server = stack.enter_context(
            ServerProcess(folder, self.node.env, protocols=services, **settings)
        )
        self.height = len(blocks) - 1
        self.calls = self._calls(blocks, double_sha256(huge)[::-1].hex())
        self.answers = []

    @staticmethod
    def _keep_coins(maker, block_hash):
        """Let no later block spend the outputs of one with BUSY_SCRIPT.

        The maker spends outputs at random; to spend one of these would change the answers.
        """
        unspent = maker.blocks[block_hash][2]
        before = maker.blocks[maker.blocks[block_hash][1]][2]
        for outpoint in unspent.keys() - before.keys():
            del unspent[outpoint]

    def _huge_tx(self):
        """A transaction whose hex is longer than a reply may be.

        Its coin is one that no later block spends, so it stays in the mempool.
        """
        (tx_hash, index), value = self.maker.blocks[self.tip][2].popitem()
        txin = TxInput(tx_hash, index, bytes(MAX_SEND // 2), MINUS_1)
        return Tx(2, [txin], [TxOutput(value, script_of(2))], 0).serialize()

    def _calls(self, blocks, huge_txid):
        """Requests whose answers no new block changes."""
        busy = script_hash(BUSY_SCRIPT)
        txs = [tx.tx_hash[::-1].hex() for tx in self.node.do(lambda n: n.block_txs(blocks[-4]))]
        height = len(blocks) - 4
        return [
            ("server.ping", []),
            ("server.banner", []),
            ("server.features", []),
            ("server.peers.subscribe", []),
            ("blockchain.relayfee", []),
            ("blockchain.block.header", [5]),
            ("blockchain.block.header", [5, 100]),
            ("blockchain.block.headers", [0, 100]),
            ("blockchain.scripthash.get_balance", [busy]),
            ("blockchain.scripthash.get_history", [busy]),
            ("blockchain.scripthash.listunspent", [busy]),
            ("blockchain.scripthash.subscribe", [busy]),
            ("blockchain.scripthash.get_history", ["00" * 32]),
            ("blockchain.transaction.get", [txs[1]]),
            ("blockchain.transaction.get", [huge_txid]),
            ("blockchain.transaction.get_merkle", [txs[1000], height]),
            ("blockchain.transaction.id_from_pos", [height, 2000, True]),
            ("no.such.method", []),
        ]

    async def ask_calmly(self):
        """Learn the answers."""
        async with self.server.connect() as client:
            for method, params in self.calls:
                reply = await client.request(method, params, timeout=SETTLING_SECS)
                self.answers.append(reply)

    def add_block(self):
        self.tip = self.maker.grow(self.tip, 1)
        self.height += 1
        raw = self.maker.blocks[self.tip][0]
        self.node.do(lambda node: node.append(raw))

    def sessions(self):
        return self.server.rpc("getinfo")["sessions"]

    async def settled(self):
        """Wait until only the asking client is connected."""
        deadline = time.monotonic() + SETTLING_SECS
        while (sessions := await asyncio.to_thread(self.sessions))["count"] > 1:
            assert time.monotonic() < deadline, sessions
            await asyncio.sleep(0.1)
        assert sessions["subs"] == 0

    def assert_sound(self):
        log = self.server.log()
        assert self.server.child.running()
        assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
        assert "never retrieved" not in log


class Bystander:
    """A wallet that continues its requests."""

    def __init__(self, world, protocol):
        self._world, self._protocol = world, protocol
        self.asked = 0

    async def run(self, stopping):
        async with self._world.server.connect(self._protocol) as client:
            await client.hello()
            height = (await client.call("blockchain.headers.subscribe"))["height"]
            while not stopping.is_set():
                for (method, params), expected in zip(
                    self._world.calls[-6:], self._world.answers[-6:], strict=True
                ):
                    reply = await client.request(method, params, timeout=SETTLING_SECS)
                    got = reply.get("result"), reply.get("error")
                    assert got == (expected.get("result"), expected.get("error"))
                self.asked += 1
                await asyncio.sleep(0.02)
            while height < self._world.height:
                params = await client.notification(
                    "blockchain.headers.subscribe", timeout=SETTLING_SECS
                )
                height = params[0]["height"]
            assert client.unexpected == []


async def end_all(tasks):
    """Cancel tasks until they have ended: before Python 3.12, wait_for may lose a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1)


async def crowd(world, seeds, *, on_connection=lambda number: None):
    """Let a connection of each seed do its worst, some at a time, beside two bystanders."""
    stopping = asyncio.Event()
    bystanders = [Bystander(world, protocol) for protocol in ("tcp", "wss")]
    standing = [asyncio.ensure_future(bystander.run(stopping)) for bystander in bystanders]
    replies = 0

    async def run_some():
        nonlocal replies
        for number, seed in seeds:
            rng = random.Random(seed)
            protocol = PROTOCOLS[number % len(PROTOCOLS)]
            hostile = Hostile(
                rng,
                protocol,
                world.server.ports[protocol],
                world.calls,
                world.answers,
                count=MESSAGES,
            )
            try:
                await hostile.run()
            except AssertionError as e:
                raise AssertionError(f"seed {seed} ({hostile}): {e}") from e
            replies += hostile.replies
            for task in standing:
                assert not task.done(), task.result()
            await asyncio.to_thread(on_connection, number)

    runs = [asyncio.ensure_future(run_some()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*runs)
        stopping.set()
        await asyncio.gather(*standing)
    finally:
        stopping.set()
        await end_all([*runs, *standing])
    assert all(bystander.asked for bystander in bystanders)
    return replies


@pytest.mark.parametrize("loop", [None, "uvloop"])
async def test_every_request_of_a_hostile_crowd_is_answered_once_and_no_other_is_harmed(
    loop, tmp_path
):
    start = int(os.environ.get("ELECTRUMX_FUZZ_SEED", "1"))
    with contextlib.ExitStack() as stack:
        world = await asyncio.to_thread(World, tmp_path, stack, EVENT_LOOP_POLICY=loop)
        await world.ask_calmly()

        def on_connection(number):
            if number % (CONNECTIONS // (BLOCKS + 1)) == 0 and number:
                world.add_block()

        seeds = enumerate(range(start, start + CONNECTIONS))
        replies = await crowd(world, seeds, on_connection=on_connection)
        assert replies > CONNECTIONS * MESSAGES // 2
        await world.settled()
        world.assert_sound()


@pytest.mark.soak
async def test_hours_of_hostile_crowds_leave_nothing_behind(tmp_path, capsys):
    secs = int(os.environ.get("ELECTRUMX_FUZZ_SECS", "3600"))
    start = int(os.environ.get("ELECTRUMX_FUZZ_SEED") or random.SystemRandom().randrange(10**9))
    with contextlib.ExitStack() as stack:
        world = await asyncio.to_thread(World, tmp_path, stack, LOG_LEVEL="warning")
        await world.ask_calmly()
        begun = time.monotonic()
        memory = []

        def seeds(until):
            for number in itertools.count():
                if time.monotonic() > until:
                    return
                yield number, start + number

        for part in (1, 2, 3, 4):
            await crowd(world, seeds(begun + secs * part / 4))
            await world.settled()
            memory.append(memory_kb(world.server.child.pid))
            start += 10**6
            with capsys.disabled():
                print(f"\nfrom seed {start - 10**6:,d}: {memory[-1]:,d} KB")
        world.assert_sound()
        assert memory[-1] - memory[1] < MAX_GROWTH_KB
