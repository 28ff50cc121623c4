"""The status of an output: the block of its transaction, and the transaction that spends it.

Needs no index of the node beyond ``txindex``.  A row of the ``utxo`` store has the height of an
unspent output.  Of any other, the node returns the transaction, whose script leads to a
history, which has the transaction, if it is on our chain, and the one that spends the output: a search
reads the raw transactions behind it, in batches.  A node with an index of spenders answers instead.

The confirmed part stays cached until a block touches it; blocks also name the outputs that they spend.
Each use computes the unconfirmed part again.  On the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiorpcx import RPCError

from electrumx.lib.coins import Coin
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.util import chunks
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.db import wire_rows
from electrumx.server.db.database import DB
from electrumx.server.mempool.index import MemPoolIndex
from electrumx.server.mempool.outpoint_watch import Outpoint
from electrumx.server.session.engine.params import DAEMON_ERROR, HISTORY_TOO_LARGE, tx_hash_or_none
from electrumx.server.session.shared.outpoint_cache import (
    NOWHERE,
    Clue,
    OnChain,
    OutpointCache,
)
from electrumx.server.session.shared.tip_consistency import TipChangedError

#: entries of a history in one read
PAGE_ENTRIES = 5_000
#: transactions in one fetch: few at first, as most outputs are spent soon
FIRST_BATCH = 20
BATCH = 100
#: batches that one search has fetched ahead, and that all of them together fetch at a time: the node has
#: other work for us
AHEAD = 3
BATCHES_AT_ONCE = 4
#: transactions to search at most for the one that spends an output
MAX_SEARCHED = 200_000
#: prices: of a call of the node, of searching a transaction, of reading an entry
CALL_COST = 1.0
SEARCH_COST = 0.05
ENTRY_COST = 0.002
# The node's error code for a transaction that it does not have, and for a height above its tip
NO_SUCH_TX = -5
NO_SUCH_HEIGHT = -8
# In its text where it has looked in the mempool only: its index of transactions is incomplete, or missing.
NOT_INDEXED = "No such mempool transaction"

Charge = Callable[[float], object]
#: of a history: (tx hash, height)
Entry = tuple[bytes, int]


class Status(NamedTuple):
    """The status of an outpoint for clients: as ``OnChain``, of chain and mempool together.

    Heights are 0 or -1 of unconfirmed transactions, as in histories.
    """

    funder_height: int | None
    spender: bytes | None = None
    spender_height: int | None = None

    def is_settled(self) -> bool:
        """Return whether only blocks can change it."""
        funder_height, _spender, spender_height = self
        return (funder_height is None or funder_height > 0) and (
            spender_height is None or spender_height > 0
        )

    def answer(self) -> dict[str, Any]:
        """Return the status as clients get it."""
        if self.funder_height is None:
            return {}
        answer: dict[str, Any] = {"funder_height": self.funder_height}
        if self.spender is not None:
            answer["spender_txhash"] = hash_to_hex_str(self.spender)
            answer["spender_height"] = self.spender_height
        return answer


class _SharedRead:
    """A read that is in progress, and the charges of those that wait for it."""

    __slots__ = ("_charges", "_spent", "task")

    def __init__(self) -> None:
        self._charges: list[Charge] = []
        # The cost so far, to charge to those that join
        self._spent = 0.0
        self.task: asyncio.Future[OnChain] | None = None

    def charge(self, cost: float) -> None:
        """Charge a cost of the read to each that waits."""
        self._spent += cost
        for charge in self._charges:
            charge(cost)

    async def wait(self, charge: Charge) -> OnChain:
        """Return the result; cancel the read when nothing waits for it any more."""
        task = self.task
        assert task is not None
        charge(self._spent)
        self._charges.append(charge)
        try:
            return await asyncio.shield(task)
        finally:
            self._charges.remove(charge)
            if not self._charges and not task.done():
                # So that none joins it
                self.task = None
                task.cancel()


class OutpointStatuses:
    """The statuses of outpoints, from database, node and mempool."""

    def __init__(
        self,
        db: DB,
        daemon: Daemon,
        unconfirmed: MemPoolIndex,
        cache: OutpointCache,
        coin: type[Coin],
        has_spender_index: Callable[[], bool],
    ) -> None:
        """``has_spender_index()`` returns whether the node has an index of spending transactions."""
        self._db = db
        self._daemon = daemon
        self._unconfirmed = unconfirmed
        self._cache = cache
        self._coin = coin
        self._has_spender_index = has_spender_index
        self._slots = asyncio.Semaphore(BATCHES_AT_ONCE)
        # Reads in progress, by outpoint and tip
        self._reads: dict[tuple[Outpoint, int], _SharedRead] = {}

    # -- the cache

    def cached(self, outpoint: Outpoint) -> OnChain | None:
        """Return the cached confirmed part of a status, or None."""
        return self._cache.get(outpoint)

    def keep(self, outpoint: Outpoint) -> None:
        """Note that an outpoint has subscribers."""
        self._cache.keep(outpoint)

    def let_go(self, outpoint: Outpoint) -> None:
        """Note that an outpoint has no subscribers any more."""
        self._cache.let_go(outpoint)

    # -- statuses

    def now(self, outpoint: Outpoint) -> Status | None:
        """Return the status of an outpoint if that needs no waiting."""
        on_chain = self.cached(outpoint)
        return None if on_chain is None else self.combined(outpoint, on_chain)

    def combined(self, outpoint: Outpoint, on_chain: OnChain) -> Status:
        """Return the status of an outpoint: its confirmed part, completed by the mempool."""
        if on_chain.spender is not None:
            return Status(*on_chain)
        funder_height, spender, spender_height = self._unconfirmed.outpoint(outpoint)
        if on_chain.funder_height is not None:
            funder_height = on_chain.funder_height
        if funder_height is None:
            return Status(None)
        return Status(funder_height, spender, spender_height)

    async def load(self, outpoints: Sequence[Outpoint]) -> None:
        """Cache the heights of unspent outputs, read from the database at once."""
        generation = self._cache.generation
        missing = [outpoint for outpoint in outpoints if self.cached(outpoint) is None]
        if missing:
            heights = await self._db.utxo_heights(missing)
            for outpoint, height in zip(missing, heights, strict=True):
                if height is not None:
                    self._cache.put(outpoint, OnChain(height), generation)

    async def read(self, outpoint: Outpoint, charge: Charge) -> OnChain:
        """Return the confirmed part of a status.

        Concurrent reads of one outpoint are single-flight, at the full charge for each.
        Raises TipChangedError if database and node disagree, DaemonError, and RPCError if there
        is too much to search.
        """
        on_chain = self.cached(outpoint)
        if on_chain is not None:
            return on_chain
        key = outpoint, self._cache.generation
        shared = self._reads.get(key)
        if shared is None or shared.task is None:
            shared = self._reads[key] = _SharedRead()
            shared.task = asyncio.ensure_future(self._read_shared(key, shared))
        return await shared.wait(charge)

    async def _read_shared(self, key: tuple[Outpoint, int], shared: "_SharedRead") -> OnChain:
        """Read and cache the confirmed part of a status for all that wait for it."""
        outpoint, generation = key
        try:
            on_chain = await self._read(outpoint, shared.charge)
        finally:
            if self._reads.get(key) is shared:
                del self._reads[key]
        self._cache.put(outpoint, on_chain, generation)
        return on_chain

    async def answer(self, outpoint: Outpoint, charge: Charge) -> Status:
        """Return the status for a client: as ``read``, with RPCError for errors of the node."""
        try:
            on_chain = await self.read(outpoint, charge)
        except DaemonError as e:
            raise RPCError(DAEMON_ERROR, f"daemon error: {e!r}") from None
        charge(0.1)
        return self.combined(outpoint, on_chain)

    # -- reading

    async def _read(self, outpoint: Outpoint, charge: Charge) -> OnChain:
        (height,) = await self._db.utxo_heights([outpoint])
        if height is not None:
            return OnChain(height)
        charge(CALL_COST)
        script = await self._script(outpoint)
        if script is None:
            await self._check_absence(charge)
            return NOWHERE
        clue = self._cache.clue(outpoint)
        search = _Search(self._db, self._daemon, self._coin, outpoint, charge, self._slots, clue)
        found = await search.run(
            self._coin.hashX_from_script(script), ask_node=self._has_spender_index()
        )
        if found is None:
            # An unspendable output has no history.
            charge(2 * CALL_COST)
            height = await self._height_by_node(outpoint[0])
            if height is None:
                await self._check_absence(charge)
            return OnChain(height)
        return found

    async def _check_absence(self, charge: Charge) -> None:
        """Raise TipChangedError unless the node, which has no block with a transaction, has our chain.

        On another branch, which we may never follow, it does not know our transactions.
        """
        charge(CALL_COST)
        height, tip = self._db.db_height, self._db.db_tip
        try:
            hex_hashes = await self._daemon.block_hex_hashes(height, 1)
        except DaemonError as e:
            if e.has_code(NO_SUCH_HEIGHT):
                raise TipChangedError from e
            raise
        if hex_hashes != [hash_to_hex_str(tip)]:
            raise TipChangedError

    async def _script(self, outpoint: Outpoint) -> bytes | None:
        """Return an output's script as the node has it; None if there is no such output."""
        tx_hash, index = outpoint
        try:
            raw_tx = await self._daemon.getrawtransaction(hash_to_hex_str(tx_hash))
        except DaemonError as e:
            if not e.has_code(NO_SUCH_TX) or NOT_INDEXED in str(e):
                raise
            return None
        tx, _tx_hash = self._coin.DESERIALIZER(bytes.fromhex(raw_tx)).read_tx_and_hash()
        return bytes(tx.outputs[index].pk_script) if index < len(tx.outputs) else None

    async def _height_by_node(self, tx_hash: bytes) -> int | None:
        """Return the height of a transaction in a block of ours, by the block that the node names."""
        answer = await self._daemon.getrawtransaction(hash_to_hex_str(tx_hash), True)
        block_hash = answer.get("blockhash") if isinstance(answer, dict) else None
        if not isinstance(block_hash, str):
            return None
        height = (await self._daemon.getblockheader(block_hash)).get("height")
        if type(height) is not int or not 0 <= height <= self._db.db_height:
            return None
        ours = self._coin.header_hash(await self._db.raw_header(height))
        return height if hash_to_hex_str(ours) == block_hash else None


