"""The undo information of a block: the UTXOs that undoing it restores.

One item of 24 bytes, hashX(11) tx_num LE5 value LE8, for each UTXO that the block spent: transactions
in block order, and inputs in their order.

Duplicate coinbases
===================

Before BIP30 (March 2012) a coinbase transaction could be the same as an earlier one.  Bitcoin's has
two such pairs, at heights 91,722 and 91,880, and at 91,812 and 91,842.  As in Bitcoin Core, the later
one's outputs overwrite those of the earlier one that are unspent.  Of a block that overwrites any,
there are as many more items in front of the others as its coinbase has spendable outputs, in their
order: the UTXOs overwritten, and ``NO_UTXO`` for an output that overwrites none.

Pure; runs in any thread.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from electrumx.server.storage.schema import UNDO_ITEM_LEN, DBDamagedError

#: stands for an output that overwrites nothing; no UTXO has these bytes
NO_UTXO: Final = bytes(UNDO_ITEM_LEN)

#: transactions with their hashes, and the rule by which outputs are unspendable
Txs = Sequence[tuple[Any, bytes]]
Unspendable = Callable[[bytes], bool | bytes]


def split_items(undo_info: bytes) -> list[bytes]:
    """Split a block's joined undo items.  Raise DBDamagedError if their length is invalid."""
    if len(undo_info) % UNDO_ITEM_LEN:
        raise DBDamagedError(f"undo information has {len(undo_info):,d} bytes")
    return [undo_info[n : n + UNDO_ITEM_LEN] for n in range(0, len(undo_info), UNDO_ITEM_LEN)]


def spend_count(txs: Txs) -> int:
    """Return how many UTXOs a block's transactions spend."""
    return sum(not txin.is_generation() for tx, _tx_hash in txs for txin in tx.inputs)


def coinbase_outputs(txs: Txs, is_unspendable: Unspendable) -> list[int]:
    """Return which outputs of a block's coinbase transaction can be spent; none without one."""
    if not txs or spend_count(txs[:1]):
        return []
    outputs = txs[0][0].outputs
    return [idx for idx, txout in enumerate(outputs) if not is_unspendable(txout.pk_script)]


def overwritten_count(items: int, txs: Txs, is_unspendable: Unspendable) -> int | None:
    """Return how many of a block's undo items are for its coinbase.

    None if that many items do not fit the block.
    """
    extra = items - spend_count(txs)
    if extra and extra != len(coinbase_outputs(txs, is_unspendable)):
        return None
    return extra
