"""blockchain.transaction.*: sending, fetching and proving transactions."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiorpcx import JSONRPC, RPCError

from electrumx.lib import util
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.daemon.client import DaemonError
from electrumx.server.daemon.responses import ReplyTooLargeError
from electrumx.server.session.engine.json_result import EncodedJSON, encode_result
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import (
    DAEMON_ERROR,
    assert_hex,
    assert_list,
    assert_tx_hash,
    bad_request,
    named_boolean,
    non_negative_integer,
)
from electrumx.server.session.engine.prices import (
    COST_CACHED,
    LONE_NODE_COST,
    REQUEST_COST,
    VERBOSE_COST,
    broadcast_cost,
)
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.shared.block_cache import BlockTxs
from electrumx.server.session.shared.packages import (
    COUNT_TEXT,
    MAX_PACKAGE_TXS,
    NOT_SUPPORTED_TEXT,
    package_summary,
    rejection,
)
from electrumx.server.session.shared.tip_consistency import TipChangedError

Find = Callable[[BlockTxs], int]
Finish = Callable[[bytes, int, list[str]], Any]


def _daemon_message(error: DaemonError) -> str:
    """Return the message of the node's error."""
    reply = error.args[0] if error.args else ""
    if isinstance(reply, dict):
        return str(reply.get("message", reply))
    return str(reply)


