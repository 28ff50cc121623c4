"""The transactions of the mempool, by hash and by script, and their fees: state and its queries.

Owns the maps, the total size and the fee rates, which agree with each other between any two calls.
Nothing here waits or reads; the tasks of ``MemPool`` fill the maps.

Runs in: the event loop.  Threads may read while nothing changes the state.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from electrumx.server.mempool.outpoint_watch import OutpointWatch
from electrumx.server.mempool.script_views import LargeScripts
from electrumx.server.notifications import Confirmed
from electrumx.server.storage.schema import UTXO

HASH_LEN = 32

Prevout = tuple[bytes, int]  # tx hash, txout_idx
HashXValue = tuple[bytes, int]  # hashX, satoshis


@dataclass(slots=True)
class MemPoolTx:
    """A transaction in the mempool. Not changed once made."""

    prevouts: tuple[Prevout, ...]  # of inputs other than coinbase-like ones
    in_pairs: tuple[HashXValue, ...]  # parallel to prevouts
    out_pairs: tuple[HashXValue, ...]  # of all outputs, unspendable ones too
    fee: int  # in satoshis
    size: int  # in virtual bytes

    def hashXs(self) -> set[bytes]:
        """Return the hashXs that the transaction spends from or pays to."""
        return {hashX for hashX, _value in self.in_pairs + self.out_pairs}


@dataclass(slots=True)
class MemPoolTxSummary:
    """The summary of a transaction that clients get."""

    hash: bytes
    fee: int  # in satoshis
    has_unconfirmed_inputs: bool


def split_hashes(joined: bytes) -> list[bytes]:
    """Return the hashes of a string of them."""
    return [joined[n : n + HASH_LEN] for n in range(0, len(joined), HASH_LEN)]


def split_outpoints(joined: bytes) -> list[Prevout]:
    """Return the outpoints of a string of them: hash and index LE4 of each."""
    return [
        (joined[n : n + HASH_LEN], int.from_bytes(joined[n + HASH_LEN : n + 36], "little"))
        for n in range(0, len(joined), 36)
    ]


class HashXMap(Mapping[bytes, set[bytes]]):
    """The transactions of each hashX, as sets that are never empty.

    Most hashXs have one transaction only.  A set of one takes 216 bytes, and the garbage
    collector looks at each; so that one hash stands by itself.

    A dictionary of a million entries takes 40 ms when it grows, during which everything stands
    still.  So there are many small ones, chosen by the first byte of the hashX.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[dict[bytes, bytes | set[bytes]]] = [{} for _ in range(256)]

    def __getitem__(self, hashX: bytes) -> set[bytes]:
        stored = self._parts[hashX[0]][hashX]
        return {stored} if isinstance(stored, bytes) else stored

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self._parts)

    def __contains__(self, hashX: object) -> bool:
        return isinstance(hashX, bytes) and hashX in self._parts[hashX[0]]

    def add(self, tx_hash: bytes, hashXs: Iterable[bytes]) -> None:
        """Note that a transaction touches hashXs; it did not before."""
        parts = self._parts
        for hashX in hashXs:
            part = parts[hashX[0]]
            stored = part.setdefault(hashX, tx_hash)
            if stored is tx_hash:
                continue
            if isinstance(stored, bytes):
                part[hashX] = {stored, tx_hash}
            else:
                stored.add(tx_hash)

    def remove(self, tx_hash: bytes, hashXs: Iterable[bytes]) -> None:
        """Undo ``add``."""
        for hashX in hashXs:
            part = self._parts[hashX[0]]
            stored = part[hashX]
            if isinstance(stored, bytes):
                del part[hashX]
                continue
            stored.remove(tx_hash)
            if len(stored) == 1:
                part[hashX] = stored.pop()

    def touching(self, hashX: bytes) -> tuple[bytes, ...] | set[bytes]:
        """Return the hashes of the transactions of a hashX, none if it is unknown."""
        stored = self._parts[hashX[0]].get(hashX, ())
        return (stored,) if isinstance(stored, bytes) else stored


