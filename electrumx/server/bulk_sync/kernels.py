"""The choice between the two implementations of the hot loops.

Runs in: any thread.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from electrumx.server.bulk_sync import reference
from electrumx.server.bulk_sync.contents import BlockContents, PackedBlock
from electrumx.server.runs.records import Joined, UnmatchedSpendError


def compiled_module() -> ModuleType | None:
    """Return the Cython implementation; None if it is missing."""
    try:
        # It loads the module whose parsed blocks it takes, which stands above this one.
        return import_module("electrumx.server.bulk_sync._fastbulk")
    except ImportError:
        return None


class Kernels:
    """The functions of ``reference`` or of ``_fastbulk``, which has the same names."""

    def __init__(self, use_compiled: bool):
        self._compiled = compiled_module() if use_compiled else None
        module: Any = self._compiled or reference
        self.Chunk = module.Chunk
        self.HistoryRows = module.HistoryRows
        self.sort_history = module.sort_history
        self.merge_history = module.merge_history
        self.merge_utxos = module.merge_utxos
        self.merge_undo = module.merge_undo
        self.merge_records = module.merge_records
        self._join = module.join
        self.put_outpoint_rows = module.put_outpoint_rows
        self.put_utxo_rows = module.put_utxo_rows
        self.put_undo_rows = module.put_undo_rows

    @property
    def is_compiled(self) -> bool:
        """Whether it is the Cython implementation."""
        return self._compiled is not None

    def join(
        self, outputs: Sequence[bytes], spends: Sequence[bytes], late: Sequence[bytes] = ()
    ) -> Joined:
        """Match spends with the outputs of the same outpoints; ``late`` has some of them again.

        Raise UnmatchedSpendError if a spend has no output.
        """
        try:
            return Joined(*self._join(outputs, spends, late))
        except KeyError as e:
            raise UnmatchedSpendError(*e.args) from None

    def ready(self, block: PackedBlock) -> BlockContents:
        """Return a block of the pure-Python parser as a chunk takes it."""
        if self._compiled is None:
            return block
        fast: BlockContents = self._compiled.fast_block(
            block.header, block.raw, block.tx_hashes, block.shapes, block.spends, block.outputs
        )
        return fast
