"""Reads all of a database, and finds where its parts do not agree with each other.

Owns no data.  An :class:`Audit` reads a snapshot taken between two flushes, in one worker thread, in
time slices between which it rests and the stores may close; block processing may go on during it.
It knows no node: ``audit_node`` compares the database with the node, and ``verify`` runs both.

The checks
==========

* The state rows: tip, height, counts; both stores name the same flush.
* The flat files: long enough; transaction counts never fall; each header names its predecessor.
* UTXOs: each ``h`` row has its ``u`` row and the other way round.  That takes no look-ups: the
  audit reads both kinds in order, and the sums of a keyed hash over the fields of both must be
  equal.  Only if they are not, it searches for the unpaired rows.
* Histories: ascending, below the transaction count, no row of a flush above the flush count; each
  UTXO's transaction is in the history of its script.  Both kinds of rows are sorted by script, so
  the audit reads them side by side.
* Undo rows: each block from some height on has one, of whole items.
* *Deep*: the transaction hashes of each block give the merkle root in its header; each UTXO's
  key begins like the hash of its transaction; raw blocks spend as many UTXOs as their undo rows
  hold.
"""

import logging
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str
from electrumx.lib.merkle import Merkle
from electrumx.server.db import DB, DBError
from electrumx.server.db.raw_blocks import stored_block
from electrumx.server.storage.schema import (
    HASH_LEN,
    HIST_KEY_LEN,
    HIST_STATE_KEY,
    OUTPOINT_KEY_LEN,
    OUTPOINT_PREFIX,
    STATE_KEY,
    SUFFIX_LEN,
    TX_HASH_PREFIX_LEN,
    TXNUM_LEN,
    UNDO_ITEM_LEN,
    UNDO_PREFIX,
    UTXO_KEY_LEN,
    UTXO_PREFIX,
    VALUE_LEN,
    CommittedState,
    DBClosedError,
    HistState,
    hist_key_flush_id,
    undo_key_height,
    unpack_tx_nums,
)
from electrumx.server.storage.undo import overwritten_count, spend_count

#: findings of one kind reported one by one
MAX_REPORTED = 5
#: coins whose header names another root than that of the transaction ids
OTHER_ROOTS = frozenset({"Decred"})

_MERKLE_ROOT = slice(36, 68)


class AuditStopped(DBError):
    """``Audit.stop`` ended the audit, or the database closed or reopened."""

    def __init__(self) -> None:
        super().__init__("the audit was stopped; start it again")


@dataclass(slots=True)
class Totals:
    """Outputs and satoshis."""

    count: int = 0
    value: int = 0

    def add(self, value: int) -> None:
        """Count an output."""
        self.count += 1
        self.value += value