class FeeRates:
    """Virtual bytes at each fee rate, in tenths of a satoshi per virtual byte, rounded down."""

    __slots__ = ("_sizes",)

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}

    def add(self, tx: MemPoolTx) -> None:
        """Count a transaction."""
        rate = 10 * tx.fee // tx.size
        self._sizes[rate] = self._sizes.get(rate, 0) + tx.size

    def remove(self, tx: MemPoolTx) -> None:
        """Count one no more."""
        rate = 10 * tx.fee // tx.size
        left = self._sizes[rate] - tx.size
        if left:
            self._sizes[rate] = left
        else:
            del self._sizes[rate]

    def histogram(self) -> dict[float, int]:
        """Return a copy: fee rate in satoshis -> virtual bytes."""
        return {rate / 10: size for rate, size in self._sizes.items()}


def compact_histogram(histogram: dict[float, int], *, bin_size: float) -> list[tuple[float, int]]:
    """Join neighbouring fee rates to bins of growing size.

    histogram: fee rate -> virtual bytes. Return (lowest fee rate, virtual bytes) of each bin,
    from the highest rate down; an incomplete last bin is left out.
    """
    compact = []
    cumulative = 0
    previous_rate: float | None = None
    for fee_rate, size in sorted(histogram.items(), reverse=True):
        # A lump of transactions must not hide the cheaper rate just above it.
        if size > 2 * bin_size and previous_rate is not None and cumulative > 0:
            compact.append((previous_rate, cumulative))
            cumulative = 0
            bin_size *= 1.1
        cumulative += size
        if cumulative > bin_size:
            compact.append((fee_rate, cumulative))
            cumulative = 0
            bin_size *= 1.1
        previous_rate = fee_rate
    return compact


class Departure(NamedTuple):
    """The transactions that a block removes."""

    confirmed: Confirmed
    tx_hashes: dict[bytes, None]
    touched: set[bytes]  # the hashXs of those
    changes: int  # of the maps for which this was computed


