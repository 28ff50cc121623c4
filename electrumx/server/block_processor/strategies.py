"""Indexing strategies: how the transactions of a coin's blocks change UTXOs and histories.

Owns what differs between coins: in which order a block creates and spends outputs, which
scripts other than those of its inputs and outputs a transaction touches, and how its fields map to
Bitcoin's.  A strategy holds no state of the chain.  The rules themselves are ``indexer``'s.

A strategy that decorates another receives it as an argument::

    NameIndexStrategy(InOrderStrategy(), coin.name_hashX_from_script)

Runs in: the block processor's worker thread.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from electrumx.lib.tx import MINUS_1, ZERO, Tx, TxInput, TxOutput
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.indexer import HashX, ParsedTx, Unspendable
from electrumx.server.block_processor.utxo_cache import UTXOCache

#: the hashXs that a transaction touches in addition to the scripts of its inputs and outputs
ExtraHashXs = Callable[[Tx], set[bytes]]


class Strategy(Protocol):
    """The interface of an indexing strategy."""

    #: whether a transaction may spend outputs of a later one of its block
    any_order: bool
    #: blocks that a reorg undoes below the first one that differs
    reorg_margin: int

    @property
    def extra_hashXs(self) -> ExtraHashXs | None:
        """The function that returns the additional hashXs of a transaction, or None."""

    @property
    def in_cython(self) -> bool:
        """Whether the Cython implementation computes the same."""

    # Strategies read coins' own transaction classes by their fields, hence Any.
    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in Bitcoin's fields."""

    def advance(
        self,
        txs: Sequence[Any],
        first_tx_num: int,
        cache: UTXOCache,
        hashX_from_script: HashX,
        is_unspendable: Unspendable,
    ) -> tuple[list[bytes], list[set[bytes]]]:
        """Index a block's transactions, as :func:`indexer.advance_txs` does."""

    def undo(
        self,
        txs: Sequence[Any],
        undo_items: list[bytes],
        cache: UTXOCache,
        is_unspendable: Unspendable,
    ) -> set[bytes]:
        """Undo a block's transactions, as :func:`indexer.undo_txs` does."""


class InOrderStrategy:
    """Bitcoin's: a transaction spends outputs of earlier ones only."""

    any_order = False
    reorg_margin = 0
    extra_hashXs: ExtraHashXs | None = None

    @property
    def in_cython(self) -> bool:
        """Whether the Cython implementation computes the same; a subclass has rules of its own."""
        return type(self) in (InOrderStrategy, AnyOrderStrategy)

    advance = staticmethod(indexer.advance_txs)
    undo = staticmethod(indexer.undo_txs)

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in Bitcoin's fields."""
        return txs


class AnyOrderStrategy(InOrderStrategy):
    """Bitcoin Cash's: a block orders its transactions by their hash."""

    any_order = True

    advance = staticmethod(indexer.advance_txs_any_order)
    undo = staticmethod(indexer.undo_txs_any_order)


class ConvertingStrategy:
    """For formats whose inputs or outputs have other fields than Bitcoin's (TokenPay, Decred)."""

    in_cython = False

    def __init__(self, inner: Strategy, reorg_margin: int = 0):
        self._inner = inner
        self.any_order = inner.any_order
        self.reorg_margin = reorg_margin
        self.extra_hashXs = inner.extra_hashXs

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in Bitcoin's fields."""
        return [(bitcoin_tx(tx), tx_hash) for tx, tx_hash in txs]

    def advance(
        self,
        txs: Sequence[Any],
        first_tx_num: int,
        cache: UTXOCache,
        hashX_from_script: HashX,
        is_unspendable: Unspendable,
    ) -> tuple[list[bytes], list[set[bytes]]]:
        """Convert a block's transactions, then index them."""
        return self._inner.advance(
            self.bitcoin_txs(txs), first_tx_num, cache, hashX_from_script, is_unspendable
        )

    def undo(
        self,
        txs: Sequence[Any],
        undo_items: list[bytes],
        cache: UTXOCache,
        is_unspendable: Unspendable,
    ) -> set[bytes]:
        """Convert a block's transactions, then undo them."""
        return self._inner.undo(self.bitcoin_txs(txs), undo_items, cache, is_unspendable)


class NameIndexStrategy:
    """Indexes names: each has a history, of the transactions that register or update it."""

    in_cython = False

    def __init__(self, inner: Strategy, name_hashX: Callable[[bytes], bytes | None]):
        """``name_hashX`` returns the hashX of the name in an output script, or None."""
        self._inner = inner
        self._name_hashX = name_hashX
        self.any_order = inner.any_order
        self.reorg_margin = inner.reorg_margin

    def extra_hashXs(self, tx: Tx) -> set[bytes]:
        """Return the hashXs of the names in a transaction's outputs."""
        found = (self._name_hashX(txout.pk_script) for txout in tx.outputs)
        return {hashX for hashX in found if hashX is not None}

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in Bitcoin's fields."""
        return self._inner.bitcoin_txs(txs)

    def advance(
        self,
        txs: Sequence[Any],
        first_tx_num: int,
        cache: UTXOCache,
        hashX_from_script: HashX,
        is_unspendable: Unspendable,
    ) -> tuple[list[bytes], list[set[bytes]]]:
        """Index a block's transactions, and add the names to the hashXs of each of them."""
        undo_items, hashXs_by_tx = self._inner.advance(
            txs, first_tx_num, cache, hashX_from_script, is_unspendable
        )
        for (tx, _tx_hash), hashXs in zip(txs, hashXs_by_tx, strict=True):
            hashXs |= self.extra_hashXs(tx)
        return undo_items, hashXs_by_tx

    def undo(
        self,
        txs: Sequence[Any],
        undo_items: list[bytes],
        cache: UTXOCache,
        is_unspendable: Unspendable,
    ) -> set[bytes]:
        """Undo a block's transactions; the names are among the hashXs, so their rows shrink too."""
        touched = self._inner.undo(txs, undo_items, cache, is_unspendable)
        return touched.union(*(self.extra_hashXs(tx) for tx, _tx_hash in txs))


def bitcoin_tx(tx: Any) -> Tx:
    """Return the indexed part of a transaction, in Bitcoin's fields."""
    inputs = [
        TxInput(ZERO, MINUS_1, b"", MINUS_1)
        if txin.is_generation()
        else TxInput(txin.prev_hash, txin.prev_idx, b"", txin.sequence)
        for txin in tx.inputs
    ]
    outputs = [TxOutput(txout.value, txout.pk_script) for txout in tx.outputs]
    return Tx(tx.version, inputs, outputs, tx.locktime)
