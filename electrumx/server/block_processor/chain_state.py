"""What the blocks processed so far changed, and is not on disk yet.

Owns the height, tip and transaction count of the block last *processed*, its coins, undo
information, headers and transaction hashes until they are flushed, and the steps that change all
of it: a block is indexed on top of the tip, or undone from it.  What a transaction changes is told
by ``indexer``, or by the compiled form of it (``compiled_indexer``); rows are ``db``'s matter.

Runs in: a worker thread, one at a time, with ``state_lock`` held; the event loop looks at the
outcome.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Union, cast

from electrumx.lib.coins import Block, Coin
from electrumx.lib.errors import OperatorError
from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.compiled_indexer import CompiledIndex
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.indexer import HashX, ParsedTx, Unspendable
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import wire_rows
from electrumx.server.db.flusher import DB, FlushData
from electrumx.server.env import Env

if TYPE_CHECKING:
    from electrumx.server.block_processor._fastblock import FastBlock

#: a block as the readable or the compiled form parses it
ParsedBlock = Union[Block, "FastBlock"]


class UndoMissingError(ChainError, OperatorError):
    """A reorganisation is deeper than the undo information that is kept."""


class UnfitBlockError(ChainError, OperatorError):
    """A block of the daemon, and the database, do not fit each other."""


class Unflushed:
    """The state of the index at the block last processed, as far as it is in memory."""

    def __init__(self, logger: logging.Logger, env: Env, db: DB, daemon: Daemon):
        self.logger = logger
        self.env = env
        self.db = db
        self.daemon = daemon
        self.coin = env.coin

        #: held while in-memory state is being changed
        self.state_lock = asyncio.Lock()
        self._caught_up_event = asyncio.Event()

        # Of the block last processed.
        self.height = -1
        self.tip = bytes(32)
        self.tx_count = 0
        #: hashXs changed since subscribers were last told
        self.touched: set[bytes] = set()
        #: what the blocks last advanced touched, once caught up: records of ``wire_rows``
        self.records = b""
        self._new_records: list[bytes] = []

        # Unflushed.  Backing up always uses the readable form.
        self.utxo_cache = UTXOCache(db.lookup_coin)
        #: the compiled form of indexing, if that is used
        self.compiled: CompiledIndex | None = None
        self.headers: list[bytes] = []
        self.block_tx_hashes: list[bytes] = []
        self.undo_infos: list[tuple[list[bytes], int]] = []
        self._undo_bytes = 0

    @property
    def caught_up(self) -> bool:
        """True once the node's chain was caught up with, and the database is open for serving."""
        return self._caught_up_event.is_set()

    # -- advancing

    def advance_blocks(self, blocks: Sequence[ParsedBlock]) -> None:
        """Index blocks that are known to follow on the tip.  Runs in a thread, lock held."""
        min_height = self.db.min_undo_height(self.daemon.cached_height() or 0)
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
                self._undo_bytes += sum(map(sys.getsizeof, undo_info))
                self.db.write_raw_block(block.raw, height)
            self.headers.append(block.header)
        self.height = height
        self.tip = self.coin.header_hash(blocks[-1].header)
        if self._caught_up_event.is_set():
            if self.compiled:
                self.records = self.compiled.new_records()
            else:
                self.records = b"".join(sorted(self._new_records))
            self.touched |= wire_rows.hashXs_of(self.records)
        self._new_records = []

    def _unfit(self, height: int, error: ChainError) -> UnfitBlockError:
        """Return the error for a block that cannot be indexed, with what may be the matter."""
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
            return self.advance_txs(block.transactions, *self.db.output_rule(height))
        assert self.compiled
        undo_info = self.compiled.advance(block, self.tx_count, height)
        self.block_tx_hashes.append(block.tx_hashes)
        self.tx_count += block.tx_count
        return [undo_info]

    #: how a block's transactions change the coins; coins with another order replace both
    _advance: Callable[..., tuple[list[bytes], list[set[bytes]]]] = staticmethod(
        indexer.advance_txs
    )
    _backup: Callable[..., set[bytes]] = staticmethod(indexer.backup_txs)

    def advance_txs(
        self,
        txs: Sequence[ParsedTx],
        is_unspendable: Unspendable,
        hashX_from_script: HashX | None = None,
    ) -> list[bytes]:
        """Index a block's transactions; return its undo items.

        Without ``hashX_from_script``, the coin's.
        """
        self.block_tx_hashes.append(b"".join([tx_hash for _tx, tx_hash in txs]))
        undo_info, hashXs_by_tx = self._advance(
            txs,
            self.tx_count,
            self.utxo_cache,
            hashX_from_script or self.coin.hashX_from_script,
            is_unspendable,
        )
        self.db.history.add_unflushed(hashXs_by_tx, self.tx_count)
        if self._caught_up_event.is_set():
            self._new_records += wire_rows.make_records(hashXs_by_tx, self.tx_count)
        self.tx_count += len(txs)
        return undo_info

    def spend_utxo(self, tx_hash: bytes, tx_idx: int) -> bytes:
        """Remove an unspent output; return its hashX, tx number (LE5) and value (LE8).

        For coins that index transactions in their own way.  Raise ChainError if there is none such.
        """
        return self.utxo_cache.spend(tx_hash, tx_idx)

    # -- backing up

    def _backup_and_flush(self, blocks: Sequence[Block]) -> None:
        """Undo blocks, the newest first, and commit.  Runs in a thread, lock held."""
        # All that can be missing is looked at before anything is changed.
        undo_infos = [self._undo_info(self.height - n) for n in range(len(blocks))]
        touched: set[bytes] = set()
        for block, undo_info in zip(blocks, undo_infos, strict=True):
            touched |= self._backup_block(block, undo_info)
        self.db.flush_backup(self.flush_data(backing_up=True), touched)
        self.touched |= touched

    def _undo_info(self, height: int) -> list[bytes]:
        undo_info = self.db.read_undo_info(height)
        if undo_info is None:
            raise UndoMissingError(self._undo_missing_text(height))
        return indexer.split_undo(undo_info)

    def _undo_missing_text(self, height: int) -> str:
        """Return why a block cannot be undone, and what to do."""
        depth, limit = self.height - height + 1, self.env.reorg_limit
        if depth > limit:
            return (
                f"no undo information found for height {height:,d}: the reorganisation is deeper "
                f"than REORG_LIMIT ({limit:,d}); restore a backup of the database "
                "directory, or empty it to synchronise anew with a higher REORG_LIMIT"
            )
        return (
            f"no undo information found for height {height:,d}: the reorganisation is "
            f"{depth:,d} blocks deep, and REORG_LIMIT was lower than that (it is {limit:,d} now) "
            "when these blocks were indexed; check that DAEMON_URL names the right node, then "
            "restore a backup of the database directory from before the fork, or empty it to "
            "synchronise again with the present REORG_LIMIT"
        )

    def _backup_block(self, block: Block, undo_info: list[bytes]) -> set[bytes]:
        block_hash = self.coin.header_hash(block.header)
        if block_hash != self.tip:
            raise ChainError(
                f"backup block {hash_to_hex_str(block_hash)} not tip "
                f"{hash_to_hex_str(self.tip)} at height {self.height:,d}"
            )
        is_unspendable = self.db.output_rule(self.height).is_unspendable
        touched = self.backup_txs(block.transactions, undo_info, is_unspendable)
        self.tip = self.coin.header_prevhash(block.header)
        self.height -= 1
        self.logger.info(f"backed up to height {self.height:,d}")
        return touched

    def backup_txs(
        self, txs: Sequence[ParsedTx], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs met."""
        touched = self._backup(txs, undo_info, self.utxo_cache, is_unspendable)
        self.tx_count -= len(txs)
        return touched

    # -- flushing

    def flush_data(self, backing_up: bool = False) -> FlushData:
        """Return what waits to be flushed.  Only with the state lock held."""
        coins = self.utxo_cache if backing_up or not self.compiled else self.compiled
        return FlushData(
            self.height,
            self.tx_count,
            self.headers,
            self.block_tx_hashes,
            self.undo_infos,
            coins.adds,
            coins.deletes,
            self.tip,
        )
