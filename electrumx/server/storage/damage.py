"""Names the damaged row of the database after a read found one that is invalid.

A read that meets a transaction number beyond the committed ones, or a missing hash, has
either raced a flush or a reorganisation, or the row is damaged.  ``queries`` distinguishes
the two; then the functions of this module look for the row, and :class:`DamageLog` logs each one
once, so that repeated requests do not fill the log.

Pure but for the reading of transaction hashes.  Runs in: reader threads.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from electrumx.lib.hash import HASHX_LEN
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    OUTPOINT_KEY_LEN,
    TXNUM_LEN,
    UTXO_KEY_LEN,
    VALUE_LEN,
    DBDamagedError,
    unpack_tx_nums,
)

#: damaged rows and files to log, each once
MAX_LOGGED = 100


Row = tuple[bytes, bytes]
#: transaction numbers -> their hashes, empty where the file is too short
TxHashes = Callable[[Sequence[int]], list[bytes]]


def utxo_row_fault(row: Row, tx_count: int, tx_hashes: TxHashes) -> str | None:
    """Return the fault of a ``u`` row of a committed UTXO, or None."""
    key, value = row
    if len(key) != UTXO_KEY_LEN or len(value) != VALUE_LEN:
        return f"row {key.hex()} of the utxo store has {len(key):,d} + {len(value):,d} bytes"
    tx_num = int.from_bytes(key[-TXNUM_LEN:], "little")
    return _tx_num_fault(f"row {key.hex()} of the utxo store", [tx_num], tx_count, tx_hashes)


def outpoint_row_fault(key: bytes, hashX: bytes) -> str | None:
    """Return the fault in the lengths of an ``h`` row, or None."""
    if len(key) == OUTPOINT_KEY_LEN and len(hashX) == HASHX_LEN:
        return None
    return f"row {key.hex()} of the utxo store has {len(key):,d} + {len(hashX):,d} bytes"


def history_fault(rows: Iterable[Row], tx_count: int, tx_hashes: TxHashes) -> str | None:
    """Return the fault of the first damaged row of a script's history, or None.

    ``tx_count`` is the number of transactions that a row may name.
    """
    before = -1
    for key, row in rows:
        name = f"row {key.hex()} of the hist store"
        if len(key) != HIST_KEY_LEN:
            return f"{name} has a key of {len(key):,d} bytes"
        if not row or len(row) % TXNUM_LEN:
            return f"{name} is cut short: it has {len(row):,d} bytes"
        tx_nums = unpack_tx_nums(row)
        for tx_num in tx_nums:
            if tx_num <= before:
                return f"{name} names transaction {tx_num:,d} after {before:,d}"
            before = tx_num
        fault = _tx_num_fault(name, tx_nums, tx_count, tx_hashes)
        if fault:
            return fault
    return None


def _tx_num_fault(
    name: str, tx_nums: Sequence[int], tx_count: int, tx_hashes: TxHashes
) -> str | None:
    """Return the fault of ascending transaction numbers, or None."""
    if tx_nums[-1] >= tx_count:
        return f"{name} names transaction {tx_nums[-1]:,d} of {tx_count:,d}"
    for tx_num, tx_hash in zip(tx_nums, tx_hashes(tx_nums), strict=True):
        if not tx_hash:
            return f"the hash of transaction {tx_num:,d} is missing from meta/hashes"
    return None


class DamageLog:
    """Logs each damaged row and file once, and no more than :data:`MAX_LOGGED` of them."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._logged: set[str] = set()

    def error(self, fault: str) -> DBDamagedError:
        """Log a fault, the first time; return the error to raise for it."""
        error = DBDamagedError(fault)
        self.log(str(error))
        return error

    def log(self, line: str) -> None:
        """Log a line as an error, the first time, unless there were too many others."""
        with self._lock:
            if line in self._logged or len(self._logged) > MAX_LOGGED:
                return
            self._logged.add(line)
            full = len(self._logged) > MAX_LOGGED
        self._logger.error(
            "more rows of the database cannot be read; no more of them are logged" if full else line
        )
