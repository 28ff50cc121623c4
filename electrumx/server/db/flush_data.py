"""The argument of a flush: blocks that the block processor has indexed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from electrumx.server.history.store import PendingHistory


class Adds(Protocol):
    """UTXOs that wait for their write."""

    def __len__(self) -> int:
        """Return how many UTXOs there are."""

    def put_rows(self, put: Callable[[bytes, bytes], None]) -> None:
        """Call ``put`` with the ``h`` and ``u`` rows of every UTXO."""

    def clear(self) -> None:
        """Forget them."""


class Deletes(Protocol):
    """Rows that wait for their deletion."""

    def __len__(self) -> int:
        """Return how many rows there are: two for each UTXO."""

    def delete_rows(self, delete: Callable[[bytes], None]) -> None:
        """Call ``delete`` with the key of every row."""

    def clear(self) -> None:
        """Forget them."""


@dataclass(slots=True)
class FlushData:
    """Indexed blocks that are not on disk; the flush empties the collections."""

    height: int
    tx_count: int
    #: raw headers not yet on disk, in height order
    headers: list[bytes]
    #: for each of those blocks its tx hashes, joined
    block_tx_hashes: list[bytes]
    #: (undo items, height)
    undo_infos: list[tuple[list[bytes], int]]
    #: UTXOs to write
    adds: Adds
    #: rows to delete from the ``utxo`` store
    deletes: Deletes
    tip: bytes
    #: history of the Cython implementation to write, as well as :attr:`History.unflushed`
    history: PendingHistory | None = None
