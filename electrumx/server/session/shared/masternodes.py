"""The list of masternodes in the form that clients of Dash's family get.

Made from the node's list once for each tip of the database, because it takes a database query
for every masternode, and shared by all sessions.  Balances include the mempool, which may change at
any moment, so each answer adds its part.  Runs on the event loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from electrumx.lib.coins import Coin
from electrumx.lib.errors import ElectrumXError
from electrumx.server.storage.schema import UTXO

# The words of the node's line on a masternode, in order.
FIELDS = (
    "status",
    "protocol",
    "payee",
    "lastseen",
    "activeseconds",
    "lastpaidtime",
    "lastpaidblock",
    "ip",
)
# Those that are so far to the front of the queue may be paid next: this part of it.
SELECTION_DIVISOR = 10
# Balances computed before yielding to the event loop: about a millisecond.
BALANCES_AT_ONCE = 500


def _number(text: str) -> int:
    """Return a number that the node wrote, 0 if it is none."""
    try:
        return int(text)
    except ValueError:
        return 0


def parse_list(lines: object) -> list[dict[str, Any]]:
    """Return the masternodes of the node's answer, {outpoint: line}, each with all FIELDS."""
    if not isinstance(lines, dict):
        return []
    masternodes = []
    for vin, line in lines.items():
        words = str(line).split()
        words += [""] * (len(FIELDS) - len(words))
        masternodes.append({"vin": vin, **dict(zip(FIELDS, words, strict=False))})
    return masternodes


def payment_queue(masternodes: Sequence[dict[str, Any]], now: float) -> list[str]:
    """Return the payees of the enabled masternodes, who has waited longest first."""

    def waited(masternode: dict[str, Any]) -> int:
        active = _number(masternode["activeseconds"])
        last_paid = _number(masternode["lastpaidtime"])
        return active if last_paid == 0 else min(int(now) - last_paid, active)

    enabled = [masternode for masternode in masternodes if masternode["status"] == "ENABLED"]
    return [masternode["payee"] for masternode in sorted(enabled, key=waited, reverse=True)]


def with_positions(masternodes: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """Add to each its place in the queue, from 1 on (-1: none), and whether it may be next."""
    queue = payment_queue(masternodes, now)
    places: dict[str, int] = {}
    for place, payee in enumerate(queue, start=1):
        places.setdefault(payee, place)
    for masternode in masternodes:
        position = places.get(masternode["payee"], -1)
        masternode["paymentposition"] = position
        masternode["inselection"] = position < len(queue) // SELECTION_DIVISOR
    return masternodes


class UTXOSource(Protocol):
    """The database, as the cache uses it."""

    @property
    def db_tip(self) -> bytes:
        """The hash of the committed tip."""

    async def all_utxos(self, hashX: bytes) -> Sequence[UTXO]:
        """Return the UTXOs of a script."""


class BalanceDeltas(Protocol):
    """The mempool, as the cache uses it."""

    async def balance_delta(self, hashX: bytes) -> int:
        """Return the change of the balance of a script by the mempool, in satoshis."""


class MasternodeCache:
    """The list at the tip of the database, with balances that follow the mempool."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[object]],
        db: UTXOSource,
        mempool: BalanceDeltas,
        coin: type[Coin],
    ) -> None:
        """``fetch()`` returns the node's full list of masternodes, as JSON."""
        self._fetch = fetch
        self._db = db
        self._mempool = mempool
        self._coin = coin
        self._lock = asyncio.Lock()
        self._tip: bytes | None = None
        self._masternodes: list[dict[str, Any]] = []
        # hashX and confirmed balance, in satoshis, of each; None of a payee that is no address
        self._confirmed: list[tuple[bytes, int] | None] = []

    async def get(self) -> list[dict[str, Any]]:
        """Return the list, which callers must not change; raises what ``fetch`` does."""
        async with self._lock:
            tip = self._db.db_tip
            if tip != self._tip:
                lines = await self._fetch()
                self._masternodes = await asyncio.to_thread(
                    lambda: with_positions(parse_list(lines), time.time())
                )
                self._confirmed = [
                    await self._confirmed_balance(masternode["payee"])
                    for masternode in self._masternodes
                ]
                self._tip = tip
            return await self._with_balances()

    async def _confirmed_balance(self, payee: str) -> tuple[bytes, int] | None:
        try:
            hashX = self._coin.address_to_hashX(payee)
        except ElectrumXError:
            return None
        utxos = await self._db.all_utxos(hashX)
        return hashX, sum(utxo.value for utxo in utxos)

    async def _with_balances(self) -> list[dict[str, Any]]:
        """Return the masternodes with the balance of each address, in coins; 0 if it is invalid."""
        result = []
        for number, (masternode, confirmed) in enumerate(
            zip(self._masternodes, self._confirmed, strict=True), start=1
        ):
            balance = 0.0
            if confirmed is not None:
                hashX, value = confirmed
                value += await self._mempool.balance_delta(hashX)
                balance = float(self._coin.decimal_value(value))
            result.append({**masternode, "balance": balance})
            if number % BALANCES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return result
