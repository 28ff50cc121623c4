"""Converts databases of versions 6 and 7 to version 8, in place, at opening.

Owns the formats of those versions.  Runs in a worker thread, before anything else reads.

=================  ==============  ==============  ==============
field              version 6       version 7       version 8
=================  ==============  ==============  ==============
txout_idx in keys  LE2             LE4             LE4
tx_num             LE4             LE4             LE5
``u`` key          18 bytes        20 bytes        21 bytes
``h`` key          11 bytes        13 bytes        14 bytes
undo item          23 bytes        23 bytes        24 bytes
record of txcounts LE4             LE4             LE8
history entry      LE4             LE4             LE5
=================  ==============  ==============  ==============

A kill between any two writes is harmless: the next start continues.  The content shows how far a
conversion came, so this continues those that ElectrumX 1.15 began, too.

1. ``u`` rows, then ``h`` rows, in batches; a key of the new length stays as it is.
2. ``txcounts``: write new files beside the old ones and sync them; a marker file shows that they
   are whole; then rename them over the old ones, and delete the marker.  The record of the
   tip's height, which must be the transaction count, shows the format of the file.
3. Undo rows and the state row with the new version, in one batch: the length of an undo row does
   not show its format.
4. History rows, in batches with the cursor ``upgrade_cursor`` in the history's state.
"""

import logging
from dataclasses import replace
from struct import Struct

from electrumx.lib.hash import HASHX_LEN
from electrumx.lib.util import LogicalFile, sync_directory
from electrumx.server.db.flat_files import COUNT_LEN, FlatFiles
from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage, WriteBatch, used_prefixes
from electrumx.server.storage.conversion import Progress, convert_by_prefix
from electrumx.server.storage.schema import (
    DB_VERSION,
    OUTPOINT_PREFIX,
    STATE_KEY,
    TX_HASH_PREFIX_LEN,
    UNDO_PREFIX,
    UTXO_PREFIX,
    CommittedState,
    DBError,
    undo_key_height,
)

#: convertible versions of the utxo store
OLD_VERSIONS = (6, 7)
#: key prefixes of two bytes
PREFIXES = 0x10000
#: names beside txcounts during its conversion
NEW_TX_COUNTS = "txcounts.new"
MARKER = "txcounts.ready"

_OLD_TXNUM_LEN = 4
_OLD_COUNT = Struct("<I")
_NEW_COUNT = Struct("<Q")
_OLD_UNDO_LEN = HASHX_LEN + _OLD_TXNUM_LEN + 8


# -- the utxo store


def upgrade_utxo_store(
    store: Storage,
    files: FlatFiles,
    state: CommittedState,
    undo_floor: int,
    logger: logging.Logger,
) -> CommittedState:
    """Convert the ``utxo`` store and the flat files; return the new state, which is on disk.

    Drop undo rows below the height ``undo_floor``.  Raise DBError where the database is damaged.
    """
    logger.info(f"upgrading the database from version {state.db_version} to {DB_VERSION}")
    for number, (prefix, id_len) in enumerate(
        ((UTXO_PREFIX, HASHX_LEN), (OUTPOINT_PREFIX, TX_HASH_PREFIX_LEN)), start=1
    ):
        _convert_coins(
            store, prefix, id_len, state, Progress(logger, f"upgrading DB {number} of 3")
        )
        fault_point("upgrade: all UTXO rows of a kind written")
    _convert_tx_counts(files, state, logger)
    state = replace(state, db_version=DB_VERSION)
    count = 0
    with store.write_batch() as batch:
        for key, items in store.iterator(prefix=UNDO_PREFIX):
            if undo_key_height(key) < undo_floor:
                batch.delete(key)
            else:
                batch.put(key, _widen_undo(items, undo_key_height(key)))
                count += 1
        batch.put(STATE_KEY, state.pack())
    fault_point("upgrade: undo rows and state written")
    logger.info(f"converted {count:,d} undo rows; the UTXOs are upgraded")
    return state


def _convert_coins(
    store: Storage, kind: bytes, id_len: int, state: CommittedState, progress: Progress
) -> None:
    """Rewrite the keys *kind, id, txout_idx, tx_num*, ``id_len`` being the length of the id."""
    # Version 6 has a shorter index, too.
    widen_idx = bytes(2) if state.db_version == 6 else b""
    idx_end = len(kind) + id_len + (4 - len(widen_idx))
    old_len = idx_end + _OLD_TXNUM_LEN

    def convert(batch: WriteBatch, prefix: bytes) -> int:
        size = 0
        for key, value in store.iterator(prefix=kind + prefix):
            if len(key) == old_len:
                batch.delete(key)
                batch.put(key[:idx_end] + widen_idx + key[idx_end:] + b"\0", value)
                size += 2 * len(key) + len(value)
        return size

    for _cursor in convert_by_prefix(used_prefixes(store, kind), store, convert, progress):
        fault_point("upgrade: UTXO rows written")


def _widen_undo(items: bytes, height: int) -> bytes:
    if len(items) % _OLD_UNDO_LEN:
        raise DBError(
            f"the undo row of height {height:,d} has {len(items):,d} bytes and is damaged: restore "
            "a backup of the database directory, or empty it to synchronise again"
        )
    num_end = HASHX_LEN + _OLD_TXNUM_LEN
    return b"".join(
        items[n : n + num_end] + b"\0" + items[n + num_end : n + _OLD_UNDO_LEN]
        for n in range(0, len(items), _OLD_UNDO_LEN)
    )


# -- tx counts


def _convert_tx_counts(files: FlatFiles, state: CommittedState, logger: logging.Logger) -> None:
    if (files.folder / MARKER).exists():
        _replace_tx_counts(files)
    if state.height < 0:
        return
    height = state.height
    if files.tx_counts.read(height * COUNT_LEN, COUNT_LEN) == _NEW_COUNT.pack(state.tx_count):
        return
    raw = files.tx_counts.read(0, (height + 1) * _OLD_COUNT.size)
    counts = [n for (n,) in _OLD_COUNT.iter_unpack(raw[: len(raw) - len(raw) % _OLD_COUNT.size])]
    if len(counts) != height + 1 or counts[-1] != state.tx_count or counts != sorted(counts):
        raise DBError(
            f"{files.folder / 'txcounts'} does not hold the {state.tx_count:,d} transactions at "
            f"height {height:,d}: restore a backup of the database directory, or empty it to "
            "synchronise again"
        )
    logger.info(f"converting the transaction counts of {height + 1:,d} blocks")
    for path in files.folder.glob(NEW_TX_COUNTS + "*"):
        path.unlink()
    new = LogicalFile(files.folder / NEW_TX_COUNTS, 2, files.tx_counts.file_size)
    new.write(0, b"".join(map(_NEW_COUNT.pack, counts)), sync=True)
    fault_point("upgrade: new tx counts written")
    (files.folder / MARKER).touch()
    sync_directory(files.folder)
    fault_point("upgrade: new tx counts announced")
    _replace_tx_counts(files)


def _replace_tx_counts(files: FlatFiles) -> None:
    """Rename the new files over the old ones; some may have been before."""
    folder = files.folder
    for path in sorted(folder.glob(NEW_TX_COUNTS + "*")):
        path.replace(folder / f"txcounts{path.name[len(NEW_TX_COUNTS) :]}")
        fault_point("upgrade: tx counts file renamed")
    # The old ones may still be open.
    files.tx_counts.close()
    sync_directory(folder)
    (folder / MARKER).unlink()
    sync_directory(folder)
    fault_point("upgrade: tx counts converted")
