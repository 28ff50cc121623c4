"""The prefetcher at nodes whose blocks become larger suddenly, or are too large to be read."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from electrumx.lib.hash import double_sha256
from electrumx.server.block_processor.prefetcher import Prefetcher
from electrumx.server.daemon import block_requests
from electrumx.server.daemon.block_requests import BlockRequests
from electrumx.server.daemon.client import BoundedResponse, Daemon
from tests.fakes.chain import COIN, GENESIS
from tests.fakes.fake_node import FakeNode, to_hex

LIMIT = 1_000_000


class SmallResponse(BoundedResponse):
    max_bytes = LIMIT


class Limited(Daemon):
    """Reads answers of 1 MB at most."""

    RESPONSE_CLASS = SmallResponse


def make_blocks(*sizes):
    """Return blocks of these sizes, the genesis block first."""
    blocks = [GENESIS]
    for n, size in enumerate(sizes):
        header = n.to_bytes(4, "little") + double_sha256(blocks[-1][:80]) + bytes(44)
        blocks.append(header + bytes(size - 80))
    return blocks


@asynccontextmanager
async def fetching(blocks, *, rest=0, **options):
    """Run a prefetcher at a node; yield it and the node."""
    node = FakeNode(blocks, parse_txs=False)
    # Looking a block up by its hash must not take time in proportion to their number.
    by_hash = {to_hex(node.block_hash(raw)): raw for raw in blocks}
    node.find_block = lambda hex_hash: (None, by_hash[hex_hash])
    node.rest = rest
    async with node, Limited(COIN, node.url, init_retry=0.01, max_retry=0.01) as daemon:
        prefetcher = Prefetcher(daemon, COIN, asyncio.Event(), polling_delay=0.02)
        for name, value in options.items():
            setattr(prefetcher, name, value)
        task = asyncio.ensure_future(prefetcher.main_loop(-1))
        try:
            yield prefetcher, node
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(condition, timeout=120):
    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), timeout)


async def take_all(prefetcher, count):
    """Take blocks as they come until there are so many."""
    taken = []
    while len(taken) < count:
        await asyncio.wait_for(prefetcher.blocks_event.wait(), 120)
        prefetcher.blocks_event.clear()
        taken += prefetcher.get_prefetched_blocks()
    return taken


def batch_sizes(node):
    """How many blocks each request was for."""
    return [
        len(body)
        for body in node.bodies
        if isinstance(body, list) and body[0]["method"] == "getblock"
    ]


@pytest.fixture
def counts(monkeypatch):
    """How many blocks each request was for, however they were fetched."""
    made, raw_blocks = [], Daemon.raw_blocks

    async def counted(daemon, hex_hashes):
        made.append(len(hex_hashes))
        return await raw_blocks(daemon, hex_hashes)

    monkeypatch.setattr(Daemon, "raw_blocks", counted)
    return made


@pytest.mark.parametrize("rest", [0, 100_000])
async def test_a_request_becomes_smaller_when_the_blocks_become_larger(monkeypatch, rest):
    monkeypatch.setattr(block_requests, "BLOCK_BATCH_BYTES", LIMIT)
    blocks = make_blocks(*[100] * 300, *[60_000] * 100)
    async with fetching(blocks, rest=rest) as (prefetcher, node):
        taken = await take_all(prefetcher, len(blocks))
        assert [len(raw) for raw in taken] == [len(raw) for raw in blocks]
        assert taken[1:] == blocks[1:]
        if not rest:
            # Requests do not grow to the size that was too large.
            sizes = batch_sizes(node)
            assert max(sizes) > 100
            assert max(sizes[sizes.index(max(sizes)) + 1 :]) <= max(sizes) // Prefetcher.SPLIT
            assert sum(sizes) < 3 * len(blocks)
        else:
            # The blocks before the one that is too much are kept.
            assert batch_sizes(node) == []
            assert len(node.rest_paths) < len(blocks) + 12


@pytest.mark.parametrize("size", [1_700_000, 4_000_000])
async def test_large_blocks_are_requested_for_all_connections_where_the_node_has_rest(
    monkeypatch, counts, size
):
    monkeypatch.setattr(BlockRequests, "MAX_REST_BLOCK", 100_000_000)
    blocks = make_blocks(*[size] * 40)
    async with fetching(blocks, rest=1000) as (prefetcher, node):
        assert (await take_all(prefetcher, len(blocks)))[1:] == blocks[1:]
        assert batch_sizes(node) == []
    # The size of blocks is not known at first, and few are left at last.
    later = counts[-4:-1]
    assert len(later) == 3
    for count in later:
        assert count >= Daemon.REST_CONNECTIONS
        assert count * size < 20_000_000


async def test_small_blocks_are_requested_in_megabytes_where_the_node_has_rest(counts):
    """More at once would only take memory."""
    size = 90_000
    blocks = make_blocks(*[size] * 400)
    async with fetching(blocks, rest=1000) as (prefetcher, _node):
        assert (await take_all(prefetcher, len(blocks)))[1:] == blocks[1:]
    assert max(counts) > 4 * Daemon.REST_CONNECTIONS
    assert max(counts) * size < 3_000_000


async def test_requests_grow_again_when_the_blocks_become_smaller():
    blocks = make_blocks(*[400_000] * 5, *[100] * 3000)
    async with fetching(blocks) as (prefetcher, node):
        assert (await take_all(prefetcher, len(blocks)))[1:] == blocks[1:]
        assert max(batch_sizes(node)) >= 100


async def test_a_block_that_cannot_be_read_is_named_once_and_not_asked_for_all_the_time(caplog):
    blocks = make_blocks(*[100] * 20, 600_000, 100)
    async with fetching(blocks) as (prefetcher, node):
        assert len(await take_all(prefetcher, 21)) == 21
        await until(lambda: "too large" in caplog.text)
        asked, polls = len(batch_sizes(node)), node.counts()["getblockcount"]
        await until(lambda: node.counts()["getblockcount"] > polls + 10)
        assert len(batch_sizes(node)) == asked
        [line] = [r.message for r in caplog.records if "too large" in r.message]
        assert f"block 21 ({to_hex(double_sha256(blocks[21][:80]))})" in line
        assert "larger than 1,000,000 bytes" in line
        assert "rest=1" in line
        assert "10 minutes" in line
        assert not prefetcher.caught_up


async def test_a_block_that_cannot_be_read_is_asked_for_again_after_a_while(caplog):
    blocks = make_blocks(100, 600_000)
    async with fetching(blocks, TOO_LARGE_SECS=0.0) as (prefetcher, node):
        await until(lambda: caplog.text.count("too large") > 2)
        smaller = make_blocks(100, 500)
        node.fork(2, smaller[2:])
        del node.find_block
        assert (await take_all(prefetcher, 3))[2] == smaller[2]


async def test_another_block_at_the_height_of_one_that_cannot_be_read_is_fetched_at_once(caplog):
    blocks = make_blocks(100, 600_000)
    async with fetching(blocks) as (prefetcher, node):
        await until(lambda: "too large" in caplog.text)
        other = b"\x09" * 80 + bytes(500)
        del node.find_block
        node.fork(2, [other])
        assert (await take_all(prefetcher, 3))[2] == other


async def test_rest_reads_blocks_that_are_too_large_as_hex_and_names_its_own_limit(
    caplog, monkeypatch
):
    monkeypatch.setattr(BlockRequests, "MAX_REST_BLOCK", LIMIT)
    monkeypatch.setattr(block_requests, "BLOCK_BATCH_BYTES", LIMIT)
    blocks = make_blocks(100, 900_000, 1_000_001)
    async with fetching(blocks, rest=1000) as (prefetcher, node):
        assert len(await take_all(prefetcher, 3)) == 3
        await until(lambda: "too large" in caplog.text)
        [line] = [r.message for r in caplog.records if "too large" in r.message]
        assert "block 3 " in line
        assert "1,000,000 bytes" in line
        # It is not asked for as hex, which would be longer still.
        assert batch_sizes(node) == []


@pytest.mark.parametrize("answer", ["zz", "a\nforged line", "00" * 33, "é" * 64])
async def test_a_hash_that_is_none_is_not_used_nor_logged(caplog, answer):
    caplog.set_level("INFO")
    blocks = make_blocks(100, 100)
    async with fetching(blocks) as (prefetcher, node):
        await take_all(prefetcher, 3)
        await until(lambda: prefetcher.caught_up)
        node.overrides["getblockhash"] = lambda _height: answer
        node.append(make_blocks(*[100] * 3)[3])
        asked = node.counts()["getblockhash"]
        await until(lambda: node.counts()["getblockhash"] > asked + 2)
        assert prefetcher.blocks == []
        assert "forged" not in caplog.text
