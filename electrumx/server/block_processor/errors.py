"""The errors that stop block processing: blocks and index disagree, or a block is invalid."""

from electrumx.lib.errors import DeserializeError, ElectrumXError, OperatorError
from electrumx.lib.hash import hash_to_hex_str


class ChainError(ElectrumXError):
    """Blocks and index disagree; do not flush the in-memory state."""


class UndoMissingError(ChainError, OperatorError):
    """A reorg is deeper than the kept undo information."""


class UnfitBlockError(ChainError, OperatorError):
    """A block of the daemon does not fit the database."""


class BlockParseError(DeserializeError):
    """A block from the daemon that does not parse: its height, and a digest of its bytes."""

    def __init__(self, error: DeserializeError, height: int, digest: bytes):
        super().__init__(f"{error}, in block {height:,d}")
        self.height = height
        self.digest = digest


def utxo_not_found(tx_hash: bytes, txout_idx: int) -> ChainError:
    """Return the error for an output that is spent but does not exist."""
    return ChainError(f'UTXO {hash_to_hex_str(tx_hash)} / {txout_idx:,d} not found in "h" table')
