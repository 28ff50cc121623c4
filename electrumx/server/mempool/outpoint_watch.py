"""The outpoints that clients are subscribed to, and which of them may have another status.

The mempool marks the outpoints of each transaction that it adds or removes, and the notifier those
of blocks.  Too many are marked rather than too few: their status
is computed again, and compared.  On the event loop.
"""

from collections.abc import Iterable

#: (hash of the transaction in natural byte order, index of the output)
Outpoint = tuple[bytes, int]


class OutpointWatch:
    """Watched outpoints, and those of them that were touched."""

    def __init__(self) -> None:
        #: tx hash -> the indexes of its watched outputs
        self.by_tx: dict[bytes, set[int]] = {}
        #: watched outpoints touched since they were last taken
        self.touched: set[Outpoint] = set()
        self._are_all_touched = False

    def __bool__(self) -> bool:
        """Return whether anything is watched."""
        return bool(self.by_tx)

    def __contains__(self, outpoint: Outpoint) -> bool:
        """Return whether an outpoint is watched."""
        indexes = self.by_tx.get(outpoint[0])
        return indexes is not None and outpoint[1] in indexes

    def add(self, outpoint: Outpoint) -> None:
        """Watch an outpoint, which may exist or not."""
        self.by_tx.setdefault(outpoint[0], set()).add(outpoint[1])

    def discard(self, outpoint: Outpoint) -> None:
        """Watch an outpoint no more."""
        indexes = self.by_tx.get(outpoint[0])
        if indexes is not None:
            indexes.discard(outpoint[1])
            if not indexes:
                del self.by_tx[outpoint[0]]
        self.touched.discard(outpoint)

    def touch_tx(self, tx_hash: bytes, prevouts: Iterable[Outpoint]) -> None:
        """Mark what a transaction that came, went or changed its height funds and spends."""
        by_tx = self.by_tx
        for index in by_tx.get(tx_hash, ()):
            self.touched.add((tx_hash, index))
        for prevout in prevouts:
            if prevout[0] in by_tx and prevout in self:
                self.touched.add(prevout)

    def touch_all(self) -> None:
        """Mark all that is watched: 200,000 one by one would take half a second."""
        self._are_all_touched = True

    def take(self) -> tuple[set[Outpoint], bool]:
        """Return the touched outpoints and whether all were touched, and clear both."""
        touched, self.touched = self.touched, set()
        are_all, self._are_all_touched = self._are_all_touched, False
        return touched, are_all
