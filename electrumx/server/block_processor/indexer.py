"""Advance and undo one block: the rules of what a transaction changes.

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
from electrumx.lib.tx import MINUS_1, ZERO, Tx, TxInput
from electrumx.server.block_processor.errors import ChainError
from electrumx.server.block_processor.utxo_cache import UTXOCache
from electrumx.server.storage.schema import COIN_LEN, TXNUM_LEN
from electrumx.server.storage.undo import NO_COIN, coinbase_outputs

#: a parsed transaction and its hash
ParsedTx = tuple[Tx, bytes]
Unspendable = Callable[[bytes], bool | bytes]
HashX = Callable[[bytes], bytes]

_LE4 = Struct("<I").pack
_LE8 = Struct("<Q").pack


def _is_generation(txin: TxInput) -> bool:
    return txin.prev_idx == MINUS_1 and txin.prev_hash == ZERO


def _overwrite(
    txs: Sequence[ParsedTx], cache: UTXOCache, is_unspendable: Unspendable
) -> list[bytes]:
    """Remove the UTXOs that a block's coinbase creates again; return the undo items for them."""
    utxos = [
        cache.overwrite(txs[0][1], idx) or NO_COIN for idx in coinbase_outputs(txs, is_unspendable)
    ]
    return utxos if any(utxo is not NO_COIN for utxo in utxos) else []


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
    undo = _overwrite(txs, cache, is_unspendable)
    hashXs_by_tx: list[set[bytes]] = []
    adds = cache.adds
    pop, spend = adds.pop, cache.spend
    tx_num = first_tx_num
    # The hottest loop of the pure-Python implementation: no attribute access, few calls.
    for tx, tx_hash in txs:
        hashXs: set[bytes] = set()
        packed_num = tx_num.to_bytes(TXNUM_LEN, "little")
        for prev_hash, prev_idx, _script, _sequence in tx.inputs:
            if prev_idx == MINUS_1 and prev_hash == ZERO:
                continue
            utxo = pop(prev_hash + _LE4(prev_idx), None) or spend(prev_hash, prev_idx)
            undo.append(utxo)
            hashXs.add(utxo[:HASHX_LEN])
        for idx, (value, script) in enumerate(tx.outputs):
            if is_unspendable(script):
                continue
            hashX = hashX_from_script(script)
            hashXs.add(hashX)
            adds[tx_hash + _LE4(idx)] = hashX + packed_num + _LE8(value)
        hashXs_by_tx.append(hashXs)
        tx_num += 1
    return undo, hashXs_by_tx


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
    undo = _overwrite(txs, cache, is_unspendable)
    hashXs_by_tx: list[set[bytes]] = []
    for tx_num, (tx, tx_hash) in enumerate(txs, start=first_tx_num):
        hashXs: set[bytes] = set()
        packed_num = tx_num.to_bytes(TXNUM_LEN, "little")
        for idx, txout in enumerate(tx.outputs):
            if is_unspendable(txout.pk_script):
                continue
            hashX = hashX_from_script(txout.pk_script)
            hashXs.add(hashX)
            cache.adds[tx_hash + _LE4(idx)] = hashX + packed_num + _LE8(txout.value)
        hashXs_by_tx.append(hashXs)
    for (tx, _tx_hash), hashXs in zip(txs, hashXs_by_tx, strict=True):
        for txin in tx.inputs:
            if _is_generation(txin):
                continue
            utxo = cache.spend(txin.prev_hash, txin.prev_idx)
            undo.append(utxo)
            hashXs.add(utxo[:HASHX_LEN])
    return undo, hashXs_by_tx


def split_undo(undo_info: bytes) -> list[bytes]:
    """Split joined undo items.  Raise ChainError if they do not fit."""
    if len(undo_info) % COIN_LEN:
        raise ChainError(f"undo information of {len(undo_info):,d} bytes is damaged")
    return [undo_info[n : n + COIN_LEN] for n in range(0, len(undo_info), COIN_LEN)]


def undo_txs(
    txs: Sequence[ParsedTx],
    undo: list[bytes],
    cache: UTXOCache,
    is_unspendable: Unspendable,
) -> set[bytes]:
    """Undo :func:`advance_txs`: remove the outputs and restore what the inputs spent.

    ``undo`` is consumed.  Return all hashXs met.  Raise ChainError if block and undo items do not
    fit.
    """
    touched: set[bytes] = set()
    for tx, tx_hash in reversed(txs):
        for idx, txout in enumerate(tx.outputs):
            if not is_unspendable(txout.pk_script):
                touched.add(cache.spend(tx_hash, idx)[:HASHX_LEN])
        for txin in reversed(tx.inputs):
            if not _is_generation(txin):
                touched.add(_restore(txin, undo, cache))
    _restore_overwritten(txs, undo, cache, is_unspendable)
    return touched


def undo_txs_any_order(
    txs: Sequence[ParsedTx],
    undo: list[bytes],
    cache: UTXOCache,
    is_unspendable: Unspendable,
) -> set[bytes]:
    """Undo :func:`advance_txs_any_order`: restore all that was spent, then remove all outputs.

    Restoring first brings back outputs that were created and spent within the block, so that the
    removal finds them, too.  Otherwise as :func:`undo_txs`.
    """
    touched: set[bytes] = set()
    for tx, _tx_hash in reversed(txs):
        for txin in reversed(tx.inputs):
            if not _is_generation(txin):
                touched.add(_restore(txin, undo, cache))
    for tx, tx_hash in txs:
        for idx, txout in enumerate(tx.outputs):
            if not is_unspendable(txout.pk_script):
                touched.add(cache.spend(tx_hash, idx)[:HASHX_LEN])
    _restore_overwritten(txs, undo, cache, is_unspendable)
    return touched


def _restore_overwritten(
    txs: Sequence[ParsedTx], undo: list[bytes], cache: UTXOCache, is_unspendable: Unspendable
) -> None:
    """Restore the UTXOs that a block's coinbase has overwritten: the undo items left over."""
    if not undo:
        return
    indices = coinbase_outputs(txs, is_unspendable)
    if len(undo) != len(indices):
        raise ChainError(f"{len(undo):,d} undo items are left over")
    tx_hash = txs[0][1]
    for idx, utxo in zip(indices, undo, strict=True):
        if utxo != NO_COIN:
            cache.adds[tx_hash + _LE4(idx)] = utxo
    undo.clear()


def _restore(txin: TxInput, undo: list[bytes], cache: UTXOCache) -> bytes:
    """Restore the UTXO that an input spent; return its hashX."""
    if not undo:
        raise ChainError("the undo information of a block is too short")
    utxo = undo.pop()
    cache.adds[txin.prev_hash + _LE4(txin.prev_idx)] = utxo
    return utxo[:HASHX_LEN]
