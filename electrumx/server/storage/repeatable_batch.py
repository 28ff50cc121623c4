"""A batch of rocksdict's that can repeat a failed write.

rocksdict consumes a batch when it writes it, also if that fails.  So this keeps the rows, up to
``KEPT_BYTES``: as many as a block changes.  Larger batches belong to the initial sync, when no
client can cause a shortage of descriptors.  Runs in: the thread that writes.
"""

from collections.abc import Callable
from typing import Any

KEPT_BYTES = 32_000_000


class RepeatableBatch:
    """Rows to write together; ``new_batch()`` makes an empty batch of the engine's.

    With 0 ``kept_bytes`` it keeps no row, and ``put`` and ``delete`` are the engine's own: writing a
    batch that failed again then raises the first error again.
    """

    __slots__ = ("_batch", "_error", "_new_batch", "_room", "_rows", "delete", "put")

    def __init__(self, new_batch: Callable[[], Any], kept_bytes: int = KEPT_BYTES) -> None:
        self._new_batch = new_batch
        self._batch = new_batch()
        # Key and value, None for a row to remove; None if they are too many to keep
        self._rows: list[tuple[bytes, bytes | None]] | None = [] if kept_bytes else None
        self._room = kept_bytes
        self._error: Exception | None = None
        #: sets a row
        self.put: Callable[[bytes, bytes], None]
        #: removes a row, if it exists
        self.delete: Callable[[bytes], None]
        if kept_bytes:
            self.put, self.delete = self._put, self._delete
        else:
            self.put, self.delete = self._batch.put, self._batch.delete

    def _put(self, key: bytes, value: bytes) -> None:
        self._batch.put(key, value)
        self._keep(key, value)

    def _delete(self, key: bytes) -> None:
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
        """Write the rows; after an error the caller may repeat this.

        Raise the engine's error, and the same again for a batch that was too large to keep.
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
