"""blockchain.scripthash.*: balances, histories, unspent outputs and subscriptions of scripts.

The status of a script hash is the hash of its history as text. A session remembers the last status
of each subscription only while it depends on the mempool: such a status also changes when *other*
transactions are mined, without the script itself being touched.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from inspect import isawaitable
from typing import Any, TypeVar

import orjson
from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import wire_rows
from electrumx.server.session.base import SessionBase
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.jsonrpc import notification_parts
from electrumx.server.session.engine.limits import COST_CACHED
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import scripthash_to_hashX
from electrumx.server.session.notify.subscriptions import SessionScripts
from electrumx.server.session.shared.pending_reply import Finish, PendingReply
from electrumx.server.session.shared.script_cache import Query
from electrumx.server.session.shared.script_history import INLINE_ITEMS, ScriptHistory

R = TypeVar("R")
V = TypeVar("V")

SUBSCRIBE = "blockchain.scripthash.subscribe"
# An unspent output takes at least as many bytes of JSON.
MIN_UNSPENT_BYTES = 110
# Of looking for unconfirmed transactions, if there are none.
UNCONFIRMED_COST = 0.25
# So many statuses are worked out before others have their turn: about a millisecond.
STATUSES_AT_ONCE = 100


def _unconfirmed(summaries: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "tx_hash": hash_to_hex_str(tx.hash),
            "height": -int(tx.has_unconfirmed_inputs),
            "fee": tx.fee,
        }
        for tx in summaries
    ]


def _history(entries: bytes, unconfirmed: list[dict[str, Any]]) -> EncodedJSON:
    """Return a history as it is answered: confirmed transactions, then those of the mempool."""
    confirmed = wire_rows.history_json(entries)
    if not unconfirmed:
        return EncodedJSON(b"[%b]" % confirmed)
    comma = b"," if confirmed else b""
    return EncodedJSON(b"[%b%b%b" % (confirmed, comma, orjson.dumps(unconfirmed)[1:]))


def _unspent(coins: bytes, mempool_utxos: list[Any], spent: set[Any]) -> EncodedJSON:
    """Return unspent outputs as they are answered, without those in ``spent``."""
    if spent:
        coins = b"".join(
            wire_rows.pack_coin(*coin)
            for coin in wire_rows.coins_of(coins)
            if (coin[0], coin[2]) not in spent
        )
    # Of height 0, and not in the chain's order, which they do not have.
    coins += b"".join(
        wire_rows.pack_coin(utxo.tx_hash, utxo.height, utxo.tx_pos, utxo.value)
        for utxo in mempool_utxos
        if (utxo.tx_hash, utxo.tx_pos) not in spent
    )
    # On the wire tx_pos is the index of the output in its transaction.
    return EncodedJSON(b"[%b]" % wire_rows.coins_json(coins))


async def _others_turn(count: int) -> None:
    """Let others have their turn now and then: what is in memory takes no waiting."""
    if count % STATUSES_AT_ONCE == 0:
        await asyncio.sleep(0)


class ScripthashMethods(SessionBase):
    """Requests about the history of a script."""

    # hashX of each new subscription that waits for its answer -> whether news of it do, too
    _unanswered: dict[bytes, bool] | None = None

    def __init__(self, *args: Any) -> None:
        # hashX -> last status, of subscriptions with mempool transactions
        self.mempool_statuses: dict[bytes, str | None] = {}
        super().__init__(*args)
        self.hashX_subs = SessionScripts(self.shared.fan_out.scripts, self)

    def sub_count(self) -> int:
        """Return the number of subscribed scripts."""
        return len(self.hashX_subs)

    def _at_one_tip(self, query: Query[V], finish: Finish[V], hashX: bytes) -> Any:
        """Return ``finish(hashX, value, cost)`` of a query of a script, or an awaitable of it.

        A cached value is answered at once: nothing else runs in between.  Otherwise the tip must be
        the same before and after.  ``finish`` may itself return an awaitable.
        """
        tip = self.shared.tip
        if tip.is_tip_known():
            value = query.now(hashX)
            if value is not None:
                return finish(hashX, value, COST_CACHED)
        before = tip.state()
        if before is not None:
            return PendingReply(tip, before, query, finish, hashX, self.bump_cost)

        async def compute() -> Any:
            result = finish(hashX, *await query.read(hashX))
            return await result if isawaitable(result) else result

        return tip.retry_at_stable_tip(compute, self.bump_cost)

    # -- statuses

    def _script_status(self, hashX: bytes, history: ScriptHistory, cost: float) -> Any:
        """Return the status of a script, or an awaitable; remember it if the mempool is in it."""
        if not history.is_hashed:
            return self._awaited_status(hashX, history, cost)
        if not self.mempool.has(hashX):
            status, text_len = history.status([])
            return self._noted(hashX, status, cost, text_len, unconfirmed=False)
        if self.mempool.large.is_large(hashX):
            view = self.mempool.large.histories.ready(hashX)
            status = None if view is None else view.status_of(history)
            if status is None:
                return self._awaited_status(hashX, history, cost)
            text_len = history.text_len + len(view.status_text)
            return self._noted(hashX, status, cost, text_len, unconfirmed=True)
        summaries = self.mempool.sync_summaries(hashX)
        status, text_len = history.status(summaries)
        return self._noted(hashX, status, cost, text_len, unconfirmed=bool(summaries))

    def _noted(
        self, hashX: bytes, status: str | None, cost: float, text_len: int, *, unconfirmed: bool
    ) -> str | None:
        """Charge for a status, and remember it if the mempool is in it."""
        self.bump_cost(cost + 0.1 + 0.00002 * text_len)
        if unconfirmed and hashX in self.hashX_subs:
            self.mempool_statuses[hashX] = status
        elif self.mempool_statuses:
            self.mempool_statuses.pop(hashX, None)
        return status

    async def _awaited_status(self, hashX: bytes, history: ScriptHistory, cost: float) -> Any:
        """Return the status once a thread has hashed it; of the new tip if that changed meanwhile."""
        return await self._at_known_tip(
            lambda: self._status_after_hashing(hashX, history, cost),
            lambda: self.address_status(hashX),
        )

    async def _status_after_hashing(
        self, hashX: bytes, history: ScriptHistory, cost: float
    ) -> str | None:
        """Return the status of a script when threads have done what takes long."""
        await self.shared.scripts.histories.hashes.hash_history(hashX, history)
        status: str | None
        if self.mempool.large.is_large(hashX):
            status, text_len = await self.mempool.large.status(hashX, history)
            return self._noted(hashX, status, cost, text_len, unconfirmed=True)
        status = self._script_status(hashX, history, cost)
        return status

    async def _at_known_tip(
        self, make: Callable[[], Awaitable[R]], make_again: Callable[[], Awaitable[R]]
    ) -> R:
        """Return ``await make()``; if clients are notified of another tip meanwhile, make it again.

        What ``make`` begins with must belong to the tip that clients know.
        """
        chain = self.shared.tip
        before = chain.notified_tip, chain.reorg_count
        result = await make()
        if chain.is_tip_known() and (chain.notified_tip, chain.reorg_count) == before:
            return result
        return await chain.retry_at_stable_tip(make_again, self.bump_cost)

    async def address_status(self, hashX: bytes) -> str | None:
        """Return the status of a script, and remember it if it depends on the mempool."""
        history, cost = await self.shared.scripts.histories.hashes.read(hashX)
        return await self._status_after_hashing(hashX, history, cost)

    def unsubscribe_hashX(self, hashX: bytes) -> str | None:
        """Drop a subscription; return its script hash if there was one."""
        self.mempool_statuses.pop(hashX, None)
        return self.hashX_subs.discard(hashX)

    def _is_at_hand(self, hashX: bytes) -> bool:
        """Say if the status of a script needs no waiting."""
        try:
            history = self.shared.scripts.histories.hashes.now(hashX)
        except RPCError:
            return True
        if history is None or not history.is_hashed:
            return False
        large = self.mempool.large
        if not large.is_large(hashX):
            return True
        view = large.histories.ready(hashX)
        return view is not None and view.status_of(history) is not None

    def _status_at_hand(self, hashX: bytes) -> str | None:
        """Return a status that needs no waiting; the subscription ends if there can be none."""
        try:
            history = self.shared.scripts.histories.hashes.now(hashX)
            assert history is not None
            return self._script_status(hashX, history, COST_CACHED)  # type: ignore[no-any-return]
        except RPCError:
            self.unsubscribe_hashX(hashX)
            return None

    async def _status_or_drop(self, hashX: bytes) -> str | None:
        """Return a status for a notification; the subscription ends if there can be none."""
        try:
            return await self.address_status(hashX)
        except RPCError:
            self.unsubscribe_hashX(hashX)
            return None

    def notify_scripts(self, touched: set[bytes], height_changed: bool) -> Any:
        """Send a notification for each own subscription that was touched or has changed.

        Returns an awaitable if that has to wait.  All statuses are worked out before any is sent.
        """
        subs, remembered = self.hashX_subs, self.mempool_statuses
        if self._unanswered:
            touched = self._put_off(touched, self._unanswered)
        own = list(filter(subs.__contains__, touched))
        if not own and not (height_changed and remembered):
            return None
        if own and self._notify_at_once(own):
            return None
        wanted = [*own, *remembered]
        if len(wanted) > STATUSES_AT_ONCE or not all(map(self._is_at_hand, wanted)):
            return self._notify_after_wait(own)
        changed = {subs.get(hashX): self._status_at_hand(hashX) for hashX in own}
        for hashX, old_status in list(remembered.items()):
            alias, status = subs.get(hashX), self._status_at_hand(hashX)
            if status != old_status:
                changed[alias] = status
        self._send_statuses(changed)
        return None

    def _put_off(self, touched: set[bytes], unanswered: dict[bytes, bool]) -> set[bytes]:
        """Return those that clients know to be subscribed to; the others follow their answers.

        Electrum ends a connection that tells it of a script before it has the answer.
        """
        for hashX in unanswered:
            if hashX in touched or self.mempool_statuses.pop(hashX, None) is not None:
                unanswered[hashX] = True
        return touched - unanswered.keys()

    def _end_wait(self, hashX: bytes, *, failed: bool) -> None:
        """Note that the answer to a new subscription is there: nothing else runs before it is sent.

        Then follows what was put off.  A subscription that failed is none.
        """
        unanswered = self._unanswered
        has_news = unanswered.pop(hashX, False) if unanswered else False
        if not unanswered:
            # An idle session takes no memory for it.
            self._unanswered = None
        if failed:
            self.unsubscribe_hashX(hashX)
        elif has_news:
            asyncio.get_running_loop().call_soon(self._tell_put_off, hashX)

    def _tell_put_off(self, hashX: bytes) -> None:
        if not self._closing and hashX in self.hashX_subs:
            self.shared.fan_out.notify_deferred(self, hashX)

    def _notify_at_once(self, own: list[bytes]) -> bool:
        """Notify if what the block touched is all confirmed and known; say if it was so."""
        shared, remembered = self.shared, self.mempool_statuses
        if len(own) + len(remembered) > STATUSES_AT_ONCE or any(map(self.mempool.has, own)):
            return False
        known = shared.scripts.histories.hashes.known_statuses(own)
        if known is None:
            return False
        others = remembered.keys() - own if remembered else ()
        if not all(map(self._is_at_hand, others)):
            return False
        statuses, text_len = known
        parts = notification_parts(self.rpc_version, SUBSCRIBE)
        lines = self.hashX_subs.render(parts, own, statuses)
        if lines is None:
            return False
        self.bump_cost(len(own) * (COST_CACHED + 0.1) + 0.00002 * text_len)
        if remembered:
            for hashX in own:
                remembered.pop(hashX, None)
        changed: dict[str | None, str | None] = {}
        for hashX in others:
            old_status, alias = remembered[hashX], self.hashX_subs.get(hashX)
            status = self._status_at_hand(hashX)
            if status != old_status:
                changed[alias] = status
        self.post_lines(lines, len(own))
        self._post_statuses(changed)
        self.flush()
        shared.fan_out.notified.append((self, len(own) + len(changed)))
        return True

    async def _notify_after_wait(self, own: list[bytes]) -> None:
        subs = self.hashX_subs
        found: dict[bytes, tuple[str, str | None]] = {}
        for hashX in own:
            alias = subs.get(hashX)
            if alias is not None:
                found[hashX] = alias, await self._status_or_drop(hashX)
                await _others_turn(len(found))
        for number, (hashX, old_status) in enumerate(list(self.mempool_statuses.items())):
            alias = subs.get(hashX)
            if alias is not None:
                await _others_turn(number)
                status = await self._status_or_drop(hashX)
                if status != old_status:
                    found[hashX] = alias, status
        # Not of what the client has unsubscribed from meanwhile; but where we ended it, null.
        changed: dict[str | None, str | None] = {
            alias: status
            for hashX, (alias, status) in found.items()
            if status is None or hashX in subs
        }
        self._send_statuses(changed)

    def _post_statuses(self, changed: dict[str | None, str | None]) -> None:
        changed.pop(None, None)
        for alias, status in changed.items():
            self.post_notification(SUBSCRIBE, (alias, status))

    def _send_statuses(self, changed: dict[str | None, str | None]) -> None:
        self._post_statuses(changed)
        self.flush()
        if changed:
            self.log_notified(len(changed))

    def log_notified(self, count: int) -> None:
        """Log of how many scripts the client was told."""
        self.logger.info(f"notified of {count:,d} address{'' if count == 1 else 'es'}")

    # -- requests

    @rpc_method("blockchain.scripthash.get_balance")
    def scripthash_get_balance(self, scripthash: Any) -> Any:
        """Return the confirmed balance and what the mempool would change of it."""
        balances = self.shared.scripts.balances
        return self._at_one_tip(balances, self._balance, scripthash_to_hashX(scripthash))

    def _balance(self, hashX: bytes, balance: tuple[int, int], _cost: float) -> Any:
        coin_count, value = balance
        self.bump_cost(1.0 + coin_count / 50)
        if not self.mempool.has(hashX):
            return EncodedJSON(b'{"confirmed":%d,"unconfirmed":0}' % value)
        if self.mempool.large.is_large(hashX):
            source = self.shared.scripts.balances
            return self._of_large(self._large_balance, hashX, source, balance)
        delta = self.mempool.sync_balance_delta(hashX)
        return EncodedJSON(b'{"confirmed":%d,"unconfirmed":%d}' % (value, delta))

    async def _large_balance(self, hashX: bytes, balance: tuple[int, int]) -> EncodedJSON:
        view = await self.mempool.large.unspent(hashX)
        return EncodedJSON(b'{"confirmed":%d,"unconfirmed":%d}' % (balance[1], view.delta))

    def _of_large(
        self,
        make: Callable[[bytes, V], Awaitable[EncodedJSON]],
        hashX: bytes,
        query: Query[V],
        value: V,
    ) -> Awaitable[EncodedJSON]:
        """Return ``make(hashX, value)`` of a script with many unconfirmed transactions.

        ``value`` is the result of the query now; it is read again if the tip changes.
        """

        async def make_again() -> EncodedJSON:
            return await make(hashX, (await query.read(hashX))[0])

        return self._at_known_tip(lambda: make(hashX, value), make_again)

    @rpc_method("blockchain.scripthash.get_history")
    def scripthash_get_history(self, scripthash: Any) -> Any:
        """Return confirmed transactions in chain order, then those of the mempool."""
        histories = self.shared.scripts.histories
        return self._at_one_tip(histories, self._history, scripthash_to_hashX(scripthash))

    def _history(self, hashX: bytes, history: ScriptHistory, cost: float) -> Any:
        assert history.entries is not None
        if not self.mempool.has(hashX):
            self.bump_cost(cost + UNCONFIRMED_COST)
            if history.count <= INLINE_ITEMS:
                return EncodedJSON(b"[%b]" % wire_rows.history_json(history.entries))
            return asyncio.to_thread(_history, history.entries, [])
        self.bump_cost(cost)
        if self.mempool.large.is_large(hashX):
            source = self.shared.scripts.histories
            return self._of_large(self._large_history, hashX, source, history)
        unconfirmed = self._mempool(hashX)
        if history.count + len(unconfirmed) > INLINE_ITEMS:
            return asyncio.to_thread(_history, history.entries, unconfirmed)
        return _history(history.entries, unconfirmed)

    async def _large_history(self, hashX: bytes, history: ScriptHistory) -> EncodedJSON:
        """Return the history of a script with many unconfirmed transactions."""
        view = await self.mempool.large.history(hashX)
        self._charge_unconfirmed(view.count)
        assert history.entries is not None
        if history.count > INLINE_ITEMS:
            confirmed = await asyncio.to_thread(wire_rows.history_json, history.entries)
        else:
            confirmed = wire_rows.history_json(history.entries)
        return EncodedJSON(b"[%b]" % b",".join(filter(None, (confirmed, view.json))))

    @rpc_method("blockchain.scripthash.get_mempool")
    def scripthash_get_mempool(self, scripthash: Any) -> Any:
        """Return the unconfirmed transactions."""
        hashX = scripthash_to_hashX(scripthash)
        if self.shared.tip.is_tip_stable() and not self.mempool.large.is_large(hashX):
            return self._mempool(hashX)

        async def compute() -> Any:
            if not self.mempool.large.is_large(hashX):
                return self._mempool(hashX)
            view = await self.mempool.large.history(hashX)
            self._charge_unconfirmed(view.count)
            return EncodedJSON(b"[%b]" % view.json)

        return self.shared.tip.retry_at_stable_tip(compute, self.bump_cost)

    def _mempool(self, hashX: bytes) -> list[dict[str, Any]]:
        result = _unconfirmed(self.mempool.sync_summaries(hashX))
        self._charge_unconfirmed(len(result))
        return result

    def _charge_unconfirmed(self, count: int) -> None:
        self.bump_cost(UNCONFIRMED_COST + count / 50)

    @rpc_method("blockchain.scripthash.listunspent")
    def scripthash_listunspent(self, scripthash: Any) -> Any:
        """Return the unspent outputs, without those that the mempool spends."""
        coins = self.shared.scripts.utxos
        return self._at_one_tip(coins, self._listunspent, scripthash_to_hashX(scripthash))

    def _listunspent(self, hashX: bytes, coins: bytes, _cost: float) -> Any:
        if not self.mempool.has(hashX):
            count = len(coins) // wire_rows.PACKED_UTXO_LEN
            self._charge_unspent(count, 0)
            if count <= INLINE_ITEMS:
                return EncodedJSON(b"[%b]" % wire_rows.coins_json(coins))
            return asyncio.to_thread(_unspent, coins, [], set())
        if self.mempool.large.is_large(hashX):
            source = self.shared.scripts.utxos
            return self._of_large(self._large_listunspent, hashX, source, coins)
        mempool_utxos = self.mempool.sync_unspent(hashX)
        spent = self.mempool.sync_spends(hashX)
        count = len(coins) // wire_rows.PACKED_UTXO_LEN + len(mempool_utxos)
        self._charge_unspent(count, len(spent))
        # Leaving some out is done in Python.
        if count > (INLINE_ITEMS // 10 if spent else INLINE_ITEMS):
            return asyncio.to_thread(_unspent, coins, mempool_utxos, spent)
        return _unspent(coins, mempool_utxos, spent)

    async def _large_listunspent(self, hashX: bytes, coins: bytes) -> EncodedJSON:
        """Return the unspent outputs of a script with many unconfirmed transactions."""
        view = await self.mempool.large.unspent(hashX)
        count = len(coins) // wire_rows.PACKED_UTXO_LEN + len(view.utxos)
        self._charge_unspent(count, len(view.spends))
        return await asyncio.to_thread(_unspent, coins, view.utxos, view.spends)

    def _charge_unspent(self, count: int, spent: int) -> None:
        """Charge for a list of so many outputs; RPCError if it would be too large without the spent."""
        self.bump_cost(1.0 + count / 50)
        oversized = self.shared.oversized
        if (count - spent) * MIN_UNSPENT_BYTES > oversized.max_send:
            raise oversized.error()

    @rpc_method("blockchain.scripthash.subscribe")
    def scripthash_subscribe(self, scripthash: Any) -> Any:
        """Return the status, and notify when it may have changed."""
        hashX = scripthash_to_hashX(scripthash)
        # Subscribed first, so that no change during the computation is missed
        is_new = self.hashX_subs.add(hashX, scripthash)
        histories = self.shared.scripts.histories
        try:
            result = self._at_one_tip(histories.hashes, self._script_status, hashX)
        except BaseException:
            if is_new:
                self.unsubscribe_hashX(hashX)
            raise
        if not is_new or result is None or type(result) is str:
            return result
        if self._unanswered is None:
            self._unanswered = {}
        self._unanswered[hashX] = False
        if not isinstance(result, PendingReply):
            # Of a future even a cancellation before the first step is noticed.
            result = asyncio.ensure_future(result)
        result.add_done_callback(partial(self._answered, hashX))
        return result

    def _answered(self, hashX: bytes, answer: "PendingReply | asyncio.Future[Any]") -> None:
        """End the wait for the status of a new subscription, which ends if it failed."""
        failed = answer.cancelled() or answer.exception() is not None
        self._end_wait(hashX, failed=failed)

    @rpc_method("blockchain.scripthash.unsubscribe")
    def scripthash_unsubscribe(self, scripthash: Any) -> bool:
        """End a subscription; say if there was one."""
        self.bump_cost(0.1)
        hashX = scripthash_to_hashX(scripthash)
        return self.unsubscribe_hashX(hashX) is not None
