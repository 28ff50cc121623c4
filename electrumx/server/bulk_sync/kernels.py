"""The choice between the two implementations of the hot loops.

Runs in: any thread.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

from electrumx.server.bulk_sync import reference
from electrumx.server.bulk_sync.contents import BlockContents, PackedBlock

compiled: ModuleType | None
try:
    compiled = import_module("electrumx.server._fastbulk")
except ImportError:
    compiled = None


class Kernels:
    """The functions of ``reference`` or of ``_fastbulk``, which has the same names."""

    def __init__(self, use_compiled: bool):
        module: Any = compiled if use_compiled and compiled is not None else reference
        self.is_compiled = module is compiled
        self.Chunk = module.Chunk
        self.HistoryRows = module.HistoryRows
        self.sort_history = module.sort_history
        self.merge_history = module.merge_history
        self.merge_utxos = module.merge_utxos
        self.merge_undo = module.merge_undo
        self.join = module.join
        self.put_outpoint_rows = module.put_outpoint_rows
        self.put_utxo_rows = module.put_utxo_rows
        self.put_undo_rows = module.put_undo_rows

    def ready(self, block: PackedBlock) -> BlockContents:
        """Return a block of the pure-Python parser as a chunk takes it."""
        if not self.is_compiled:
            return block
        assert compiled
        fast: BlockContents = compiled.fast_block(
            block.header, block.raw, block.tx_hashes, block.shapes, block.spends, block.outputs
        )
        return fast