class Audit:
    """One pass over a database; everything but :meth:`stop` runs in a thread and blocks.

    ``rest`` is the seconds that it sleeps for each second of work.
    """

    SLICE_SECS = 0.02
    LOG_SECS = 10.0

    def __init__(self, db: DB, *, deep: bool, logger: logging.Logger, rest: float = 0.0):
        self.db = db
        self.deep = deep
        self.logger = logger
        self.rest = rest
        self.merkle = Merkle()
        self.findings: list[str] = []
        self.notes: list[str] = []
        #: the node's count differs by outputs that only a deep audit can find
        self.undecided = False
        self._found: dict[str, int] = {}
        self._stopped = threading.Event()
        #: whether a slice is under way, and the gate's generation at the snapshot
        self._inside = False
        self._generation = -1
        self._slice_end = self._next_log = 0.0
        #: all UTXOs, those of the genesis block, and those whose outpoint a later UTXO has too, as
        #: other servers' databases may have of duplicate coinbases
        self.utxos, self.genesis, self.duplicates = Totals(), Totals(), Totals()
        self._outpoint_rows = self._outpoint_sum = self._script_sum = 0
        self._entries = 0

    def stop(self) -> None:
        """Make the audit end soon, with AuditStopped."""
        self._stopped.set()

    def take_snapshot(self) -> None:
        """Take a snapshot of the stores, between two flushes."""
        db = self.db
        with db.gate.reading():
            self._generation = db.gate.generation
            self._check_open()
            assert db.utxo_db
            assert db.history.db
            self.state = CommittedState.parse(db.utxo_db.get(STATE_KEY) or b"")
            self.hist_state = HistState.parse(db.history.db.get(HIST_STATE_KEY) or b"")
            self.tx_counts: array[int] = db.tx_counts[: self.state.height + 1]
            self.backups = db.backup_count
            self._outpoints = db.utxo_db.iterator(prefix=OUTPOINT_PREFIX)
            self._utxos = db.utxo_db.iterator(prefix=UTXO_PREFIX)
            self._undo_rows = db.utxo_db.iterator(prefix=UNDO_PREFIX)
            self._hist_rows = db.history.db.iterator()

    def drop_snapshot(self) -> None:
        """Release the snapshot of the engines."""
        nothing: Iterator[tuple[bytes, bytes]] = iter(())
        self._outpoints = self._utxos = self._undo_rows = self._hist_rows = nothing

    def run(self) -> None:
        """Make all checks that need no node."""
        try:
            self._enter()
            self._check_state()
            self._check_files()
            self._check_headers()
            self._check_outpoints()
            self._check_scripts()
            self._check_pairs()
            self._check_undo()
            if self.deep:
                self._check_merkle_roots()
        finally:
            self.drop_snapshot()
            self._leave()

    def _enter(self) -> None:
        """Begin a slice.  Raise AuditStopped if the stores are not those of the snapshot."""
        try:
            self.db.gate.enter()
        except DBClosedError as e:
            raise AuditStopped from e
        self._inside = True
        self._check_open()
        self._begin_slice()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self.db.gate.leave()

    # -- time slices and findings

    def _check_open(self) -> None:
        # Reopening a store closes its iterators.
        if self._stopped.is_set() or self.db.gate.generation != self._generation:
            raise AuditStopped

    def _begin_slice(self) -> None:
        self._slice_end = time.monotonic() + self.SLICE_SECS

    def _tick(self, what: str, fraction: float) -> None:
        """End the slice if it is long enough; the stores may close then."""
        now = time.monotonic()
        if now < self._slice_end:
            return
        if now >= self._next_log:
            if self._next_log:
                self.logger.info(f"verify: {what}, {100 * fraction:.1f}% done")
            self._next_log = now + self.LOG_SECS
        self._leave()
        self._stopped.wait(self.SLICE_SECS * self.rest)
        self._enter()

    def _find(self, kind: str, detail: str) -> None:
        """Note a fault; report only a few of a kind one by one."""
        count = self._found[kind] = self._found.get(kind, 0) + 1
        if count <= MAX_REPORTED:
            self.findings.append(f"{kind}: {detail}")

    def fault_lines(self) -> list[str]:
        """Return all faults as lines."""
        more = [
            f"{kind}: {count - MAX_REPORTED:,d} more"
            for kind, count in self._found.items()
            if count > MAX_REPORTED
        ]
        return self.findings + more

    # -- counts and files

    def _check_state(self) -> None:
        state, hist = self.state, self.hist_state
        if state.genesis != self.db.coin.GENESIS_HASH:
            self._find("state", f"the genesis hash {state.genesis} is not the coin's")
        if state.utxo_flush_count != hist.flush_count:
            self._find(
                "state",
                f"the UTXOs have seen {state.utxo_flush_count:,d} history flushes of "
                f"{hist.flush_count:,d}",
            )
        counts = self.tx_counts
        if len(counts) != state.height + 1:
            self._find("txcounts", f"{len(counts):,d} records at height {state.height:,d}")
        elif counts and counts[-1] != state.tx_count:
            self._find("txcounts", f"the last is {counts[-1]:,d}, not {state.tx_count:,d}")

    def _check_files(self) -> None:
        state = self.state
        try:
            self.db.files.check_lengths(state.height, state.tx_count)
            raw = self.db.files.read_tx_counts(state.height + 1)
        except DBError as e:
            self._find("files", str(e))
            return
        on_disk = [int.from_bytes(raw[n : n + 8], "little") for n in range(0, len(raw), 8)]
        before = 0
        for height, count in enumerate(on_disk):
            if count < before or (count == before and height):
                self._find("txcounts", f"{before:,d} is followed by {count:,d} at {height:,d}")
            before = count
        if on_disk != self.tx_counts.tolist():
            self._find("txcounts", "the file is not what the server has in memory")

    def _check_headers(self) -> None:
        """Check that each header names the one before; the last one is the tip."""
        coin, top = self.db.coin, self.state.height
        before = bytes(HASH_LEN)
        for first in range(0, top + 1, 500):
            try:
                headers = self.headers(first, min(500, top + 1 - first))
            except DBError as e:
                self._find("headers", str(e))
                return
            for height, header in enumerate(headers, first):
                try:
                    prev_hash, this_hash = coin.header_prevhash(header), coin.header_hash(header)
                except Exception as e:  # 3rd-party hash functions raise what they like
                    self._find("headers", f"{height:,d} is none: {e!r}")
                    return
                if height and prev_hash != before:
                    self._find("headers", f"{height:,d} does not follow on {height - 1:,d}")
                if not height and hash_to_hex_str(this_hash) != coin.GENESIS_HASH:
                    self._find("headers", "the first is not that of the genesis block")
                before = this_hash
                self._tick("headers", height / (top + 1))
        if before != self.state.tip:
            self._find("headers", f"the last is not of the tip {hash_to_hex_str(self.state.tip)}")

    def headers(self, first: int, count: int) -> list[bytes]:
        """Return headers as they are on disk.  Raise DBError if they are not there."""
        files = self.db.files
        return files.split_headers(first, files.read_headers(first, count))

    # -- UTXOs and histories

    def _check_outpoints(self) -> None:
        """Read the ``h`` rows."""
        # Rows of outputs with the same index in transactions whose hashes begin alike.
        alike: list[tuple[bytes, bytes]] = []
        part: list[bytes] = []
        tx_count = self.state.tx_count
        for key, hashX in self._outpoints:
            if len(key) != OUTPOINT_KEY_LEN or len(hashX) != HASHX_LEN:
                self._find("outpoint rows", f"{key.hex()} has a wrong length")
                continue
            self._outpoint_rows += 1
            self._outpoint_sum += hash(hashX + key[-SUFFIX_LEN:])
            if int.from_bytes(key[-TXNUM_LEN:], "little") >= tx_count:
                self._find("outpoint rows", f"{key.hex()} is of no transaction")
                continue
            if alike and alike[0][0][:-TXNUM_LEN] != key[:-TXNUM_LEN]:
                self._count_duplicates(alike)
                alike = []
            alike.append((key, hashX))
            if self.deep:
                part.append(key)
                if len(part) == 1000:
                    self._check_prefixes(part)
                    part = []
            self._tick("UTXOs by outpoint", int.from_bytes(key[1:3], "big") / 65536)
        self._count_duplicates(alike)
        self._check_prefixes(part)

    def _tx_hashes(self, tx_nums: Sequence[int]) -> list[bytes]:
        return self.db.files.tx_hashes(tx_nums)

    def _check_prefixes(self, keys: list[bytes]) -> None:
        keys.sort(key=lambda key: int.from_bytes(key[-TXNUM_LEN:], "little"))
        tx_nums = [int.from_bytes(key[-TXNUM_LEN:], "little") for key in keys]
        for key, tx_hash in zip(keys, self._tx_hashes(tx_nums), strict=True):
            if tx_hash[:TX_HASH_PREFIX_LEN] != key[1 : 1 + TX_HASH_PREFIX_LEN]:
                self._find("outpoint rows", f"{key.hex()} is not of that transaction's hash")

    def _count_duplicates(self, rows: list[tuple[bytes, bytes]]) -> None:
        if len(rows) < 2:
            return
        nums = [int.from_bytes(key[-TXNUM_LEN:], "little") for key, _hashX in rows]
        in_order = sorted(zip(nums, rows, strict=True), reverse=True)
        seen = set()
        for tx_num, (key, hashX) in in_order:
            [tx_hash] = self._tx_hashes([tx_num])
            if tx_hash in seen:
                assert self.db.utxo_db
                value = self.db.utxo_db.get(UTXO_PREFIX + hashX + key[-SUFFIX_LEN:]) or b""
                self.duplicates.add(int.from_bytes(value, "little"))
            seen.add(tx_hash)

    def _check_scripts(self) -> None:
        """Read the ``u`` rows and the histories, both sorted by script, side by side."""
        hist_rows = self._histories()
        history = next(hist_rows, None)
        in_genesis = self.tx_counts[0] if self.tx_counts else 0
        for hashX, tx_nums, value in self._utxos_of_scripts(in_genesis):
            while history is not None and history[0] < hashX:
                history = next(hist_rows, None)
            while history is not None and history[0] == hashX:
                tx_nums.difference_update(history[1])
                history = next(hist_rows, None)
            self.utxos.value += value
            for tx_num in sorted(tx_nums)[:MAX_REPORTED]:
                self._find(
                    "history",
                    f"script {hashX.hex()} has a UTXO of transaction {tx_num:,d}, which it lacks",
                )
        for _row in hist_rows:
            pass

    def _utxos_of_scripts(self, in_genesis: int) -> Iterator[tuple[bytes, set[int], int]]:
        """Yield (hashX, tx numbers, sum) of the UTXOs of each script."""
        current, tx_nums, total = b"", set[int](), 0
        for key, raw in self._utxos:
            if len(key) != UTXO_KEY_LEN or len(raw) != VALUE_LEN:
                self._find("script rows", f"{key.hex()} has a wrong length")
                continue
            hashX = key[1 : 1 + HASHX_LEN]
            if hashX != current:
                if tx_nums:
                    yield current, tx_nums, total
                current, tx_nums, total = hashX, set(), 0
            tx_num = int.from_bytes(key[-TXNUM_LEN:], "little")
            value = int.from_bytes(raw, "little")
            self.utxos.count += 1
            self._script_sum += hash(key[1:])
            if tx_num < in_genesis:
                self.genesis.add(value)
            tx_nums.add(tx_num)
            total += value
            self._tick("UTXOs by script and histories", int.from_bytes(key[1:3], "big") / 65536)
        if tx_nums:
            yield current, tx_nums, total

    def _histories(self) -> Iterator[tuple[bytes, list[int]]]:
        """Yield (hashX, tx numbers) of each row, having checked it."""
        current, before = b"", -1
        limit, flush_count = self.state.tx_count, self.hist_state.flush_count
        for key, row in self._hist_rows:
            if len(key) != HIST_KEY_LEN:
                continue  # the state row, and rows of other programs
            hashX = key[:HASHX_LEN]
            if hashX != current:
                current, before = hashX, -1
            if hist_key_flush_id(key) > flush_count:
                self._find("history", f"row {key.hex()} is of a flush that was not made")
            if not row or len(row) % TXNUM_LEN:
                self._find("history", f"row {key.hex()} has {len(row):,d} bytes")
            tx_nums = unpack_tx_nums(row[: len(row) - len(row) % TXNUM_LEN])
            for tx_num in tx_nums:
                if tx_num <= before:
                    self._find("history", f"row {key.hex()}: {tx_num:,d} comes after {before:,d}")
                before = tx_num
            if before >= limit:
                self._find("history", f"row {key.hex()} names transaction {before:,d}")
            self._entries += len(tx_nums)
            yield hashX, tx_nums
            self._tick("histories", int.from_bytes(key[:2], "big") / 65536)

    def _check_pairs(self) -> None:
        if (self._outpoint_rows, self._outpoint_sum) == (self.utxos.count, self._script_sum):
            return
        self._find(
            "UTXOs",
            f"{self._outpoint_rows:,d} rows by outpoint and {self.utxos.count:,d} by script do "
            "not pair",
        )
        if self.db.state.tip == self.state.tip:
            self._name_odd_rows()

    def _name_odd_rows(self) -> None:
        """Find which rows lack the other, in the stores as they are now."""
        store = self.db.utxo_db
        assert store
        for key, hashX in store.iterator(prefix=OUTPOINT_PREFIX):
            if store.get(UTXO_PREFIX + hashX + key[-SUFFIX_LEN:]) is None:
                self._find("UTXOs", f"outpoint row {key.hex()} lacks its script row")
            self._tick("odd outpoint rows", int.from_bytes(key[1:3], "big") / 65536)
        for key, _value in store.iterator(prefix=UTXO_PREFIX):
            [tx_hash] = self._tx_hashes([int.from_bytes(key[-TXNUM_LEN:], "little")])
            outpoint = OUTPOINT_PREFIX + tx_hash[:TX_HASH_PREFIX_LEN] + key[-SUFFIX_LEN:]
            if store.get(outpoint) != key[1 : 1 + HASHX_LEN]:
                self._find("UTXOs", f"script row {key.hex()} lacks its outpoint row")
            self._tick("odd script rows", int.from_bytes(key[1:3], "big") / 65536)

    # -- undo rows and blocks

    def _check_undo(self) -> None:
        heights = []
        for key, items in self._undo_rows:
            height = undo_key_height(key)
            if height > self.state.height:
                continue  # left by blocks that were undone
            heights.append(height)
            if len(items) % UNDO_ITEM_LEN:
                self._find("undo rows", f"height {height:,d} has {len(items):,d} bytes")
            elif self.deep:
                self._check_undone(height, len(items) // UNDO_ITEM_LEN)
            self._tick("undo rows", 0.0)
        limit = self.db.min_undo_height(self.state.height)
        window = [height for height in heights if height >= limit]
        if self.state.first_sync:
            return
        if window != list(range(self.state.height - len(window) + 1, self.state.height + 1)):
            self._find("undo rows", f"some between {limit:,d} and {self.state.height:,d} lack")
        elif len(window) < min(self.db.env.reorg_limit, self.state.height):
            self.notes.append(
                f"undo rows: only the last {len(window):,d} blocks can be reorganised"
            )

    def _check_undone(self, height: int, items: int) -> None:
        """Compare the number of undo items with the spends of the raw block, if it is there."""
        try:
            [header] = self.headers(height, 1)
        except (OSError, DBError):
            return
        coin = self.db.coin
        block_hash = coin.header_hash(header)
        block = stored_block(coin, self.db.files.read_raw_block, height, block_hash)
        # The server fetches a missing one from the daemon when it needs it.
        if block is not None:
            is_unspendable = self.db.output_rule(height).is_unspendable
            if overwritten_count(items, block.transactions, is_unspendable) is None:
                spent = spend_count(block.transactions)
                self._find("undo rows", f"height {height:,d} has {items:,d} items for {spent:,d}")

    def _check_merkle_roots(self) -> None:
        coin, counts = self.db.coin, self.tx_counts
        if coin.NAME in OTHER_ROOTS or self._found.keys() & {"txcounts", "files", "headers"}:
            return
        first = 0
        for height, end in enumerate(counts):
            raw = self.db.files.read_tx_hashes(first, end - first)
            hashes = [raw[n : n + HASH_LEN] for n in range(0, len(raw), HASH_LEN)]
            if hashes and self.merkle.root(hashes) != self.headers(height, 1)[0][_MERKLE_ROOT]:
                self._find("hashes", f"those of block {height:,d} do not give its merkle root")
            first = end
            self._tick("transaction hashes", height / len(counts))

    def summary(self) -> str:
        """Return the audited numbers as a line."""
        amount = self.db.coin.decimal_value(self.utxos.value)
        return (
            f"height {self.state.height:,d}, {self.state.tx_count:,d} transactions, "
            f"{self.utxos.count:,d} UTXOs of {amount:,f} {self.db.coin.SHORTNAME}, "
            f"{self._entries:,d} history entries"
        )
