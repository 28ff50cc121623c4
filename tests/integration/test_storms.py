"""Reorganisations in a row, with a node whose mempool is slow or fails: clients follow the tip."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from tests.fakes.fake_node import RPCFault
from tests.fakes.node_thread import NodeThread
from tests.fakes.small_chains import small_chain
from tests.integration.oracle import scripthash_of
from tests.integration.server import ServerProcess

# Promised for a new tip and for every answer, and a busy machine's share
LIMIT_SECS = 5.0
BUSY_SECS = 20.0
HEADERS = "blockchain.headers.subscribe"
SCRIPTHASH = scripthash_of(b"\x76\xa9\x14" + bytes([1]) * 20 + b"\x88\xac")
# Longer than both: a client that is notified of its first block only at its end is notified too late.
STORM_BLOCKS = 30


def slow_mempool(node):
    """Take 2 seconds to list the mempool."""
    node.delays["getrawmempool"] = 2.0


def failing_mempool(node):
    """Answer getrawmempool with an error."""

    def fail():
        raise RPCFault(-1, "mempool not available")

    node.overrides["getrawmempool"] = fail


class Storm:
    """Drops a block, adds two, and then one a second; measures what clients see."""

    def __init__(self, node, maker, tip):
        self.node, self.maker, self.tip = node, maker, tip
        self.height = node.do(lambda n: n.height)

    def reorganise(self):
        """Replace the last block by two others."""
        self.tip = self.maker.grow(self.maker.blocks[self.tip][1], 2)
        raws = self.maker.chain(self.tip)[-2:]
        self.node.do(lambda n: n.fork(self.height, raws))
        self.height += 1

    def add(self):
        self.tip = self.maker.extend(self.tip)
        raw = self.maker.blocks[self.tip][0]
        self.node.do(lambda n: n.append(raw))
        self.height += 1

    @property
    def header(self):
        return self.maker.blocks[self.tip][0][:80].hex()

    async def rage(self, blocks=STORM_BLOCKS):
        """Reorganise, then add blocks; return {header: when the node had it}."""
        at = {}
        self.reorganise()
        at[self.header] = time.monotonic()
        for _ in range(blocks):
            await asyncio.sleep(1)
            self.add()
            at[self.header] = time.monotonic()
        return at


@asynccontextmanager
async def asking(server):
    """Ask for a history again and again; yield the seconds that each answer took."""
    took = []

    async def ask():
        async with server.connect() as client:
            while True:
                start = time.monotonic()
                await client.call("blockchain.scripthash.get_history", SCRIPTHASH, timeout=120)
                took.append(time.monotonic() - start)
                await asyncio.sleep(0.1)

    task = asyncio.create_task(ask())
    try:
        yield took
    finally:
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError), results


def longest_behind(at, told):
    """The longest time from a header, or a later one, at the node to its notification."""
    order = list(at)
    heard = {header: when for header, when in told if header in at}
    longest = 0.0
    for n, header in enumerate(order):
        times = [heard[later] for later in order[n:] if later in heard]
        assert times, f"nothing after block {n} of the storm was told"
        longest = max(longest, min(times) - at[header])
    return longest


@pytest.mark.parametrize("trouble", [slow_mempool, failing_mempool])
async def test_tips_and_answers_keep_coming_in_a_storm(tmp_path, stopping, trouble):
    maker, tip = small_chain(20)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    server = await asyncio.to_thread(
        stopping.enter_context, ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc"))
    )
    storm = Storm(node, maker, tip)
    node.do(trouble)
    async with server.connect() as client, asking(server) as took:
        await client.call(HEADERS)
        told = []

        async def listen():
            while True:
                [header] = await client.notification(HEADERS, timeout=600)
                told.append((header["hex"], time.monotonic()))

        listening = asyncio.create_task(listen())
        at = await storm.rage()
        deadline = time.monotonic() + 60
        while (not told or told[-1][0] != storm.header) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        listening.cancel()
        asked = await client.call(HEADERS)
    print("longest behind:", longest_behind(at, told), "longest answer:", max(took))
    assert longest_behind(at, told) < LIMIT_SECS + BUSY_SECS
    assert max(took) < LIMIT_SECS + BUSY_SECS
    assert asked == {"hex": storm.header, "height": storm.height}
    assert "Traceback" not in server.log()


async def test_a_start_in_a_storm_is_served(tmp_path, stopping):
    maker, tip = small_chain(20)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    storm = Storm(node, maker, tip)
    node.do(slow_mempool)
    server = ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc"))
    raging = asyncio.create_task(storm.rage(600))
    try:
        await asyncio.to_thread(server.start, timeout=150)
        stopping.callback(server.terminate)
        async with server.connect() as client:
            answer = await client.call(HEADERS)
            assert answer["height"] > 20
            await client.call("blockchain.scripthash.get_history", SCRIPTHASH)
    finally:
        raging.cancel()


async def test_a_lost_block_behind_an_old_height_is_notified(tmp_path, stopping):
    """The node answers with the height that it had once more, and has lost that block by then."""
    maker, tip = small_chain(23)
    node = stopping.enter_context(NodeThread(maker.chain(tip)))
    server = await asyncio.to_thread(
        stopping.enter_context, ServerProcess(tmp_path, node.env, protocols=("tcp", "rpc"))
    )

    def lose_block(node):
        # Undoing begins by asking for no height; afterwards the old one is answered once.
        old = node.height
        node.fork(old, [])
        answers = iter([old])
        node.overrides["getblockcount"] = lambda: next(answers, node.height)

    async with server.connect() as client, asking(server) as took:
        assert (await client.call(HEADERS))["height"] == 23
        node.do(lose_block)
        await asyncio.to_thread(server.rpc, "reorg", 1)
        [header] = await client.notification(HEADERS, timeout=LIMIT_SECS + BUSY_SECS)
        assert header["height"] == 22
        answered = len(took)
        while len(took) < answered + 2:
            await asyncio.sleep(0.05)
    assert max(took) < LIMIT_SECS + BUSY_SECS
