"""The state of the index at the block processed last, as far as it is in memory.

Owns the height, tip and transaction count of that block, its UTXOs, undo information, headers and
transaction hashes until a flush writes them, and the steps that change all of it: indexing a block
on top of the tip, and undoing the block at the tip.  A strategy, or the Cython implementation
(``compiled_indexer``), computes what a transaction changes; ``db`` knows the rows.

Runs in: a worker thread, one at a time, with ``lock`` held.  The event loop reads the outcome.
"""

import asyncio
import logging
import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, cast

from electrumx.lib.coins import Block, Coin
from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.block_processor.block_parser import (
    ParsedBlock,
    spend_counts_of,
    spent_outpoints_of,
)
from electrumx.server.block_processor.compiled_indexer import CompiledIndex, RecentUTXOs
from electrumx.server.block_processor.errors import ChainError, UndoMissingError, UnfitBlockError
from electrumx.server.block_processor.indexer import HashX, ParsedTx, Unspendable
from electrumx.server.block_processor.strategies import Strategy
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.db import DB, FlushData, wire_rows
from electrumx.server.db.wire_rows import Addition
from electrumx.server.notifications import Confirmed
from electrumx.server.storage.schema import HASH_LEN, DBError
from electrumx.server.storage.undo import split_items

if TYPE_CHECKING:
    from electrumx.server.block_processor._fastblock import FastBlock