class _Search:
    """The search of a history for the transaction of an output, and the one that spends it."""

    def __init__(
        self,
        db: DB,
        daemon: Daemon,
        coin: type[Coin],
        outpoint: Outpoint,
        charge: Charge,
        slots: asyncio.Semaphore,
        clue: Clue,
    ) -> None:
        """``slots`` bounds the batches that all searches together fetch at a time."""
        self._slots = slots
        self._clue = clue
        self._db = db
        self._daemon = daemon
        self._coin = coin
        self._outpoint = outpoint
        self._charge = charge
        self._needle = outpoint[0] + outpoint[1].to_bytes(4, "little")
        self._searched = 0

    async def run(self, hashX: bytes, *, ask_node: bool) -> OnChain | None:
        """Return where the output was created and spent; None if that is not in the history.

        Raises TipChangedError if what spends it is not there: it does not exist unspent.
        """
        funder_height: int | None = None
        spender, unspent_height = self._clue
        # Of the height reached last: where a block does not order transactions by dependence,
        # the spender of an output may come before it.
        before: list[tuple[bytes, int]] = []
        after = -1
        while True:
            page = await self._db.history_entries(hashX, limit=PAGE_ENTRIES, after=after)
            entries = await asyncio.to_thread(wire_rows.entries_of, page.entries)
            if not entries:
                break
            after = page.last_tx_num
            self._charge(len(entries) * ENTRY_COST)
            entries = before + entries
            if funder_height is None:
                funder_height = dict(entries).get(self._outpoint[0])
                if funder_height is not None and spender is None and ask_node:
                    spender = await self._spender_by_node()
            if funder_height is None:
                before = [entry for entry in entries if entry[1] == entries[-1][1]]
                continue
            before = []
            first_height = max(funder_height, unspent_height + 1)
            candidates = [
                entry
                for entry in entries
                if entry[1] >= first_height and entry[0] != self._outpoint[0]
            ]
            found = await self._among(candidates, spender)
            if found is not None:
                return OnChain(funder_height, *found)
        if funder_height is None:
            return None
        raise TipChangedError

    async def _spender_by_node(self) -> bytes | None:
        self._charge(CALL_COST)
        tx_hash, index = self._outpoint
        try:
            answer = await self._daemon.gettxspendingprevout(hash_to_hex_str(tx_hash), index)
        except DaemonError:
            # Its index is not complete, or it has none after all: search instead.
            return None
        return tx_hash_or_none(answer.get("spendingtxid"))

    async def _among(
        self, candidates: list[tuple[bytes, int]], spender: bytes | None
    ) -> tuple[bytes, int] | None:
        """Return the transaction that spends the output, and its height, None if it is not there."""
        if spender is not None:
            height = dict(candidates).get(spender)
            return None if height is None else (spender, height)
        if not self._searched:
            first, candidates = candidates[:FIRST_BATCH], candidates[FIRST_BATCH:]
            found = self._spender_in(first, await self._fetch(first))
            if found is not None:
                return found
        batches = chunks(candidates, BATCH)
        # While we look at one batch, the node works on the next ones.
        ahead: deque[tuple[Sequence[Entry], asyncio.Future[list[bytes | None]]]] = deque()
        try:
            while True:
                while len(ahead) < AHEAD and (batch := next(batches, None)) is not None:
                    ahead.append((batch, asyncio.ensure_future(self._fetch(batch))))
                if not ahead:
                    return None
                batch, fetching = ahead.popleft()
                found = self._spender_in(batch, await fetching)
                if found is not None:
                    return found
        finally:
            for _batch, fetching in ahead:
                fetching.cancel()
            await asyncio.gather(*(fetching for _, fetching in ahead), return_exceptions=True)

    async def _fetch(self, batch: Sequence[Entry]) -> list[bytes | None]:
        """Return the raw transactions of a batch, and charge for it."""
        self._searched += len(batch)
        if self._searched > MAX_SEARCHED:
            raise RPCError(HISTORY_TOO_LARGE, "history too large")
        self._charge(CALL_COST + len(batch) * SEARCH_COST)
        hex_hashes = [hash_to_hex_str(tx_hash) for tx_hash, _height in batch]
        async with self._slots:
            raw_txs: list[bytes | None] = await self._daemon.getrawtransactions(hex_hashes)
        return raw_txs

    def _spender_in(self, batch: Sequence[Entry], raw_txs: Sequence[bytes | None]) -> Entry | None:
        """Return the entry of a batch that spends the output, None if none does."""
        for entry, raw_tx in zip(batch, raw_txs, strict=True):
            if raw_tx is None:
                # The node is on another chain.
                raise TipChangedError
            if self._needle in raw_tx and self._spends(raw_tx):
                return entry
        return None

    def _spends(self, raw_tx: bytes) -> bool:
        tx, _tx_hash = self._coin.DESERIALIZER(raw_tx).read_tx_and_hash()
        return any((txin.prev_hash, txin.prev_idx) == self._outpoint for txin in tx.inputs)
