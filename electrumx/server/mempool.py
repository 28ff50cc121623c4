"""The node's unconfirmed transactions, by hash and by hashX, and their fee histogram.

Owns the maps of transactions and of hashXs and the cached histogram. Knows the node and the
database only through MemPoolAPI.

Runs in: the event loop, in the tasks of keep_synchronized. Only the refresh task changes the
maps, holding the lock, on the loop, and in slices each of which leaves the maps in agreement with
each other; so queries, which also run on the loop and do not await, need no lock. Everything that
takes long and only reads (parsing, set differences, finding inputs) is done in threads, during
which the maps do not change.

A refresh lists the node's transactions, removes those that vanished, fetches *all* new ones, and
only then accepts them, parents before children: long chains of unconfirmed transactions arrive in
any order, and accepting chunk by chunk, over and over, took time quadratic in their length.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from electrumx.lib.coins import Coin
from electrumx.lib.hash import hash_to_hex_str, hex_str_to_hash
from electrumx.lib.util import chunks, class_logger
from electrumx.server.daemon import DaemonError
from electrumx.server.db import UTXO

T = TypeVar("T")

Prevout = tuple[bytes, int]  # tx hash, txout_idx
HashXValue = tuple[bytes, int]  # hashX, satoshis

# Transactions asked for in one batch.
FETCH_CHUNK = 200
# Batches in flight: as many as Daemon has slots.
FETCH_WORKERS = 10
# Transactions added or removed before the loop gets its turn: about 5 ms.
SLICE = 500
# Before listing again because the node's height changed meanwhile, in seconds.
RESTART_DELAY_SECS = 0.1


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
        return {hashX for pairs in (self.in_pairs, self.out_pairs) for hashX, _value in pairs}


@dataclass(slots=True)
class MemPoolTxSummary:
    """What a client is told of a transaction."""

    hash: bytes
    fee: int  # in satoshis
    has_unconfirmed_inputs: bool


class DBSyncError(Exception):
    """Internal: node and database are not at the same block."""


class _HeightMovedError(Exception):
    """Internal: the node's height changed while its transactions were listed."""


class MemPoolAPI(ABC):
    """What the mempool needs of the node and of the database."""

    @abstractmethod
    async def height(self) -> int:
        """Ask the node for its height."""

    @abstractmethod
    def cached_height(self) -> int | None:
        """Return the node's height last heard, None if never."""

    @abstractmethod
    def db_height(self) -> int:
        """Return the height of the database on disk."""

    @abstractmethod
    async def mempool_hashes(self) -> list[str]:
        """Return the hex hashes of the transactions in the node's mempool."""

    @abstractmethod
    async def raw_transactions(self, hex_hashes: Sequence[str]) -> Iterable[bytes | None]:
        """Return the raw transactions in order, None for those the node does not have."""

    @abstractmethod
    async def lookup_utxos(self, prevouts: Sequence[Prevout]) -> Sequence[HashXValue | None]:
        """Return hashX and value for each outpoint in order, None if not an unspent output."""

    @abstractmethod
    async def on_mempool(self, touched: set[bytes], height: int) -> None:
        """Take the hashXs touched by a refresh at this height; the set is then the callee's."""

    async def daemon_tip_hash(self) -> bytes | None:
        """Ask the node for the hash of its tip; None means that tips are not compared."""
        return None

    def db_tip(self) -> bytes | None:
        """Return the hash of the database's tip; None means that tips are not compared."""
        return None

    async def wait_for_daemon_height_change(self) -> None:
        """Return when the node's height has changed; by default it never does."""
        await asyncio.get_running_loop().create_future()

    async def wait_for_db_height_change(self) -> None:
        """Return when the database has moved to another block; by default it never does."""
        await asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class _Candidate:
    """A transaction whose inputs are not known yet."""

    prevouts: tuple[Prevout, ...]
    out_pairs: tuple[HashXValue, ...]
    size: int


class _Fetched:
    """New transactions and the outputs of the database that they spend."""

    def __init__(self) -> None:
        self.candidates: dict[bytes, _Candidate] = {}
        self.utxos: dict[Prevout, HashXValue] = {}

    def merge(self, other: "_Fetched") -> None:
        """Add what other has to this one."""
        self.candidates.update(other.candidates)
        self.utxos.update(other.utxos)


