"""Transactions of the node: single ones, in batches, and many at a time.

A request to the node costs some 300 µs of processor time here, and as much there, whatever it asks
for; wallets ask for one transaction at a time, many wallets concurrently.

Owns the queue of single transactions.  Runs on the event loop; long replies go to worker threads.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from electrumx.lib.tasks import Batcher
from electrumx.server.daemon.jsonrpc import NodeRPC
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.responses import (
    DaemonError,
    Reading,
    ReplyTooLargeError,
    in_parts,
    parse_json,
    reply_limit,
    unexpected,
    unhex_list,
)

#: transactions in a batch of single ones at most: each may have megabytes
BATCH_TXS = 25
#: batches in flight while the node is quick, and at most: the node may be slow with one of them
BATCHES = 2
MAX_BATCHES = 6
#: after which a batch counts as slow, in seconds
LATE_SECS = 0.05

# Ten of them may be under way; transactions of ordinary size take a hundredth of it.
AS_TX_BATCH = Reading(parse_json, max_bytes=16_000_000)
#: bytes of the reply to a request for one transaction at most
TX_LIMIT = reply_limit("getrawtransaction")

#: a transaction's hex hash, and how many bytes of its reply to read if requested alone
WantedTx = tuple[str, int]


class TxRequests:
    """Requests transactions of the node in use.  Raises DaemonError with the node's error object."""

    def __init__(self, rpc: NodeRPC, calls: MethodCalls) -> None:
        self._rpc = rpc
        self._calls = calls
        self._batcher: Batcher[WantedTx, Any] = Batcher(
            self._hex_or_errors,
            batch_size=BATCH_TXS,
            batches=BATCHES,
            max_batches=MAX_BATCHES,
            late_secs=LATE_SECS,
        )

    # -- Single ones

    def raw_tx(self, hex_hash: str, max_bytes: int = TX_LIMIT) -> "asyncio.Future[str]":
        """Return a future of the transaction as hex.

        Those requested at about the same time go to the node in one batch.  Raises
        ReplyTooLargeError for an answer of more than ``max_bytes``; hex that came in a batch may be
        longer.
        """
        return self._batcher.get((hex_hash, min(max_bytes, TX_LIMIT)))

    async def verbose_tx(self, hex_hash: str, max_bytes: int = TX_LIMIT) -> Any:
        """Return the node's JSON form of the transaction.

        Raises ReplyTooLargeError for an answer of more than ``max_bytes``.
        """
        # Old nodes want an integer.
        reading = Reading(parse_json, min(max_bytes, TX_LIMIT))
        return await self._rpc.send_single("getrawtransaction", (hex_hash, 1), reading)

    async def _hex_or_errors(self, wanted: Sequence[WantedTx]) -> list[Any]:
        """Return the hex of each transaction, or the exception that is its answer."""
        params = [(hex_hash, 0) for hex_hash, _max_bytes in wanted]
        replies = None
        if len(params) > 1:
            try:
                replies = await self._rpc.send_each("getrawtransaction", params, AS_TX_BATCH)
            except DaemonError:
                # Of the batch as a whole: not allowed, or too large an answer.
                pass
        if replies is None:
            requests = (
                self._rpc.send_single(
                    "getrawtransaction", (hex_hash, 0), Reading(parse_json, max_bytes)
                )
                for hex_hash, max_bytes in wanted
            )
            replies = await asyncio.gather(*requests, return_exceptions=True)
        return [
            reply if isinstance(reply, (str, BaseException)) else unexpected("getrawtransaction")
            for reply in replies
        ]

    # -- Many at a time

    async def raw_txs(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the raw transactions with the given hashes, in the same order.

        Raises DaemonError if the node does not know one, or answers without hex.
        """
        return await in_parts(self._raw_txs, list(hex_hashes))

    async def raw_txs_or_none(self, hex_hashes: Iterable[str]) -> list[bytes | None]:
        """Return the same as raw_txs, with None for each that cannot be had."""
        # In halves, until it fits: the length of a transaction is unknown before.
        return await in_parts(self._raw_txs_or_none, list(hex_hashes))

    @staticmethod
    def _requests(hex_hashes: Sequence[str]) -> tuple[list[tuple[str, int]], Reading | None]:
        params = [(hex_hash, 0) for hex_hash in hex_hashes]
        return params, AS_TX_BATCH if len(params) > 1 else None

    async def _raw_txs(self, hex_hashes: Sequence[str]) -> list[bytes]:
        return await self._calls.hex_batch("getrawtransaction", *self._requests(hex_hashes))

    async def _raw_txs_or_none(self, hex_hashes: Sequence[str]) -> list[bytes | None]:
        params, reading = self._requests(hex_hashes)
        try:
            raw_txs = await self._rpc.send_vector("getrawtransaction", params, True, reading)
        except ReplyTooLargeError as e:
            if len(params) > 1:
                raise
            # The others are not to suffer for it.
            self._rpc.log_once(f"transaction {hex_hashes[0]}: {e.args[0][0]['message']}")
            return [None]
        return [raw_tx or None for raw_tx in await unhex_list(raw_txs)]
