"""Converts the ``hist`` store of database versions 6 and 7 to version 8, in place.

``db.upgrade`` describes the formats and the order of all conversions.  Runs in a worker thread,
before anything else reads.
"""

import logging

from electrumx.server.runtime.fault_points import fault_point
from electrumx.server.storage.base import Storage, WriteBatch, used_prefixes
from electrumx.server.storage.conversion import Progress, convert_by_prefix
from electrumx.server.storage.schema import (
    HIST_KEY_LEN,
    HIST_STATE_KEY,
    HIST_VERSION,
    DBError,
    HistState,
)

_OLD_TXNUM_LEN = 4


def upgrade_history(store: Storage, state: HistState, logger: logging.Logger) -> None:
    """Convert the ``hist`` store from version 0; change ``state``, and write it."""
    progress = Progress(logger, "upgrading DB 3 of 3")

    def convert(batch: WriteBatch, prefix: bytes) -> int:
        size = 0
        for key, row in store.iterator(prefix=prefix):
            if len(key) == HIST_KEY_LEN:
                batch.put(key, _widen_history(key, row))
                size += len(key) + len(row)
        return size

    def note_cursor(batch: WriteBatch, cursor: int) -> None:
        state.upgrade_cursor = cursor
        batch.put(HIST_STATE_KEY, state.pack())

    prefixes = used_prefixes(store, first=state.upgrade_cursor + 1)
    for _cursor in convert_by_prefix(prefixes, store, convert, progress, note_cursor):
        fault_point("upgrade: history rows written")
    state.upgrade_cursor = -1
    state.db_version = HIST_VERSION
    with store.write_batch() as batch:
        batch.put(HIST_STATE_KEY, state.pack())
    fault_point("upgrade: history state written")
    logger.info("the history is upgraded")


def _widen_history(key: bytes, row: bytes) -> bytes:
    if len(row) % _OLD_TXNUM_LEN:
        raise DBError(
            f"history row {key.hex()} has {len(row):,d} bytes and is damaged: restore a backup of "
            "the database directory, or empty it to synchronise again"
        )
    return b"".join(row[n : n + _OLD_TXNUM_LEN] + b"\0" for n in range(0, len(row), _OLD_TXNUM_LEN))