class BlockSteps(Protocol):
    """The two steps that a subclass of the block processor may replace."""

    def advance_txs(self, txs: Sequence[ParsedTx], is_unspendable: Unspendable) -> list[bytes]:
        """Index a block's transactions; return its undo items."""

    def backup_txs(
        self, txs: Sequence[ParsedTx], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs touched."""


class ChainState:
    """Indexes blocks in memory, and undoes them."""

    #: bytes of an unflushed block: a header as a bytes object, its count and those of its lists
    BYTES_PER_BLOCK = 250

    def __init__(
        self,
        coin: type[Coin],
        db: DB,
        reorg_limit: int,
        strategy: Strategy,
        compiled: CompiledIndex | None,
        daemon_height: Callable[[], int | None],
        logger: logging.Logger,
        steps: BlockSteps | None = None,
        *,
        known_bytes: int = 0,
    ):
        """``compiled``: the Cython implementation, if that indexes the blocks.

        It keeps ``known_bytes`` of UTXOs that are on disk after a flush of everything.

        ``daemon_height`` returns the daemon's height, if known.  ``steps`` replaces
        :meth:`advance_txs` and :meth:`backup_txs`.
        """
        self.coin = coin
        self.logger = logger
        self.compiled = compiled
        self._db = db
        self._reorg_limit = reorg_limit
        self._strategy = strategy
        self._daemon_height = daemon_height
        self._steps = steps or self
        #: of UTXOs on disk that stay in memory, at most
        self.known_bytes = known_bytes

        #: every change of this state, or of the disk, holds it
        self.lock = asyncio.Lock()
        #: whether the index has caught up with the daemon's chain, and the database is open for serving
        self.caught_up = False
        # Whether to record the scripts that blocks touch, for clients
        self._tracks_touched = False

        # Of the block processed last.
        self.height = -1
        self.tip = bytes(HASH_LEN)
        self.tx_count = 0
        #: hashXs touched and not yet reported
        self.touched: set[bytes] = set()
        #: records of ``wire_rows``: the scripts that the blocks indexed last touched, if tracked
        self.records = b""
        self._new_records: list[bytes] = []
        #: the hash function for the scripts of the block in progress
        self._hashX_from_script: HashX = coin.hashX_from_script

        # Unflushed.  Only the pure-Python implementation undoes blocks.
        self.utxo_cache = UTXOCache(db.find_utxo_row)
        self.headers: list[bytes] = []
        self.block_tx_hashes: list[bytes] = []
        self.undo_infos: list[tuple[list[bytes], int]] = []
        #: memory that the undo items take
        self.undo_bytes = 0

    def read_committed(self) -> None:
        """Continue from the block that the database is at."""
        self.height = self._db.db_height
        self.tip = self._db.db_tip
        self.tx_count = self._db.db_tx_count

    def set_caught_up(self) -> None:
        """Note that the index has caught up with the chain."""
        self.caught_up = True
        self.track_touched()

    def track_touched(self) -> None:
        """Record the scripts that blocks touch from now on, for clients."""
        self._tracks_touched = True

    def take_touched(self) -> set[bytes]:
        """Return the hashXs touched since the last call."""
        touched, self.touched = self.touched, set()
        return touched

    # -- advancing

    def advance_blocks(self, blocks: Sequence[ParsedBlock]) -> None:
        """Index blocks that follow the tip, as the caller has checked.  Runs in a thread, lock held."""
        min_height = self._db.min_undo_height(self._daemon_height() or 0)
        height = self.height
        if self.compiled:
            self.compiled.prepare(cast("Sequence[FastBlock]", blocks))
        for block in blocks:
            height += 1
            try:
                undo_info = self._advance_block(block, height)
            except ChainError as e:
                raise self._unfit(height, e) from e
            if height >= min_height:
                self.undo_infos.append((undo_info, height))
                self.undo_bytes += sum(map(sys.getsizeof, undo_info))
                self._db.write_raw_block(block.raw, height)
            self.headers.append(block.header)
        self.height = height
        self.tip = self.coin.header_hash(blocks[-1].header)
        if self._tracks_touched:
            if self.compiled:
                self.records = self.compiled.new_records()
            else:
                self.records = b"".join(sorted(self._new_records))
            self.touched |= wire_rows.hashXs_of(self.records)
        self._new_records = []

    def _unfit(self, height: int, error: ChainError) -> UnfitBlockError:
        """Return the error for a block whose indexing failed, with the probable reasons."""
        activation = ""
        if self.coin.GENESIS_ACTIVATION < Coin.GENESIS_ACTIVATION:
            activation = (
                f", that the daemon's genesisactivationheight is {self.coin.GENESIS_ACTIVATION}"
            )
        return UnfitBlockError(
            f"{error}, at block {height:,d}: the daemon's chain and the database do not fit; check "
            f"COIN, NET and DAEMON_URL{activation}, and the database with electrumx_verify"
        )

    def _advance_block(self, block: ParsedBlock, height: int) -> list[bytes]:
        """Index a block; return its undo items."""
        if isinstance(block, Block):
            is_unspendable, self._hashX_from_script = self._db.output_rule(height)
            return self._steps.advance_txs(block.transactions, is_unspendable)
        assert self.compiled
        undo_info = self.compiled.advance(block, self.tx_count, height)
        self.block_tx_hashes.append(block.tx_hashes)
        self.tx_count += block.tx_count
        return [undo_info]

    def advance_txs(self, txs: Sequence[ParsedTx], is_unspendable: Unspendable) -> list[bytes]:
        """Index a block's transactions; return its undo items."""
        self.block_tx_hashes.append(b"".join([tx_hash for _tx, tx_hash in txs]))
        undo_info, hashXs_by_tx = self._strategy.advance(
            txs, self.tx_count, self.utxo_cache, self._hashX_from_script, is_unspendable
        )
        self._db.history.add_unflushed(hashXs_by_tx, self.tx_count)
        if self._tracks_touched:
            self._new_records += wire_rows.make_records(hashXs_by_tx, self.tx_count)
        self.tx_count += len(txs)
        return undo_info

    def step_of(self, blocks: Sequence[ParsedBlock]) -> Confirmed:
        """Return the step to the tip that the blocks indexed last made, before their flush.

        Runs in a thread; once caught up.
        """
        hashes = self.block_tx_hashes[-len(blocks) :]
        counts = [len(block_hashes) // HASH_LEN for block_hashes in hashes]
        first_tx_num = self.tx_count - sum(counts)
        ends = array("Q", accumulate(counts, initial=first_tx_num))[1:]
        tx_hashes = b"".join(hashes)
        first_height = self.height + 1 - len(blocks)
        return Confirmed(
            self.height,
            self.tip,
            tx_hashes,
            b"".join(map(spent_outpoints_of, blocks)),
            Addition(self.records, tx_hashes, first_tx_num, ends, first_height),
            blocks[-1].header,
            spend_counts=sum(map(spend_counts_of, blocks), array("I")),
        )

    # -- undoing

    def undo_and_flush(self, blocks: Sequence[Block]) -> None:
        """Undo blocks, the newest first, and commit.  Runs in a thread, lock held.

        Nothing may wait for a flush.
        """
        # All reads come before any change: an item may be missing.
        undo_infos = [self.read_undo_items(self.height - n) for n in range(len(blocks))]
        if self.compiled:
            # Whatever it knows of UTXOs may be of blocks that are undone.
            self.compiled.evict_written(0)
        touched: set[bytes] = set()
        for block, undo_info in zip(blocks, undo_infos, strict=True):
            touched |= self._undo_block(block, undo_info)
        self._db.flush_backup(self.flush_data(undoing=True), touched)
        self.touched |= touched

    def read_undo_items(self, height: int) -> list[bytes]:
        """Return the undo items of a committed block.  Raise UndoMissingError without them."""
        undo_info = self._db.read_undo_info(height)
        if undo_info is None:
            raise UndoMissingError(self._undo_missing_text(height))
        return split_items(undo_info)

    def _undo_missing_text(self, height: int) -> str:
        """Return why a block cannot be undone, and the remedy."""
        depth, limit = self.height - height + 1, self._reorg_limit
        if depth > limit:
            return (
                f"no undo information found for height {height:,d}: the reorganisation is deeper "
                f"than REORG_LIMIT ({limit:,d}); restore a backup of the database "
                "directory, or empty it to synchronise again with a higher REORG_LIMIT"
            )
        return (
            f"no undo information found for height {height:,d}: the reorganisation is "
            f"{depth:,d} blocks deep, and REORG_LIMIT was lower than that (it is {limit:,d} now) "
            "when these blocks were indexed; check that DAEMON_URL names the right node, then "
            "restore a backup of the database directory from before the fork, or empty it to "
            "synchronise again with the present REORG_LIMIT"
        )

    def _undo_block(self, block: Block, undo_info: list[bytes]) -> set[bytes]:
        block_hash = self.coin.header_hash(block.header)
        if block_hash != self.tip:
            raise ChainError(
                f"backup block {hash_to_hex_str(block_hash)} not tip "
                f"{hash_to_hex_str(self.tip)} at height {self.height:,d}"
            )
        is_unspendable = self._db.output_rule(self.height).is_unspendable
        touched = self._steps.backup_txs(block.transactions, undo_info, is_unspendable)
        self.tip = self.coin.header_prevhash(block.header)
        self.height -= 1
        self.logger.info(f"backed up to height {self.height:,d}")
        return touched

    def backup_txs(
        self, txs: Sequence[ParsedTx], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs touched."""
        touched = self._strategy.undo(txs, undo_info, self.utxo_cache, is_unspendable)
        self.tx_count -= len(txs)
        return touched

    # -- flushing

    def flush_data(self, undoing: bool = False) -> FlushData:
        """Return the unflushed data.  Lock held."""
        utxos = self.utxo_cache if undoing or not self.compiled else self.compiled
        return FlushData(
            self.height,
            self.tx_count,
            self.headers,
            self.block_tx_hashes,
            self.undo_infos,
            utxos.adds,
            utxos.deletes,
            self.tip,
            self.compiled,
        )

    def freeze(self, flush_utxos: bool, keep_bytes: int) -> FlushData:
        """Return the unflushed data as frozen batches, so that indexing can go on concurrently.

        ``flush_utxos``: whether UTXOs and undo items are among it; then UTXOs that are on disk
        already stay cached up to ``keep_bytes``.  Runs in a thread, lock held; only with the Cython
        implementation.
        """
        assert self.compiled
        flush_data = self.flush_data()
        self.headers, self.block_tx_hashes = [], []
        if flush_utxos:
            self.compiled.evict_written(keep_bytes)
            self.undo_infos, self.undo_bytes = [], 0
        else:
            flush_data.undo_infos = []
        self.compiled.freeze(flush_utxos)
        return flush_data

    def note_flushed(self) -> None:
        """Adjust to a flush that was not beside indexing.  Lock held."""
        if not self.undo_infos:
            self.undo_bytes = 0
            if self.compiled:
                self.compiled.keep_written(self.known_bytes)

    # -- UTXOs of recent blocks

    def _tx_count_below(self, height: int) -> int:
        """Return the number of transactions below a committed height."""
        return self._db.tx_counts[height - 1] if height else 0

    def note_recent(self, recent: RecentUTXOs, first: int, last: int) -> None:
        """Note the blocks of committed heights that are on disk, as far as they are intact.

        Where one is not, keep only those above it.
        """
        assert self.compiled
        for height in range(first, last + 1):
            try:
                block = self.compiled.parse(self._db.read_raw_block(height), height)
                header = self._db.files.read_headers(height, 1)
                first_tx_num = self._tx_count_below(height)
            except (OSError, DBError, DeserializeError, IndexError):
                # IndexError: a reorg undid it just now, and the result has no more use.
                recent.clear()
                continue
            if block.header != header:
                recent.clear()
                continue
            recent.note(block, first_tx_num, height, self.known_bytes)

    def adopt_recent(self, recent: RecentUTXOs) -> None:
        """Take over the UTXOs of the blocks up to the tip.  Lock held; nothing waits for a flush."""
        assert self.compiled
        self.compiled.adopt(recent)
        self.compiled.keep_written(self.known_bytes)
