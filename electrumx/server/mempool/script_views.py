"""Views of scripts with many unconfirmed transactions, shared by all requests.

Each request computes its reply about an ordinary script, which has a few unconfirmed
transactions.  For a script with 20,000 each reply takes tens of milliseconds.  A thread computes
these, once for each state of the script in the mempool, and they stay cached until a change of the
mempool touches the script or a parent of one of its transactions.

Runs in: the event loop, except ``history_view`` and ``utxos_view``, which run in a thread.  They
read dictionaries that the loop may change concurrently: a look-up is atomic, and a request
drops a view during which the script changed, and computes it again.
"""

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.util import chunks
from electrumx.server.storage.schema import UTXO

V = TypeVar("V")

#: a script with more transactions, or with more inputs and outputs in them, is large: its answers
#: take longer than about a millisecond
LARGE_TXS = 200
LARGE_PAIRS = 10_000
#: transactions in all cached views of a kind, at most; one takes about 250 bytes
MAX_CACHED_TXS = 200_000
#: computations of a view for one request, while the script changes each time
TRIES = 3
# Hashes sorted in one call, which holds the interpreter: a fifth of a millisecond.
SORTED_AT_ONCE = 1_000


class Index(Protocol):
    """The part of the mempool that the views read."""

    #: tx hash -> MemPoolTx, and outpoint -> hash of the transaction that spends it
    txs: dict[bytes, Any]
    spenders: dict[tuple[bytes, int], bytes]

    @property
    def hashXs(self) -> Any:
        """The transactions of each script."""

    @property
    def leaving(self) -> Container[bytes]:
        """Transactions that are in the maps, but in no answer."""

    def has_tx(self, tx_hash: bytes) -> bool:
        """Return whether a transaction is in the mempool."""


@dataclass(slots=True, eq=False)
class HistoryView:
    """The unconfirmed part of a script's history, in the order in which clients get it."""

    count: int
    status_text: bytes
    #: the items of the JSON list, joined
    json: bytes
    # The last confirmed history whose status this view computed, and the computation
    _history: Any = None
    _making: "asyncio.Task[str] | None" = None

    def status_of(self, history: Any) -> str | None:
        """Return the computed status of a confirmed history, or None."""
        making = self._making
        if history is not self._history or making is None or not making.done():
            return None
        return None if making.cancelled() or making.exception() else making.result()

    async def made_status(self, history: Any) -> str:
        """Compute the status of a confirmed history, once for all requests."""
        making = self._making
        if history is not self._history or making is None:
            making = asyncio.ensure_future(asyncio.to_thread(self._make_status, history))
            self._history, self._making = history, making
        return await asyncio.shield(making)

    def _make_status(self, history: Any) -> str:
        """Hash the texts of a confirmed history and of this view.  Runs in: a thread."""
        text_hash = history.hash_all().copy()
        text_hash.update(self.status_text)
        status: str = text_hash.hexdigest()
        return status


class UTXOsView(NamedTuple):
    """The mempool's changes of a script's UTXOs."""

    #: the change of the confirmed balance, in satoshis
    delta: int
    utxos: list[UTXO]
    spends: set[tuple[bytes, int]]


class _Views(Generic[V]):
    """The views of one kind, cached or under computation."""

    def __init__(self, make: Callable[[bytes, list[bytes]], V]) -> None:
        self.make = make
        #: hashX -> the computation of its view, perhaps done; the oldest first
        self.tasks: dict[bytes, asyncio.Task[V]] = {}
        self._sizes: dict[bytes, int] = {}
        self._cached_txs = 0

    def ready(self, hashX: bytes) -> V | None:
        """Return a cached view, which is valid, or None."""
        task = self.tasks.get(hashX)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def get(self, hashX: bytes, tx_hashes: Callable[[], Iterable[bytes]]) -> V:
        """Return the view of a script; ``tx_hashes()`` are those of its transactions now.

        If the script changes during each of some tries, the last view may lack the latest changes;
        a notification of those follows.
        """
        tries = 0
        while True:
            task = self.tasks.get(hashX)
            if task is None:
                task = self._begin(hashX, list(tx_hashes()))
            try:
                view = await asyncio.shield(task)
            except Exception:
                self.forget((hashX,))
                raise
            tries += 1
            if tries == TRIES or self.tasks.get(hashX) is task:
                return view

    def _begin(self, hashX: bytes, tx_hashes: list[bytes]) -> "asyncio.Task[V]":
        task = asyncio.ensure_future(asyncio.to_thread(self.make, hashX, tx_hashes))
        self.tasks[hashX] = task
        self._sizes[hashX] = len(tx_hashes)
        self._cached_txs += len(tx_hashes)
        while self._cached_txs > MAX_CACHED_TXS and len(self.tasks) > 1:
            self.forget((next(iter(self.tasks)),))
        return task

    def forget(self, hashXs: Iterable[bytes]) -> None:
        """Drop the views of scripts that changed."""
        for hashX in self.tasks.keys() & hashXs:
            del self.tasks[hashX]
            self._cached_txs -= self._sizes.pop(hashX)

    def clear(self) -> None:
        """Drop all views."""
        self.forget(list(self.tasks))


