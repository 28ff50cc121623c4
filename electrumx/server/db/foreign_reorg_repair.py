"""Restores history that another server removed in a reorganisation that it did not finish.

Runs in: the worker thread that opens the database, before it deletes orphaned history rows.

ElectrumX 1.15 and the e-x versions up to 1.20 undo blocks by removing the history first and
committing the UTXOs second.  Killed in between, they leave the UTXOs at the old tip without the
history of the blocks that they were undoing; if the daemon is back on its old branch by then,
nothing undoes those blocks any more, and the entries are lost.  (Our own order of writes has no
such instant: see ``flusher``.)

Such a database has a history count that is one above the count in the ``utxo`` store, and no row
with that id.  An interrupted flush of blocks that touched no script looks the same; then nothing is
missing and nothing changes.  The repair computes the scripts that the top blocks touched again, from
the raw blocks and the undo information, and appends missing entries to each script's last row:
for 50 heights at most, the number that those servers undo at once, and for none without undo
information, without which they could not have undone it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from logging import Logger

from electrumx.lib.coins import Block, Coin
from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str
from electrumx.lib.tx import MINUS_1, ZERO
from electrumx.server.db.flat_files import COUNT_LEN, FlatFiles
from electrumx.server.db.raw_blocks import checked_block, stored_block
from electrumx.server.history.store import History
from electrumx.server.storage.base import Storage
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    HIST_STATE_KEY,
    UNDO_ITEM_LEN,
    VALUE_LEN,
    CommittedState,
    DBError,
    hist_key,
    hist_key_flush_id,
    pack_tx_num,
    undo_key,
    unpack_tx_nums,
)
from electrumx.server.storage.undo import overwritten_count

#: blocks that the other servers undo between two commits
MAX_UNDONE = 50

#: display hex of block hashes -> raw blocks, from the daemon
FetchBlocks = Callable[[list[str]], Sequence[bytes]]


def looks_cut(history: History, utxo_flush_count: int) -> bool:
    """Return whether an open history may lack entries.

    Reads all keys where the counts allow it, unless the last flush was our own.
    """
    if history.flush_count != utxo_flush_count + 1 or history.has_noted_since(utxo_flush_count):
        return False
    assert history.db
    return not any(
        len(key) == HIST_KEY_LEN and hist_key_flush_id(key) > utxo_flush_count
        for key, _row in history.db.iterator()
    )


class CutHistory:
    """The top of a database that another server may have left with its history cut."""

    def __init__(
        self,
        coin: type[Coin],
        state: CommittedState,
        files: FlatFiles,
        utxo_db: Storage,
        history: History,
        fetch_blocks: FetchBlocks | None,
        logger: Logger,
    ):
        self.coin = coin
        self.state = state
        self.files = files
        self.utxo_db = utxo_db
        self.history = history
        self.fetch_blocks = fetch_blocks
        self.logger = logger

    def restore(self) -> None:
        """Append the missing entries, and set the history count to the other one, in one batch."""
        heights = self._undoable_heights()
        self.logger.warning(
            "the history may have been cut by another server's interrupted reorganisation: "
            f"checking the last {len(heights):,d} blocks"
        )
        first_tx_num = self._tx_count(heights[0] - 1) if heights else self.state.tx_count
        rows, count = {}, 0
        for hashX, tx_nums in self._expected(heights).items():
            missing = set(tx_nums) - self._present(hashX, first_tx_num)
            if missing:
                key = hist_key(hashX, self.state.utxo_flush_count)
                assert self.history.db
                kept = unpack_tx_nums(self.history.db.get(key) or b"")
                rows[key] = b"".join(map(pack_tx_num, sorted({*kept, *missing})))
                count += len(missing)
        self._write(rows)
        self.logger.info(f"restored {count:,d} history entries")

    def _write(self, rows: dict[bytes, bytes]) -> None:
        history = self.history
        assert history.db
        history.flush_count = self.state.utxo_flush_count
        with history.db.write_batch() as batch:
            for key, row in rows.items():
                batch.put(key, row)
            batch.put(HIST_STATE_KEY, history.state.pack())

    def _undoable_heights(self) -> list[int]:
        """Return the newest heights, ascending, that could have been undone."""
        top = self.state.height
        heights: list[int] = []
        for height in range(top, max(0, top - MAX_UNDONE), -1):
            if self.utxo_db.get(undo_key(height)) is None:
                break
            heights.insert(0, height)
        return heights

    def _tx_count(self, height: int) -> int:
        raw = self.files.tx_counts.read(height * COUNT_LEN, COUNT_LEN)
        return int.from_bytes(raw, "little")

    def _present(self, hashX: bytes, first_tx_num: int) -> set[int]:
        """Return the entries of a script from a transaction on."""
        assert self.history.db
        present: set[int] = set()
        for _key, row in self.history.db.iterator(prefix=hashX, reverse=True):
            tx_nums = unpack_tx_nums(row)
            present.update(tx_nums)
            if tx_nums and tx_nums[0] < first_tx_num:
                break
        return present

    # -- what the blocks touched

    def _expected(self, heights: list[int]) -> dict[bytes, list[int]]:
        """Return each script's transactions in the blocks of consecutive heights."""
        expected: defaultdict[bytes, list[int]] = defaultdict(list)
        blocks = self._blocks(heights)
        for height, block in zip(reversed(heights), reversed(blocks), strict=True):
            hashXs_by_tx = self._hashXs_by_tx(height, block)
            if hashXs_by_tx is None:
                break
            for tx_num, hashXs in enumerate(hashXs_by_tx, start=self._tx_count(height - 1)):
                for hashX in hashXs:
                    expected[hashX].append(tx_num)
        return expected

    def _hashXs_by_tx(self, height: int, block: Block) -> list[set[bytes]] | None:
        """Return the scripts each transaction touched; None if the undo row is of another block.

        Rows of an abandoned branch stay until the next write of their height, and a server that was
        far behind does not write them.
        """
        undo_info = self.utxo_db.get(undo_key(height)) or b""
        rule = self.coin.output_rule(height, self.state.tokens_from or 0)
        items = len(undo_info) // UNDO_ITEM_LEN
        overwritten = overwritten_count(items, block.transactions, rule.is_unspendable)
        if overwritten is None:
            return None
        spent = iter(range(overwritten * UNDO_ITEM_LEN, len(undo_info), UNDO_ITEM_LEN))
        name_hashX = getattr(self.coin, "name_hashX_from_script", None)
        result = []
        for tx, _tx_hash in block.transactions:
            hashXs: set[bytes] = set()
            for txin in tx.inputs:
                if txin.prev_idx == MINUS_1 and txin.prev_hash == ZERO:
                    continue
                start = next(spent, len(undo_info))
                item = undo_info[start : start + UNDO_ITEM_LEN]
                if not self._is_output_of(item, txin.prev_hash):
                    return None
                hashXs.add(item[:HASHX_LEN])
            for txout in tx.outputs:
                if rule.is_unspendable(txout.pk_script):
                    continue
                hashXs.add(rule.hashX_from_script(txout.pk_script))
                of_name = name_hashX(txout.pk_script) if name_hashX else None
                if of_name:
                    hashXs.add(of_name)
            result.append(hashXs)
        return result if next(spent, None) is None else None

    def _is_output_of(self, item: bytes, tx_hash: bytes) -> bool:
        if len(item) != UNDO_ITEM_LEN:
            return False
        tx_num = int.from_bytes(item[HASHX_LEN:-VALUE_LEN], "little")
        return self.files.tx_hashes([tx_num]) == [tx_hash]

    # -- blocks

    def _blocks(self, heights: list[int]) -> list[Block]:
        """Return the blocks of these heights, from disk or, for a damaged one, the daemon."""
        coin, read_raw = self.coin, self.files.read_raw_block
        hashes = {h: coin.header_hash(self.files.read_headers(h, 1)) for h in heights}
        found = {h: stored_block(coin, read_raw, h, hashes[h]) for h in heights}
        missing = [height for height, block in found.items() if block is None]
        if missing:
            raws = self._fetched([hash_to_hex_str(hashes[height]) for height in missing])
            for height, raw in zip(missing, raws, strict=True):
                found[height] = checked_block(coin, raw, height, hashes[height])
                if found[height] is None:
                    raise DBError(f"the daemon sent another block than that of height {height:,d}")
        return [block for block in found.values() if block is not None]

    def _fetched(self, hex_hashes: list[str]) -> Sequence[bytes]:
        if self.fetch_blocks is None:
            raise DBError(
                "another server was interrupted while it reorganised the database, and blocks "
                "that are needed to repair it are missing: start the server once, with its node"
            )
        return self.fetch_blocks(hex_hashes)
