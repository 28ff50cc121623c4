"""The disk that a bulk sync needs, estimated before it starts.

Owns the figures.  Runs in: a worker thread.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

#: bytes a transaction: run files when the scan ends.  Measured: 244 where transactions have 2.8
#: inputs and 3.9 outputs; Bitcoin's have 2.5 and 2.7, which makes 140
RUN_BYTES_PER_TX = 180
#: of flat files, which are there then, too; of the database in the end
FLAT_BYTES_PER_TX = 35
DATABASE_BYTES_PER_TX = 100


class SpaceNeeded(NamedTuple):
    """Bytes on the disk of the database directory."""

    #: at the end of the scan; then run files shrink as the database grows
    peak: int
    #: the database that is left
    database: int
    free: int

    @property
    def is_there(self) -> bool:
        """Whether the disk has room."""
        return max(self.peak, self.database) <= self.free

    def __str__(self) -> str:
        giga = 1_000_000_000
        return (
            f"about {self.peak / giga:,.1f} GB of disk at its most, and leaves a database of "
            f"{self.database / giga:,.1f} GB; {self.free / giga:,.1f} GB are free"
        )


def space_needed(db_dir: Path, txs: float) -> SpaceNeeded:
    """Return the disk space that ``txs`` transactions need."""
    peak = int(txs * (RUN_BYTES_PER_TX + FLAT_BYTES_PER_TX))
    return SpaceNeeded(peak, int(txs * DATABASE_BYTES_PER_TX), shutil.disk_usage(db_dir).free)
