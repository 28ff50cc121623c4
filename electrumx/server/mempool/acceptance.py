"""New transactions on their way into the mempool: parsed, and then given their inputs.

Pure; runs in: threads, during which the index does not change.

Long chains of unconfirmed transactions arrive in any order.  ``Candidates`` accepts parents before
children in one go: trying all of them again after each round took time quadratic in their length.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from electrumx.lib.coins import Coin
from electrumx.lib.hash import hash_to_hex_str
from electrumx.lib.util import class_logger
from electrumx.server.block_processor.compiled_indexer import unconfirmed_parser
from electrumx.server.mempool.index import (
    HashXValue,
    MemPoolTx,
    Prevout,
    split_hashes,
    split_outpoints,
)
from electrumx.server.notifications import Confirmed


class Candidate(NamedTuple):
    """A transaction whose inputs are still unknown."""

    prevouts: tuple[Prevout, ...]
    out_pairs: tuple[HashXValue, ...]
    size: int


class Candidates:
    """New transactions, by hash, and the outputs of the database that they spend."""

    def __init__(self) -> None:
        self.txs: dict[bytes, Candidate] = {}
        self.utxos: dict[Prevout, HashXValue] = {}

    def merge(self, other: "Candidates") -> None:
        """Add the candidates of ``other`` to this one."""
        self.txs.update(other.txs)
        self.utxos.update(other.utxos)

    def drop_confirmed(self, steps: Iterable[Confirmed]) -> None:
        """Drop those that blocks confirmed, or made impossible, since the look-up of their inputs."""
        for step in steps:
            for tx_hash in split_hashes(step.tx_hashes):
                self.txs.pop(tx_hash, None)
            spent = set(split_outpoints(step.spent_outpoints))
            for tx_hash, candidate in list(self.txs.items()):
                if not spent.isdisjoint(candidate.prevouts):
                    del self.txs[tx_hash]

    def take_acceptable(self, known: Mapping[bytes, MemPoolTx]) -> dict[bytes, MemPoolTx]:
        """Take out, and return, those whose inputs are all there, parents before children.

        An input comes from the outputs of the database, of the transactions known, or of those
        accepted here.
        """
        candidates = self.txs
        accepted: dict[bytes, MemPoolTx] = {}
        # Candidate -> number of inputs whose transactions have to come first, and the reverse
        waiting_for: dict[bytes, int] = {}
        children: dict[bytes, list[bytes]] = {}
        ready = []
        for tx_hash, candidate in candidates.items():
            waiting = 0
            for prev_hash, _idx in candidate.prevouts:
                if prev_hash in candidates:
                    waiting += 1
                    children.setdefault(prev_hash, []).append(tx_hash)
            if waiting:
                waiting_for[tx_hash] = waiting
            else:
                ready.append(tx_hash)
        while ready:
            tx_hash = ready.pop()
            tx = self._with_inputs(candidates[tx_hash], known, accepted)
            if tx is None:
                # Its descendants are never ready.
                continue
            accepted[tx_hash] = tx
            for child in children.get(tx_hash, ()):
                waiting_for[child] -= 1
                if not waiting_for[child]:
                    ready.append(child)
        if len(accepted) == len(candidates):
            candidates.clear()
            self.utxos.clear()
            return accepted
        for tx_hash in accepted:
            for prevout in candidates.pop(tx_hash).prevouts:
                self.utxos.pop(prevout, None)
        return accepted

    def _with_inputs(
        self,
        candidate: Candidate,
        known: Mapping[bytes, MemPoolTx],
        accepted: Mapping[bytes, MemPoolTx],
    ) -> MemPoolTx | None:
        """Return the transaction with its inputs, None if one of them is missing."""
        in_pairs = []
        fee = 0
        for prevout in candidate.prevouts:
            pair = self.utxos.get(prevout)
            if pair is None:
                prev_hash, prev_idx = prevout
                parent = accepted.get(prev_hash) or known.get(prev_hash)
                if parent is None or prev_idx >= len(parent.out_pairs):
                    return None
                pair = parent.out_pairs[prev_idx]
            in_pairs.append(pair)
            fee += pair[1]
        for _hashX, value in candidate.out_pairs:
            fee -= value
        # Generation-like inputs are left out, which makes their transactions seem to pay nothing.
        return MemPoolTx(
            candidate.prevouts, tuple(in_pairs), candidate.out_pairs, max(0, fee), candidate.size
        )


class CandidateParser:
    """Parses the raw transactions of a coin, compiled if requested and there."""

    def __init__(self, coin: type[Coin], *, compiled: bool = True) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._coin = coin
        self._compiled = unconfirmed_parser(coin) if compiled else None

    def parse(
        self,
        hashes: Sequence[bytes],
        raw_txs: Iterable[bytes | None],
        unconfirmed: Container[bytes],
    ) -> tuple[Candidates, tuple[Prevout, ...]]:
        """Return the transactions, and those of their prevouts that are not of unconfirmed ones.

        Skip those that are None, and those that do not parse.
        """
        result = Candidates()
        for tx_hash, raw_tx in zip(hashes, raw_txs, strict=True):
            # The node has evicted or mined it since the listing.
            if raw_tx is None:
                continue
            try:
                result.txs[tx_hash] = self.parse_tx(raw_tx)
            except Exception as e:  # whatever a coin's parser raises, it costs one transaction
                self.logger.debug(f"skipping tx {hash_to_hex_str(tx_hash)}: {e!r}")
        prevouts = {
            prevout
            for candidate in result.txs.values()
            for prevout in candidate.prevouts
            if prevout[0] not in unconfirmed
        }
        return result, tuple(prevouts)

    def parse_tx(self, raw_tx: bytes) -> Candidate:
        """Return a transaction without its fee.  Raises DeserializeError for a malformed one."""
        if self._compiled:
            parts = self._compiled(raw_tx)
            if parts is not None:
                return Candidate(*parts)
        tx, size = self._coin.DESERIALIZER(raw_tx).read_unconfirmed()
        hashX_from_script = self._coin.hashX_from_script
        prevouts = tuple(
            [(txin.prev_hash, txin.prev_idx) for txin in tx.inputs if not txin.is_generation()]
        )
        out_pairs = tuple([(hashX_from_script(out.pk_script), out.value) for out in tx.outputs])
        return Candidate(prevouts, out_pairs, size)