class TransactionMethods(HandlerGroup):
    """Requests about single transactions."""

    __slots__ = ()

    @rpc_method("blockchain.transaction.broadcast")
    async def transaction_broadcast(self, raw_tx: object) -> str:
        """Hand a transaction (hex) to the node; return its txid, or a warning to old clients."""
        raw_tx = assert_hex(raw_tx)
        self.account.bump_cost(broadcast_cost(len(raw_tx)))
        try:
            txid: str = await self.shared.node.broadcast_transaction(raw_tx)
        except DaemonError as e:
            message = _daemon_message(e)
            self.session.log_limited(
                "error sending transaction", f"error sending transaction: {message}"
            )
            raise bad_request(
                f"the transaction was rejected by network rules.\n\n{message}\n[{raw_tx}]"
            ) from None
        self.session.txs_sent += 1
        client_version = util.protocol_tuple(self.session.client)
        if client_version != (0,):
            warning = self.shared.env.coin.warn_old_client_on_tx_broadcast(client_version)
            if warning:
                self.session.logger.info(
                    f"sent tx: {txid}. and warned user to upgrade their client from {self.session.client}"
                )
                return str(warning)
        self.session.logger.info(f"sent tx: {txid}")
        return txid

    @rpc_method("blockchain.transaction.broadcast_package", since=(1, 6))
    async def transaction_broadcast_package(self, raw_txs: object, verbose: object = False) -> Any:
        """Hand transactions (hex), parents before their child, to the node as a package.

        Return whether the node accepted all, and why not; or, if verbose, the node's own answer.
        """
        raw_txs = assert_list(raw_txs)
        if len(raw_txs) > MAX_PACKAGE_TXS:
            self.account.bump_cost(broadcast_cost(0))
            raise bad_request(rejection(COUNT_TEXT))
        raw_txs = [assert_hex(raw_tx) for raw_tx in raw_txs]
        verbose = named_boolean("verbose", verbose)
        self.account.bump_cost(broadcast_cost(sum(map(len, raw_txs))))
        try:
            answer = await self.shared.node.broadcast_package(raw_txs)
        except DaemonError as e:
            message = _daemon_message(e)
            self.session.log_limited("error sending package", f"error sending package: {message}")
            if e.args[0].get("code") == JSONRPC.METHOD_NOT_FOUND:
                raise bad_request(NOT_SUPPORTED_TEXT) from None
            raise bad_request(rejection(message)) from None
        self.session.txs_sent += len(raw_txs)
        summary = package_summary(answer, lambda: self._txid_of(raw_txs[-1] if raw_txs else ""))
        text = f"sent package of {len(raw_txs):,d} txs: {summary}"
        self.session.log_limited("sent package", text)
        return answer if verbose else summary

    def _txid_of(self, raw_tx: str) -> str:
        """Return the txid of a transaction (hex), empty text if it is none."""
        try:
            _tx, tx_hash = self.shared.env.coin.DESERIALIZER(
                bytes.fromhex(raw_tx)
            ).read_tx_and_hash()
        except Exception:  # whatever a coin's parser raises, the node has accepted it
            return ""
        return hash_to_hex_str(tx_hash)

    @rpc_method("blockchain.transaction.get")
    def transaction_get(self, tx_hash: object, verbose: object = False) -> Any:
        """Return a transaction from the node: its hex, or its JSON form if verbose."""
        wanted = assert_tx_hash(tx_hash)
        verbose = named_boolean("verbose", verbose)
        self.account.bump_cost(REQUEST_COST + VERBOSE_COST if verbose else REQUEST_COST)
        raw_txs = self.shared.raw_txs
        if not verbose and (found := raw_txs.get(wanted)) is not None:
            return found
        self.shared.oversized.check((wanted, verbose))
        if not self.session.unanswered_request_count():
            self.account.bump_cost(LONE_NODE_COST)
        if verbose:
            assert isinstance(tx_hash, str)  # as it is a hash
            return self._verbose_tx(wanted, tx_hash)
        return raw_txs.fetch(wanted, self)

    def request_hex(self, tx_hash: bytes) -> "asyncio.Future[str]":
        """Request the hex of a transaction from the node; return the future of its reply."""
        max_bytes = self.shared.oversized.max_read
        return self.shared.daemon.raw_tx(hash_to_hex_str(tx_hash), max_bytes)

    def read_hex(self, tx_hash: bytes, reply: "asyncio.Future[str]") -> str:
        """Return the hex that a reply has; RPCError if it has none, or is too large to send."""
        oversized, key = self.shared.oversized, (tx_hash, False)
        # Not raised here: its traceback would lead to this frame, hence to the reply that has it.
        error = reply.exception()
        if isinstance(error, ReplyTooLargeError):
            raise oversized.note(key, oversized.max_read, self.account.bw_cost_per_byte)
        if isinstance(error, DaemonError):
            raise RPCError(DAEMON_ERROR, f"daemon error: {error!r}")
        raw_tx = reply.result()
        oversized.check_size(key, len(raw_tx), self.account.bw_cost_per_byte)
        return raw_tx

    async def request_verbose(self, tx_hash: bytes) -> Any:
        """Return the node's JSON form of a transaction, None if that is too large to read."""
        try:
            return await self._node_json(hash_to_hex_str(tx_hash))
        except ReplyTooLargeError:
            return None

    async def _node_json(self, tx_hash: str) -> Any:
        """Return the node's JSON form of a transaction; raises ReplyTooLargeError or RPCError."""
        max_bytes = self.shared.oversized.max_read
        try:
            return await self.shared.daemon.getrawtransaction(tx_hash, True, max_bytes=max_bytes)
        except ReplyTooLargeError:
            raise
        except DaemonError as e:
            raise RPCError(DAEMON_ERROR, f"daemon error: {e!r}") from None

    async def _verbose_tx(self, wanted: bytes, tx_hash: str) -> Any:
        """Return the node's JSON form of a transaction; RPCError if that is too large to send."""
        oversized, key = self.shared.oversized, (wanted, True)
        try:
            result = await self._node_json(tx_hash)
        except ReplyTooLargeError:
            raise oversized.note(key, oversized.max_read, self.account.bw_cost_per_byte) from None
        return await self.session.bounded_json(key, result)

    def _proof_in_block(self, height: int, find: Find, finish: Finish, *, branch: bool) -> Any:
        """Return ``finish(tx hash, its position, branch)``, or an awaitable of it.

        ``find(txs)`` returns the position of the transaction in the block. Hashes and branch
        belong to one block, even if the chain changes during the computation.
        """
        blocks, chain = self.shared.blocks, self.shared.tip
        found = blocks.hashes_now(height) if chain.is_block_known(height) else None
        if found is not None:
            txs, header = found
            tx_pos = find(txs)
            if not branch:
                self.account.bump_cost(COST_CACHED)
                return finish(txs[tx_pos], tx_pos, [])
            made = blocks.branch_now(height, header, txs, tx_pos)
            if made is not None:
                hashes, cost = made
                self.account.bump_cost(COST_CACHED + cost)
                return finish(txs[tx_pos], tx_pos, hashes)

        async def compute() -> Any:
            header = await blocks.header(height)
            if header is None and chain.is_height_known(height):
                raise TipChangedError
            try:
                proof = await prove(header)
            except RPCError:
                if await blocks.header(height) == header:
                    raise
            else:
                if await blocks.header(height) == header:
                    return proof
            raise TipChangedError

        async def prove(header: bytes | None) -> Any:
            txs, cost = await blocks.hashes_at(height, header)
            self.account.bump_cost(cost)
            tx_pos = find(txs)
            hashes: list[str] = []
            if branch:
                hashes, cost = await blocks.branch(height, header, txs, tx_pos)
                self.account.bump_cost(cost)
            return finish(txs[tx_pos], tx_pos, hashes)

        return chain.retry_at_known_blocks(height, compute, self.account.bump_cost)

    @rpc_method("blockchain.transaction.get_merkle")
    def transaction_merkle(self, tx_hash: object, height: object) -> Any:
        """Return the proof that a transaction is in the block at a height."""
        wanted = assert_tx_hash(tx_hash)
        height = non_negative_integer(height)

        def find(txs: BlockTxs) -> int:
            tx_pos = txs.index(wanted)
            if tx_pos < 0:
                raise bad_request(
                    f"tx {hash_to_hex_str(wanted)} not in block at height {height:,d}"
                )
            return tx_pos

        def finish(_tx_hash: bytes, tx_pos: int, branch: list[str]) -> EncodedJSON:
            return encode_result({"block_height": height, "merkle": branch, "pos": tx_pos})

        return self._proof_in_block(height, find, finish, branch=True)

    @rpc_method("blockchain.transaction.id_from_pos")
    def transaction_id_from_pos(
        self, height: object, tx_pos: object, merkle: object = False
    ) -> Any:
        """Return the txid at a position in a block; with a proof if ``merkle``."""
        tx_pos = non_negative_integer(tx_pos)
        height = non_negative_integer(height)
        merkle = named_boolean("merkle", merkle)

        def find(txs: BlockTxs) -> int:
            if tx_pos >= len(txs):
                raise bad_request(f"no tx at position {tx_pos:,d} in block at height {height:,d}")
            return int(tx_pos)

        def finish(tx_hash: bytes, _tx_pos: int, branch: list[str]) -> str | dict[str, Any]:
            txid = hash_to_hex_str(tx_hash)
            return {"tx_hash": txid, "merkle": branch} if merkle else txid

        return self._proof_in_block(height, find, finish, branch=merkle)
