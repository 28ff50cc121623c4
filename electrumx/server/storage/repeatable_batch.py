"""A batch of rocksdict's that can be written again after a write that failed.

rocksdict uses a batch up when it is written, also if that fails.  Rows are therefore kept, up to
``KEPT_BYTES``: as many as a block changes.  Larger batches belong to the initial sync, when no
client can bring about a shortage of descriptors.  Runs in: the thread that writes.
"""

from collections.abc import Callable
from typing import Any

KEPT_BYTES = 32_000_000


class RepeatableBatch:
    """Rows to be written together; ``new_batch()`` makes an empty batch of the engine's."""

    __slots__ = ("_batch", "_error", "_new_batch", "_room", "_rows")

    def __init__(self, new_batch: Callable[[], Any], kept_bytes: int = KEPT_BYTES) -> None:
        self._new_batch = new_batch
        self._batch = new_batch()
        # Key and value, None for a row to be removed; None if there are too many to be kept
        self._rows: list[tuple[bytes, bytes | None]] | None = []
        self._room = kept_bytes
        self._error: Exception | None = None

    def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""
        self._batch.put(key, value)
        self._keep(key, value)

    def delete(self, key: bytes) -> None:
        """Remove a row, if it exists."""
        self._batch.delete(key)
        self._keep(key, None)

    def _keep(self, key: bytes, value: bytes | None) -> None:
        if self._rows is None:
            return
        self._room -= len(key) + len(value or b"")
        if self._room < 0:
            self._rows = None
        else:
            self._rows.append((key, value))

    def write(self, db: Any, options: Any) -> None:
        """Write the rows; after an error this may be called again.

        Raises the engine's error, and the same again for a batch that was too large to be kept.
        """
        if self._error is not None:
            if self._rows is None:
                raise self._error
            self._batch = self._new_batch()
            for key, value in self._rows:
                if value is None:
                    self._batch.delete(key)
                else:
                    self._batch.put(key, value)
        try:
            db.write(self._batch, options)
        except Exception as e:
            self._error = e
            raise
