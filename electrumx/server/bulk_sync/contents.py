"""The parts of a parsed block that the bulk sync keeps, in flat arrays.

Owns the step from a block of the pure-Python parser to the arrays that ``_fastblock`` returns for
the formats it supports, so that one algorithm serves every coin.  Pure; any thread may run it.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Protocol

from electrumx.lib.coins.base import OutputRule
from electrumx.lib.hash import HASHX_LEN

#: [((tx_hash, txout_idx) of inputs, (hashX, value, flags) of outputs)]
Transactions = list[tuple[list[tuple[bytes, int]], list[tuple[bytes, int, int]]]]

_LE4 = Struct("<I").pack
_SHAPE = Struct("=II")
_VALUE_BITS = 1 << 64
#: flags of an output that can be spent, under either rule
_SPENDABLE = 3
_NO_HASHX = bytes(HASHX_LEN)


class BlockContents(Protocol):
    """A parsed block, as the loops of the bulk sync see it."""

    @property
    def header(self) -> bytes:
        """The raw header."""

    @property
    def raw(self) -> bytes:
        """The whole block."""

    @property
    def tx_hashes(self) -> bytes:
        """The hashes of the transactions, 32 bytes each."""

    def transactions(self) -> Transactions:
        """Return inputs and outputs of each transaction; generation inputs are left out."""


class PackedBlock:
    """A block of any coin, as ``_fastblock.FastBlock`` is for Bitcoin's formats."""

    __slots__ = ("extras", "header", "outputs", "raw", "shapes", "spends", "tx_hashes")

    def __init__(
        self,
        header: bytes,
        raw: bytes,
        txs: Sequence[tuple[Any, bytes]],
        rule: OutputRule,
        extra_hashXs: Callable[[Any], set[bytes]] | None = None,
    ):
        """Take the transactions with their hashes, in the fields that Bitcoin's have.

        ``extra_hashXs`` returns the hashXs that a transaction touches in addition to the scripts
        of its inputs and outputs.
        """
        self.header = header
        self.raw = raw
        self.tx_hashes = b"".join([tx_hash for _tx, tx_hash in txs])
        shapes: list[bytes] = []
        spends: list[bytes] = []
        outputs: list[bytes] = []
        #: (number of the transaction in the block, hashX)
        self.extras: list[tuple[int, bytes]] = []
        for n, (tx, _tx_hash) in enumerate(txs):
            outpoints = [
                txin.prev_hash + _LE4(txin.prev_idx)
                for txin in tx.inputs
                if not txin.is_generation()
            ]
            spends += outpoints
            outputs += [_packed_output(txout, rule) for txout in tx.outputs]
            shapes.append(_SHAPE.pack(len(outpoints), len(tx.outputs)))
            if extra_hashXs:
                self.extras += [(n, hashX) for hashX in sorted(extra_hashXs(tx))]
        #: for each transaction two native uint32: spends and outputs
        self.shapes = b"".join(shapes)
        #: 36 bytes each: tx_hash, txout_idx LE4
        self.spends = b"".join(spends)
        #: 20 bytes each: hashX, value LE8, flags
        self.outputs = b"".join(outputs)

    def transactions(self) -> Transactions:
        """Return inputs and outputs of each transaction; generation inputs are left out."""
        result: Transactions = []
        spend = output = 0
        for spends, outputs in _SHAPE.iter_unpack(self.shapes):
            inputs = [self.spends[n : n + 36] for n in range(spend, spend + 36 * spends, 36)]
            outs = [self.outputs[n : n + 20] for n in range(output, output + 20 * outputs, 20)]
            spend += 36 * spends
            output += 20 * outputs
            result.append(
                (
                    [(raw[:32], int.from_bytes(raw[32:], "little")) for raw in inputs],
                    [(raw[:11], int.from_bytes(raw[11:19], "little"), raw[19]) for raw in outs],
                )
            )
        return result


def _packed_output(txout: Any, rule: OutputRule) -> bytes:
    script = txout.pk_script
    value: bytes = (txout.value % _VALUE_BITS).to_bytes(8, "little")
    if rule.is_unspendable(script):
        return _NO_HASHX + value + b"\0"
    return rule.hashX_from_script(script) + value + bytes([_SPENDABLE])
