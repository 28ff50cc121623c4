"""Advance and undo one block: the rules by which a transaction changes UTXOs and histories.

Pure but for the UTXOs in the :class:`UTXOCache` handed in: no I/O of its own, no logging, no
chain state.  This is the reference implementation; ``_fastindex`` computes the same in Cython.

:func:`advance_txs` and :func:`undo_txs` are inverses.  ``storage.undo`` describes the undo items
of a block: undoing restores the UTXOs from their end.

A block may order its transactions topologically, so an output must exist before a later
transaction spends it (:func:`advance_txs`), or by transaction hash as Bitcoin Cash does
(:func:`advance_txs_any_order`): there all outputs come first, which serves any order.

Runs in: the block processor's worker thread.
"""

from collections.abc import Callable, Sequence
from struct import Struct

from electrumx.lib.hash import HASHX_LEN
from electrumx.lib.tx import MINUS_1, ZERO, Tx
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.storage.schema import TXNUM_LEN
from electrumx.server.storage.undo import NO_UTXO, coinbase_outputs, overwritten_count

#: a parsed transaction and its hash
ParsedTx = tuple[Tx, bytes]
Unspendable = Callable[[bytes], bool | bytes]
HashX = Callable[[bytes], bytes]

_LE4 = Struct("<I").pack
_LE8 = Struct("<Q").pack


def advance_txs(
    txs: Sequence[ParsedTx],
    first_tx_num: int,
    cache: UTXOCache,
    hashX_from_script: HashX,
    is_unspendable: Unspendable,
) -> tuple[list[bytes], list[set[bytes]]]:
    """Spend the inputs and add the outputs of a block's transactions, one after the other.

    Return the undo items, and for each transaction the hashXs it touches.  Raise ChainError if an
    input's output does not exist.
    """
    return _advance(txs, first_tx_num, cache, hashX_from_script, is_unspendable, False)


def advance_txs_any_order(
    txs: Sequence[ParsedTx],
    first_tx_num: int,
    cache: UTXOCache,
    hashX_from_script: HashX,
    is_unspendable: Unspendable,
) -> tuple[list[bytes], list[set[bytes]]]:
    """Add the outputs of all transactions, then spend the inputs in block order.

    Otherwise as :func:`advance_txs`.
    """
    return _advance(txs, first_tx_num, cache, hashX_from_script, is_unspendable, True)


def _advance(
    txs: Sequence[ParsedTx],
    first_tx_num: int,
    cache: UTXOCache,
    hashX_from_script: HashX,
    is_unspendable: Unspendable,
    any_order: bool,
) -> tuple[list[bytes], list[set[bytes]]]:
    undo = _overwrite(txs, cache, is_unspendable)
    adds = cache.adds
    pop, spend, append = adds.pop, cache.spend, undo.append

    # The hottest loops of the pure-Python implementation: no attribute access, few calls.
    def spend_inputs(tx: Tx, hashXs: set[bytes]) -> None:
        for prev_hash, prev_idx, _script, _sequence in tx.inputs:
            if prev_idx == MINUS_1 and prev_hash == ZERO:
                continue
            utxo = pop(prev_hash + _LE4(prev_idx), None) or spend(prev_hash, prev_idx)
            append(utxo)
            hashXs.add(utxo[:HASHX_LEN])

    def add_outputs(tx: Tx, tx_hash: bytes, tx_num: int, hashXs: set[bytes]) -> None:
        packed_num = tx_num.to_bytes(TXNUM_LEN, "little")
        for idx, (value, script) in enumerate(tx.outputs):
            if is_unspendable(script):
                continue
            hashX = hashX_from_script(script)
            hashXs.add(hashX)
            adds[tx_hash + _LE4(idx)] = hashX + packed_num + _LE8(value)

    hashXs_by_tx: list[set[bytes]] = []
    for tx_num, (tx, tx_hash) in enumerate(txs, start=first_tx_num):
        hashXs: set[bytes] = set()
        if not any_order:
            spend_inputs(tx, hashXs)
        add_outputs(tx, tx_hash, tx_num, hashXs)
        hashXs_by_tx.append(hashXs)
    if any_order:
        for (tx, _tx_hash), hashXs in zip(txs, hashXs_by_tx, strict=True):
            spend_inputs(tx, hashXs)
    return undo, hashXs_by_tx


