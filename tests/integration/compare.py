"""Ask a server about everything, and compare with the oracle."""

import asyncio

from tests.integration.oracle import scripthash_of

QUERIES = ("get_history", "get_balance", "listunspent", "get_mempool")


def in_order(utxos):
    """Unspent outputs in an order that does not depend on who made the list."""
    return sorted(utxos, key=lambda u: (u["height"], u["tx_hash"], u["tx_pos"]))


def expected_answers(oracle, scripthash):
    """The right results of the four queries, and the status."""
    return {
        "get_history": oracle.get_history(scripthash),
        "get_balance": oracle.get_balance(scripthash),
        "listunspent": in_order(oracle.listunspent(scripthash)),
        "get_mempool": oracle.get_mempool(scripthash),
        "status": oracle.status(scripthash),
    }


async def actual_answers(client, scripthash):
    """The server's results."""
    calls = [(f"blockchain.scripthash.{query}", scripthash) for query in QUERIES]
    answers = dict(zip(QUERIES, await client.call_many(calls), strict=True))
    answers["listunspent"] = in_order(answers["listunspent"])
    answers["status"] = await client.call("blockchain.scripthash.subscribe", scripthash)
    await client.call("blockchain.scripthash.unsubscribe", scripthash)
    return answers


async def wait_synchronised(server, oracle, *, timeout=150):
    """Wait until the server serves the oracle's tip and knows all of its mempool."""
    async with server.connect() as client:
        await client.hello()
        await asyncio.wait_for(_poll_until_synchronised(client, oracle), timeout)


async def _poll_until_synchronised(client, oracle):
    while (await client.call("blockchain.headers.subscribe"))["hex"] != oracle.headers[-1]:
        await asyncio.sleep(0.05)
    for txid in oracle.mempool:
        scripthash = min(oracle.mempool_scripthashes(txid))
        while txid not in await _mempool_txids(client, scripthash):
            await asyncio.sleep(0.05)


async def _mempool_txids(client, scripthash):
    entries = await client.call("blockchain.scripthash.get_mempool", scripthash)
    return {entry["tx_hash"] for entry in entries}


async def assert_same_index(server, oracle):
    """Every scripthash of the oracle, and one without a payment, has the oracle's results."""
    await wait_synchronised(server, oracle)
    unknown = scripthash_of(b"nobody ever pays to this")
    wrong = []
    async with server.connect() as client:
        await client.hello()
        for scripthash in [*oracle.scripthashes(), unknown]:
            expected = expected_answers(oracle, scripthash)
            actual = await actual_answers(client, scripthash)
            if expected != actual:
                wrong.append((scripthash, expected, actual))
    assert not wrong, f"{len(wrong)} scripthashes differ, the first: {wrong[0]}"


async def assert_same_headers(server, oracle):
    """Every header is the node's, one by one and in bulk."""
    async with server.connect() as client:
        await client.hello()
        heights = range(oracle.height + 1)
        calls = [("blockchain.block.header", height) for height in heights]
        assert await client.call_many(calls) == oracle.headers
        bulk = await client.call("blockchain.block.headers", 0, oracle.height + 1)
        assert bulk["hex"] == "".join(oracle.headers)
        assert bulk["count"] == oracle.height + 1


async def assert_same_proofs(server, oracle, *, every=7):
    """Merkle branches and positions of transactions, and the transactions, are the node's."""
    async with server.connect() as client:
        await client.hello()
        for height in range(1, oracle.height + 1, every):
            for position, txid in enumerate(oracle.txids[height]):
                merkle = await client.call("blockchain.transaction.get_merkle", txid, height)
                expected = {
                    "merkle": oracle.merkle_branch(height, position),
                    "block_height": height,
                    "pos": position,
                }
                assert merkle == expected
                found = await client.call("blockchain.transaction.id_from_pos", height, position)
                assert found == txid