async def _run_all(coros: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently; return their results in order.

    If one raises, or this is cancelled, all are cancelled and have ended before it propagates.
    """
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MemPool:
    """An index of the node's mempool.

    coin:            its DESERIALIZER and hashX_from_script are used, and histogram parameters
    refresh_secs:    pause between refreshes
    log_status_secs: pause between status lines

    txs: tx hash -> MemPoolTx;  hashXs: hashX -> set of tx hashes, never empty. Both are to be
    changed by nobody else.
    """

    def __init__(
        self,
        coin: type[Coin],
        api: MemPoolAPI,
        refresh_secs: float = 5.0,
        log_status_secs: float = 60.0,
    ) -> None:
        assert isinstance(api, MemPoolAPI)
        self.coin = coin
        self.api = api
        self.logger = class_logger(__name__, self.__class__.__name__)
        self.txs: dict[bytes, MemPoolTx] = {}
        self.hashXs: dict[bytes, set[bytes]] = {}
        self.cached_compact_histogram: list[tuple[float, int]] = []
        self.refresh_secs = refresh_secs
        self.log_status_secs = log_status_secs
        # Held while the maps change, which takes several turns of the loop.
        self.lock = asyncio.Lock()
        self._total_size = 0  # virtual bytes of all txs
        self._wake = asyncio.Event()  # ends the pause between refreshes

    # -- Tasks

    async def keep_synchronized(self, synchronized_event: asyncio.Event) -> None:
        """Keep the mempool like the node's, until cancelled.

        synchronized_event is set and cleared at once after each successful refresh.
        """
        # The refresh comes last, so that the others already wait when it first succeeds.
        await _run_all(
            (
                self._log_status(synchronized_event),
                self._refresh_histogram(synchronized_event),
                self._wake_after(self.api.wait_for_daemon_height_change),
                self._wake_after(self.api.wait_for_db_height_change),
                self._refresh_hashes(synchronized_event),
            )
        )

    async def _wake_after(self, change: Callable[[], Awaitable[None]]) -> None:
        while True:
            await change()
            self._wake.set()

    async def _log_status(self, synchronized_event: asyncio.Event) -> None:
        """Log when first synchronised, and from time to time what there is."""
        self.logger.info("beginning processing of daemon mempool.  This can take some time...")
        start = time.monotonic()
        await synchronized_event.wait()
        self.logger.info(f"synced in {time.monotonic() - start:,.2f}s")
        while True:
            self.logger.info(
                f"{len(self.txs):,d} txs {self._total_size / 1_000_000:.2f} MB "
                f"touching {len(self.hashXs):,d} addresses"
            )
            await asyncio.sleep(self.log_status_secs)
            await synchronized_event.wait()

    async def _refresh_histogram(self, synchronized_event: asyncio.Event) -> None:
        """Recompute the fee histogram from time to time."""
        while True:
            await synchronized_event.wait()
            # The lock only so as not to see half of a refresh; not while computing.
            async with self.lock:
                txs = list(self.txs.values())
            self.cached_compact_histogram = await asyncio.to_thread(
                self._compact_histogram_of, txs, self.coin.MEMPOOL_COMPACT_HISTOGRAM_BINSIZE
            )
            await asyncio.sleep(self.coin.MEMPOOL_HISTOGRAM_REFRESH_SECS)

    def _update_histogram(self, bin_size: float) -> None:
        txs = list(self.txs.values())
        self.cached_compact_histogram = self._compact_histogram_of(txs, bin_size)

    def _compact_histogram_of(
        self, txs: Collection[MemPoolTx], bin_size: float
    ) -> list[tuple[float, int]]:
        """Return the fee histogram to serve. Runs in: a thread."""
        histogram: dict[float, int] = {}
        for tx in txs:
            # Rounded down to tenths of a satoshi.
            fee_rate = (10 * tx.fee // tx.size) / 10
            histogram[fee_rate] = histogram.get(fee_rate, 0) + tx.size
        compact = self._compress_histogram(histogram, bin_size=bin_size)
        self.logger.info(f"compact fee histogram: {compact}")
        return compact

    @staticmethod
    def _compress_histogram(
        histogram: dict[float, int], *, bin_size: float
    ) -> list[tuple[float, int]]:
        """Join neighbouring fee rates to bins of growing size.

        histogram: fee rate -> virtual bytes. Return (lowest fee rate, virtual bytes) of each bin,
        from the highest rate down; what does not fill a last bin is left out.
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

    # -- Refreshing

    async def _refresh_hashes(self, synchronized_event: asyncio.Event) -> None:
        """Refresh for ever."""
        # Grows until a refresh succeeds: what a failed one touched must be notified, too.
        touched: set[bytes] = set()
        while True:
            self._wake.clear()
            pause = self.refresh_secs
            try:
                height = await self._refresh(touched)
            except DBSyncError:
                self.logger.debug("waiting for DB to sync")
            except _HeightMovedError:
                pause = min(pause, RESTART_DELAY_SECS)
            except DaemonError as e:
                self.logger.warning(f"ignoring daemon error: {str(e)[:200]!r}")
            else:
                synchronized_event.set()
                synchronized_event.clear()
                await self.api.on_mempool(touched, height)
                touched = set()
            await self._pause(pause)

    async def _pause(self, secs: float) -> None:
        """Sleep, at longest until the node or the database is at another height."""
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the wake-up.
        timer = asyncio.get_running_loop().call_later(secs, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _refresh(self, touched: set[bytes]) -> int:
        """Make the mempool like the node's; return the height at which it is.

        Adds the hashXs of all changes to touched, also if it raises.
        """
        api = self.api
        height = api.cached_height()
        if height is None or height != api.db_height():
            height = await api.height()
            self._check_in_sync(height, None)
        hex_hashes = await api.mempool_hashes()
        tip = await api.daemon_tip_hash()
        if height != await api.height():
            raise _HeightMovedError
        all_hashes = await asyncio.to_thread(self._hash_set, hex_hashes)
        async with self.lock:
            await self._process_mempool(all_hashes, touched, height, tip)
        return height

    @staticmethod
    def _hash_set(hex_hashes: Iterable[str]) -> set[bytes]:
        """Convert, and leave out what is no hash. Runs in: a thread."""
        result = set()
        for hex_hash in hex_hashes:
            try:
                tx_hash = hex_str_to_hash(hex_hash)
            except (ValueError, TypeError):
                continue
            if len(tx_hash) == 32:
                result.add(tx_hash)
        return result

    def _check_in_sync(self, height: int, tip: bytes | None) -> None:
        """Raise DBSyncError unless the database is at this height and, if known, this tip."""
        if height != self.api.db_height():
            raise DBSyncError
        # A reorganisation may end at the height where it began.
        db_tip = self.api.db_tip()
        if tip is not None and db_tip is not None and tip != db_tip:
            raise DBSyncError

    async def _process_mempool(
        self, all_hashes: set[bytes], touched: set[bytes], height: int, tip: bytes | None
    ) -> None:
        """Bring the maps to all_hashes. The lock is held."""
        self._check_in_sync(height, tip)
        vanished, new = await asyncio.to_thread(self._differences, all_hashes)
        await self._in_slices(vanished, lambda tx_hash: self._remove(tx_hash, touched))
        if not new:
            return

        fetched = await self._fetch_all(new, all_hashes)
        accepted = await asyncio.to_thread(self._find_inputs, fetched)
        # The outputs found are worth nothing if the database moved on meanwhile.
        self._check_in_sync(height, tip)
        await self._in_slices(list(accepted.items()), lambda item: self._add(*item, touched))
        dropped = len(fetched.candidates) - len(accepted)
        if dropped:
            self.logger.error(f"{dropped:,d} txs dropped")

    def _differences(self, all_hashes: set[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return the hashes that vanished and those that are new. Runs in: a thread."""
        vanished = [tx_hash for tx_hash in self.txs if tx_hash not in all_hashes]
        new = [tx_hash for tx_hash in all_hashes if tx_hash not in self.txs]
        return vanished, new

    @staticmethod
    async def _in_slices(items: Sequence[T], func: Callable[[T], None]) -> None:
        """Call func for each item, giving the loop its turn now and then."""
        for n, part in enumerate(chunks(items, SLICE)):
            if n:
                await asyncio.sleep(0)
            for item in part:
                func(item)

    def _remove(self, tx_hash: bytes, touched: set[bytes]) -> None:
        tx = self.txs.pop(tx_hash)
        self._total_size -= tx.size
        tx_hashXs = tx.hashXs()
        for hashX in tx_hashXs:
            tx_hashes = self.hashXs[hashX]
            tx_hashes.remove(tx_hash)
            if not tx_hashes:
                del self.hashXs[hashX]
        touched.update(tx_hashXs)

    def _add(self, tx_hash: bytes, tx: MemPoolTx, touched: set[bytes]) -> None:
        self.txs[tx_hash] = tx
        self._total_size += tx.size
        tx_hashXs = tx.hashXs()
        for hashX in tx_hashXs:
            self.hashXs.setdefault(hashX, set()).add(tx_hash)
        touched.update(tx_hashXs)

    async def _fetch_all(self, new: list[bytes], all_hashes: set[bytes]) -> _Fetched:
        """Fetch transactions, some chunks at a time: starting all at once would hog the loop."""
        result = _Fetched()
        remaining = chunks(new, FETCH_CHUNK)

        async def worker() -> None:
            for hashes in remaining:
                result.merge(await self._fetch(hashes, all_hashes))

        await _run_all(worker() for _ in range(FETCH_WORKERS))
        return result

    async def _fetch(self, hashes: Sequence[bytes], all_hashes: set[bytes]) -> _Fetched:
        """Fetch transactions, and look up what they spend that is not in the mempool."""
        raw_txs = await self.api.raw_transactions([hash_to_hex_str(h) for h in hashes])
        result = _Fetched()
        result.candidates, prevouts = await asyncio.to_thread(
            self._parse, hashes, raw_txs, all_hashes
        )
        if prevouts:
            utxos = await self.api.lookup_utxos(prevouts)
            result.utxos = {
                prevout: utxo
                for prevout, utxo in zip(prevouts, utxos, strict=True)
                if utxo is not None
            }
        return result

    def _parse(
        self, hashes: Sequence[bytes], raw_txs: Iterable[bytes | None], all_hashes: set[bytes]
    ) -> tuple[dict[bytes, _Candidate], tuple[Prevout, ...]]:
        """Return the transactions, and those of their prevouts that are to be looked up.

        Runs in: a thread.
        """
        candidates = {}
        for tx_hash, raw_tx in zip(hashes, raw_txs, strict=True):
            # The node evicted or mined it meanwhile.
            if raw_tx is None:
                continue
            try:
                candidates[tx_hash] = self._parse_tx(raw_tx)
            except Exception as e:  # whatever a coin's parser raises, it costs one transaction
                self.logger.debug(f"skipping tx {hash_to_hex_str(tx_hash)}: {e!r}")
        prevouts = {
            prevout
            for candidate in candidates.values()
            for prevout in candidate.prevouts
            if prevout[0] not in all_hashes
        }
        return candidates, tuple(prevouts)

    def _parse_tx(self, raw_tx: bytes) -> _Candidate:
        tx, size = self.coin.DESERIALIZER(raw_tx).read_tx_and_vsize()
        hashX_from_script = self.coin.hashX_from_script
        prevouts = tuple(
            (txin.prev_hash, txin.prev_idx) for txin in tx.inputs if not txin.is_generation()
        )
        out_pairs = tuple((hashX_from_script(out.pk_script), out.value) for out in tx.outputs)
        return _Candidate(prevouts, out_pairs, size)

    def _find_inputs(self, fetched: _Fetched) -> dict[bytes, MemPoolTx]:
        """Return the transactions all of whose inputs are known, parents before children.

        Runs in: a thread.
        """
        candidates = fetched.candidates
        accepted: dict[bytes, MemPoolTx] = {}
        waiting_for: dict[bytes, int] = {}  # candidate -> number of parents to be settled first
        children: dict[bytes, list[bytes]] = {}
        ready = []
        for tx_hash, candidate in candidates.items():
            parents = {
                prev_hash for prev_hash, _idx in candidate.prevouts if prev_hash in candidates
            }
            waiting_for[tx_hash] = len(parents)
            for parent in parents:
                children.setdefault(parent, []).append(tx_hash)
            if not parents:
                ready.append(tx_hash)

        while ready:
            tx_hash = ready.pop()
            tx = self._with_inputs(candidates[tx_hash], fetched.utxos, accepted)
            if tx is None:
                # Its descendants are never ready.
                continue
            accepted[tx_hash] = tx
            for child in children.get(tx_hash, ()):
                waiting_for[child] -= 1
                if not waiting_for[child]:
                    ready.append(child)
        return accepted

    def _with_inputs(
        self,
        candidate: _Candidate,
        utxos: dict[Prevout, HashXValue],
        accepted: dict[bytes, MemPoolTx],
    ) -> MemPoolTx | None:
        """Return the transaction with its inputs, None if one of them cannot be found."""
        in_pairs = []
        for prevout in candidate.prevouts:
            pair = utxos.get(prevout)
            if pair is None:
                prev_hash, prev_idx = prevout
                parent = accepted.get(prev_hash) or self.txs.get(prev_hash)
                if parent is None or prev_idx >= len(parent.out_pairs):
                    return None
                pair = parent.out_pairs[prev_idx]
            in_pairs.append(pair)
        fee = sum(value for _hashX, value in in_pairs)
        fee -= sum(value for _hashX, value in candidate.out_pairs)
        # Generation-like inputs are left out, which makes their transactions seem to pay nothing.
        return MemPoolTx(
            candidate.prevouts, tuple(in_pairs), candidate.out_pairs, max(0, fee), candidate.size
        )

    # -- Queries. None of them awaits, so that each sees one state. Those named sync_... are for
    # callers that cannot await, or need not: an await of the others never waits.

    def _txs_touching(self, hashX: bytes) -> list[tuple[bytes, MemPoolTx]]:
        return [(tx_hash, self.txs[tx_hash]) for tx_hash in self.hashXs.get(hashX, ())]

    def sync_balance_delta(self, hashX: bytes) -> int:
        """Return what the mempool adds to the confirmed balance, in satoshis; may be negative."""
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
        summaries = [
            MemPoolTxSummary(
                tx_hash, tx.fee, any(prev_hash in self.txs for prev_hash, _idx in tx.prevouts)
            )
            for tx_hash, tx in self._txs_touching(hashX)
        ]
        if len(summaries) > 1:
            summaries.sort(key=lambda s: (s.has_unconfirmed_inputs, s.hash[::-1]))
        return summaries

    def sync_unspent(self, hashX: bytes) -> list[UTXO]:
        """Return the outputs to hashX of transactions in the mempool, spent ones too.

        What is spent there, of these and of the database's, is in sync_spends.
        """
        return [
            UTXO(-1, pos, tx_hash, 0, value)
            for tx_hash, tx in self._txs_touching(hashX)
            for pos, (out_hashX, value) in enumerate(tx.out_pairs)
            if out_hashX == hashX
        ]

    async def balance_delta(self, hashX: bytes) -> int:
        """Return what sync_balance_delta does."""
        return self.sync_balance_delta(hashX)

    async def compact_fee_histogram(self) -> list[tuple[float, int]]:
        """Return (fee rate in satoshis per virtual byte, virtual bytes) from the highest down."""
        return self.cached_compact_histogram

    async def potential_spends(self, hashX: bytes) -> set[Prevout]:
        """Return what sync_spends does."""
        return self.sync_spends(hashX)

    async def transaction_summaries(self, hashX: bytes) -> list[MemPoolTxSummary]:
        """Return what sync_summaries does."""
        return self.sync_summaries(hashX)

    async def unordered_UTXOs(self, hashX: bytes) -> list[UTXO]:
        """Return what sync_unspent does."""
        return self.sync_unspent(hashX)