def _overwrite(
    txs: Sequence[ParsedTx], cache: UTXOCache, is_unspendable: Unspendable
) -> list[bytes]:
    """Remove the UTXOs that a block's coinbase creates again; return the undo items for them."""
    utxos = [
        cache.overwrite(txs[0][1], idx) or NO_UTXO for idx in coinbase_outputs(txs, is_unspendable)
    ]
    return utxos if any(utxo is not NO_UTXO for utxo in utxos) else []


def undo_txs(
    txs: Sequence[ParsedTx],
    undo: list[bytes],
    cache: UTXOCache,
    is_unspendable: Unspendable,
) -> set[bytes]:
    """Undo :func:`advance_txs`: remove the outputs and restore what the inputs spent.

    Return all hashXs touched.  Raise ChainError if block and undo items do not fit.
    """
    overwritten, spent = _divide(txs, undo, is_unspendable)
    touched: set[bytes] = set()
    for tx, tx_hash in reversed(txs):
        touched |= _remove_outputs(tx, tx_hash, cache, is_unspendable)
        touched |= _restore_inputs(tx, spent, cache)
    _restore_overwritten(txs, overwritten, cache, is_unspendable)
    return touched


def undo_txs_any_order(
    txs: Sequence[ParsedTx],
    undo: list[bytes],
    cache: UTXOCache,
    is_unspendable: Unspendable,
) -> set[bytes]:
    """Undo :func:`advance_txs_any_order`: restore all that was spent, then remove all outputs.

    Restoring first brings back outputs created and spent within the block, so that the
    removal finds them, too.  Otherwise as :func:`undo_txs`.
    """
    overwritten, spent = _divide(txs, undo, is_unspendable)
    touched: set[bytes] = set()
    for tx, _tx_hash in reversed(txs):
        touched |= _restore_inputs(tx, spent, cache)
    for tx, tx_hash in txs:
        touched |= _remove_outputs(tx, tx_hash, cache, is_unspendable)
    _restore_overwritten(txs, overwritten, cache, is_unspendable)
    return touched


def _divide(
    txs: Sequence[ParsedTx], undo: list[bytes], is_unspendable: Unspendable
) -> tuple[list[bytes], list[bytes]]:
    """Divide a block's undo items into those of its coinbase and those of its inputs."""
    count = overwritten_count(len(undo), txs, is_unspendable)
    if count is None:
        raise ChainError(f"{len(undo):,d} undo items do not fit a block of {len(txs):,d} txs")
    return undo[:count], undo[count:]


def _remove_outputs(
    tx: Tx, tx_hash: bytes, cache: UTXOCache, is_unspendable: Unspendable
) -> set[bytes]:
    return {
        cache.spend(tx_hash, idx)[:HASHX_LEN]
        for idx, txout in enumerate(tx.outputs)
        if not is_unspendable(txout.pk_script)
    }


def _restore_inputs(tx: Tx, spent: list[bytes], cache: UTXOCache) -> set[bytes]:
    """Restore the UTXOs that a transaction spent, which are at the end of ``spent``."""
    hashXs = set()
    for txin in reversed(tx.inputs):
        if not txin.is_generation():
            utxo = spent.pop()
            cache.adds[txin.prev_hash + _LE4(txin.prev_idx)] = utxo
            hashXs.add(utxo[:HASHX_LEN])
    return hashXs


def _restore_overwritten(
    txs: Sequence[ParsedTx],
    overwritten: list[bytes],
    cache: UTXOCache,
    is_unspendable: Unspendable,
) -> None:
    """Restore the UTXOs that a block's coinbase has overwritten."""
    if overwritten:
        tx_hash = txs[0][1]
        indices = coinbase_outputs(txs, is_unspendable)
        for idx, utxo in zip(indices, overwritten, strict=True):
            if utxo != NO_UTXO:
                cache.adds[tx_hash + _LE4(idx)] = utxo
