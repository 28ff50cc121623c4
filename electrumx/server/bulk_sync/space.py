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
#: the same, as parts of the bytes of the blocks, for chains without a count of transactions: a
#: generated one with very many outputs had 0.61 and 0.51
PEAK_PER_BLOCK_BYTE = 0.6
DATABASE_PER_BLOCK_BYTE = 0.5


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
        return (
            f"about {_size(self.peak)} of disk at its most, and leaves a database of "
            f"{_size(self.database)}; {_size(self.free)} are free"
        )


def _size(nbytes: int) -> str:
    if nbytes >= 1_000_000_000:
        return f"{nbytes / 1_000_000_000:,.1f} GB"
    return f"{nbytes / 1_000_000:,.0f} MB"


def space_needed(db_dir: Path, txs: float, block_bytes: int = 0) -> SpaceNeeded:
    """Return the disk space that ``txs`` transactions need, or blocks of ``block_bytes`` if more."""
    peak = max(txs * (RUN_BYTES_PER_TX + FLAT_BYTES_PER_TX), block_bytes * PEAK_PER_BLOCK_BYTE)
    database = max(txs * DATABASE_BYTES_PER_TX, block_bytes * DATABASE_PER_BLOCK_BYTE)
    return SpaceNeeded(int(peak), int(database), shutil.disk_usage(db_dir).free)
