"""Our index of a real Litecoin chain equals the oracle's, whatever happens on the way."""

import asyncio
import random

import pytest

from electrumx.lib.errors import SkipTxDeserialize
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.tx import DeserializerLitecoin
from tests.integration.chains import ChainBuilder, build_mweb
from tests.integration.compare import (
    assert_same_headers,
    assert_same_index,
    assert_same_proofs,
    wait_synchronised,
)
from tests.integration.oracle import Oracle, scripthash_of

pytestmark = [pytest.mark.daemon]


def small_chain(node):
    """Some hundred transactions in 160 blocks."""
    return ChainBuilder(node, scripts=40).build(blocks=160, txs=300)


@pytest.mark.parametrize("engine", ["leveldb", "rocksdb"])
async def test_a_big_chain_and_its_mempool_are_indexed_as_by_the_oracle(
    engine, litecoind, server_for
):
    builder = await asyncio.to_thread(ChainBuilder(litecoind).build)
    builder.send_random(40)
    server = await asyncio.to_thread(server_for, litecoind, DB_ENGINE=engine)
    oracle = await asyncio.to_thread(Oracle, litecoind)

    assert len(oracle.mempool) == 40
    await assert_same_index(server, oracle)
    await assert_same_headers(server, oracle)
    await assert_same_proofs(server, oracle)
    assert await asyncio.to_thread(server.terminate) == 0


async def test_blocks_with_mweb_extensions_are_indexed(mweb_litecoind, server_for):
    node = mweb_litecoind
    server = await asyncio.to_thread(server_for, node)
    await asyncio.to_thread(build_mweb, node)
    # Unconfirmed: one that pegs coins in, one that lives in the extension block alone.
    node.pay(node.rpc("getnewaddress", "", "mweb"), 2)
    await assert_same_index(server, await asyncio.to_thread(Oracle, node))


async def test_an_unconfirmed_peg_in_spends_the_nodes_outputs(mweb_litecoind, server_for):
    node = mweb_litecoind
    node.mine(node.MWEB_HEIGHT - 1)
    server = await asyncio.to_thread(server_for, node)
    txid = node.pay(node.rpc("getnewaddress", "", "mweb"), 5)
    raw = bytes.fromhex(node.rpc("getrawtransaction", txid))
    assert raw[4:6] == b"\0\x09"
    with pytest.raises(SkipTxDeserialize):
        DeserializerLitecoin(raw).read_tx()

    tx, size = DeserializerLitecoin(raw).read_unconfirmed()
    decoded = node.rpc("decoderawtransaction", raw.hex())
    spent = [(i["txid"], i["vout"]) for i in decoded["vin"] if "txid" in i]
    assert spent == [(hash_to_hex_str(txin.prev_hash), txin.prev_idx) for txin in tx.inputs]
    scripts = [o["scriptPubKey"]["hex"] for o in decoded["vout"] if "scriptPubKey" in o]
    assert scripts == [txout.pk_script.hex() for txout in tx.outputs]
    assert tx.locktime == decoded["locktime"]
    # The node adds the weight of the extension's data.
    assert 0 < size < node.rpc("getmempoolentry", txid)["vsize"]

    oracle = await asyncio.to_thread(Oracle, node)
    assert [*oracle.mempool] == [txid]
    await assert_same_index(server, oracle)
    node.mine(1)
    await assert_same_index(server, await asyncio.to_thread(Oracle, node))


async def test_every_block_as_it_comes_is_indexed(litecoind, server_for):
    builder = await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    for _ in range(5):
        builder.send_random(8)
        litecoind.mine(1)
        builder.send_random(4)
        await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


@pytest.mark.parametrize("depth", [1, 2, 10, 40])
async def test_after_a_reorganisation_the_index_is_that_of_the_new_chain(
    depth, litecoind, server_for
):
    builder = await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    before = await asyncio.to_thread(Oracle, litecoind)
    await wait_synchronised(server, before)

    await asyncio.to_thread(litecoind.reorganise, depth)
    builder.coins = []  # some of them may be gone
    after = await asyncio.to_thread(Oracle, litecoind)
    assert after.headers[before.height] != before.headers[before.height]
    await assert_same_index(server, after)
    await assert_same_headers(server, after)


async def test_a_chain_replaced_while_the_server_is_down_is_followed(litecoind, server_for):
    await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    await wait_synchronised(server, await asyncio.to_thread(Oracle, litecoind))
    assert await asyncio.to_thread(server.terminate) == 0
    await asyncio.to_thread(litecoind.reorganise, 12)
    await asyncio.to_thread(server.start)
    await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


async def test_an_index_killed_at_any_moment_repairs_itself(litecoind, server_for):
    builder = await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    moments = random.Random(4)
    for _ in range(6):
        builder.send_random(6)
        litecoind.mine(1)
        # The moment differs between kills; any must do.
        await asyncio.sleep(moments.uniform(0, 0.6))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


async def test_a_first_sync_killed_at_any_moment_goes_on(litecoind, server_for, tmp_path):
    await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    await asyncio.to_thread(server.kill)
    for delay in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        await asyncio.to_thread(server.launch)
        await asyncio.sleep(delay)
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


async def test_the_server_outlives_a_restart_of_its_node(litecoind, server_for):
    await asyncio.to_thread(small_chain, litecoind)
    server = await asyncio.to_thread(server_for, litecoind)
    await asyncio.to_thread(litecoind.stop)
    async with server.connect() as client:
        await client.hello()
        # Requests that need no node are answered without it.
        assert len(await client.call("blockchain.block.header", 1)) == 160
    await asyncio.to_thread(litecoind.start)
    litecoind.mine(2)
    await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


async def test_a_node_that_is_away_is_replaced_by_the_next_in_the_list(litecoind, server_for):
    await asyncio.to_thread(small_chain, litecoind)
    urls = f"http://u:p@127.0.0.1:1/,{litecoind.url}"
    server = await asyncio.to_thread(server_for, litecoind, DAEMON_URL=urls)
    await assert_same_index(server, await asyncio.to_thread(Oracle, litecoind))


@pytest.mark.parametrize("protocol", ["tcp", "ssl", "ws", "wss"])
async def test_a_subscriber_is_notified_of_a_payment_and_of_its_confirmation(
    protocol, litecoind, server_for
):
    litecoind.mine(101)
    server = await asyncio.to_thread(server_for, litecoind)
    await asyncio.to_thread(server.wait_height, 101)
    address = litecoind.rpc("getnewaddress")
    script = bytes.fromhex(litecoind.rpc("getaddressinfo", address)["scriptPubKey"])
    scripthash = scripthash_of(script)
    async with server.connect(protocol) as client:
        await client.hello()
        await client.call("blockchain.headers.subscribe")
        assert await client.call("blockchain.scripthash.subscribe", scripthash) is None

        litecoind.pay(address, 1)
        oracle = Oracle(litecoind)
        params = await client.notification("blockchain.scripthash.subscribe")
        assert params == [scripthash, oracle.status(scripthash)]

        litecoind.mine(1)
        oracle = Oracle(litecoind)
        params = await client.notification("blockchain.headers.subscribe")
        assert params == [{"hex": oracle.headers[102], "height": 102}]
        params = await client.notification("blockchain.scripthash.subscribe")
        assert params == [scripthash, oracle.status(scripthash)]
