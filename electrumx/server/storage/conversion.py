"""Converts rows prefix by prefix, in batches, with progress in the log."""

import logging
import time
from collections.abc import Callable, Iterator

from electrumx.server.storage.base import Storage, WriteBatch

#: bytes of rows after which to write a batch
BATCH_BYTES = 2_000_000
PROGRESS_LOG_SECS = 10.0
#: how many values two bytes have
PREFIXES = 0x10000


class Progress:
    """Logs every ten seconds how far a long loop is."""

    def __init__(self, logger: logging.Logger, what: str):
        self._logger = logger
        self._what = what
        self._next = time.monotonic() + PROGRESS_LOG_SECS
        logger.info(f"{what}...")

    def at(self, done: int, total: int) -> None:
        """Log the share done, if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_LOG_SECS
            self._logger.info(f"{self._what}: {100 * done / total:.1f}% done")


def convert_by_prefix(
    prefixes: Iterator[int],
    store: Storage,
    convert: Callable[[WriteBatch, bytes], int],
    progress: Progress,
    finish_batch: Callable[[WriteBatch, int], None] = lambda _batch, _cursor: None,
) -> Iterator[int]:
    """Call ``convert`` for each two-byte prefix, several to a batch.

    It returns the bytes it has put into the batch.  Yield the cursor of each batch after its
    write: the last prefix converted, at the end the last of all.
    """
    cursor = -1
    while cursor < PREFIXES - 1:
        size = 0
        with store.write_batch() as batch:
            while size < BATCH_BYTES and cursor < PREFIXES - 1:
                prefix = next(prefixes, None)
                if prefix is None:
                    # Not converted: a kill may have come after its batch.
                    cursor = PREFIXES - 1
                    break
                cursor = prefix
                size += convert(batch, cursor.to_bytes(2, "big"))
                progress.at(cursor + 1, PREFIXES)
            finish_batch(batch, cursor)
        yield cursor
