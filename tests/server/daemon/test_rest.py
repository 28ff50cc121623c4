"""Blocks come over REST where the node offers it, and over JSON-RPC in every other case."""

import asyncio
import logging

from electrumx.lib.coins import BitcoinSegwitRegtest
from electrumx.server.daemon.byte_budget import ByteBudget
from electrumx.server.daemon.client import Daemon
from electrumx.server.daemon.rest import RestBlocks
from tests.fakes.chain import ChainMaker
from tests.fakes.fake_node import FakeNode


def chain(blocks=12):
    maker = ChainMaker(seed=31)
    return maker.chain(maker.grow(maker.genesis_hash, blocks))


def block_gets(node):
    return [path for path in node.rest_paths if path.startswith("/rest/block/")]


async def test_blocks_are_fetched_over_rest_without_a_password():
    raws = chain()
    async with FakeNode(raws) as node, Daemon(BitcoinSegwitRegtest, node.url) as daemon:
        node.rest = 1000
        hashes = await daemon.block_hex_hashes(0, len(raws))
        assert raws == await daemon.raw_blocks(hashes)
        assert raws[3:5] == await daemon.raw_blocks(hashes[3:5])
        assert len(node.rest_paths) == len(block_gets(node)) == len(raws) + 2
        assert "getblock" not in [method for method, _params in node.calls]


async def test_a_node_without_rest_is_asked_once_and_serves_over_json_rpc():
    raws = chain()
    async with FakeNode(raws) as node, Daemon(BitcoinSegwitRegtest, node.url) as daemon:
        hashes = await daemon.block_hex_hashes(0, len(raws))
        for _ in range(3):
            assert raws == await daemon.raw_blocks(hashes)
        assert node.rest_paths == [f"/rest/block/{hashes[0]}.bin"]


async def test_an_interface_that_fails_midway_is_left_for_json_rpc():
    raws = chain()
    async with FakeNode(raws) as node, Daemon(BitcoinSegwitRegtest, node.url) as daemon:
        node.rest = 5
        hashes = await daemon.block_hex_hashes(0, len(raws))
        assert raws == await daemon.raw_blocks(hashes)
        asked = len(node.rest_paths)
        assert raws == await daemon.raw_blocks(hashes)
        assert len(node.rest_paths) == asked


async def test_an_interface_that_comes_later_is_found_after_a_while(monkeypatch):
    monkeypatch.setattr(RestBlocks, "RECHECK_SECS", 0.0)
    raws = chain()
    async with FakeNode(raws) as node, Daemon(BitcoinSegwitRegtest, node.url) as daemon:
        hashes = await daemon.block_hex_hashes(0, len(raws))
        assert raws == await daemon.raw_blocks(hashes)
        assert len(block_gets(node)) == 1
        node.rest = 1000
        assert raws == await daemon.raw_blocks(hashes)
        assert len(block_gets(node)) == 1 + len(raws)


async def test_requests_in_flight_are_bounded():
    raws = chain(40)
    async with FakeNode(raws) as node:
        node.rest = 1000
        async with Daemon(BitcoinSegwitRegtest, node.url, max_workqueue=3) as daemon:
            hashes = await daemon.block_hex_hashes(0, len(raws))
            assert raws == await daemon.raw_blocks(hashes)
            assert len(node.connections) <= 3


async def test_connections_that_the_node_closed_are_opened_again():
    raws = chain()
    async with FakeNode(raws) as node, Daemon(BitcoinSegwitRegtest, node.url) as daemon:
        node.rest = 1000
        hashes = await daemon.block_hex_hashes(0, len(raws))
        assert raws == await daemon.raw_blocks(hashes)
        await node.stop()
        await node.start()
        assert raws == await daemon.raw_blocks(hashes)
        assert "getblock" not in [method for method, _params in node.calls]


async def test_a_hash_that_is_none_gets_into_no_request_line():
    rest = RestBlocks(logging.getLogger(), asyncio.Semaphore(1), ByteBudget(99))
    async with FakeNode(chain()) as node:
        node.rest = 1000
        assert await rest.raw_blocks(node.url, ["x.bin HTTP/1.1\r\nX: y\r\n\r\n"], 99) is None
        assert not node.rest_paths
    rest.close()
