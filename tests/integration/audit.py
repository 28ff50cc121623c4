"""Hold a server against the oracle until they agree, or say in which answers they differ.

The server is given time to follow the node: answers that differ are asked for again until they
are equal or a deadline has passed, then all are asked for once more.
"""

import asyncio
import itertools
import time

import pytest

from tests.integration.client import ElectrumError
from tests.integration.oracle import scripthash_of

FOLLOW_SECS = 150
UNKNOWN = scripthash_of(b"nobody ever pays to this")
# A status digests all of a history, and unspent outputs add up to a balance.
CHEAP = ("listunspent", "subscribe")
QUERIES = (*CHEAP, "get_balance", "get_history", "get_mempool")
# Requests that are under way at a time, and those in one message.
WINDOW = 60
BATCH = 40


def _expected(oracle, query, scripthash):
    if query == "subscribe":
        return oracle.status(scripthash)
    answer = getattr(oracle, query)(scripthash)
    return _in_order(answer) if query == "listunspent" else answer


def _in_order(utxos):
    """Confirmed ones as they are, in the chain's order; then those of the mempool, by txid."""
    confirmed = [utxo for utxo in utxos if utxo["height"] > 0]
    unconfirmed = [utxo for utxo in utxos if utxo["height"] == 0]
    assert len(confirmed) + len(unconfirmed) == len(utxos)
    return confirmed + sorted(unconfirmed, key=lambda utxo: (utxo["tx_hash"], utxo["tx_pos"]))


async def _ask(client, questions):
    """The replies to one batch of (query, scripthash), as dictionaries, errors among them.

    While a block comes in, there may be some.
    """
    calls = [(f"blockchain.scripthash.{query}", scripthash) for query, scripthash in questions]
    return await client.batch(calls, timeout=FOLLOW_SECS)


def _difference(oracle, question, reply):
    """(query, scripthash, expected, actual) if the reply is not the oracle's."""
    query, scripthash = question
    expected = _expected(oracle, query, scripthash)
    actual = reply.get("result", reply)
    if query == "listunspent" and isinstance(actual, list):
        actual = _in_order(actual)
    return None if actual == expected else (query, scripthash, expected, actual)


async def _differences(client, oracle, questions):
    """[(query, scripthash, expected, actual)] of the answers that are not the oracle's."""
    found = []
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        replies = await _ask(client, part)
        for question, reply in zip(part, replies, strict=True):
            found.append(_difference(oracle, question, reply))
    return [item for item in found if item]


async def _wait_for_tip(server, client, oracle, deadline):
    """Wait until the server's tip is the oracle's, by its replies to wallets and to us."""
    want = {"hex": oracle.headers[-1], "height": oracle.height}
    while True:
        tip = await client.call("blockchain.headers.subscribe")
        if tip == want:
            break
        assert time.monotonic() < deadline, f"tip is {tip}, should be {want}\n{_log(server)}"
        await asyncio.sleep(0.03)
    info = await asyncio.to_thread(server.rpc, "getinfo")
    assert (info["db height"], info["daemon height"]) == (oracle.height, oracle.height)


def _log(server):
    return "\n".join(server.log().splitlines()[-30:])


async def assert_follows(server, oracle, *, queries=QUERIES, also=(), timeout=FOLLOW_SECS):
    """The server answers every query about every script as the oracle does, before a deadline.

    also: further scripthashes, say of scripts that only blocks which are gone paid to.
    """
    deadline = time.monotonic() + timeout
    scripthashes = sorted({*oracle.scripthashes(), *also, UNKNOWN})
    everything = list(itertools.product(queries, scripthashes))
    async with server.connect() as client:
        await client.hello()
        await _wait_for_tip(server, client, oracle, deadline)
        wrong = await _differences(client, oracle, everything)
        while wrong:
            assert time.monotonic() < deadline, _report(server, wrong, len(everything))
            await asyncio.sleep(0.05)
            wrong = await _differences(client, oracle, [item[:2] for item in wrong])
            if not wrong:
                wrong = await _differences(client, oracle, everything)


def _report(server, wrong, total):
    lines = [f"{len(wrong)} of {total} answers differ; the first:"]
    for query, scripthash, expected, actual in wrong[:3]:
        lines.append(f"{query} {scripthash}\n  expected {_short(expected)}")
        lines.append(f"  actual   {_short(actual)}")
    return "\n".join([*lines, _log(server)])


def _short(answer):
    text = str(answer)
    return text if len(text) < 3_000 else f"{text[:1_500]} ... {text[-1_500:]}"


async def assert_same_blocks(server, oracle, *, sample):
    """Headers, and for a sample of heights each transaction's position and proof, are right."""
    async with server.connect() as client:
        await client.hello()
        calls = [("blockchain.block.header", height) for height in range(oracle.height + 1)]
        assert await client.call_many(calls, window=WINDOW) == oracle.headers
        await _assert_same_bulk_headers(client, oracle)
        for height in sample:
            await _assert_same_proofs(client, oracle, height)


async def _assert_same_bulk_headers(client, oracle):
    start = 0
    while start <= oracle.height:
        bulk = await client.call("blockchain.block.headers", start, 2016)
        part = oracle.headers[start : start + 2016]
        assert bulk == {"hex": "".join(part), "count": len(part), "max": 2016}
        start += 2016


async def _assert_same_proofs(client, oracle, height):
    txids = oracle.txids[height]
    asked = [("blockchain.transaction.get_merkle", txid, height) for txid in txids]
    asked += [("blockchain.transaction.id_from_pos", height, n, True) for n in range(len(txids))]
    answers = await client.call_many(asked, window=WINDOW)
    for position, txid in enumerate(txids):
        branch = oracle.merkle_branch(height, position)
        proof = {"block_height": height, "pos": position, "merkle": branch}
        assert answers[position] == proof
        assert answers[len(txids) + position] == {"tx_hash": txid, "merkle": branch}
    with pytest.raises(ElectrumError, match=f"no tx at position {len(txids)} in block"):
        await client.call("blockchain.transaction.id_from_pos", height, len(txids))


async def all_follow(servers, oracle, **kwargs):
    """Every server agrees with the oracle."""
    await asyncio.gather(*(assert_follows(server, oracle, **kwargs) for server in servers))
