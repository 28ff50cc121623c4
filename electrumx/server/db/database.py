"""The database of one chain, assembled from its parts.

Owns nothing but the parts: :class:`Stores` (the committed state and its storage), the reads of
clients (:class:`Queries`, :class:`Headers`, :class:`UTXOLookup`), the :class:`Flusher` and the end
of the :class:`InitialSync`.  Its methods delegate, so that callers need not know the parts.

Writing runs in a worker thread with the block processor's state lock held; ``async`` methods, and
those that return a ``PendingRead``, run on the event loop.
"""

import asyncio
from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from electrumx.lib import util
from electrumx.lib.coins.base import OutputRule
from electrumx.lib.merkle import MerkleCache
from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.db.flush_data import FlushData
from electrumx.server.db.flusher import Flusher
from electrumx.server.db.foreign_reorg_repair import FetchBlocks
from electrumx.server.db.headers import Headers
from electrumx.server.db.initial_sync import InitialSync
from electrumx.server.db.queries import Balance, PackedHistory, PackedUTXOs, Queries
from electrumx.server.db.read_pool import PendingRead, ReadPool
from electrumx.server.db.stores import Stores
from electrumx.server.db.utxo_lookup import UTXOLookup
from electrumx.server.env import Env
from electrumx.server.history.row_compaction import CompactionPass
from electrumx.server.history.store import History
from electrumx.server.storage.base import Storage, db_class
from electrumx.server.storage.gate import StoreGate
from electrumx.server.storage.schema import UTXO, CommittedState, DBError, UTXORow
from electrumx.server.storage.tuning import Tuning


