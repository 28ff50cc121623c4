"""The error that stops processing: blocks and index disagree."""

from electrumx.lib.errors import ElectrumXError
from electrumx.lib.hash import hash_to_hex_str


class ChainError(ElectrumXError):
    """Blocks and index disagree; the in-memory state must not be flushed."""


def utxo_not_found(tx_hash: bytes, txout_idx: int) -> ChainError:
    """Return the error for an output that is spent but does not exist."""
    return ChainError(f'UTXO {hash_to_hex_str(tx_hash)} / {txout_idx:,d} not found in "h" table')
