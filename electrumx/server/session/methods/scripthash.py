"""blockchain.scripthash.*: balances, histories, UTXOs and subscriptions of scripts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Set
from inspect import isawaitable
from typing import Any, TypeVar

import orjson

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import wire_rows
from electrumx.server.mempool.index import MemPoolTxSummary, Prevout
from electrumx.server.session.base import SessionBase
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import scripthash_to_hashX
from electrumx.server.session.engine.prices import (
    COST_CACHED,
    ITEM_COST,
    REQUEST_COST,
    UNCONFIRMED_COST,
)
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.methods.script_subscriptions import (
    SUBSCRIBE,
    ScriptSubscriptions,
)
from electrumx.server.session.shared.pending_reply import Finish, PendingReply
from electrumx.server.session.shared.script_cache import Query
from electrumx.server.session.shared.script_history import INLINE_ITEMS, ScriptHistory
from electrumx.server.session.shared.state import SharedState
from electrumx.server.storage.schema import UTXO

#: a JSON result, or an awaitable of it
Result = EncodedJSON | Awaitable[EncodedJSON]

R = TypeVar("R")
V = TypeVar("V")

# A UTXO takes at least so many bytes of JSON.
MIN_UNSPENT_BYTES = 110


def _unconfirmed(summaries: Iterable[MemPoolTxSummary]) -> list[dict[str, Any]]:
    return [
        {
            "tx_hash": hash_to_hex_str(tx.hash),
            "height": -int(tx.has_unconfirmed_inputs),
            "fee": tx.fee,
        }
        for tx in summaries
    ]


def _history(entries: bytes, unconfirmed: list[dict[str, object]]) -> EncodedJSON:
    """Return the result of get_history: confirmed transactions, then those of the mempool."""
    confirmed = wire_rows.history_json(entries)
    if not unconfirmed:
        return EncodedJSON(b"[%b]" % confirmed)
    comma = b"," if confirmed else b""
    return EncodedJSON(b"[%b%b%b" % (confirmed, comma, orjson.dumps(unconfirmed)[1:]))


def _unspent(utxos: bytes, mempool_utxos: Iterable[UTXO], spent: Set[Prevout]) -> EncodedJSON:
    """Return the result of listunspent: UTXOs without those in ``spent``.

    ``utxos`` is packed, see ``wire_rows``.
    """
    if spent:
        utxos = b"".join(
            wire_rows.pack_utxo(tx_hash, height, tx_pos, value)
            for tx_hash, height, tx_pos, value in wire_rows.utxos_of(utxos)
            if (tx_hash, tx_pos) not in spent
        )
    # Of height 0, in no order: they have no place in the chain.
    utxos += b"".join(
        wire_rows.pack_utxo(utxo.tx_hash, utxo.height, utxo.tx_pos, utxo.value)
        for utxo in mempool_utxos
        if (utxo.tx_hash, utxo.tx_pos) not in spent
    )
    # On the wire tx_pos is the index of the output in its transaction.
    return EncodedJSON(b"[%b]" % wire_rows.utxos_json(utxos))


class ScripthashMethods(HandlerGroup):
    """Requests about scripts, and the notifications of their statuses."""

    __slots__ = ("subscriptions",)

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        super().__init__(session, shared)
        self.subscriptions = ScriptSubscriptions(session, shared)

    def _at_one_tip(self, query: Query[V], finish: Finish[V], hashX: bytes) -> Any:
        """Return ``finish(hashX, value, cost)`` of a query of a script, or an awaitable of it.

        A cached value gives an answer at once: nothing else runs in between.  Otherwise the tip must be
        the same before and after.  ``finish`` may itself return an awaitable.
        """
        tip = self.shared.tip
        value = query.now(hashX)
        if value is not None and tip.is_tip_known():
            return finish(hashX, value, COST_CACHED)
        before = tip.state()
        if before is not None:
            return PendingReply(tip, before, query, finish, hashX, self.account.bump_cost)

        async def compute() -> Any:
            result = finish(hashX, *await query.read(hashX))
            return await result if isawaitable(result) else result

        return tip.retry_at_stable_tip(compute, self.account.bump_cost)

    def log_notified(self, count: int) -> None:
        """Log that the client got notifications of so many scripts."""
        self.session.logger.info(f"notified of {count:,d} address{'' if count == 1 else 'es'}")

    # -- requests

    @rpc_method("blockchain.scripthash.get_balance", until=(1, 7))
    def scripthash_get_balance(self, scripthash: object) -> Any:
        """Return the confirmed balance, and the change of it by the mempool."""
        balances = self.shared.scripts.balances
        return self._at_one_tip(balances, self._balance, scripthash_to_hashX(scripthash))

    def _balance(self, hashX: bytes, balance: tuple[int, int], _cost: float) -> Result:
        utxo_count, value = balance
        self.account.bump_cost(REQUEST_COST + utxo_count * ITEM_COST)
        if not self.shared.unconfirmed.has(hashX):
            return EncodedJSON(b'{"confirmed":%d,"unconfirmed":0}' % value)
        if self.shared.unconfirmed.large.is_large(hashX):
            query = self.shared.scripts.balances
            return self._of_large(self._large_balance, hashX, query, balance)
        delta = self.shared.unconfirmed.sync_balance_delta(hashX)
        return EncodedJSON(b'{"confirmed":%d,"unconfirmed":%d}' % (value, delta))

    async def _large_balance(self, hashX: bytes, balance: tuple[int, int]) -> EncodedJSON:
        view = await self.shared.unconfirmed.large.unspent(hashX)
        return EncodedJSON(b'{"confirmed":%d,"unconfirmed":%d}' % (balance[1], view.delta))

    def _of_large(
        self,
        make: Callable[[bytes, V], Awaitable[EncodedJSON]],
        hashX: bytes,
        query: Query[V],
        value: V,
    ) -> Awaitable[EncodedJSON]:
        """Return ``make(hashX, value)`` of a script with many unconfirmed transactions.

        ``value`` is the result of the query now; read it again if the tip changes.
        """

        async def make_again() -> EncodedJSON:
            return await make(hashX, (await query.read(hashX))[0])

        return self.subscriptions.at_known_tip(lambda: make(hashX, value), make_again)

    @rpc_method("blockchain.scripthash.get_history", until=(1, 7))
    def scripthash_get_history(self, scripthash: object) -> Any:
        """Return confirmed transactions in chain order, then those of the mempool."""
        histories = self.shared.scripts.histories
        return self._at_one_tip(histories, self._history, scripthash_to_hashX(scripthash))

    def _history(self, hashX: bytes, history: ScriptHistory, cost: float) -> Result:
        assert history.entries is not None
        if not self.shared.unconfirmed.has(hashX):
            self.account.bump_cost(cost + UNCONFIRMED_COST)
            if history.count <= INLINE_ITEMS:
                return EncodedJSON(b"[%b]" % wire_rows.history_json(history.entries))
            return asyncio.to_thread(_history, history.entries, [])
        self.account.bump_cost(cost)
        if self.shared.unconfirmed.large.is_large(hashX):
            query = self.shared.scripts.histories
            return self._of_large(self._large_history, hashX, query, history)
        unconfirmed = self._mempool(hashX)
        if history.count + len(unconfirmed) > INLINE_ITEMS:
            return asyncio.to_thread(_history, history.entries, unconfirmed)
        return _history(history.entries, unconfirmed)

    async def _large_history(self, hashX: bytes, history: ScriptHistory) -> EncodedJSON:
        """Return the history of a script with many unconfirmed transactions."""
        view = await self.shared.unconfirmed.large.history(hashX)
        self._charge_unconfirmed(view.count)
        assert history.entries is not None
        if history.count > INLINE_ITEMS:
            confirmed = await asyncio.to_thread(wire_rows.history_json, history.entries)
        else:
            confirmed = wire_rows.history_json(history.entries)
        return EncodedJSON(b"[%b]" % b",".join(filter(None, (confirmed, view.json))))

    @rpc_method("blockchain.scripthash.get_mempool", until=(1, 7))
    def scripthash_get_mempool(self, scripthash: object) -> Any:
        """Return the unconfirmed transactions."""
        hashX = scripthash_to_hashX(scripthash)
        if self.shared.tip.is_tip_stable() and not self.shared.unconfirmed.large.is_large(hashX):
            return self._mempool(hashX)

        async def compute() -> EncodedJSON | list[dict[str, Any]]:
            if not self.shared.unconfirmed.large.is_large(hashX):
                return self._mempool(hashX)
            view = await self.shared.unconfirmed.large.history(hashX)
            self._charge_unconfirmed(view.count)
            return EncodedJSON(b"[%b]" % view.json)

        return self.shared.tip.retry_at_stable_tip(compute, self.account.bump_cost)

    def _mempool(self, hashX: bytes) -> list[dict[str, Any]]:
        result = _unconfirmed(self.shared.unconfirmed.sync_summaries(hashX))
        self._charge_unconfirmed(len(result))
        return result

    def _charge_unconfirmed(self, count: int) -> None:
        self.account.bump_cost(UNCONFIRMED_COST + count * ITEM_COST)

    @rpc_method("blockchain.scripthash.listunspent", until=(1, 7))
    def scripthash_listunspent(self, scripthash: object) -> Any:
        """Return the UTXOs, without those that the mempool spends."""
        utxos = self.shared.scripts.utxos
        return self._at_one_tip(utxos, self._listunspent, scripthash_to_hashX(scripthash))

    def _listunspent(self, hashX: bytes, utxos: bytes, _cost: float) -> Result:
        if not self.shared.unconfirmed.has(hashX):
            count = len(utxos) // wire_rows.PACKED_UTXO_LEN
            self._charge_unspent(count, 0)
            if count <= INLINE_ITEMS:
                return EncodedJSON(b"[%b]" % wire_rows.utxos_json(utxos))
            return asyncio.to_thread(_unspent, utxos, [], set())
        if self.shared.unconfirmed.large.is_large(hashX):
            query = self.shared.scripts.utxos
            return self._of_large(self._large_listunspent, hashX, query, utxos)
        mempool_utxos = self.shared.unconfirmed.sync_unspent(hashX)
        spent = self.shared.unconfirmed.sync_spends(hashX)
        count = len(utxos) // wire_rows.PACKED_UTXO_LEN + len(mempool_utxos)
        self._charge_unspent(count, len(spent))
        # Python code leaves some out.
        if count > (INLINE_ITEMS // 10 if spent else INLINE_ITEMS):
            return asyncio.to_thread(_unspent, utxos, mempool_utxos, spent)
        return _unspent(utxos, mempool_utxos, spent)

    async def _large_listunspent(self, hashX: bytes, utxos: bytes) -> EncodedJSON:
        """Return the UTXOs of a script with many unconfirmed transactions."""
        view = await self.shared.unconfirmed.large.unspent(hashX)
        count = len(utxos) // wire_rows.PACKED_UTXO_LEN + len(view.utxos)
        self._charge_unspent(count, len(view.spends))
        return await asyncio.to_thread(_unspent, utxos, view.utxos, view.spends)

    def _charge_unspent(self, count: int, spent: int) -> None:
        """Charge for a list of so many UTXOs; RPCError if it is too large without the spent ones."""
        self.account.bump_cost(REQUEST_COST + count * ITEM_COST)
        oversized = self.shared.oversized
        if (count - spent) * MIN_UNSPENT_BYTES > oversized.max_send:
            raise oversized.error()

    @rpc_method(SUBSCRIBE, until=(1, 7))
    def scripthash_subscribe(self, scripthash: object) -> Any:
        """Return the status, and notify when it may have changed."""
        hashX = scripthash_to_hashX(scripthash)
        assert isinstance(scripthash, str)  # as it is a hash
        subscriptions = self.subscriptions
        # Subscribe first, so as to miss no change during the computation
        is_new = subscriptions.scripts.add(hashX, scripthash)
        hashes = self.shared.scripts.histories.hashes
        try:
            result = self._at_one_tip(hashes, subscriptions.status, hashX)
        except BaseException:
            if is_new:
                subscriptions.remove(hashX)
            raise
        if not is_new or result is None or type(result) is str:
            return result
        return subscriptions.await_reply(hashX, result)

    @rpc_method("blockchain.scripthash.unsubscribe", until=(1, 7))
    def scripthash_unsubscribe(self, scripthash: object) -> bool:
        """End a subscription; return whether it existed."""
        self.account.bump_cost(COST_CACHED)
        hashX = scripthash_to_hashX(scripthash)
        return self.subscriptions.remove(hashX) is not None