class DB:
    """The database in ``env.db_dir``; closed until the first await of an ``open_…`` method."""

    DB_VERSIONS = Stores.DB_VERSIONS
    #: the error its methods raise, for code that does not import this module
    DBError = DBError

    def __init__(self, env: Env) -> None:
        self.logger = util.class_logger(__name__, type(self).__name__)
        self.env = env
        self.coin = env.coin
        self.db_dir = Path(env.db_dir)
        self.stores = Stores(
            self.db_dir,
            db_class(env.db_engine),
            env.coin,
            env.reorg_limit,
            self.logger,
            Tuning.of_machine(env.cache_MB, env.spare_files),
        )
        self.history: History = self.stores.history
        self.files: FlatFiles = self.stores.files
        self.gate: StoreGate = self.stores.gate
        #: the threads that make clients' reads
        self.read_pool = read_pool = ReadPool(self.logger, self.gate, self.stores.explain_read)
        self.queries = Queries(self.stores, read_pool)
        self.headers = Headers(self.stores, self.queries.steady_read, self.logger)
        #: ``cached_header(height)`` returns a header, or None; requests for one come a million at a time
        self.cached_header = self.headers.cached_header
        self.utxo_lookup = UTXOLookup(self.stores)
        self.flusher = Flusher(self.stores, self.headers.merkle_cache, self.logger)
        self.initial_sync = InitialSync(self.stores, self.logger)

    # -- the committed state

    @property
    def state(self) -> CommittedState:
        """The committed state."""
        return self.stores.state

    @property
    def db_height(self) -> int:
        """Height of the last committed block, -1 in an empty database."""
        return self.stores.state.height

    @property
    def db_tip(self) -> bytes:
        """Hash of the last committed block."""
        return self.stores.state.tip

    @property
    def db_tx_count(self) -> int:
        """Transactions up to and including the last committed block."""
        return self.stores.state.tx_count

    @property
    def db_version(self) -> int:
        """Version of the layout on disk."""
        return self.stores.state.db_version

    @property
    def wall_time(self) -> float:
        """Seconds spent synchronising so far."""
        return self.stores.state.wall_time

    @property
    def first_sync(self) -> bool:
        """True until the chain was first caught up with."""
        return self.stores.state.first_sync

    @first_sync.setter
    def first_sync(self, value: bool) -> None:
        self.stores.state = replace(self.stores.state, first_sync=value)

    @property
    def fs_height(self) -> int:
        """Height up to which the flat files have the blocks, at least the committed one."""
        return self.stores.fs_height

    @property
    def fs_tx_count(self) -> int:
        """Transactions that the flat files have."""
        return self.stores.fs_tx_count

    @property
    def tx_counts(self) -> "array[int]":
        """Cumulative transaction count by height."""
        return self.stores.tx_counts

    @property
    def backup_count(self) -> int:
        """Number of times that committed blocks were undone."""
        return self.stores.backup_count

    @property
    def utxo_db(self) -> Storage | None:
        """The ``utxo`` store, None while it is closed."""
        return self.stores.utxo_db

    @property
    def header_mc(self) -> MerkleCache:
        """Hashes for header proofs."""
        return self.headers.merkle_cache

    def output_rule(self, height: int) -> OutputRule:
        """Return how outputs of the block at a height are, or were, indexed."""
        return self.stores.output_rule(height)

    # -- opening and closing

    async def open_for_sync(self, fetch_blocks: FetchBlocks | None = None) -> None:
        """Open the database for fast indexing.  Raise DBError if it is unusable.

        ``fetch_blocks`` asks the daemon for raw blocks by their display hashes.  The thread that
        opens the database calls it, if a repair needs them, and it may block.
        """
        await asyncio.to_thread(self.stores.open_for_sync, fetch_blocks)

    async def open_for_serving(self) -> None:
        """Open the database for serving clients; re-open one that is open, if it is large."""
        await asyncio.to_thread(self.stores.open_for_serving)

    async def open_for_compacting(self) -> None:
        """Open the database so that an interrupted history compaction can go on."""
        await asyncio.to_thread(self.stores.open_for_compacting)

    async def exchange_stores(self, move: Callable[[], None]) -> None:
        """Replace both stores by ``move``, and open them for fast indexing; reads wait."""

        def close_and_move() -> None:
            # The stores are closed: no look-up is under way.
            self.utxo_lookup.close()
            move()

        await asyncio.to_thread(self.stores.exchange, close_and_move)

    def close_dbs(self) -> None:
        """Close both stores; harmless when already closed.

        Reads that wait, or are under way and long, fail with DBClosedError; wait for the others,
        which takes milliseconds.  Stop a compaction of the engine's tables.
        """
        self.stores.close()
        self.utxo_lookup.close()

    def raise_explained(self, error: BaseException) -> NoReturn:
        """Raise a DBError in place of an error of the disk or the engine; others as they are."""
        self.stores.raise_explained(error)

    # -- flushing

    @property
    def must_flush_utxos(self) -> bool:
        """Whether the next flush has to be a whole one, before a history compaction."""
        return self.flusher.must_flush_utxos

    def assert_flushed(self, flush_data: FlushData) -> None:
        """Assert that nothing waits for a flush."""
        self.flusher.assert_flushed(flush_data)

    def flush_dbs(
        self,
        flush_data: FlushData,
        flush_utxos: bool,
        estimate_txs_remaining: Callable[[], float],
    ) -> None:
        """Write everything, or all but the UTXOs, and wait for the disk.

        Empties the collections of ``flush_data``.  Does nothing if the height is the committed one.
        """
        self.flusher.flush_dbs(flush_data, flush_utxos, estimate_txs_remaining)

    def flush_backup(self, flush_data: FlushData, touched: Iterable[bytes]) -> None:
        """Commit the undoing of blocks down to ``flush_data.height``.

        ``touched`` has every script with history in an undone block.  Nothing may wait for a
        forward flush.
        """
        self.flusher.flush_backup(flush_data, touched)

    def set_flush_count(self, count: int) -> None:
        """Write the number of history flushes that the UTXOs have seen, synced."""
        self.stores.set_flush_count(count)

    # -- the end of the initial sync: see InitialSync

    def end_bulk_load(self) -> None:
        """Go on with the engine's options for a store in use: the chain was caught up with."""
        self.initial_sync.end_bulk_load()

    def end_bulk_load_if_large(self) -> None:
        """End bulk load of the ``utxo`` store if it is too large to compact at the end."""
        self.initial_sync.end_bulk_load_if_large()

    def write_caught_up(self) -> None:
        """Record on disk that the server caught up, unless a compaction of tables is due."""
        self.initial_sync.write_caught_up()

    def compact_tables(self) -> bool:
        """Compact the engine's tables; return True if :meth:`write_compacted` is to record it."""
        return self.initial_sync.compact_tables()

    def stop_table_compaction(self) -> None:
        """Make :meth:`compact_tables` end soon; closing must follow."""
        self.stores.stop_table_compaction()

    def write_compacted(self) -> None:
        """Record on disk that the tables are compacted; if closed, the next start does."""
        self.initial_sync.write_compacted()

    # -- history compaction

    @property
    def compaction_due(self) -> bool:
        """True if the history should be compacted, or is being."""
        return self.stores.compaction_due

    def begin_compaction(self) -> CompactionPass:
        """Return the compaction under way, or a new one.  Call it with the state lock held."""
        return self.stores.begin_compaction()

    # -- undo information and raw blocks

    def min_undo_height(self, max_height: int) -> int:
        """Return the lowest height that keeps undo information at ``max_height``."""
        return self.stores.recent_blocks.lowest_height(max_height)

    def read_undo_info(self, height: int) -> bytes | None:
        """Return a block's undo items, joined, or None if they are missing.

        Raise DBDamagedError if they are not whole.
        """
        assert self.stores.utxo_db
        return self.stores.recent_blocks.undo_info(self.stores.utxo_db, height)

    def read_raw_block(self, height: int) -> bytes:
        """Return a recent raw block; FileNotFoundError if it is missing."""
        return self.stores.recent_blocks.raw_block(height)

    def write_raw_block(self, block: bytes, height: int) -> None:
        """Keep a raw block, and delete the one that falls out of the window."""
        self.stores.recent_blocks.write_raw_block(block, height)

    # -- queries

    def history_entries(
        self, hashX: bytes, *, limit: int | None = None, after: int = -1, only_below: bool = False
    ) -> PendingRead[PackedHistory]:
        """Return the first ``limit`` entries (None: all) beyond transaction number ``after``.

        With ``only_below`` they are no more than counted where there are that many.
        """
        return self.queries.history_entries(hashX, limit=limit, after=after, only_below=only_below)

    async def limited_history(
        self, hashX: bytes, *, limit: int | None = 1000
    ) -> list[tuple[bytes, int]]:
        """Return (tx hash, height) of a script's first ``limit`` transactions, in chain order."""
        return await self.queries.limited_history(hashX, limit=limit)

    def packed_utxos(self, hashX: bytes) -> PendingRead[PackedUTXOs]:
        """Return all unspent outputs of a script, packed and in chain order."""
        return self.queries.packed_utxos(hashX)

    def balance(self, hashX: bytes) -> PendingRead[Balance]:
        """Return the number and the sum of a script's unspent outputs."""
        return self.queries.balance(hashX)

    async def all_utxos(self, hashX: bytes) -> list[UTXO]:
        """Return all unspent outputs of a script, in chain order."""
        return await self.queries.all_utxos(hashX)

    def block_tx_hashes(self, block_height: int) -> PendingRead[bytes]:
        """Return the hashes of a block's transactions, in their order, joined.

        It raises DBError for an uncommitted height.
        """
        return self.queries.block_tx_hashes(block_height)

    async def tx_hashes_at_blockheight(self, block_height: int) -> list[bytes]:
        """Return the hashes of a block's transactions, in their order.

        Raise DBError for an uncommitted height.
        """
        return await self.queries.tx_hashes_at_blockheight(block_height)

    # -- unspent outputs by outpoint

    def find_utxo_row(
        self,
        tx_hash: bytes,
        txout_idx: int,
        spent: Container[bytes] = (),
        *,
        exact: bool = False,
    ) -> UTXORow | None:
        """Return the rows of an unspent output, or None; see :meth:`UTXOLookup.row`."""
        return self.utxo_lookup.row(tx_hash, txout_idx, spent, exact=exact)

    def find_utxo_rows(
        self, outpoints: Sequence[bytes], spent: Container[bytes] = (), *, exact: bool = False
    ) -> list[UTXORow | None]:
        """Return the rows of each of many outputs; see :meth:`UTXOLookup.rows`."""
        return self.utxo_lookup.rows(outpoints, spent, exact=exact)

    async def utxo_heights(self, outpoints: Sequence[tuple[bytes, int]]) -> list[int | None]:
        """Return the height of each outpoint's block, None if it is no unspent output."""
        return await self.utxo_lookup.heights(outpoints)

    async def lookup_utxos(
        self, prevouts: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int] | None]:
        """Return (hashX, value) of each outpoint, None where it is not an unspent output."""
        return await self.utxo_lookup.hashXs_and_values(prevouts)

    def fs_tx_hash(self, tx_num: int) -> tuple[bytes | None, int]:
        """Return (tx hash, height) of a tx number; the hash is None for an uncommitted one."""
        return self.utxo_lookup.tx_hash(tx_num)

    # -- headers

    async def raw_header(self, height: int) -> bytes:
        """Return the header of a height.  Raise IndexError if it is out of range."""
        return await self.headers.raw_header(height)

    async def read_headers(self, start_height: int, count: int) -> tuple[bytes, int]:
        """Return (headers joined, how many), as many of ``count`` as the chain has.

        Raise DBError for a negative height or count.
        """
        return await self.headers.read_headers(start_height, count)

    def split_headers(self, start_height: int, headers: bytes) -> list[bytes]:
        """Cut headers apart that ``read_headers`` has returned from ``start_height`` on."""
        return self.headers.split(start_height, headers)

    async def fs_block_hashes(self, height: int, count: int) -> list[bytes]:
        """Return the hashes of ``count`` blocks, from ``height`` on.

        Raise DBError if the chain does not have all of them.
        """
        return await self.headers.block_hashes(height, count)

    async def header_branch_and_root_uncached(
        self, length: int, height: int
    ) -> tuple[list[bytes], bytes]:
        """Return the same before :meth:`populate_header_merkle_cache`, slowly."""
        return await self.headers.branch_and_root_uncached(length, height)

    async def header_branch_and_root(self, length: int, height: int) -> tuple[list[bytes], bytes]:
        """Return (branch, root) that prove the header of ``height`` among ``length`` headers."""
        return await self.headers.branch_and_root(length, height)

    def header_proof_hashes(self, length: int, height: int) -> int:
        """Return how many hashes ``header_branch_and_root`` would make now, of leaves included."""
        return self.headers.proof_hashes(length, height)

    async def populate_header_merkle_cache(self) -> None:
        """Prepare header proofs; await it once, when caught up."""
        await self.headers.populate_merkle_cache()
