"""The data to undo the last ``reorg_limit`` blocks.

Undo rows in the ``utxo`` store and raw blocks in ``meta/``.  Owns which heights have them: writing a
block or flushing deletes those that fall out of the window, and opening those that another server
left.  Runs in: the thread that writes, but for :meth:`RecentBlocks.undo_info` and
:meth:`RecentBlocks.raw_block`, which any thread may call while it holds off closing.
"""

from logging import Logger

from electrumx.server.db.flat_files import FlatFiles
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage, WriteBatch
from electrumx.server.storage.damage import DamageLog
from electrumx.server.storage.schema import UNDO_ITEM_LEN, UNDO_PREFIX, undo_key, undo_key_height


class RecentBlocks:
    """The window of blocks that can be undone."""

    def __init__(
        self, files: FlatFiles, reorg_limit: int, damage_log: DamageLog, logger: Logger
    ) -> None:
        self._files = files
        self._reorg_limit = reorg_limit
        self._damage_log = damage_log
        self._logger = logger
        #: there are no undo rows below this height
        self._floor = 0

    def lowest_height(self, tip_height: int) -> int:
        """Return the lowest height that keeps undo rows; it may be negative."""
        return tip_height - self._reorg_limit + 1

    def undo_info(self, utxo_db: Storage, height: int) -> bytes | None:
        """Return a block's undo items, joined, or None if they are missing.

        Raise DBDamagedError if they are not whole.
        """
        key = undo_key(height)
        undo_info = utxo_db.get(key)
        if undo_info is not None and len(undo_info) % UNDO_ITEM_LEN:
            raise self._damage_log.error(
                f"undo row {key.hex()} of the utxo store, of height {height:,d}, has "
                f"{len(undo_info):,d} bytes"
            )
        return undo_info

    def prune_undo_rows(self, batch: WriteBatch, tip_height: int) -> None:
        """Delete the undo rows that fall out of the window at a new height."""
        floor = self.lowest_height(tip_height)
        for height in range(self._floor, floor):
            batch.delete(undo_key(height))
        self._floor = max(floor, self._floor)

    def delete_stale(self, utxo_db: Storage, tip_height: int) -> None:
        """Delete undo rows and raw blocks below the window, as another server may leave them."""
        floor = self.lowest_height(tip_height)
        keys = []
        for key, _items in utxo_db.iterator(prefix=UNDO_PREFIX):
            if undo_key_height(key) >= floor:
                break
            keys.append(key)
        if keys:
            with utxo_db.write_batch() as batch:
                for key in keys:
                    batch.delete(key)
            fault_point("open: undo rows pruned")
            self._logger.info(f"deleted {len(keys):,d} stale undo entries")
        self._floor = max(0, floor)
        stale = [height for height in self._files.raw_block_heights() if height < floor]
        if stale:
            self._files.delete_raw_blocks(stale)
            self._logger.info(f"deleted {len(stale):,d} stale block files")

    def raw_block(self, height: int) -> bytes:
        """Return a raw block; FileNotFoundError if it is missing."""
        return self._files.read_raw_block(height)

    def write_raw_block(self, block: bytes, height: int) -> None:
        """Keep a raw block, and delete the one that falls out of the window."""
        self._files.write_raw_block(block, height)
        fault_point("raw block: written")
        self._files.delete_raw_blocks([height - self._reorg_limit])
        fault_point("raw block: old one deleted")
