"""Block processors of coins whose blocks mean something more, or otherwise, than Bitcoin's.

Coins name these classes.  The public names are those of ``electrumx.server.block_processor``.

Runs in: as the base class, whose state this changes only by its methods.
"""

from collections.abc import Sequence
from typing import Any

from electrumx.lib.tx import MINUS_1, ZERO, Tx, TxInput, TxOutput
from electrumx.server.block_processor import indexer
from electrumx.server.block_processor.indexer import HashX, ParsedTx, Unspendable
from electrumx.server.block_processor.processor import BlockProcessor


def bitcoin_tx(tx: Any) -> Tx:
    """Return what is indexed of a transaction, in the fields that Bitcoin's have."""
    inputs = [
        TxInput(ZERO, MINUS_1, b"", MINUS_1)
        if txin.is_generation()
        else TxInput(txin.prev_hash, txin.prev_idx, b"", txin.sequence)
        for txin in tx.inputs
    ]
    outputs = [TxOutput(txout.value, txout.pk_script) for txout in tx.outputs]
    return Tx(tx.version, inputs, outputs, tx.locktime)


def _bitcoin_txs(txs: Sequence[Any]) -> list[ParsedTx]:
    return [(bitcoin_tx(tx), tx_hash) for tx, tx_hash in txs]


class ConvertingBlockProcessor(BlockProcessor):
    """For formats whose inputs or outputs have other fields than Bitcoin's (TokenPay, Decred)."""

    FITS_BULK_SYNC = True

    def bitcoin_txs(self, txs: Sequence[Any]) -> Sequence[ParsedTx]:
        """Return transactions with their hashes, in the fields that Bitcoin's have."""
        return _bitcoin_txs(txs)

    def advance_txs(
        self,
        txs: Sequence[Any],
        is_unspendable: Unspendable,
        hashX_from_script: HashX | None = None,
    ) -> list[bytes]:
        """Index a block's transactions; return its undo items."""
        return super().advance_txs(_bitcoin_txs(txs), is_unspendable, hashX_from_script)

    def backup_txs(
        self, txs: Sequence[Any], undo_info: list[bytes], is_unspendable: Unspendable
    ) -> set[bytes]:
        """Undo a block's transactions; return the hashXs met."""
        return super().backup_txs(_bitcoin_txs(txs), undo_info, is_unspendable)


class LTORBlockProcessor(BlockProcessor):
    """For chains that order a block's transactions by their hash (Bitcoin Cash)."""

    FITS_BULK_SYNC = True
    COMPILED_ANY_ORDER = True
    _advance = staticmethod(indexer.advance_txs_any_order)
    _backup = staticmethod(indexer.backup_txs_any_order)


class DecredBlockProcessor(ConvertingBlockProcessor):
    """A block's validity hangs on the next one, so a reorganisation goes one block deeper."""

    FITS_BULK_SYNC = True

    async def calc_reorg_range(self, count: int | None) -> tuple[int, int]:
        """Return (first height, number) of the blocks to replace; the number may be 0."""
        start, number = await super().calc_reorg_range(count)
        if number and start > 1:
            return start - 1, number + 1
        return start, number


class NameIndexBlockProcessor(BlockProcessor):
    """Indexes names: each has a history, of the transactions that register or update it."""

    FITS_BULK_SYNC = True

    def extra_hashXs(self, tx: Any) -> set[bytes]:
        """Return the hashXs of the names in a transaction's outputs."""
        # Of such coins only; see lib.coins.name_scripts.
        name_hashX = self.coin.name_hashX_from_script  # type: ignore[attr-defined]
        hashXs = {name_hashX(txout.pk_script) for txout in tx.outputs}
        hashXs.discard(None)
        return hashXs

    def _advance(self, txs: Sequence[ParsedTx], *args: Any) -> tuple[list[bytes], list[set[bytes]]]:
        """As the base's, with the names among what each transaction touches."""
        undo_info, hashXs_by_tx = BlockProcessor._advance(txs, *args)
        for (tx, _tx_hash), hashXs in zip(txs, hashXs_by_tx, strict=True):
            hashXs |= self.extra_hashXs(tx)
        return undo_info, hashXs_by_tx

    def _backup(self, txs: Sequence[ParsedTx], *args: Any) -> set[bytes]:
        """As the base's, with the names, so that their histories are shortened, too."""
        touched = BlockProcessor._backup(txs, *args)
        return touched.union(*(self.extra_hashXs(tx) for tx, _tx_hash in txs))
