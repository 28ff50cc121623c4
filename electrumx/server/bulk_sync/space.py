"""The disk that a bulk sync needs, estimated before it starts.

Owns the figures.  Runs in: a worker thread.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

#: bytes a transaction, as measured: run files at their most, and the database made of them
RUN_BYTES_PER_TX = 150
DATABASE_BYTES_PER_TX = 100


class SpaceNeeded(NamedTuple):
    """Bytes on the disk of the database directory."""

    #: run files, which are removed in the end
    temporary: int
    #: the database
    database: int
    free: int

    @property
    def is_there(self) -> bool:
        """Whether the disk has room for both."""
        return self.temporary + self.database <= self.free

    def __str__(self) -> str:
        giga = 1_000_000_000
        return (
            f"about {self.temporary / giga:,.1f} GB of temporary files and "
            f"{self.database / giga:,.1f} GB of database; {self.free / giga:,.1f} GB are free"
        )


def space_needed(db_dir: Path, txs: float, has_already: int) -> SpaceNeeded:
    """Return what ``txs`` transactions need, some bytes of which the folder has already."""
    free = shutil.disk_usage(db_dir).free + has_already
    return SpaceNeeded(int(txs * RUN_BYTES_PER_TX), int(txs * DATABASE_BYTES_PER_TX), free)
