"""blockchain.scripthash.*: balances, histories, unspent outputs and subscriptions of scripts.

The status of a script hash is the hash of its history as text. A session remembers the last status
of each subscription only while it depends on the mempool: such a status also changes when *other*
transactions are mined, without the script itself being touched.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from aiorpcx import RPCError

from electrumx.lib.hash import hash_to_hex_str, sha256
from electrumx.server.session.base import SessionBase
from electrumx.server.session.params import scripthash_to_hashX
from electrumx.server.session.tables import rpc_method

T = TypeVar("T")
History = list[tuple[bytes, int]]

# Above so many entries, texts and lists are built in a thread.
THREAD_ENTRIES = 2_000


async def _by_size(entries: int, func: Callable[..., T], *args: Any) -> T:
    """Return func(*args), computed in a thread if there is much to do."""
    if entries > THREAD_ENTRIES:
        return await asyncio.to_thread(func, *args)
    return func(*args)


def _status(history: History, summaries: list[Any]) -> tuple[str | None, int]:
    """Return (status in hex, or None without history; length of the text hashed)."""
    text = "".join(
        [f"{hash_to_hex_str(tx_hash)}:{height:d}:" for tx_hash, height in history]
        + [f"{hash_to_hex_str(tx.hash)}:{-tx.has_unconfirmed_inputs:d}:" for tx in summaries]
    )
    return (sha256(text.encode()).hex() if text else None), len(text)


def _confirmed(history: History) -> list[dict[str, Any]]:
    return [{"tx_hash": hash_to_hex_str(tx_hash), "height": height} for tx_hash, height in history]


def _unconfirmed(summaries: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {
            "tx_hash": hash_to_hex_str(tx.hash),
            "height": -int(tx.has_unconfirmed_inputs),
            "fee": tx.fee,
        }
        for tx in summaries
    ]


def _unspent(utxos: list[Any], mempool_utxos: list[Any], spent: set[Any]) -> list[dict[str, Any]]:
    # On the wire tx_pos is the index of the output in its transaction
    return [
        {
            "tx_hash": hash_to_hex_str(utxo.tx_hash),
            "tx_pos": utxo.tx_pos,
            "height": utxo.height,
            "value": utxo.value,
        }
        for utxo in [*sorted(utxos), *mempool_utxos]
        if (utxo.tx_hash, utxo.tx_pos) not in spent
    ]


class ScripthashMethods(SessionBase):
    """Requests about the history of a script."""

    def __init__(self, *args: Any) -> None:
        # hashX -> script hash as the client last wrote it
        self.hashX_subs: dict[bytes, str] = {}
        # hashX -> last status, of subscriptions with mempool transactions
        self.mempool_statuses: dict[bytes, str | None] = {}
        super().__init__(*args)

    def sub_count(self) -> int:
        """Return the number of subscribed scripts."""
        return len(self.hashX_subs)

    async def _at_one_tip(self, compute: Callable[[bytes], Any], hashX: bytes) -> Any:
        return await self.session_mgr.chain.steady(lambda: compute(hashX), self.bump_cost)

    # -- statuses

    async def address_status(self, hashX: bytes) -> str | None:
        """Return the status of a script, and remember it if it depends on the mempool."""
        history, cost = await self.session_mgr.history.limited_history(hashX)
        summaries = await self.mempool.transaction_summaries(hashX)
        entries = len(history) + len(summaries)
        status, text_len = await _by_size(entries, _status, history, summaries)
        self.bump_cost(cost + 0.1 + 0.00002 * text_len)
        if summaries:
            self.mempool_statuses[hashX] = status
        else:
            self.mempool_statuses.pop(hashX, None)
        return status

    def unsubscribe_hashX(self, hashX: bytes) -> str | None:
        """Drop a subscription; return its script hash if there was one."""
        self.mempool_statuses.pop(hashX, None)
        return self.hashX_subs.pop(hashX, None)

    async def _status_or_drop(self, hashX: bytes) -> str | None:
        """Return a status for a notification; the subscription ends if there can be none."""
        try:
            return await self.address_status(hashX)
        except RPCError:
            self.unsubscribe_hashX(hashX)
            return None

    async def changed_statuses(
        self, touched: set[bytes], height_changed: bool
    ) -> dict[str, str | None]:
        """Return {script hash: status} to notify of; all computed before any is sent."""
        subs = self.hashX_subs
        if len(touched) < len(subs):
            own = [hashX for hashX in touched if hashX in subs]
        else:
            own = [hashX for hashX in subs if hashX in touched]
        changed: dict[str, str | None] = {}
        for hashX in own:
            alias = subs.get(hashX)
            if alias is not None:
                changed[alias] = await self._status_or_drop(hashX)
        if own or height_changed:
            for hashX, old_status in list(self.mempool_statuses.items()):
                alias = subs.get(hashX)
                if alias is not None:
                    status = await self._status_or_drop(hashX)
                    if status != old_status:
                        changed[alias] = status
        return changed

    async def notify_scripts(self, touched: set[bytes], height_changed: bool) -> None:
        """Send a notification for each own subscription that was touched or has changed."""
        changed = await self.changed_statuses(touched, height_changed)
        for alias, status in changed.items():
            await self.send_notification("blockchain.scripthash.subscribe", (alias, status))
        if changed:
            es = "" if len(changed) == 1 else "es"
            self.logger.info(f"notified of {len(changed):,d} address{es}")

    # -- requests

    @rpc_method("blockchain.scripthash.get_balance")
    async def scripthash_get_balance(self, scripthash: Any) -> dict[str, int]:
        """Return the confirmed balance and what the mempool would change of it."""
        result: dict[str, int] = await self._at_one_tip(
            self._balance, scripthash_to_hashX(scripthash)
        )
        return result

    async def _balance(self, hashX: bytes) -> dict[str, int]:
        utxos = await self.db.all_utxos(hashX)
        unconfirmed = await self.mempool.balance_delta(hashX)
        self.bump_cost(1.0 + len(utxos) / 50)
        return {"confirmed": sum(utxo.value for utxo in utxos), "unconfirmed": unconfirmed}

    @rpc_method("blockchain.scripthash.get_history")
    async def scripthash_get_history(self, scripthash: Any) -> list[dict[str, Any]]:
        """Return confirmed transactions in chain order, then those of the mempool."""
        result: list[dict[str, Any]] = await self._at_one_tip(
            self._history, scripthash_to_hashX(scripthash)
        )
        return result

    async def _history(self, hashX: bytes) -> list[dict[str, Any]]:
        history, cost = await self.session_mgr.history.limited_history(hashX)
        self.bump_cost(cost)
        result = await _by_size(len(history), _confirmed, history)
        return result + await self._mempool(hashX)

    @rpc_method("blockchain.scripthash.get_mempool")
    async def scripthash_get_mempool(self, scripthash: Any) -> list[dict[str, Any]]:
        """Return the unconfirmed transactions."""
        result: list[dict[str, Any]] = await self._at_one_tip(
            self._mempool, scripthash_to_hashX(scripthash)
        )
        return result

    async def _mempool(self, hashX: bytes) -> list[dict[str, Any]]:
        result = _unconfirmed(await self.mempool.transaction_summaries(hashX))
        self.bump_cost(0.25 + len(result) / 50)
        return result

    @rpc_method("blockchain.scripthash.listunspent")
    async def scripthash_listunspent(self, scripthash: Any) -> list[dict[str, Any]]:
        """Return the unspent outputs, without those that the mempool spends."""
        result: list[dict[str, Any]] = await self._at_one_tip(
            self._listunspent, scripthash_to_hashX(scripthash)
        )
        return result

    async def _listunspent(self, hashX: bytes) -> list[dict[str, Any]]:
        utxos = await self.db.all_utxos(hashX)
        mempool_utxos = await self.mempool.unordered_UTXOs(hashX)
        spent = await self.mempool.potential_spends(hashX)
        count = len(utxos) + len(mempool_utxos)
        self.bump_cost(1.0 + count / 50)
        return await _by_size(count, _unspent, utxos, mempool_utxos, spent)

    @rpc_method("blockchain.scripthash.subscribe")
    async def scripthash_subscribe(self, scripthash: Any) -> str | None:
        """Return the status, and notify when it may have changed."""
        hashX = scripthash_to_hashX(scripthash)
        known = hashX in self.hashX_subs
        # Subscribed first, so that no change during the computation is missed
        self.hashX_subs[hashX] = scripthash
        try:
            status: str | None = await self._at_one_tip(self.address_status, hashX)
        except BaseException:
            if not known:
                self.unsubscribe_hashX(hashX)
            raise
        return status

    @rpc_method("blockchain.scripthash.unsubscribe", since=(1, 4, 2))
    async def scripthash_unsubscribe(self, scripthash: Any) -> bool:
        """End a subscription; say if there was one."""
        self.bump_cost(0.1)
        hashX = scripthash_to_hashX(scripthash)
        return self.unsubscribe_hashX(hashX) is not None