class MemPoolIndex:
    """Transactions, added and removed one by one, and the queries about them.

    txs: tx hash -> MemPoolTx;  hashXs: hashX -> set of tx hashes, never empty;  spenders: outpoint
    -> hash of the transaction that spends it. Only the tasks of ``MemPool`` may change them.

    The transactions that a block removes disappear from all queries in one step: they are
    ``leaving`` from then on, and disappear from the maps in time slices.
    """

    def __init__(self) -> None:
        self.txs: dict[bytes, MemPoolTx] = {}
        self.hashXs = HashXMap()
        self.spenders: dict[Prevout, bytes] = {}
        self._fee_rates = FeeRates()
        #: virtual bytes of all transactions
        self.total_size = 0
        self._leaving: dict[bytes, None] = {}
        #: cached answers about scripts with many transactions
        self.large = LargeScripts(self)
        #: number of transactions added and removed
        self.changes = 0
        #: the outpoints that clients subscribe to
        self.watch = OutpointWatch()

    @property
    def leaving(self) -> dict[bytes, None]:
        """Transactions that are in the maps, but in no answer."""
        return self._leaving

    @leaving.setter
    def leaving(self, tx_hashes: dict[bytes, None]) -> None:
        self._leaving = tx_hashes
        self.large.clear()

    def fee_histogram(self) -> dict[float, int]:
        """Return a copy: fee rate in satoshis per virtual byte -> virtual bytes."""
        return self._fee_rates.histogram()

    def add_tx(self, tx_hash: bytes, tx: MemPoolTx, touched: set[bytes]) -> None:
        """Take a transaction that was not there; its hashXs go into touched."""
        self.changes += 1
        self.txs[tx_hash] = tx
        self.total_size += tx.size
        self._fee_rates.add(tx)
        tx_hashXs = tx.hashXs()
        for prevout in tx.prevouts:
            self.spenders[prevout] = tx_hash
        self.hashXs.add(tx_hash, tx_hashXs)
        if self.large.are_cached:
            self.large.changed(tx_hash, len(tx.out_pairs), tx_hashXs)
        if self.watch.by_tx:
            self._touch_outpoints(tx_hash, tx)
        touched |= tx_hashXs

    def remove_tx(self, tx_hash: bytes, touched: set[bytes]) -> None:
        """Forget a transaction; its hashXs go into touched."""
        self.changes += 1
        tx = self.txs.pop(tx_hash)
        self.total_size -= tx.size
        self._fee_rates.remove(tx)
        tx_hashXs = tx.hashXs()
        for prevout in tx.prevouts:
            # No node has two that spend the same; if one lists two, the first removal forgets it.
            self.spenders.pop(prevout, None)
        self.hashXs.remove(tx_hash, tx_hashXs)
        if self.large.are_cached:
            self.large.changed(tx_hash, len(tx.out_pairs), tx_hashXs)
        if self.watch.by_tx:
            self._touch_outpoints(tx_hash, tx)
        touched |= tx_hashXs

    def _touch_outpoints(self, tx_hash: bytes, tx: MemPoolTx) -> None:
        """Mark the watched outpoints that a transaction concerns which comes or goes."""
        concerned: dict[bytes, MemPoolTx] = {}
        self.add_with_children(tx_hash, tx, concerned)
        for concerned_hash, concerned_tx in concerned.items():
            self.watch.touch_tx(concerned_hash, concerned_tx.prevouts)

    def add_with_children(
        self, tx_hash: bytes, tx: MemPoolTx, concerned: dict[bytes, MemPoolTx]
    ) -> None:
        """Add a transaction and those that spend its outputs, which have another height without it.

        Add each once, however many of the outputs it spends.
        """
        concerned[tx_hash] = tx
        for idx in range(len(tx.out_pairs)):
            child = self.spenders.get((tx_hash, idx))
            if child is not None and child not in concerned and child in self.txs:
                concerned[child] = self.txs[child]

    # -- Reports of single transactions that the node added or removed

    def has_conflict(self, tx: MemPoolTx) -> bool:
        """Return whether there are ``conflicts``, which most often there are not: cheaper to ask."""
        return not self.spenders.keys().isdisjoint(tx.prevouts)

    def conflicts(self, tx: MemPoolTx) -> set[bytes]:
        """Return the transactions that spend an output that another one spends."""
        found = {self.spenders.get(prevout) for prevout in tx.prevouts}
        return {tx_hash for tx_hash in found if tx_hash is not None}

    def remove_with_descendants(
        self, tx_hashes: Iterable[bytes], touched: set[bytes]
    ) -> set[bytes]:
        """Forget transactions and all that depend on them; return their hashes."""
        gone: dict[bytes, None] = {}
        self._add_with_descendants([h for h in tx_hashes if h in self.txs], gone)
        for tx_hash in gone:
            self.remove_tx(tx_hash, touched)
        return set(gone)

    # -- Queries. None of them awaits, so that each sees one state.

    def has_tx(self, tx_hash: bytes) -> bool:
        """Say if a transaction is in the mempool."""
        return tx_hash in self.txs and tx_hash not in self._leaving

    def has(self, hashX: bytes) -> bool:
        """Say if any transaction touches hashX."""
        leaving = self._leaving
        if leaving:
            return any(tx_hash not in leaving for tx_hash in self.hashXs.touching(hashX))
        return hashX in self.hashXs

    def _txs_touching(self, hashX: bytes) -> list[tuple[bytes, MemPoolTx]]:
        txs, leaving = self.txs, self._leaving
        return [
            (tx_hash, txs[tx_hash])
            for tx_hash in self.hashXs.touching(hashX)
            if tx_hash not in leaving
        ]

    def sync_balance_delta(self, hashX: bytes) -> int:
        """Return the mempool's change of the confirmed balance, in satoshis; may be negative."""
        value = 0
        for _tx_hash, tx in self._txs_touching(hashX):
            value -= sum(v for pair_hashX, v in tx.in_pairs if pair_hashX == hashX)
            value += sum(v for pair_hashX, v in tx.out_pairs if pair_hashX == hashX)
        return value

    def sync_spends(self, hashX: bytes) -> set[Prevout]:
        """Return all prevouts of the transactions touching hashX, also those of others."""
        return {prevout for _tx_hash, tx in self._txs_touching(hashX) for prevout in tx.prevouts}

    def sync_summaries(self, hashX: bytes) -> list[MemPoolTxSummary]:
        """Return the transactions touching hashX.

        Those without unconfirmed inputs come first; then in the order of their displayed hashes.
        """
        if hashX not in self.hashXs:
            return []
        summaries = [
            MemPoolTxSummary(
                tx_hash, tx.fee, any(self.has_tx(prev_hash) for prev_hash, _idx in tx.prevouts)
            )
            for tx_hash, tx in self._txs_touching(hashX)
        ]
        if len(summaries) > 1:
            summaries.sort(key=lambda s: (s.has_unconfirmed_inputs, s.hash[::-1]))
        return summaries

    def outpoint(self, outpoint: Prevout) -> tuple[int | None, bytes | None, int | None]:
        """Return the unconfirmed part of the status of an outpoint.

        That is the height of its transaction, the hash of the spending one, and its height; None for
        those that are not in the mempool.  Heights are 0, or -1 with unconfirmed inputs.
        """
        tx_hash, idx = outpoint
        funder_height: int | None = None
        if self.has_tx(tx_hash) and idx < len(self.txs[tx_hash].out_pairs):
            funder_height = self._height_of(tx_hash)
        spender = self.spenders.get(outpoint)
        if spender is not None and self.has_tx(spender):
            return funder_height, spender, self._height_of(spender)
        return funder_height, None, None

    def _height_of(self, tx_hash: bytes) -> int:
        return -any(self.has_tx(prev_hash) for prev_hash, _idx in self.txs[tx_hash].prevouts)

    def recent(self, count: int) -> list[tuple[bytes, int, int]]:
        """Return (hash, fee, virtual size) of those that came last, the newest first."""
        newest = (tx_hash for tx_hash in reversed(self.txs) if tx_hash not in self._leaving)
        return [
            (tx_hash, self.txs[tx_hash].fee, self.txs[tx_hash].size)
            for tx_hash in islice(newest, count)
        ]

    def sync_unspent(self, hashX: bytes) -> list[UTXO]:
        """Return the outputs to hashX of transactions in the mempool, spent ones too.

        sync_spends has the outputs that they spend, of these and of the database's.
        """
        return [
            UTXO(-1, pos, tx_hash, 0, value)
            for tx_hash, tx in self._txs_touching(hashX)
            for pos, (out_hashX, value) in enumerate(tx.out_pairs)
            if out_hashX == hashX
        ]

    # -- The effects of a block. Runs in: a thread.

    def departure(self, confirmed: Confirmed) -> Departure:
        """Return the transactions to remove when these blocks are on top.

        These are the ones they confirm, the ones that spend the same outputs, and all descendants.
        """
        gone = dict.fromkeys(self._in_block(confirmed.tx_hashes))
        impossible = [h for h in self._spending(confirmed.spent_outpoints) if h not in gone]
        self._add_with_descendants(impossible, gone)
        touched: set[bytes] = set()
        for tx_hash in gone:
            touched |= self.txs[tx_hash].hashXs()
        return Departure(confirmed, gone, touched, self.changes)

    def _add_with_descendants(self, pending: list[bytes], gone: dict[bytes, None]) -> None:
        """Add transactions and all their descendants to ``gone``."""
        gone.update(dict.fromkeys(pending))
        while pending:
            parent = pending.pop()
            for idx in range(len(self.txs[parent].out_pairs)):
                child = self.spenders.get((parent, idx))
                if child is not None and child not in gone:
                    gone[child] = None
                    pending.append(child)

    def _in_block(self, tx_hashes: bytes) -> list[bytes]:
        """Return those of a block's transactions that are here."""
        return [tx_hash for tx_hash in split_hashes(tx_hashes) if tx_hash in self.txs]

    def _spending(self, outpoints: bytes) -> set[bytes]:
        """Return the transactions that spend any of the outpoints (hash and index LE4, joined)."""
        found = map(self.spenders.get, split_outpoints(outpoints))
        return {tx_hash for tx_hash in found if tx_hash is not None}