class LargeScripts:
    """The views of all large scripts of a mempool."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.histories = _Views(partial(history_view, index))
        self.utxos = _Views(partial(utxos_view, index))

    def is_large(self, hashX: bytes) -> bool:
        """Return whether a thread has to compute the answers about a script."""
        touching, txs = self._index.hashXs.touching(hashX), self._index.txs
        if not touching:
            return False
        if len(touching) > LARGE_TXS:
            return True
        pairs = sum([len(txs[h].in_pairs) + len(txs[h].out_pairs) for h in touching])
        return pairs > LARGE_PAIRS

    async def history(self, hashX: bytes) -> HistoryView:
        """Return the unconfirmed history of a script."""
        return await self.histories.get(hashX, lambda: self._index.hashXs.touching(hashX))

    async def unspent(self, hashX: bytes) -> UTXOsView:
        """Return the mempool's changes of a script's UTXOs."""
        return await self.utxos.get(hashX, lambda: self._index.hashXs.touching(hashX))

    async def status(self, hashX: bytes, history: Any) -> tuple[str | None, int]:
        """Return the status of a script with a confirmed history, and the length of its text.

        The history must be hashed already, see ``ScriptHistory.hashed``.
        """
        view = await self.history(hashX)
        status: str | None
        if not view.count:
            # All of them leave with a block.
            status, text_len = history.status([])
            return status, text_len
        status = view.status_of(history)
        if status is None:
            status = await view.made_status(history)
        return status, history.text_len + len(view.status_text)

    def changed(self, tx_hash: bytes, outputs: int, hashXs: set[bytes]) -> None:
        """Drop the views that a transaction of so many outputs changes by coming or going.

        Apart from its own scripts these are the scripts of its children, which have, or have not,
        an unconfirmed input.
        """
        index = self._index
        children = {index.spenders.get((tx_hash, idx)) for idx in range(outputs)}
        touched = hashXs.union(
            *(index.txs[child].hashXs() for child in children if child in index.txs)
        )
        self.forget(touched)

    def forget(self, hashXs: Iterable[bytes]) -> None:
        """Drop the views of scripts."""
        self.histories.forget(hashXs)
        self.utxos.forget(hashXs)

    def clear(self) -> None:
        """Drop all views."""
        self.histories.clear()
        self.utxos.clear()

    @property
    def are_cached(self) -> bool:
        """Whether there are any views."""
        return bool(self.histories.tasks or self.utxos.tasks)


def _present(index: Index, tx_hashes: Iterable[bytes]) -> Iterator[tuple[bytes, Any]]:
    """Yield those of the transactions that are in the mempool."""
    for tx_hash in tx_hashes:
        tx = index.txs.get(tx_hash)
        if tx is not None and tx_hash not in index.leaving:
            yield tx_hash, tx


def history_view(index: Index, _hashX: bytes, tx_hashes: list[bytes]) -> HistoryView:
    """Return the view of the transactions of a script.  Runs in: a thread."""
    has_tx, fees = index.has_tx, {}
    sorts: tuple[list[str], list[str]] = ([], [])
    for tx_hash, tx in _present(index, tx_hashes):
        unconfirmed = any(has_tx(prev_hash) for prev_hash, _idx in tx.prevouts)
        txid = hash_to_hex_str(tx_hash)
        fees[txid] = tx.fee
        sorts[unconfirmed].append(txid)
    texts, items = [], []
    for height, txids in zip(("0", "-1"), map(_sorted, sorts), strict=True):
        texts += [f"{txid}:{height}:" for txid in txids]
        items += [f'{{"tx_hash":"{txid}","height":{height},"fee":{fees[txid]}}}' for txid in txids]
    return HistoryView(len(items), "".join(texts).encode(), ",".join(items).encode())


def _sorted(txids: list[str]) -> list[str]:
    """Sort, without holding the interpreter for long."""
    runs = [sorted(part) for part in chunks(txids, SORTED_AT_ONCE)]
    while len(runs) > 1:
        # Merging two sorted runs takes one pass.
        runs = [sorted(chain.from_iterable(runs[n : n + 2])) for n in range(0, len(runs), 2)]
    return runs[0] if runs else []


def utxos_view(index: Index, hashX: bytes, tx_hashes: list[bytes]) -> UTXOsView:
    """Return the changes of a script's UTXOs by its transactions.

    Runs in: a thread.
    """
    delta = 0
    utxos = []
    spends: set[tuple[bytes, int]] = set()
    for tx_hash, tx in _present(index, tx_hashes):
        spends.update(tx.prevouts)
        for pair_hashX, value in tx.in_pairs:
            if pair_hashX == hashX:
                delta -= value
        for pos, (pair_hashX, value) in enumerate(tx.out_pairs):
            if pair_hashX == hashX:
                delta += value
                utxos.append(UTXO(-1, pos, tx_hash, 0, value))
    return UTXOsView(delta, utxos, spends)
